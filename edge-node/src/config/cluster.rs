//! Reads what makes a gateway one of a site: `node.roles`, `[cluster]`, `[peer]`.

use super::section::Section;
use super::{ADDRESS, Address, listen_address};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a gateway does for its site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Holds partitions. A voter that does not is a witness.
    pub broker: bool,
    /// Takes part in elections of the controller. A gateway that does not is an observer.
    pub voter: bool,
}

#[derive(Clone, Debug)]
pub struct Cluster {
    /// Who votes, by id, and where each listens for its peers. A gateway by itself names only
    /// itself, or nobody.
    pub voters: BTreeMap<i32, Address>,
    /// What all gateways of a cluster know. Without it no peer is listened to or dialed.
    pub secret_file: Option<PathBuf>,
    pub peer: Peer,
}

#[derive(Clone, Debug)]
pub struct Peer {
    pub listen: Address,
    /// Where other gateways are told to connect; `None` is what `cluster.voters` says of this one,
    /// or where we listen.
    pub advertise: Option<Address>,
}

/// How many voters a cluster may have. Two are no better than one: either one's death stops both.
const VOTERS: [usize; 4] = [0, 1, 3, 5];

const VOTER: &str = "\"ID@HOST:PORT\", as in \"1@gw1.local:9093\"";

/// `node.roles`; `None` when nobody says.
pub fn roles(section: &mut Section) -> Option<Roles> {
    let named = section.strings("roles")?;
    let has = |role: &str| named.iter().any(|named| named == role);
    let known = named.iter().all(|role| role == "broker" || role == "voter");
    if !known || named.is_empty() {
        section.fail(
            "roles are \"broker\" (holds partitions) and \"voter\" (elects the controller): \
             [\"voter\"] is a witness, [\"broker\"] an observer",
        );
    }
    Some(Roles { broker: has("broker"), voter: has("voter") })
}

/// The roles that hold, and the cluster.
pub fn cluster(
    mut section: Section,
    mut peer: Section,
    id: i32,
    said: Option<Roles>,
) -> (Roles, Cluster) {
    let voters = voters(&mut section);
    let secret_file = section.string("secret_file").filter(|path| !path.is_empty());
    let named = voters.is_empty() || voters.contains_key(&id);
    let roles = said.unwrap_or(Roles { broker: true, voter: named });
    if roles.voter && !named {
        section.fail(&format!(
            "voters does not name this gateway, {id}: add it, or leave \"voter\" out of node.roles \
             to join as an observer"
        ));
    }
    if !roles.voter && voters.contains_key(&id) {
        section.fail(&format!("voters names this gateway, {id}: its node.roles need \"voter\""));
    }
    if !roles.voter && voters.is_empty() {
        section.fail("an observer needs voters: the gateways that it joins");
    }
    if secret_file.is_none() && voters.keys().any(|voter| *voter != id) {
        section.fail("voters names other gateways: they need a secret_file, the same on each");
    }
    if !roles.broker && secret_file.is_none() {
        section.fail("a witness is nothing by itself: it needs voters and a secret_file");
    }
    section.finish();
    let default = Address { host: "0.0.0.0".into(), port: 9093 };
    let listen = peer.text("listen", ADDRESS, listen_address).unwrap_or(default);
    let advertise = peer.text("advertise", ADDRESS, Address::parse);
    peer.finish();
    let peer = Peer { listen, advertise };
    (roles, Cluster { voters, secret_file: secret_file.map(PathBuf::from), peer })
}

fn voters(section: &mut Section) -> BTreeMap<i32, Address> {
    let mut voters = BTreeMap::new();
    for text in section.strings("voters").unwrap_or_default() {
        let parsed = text.split_once('@').and_then(|(id, address)| {
            let id = id.parse::<i32>().ok().filter(|id| *id >= 0)?;
            Some((id, Address::parse(address)?))
        });
        let Some((id, address)) = parsed else {
            section.fail(&format!("voters must be {VOTER}, not \"{text}\""));
            continue;
        };
        if voters.insert(id, address).is_some() {
            section.fail(&format!("voters names gateway {id} twice"));
        }
    }
    if !VOTERS.contains(&voters.len()) {
        section.fail(&format!(
            "{} voters: a cluster has 1, 3 or 5, of which a minority may fail. For two gateways \
             add a witness, node.roles = [\"voter\"]",
            voters.len()
        ));
    }
    voters
}
