//! The clients of a site: each finds the gateways that it needs, as Kafka's clients do.
//!
//! A client asks any gateway for the metadata, goes to the leaders and to its group's coordinator,
//! and asks anew when an answer says that it is at the wrong place, when a connection ends, or when
//! nothing comes back.

use super::plan::Plan;
use super::run::{Cluster, Event, What};
use crate::admin::Admin;
use crate::checks::{Verdict, Violation};
use crate::client::{Call, Client, Goes, Leaders, Role, Shared, Target, read, unframed};
use crate::consumer::Consumer;
use crate::node_audit::Audited;
use crate::producer::Producer;
use bytes::Bytes;
use std::collections::BTreeMap;
use weir_core::error::ErrorCode;
use weir_core::node::ReplicaRole;
use weir_core::rng::Rng;
use weir_core::types::{ConnId, Nanos, NodeId, Time};
use weir_core::wire::encode_request;
use weir_core::wire::group::FindCoordinatorRequest;
use weir_core::wire::metadata::MetadataRequest;

/// The topics that are always there, with their partitions.
pub const TOPICS: [(&str, i32); 2] = [("line", 1), ("plant", 3)];
const METADATA_VERSION: i16 = 9;
/// How long a client waits for an answer.
const TIMEOUT: Nanos = Nanos(5_000_000_000);

/// A connection of a client to a gateway.
pub struct Link {
    pub client: usize,
    pub gateway: usize,
    /// Which start of the gateway it is with.
    boot: u32,
    to_node: Time,
    to_client: Time,
}

/// A client and what it knows of the site.
pub struct Traveller {
    client: Client,
    conns: BTreeMap<usize, ConnId>,
    coordinator: Option<NodeId>,
    /// It has to ask for the metadata; when it may.
    lost: Option<Time>,
    /// Since when it waits for something.
    since: Time,
    looking: Option<ConnId>,
}

pub struct Crowd {
    pub shared: Shared,
    travellers: Vec<Traveller>,
    pub links: BTreeMap<ConnId, Link>,
    next_conn: u64,
    /// The audit asks: the clients pause.
    pub paused: bool,
    /// What the audit was answered.
    pub heard: BTreeMap<ConnId, Vec<Bytes>>,
}

pub fn targets() -> Vec<Target> {
    let each =
        TOPICS.iter().flat_map(|(name, count)| (0..*count).map(|index| (name.to_string(), index)));
    each.collect()
}

fn roles(rng: &mut Rng, plan: &Plan) -> Vec<Role> {
    let targets = targets();
    let fixed = TOPICS.iter().map(|(name, count)| (name.to_string(), *count)).collect();
    let mut admin = Admin::new(fixed, targets.clone(), rng.percent(40), false);
    admin.replication_factor = plan.replication_factor();
    admin.configs = vec![("min.insync.replicas", plan.min_insync.to_string())];
    let mut roles = vec![Role::Admin(admin)];
    for _ in 0..plan.producers {
        let target = targets[rng.below(targets.len() as u64) as usize].clone();
        let (idempotent, gives_up) = (rng.percent(75), rng.percent(20));
        roles.push(Role::Producer(Producer::new(target, -1, idempotent, gives_up)));
    }
    for _ in 0..plan.readers {
        roles.push(Role::Consumer(Consumer::alone(targets.clone())));
    }
    if plan.groups {
        for _ in 0..1 + rng.below(3) {
            roles.push(Role::Consumer(Consumer::new("dashboards", targets.clone())));
        }
    }
    roles
}

