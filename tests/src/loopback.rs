//! Loop devices: block devices and small file systems of a test's own, where the machine allows it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A block device backed by a sparse file, gone when dropped.
#[derive(Debug)]
pub struct Loop {
    pub device: PathBuf,
    mounted: Option<PathBuf>,
}

impl Loop {
    /// `None`, and said, where loop devices may not be made: without root, or in a container.
    pub fn new(folder: &Path, bytes: u64) -> Option<Loop> {
        let image = folder.join("device.img");
        File::create(&image).and_then(|file| file.set_len(bytes)).expect("a sparse file");
        let made = Command::new("losetup").args(["-f", "--show"]).arg(&image).output();
        let made = made.ok().filter(|made| made.status.success());
        let Some(made) = made else {
            crate::skipped("loop devices: full, read-only and raw media");
            return None;
        };
        let device = String::from_utf8_lossy(&made.stdout).trim().into();
        Some(Loop { device, mounted: None })
    }

    /// Makes an ext4 file system on it and mounts that at `at`.
    pub fn mount(&mut self, at: &Path) {
        std::fs::create_dir_all(at).expect("a folder to mount at");
        tool(Command::new("mkfs.ext4").arg("-q").arg(&self.device));
        tool(Command::new("mount").arg(&self.device).arg(at));
        self.mounted = Some(at.to_path_buf());
    }

    pub fn remount(&self, options: &str) {
        let at = self.mounted.as_ref().expect("it is mounted");
        tool(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(at));
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Some(at) = &self.mounted {
            Command::new("umount").arg("-l").arg(at).status().ok();
        }
        Command::new("losetup").arg("-d").arg(&self.device).status().ok();
    }
}

fn tool(command: &mut Command) {
    crate::tools::run(command).success();
}
