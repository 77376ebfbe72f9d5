//! The recorded disk as a block device: a file system in user space with one file, a loop device
//! on that file, ext4 on the loop device.
//!
//! This process serves the file, so it must never itself touch what is mounted from it: killed in
//! the middle of such a call it would wait for its own answer for ever. Everything on the mounts is
//! done by children.

use crate::disk::Disk;
use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    Generation, INodeNo, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData,
    ReplyEmpty, ReplyEntry, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weir_tests::tools::{command, run};
use weir_tests::{folder, release_binary};

pub type Shared = Arc<Mutex<Disk>>;

pub fn lock(disk: &Shared) -> MutexGuard<'_, Disk> {
    disk.lock().expect("nobody panics while holding the disk")
}

const FILE: INodeNo = INodeNo(2);
const NAME: &str = "disk";
/// A log without a file system around it.
const FILE_BYTES: &str = "128MiB";
const FOREVER: Duration = Duration::from_secs(3600);

struct OneFile(Shared);

impl OneFile {
    fn attributes(&self, node: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match node {
            INodeNo::ROOT => (FileType::Directory, 0o755, 0),
            FILE => (FileType::RegularFile, 0o600, lock(&self.0).bytes),
            _ => return None,
        };
        Some(FileAttr {
            ino: node,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for OneFile {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        config.set_max_write(1 << 20).map(drop).map_err(|_| io::Error::other("max_write"))
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attributes(FILE).filter(|_| parent == INodeNo::ROOT && name == NAME) {
            Some(attributes) => reply.entry(&FOREVER, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(node) {
            Some(attributes) => reply.attr(&FOREVER, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        at: u64,
        len: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let bytes = lock(&self.0).read(at, len as usize);
        match bytes {
            Ok(bytes) => reply.data(&bytes),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    /// A log that is formatted is cut to nothing first.
    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if let Some(size) = size {
            lock(&self.0).resize(size);
        }
        match self.attributes(node) {
            Some(attributes) => reply.attr(&FOREVER, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        at: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = lock(&self.0).write(at, data);
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let flushed = lock(&self.0).flush();
        match flushed {
            Ok(()) => reply.ok(),
            Err(_) => reply.error(Errno::EIO),
        }
    }
}

/// The disk's file, and while it is mounted the file system in it. Dropping takes everything back
/// in order; whatever survives that, such as after a `kill -9`, ends with the mount namespace.
pub struct Device {
    folder: PathBuf,
    session: Option<BackgroundSession>,
    medium: Medium,
}

/// What stands between weir and the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    Ext4,
    /// Nothing: the disk's file is weir's log.
    File,
}

impl Device {
    /// Serves the disk as a file.
    pub fn new(name: &str, disk: &Shared, medium: Medium) -> io::Result<Device> {
        let folder = folder(name);
        std::fs::create_dir(folder.join("fuse"))?;
        std::fs::create_dir(folder.join("ext4"))?;
        std::fs::create_dir(folder.join("data"))?;
        let mut config = Config::default();
        config.mount_options.push(MountOption::FSName("weir-power-cut".into()));
        let session = fuser::spawn_mount(OneFile(disk.clone()), folder.join("fuse"), &config)?;
        Ok(Device { folder, session: Some(session), medium })
    }

    pub fn file(&self) -> PathBuf {
        self.folder.join("fuse").join(NAME)
    }

    /// Where the file system is while it is mounted.
    pub fn ext4(&self) -> PathBuf {
        self.folder.join("ext4")
    }

    /// Makes a new file system in the file.
    pub fn mkfs(&self) -> Result<(), String> {
        let options = "-q -F -m 0 -b 4096 -J size=4 -E nodiscard,lazy_itable_init=0";
        done(command(&format!("mkfs.ext4 {options}")).arg(self.file()))
    }

    /// Makes it ready for a new gateway.
    pub fn format(&self) -> Result<(), String> {
        match self.medium {
            Medium::Ext4 => self.mkfs(),
            Medium::File => {
                let mut weir = Command::new(release_binary());
                weir.args(["log", "format", "--yes", "--yes", "--bytes", FILE_BYTES]);
                done(weir.arg(self.file()))
            }
        }
    }

    /// Mounts what has to be mounted.
    pub fn open(&self) -> Result<Place<'_>, String> {
        match self.medium {
            Medium::Ext4 => self.mount().map(Place::Ext4),
            Medium::File => Ok(Place::File(self)),
        }
    }

    /// `mount` picks a free loop device and lets it go with the mount.
    pub fn mount(&self) -> Result<Ext4<'_>, String> {
        let options = ["-t", "ext4", "-o", "loop,noatime"];
        done(Command::new("mount").args(options).arg(self.file()).arg(self.ext4()))?;
        Ok(Ext4(self))
    }

    /// What a Debian machine does before it mounts what was not unmounted.
    pub fn fsck(&self) -> Result<(), String> {
        let output = run(Command::new("e2fsck").args(["-f", "-y"]).arg(self.file()));
        match output.code {
            Some(0 | 1) => Ok(()),
            _ => Err(format!("{}\n{}{}", output.what, output.stdout, output.stderr)),
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        unmount(&self.folder.join("fuse"));
        if let Some(session) = self.session.take() {
            session.join().ok();
        }
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

/// Where a gateway on the disk keeps its data; given back when dropped.
pub enum Place<'a> {
    Ext4(Ext4<'a>),
    File(&'a Device),
}

impl Place<'_> {
    /// The data folder.
    pub fn data(&self) -> PathBuf {
        match self {
            Place::Ext4(ext4) => ext4.path().join("data"),
            Place::File(device) => device.folder.join("data"),
        }
    }

    /// The log, when it is not in the data folder.
    pub fn log(&self) -> Option<PathBuf> {
        match self {
            Place::Ext4(_) => None,
            Place::File(device) => Some(device.file()),
        }
    }

    /// Takes what the system remembers of the log out of its memory: whoever reads it next asks
    /// the disk.
    pub fn forget(&self) -> Result<(), String> {
        let (log, file) = match self {
            Place::Ext4(ext4) => (self.data().join("flash.log"), ext4.0.file()),
            Place::File(device) => (device.file(), device.file()),
        };
        // What is nearest to weir first: what it forgets must not come back from there.
        for path in [log, file] {
            let mut path_as_input = std::ffi::OsString::from("if=");
            path_as_input.push(path);
            done(command("dd iflag=nocache count=0 status=none").arg(path_as_input))?;
        }
        Ok(())
    }
}

/// A mounted file system.
pub struct Ext4<'a>(&'a Device);

impl Ext4<'_> {
    pub fn path(&self) -> PathBuf {
        self.0.ext4()
    }
}

impl Drop for Ext4<'_> {
    fn drop(&mut self) {
        unmount(&self.path());
    }
}

/// A loop device lets go of its file a moment after its own unmount, hence the patience. No panic:
/// this runs while others unwind.
fn unmount(path: &Path) {
    for _ in 0..500 {
        if done(Command::new("umount").arg(path)).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    eprintln!("{} stays busy: it is detached", path.display());
    done(Command::new("umount").arg("-l").arg(path)).ok();
}

fn done(command: &mut Command) -> Result<(), String> {
    let output = run(command);
    match output.code {
        Some(0) => Ok(()),
        _ => Err(format!("{}\n{}{}", output.what, output.stdout, output.stderr)),
    }
}

/// Why power cuts cannot be tried on this machine.
pub fn missing() -> Option<String> {
    let tools = ["mkfs.ext4", "mount", "umount", "e2fsck", "ip"];
    let path = std::env::var("PATH").unwrap_or_default();
    let there = |tool: &&&str| path.split(':').any(|dir| Path::new(dir).join(tool).exists());
    if let Some(tool) = tools.iter().find(|tool| !there(tool)) {
        return Some(format!("{tool} is not installed"));
    }
    if let Err(error) = done(&mut command("ip link set lo up")) {
        return Some(format!("no loopback of its own: {error}"));
    }
    let disk = Arc::new(Mutex::new(Disk::new(16 << 20, Default::default())));
    let device = match Device::new("power-cut-probe", &disk, Medium::Ext4) {
        Ok(device) => device,
        Err(error) => return Some(format!("no FUSE mount (/dev/fuse, as root): {error}")),
    };
    let mounted = device.mkfs().and_then(|()| device.mount().map(drop));
    mounted.err().map(|error| format!("no loop mount: {}", error.trim()))
}
