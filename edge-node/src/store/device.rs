//! What a medium holds already, and whether somebody uses it: what `weir log format` must not
//! overwrite unawares.
//!
//! Why a table of our own: the kept crates that know signatures read whole file systems or bind
//! libblkid, a C library; where a signature stands is a fact of each format that never changes.

use rustix::fs::{FileType, major, minor, stat};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// A signature: what it tells, where it stands, and its bytes.
const SIGNATURES: [(&str, u64, &[u8]); 28] = [
    ("another flash log of weir", 0, b"WEIRLOG\n"),
    ("an ext2, ext3 or ext4 file system", 1080, &[0x53, 0xef]),
    ("an XFS file system", 0, b"XFSB"),
    ("a Btrfs file system", 65_600, b"_BHRfS_M"),
    ("an F2FS file system", 1024, &[0x10, 0x20, 0xf5, 0xf2]),
    ("a FAT file system", 54, b"FAT1"),
    ("a FAT32 file system", 82, b"FAT32"),
    ("an exFAT file system", 3, b"EXFAT   "),
    ("an NTFS file system", 3, b"NTFS    "),
    ("an ISO 9660 file system", 32_769, b"CD001"),
    ("a UDF file system", 32_769, b"BEA01"),
    ("a SquashFS file system", 0, b"hsqs"),
    ("an EROFS file system", 1024, &[0xe2, 0xe1, 0xf5, 0xe0]),
    ("a UBI volume", 0, b"UBI#"),
    ("a ZFS pool", 131_072, &[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0]),
    ("a bcache device", 4120, &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca]),
    ("a LUKS container", 0, b"LUKS\xba\xbe"),
    ("an LVM physical volume", 536, b"LVM2 001"),
    ("an LVM physical volume", 24, b"LVM2 001"),
    ("a member of a RAID array", 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("a member of a RAID array", 0, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("a swap area", 4086, b"SWAPSPACE2"),
    ("a swap area", 16_374, b"SWAPSPACE2"),
    ("a swap area", 65_526, b"SWAPSPACE2"),
    ("a swap area", 4086, b"SWAP-SPACE"),
    ("a GPT partition table", 512, b"EFI PART"),
    ("a GPT partition table", 4096, b"EFI PART"),
    // Last: a FAT file system has it, too.
    ("a partition table or boot sector", 510, &[0x55, 0xaa]),
];

/// A RAID superblock of version 0.90 stands in the last whole 64 KiB but one.
const RAID_TAIL: (&str, &[u8]) = ("a member of a RAID array", &[0xfc, 0x4e, 0x2b, 0xa9]);
/// The copy of a GPT table stands in the last sector.
const GPT_TAIL: (&str, &[u8]) = ("the copy of a GPT partition table", b"EFI PART");
/// What is looked at for bytes of no known kind.
const HEAD_BYTES: usize = 1 << 20;

/// What stands on a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Nothing,
    /// Something that has a name.
    Known(&'static str),
    /// Bytes that are not zero, of no kind that we know.
    Unknown,
}

/// Looks for signatures on a medium of that length.
pub fn content(file: &File, bytes: u64) -> io::Result<Content> {
    for (name, at, magic) in SIGNATURES {
        if holds(file, at, magic)? {
            return Ok(Content::Known(name));
        }
    }
    let raid = (bytes & !0xffff).saturating_sub(0x1_0000);
    let version_1 = (bytes / 512).saturating_sub(16) / 8 * 8 * 512;
    for at in [raid, version_1] {
        if at > 0 && holds(file, at, RAID_TAIL.1)? {
            return Ok(Content::Known(RAID_TAIL.0));
        }
    }
    for sector in [512, 4096] {
        if bytes > sector && holds(file, bytes - sector, GPT_TAIL.1)? {
            return Ok(Content::Known(GPT_TAIL.0));
        }
    }
    let mut head = vec![0; HEAD_BYTES];
    let len = read_up_to(file, &mut head, 0)?;
    let blank = head[..len].iter().all(|&byte| byte == 0);
    Ok(if blank { Content::Nothing } else { Content::Unknown })
}

fn holds(file: &File, at: u64, magic: &[u8]) -> io::Result<bool> {
    let mut found = [0; 16];
    let found = &mut found[..magic.len()];
    Ok(read_up_to(file, found, at)? == magic.len() && found == magic)
}

/// Fills `bytes` as far as the medium goes.
pub fn read_up_to(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

pub fn is_block_device(path: &Path) -> bool {
    stat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice)
}

/// Length of a file, or of a block device.
pub fn length(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

/// Opens a block device so that nobody mounts it meanwhile. `ResourceBusy`: somebody has.
pub fn open_device(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::EXCL.bits() as i32;
    File::options().read(true).write(true).custom_flags(flags).open(path)
}

/// Who uses a block device, in words; `None` when nobody does.
pub fn user(path: &Path) -> Option<String> {
    let device = stat(path).ok()?.st_rdev;
    let number = format!("{}:{}", major(device), minor(device));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounted = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        (fields.next()? == number).then(|| fields.nth(1).unwrap_or("").to_string())
    });
    if let Some(place) = mounted {
        return Some(format!("mounted on {place}"));
    }
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let real = fs::canonicalize(path).ok()?;
    if swaps.lines().any(|line| line.split_whitespace().next().map(Path::new) == Some(&real)) {
        return Some("used for swapping".into());
    }
    match open_device(path) {
        Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
            Some("in use, perhaps a part of it is mounted, or another program has it".into())
        }
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_signature_is_recognised_and_zeros_are_nothing() {
        let path = std::env::temp_dir().join(format!("weir-signature-{}", std::process::id()));
        let bytes = 8 << 20;
        let file = |at: u64, magic: &[u8]| {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)
                .unwrap();
            file.set_len(bytes).unwrap();
            file.write_all_at(magic, at).unwrap();
            content(&file, bytes).unwrap()
        };
        assert_eq!(file(0, &[]), Content::Nothing);
        for (name, at, magic) in SIGNATURES {
            assert_eq!(file(at, magic), Content::Known(name));
        }
        assert_eq!(file(bytes - 0x1_0000, RAID_TAIL.1), Content::Known(RAID_TAIL.0));
        assert_eq!(file(bytes - 512, GPT_TAIL.1), Content::Known(GPT_TAIL.0));
        assert_eq!(file(70_000, b"holiday pictures"), Content::Unknown);
        fs::remove_file(path).unwrap();
    }
}
