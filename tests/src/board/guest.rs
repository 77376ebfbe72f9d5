//! A board in QEMU, with a disk whose plug can be pulled.

use super::load::{Ledgers, publish_while};
use super::writes::{End, Pulled, take};
use crate::gateway::http_get;
use crate::{free_port, tools};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use weir_core::rng::Rng;

/// An installation on an emulated board takes minutes.
const SSH_MAX: Duration = Duration::from_secs(600);

/// Which board QEMU plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    Virt,
    /// Its SD card has no write cache: what the guest was told is written, is.
    RaspberryPi3,
}

/// What is booted: what the firmware of a board would have loaded.
#[derive(Clone, Debug)]
pub struct Boot {
    pub machine: Machine,
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub device_tree: Option<PathBuf>,
    pub command_line: String,
}

/// A board and its disk; without power until [`Guest::boot`].
#[derive(Debug)]
pub struct Guest {
    boot: Boot,
    folder: PathBuf,
    child: Option<Child>,
    network: bool,
    recorded: bool,
    /// Whether a board of QEMU's own kind has a hardware watchdog when it gets its power.
    pub watchdog: bool,
    pub kafka_port: u16,
    pub mqtt_port: u16,
    pub http_port: u16,
    pub ssh_port: u16,
}

impl Guest {
    /// The disk is `disk` in the folder.
    pub fn new(boot: Boot, folder: &Path) -> Guest {
        Guest {
            boot,
            folder: folder.to_path_buf(),
            child: None,
            network: true,
            recorded: false,
            watchdog: false,
            kafka_port: free_port(),
            mqtt_port: free_port(),
            http_port: free_port(),
            ssh_port: free_port(),
        }
    }

    /// A board to which no cable leads.
    pub fn without_network(mut self) -> Guest {
        self.network = false;
        self
    }

    /// A board whose packets are written down.
    pub fn with_packets_recorded(mut self) -> Guest {
        self.recorded = true;
        self
    }

    /// Whether it has sent this since it got its power, or was sent it.
    pub fn network_has_seen(&self, bytes: &[u8]) -> bool {
        let packets = fs::read(self.packets()).unwrap_or_default();
        packets.windows(bytes.len()).any(|window| window == bytes)
    }

    pub fn power_on(&mut self) -> Result<(), String> {
        assert!(self.child.is_none(), "the board has power already");
        let child = self.command().and_then(|mut command| command.spawn());
        self.child = Some(child.map_err(|error| format!("cannot start QEMU: {error}"))?);
        Ok(())
    }

