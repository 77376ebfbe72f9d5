//! Takes from an image what the firmware of a board would load, and puts the rest on a disk.

use super::guest::{Boot, Machine};
use crate::tools;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// Of a tiny image, which is its log alone.
const TINY_DISK_BYTES: u64 = 256 << 20;
/// The card that a flashed image has to grow on. QEMU's SD card wants a power of two.
const CARD_BYTES: u64 = 1 << 30;
const DEVICE_TREE: &str = "bcm2837-rpi-3-b.dtb";

/// Weir tells its clients where the port is that leads to it.
const ADVERTISE: &str = "weir.advertise=127.0.0.1:KAFKA_PORT";

/// Makes the folder anew, with the disk. `words` are for the kernel's command line.
pub fn take(image: &Path, folder: &Path, machine: Machine, words: &str) -> Result<Boot, String> {
    let error = |error: io::Error| format!("{}: {error}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(error)?;
    }
    fs::create_dir_all(folder).map_err(error)?;
    let disk = folder.join("disk");
    if image.is_dir() {
        File::create(disk).and_then(|file| file.set_len(TINY_DISK_BYTES)).map_err(error)?;
        return Ok(Boot {
            machine,
            kernel: image.join("kernel"),
            initrd: image.join("initrd"),
            device_tree: None,
            command_line: format!("console=ttyAMA0 panic=10 quiet {ADVERTISE}"),
        });
    }
    done(Command::new("cp").arg("--sparse=always").arg(image).arg(&disk))?;
    let card = File::options().write(true).open(&disk).map_err(error)?;
    let length = card.metadata().map_err(error)?.len();
    card.set_len(CARD_BYTES.max(length.next_power_of_two())).map_err(error)?;
    for name in ["kernel8.img", "initrd.img", "cmdline.txt", DEVICE_TREE] {
        let mut copy = Command::new("mcopy");
        copy.args(["-n", "-i", &firmware_of(image).map_err(error)?, &format!("::{name}")]);
        done(copy.arg(folder))?;
    }
    let command_line = fs::read_to_string(folder.join("cmdline.txt")).map_err(error)?;
    // QEMU's watchdog of a Raspberry Pi resets the board when it is set.
    let watchdog = match machine {
        Machine::Virt => "",
        Machine::RaspberryPi3 => "systemd.watchdog_sec=0",
    };
    Ok(Boot {
        machine,
        kernel: folder.join("kernel8.img"),
        initrd: folder.join("initrd.img"),
        device_tree: Some(folder.join(DEVICE_TREE)),
        command_line: format!("{} {ADVERTISE} {watchdog} {words}", command_line.trim()),
    })
}

/// The first partition of a disk, as mtools name it: the partition table says where it begins.
pub fn firmware_of(disk: &Path) -> io::Result<String> {
    let mut sector = [0; 4];
    File::open(disk)?.read_exact_at(&mut sector, 446 + 8)?;
    Ok(format!("{}@@{}", disk.display(), u64::from(u32::from_le_bytes(sector)) * 512))
}

fn done(command: &mut Command) -> Result<(), String> {
    let output = tools::run(command);
    match output.code {
        Some(0) => Ok(()),
        _ => Err(format!("{}\n{}{}", output.what, output.stdout, output.stderr)),
    }
}
