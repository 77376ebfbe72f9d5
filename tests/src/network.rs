//! A network of a test's own: a namespace for each gateway, joined by a bridge, whose links can be
//! cut one way. Where the machine does not allow that, several loopback addresses.
//!
//! A link is cut one way by a neighbour entry for the other end that leads nowhere: nothing is
//! refused, nothing answers, and connections stay open. That takes no kernel module, such as
//! `tc netem` and `iptables` do. A slow link is a token bucket, which most kernels have, behind a
//! queue that is too short for bursts, so that it loses packets, too.

use crate::tools;
use std::ffi::OsString;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Gone with everything in it when dropped.
#[derive(Debug)]
pub struct Network {
    /// What namespaces and links are named by; `None`: loopback addresses.
    spaces: Option<Spaces>,
    subnet: String,
}

#[derive(Debug)]
struct Spaces {
    /// Such as `weir-1234-0`; the namespaces have a gateway's number behind it.
    prefix: String,
    bridge: String,
    links: String,
    count: usize,
}

/// An end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The gateway of this number, from 1 up.
    Gateway(usize),
    /// Whoever is not in a namespace: the tests and all clients.
    Clients,
}

/// Where a cut link leads.
const NOBODY: &str = "02:00:00:00:00:ff";

impl Network {
    /// With addresses 1 to `count`.
    pub fn new(count: usize) -> Network {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (pid, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        remove_leftovers();
        let spaces = Spaces {
            prefix: format!("weir-{pid}-{number}"),
            bridge: format!("wb{pid}n{number}"),
            links: format!("wl{pid}n{number}-"),
            count,
        };
        // Addresses that RFC 2544 sets aside for tests of networks.
        let subnet = format!("198.{}.{}", 18 + (pid >> 8 & 1), (pid + number * 37) & 255);
        // Made first, so that what was made is taken away whatever fails.
        let network = Network { spaces: Some(spaces), subnet };
        match network.build() {
            Ok(()) => network,
            Err(why) => {
                crate::skipped(&format!("cut links between gateways of a site: {}", why.trim()));
                let subnet = format!("127.{}.{}", 100 + (pid >> 8 & 127), (pid + number) & 255);
                Network { spaces: None, subnet }
            }
        }
    }

    fn build(&self) -> Result<(), String> {
        let Some(Spaces { prefix, bridge, links, count }) = &self.spaces else { return Ok(()) };
        let clients = self.address(End::Clients);
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("addr add {clients}/24 dev {bridge}"))?;
        ip(&format!("link set {bridge} up"))?;
        for number in 1..=*count {
            let (space, link) = (format!("{prefix}-{number}"), format!("{links}{number}"));
            let address = self.address(End::Gateway(number));
            ip(&format!("netns add {space}"))?;
            ip(&format!("link add {link} type veth peer name eth0 netns {space}"))?;
            ip(&format!("link set {link} master {bridge} up"))?;
            ip(&format!("-n {space} addr add {address}/24 dev eth0"))?;
            ip(&format!("-n {space} link set eth0 up"))?;
            ip(&format!("-n {space} link set lo up"))?;
        }
        Ok(())
    }

    /// Whether links can be cut.
    pub fn is_real(&self) -> bool {
        self.spaces.is_some()
    }

    pub fn address(&self, end: End) -> String {
        match end {
            End::Gateway(number) => format!("{}.{number}", self.subnet),
            End::Clients => format!("{}.254", self.subnet),
        }
    }

    /// What runs a program where the gateway of this number is.
    pub fn enter(&self, number: usize) -> Vec<OsString> {
        let Some(spaces) = &self.spaces else { return Vec::new() };
        let space = format!("{}-{number}", spaces.prefix);
        ["ip", "netns", "exec", &space].map(OsString::from).to_vec()
    }

    /// Bytes that were sent from where this gateway is to a port elsewhere, and not received there.
    pub fn unsent_bytes(&self, from: usize, port: u16) -> u64 {
        let program = [self.enter(from), vec!["cat".into(), "/proc/net/tcp".into()]].concat();
        let table = tools::run(Command::new(&program[0]).args(&program[1..])).success();
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let unsent = |line: &str| {
            let mut fields = line.split_whitespace().skip(2);
            let (_, to) = fields.next()?.split_once(':')?;
            // FIN-WAIT-1, LAST-ACK and CLOSING: the end itself counts as one more.
            let ends = matches!(fields.next()?, "04" | "09" | "0B");
            let (unsent, _) = fields.next()?.split_once(':')?;
            let unsent = hex(unsent)?.saturating_sub(u64::from(ends));
            (hex(to)? == u64::from(port)).then_some(unsent)
        };
        table.lines().filter_map(unsent).sum()
    }

