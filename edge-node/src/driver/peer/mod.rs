//! Connections to the other gateways of the site: one a pair, dialed again for ever.
//!
//! | who dials | why |
//! |---|---|
//! | the gateway with the lower id | one of the two has to |
//! | a gateway that its `cluster.voters` does not name | it may not be known there yet |
//!
//! When both have dialed, the connection that the lower id dialed stays. A peer that has started
//! anew is known by its incarnation: its new connection takes the place of the old one, which is
//! dead though nobody has said so.
//!
//! The node hears of a connection's begin, of what comes by it, and of its end, in this order and
//! of one connection a peer at a time. What it says leaves by the connection that it was told of
//! last, so an answer never goes to a later one.

mod greet;
mod link;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use super::budget::Budget;
use super::inbox::Inbox;
use async_channel::{Receiver, Sender};
use async_net::{TcpListener, TcpStream};
use futures_lite::future::yield_now;
use link::Link;
use log::{debug, info, warn};
use smol::{LocalExecutor, Timer};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weir_core::limits::BROKERS_MAX;
use weir_core::node::Input;
use weir_core::peer::Message;
use weir_core::peer::handshake::{Handshake, Hello};
use weir_core::types::NodeId;

/// Connections that may be in their handshake at the same time: strangers cannot take more memory
/// than that.
const GREETING_MAX: usize = 16;
/// Bytes that came from peers and wait for the node, above which no more are read.
const READ_AHEAD_BYTES: usize = 1 << 20;
/// Sentences that are remembered, so that what does not change is said once. Strangers come from
/// ever new addresses.
const SAID_MAX: usize = 64;

/// What makes a gateway one of its site.
pub struct Settings {
    pub node: NodeId,
    /// `cluster.secret_file`'s.
    pub secret: Vec<u8>,
    /// `cluster.voters`: who, and where as `host:port`.
    pub voters: BTreeMap<NodeId, String>,
    pub listener: TcpListener,
    pub times: Times,
}

#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The first wait and the longest between two attempts to reach a peer.
    pub dial_again: [Duration; 2],
    /// How long a peer may take to accept a connection, and for each step of the handshake.
    pub step_max: Duration,
    pub ping_every: Duration,
    pub silence_max: Duration,
}

impl Default for Times {
    fn default() -> Times {
        Times {
            dial_again: [Duration::from_millis(200), Duration::from_secs(2)],
            step_max: Duration::from_secs(3),
            ping_every: Duration::from_secs(1),
            silence_max: Duration::from_secs(3),
        }
    }
}

/// What the node says of the site and of itself.
#[derive(Clone, Debug)]
pub struct Site {
    pub addresses: BTreeMap<NodeId, String>,
    pub cluster: Option<[u8; 16]>,
    pub directory: [u8; 16],
    pub incarnation: [u8; 16],
    /// The oldest version of the protocol that a peer may speak at best.
    pub level: u16,
}

pub struct Peers {
    settings: Settings,
    inbox: Arc<Inbox>,
    budget: Rc<Budget>,
    executor: Rc<LocalExecutor<'static>>,
    /// What this gateway says of itself, but for the nonce; `None` before the node has said it.
    hello: RefCell<Option<Hello>>,
    /// Where gateways listen, as the node has said last.
    addresses: RefCell<BTreeMap<NodeId, String>>,
    joined: Cell<bool>,
    links: RefCell<BTreeMap<NodeId, Rc<Link>>>,
    known: RefCell<BTreeMap<NodeId, Known>>,
    greeting: Cell<usize>,
    /// Bytes of the budget that messages hold which wait for the node.
    waiting_bytes: Cell<usize>,
    /// What was said of peers since they were connected last, and of strangers.
    said: RefCell<BTreeSet<String>>,
}

/// A gateway that this one has to be connected with.
struct Known {
    /// Where it may listen: what the site says, then what the configuration says, which may be
    /// newer.
    addresses: Vec<String>,
    /// Wakes its task, which ends when this is gone.
    nudge: Sender<()>,
}

impl Peers {
    pub fn new(
        settings: Settings,
        inbox: Arc<Inbox>,
        budget: Rc<Budget>,
        executor: Rc<LocalExecutor<'static>>,
    ) -> Rc<Peers> {
        Rc::new(Peers {
            settings,
            inbox,
            budget,
            executor,
            hello: RefCell::default(),
            addresses: RefCell::default(),
            joined: Cell::new(false),
            links: RefCell::default(),
            known: RefCell::default(),
            greeting: Cell::new(0),
            waiting_bytes: Cell::new(0),
            said: RefCell::default(),
        })
    }

    /// Begins to listen and to dial, once the node has spoken by [`Peers::set_site`].
    pub fn join(self: &Rc<Self>) {
        if !self.joined.replace(true) {
            self.executor.spawn(self.clone().listen()).detach();
            self.learn();
        }
    }

