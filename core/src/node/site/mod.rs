//! This gateway's part in its site: the metadata quorum, and the controller while it leads that.
//!
//! A gateway by itself is a site of one voter: the same code, with nobody to wait for.
//!
//! | event | then |
//! |---|---|
//! | the internal partitions are read | the quorum starts with them |
//! | the quorum persists something | it is appended; when it is durable the quorum hears so |
//! | an entry is committed | its records go into the image; whoever wished for it is answered |
//! | this gateway leads | it decides: `changes` are taken in their order, gateways register |
//! | it does not lead any more | whoever waits is told by the end of its connection |
//! | this gateway's own registration is applied, and those of all voters | it serves |

mod asks;
mod entry;
mod forward;
mod lease;
mod leave;
mod ledger;
mod level;
mod members;
mod peers;
mod status;

use super::admin::Votes;
use super::changes::Change;
use super::{Node, Output};
use crate::log::Log;
use crate::metadata::controller::{Controller, Heartbeat, Registration};
use crate::metadata::{self, Broker, Image, Record};
use crate::peer::Message;
use crate::peer::handshake::Hello;
use crate::quorum::{self, Directory, Formation, Position, Quorum};
use crate::types::{NodeId, PartitionNumber, Time, TopicId};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;

pub(super) use asks::{After, Ask, Asker, Told};
pub(super) use forward::{is_for_controller, to_peer};
pub(super) use ledger::{Found, PARTITIONS};
pub(super) use level::RANGES_LEVEL;
pub use level::Release;
pub use status::SiteStatus;

/// A snapshot of the image takes the place of the log when that is this many times as long, and
/// never below the floor: then reading it at the start costs nothing worth the flash's wear.
const SNAPSHOT_RATIO: u64 = 4;
const SNAPSHOT_FLOOR_BYTES: u64 = 1 << 20;

#[derive(Debug, Default)]
pub(super) struct Site {
    node: NodeId,
    /// While the start reads.
    pub found: Found,
    ledger: ledger::Ledger,
    quorum: Option<Quorum>,
    /// While this gateway leads the quorum.
    pub controller: Option<Controller>,
    /// The last entry that the image has.
    applied: u64,
    /// Bytes of the metadata's log above which a snapshot is considered.
    snapshot_above: u64,
    /// Who is connected.
    peers: BTreeMap<NodeId, Hello>,
    /// When each was heard last.
    heard: BTreeMap<NodeId, Time>,
    lease: lease::Lease,
    /// This gateway is about to stop, and does so then at the latest.
    leave_by: Option<Time>,
    asks: asks::Asks,
    forwarded: forward::Forwarded,
    tended: members::Tended,
    level: level::Level,
    /// Whoever waits for a change of the voters.
    pub votes: Votes,
    /// The controller that was known last.
    controller_before: Option<NodeId>,
    /// The others of the site are not waited for any longer than that.
    serve_by: Option<Time>,
    /// Made at the start.
    incarnation: [u8; 16],
}

impl Site {
    pub fn new(node: NodeId, incarnation: [u8; 16]) -> Site {
        let asks = asks::Asks::new(incarnation);
        Site { node, incarnation, asks, snapshot_above: SNAPSHOT_FLOOR_BYTES, ..Site::default() }
    }

    /// `decides`: no change is under way, so the controller can look after its gateways.
    /// `starting`: this gateway does not serve yet.
    pub fn deadline(&self, image: &Image, decides: bool, starting: bool) -> Option<Time> {
        let quorum = self.quorum.as_ref().and_then(Quorum::deadline);
        let controller = self.controller.as_ref().filter(|_| decides);
        let controller = controller.map(|it| it.deadline(image));
        let beat = self.beats(image).then(|| self.asks.deadline());
        let serve = self.serve_by.filter(|_| starting);
        let others = [quorum, controller, beat, self.forwarded.deadline(), self.leave_by, serve];
        others.into_iter().flatten().min()
    }

    pub fn leads(&self) -> bool {
        self.controller.is_some()
    }

