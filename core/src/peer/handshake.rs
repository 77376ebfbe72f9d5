//! Two gateways prove to each other that they know the cluster's secret, and find out whether they
//! belong together.
//!
//! | step | dialer | listener |
//! |---|---|---|
//! | 1 | hello | |
//! | 2 | | answer: its own hello, and the proof that it knows the secret |
//! | 3 | proof | |
//! | 4 | | welcome |
//!
//! A proof is HMAC-SHA256 (RFC 2104) with the secret over the role and both hellos, each of which
//! has 32 fresh random bytes: it cannot be repeated, turned around, or be had for a hello that was
//! changed on its way. Instead of step 3 or 4 either side may say a refusal: a sentence that both
//! log. What a hello says is judged after its sender has proved itself; only a refusal comes from
//! somebody unproved, and nothing but a line in the log follows from it.
//!
//! TLS will go underneath; these steps stay as they are.

use super::{Kind, VERSION, VERSION_MIN, frame};
use crate::types::NodeId;
use crate::wire::Frame;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// The least bytes of a secret: 16 random bytes cannot be guessed.
pub const SECRET_BYTES_MIN: usize = 16;
/// Clocks that are both trusted and further apart than this belong to no common cluster, in
/// milliseconds: a year. Records would be expired, or kept, by decades.
const CLOCKS_APART_MS_MAX: u64 = 365 * 86_400_000;
/// Bytes of a refusal that are shown.
const REASON_BYTES_MAX: usize = 400;

/// Who a gateway says it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub version: u16,
    pub version_min: u16,
    pub node: NodeId,
    /// The identity of its flash log.
    pub directory: [u8; 16],
    /// Random, made when the process starts.
    pub incarnation: [u8; 16],
    /// `None` before the cluster was formed.
    pub cluster: Option<[u8; 16]>,
    /// `[cluster] voters` as configured, ids and addresses, in the order of ids.
    pub voters: Vec<(NodeId, String)>,
    /// What its wall clock says, in milliseconds since 1970, if it is trusted.
    pub clock_ms: Option<i64>,
    pub nonce: [u8; 32],
}

/// What the handshake asks for next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Send(Frame),
    /// Sent or not, both sides are known to each other.
    Done {
        send: Option<Frame>,
        peer: Hello,
    },
    /// Send the frame, if any, log the sentence and hang up.
    Refused {
        send: Option<Frame>,
        why: String,
    },
}

#[derive(Debug)]
enum State {
    /// A listener that has heard nothing yet.
    Listening,
    /// A dialer that has said hello, to whom it takes for this gateway.
    Dialed {
        expected: Option<NodeId>,
    },
    /// A listener that has answered.
    Answered {
        peer: Hello,
        peer_bytes: Vec<u8>,
    },
    /// A dialer that has sent its proof.
    Proved {
        peer: Hello,
    },
    Over,
}

/// One side of a handshake.
pub struct Handshake {
    state: State,
    secret: Vec<u8>,
    me: Hello,
    my_bytes: Vec<u8>,
    connected: Vec<(NodeId, [u8; 16])>,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    hello: Vec<u8>,
    proof: Vec<u8>,
}

impl Hello {
    /// Versions and nonce are filled in.
    pub fn new(node: NodeId, directory: [u8; 16], incarnation: [u8; 16], nonce: [u8; 32]) -> Hello {
        Hello {
            version: VERSION,
            version_min: VERSION_MIN,
            node,
            directory,
            incarnation,
            cluster: None,
            voters: Vec::new(),
            clock_ms: None,
            nonce,
        }
    }
}

impl Handshake {
    /// The dialer's side, and its first frame.
    pub fn dial(secret: &[u8], me: Hello, expected: Option<NodeId>) -> (Handshake, Frame) {
        let handshake = Handshake::new(State::Dialed { expected }, secret, me);
        let hello = frame(Kind::Hello, &handshake.my_bytes, &[]);
        (handshake, hello)
    }

    pub fn listen(secret: &[u8], me: Hello) -> Handshake {
        Handshake::new(State::Listening, secret, me)
    }

    fn new(state: State, secret: &[u8], me: Hello) -> Handshake {
        let my_bytes = postcard::to_allocvec(&me).expect("a hello has no type that postcard lacks");
        let connected = Vec::new();
        Handshake { state, secret: secret.into(), me, my_bytes, connected }
    }

    /// The directory ids of gateways that are connected. Another directory of the same gateway has
    /// to wait until that connection has ended: after a wipe it does soon, and of two gateways with
    /// one node id it is the second that stays outside.
    pub fn with_connected(mut self, connected: Vec<(NodeId, [u8; 16])>) -> Handshake {
        self.connected = connected;
        self
    }

    /// The peer's next frame came.
    pub fn on_frame(&mut self, kind: Kind, payload: &Bytes) -> Step {
        let state = core::mem::replace(&mut self.state, State::Over);
        match (state, kind) {
            (_, Kind::Refusal) => {
                let said = postcard::from_bytes::<String>(payload).unwrap_or_default();
                Step::Refused { send: None, why: format!("the peer refuses: {}", shown(&said)) }
            }
            (State::Listening, Kind::Hello) => self.on_hello(payload),
            (State::Dialed { expected }, Kind::Answer) => self.on_answer(expected, payload),
            (State::Answered { peer, peer_bytes }, Kind::Proof) => {
                if !self.proves("dialer", &peer_bytes, &self.my_bytes, payload) {
                    return self.wrong_secret(&peer);
                }
                match self.judge(&peer, None) {
                    Err(why) => self.refuse(why),
                    Ok(()) => Step::Done { send: Some(frame(Kind::Welcome, &[], &[])), peer },
                }
            }
            (State::Proved { peer }, Kind::Welcome) => Step::Done { send: None, peer },
            _ => Step::Refused { send: None, why: "the peer does not speak this protocol".into() },
        }
    }