impl Crowd {
    pub fn new(rng: &mut Rng, plan: &Plan) -> Crowd {
        let traveller = |role| Traveller {
            client: Client::new(role),
            conns: BTreeMap::new(),
            coordinator: None,
            lost: Some(Time::ZERO),
            since: Time::ZERO,
            looking: None,
        };
        Crowd {
            shared: Shared { value_bytes_max: plan.store.value_bytes_max, ..Shared::default() },
            travellers: roles(rng, plan).into_iter().map(traveller).collect(),
            links: BTreeMap::new(),
            next_conn: 1,
            paused: false,
            heard: BTreeMap::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.travellers.len()
    }

    /// How many batches were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.shared.histories.values().map(|history| history.acked.len()).sum()
    }

    pub fn connected(&self, gateway: usize) -> Vec<ConnId> {
        let links = self.links.iter().filter(|(_, link)| link.gateway == gateway);
        links.map(|(conn, _)| *conn).collect()
    }

    pub fn is_connected(&self, conn: ConnId, boot: u32) -> bool {
        self.links.get(&conn).is_some_and(|link| link.boot == boot)
    }

    pub fn to_client(&self, conn: ConnId, now: Time) -> Time {
        self.links.get(&conn).map_or(now, |link| link.to_client)
    }

    pub fn connect(&mut self, client: usize, gateway: usize, boot: u32) -> ConnId {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let (to_node, to_client) = (Time::ZERO, Time::ZERO);
        self.links.insert(conn, Link { client, gateway, boot, to_node, to_client });
        conn
    }
}

/// The connections of the audit and of operators are of no client.
pub const AUDIT: usize = usize::MAX;
/// How often the audit looks for whoever leads a partition.
const LOOKS_MAX: u32 = 300;

impl Audited for Cluster {
    fn shared(&mut self) -> &mut Shared {
        &mut self.crowd.shared
    }

    fn rng(&mut self) -> &mut Rng {
        &mut self.world.rng
    }

    fn ask(&mut self, of: Option<&Target>, frame: Bytes) -> Result<Option<Bytes>, Violation> {
        for _ in 0..LOOKS_MAX {
            if let Some(gateway) = self.leader_of(of) {
                let conn = self.crowd.connect(AUDIT, gateway, self.gateways[gateway].boot);
                self.send(conn, frame.clone());
                while self.crowd.links.contains_key(&conn) {
                    if let Some(frame) = self.crowd.heard.remove(&conn) {
                        self.crowd.links.remove(&conn);
                        return Ok(frame.into_iter().next());
                    }
                    self.step()?;
                }
            }
            self.pass(Nanos::from_ms(100))?;
        }
        let what = format!("nobody answers for {of:?}");
        Err(Violation { checker: "Converges", what })
    }
}

impl Cluster {
    /// Who leads a partition, or the first that serves.
    fn leader_of(&self, target: Option<&Target>) -> Option<usize> {
        let Some((name, partition)) = target else {
            let serves =
                |index: &usize| self.gateways[*index].serves && self.plan.holds_partitions(*index);
            return (0..self.gateways.len()).find(serves);
        };
        let epoch = |index: &usize| {
            let node = self.gateways[*index].node.as_ref()?;
            let topics = node.status().topics;
            let topic = topics.iter().find(|topic| topic.name == *name)?;
            let number = topic.partitions.get(*partition as usize)?.number;
            let replicas = node.replicas_status();
            let leads = replicas.iter().find(|it| it.number == number)?;
            (leads.role == ReplicaRole::Leads).then_some(leads.epoch)
        };
        (0..self.gateways.len()).filter(|index| epoch(index).is_some()).max_by_key(epoch)
    }
}

impl Traveller {
    fn gateway_for(&self, goes: &Goes, any: usize) -> Option<usize> {
        let node = match goes {
            Goes::Anywhere => return Some(self.conns.keys().next().copied().unwrap_or(any)),
            Goes::ToCoordinator => self.coordinator,
            Goes::ToLeader(target) => self.client.leaders.get(target).map(|(node, _)| *node),
        };
        node.map(|node| node.0 as usize - 1)
    }
}