    /// Whether this gateway has to say that it is there. The controller's own is heard without
    /// that, once it is in.
    fn beats(&self, image: &Image) -> bool {
        let joined = |own: &Broker| own.incarnation == self.incarnation && !own.fenced;
        let needless = self.leads() && !self.asks.stopping;
        self.quorum.is_some() && !(needless && image.broker(self.node).is_some_and(joined))
    }

    pub fn quorum(&self) -> Option<&Quorum> {
        self.quorum.as_ref()
    }

    pub fn quorum_mut(&mut self) -> Option<&mut Quorum> {
        self.quorum.as_mut()
    }

    pub fn is_connected(&self, node: NodeId) -> bool {
        self.peers.contains_key(&node)
    }

    /// The gateway that decides, if it is known.
    pub fn controller_id(&self) -> Option<NodeId> {
        self.quorum.as_ref().and_then(Quorum::leader)
    }

    /// Proposes records; they count when they are committed.
    pub fn propose(&mut self, now: Time, records: &[Record]) -> Option<Position> {
        let proposed = self.quorum.as_mut()?.propose(now, payload(records));
        proposed.inspect_err(|why| log::error!("a change of the metadata is refused: {why:?}")).ok()
    }
}

/// Records as an entry of the log.
fn payload(records: &[Record]) -> Bytes {
    let bytes = postcard::to_allocvec(records).expect("a record has no type that postcard lacks");
    Bytes::from(bytes)
}

/// The records of an entry. Those of term 0 are records by themselves. `None`: this release does
/// not know them.
fn records(position: Position, payload: &[u8]) -> Option<Vec<Record>> {
    let decoded = match position.term {
        0 if payload.is_empty() => Ok(Vec::new()),
        0 => postcard::from_bytes(payload).map(|record| Vec::from([record])),
        _ => postcard::from_bytes(payload),
    };
    decoded.ok()
}

impl Node {
    /// Everything that the quorum has on flash was read.
    pub(super) fn start_quorum(&mut self, now: Time) {
        let me = self.settings.node;
        let directory = Directory(self.log.store());
        let found = core::mem::take(&mut self.site.found);
        self.start.metadata_damaged |= found.damaged;
        let view = self.log.partition(PartitionNumber::METADATA);
        let ends = view.map(|view| (view.log_start, view.durable_end)).unwrap_or_default();
        let mut voters = self.settings.voters.clone();
        if voters.is_empty() {
            voters.push(me);
        }
        let alone = (voters == [me]).then(|| Formation::alone(me, directory));
        let store = found.into_store(directory, ends, alone);
        let settings = quorum::Settings::new(me, voters, self.rng.next_u64());
        match Quorum::start(now, settings, store) {
            Ok(quorum) => self.site.quorum = Some(quorum),
            Err(error) => log::error!("this gateway takes no part in the quorum: {error}"),
        }
        self.name_peers();
        self.poll_quorum(now);
    }

    /// Does what the quorum wants done; says whether there was anything.
    pub(super) fn poll_quorum(&mut self, now: Time) -> bool {
        let mut any = false;
        while let Some(output) = self.site.quorum.as_mut().and_then(Quorum::poll) {
            any = true;
            match output {
                quorum::Output::Persist { token, what } => {
                    self.site.ledger.wall_ms = self.clock.wall_ms(now);
                    let log = &mut self.log;
                    if let Err(error) = self.site.ledger.persist(now, log, token, &what) {
                        log::error!("the metadata's log is not written: {error:?}");
                    }
                }
                quorum::Output::Send { to, message } => {
                    let bytes = postcard::to_allocvec(&message);
                    let bytes = bytes.expect("a message has no type that postcard lacks");
                    let message = Message::Quorum(bytes.into());
                    self.outputs.push_back(Output::Send { to, message });
                }
                quorum::Output::Members { members, .. } => self.on_members(&members),
                quorum::Output::Restore(snapshot) => {
                    let position = Position { term: 1, ..snapshot.position };
                    let Some(records) = self.understand(position, &snapshot.payload) else {
                        continue;
                    };
                    let empty = Image::new(self.image.defaults().clone());
                    let before = core::mem::replace(&mut self.image, empty);
                    for record in records {
                        self.image.apply(&record, snapshot.position.index);
                    }
                    self.site.applied = snapshot.position.index;
                    self.follow_snapshot(now, &before);
                }
                quorum::Output::Committed { position, payload } => {
                    self.on_committed(now, position, &payload);
                }
                quorum::Output::Leads { term } => self.on_leads(now, term),
                quorum::Output::Lost => self.on_lost(now),
                quorum::Output::Stopped(error) => {
                    log::error!("this gateway takes no part in the quorum any more: {error}");
                }
            }
        }
        self.follow_controller(now);
        any
    }