    /// Gives it power and waits until weir serves; says how long that took.
    pub fn boot(&mut self, limit: Duration) -> Result<Duration, String> {
        let begin = Instant::now();
        self.power_on()?;
        loop {
            let child = self.child.as_mut().expect("the board has power");
            if http_get("127.0.0.1", self.http_port, "/readyz").is_some_and(|(code, _)| code == 200)
            {
                return Ok(begin.elapsed());
            }
            let ended = child.try_wait().map_err(|error| error.to_string())?;
            if let Some(status) = ended {
                self.child = None;
                return Err(format!("QEMU ended: {status}\n{}", self.last_words()));
            }
            if begin.elapsed() > limit {
                return Err(format!("not ready after {limit:?}\n{}", self.last_words()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until it has printed this on its serial line since it got its power.
    pub fn wait_for_console(&self, text: &str, limit: Duration) -> Result<(), String> {
        let begin = Instant::now();
        while !self.console().contains(text) {
            if begin.elapsed() > limit {
                return Err(format!("no {text:?} after {limit:?}\n{}", self.last_words()));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Lets clients publish for so long.
    pub fn publish_for(&self, ledgers: &Ledgers, time: Duration) {
        let ports = (self.mqtt_port, self.kafka_port);
        publish_while(ledgers, ports, &self.position(), || std::thread::sleep(time));
    }

    /// Pulls the plug, at some moment behind a position. The disk is what a card may hold then.
    pub fn pull_the_plug(&mut self, behind: u64, rng: &mut Rng) -> io::Result<Pulled> {
        self.kill();
        match self.boot.machine {
            Machine::Virt => take(&self.recording(), &self.disk(), End::Pulled { behind, rng }),
            // Now, and what was answered is on the card.
            Machine::RaspberryPi3 => Ok(Pulled { at: u64::MAX, ..Pulled::default() }),
        }
    }

    /// How long QEMU's recording of the disk is: what a client learns after it has asked for this
    /// comes from what is recorded before.
    pub fn position(&self) -> impl Fn() -> u64 + Sync + use<> {
        let recording = self.recording();
        move || fs::metadata(&recording).map_or(0, |metadata| metadata.len())
    }

    /// Waits until the board has switched itself off, which a reboot is to this QEMU, too.
    pub fn wait_for_the_end(&mut self, limit: Duration) -> Result<(), String> {
        let begin = Instant::now();
        let child = self.child.as_mut().expect("the board has power");
        while child.try_wait().map_err(|error| error.to_string())?.is_none() {
            if begin.elapsed() > limit {
                return Err(format!("still on after {limit:?}\n{}", self.last_words()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        self.child = None;
        if self.boot.machine == Machine::Virt {
            let taken = take(&self.recording(), &self.disk(), End::Orderly);
            taken.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// What it has printed on its serial line since it got its power.
    pub fn console(&self) -> String {
        let bytes = fs::read(self.folder.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk")
    }

    fn recording(&self) -> PathBuf {
        self.folder.join("recording")
    }

    fn packets(&self) -> PathBuf {
        self.folder.join("packets")
    }

    /// Runs a command on the board, as root, with this on its standard input.
    pub fn ssh(&self, key: &Path, command: &str, input: &[u8]) -> tools::Output {
        let mut ssh = Command::new("ssh");
        for option in [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "ConnectTimeout=100",
            "IdentitiesOnly=yes",
        ] {
            ssh.args(["-o", option]);
        }
        ssh.arg("-i").arg(key).args(["-p", &self.ssh_port.to_string(), "root@127.0.0.1", command]);
        tools::run_with_input_for(&mut ssh, input, SSH_MAX)
    }

    fn last_words(&self) -> String {
        let console = self.console();
        let lines: Vec<&str> = console.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    fn command(&self) -> io::Result<Command> {
        let mut qemu = Command::new("qemu-system-aarch64");
        qemu.args(["-nographic", "-no-reboot", "-monitor", "none", "-display", "none"]);
        qemu.arg("-kernel").arg(&self.boot.kernel).arg("-initrd").arg(&self.boot.initrd);
        // The console of an earlier boot is not of this one.
        File::create(self.folder.join("console"))?;
        let forward = [
            (self.kafka_port, 9092),
            (self.mqtt_port, 1883),
            (self.http_port, 8080),
            (self.ssh_port, 22),
        ];
        let mut network = "user,id=n0,restrict=on".to_string();
        for (port, guest) in forward {
            network += &format!(",hostfwd=tcp:127.0.0.1:{port}-:{guest}");
        }
        // A hub to which nobody else is attached.
        let nobody = "hubport,id=n0,hubid=0".to_string();
        qemu.args(["-netdev", if self.network { &network } else { &nobody }]);
        if self.recorded {
            let dump = format!("filter-dump,id=d0,netdev=n0,file={}", self.packets().display());
            qemu.args(["-object", &dump]);
        }
        match self.boot.machine {
            Machine::Virt => self.virt(&mut qemu)?,
            Machine::RaspberryPi3 => self.raspberry_pi_3(&mut qemu),
        }
        let line = self.boot.command_line.replace("KAFKA_PORT", &self.kafka_port.to_string());
        qemu.args(["-append", &line]);
        qemu.stdin(Stdio::null()).stdout(Stdio::null());
        let log = File::options().append(true).create(true).open(self.folder.join("qemu.log"))?;
        writeln!(&log, "{qemu:?}")?;
        qemu.stderr(log);
        Ok(qemu)
    }

    /// The guest writes to a layer above the disk, which is thrown away; QEMU records the writes.
    fn virt(&self, qemu: &mut Command) -> io::Result<()> {
        let layer = self.folder.join("layer");
        let made = tools::run(
            Command::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
                .arg(self.disk())
                .arg(&layer),
        );
        if made.code != Some(0) {
            return Err(io::Error::other(format!("qemu-img: {}", made.stderr)));
        }
        File::create(self.recording())?;
        let node = |name: &str, driver: &str, rest: String| {
            format!("node-name={name},driver={driver},{rest}")
        };
        let file = |path: &Path| format!("filename={}", path.display());
        qemu.args(["-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-m", "512"]);
        // A clock that nobody has set.
        qemu.args(["-rtc", "base=1970-01-01T00:00:00"]);
        qemu.arg("-blockdev").arg(node("layer-file", "file", file(&layer)));
        qemu.arg("-blockdev").arg(node("layer", "qcow2", "file=layer-file".into()));
        qemu.arg("-blockdev").arg(node("recording", "file", file(&self.recording())));
        let logged = "file=layer,log=recording,log-sector-size=512,log-super-update-interval=1";
        qemu.arg("-blockdev").arg(node("disk", "blklogwrites", logged.into()));
        qemu.args(["-device", "virtio-blk-pci,drive=disk"]);
        qemu.args(["-device", "virtio-net-pci,netdev=n0,romfile="]);
        qemu.args(["-device", "virtio-rng-pci"]);
        if self.watchdog {
            qemu.args(["-device", "i6300esb"]);
        }
        qemu.arg("-serial").arg(format!("file:{}", self.folder.join("console").display()));
        Ok(())
    }

    fn raspberry_pi_3(&self, qemu: &mut Command) {
        qemu.args(["-M", "raspi3b"]);
        if let Some(device_tree) = &self.boot.device_tree {
            qemu.arg("-dtb").arg(device_tree);
        }
        let disk = self.disk();
        qemu.arg("-drive").arg(format!("if=sd,format=raw,file={}", disk.display()));
        qemu.args(["-usb", "-device", "usb-net,netdev=n0"]);
        // The first serial line is the one of the radio on this board.
        qemu.args(["-serial", "null"]);
        qemu.arg("-serial").arg(format!("file:{}", self.folder.join("console").display()));
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}