impl Cluster {
    /// A client acts: finds its way, asks, or gives a connection up.
    pub fn wake(&mut self, index: usize) -> Verdict {
        let now = self.world.now;
        if self.crowd.paused {
            self.world.after(Nanos::from_ms(10), Event::Wake(index));
            return Ok(());
        }
        let resets = self.world.rng.below(1000) < self.plan.store.resets;
        let traveller = &self.crowd.travellers[index];
        let waits = !traveller.client.asked.is_empty() || traveller.looking.is_some();
        if waits && now.since(traveller.since) > TIMEOUT || self.faulty && resets {
            self.leave(index);
        }
        let traveller = &mut self.crowd.travellers[index];
        if !waits {
            traveller.since = now;
        }
        let pause = match traveller.lost {
            Some(until) if until > now => Nanos::from_ms(20),
            Some(_) if traveller.client.asked.is_empty() => self.look(index),
            Some(_) => Nanos::from_ms(20),
            None => Nanos(self.act(index).0 * self.plan.pace),
        };
        self.world.after(pause, Event::Wake(index));
        Ok(())
    }

    /// A client hears that a connection has ended.
    pub fn hang_up_client(&mut self, conn: ConnId) {
        let crowd = &mut self.crowd;
        let Some(link) = crowd.links.remove(&conn) else { return };
        let Some(traveller) = crowd.travellers.get_mut(link.client) else { return };
        traveller.conns.remove(&link.gateway);
        if !traveller.client.asked.is_empty() || traveller.looking.is_some() {
            self.leave(link.client);
        }
    }

    /// Ends all connections of a client: what was asked may have been done or not, and the way has
    /// to be found anew.
    fn leave(&mut self, index: usize) {
        let conns = std::mem::take(&mut self.crowd.travellers[index].conns);
        for (gateway, conn) in conns {
            if let Some(link) = self.crowd.links.remove(&conn) {
                let what = What::Gone { conn };
                self.world.at(link.to_node, Event::To { gateway, what });
            }
        }
        let traveller = &mut self.crowd.travellers[index];
        traveller.client.lost();
        (traveller.looking, traveller.coordinator) = (None, None);
        traveller.lost = Some(traveller.lost.unwrap_or(Time::ZERO));
    }

    /// Asks some gateway for the metadata.
    fn look(&mut self, index: usize) -> Nanos {
        if self.crowd.travellers[index].looking.is_some() {
            return Nanos::from_ms(20);
        }
        let gateway = self.world.rng.below(self.gateways.len() as u64) as usize;
        if !self.plan.holds_partitions(gateway) {
            return Nanos::from_ms(1);
        }
        let Some(conn) = self.conn_to(index, gateway) else { return Nanos::from_ms(50) };
        let request = MetadataRequest { topics: None, ..Default::default() };
        let frame = unframed(&encode_request(&request, METADATA_VERSION, 1, None));
        self.crowd.travellers[index].looking = Some(conn);
        self.crowd.travellers[index].since = self.world.now;
        self.send(conn, frame);
        Nanos::from_ms(20)
    }

    /// The connection to a gateway; `None` when nobody is there.
    fn conn_to(&mut self, index: usize, gateway: usize) -> Option<ConnId> {
        if let Some(conn) = self.crowd.travellers[index].conns.get(&gateway) {
            return Some(*conn);
        }
        if !self.gateways[gateway].serves {
            return None;
        }
        let conn = self.crowd.connect(index, gateway, self.gateways[gateway].boot);
        self.crowd.travellers[index].conns.insert(gateway, conn);
        Some(conn)
    }