    /// Who has to be connected from now on, and what new connections are told.
    pub fn set_site(self: &Rc<Self>, site: Site) {
        let voters = &self.settings.voters;
        let mut hello = Hello::new(self.settings.node, site.directory, site.incarnation, [0; 32]);
        hello.version_min = hello.version_min.max(site.level);
        hello.cluster = site.cluster;
        hello.voters = voters.iter().map(|(node, address)| (*node, address.clone())).collect();
        hello.clock_ms = self.hello.borrow().as_ref().and_then(|hello| hello.clock_ms);
        self.hello.replace(Some(hello));
        self.addresses.replace(site.addresses);
        let links = self.links.borrow();
        for link in links.values().filter(|link| link.hello.version < site.level) {
            link.queue.close("it is of an older release than all others: upgrade it");
        }
        drop(links);
        if self.joined.get() {
            self.learn();
        }
    }

    /// What the wall clock says, if it is trusted.
    pub fn set_clock(&self, clock_ms: Option<i64>) {
        if let Some(hello) = self.hello.borrow_mut().as_mut() {
            hello.clock_ms = clock_ms;
        }
    }

    /// Sends to a peer; nothing happens when it is not connected.
    pub fn send(&self, to: NodeId, message: Message) {
        let links = self.links.borrow();
        if let Some(link) = links.get(&to).filter(|link| link.queue.is_open()) {
            link.queue.push(message);
        }
    }

    /// The node is about to hear of this peer's connection: what it says from now on is for that.
    pub fn open(&self, node: NodeId) {
        if let Some(link) = self.links.borrow().get(&node) {
            link.queue.open();
        }
    }

    /// The node has taken everything that came.
    pub fn taken(&self) {
        self.budget.release(self.waiting_bytes.take());
    }

    /// Bytes that wait for peers to take them.
    pub fn queued_bytes(&self) -> usize {
        self.links.borrow().values().map(|link| link.queue.bytes()).sum()
    }

    /// The voters of the configuration: this gateway and who is connected, and who is not.
    pub fn voters(&self) -> (Vec<NodeId>, Vec<NodeId>) {
        let links = self.links.borrow();
        let met = |node: &NodeId| *node == self.settings.node || links.contains_key(node);
        self.settings.voters.keys().partition(|node| met(node))
    }

    /// Whether there is a cluster yet, as far as this gateway knows.
    pub fn is_formed(&self) -> bool {
        self.hello.borrow().as_ref().is_some_and(|hello| hello.cluster.is_some())
    }