    /// What was asked of another controller than there is now is lost.
    fn follow_controller(&mut self, now: Time) {
        let controller = self.site.controller_id();
        if controller == self.site.controller_before {
            return;
        }
        self.site.controller_before = controller;
        self.fail_asks(now, |asked| Some(asked) != controller);
        self.site.asks.hurry();
        self.forward_parked(now);
    }

    pub(super) fn on_quorum_durable(&mut self, now: Time) {
        if let Some(token) = self.site.ledger.durable(now, &mut self.log)
            && let Some(quorum) = &mut self.site.quorum
        {
            quorum.durable(now, token);
        }
        self.poll_quorum(now);
    }

    fn on_committed(&mut self, now: Time, position: Position, payload: &Bytes) {
        let Some(records) = self.understand(position, payload) else { return };
        let mut deleted = Vec::new();
        for record in &records {
            if let Record::TopicDeleted { id } = record {
                deleted.extend(self.image.topic_by_id(*id).cloned());
            }
            self.image.apply(record, position.index);
        }
        self.site.applied = position.index;
        self.follow_image(now, &records, &deleted);
        self.on_applied(now, position);
        self.after_applied(now, position.index);
        self.take_snapshot();
    }

    /// What the rest of the node makes of records that are in the image now.
    fn follow_image(&mut self, now: Time, records: &[Record], deleted: &[metadata::Topic]) {
        let mut gateways = false;
        for record in records {
            gateways |= matches!(
                record,
                Record::Broker { .. } | Record::BrokerState { .. } | Record::BrokerRemoved { .. }
            );
            match record {
                Record::Partitions { topic, .. }
                | Record::TopicConfig { topic, .. }
                | Record::Partition { topic, .. } => self.make_known(now, *topic),
                Record::Level { .. } => self.name_peers(),
                _ => {}
            }
        }
        if gateways {
            self.follow_gateways(now);
        }
        if !deleted.is_empty() {
            self.on_topics_deleted(now, deleted);
        }
        self.set_throttles();
    }

    fn follow_gateways(&mut self, now: Time) {
        self.on_own_state();
        self.enter(now);
        self.on_brokers_changed(now);
        self.repair(now);
        self.name_peers();
    }

    /// The image is another one: this gateway was so far behind that it got a snapshot.
    fn follow_snapshot(&mut self, now: Time, before: &Image) {
        let gone = |topic: &&metadata::Topic| self.image.topic_by_id(topic.id).is_none();
        let deleted: Vec<metadata::Topic> = before.topics().filter(gone).cloned().collect();
        let topics: Vec<TopicId> = self.image.topics().map(|topic| topic.id).collect();
        for topic in topics {
            self.make_known(now, topic);
        }
        self.follow_gateways(now);
        if !deleted.is_empty() {
            self.on_topics_deleted(now, &deleted);
        }
        self.set_throttles();
    }

    /// Says whom this gateway has to be connected with.
    fn name_peers(&mut self) {
        let me = self.settings.node;
        let others = self.image.brokers().filter(|broker| broker.node != me);
        let addresses = others.map(|broker| (broker.node, broker.peer.clone())).collect();
        let cluster = self.image.cluster_id().map(|id| id.0);
        let (directory, incarnation) = (self.log.store(), self.site.incarnation);
        let level = self.level();
        self.outputs.push_back(Output::Peers { addresses, cluster, directory, incarnation, level });
    }

    /// What the image says of this gateway has changed.
    fn on_own_state(&mut self) {
        let own = self.image.broker(self.settings.node);
        let Some(own) = own.filter(|own| own.incarnation == self.site.incarnation) else { return };
        if own.fenced {
            self.site.asks.hurry();
        }
    }