    fn on_hello(&mut self, payload: &Bytes) -> Step {
        let Some(peer) = decode(payload) else {
            return self.refuse("the hello is malformed, or of a version before 1".into());
        };
        let proof = self.mac("listener", payload, &self.my_bytes).finalize().into_bytes().to_vec();
        let answer = Answer { hello: self.my_bytes.clone(), proof };
        self.state = State::Answered { peer, peer_bytes: payload.to_vec() };
        let answer = postcard::to_allocvec(&answer).expect("bytes are no problem for postcard");
        Step::Send(frame(Kind::Answer, &answer, &[]))
    }

    fn on_answer(&mut self, expected: Option<NodeId>, payload: &Bytes) -> Step {
        let answer = postcard::from_bytes::<Answer>(payload).ok();
        let hello = answer.and_then(|answer| Some((decode(&answer.hello)?, answer)));
        let Some((peer, answer)) = hello else {
            return self.refuse("the answer is malformed, or of a version before 1".into());
        };
        if !self.proves("listener", &self.my_bytes, &answer.hello, &answer.proof) {
            return self.wrong_secret(&peer);
        }
        if let Err(why) = self.judge(&peer, expected) {
            return self.refuse(why);
        }
        let mac = self.mac("dialer", &self.my_bytes, &answer.hello);
        let proof = frame(Kind::Proof, &mac.finalize().into_bytes(), &[]);
        self.state = State::Proved { peer };
        Step::Send(proof)
    }

    fn mac(&self, role: &str, dialer: &[u8], listener: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.secret).expect("HMAC takes a key of any length");
        for part in [b"weir-peer", role.as_bytes(), dialer, listener] {
            // With their lengths, so that no two lists of parts are the same bytes.
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }

    fn proves(&self, role: &str, dialer: &[u8], listener: &[u8], proof: &[u8]) -> bool {
        self.mac(role, dialer, listener).verify_slice(proof).is_ok()
    }

    fn wrong_secret(&self, peer: &Hello) -> Step {
        let why = format!(
            "gateways {} and {} have different secrets: give both the same cluster.secret_file",
            self.me.node.0, peer.node.0
        );
        self.refuse(why)
    }

    fn refuse(&self, why: String) -> Step {
        let said = postcard::to_allocvec(&why).expect("a string is no problem for postcard");
        Step::Refused { send: Some(frame(Kind::Refusal, &said, &[])), why }
    }

    /// Whether a proved gateway belongs here, or why not.
    fn judge(&self, peer: &Hello, expected: Option<NodeId>) -> Result<(), String> {
        let (me, peer_node) = (&self.me, peer.node.0);
        if peer.version < me.version_min || me.version < peer.version_min {
            return Err(format!(
                "gateway {peer_node} speaks versions {} to {} of the peer protocol and gateway {} \
                 {} to {}: upgrade the older one",
                peer.version_min, peer.version, me.node.0, me.version_min, me.version
            ));
        }
        if peer.node == me.node {
            return Err(format!("two gateways have node.id {peer_node}: give one another id"));
        }
        let other = |(node, directory): &(NodeId, [u8; 16])| {
            *node == peer.node && *directory != peer.directory
        };
        if self.connected.iter().any(other) {
            return Err(format!(
                "two gateways have node.id {peer_node}: one is connected to gateway {} already, \
                 give the other another id",
                me.node.0
            ));
        }
        if let Some(expected) = expected.filter(|expected| *expected != peer.node) {
            return Err(format!(
                "gateway {peer_node} answers where cluster.voters of gateway {} names {}: correct \
                 the list or node.id",
                me.node.0, expected.0
            ));
        }
        match (me.cluster, peer.cluster) {
            (Some(mine), Some(theirs)) if mine != theirs => {
                return Err(format!(
                    "gateway {} is of cluster {} and gateway {peer_node} of {}: a gateway that \
                     shall move needs an empty data folder",
                    me.node.0,
                    hex(&mine),
                    hex(&theirs)
                ));
            }
            (None, None) if me.voters != peer.voters => {
                return Err(format!(
                    "before the cluster is formed all gateways must have the same cluster.voters: \
                     gateway {} has {} and gateway {peer_node} has {}",
                    me.node.0,
                    listed(&me.voters),
                    listed(&peer.voters)
                ));
            }
            _ => {}
        }
        if let (Some(mine), Some(theirs)) = (me.clock_ms, peer.clock_ms)
            && mine.abs_diff(theirs) > CLOCKS_APART_MS_MAX
        {
            return Err(format!(
                "the clocks of gateways {} and {peer_node} are {} days apart: set the wrong one",
                me.node.0,
                mine.abs_diff(theirs) / 86_400_000
            ));
        }
        Ok(())
    }
}

/// A hello of any version: later ones have more fields behind.
fn decode(bytes: &[u8]) -> Option<Hello> {
    postcard::take_from_bytes::<Hello>(bytes).ok().map(|(hello, _)| hello)
}

fn listed(voters: &[(NodeId, String)]) -> String {
    if voters.is_empty() {
        return "none".into();
    }
    let one = |(node, address): &(NodeId, String)| format!("{}@{address}", node.0);
    voters.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn hex(id: &[u8; 16]) -> String {
    crate::types::TopicId(*id).to_string()
}

/// A stranger's sentence as it may stand in a log: one line, not too long.
fn shown(said: &str) -> String {
    let printable = said.chars().filter(|c| !c.is_control());
    printable
        .scan(0, |bytes, c| {
            *bytes += c.len_utf8();
            (*bytes <= REASON_BYTES_MAX).then_some(c)
        })
        .collect()
}