    fn act(&mut self, index: usize) -> Nanos {
        let now = self.world.now;
        let crowd = &mut self.crowd;
        let traveller = &mut crowd.travellers[index];
        let before = traveller.client.asked.len();
        let (frames, pause) = traveller.client.act(&mut crowd.shared, &mut self.world.rng, now);
        let calls = traveller.client.asked.iter().skip(before);
        let goes: Vec<Goes> = calls.map(|(_, call)| call.goes()).collect();
        let any = self.world.rng.below(self.gateways.len() as u64) as usize;
        for (frame, goes) in frames.into_iter().zip(goes) {
            let gateway = self.crowd.travellers[index].gateway_for(&goes, any);
            let conn = gateway.and_then(|gateway| self.conn_to(index, gateway));
            let Some(conn) = conn else {
                let later = now + Nanos::from_ms(100);
                self.leave(index);
                self.crowd.travellers[index].lost = Some(later);
                break;
            };
            self.send(conn, frame);
        }
        pause
    }

    pub fn send(&mut self, conn: ConnId, frame: Bytes) {
        let delay = self.world.delay_us(20, 1_500);
        let at = self.world.now + delay;
        let link = self.crowd.links.get_mut(&conn).expect("it is connected");
        link.to_node = link.to_node.max(at);
        let (gateway, at) = (link.gateway, link.to_node);
        self.world.at(at, Event::To { gateway, what: What::Request { conn, frame } });
    }

    pub fn send_back(&mut self, conn: ConnId, frame: Option<Bytes>) {
        let delay = self.world.delay_us(20, 1_500);
        let at = self.world.now + delay;
        if let Some(link) = self.crowd.links.get_mut(&conn) {
            link.to_client = link.to_client.max(at);
            self.world.at(link.to_client, Event::Deliver { conn, frame });
        }
    }

    pub fn deliver(&mut self, conn: ConnId, frame: Option<Bytes>) -> Verdict {
        let now = self.world.now;
        let crowd = &mut self.crowd;
        let Some(link) = crowd.links.get(&conn) else { return Ok(()) };
        let Some(traveller) = crowd.travellers.get_mut(link.client) else {
            crowd.heard.entry(conn).or_default().extend(frame);
            return Ok(());
        };
        traveller.since = now;
        if traveller.looking == Some(conn) {
            traveller.looking = None;
            return traveller.learn(now, &frame.unwrap_or_default());
        }
        if let (Some((_, Call::Find)), Some(frame)) = (traveller.client.asked.front(), &frame) {
            let found = read::<FindCoordinatorRequest>(frame, 3)?;
            traveller.coordinator =
                (found.error_code == ErrorCode::NONE).then_some(NodeId(found.node_id));
        }
        crowd.shared.astray = false;
        let rng = &mut self.world.rng;
        let answered = traveller.client.answer(frame.as_ref(), &mut crowd.shared, rng, now);
        if crowd.shared.astray {
            // As Kafka's `retry.backoff.ms`.
            traveller.lost = Some(now + Nanos::from_ms(20 + rng.below(100)));
        }
        answered
    }
}

impl Traveller {
    fn learn(&mut self, now: Time, frame: &Bytes) -> Result<(), Violation> {
        let metadata = read::<MetadataRequest>(frame, METADATA_VERSION)?;
        let mut unknown = false;
        let leaders = &mut self.client.leaders;
        for topic in metadata.topics {
            for partition in topic.partitions {
                let target = (topic.name.clone().unwrap_or_default(), partition.partition_index);
                let known = leaders.get(&target).map_or(-1, |(_, epoch)| *epoch);
                unknown |=
                    partition.leader_id < 0 && TOPICS.iter().any(|(name, _)| target.0 == *name);
                if partition.leader_epoch >= known && partition.leader_id >= 0 {
                    leaders.insert(target, (NodeId(partition.leader_id), partition.leader_epoch));
                }
            }
        }
        let known = |leaders: &Leaders| targets().iter().all(|it| leaders.contains_key(it));
        let is_admin = matches!(self.client.role, Role::Admin(_));
        self.lost = match is_admin || known(&self.client.leaders) && !unknown {
            true => None,
            false => Some(now + Nanos::from_ms(100)),
        };
        Ok(())
    }
}