    /// What this gateway tells the controller of itself, once it is registered.
    pub(in crate::node) fn heartbeat(&self) -> Option<Heartbeat> {
        let own = self.image.broker(self.settings.node)?;
        (own.incarnation == self.site.incarnation).then_some(Heartbeat {
            node: own.node,
            epoch: own.epoch,
            applied: self.site.applied,
            stopping: self.site.asks.stopping,
        })
    }

    /// This gateway decides from now on.
    fn on_leads(&mut self, now: Time, term: u64) {
        log::debug!("this gateway is the controller, in term {term}");
        let settings = metadata::controller::Settings::new(self.settings.node);
        let mut controller = Controller::new(now, settings, &self.image);
        for (node, heard) in &self.site.heard {
            controller.heard_before(now, *node, *heard);
        }
        self.site.controller = Some(controller);
        let quorum = self.site.quorum.as_ref();
        let formed = quorum.and_then(|quorum| quorum.status(now).cluster);
        if let Some(cluster) = formed.filter(|_| self.image.cluster_id().is_none()) {
            self.change(now, Change::Cluster(TopicId(cluster.0)));
        }
        if self.start.metadata_damaged {
            // Numbers that the damaged records gave out must not be given out again.
            let numbers = self.log.partitions().map(|(number, _)| number);
            let highest = numbers.filter(|number| !number.is_reserved()).max();
            self.change(now, Change::NextPartition(highest.map_or(0, |number| number.0)));
        }
        self.next_change(now);
        self.site.asks.hurry();
        self.forward_parked(now);
    }

    fn on_lost(&mut self, now: Time) {
        self.site.controller = None;
        self.forget_proposed_level();
        self.on_deposed(now);
        for caller in self.changes.drain().into_iter().chain(self.site.votes.drain()) {
            self.close(caller);
        }
    }

    fn registration(&self) -> Registration {
        let settings = &self.settings;
        let kafka = (settings.advertised_host.clone(), settings.advertised_port);
        Registration {
            node: settings.node,
            cluster_id: self.image.cluster_id(),
            directory: self.log.store(),
            incarnation: self.site.incarnation,
            rack: settings.rack.clone(),
            peer: settings.peer_address.clone(),
            kafka,
            holds_partitions: settings.holds_partitions,
            intact: !self.start.metadata_damaged,
        }
    }

    /// Gives the quorum the image when its log is several times as long.
    fn take_snapshot(&mut self) {
        let view = self.log.partition(PartitionNumber::METADATA);
        let log_bytes = view.map_or(0, |view| view.bytes);
        if log_bytes <= self.site.snapshot_above || self.site.ledger.takes_snapshot() {
            return;
        }
        let Some(quorum) = &mut self.site.quorum else { return };
        let image = payload(&self.image.snapshot());
        self.site.snapshot_above = (SNAPSHOT_RATIO * image.len() as u64).max(SNAPSHOT_FLOOR_BYTES);
        if log_bytes > self.site.snapshot_above {
            quorum.snapshot_taken(self.site.applied, image);
        }
    }

    pub(super) fn tick_site(&mut self, now: Time) {
        if self.site.quorum.as_ref().and_then(Quorum::deadline).is_some_and(|at| at <= now)
            && let Some(quorum) = &mut self.site.quorum
        {
            quorum.tick(now);
            self.poll_quorum(now);
        }
        let due = self.site.controller.as_ref().map(|it| it.deadline(&self.image));
        if due.is_some_and(|due| due <= now) && self.changes.is_idle() {
            self.change(now, Change::Tick);
        }
        self.tend_members(now);
        self.tend_level(now);
        self.expire_parked(now);
        self.beat(now);
        self.leave(now);
        if self.is_starting() && self.site.serve_by.is_some_and(|by| by <= now) {
            self.enter(now);
        }
    }
}

/// Makes the internal partitions known to the log.
pub(super) fn make_known(log: &mut Log, policy: crate::log::Policy) {
    for partition in PARTITIONS {
        log.set_partition(partition, policy);
    }
}
