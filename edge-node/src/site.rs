//! What `weir serve` does for a gateway that is one of a site: reads the secret, listens for peers,
//! and says whom it waits for.

use crate::config::{Address, Config, Roles};
use crate::driver::Handle;
use crate::driver::peer::{Settings, Times};
use crate::serve::{advertise, bind};
use async_net::TcpListener;
use log::warn;
use sd_notify::NotifyState;
use smol::Timer;
use std::convert::Infallible;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use weir_core::peer::handshake::SECRET_BYTES_MIN;
use weir_core::types::NodeId;

/// More is no secret but some other file.
const SECRET_BYTES_MAX: usize = 4096;
/// How often it is said whom a start waits for.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// How long systemd is asked to wait on, each time: some times as long.
const WAIT_ON: Duration = Duration::from_secs(60);

/// The peers' part of a gateway with a secret; an error is a sentence.
pub fn peers(config: &Config) -> Result<Option<Settings>, String> {
    let cluster = &config.cluster;
    let Some(path) = &cluster.secret_file else { return Ok(None) };
    let secret = secret(path)?;
    let listener = bind("peers", "peer.listen", &cluster.peer.listen)?;
    let voters = cluster.voters.iter();
    Ok(Some(Settings {
        node: NodeId(config.node.id),
        secret,
        voters: voters.map(|(id, address)| (NodeId(*id), address.to_string())).collect(),
        listener,
        times: Times::default(),
    }))
}

/// Where other gateways are told to connect.
pub fn peer_address(config: &Config, listener: Option<&TcpListener>) -> Address {
    let peer = &config.cluster.peer;
    let configured = peer.advertise.as_ref().or(config.cluster.voters.get(&config.node.id));
    match (configured, listener) {
        (Some(address), _) => address.clone(),
        (None, Some(listener)) => advertise("gateways", "peer", &peer.listen, listener),
        (None, None) => peer.listen.clone(),
    }
}

/// What this gateway is for its site, as in `voters 1, 2, 3`.
pub fn described(config: &Config) -> String {
    let voters: Vec<NodeId> = config.cluster.voters.keys().map(|id| NodeId(*id)).collect();
    let role = match config.node.roles {
        Roles { broker: true, voter: true } => "",
        Roles { broker: false, .. } => "; a witness",
        Roles { voter: false, .. } => "; an observer",
    };
    match voters[..] {
        [] => "no voters but this one".into(),
        _ => format!("voters {}{role}", listed(&voters)),
    }
}

/// Reads the cluster's secret.
fn secret(path: &Path) -> Result<Vec<u8>, String> {
    let hint = "write 32 random bytes there, the same on each gateway, as in: head -c 32 \
                /dev/urandom | base64 > FILE";
    let fail = |error: std::io::Error| {
        let hint = match error.kind() {
            ErrorKind::PermissionDenied => "give the user that runs weir the right to read it",
            _ => hint,
        };
        format!("cannot read cluster.secret_file {}: {error}. {hint}", path.display())
    };
    let file = File::open(path).map_err(fail)?;
    let mode = file.metadata().map_err(fail)?.permissions().mode();
    if mode & 0o004 != 0 {
        warn!(
            "everybody on this machine can read the cluster's secret: chmod o-r {}",
            path.display()
        );
    }
    let mut secret = Vec::new();
    file.take(SECRET_BYTES_MAX as u64 + 2).read_to_end(&mut secret).map_err(fail)?;
    if secret.last() == Some(&b'\n') {
        secret.pop();
    }
    match secret.len() {
        SECRET_BYTES_MIN..=SECRET_BYTES_MAX => Ok(secret),
        len if len < SECRET_BYTES_MIN => Err(format!(
            "cluster.secret_file {} has {len} bytes, which can be guessed; it needs at least \
             {SECRET_BYTES_MIN}: {hint}",
            path.display()
        )),
        _ => Err(format!(
            "cluster.secret_file {} has more than {SECRET_BYTES_MAX} bytes: is it another file? \
             {hint}",
            path.display()
        )),
    }
}

/// Says whom the start waits for, again and again, and asks systemd to wait on: a gateway that
/// comes back before its peers is in order. Never ends.
pub async fn wait(handle: &Handle) -> Infallible {
    loop {
        Timer::after(SAY_EVERY).await;
        let Some(sentence) = awaited(handle) else { return std::future::pending().await };
        warn!("{sentence}");
        let _ = sd_notify::notify(&[
            NotifyState::Status(&sentence),
            NotifyState::ExtendTimeoutUsec(WAIT_ON.as_micros() as u32),
        ]);
    }
}

/// Whom a start waits for; `None` for a gateway by itself.
fn awaited(handle: &Handle) -> Option<String> {
    let peers = handle.peers()?;
    let (met, missing) = peers.voters();
    let all: Vec<NodeId> = met.iter().chain(&missing).copied().collect();
    let needed = match peers.is_formed() {
        true => "most of the voters have to be",
        false => "a new cluster begins when all voters are",
    };
    Some(match missing.is_empty() {
        false => format!(
            "waiting for the site: {} not connected; {needed}, which are {}",
            gateways(&missing),
            listed(&all)
        ),
        true => "waiting for the site: all voters are connected, and no controller has let this \
                 gateway in yet"
            .into(),
    })
}

fn gateways(nodes: &[NodeId]) -> String {
    match nodes {
        [node] => format!("gateway {} is", node.0),
        nodes => format!("gateways {} are", listed(nodes)),
    }
}

/// `1, 2, 3`.
fn listed(nodes: &[NodeId]) -> String {
    let mut ids: Vec<i32> = nodes.iter().map(|node| node.0).collect();
    ids.sort_unstable();
    ids.iter().map(i32::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What a file of these bytes is read as.
    fn check(name: &str, content: &[u8]) -> Result<Vec<u8>, String> {
        let path = std::env::temp_dir().join(format!("weir-secret-{}-{name}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        let read = secret(&path);
        std::fs::remove_file(&path).unwrap();
        read
    }

    #[test]
    fn a_secret_is_a_file_without_its_last_newline() {
        assert_eq!(check("plain", b"sixteen bytes...").unwrap(), b"sixteen bytes...");
        assert_eq!(check("line", b"sixteen bytes...\n").unwrap(), b"sixteen bytes...");
        assert_eq!(check("two", b"sixteen bytes...\n\n").unwrap(), b"sixteen bytes...\n");
        let largest = [b'x'; SECRET_BYTES_MAX];
        assert_eq!(check("large", &largest).unwrap(), largest);
    }

    #[test]
    fn a_file_that_is_no_secret_is_refused_with_what_to_do() {
        let short = check("short", b"fifteen bytes..\n").unwrap_err();
        assert!(short.contains("has 15 bytes") && short.contains("/dev/urandom"), "{short}");
        let large = check("larger", &[b'x'; SECRET_BYTES_MAX + 1]).unwrap_err();
        assert!(large.contains("more than 4096 bytes"), "{large}");
        let missing = secret(Path::new("/nonexistent/secret")).unwrap_err();
        assert!(missing.contains("cannot read cluster.secret_file"), "{missing}");
        assert!(missing.contains("/dev/urandom"), "{missing}");
    }
}