    /// Dials whom this gateway has to be connected with, and lets go of others that it had to.
    fn learn(self: &Rc<Self>) {
        let mut wanted: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
        for (node, address) in self.addresses.borrow().iter().chain(&self.settings.voters) {
            let addresses = wanted.entry(*node).or_default();
            if *node != self.settings.node && !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        wanted.remove(&self.settings.node);
        let mut known = self.known.borrow_mut();
        known.retain(|node, _| {
            let stays = wanted.contains_key(node);
            if let Some(link) = self.links.borrow().get(node).filter(|_| !stays) {
                link.queue.close("it is not one of the site any more");
            }
            stays
        });
        for (node, addresses) in wanted {
            if let Some(known) = known.get_mut(&node) {
                known.addresses = addresses;
                continue;
            }
            let (nudge, nudged) = async_channel::bounded(1);
            known.insert(node, Known { addresses, nudge });
            self.executor.spawn(self.clone().dial(node, nudged)).detach();
        }
    }

    /// Accepts peers for ever.
    async fn listen(self: Rc<Self>) {
        loop {
            let (stream, address) = match self.settings.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!("peer: cannot accept a connection: {error}");
                    Timer::after(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if self.greeting.get() >= GREETING_MAX {
                debug!("peer: {address} refused: {GREETING_MAX} handshakes are going on");
                continue;
            }
            let peers = self.clone();
            let accept = async move { peers.accept(stream, address.ip().to_string()).await };
            self.executor.spawn(accept).detach();
        }
    }

    async fn accept(&self, stream: TcpStream, address: String) {
        self.greeting.set(self.greeting.get() + 1);
        let greeted = match self.fresh_hello() {
            Ok(hello) => {
                let handshake = Handshake::listen(&self.settings.secret, hello);
                let handshake = handshake.with_connected(self.directories());
                greet::listen(&stream, handshake, self.settings.times.step_max).await
            }
            Err(why) => Err(why),
        };
        self.greeting.set(self.greeting.get() - 1);
        match greeted {
            Ok(hello) => self.run(stream, hello, false).await,
            Err(why) => self.say(format!("a connection from {address}"), why),
        }
    }

    /// Dials a peer as often as it takes, until it is not one any more.
    async fn dial(self: Rc<Self>, node: NodeId, nudged: Receiver<()>) {
        let times = self.settings.times;
        let (mut pause, mut attempt) = (times.dial_again[0], 0);
        while !nudged.is_closed() {
            let wanted = self.dials(node) && !self.links.borrow().contains_key(&node);
            let Some(address) = self.address(node, attempt).filter(|_| wanted) else {
                let _ = nudged.recv().await;
                continue;
            };
            attempt += 1;
            let began = Instant::now();
            let greeted = match self.fresh_hello() {
                Ok(hello) => {
                    let dialed = Handshake::dial(&self.settings.secret, hello, Some(node));
                    greet::dial(&address, dialed, times.step_max).await
                }
                Err(why) => Err(why),
            };
            match greeted {
                Ok((stream, hello)) => {
                    self.run(stream, hello, true).await;
                    if began.elapsed() > times.dial_again[1] {
                        pause = times.dial_again[0];
                    }
                }
                Err(why) => self.say(format!("gateway {} at {address}", node.0), why),
            }
            Timer::after(pause).await;
            pause = (pause * 2).min(times.dial_again[1]);
        }
    }

    /// Where to dial a peer: one address after the other.
    fn address(&self, node: NodeId, attempt: usize) -> Option<String> {
        let known = self.known.borrow();
        let addresses = &known.get(&node)?.addresses;
        addresses.get(attempt % addresses.len().max(1)).cloned()
    }

    /// Whether it is for this gateway to dial that one.
    fn dials(&self, node: NodeId) -> bool {
        let me = self.settings.node;
        me < node || !self.settings.voters.contains_key(&me)
    }

    fn fresh_hello(&self) -> Result<Hello, String> {
        let nonce = crate::store::random()
            .map_err(|error| format!("cannot read random numbers: {error}"))?;
        let hello = self.hello.borrow().clone().ok_or("this gateway is not ready yet")?;
        Ok(Hello { nonce, ..hello })
    }

    fn directories(&self) -> Vec<(NodeId, [u8; 16])> {
        let links = self.links.borrow();
        links.iter().map(|(node, link)| (*node, link.hello.directory)).collect()
    }

    /// Runs a connection to its end, unless there is one that stays.
    async fn run(&self, stream: TcpStream, hello: Hello, dialed: bool) {
        let node = hello.node;
        let by_lower = dialed == (self.settings.node < node);
        let held = self.links.borrow().get(&node).cloned();
        match held {
            Some(held) if held.hello.incarnation == hello.incarnation && !by_lower => {
                return debug!("peer: gateway {} is connected already", node.0);
            }
            Some(held) => self.end(&held),
            None if self.links.borrow().len() >= BROKERS_MAX => {
                let why = format!("refused: {BROKERS_MAX} gateways are connected");
                return self.say(format!("gateway {}", node.0), why);
            }
            None => {}
        }
        let link = Rc::new(Link::new(hello.clone(), self.settings.times));
        self.links.borrow_mut().insert(node, link.clone());
        let about = format!("gateway {} ", node.0);
        self.said.borrow_mut().retain(|sentence| !sentence.starts_with(&about));
        info!("peer: gateway {} is connected", node.0);
        self.inbox.push(Input::PeerUp { node, hello: Box::new(hello) });
        let receive = async |message, bytes| {
            self.waiting_bytes.set(self.waiting_bytes.get() + bytes);
            self.inbox.push(Input::Peer { from: node, message });
            while self.waiting_bytes.get() >= READ_AHEAD_BYTES {
                yield_now().await;
            }
        };
        let why = link.run(stream, &self.budget, receive).await;
        info!("peer: the connection to gateway {} has ended: {why}", node.0);
        self.end(&link);
    }

    /// Takes a link out of use, if it is; its peer is down then.
    fn end(&self, link: &Rc<Link>) {
        link.queue.close("another takes its place");
        let node = link.hello.node;
        let mut links = self.links.borrow_mut();
        if links.get(&node).is_some_and(|held| Rc::ptr_eq(held, link)) {
            links.remove(&node);
            self.inbox.push(Input::PeerDown { node });
            if let Some(known) = self.known.borrow().get(&node) {
                // A nudge that waits already is enough.
                let _ = known.nudge.try_send(());
            }
        }
    }

    /// Says why a connection did not come about, once.
    fn say(&self, about: String, why: String) {
        let sentence = format!("{about}: {why}");
        let mut said = self.said.borrow_mut();
        if said.contains(&sentence) {
            return debug!("peer: {sentence}");
        }
        warn!("peer: {sentence}");
        if said.len() >= SAID_MAX {
            said.clear();
        }
        said.insert(sentence);
    }
}