    /// What `from` says does not reach `to` any more.
    pub fn cut(&self, from: End, to: End) {
        self.neighbour(
            from,
            &format!("replace {} lladdr {NOBODY} nud permanent", self.address(to)),
        );
    }

    pub fn cut_both_ways(&self, one: End, other: End) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Cuts a gateway from all others, and from clients if asked.
    pub fn isolate(&self, number: usize, from_clients: bool) {
        let gateway = End::Gateway(number);
        let others = self.ends().filter(|end| *end != gateway);
        for other in others.filter(|end| from_clients || *end != End::Clients) {
            self.cut_both_ways(gateway, other);
        }
    }

    /// What a gateway says takes its time, and some of it is lost.
    pub fn slow_down(&self, number: usize) {
        let Some(Spaces { prefix, .. }) = &self.spaces else { return };
        let shape = "root tbf rate 1mbit burst 4kb limit 8kb";
        let command = format!("-n {prefix}-{number} qdisc replace dev eth0 {shape}");
        if let Err(why) = run("tc", &command) {
            crate::skipped(&format!("slow and lossy links between gateways: {}", why.trim()));
        }
    }

    /// Mends every link.
    pub fn heal(&self) {
        if let Some(Spaces { prefix, count, .. }) = &self.spaces {
            for number in 1..=*count {
                // A link that is not slow has no such discipline, which is no failure.
                run("tc", &format!("-n {prefix}-{number} qdisc del dev eth0 root")).ok();
            }
        }
        for from in self.ends() {
            for to in self.ends().filter(|to| *to != from) {
                // A link that is whole has no such entry, which is no failure.
                self.neighbour(from, &format!("del {}", self.address(to)));
            }
        }
    }

    fn ends(&self) -> impl Iterator<Item = End> + use<> {
        let count = self.spaces.as_ref().map_or(0, |spaces| spaces.count);
        (1..=count).map(End::Gateway).chain([End::Clients])
    }

    fn neighbour(&self, from: End, what: &str) {
        let Some(Spaces { prefix, bridge, .. }) = &self.spaces else { return };
        let result = match from {
            End::Gateway(number) => ip(&format!("-n {prefix}-{number} neigh {what} dev eth0")),
            End::Clients => ip(&format!("neigh {what} dev {bridge}")),
        };
        assert!(result.is_ok() || what.starts_with("del"), "{what}: {result:?}");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(Spaces { prefix, bridge, count, .. }) = &self.spaces {
            (1..=*count).for_each(|number| remove_space(&format!("{prefix}-{number}")));
            ip(&format!("link del {bridge}")).ok();
        }
    }
}

/// Ends what runs in a namespace, and takes it away. Its links go with it.
fn remove_space(space: &str) {
    let pids = ip(&format!("netns pids {space}")).unwrap_or_default();
    for pid in pids.split_whitespace() {
        Command::new("kill").args(["-9", pid]).status().ok();
    }
    ip(&format!("netns del {space}")).ok();
}

/// What tests have left that were killed themselves, by the process ids in the names.
fn remove_leftovers() {
    let alive = |pid: &str| std::path::Path::new("/proc").join(pid).exists();
    let spaces = ip("netns list").unwrap_or_default();
    for space in spaces.lines().filter_map(|line| line.split_whitespace().next()) {
        let pid = space.strip_prefix("weir-").and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !alive(pid)) {
            remove_space(space);
        }
    }
    let bridges = ip("-o link show type bridge").unwrap_or_default();
    for bridge in bridges.lines().filter_map(|line| line.split(": ").nth(1)) {
        let pid = bridge.strip_prefix("wb").and_then(|rest| rest.split_once('n'));
        if pid.is_some_and(|(pid, _)| pid.parse::<u32>().is_ok() && !alive(pid)) {
            ip(&format!("link del {bridge}")).ok();
        }
    }
}

fn ip(arguments: &str) -> Result<String, String> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &str) -> Result<String, String> {
    let output = Command::new(program).args(arguments.split_whitespace()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into())
    } else {
        Err(format!("{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}
