//! What the data folder is on, as `/sys` says it.

use super::device::is_block_device;
use rustix::fs::{major, minor, stat};
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    SdCard,
    Emmc,
    Ssd,
    /// A disk that turns.
    Hdd,
    Unknown,
}

impl Medium {
    /// What a file or folder is on, or what a block device is.
    pub fn of(path: &Path) -> Medium {
        let Ok(stat) = stat(path) else { return Medium::Unknown };
        let device = if is_block_device(path) { stat.st_rdev } else { stat.st_dev };
        let device = format!("{}:{}", major(device), minor(device));
        match fs::canonicalize(Path::new("/sys/dev/block").join(device)) {
            Ok(path) => Medium::of_device(path),
            // No block device of its own: tmpfs, overlay, a network.
            Err(_) => Medium::Unknown,
        }
    }

    fn of_device(mut device: PathBuf) -> Medium {
        if device.join("partition").exists() {
            device.pop();
        }
        let name = device.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let read = |file: &str| {
            fs::read_to_string(device.join(file)).map(|text| text.trim().to_string()).ok()
        };
        if name.starts_with("mmcblk") {
            return match read("device/type").as_deref() {
                Some("SD") => Medium::SdCard,
                Some("MMC") => Medium::Emmc,
                _ => Medium::Unknown,
            };
        }
        // Virtual and stacked disks say nothing about what is below them.
        let is_real = name.starts_with("nvme") || name.starts_with("sd");
        match read("queue/rotational").as_deref() {
            Some("0") if is_real => Medium::Ssd,
            Some("1") if is_real => Medium::Hdd,
            _ => Medium::Unknown,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Medium::SdCard => "an SD card",
            Medium::Emmc => "eMMC",
            Medium::Ssd => "an SSD",
            Medium::Hdd => "a hard disk",
            Medium::Unknown => "an unknown disk",
        }
    }

    /// How often a medium that wears may be flushed without being asked; bursts are five times
    /// that.
    pub fn flushes_per_second(self) -> Option<u32> {
        match self {
            Medium::SdCard => Some(20),
            Medium::Emmc => Some(50),
            Medium::Ssd | Medium::Hdd | Medium::Unknown => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn cards_and_disks_are_told_apart() {
        let root = std::env::temp_dir().join(format!("weir-medium-{}", std::process::id()));
        for (path, file, text, medium) in [
            ("mmcblk0/mmcblk0p2", "../device/type", "SD\n", Medium::SdCard),
            ("mmcblk1/mmcblk1p1", "../device/type", "MMC\n", Medium::Emmc),
            ("nvme0n1/nvme0n1p1", "../queue/rotational", "0\n", Medium::Ssd),
            ("sda/sda1", "../queue/rotational", "1\n", Medium::Hdd),
            ("vda/vda1", "../queue/rotational", "0\n", Medium::Unknown),
        ] {
            let device = root.join(path);
            let file = device.parent().unwrap().join(file.trim_start_matches("../"));
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("partition"), "1").unwrap();
            fs::write(file, text).unwrap();
            assert_eq!(Medium::of_device(device), medium, "{path}");
        }
        fs::remove_dir_all(root).unwrap();
    }
}
