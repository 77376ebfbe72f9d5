//! The model: what can happen to three gateways that hold one partition, and to the controller.

use crate::gateway::{Entry, Gateway, Heard, Mutation, NOW, REPLICAS, Role, node};
use stateright::{Model, Property};
use weir_core::metadata::PartitionState;
use weir_core::replica::{Decided, Follower, FollowerSettings, IsrMember, Leader, LeaderSettings};
use weir_core::types::{LeaderEpoch, Nanos, NodeId};

const NEVER: Nanos = Nanos(u64::MAX / 4);

#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub records: u8,
    pub epochs: i32,
    pub crashes: i64,
    /// Wishes that the controller grants.
    pub wishes: u8,
    pub min_insync: usize,
}

#[derive(Clone, Copy, Debug)]
pub struct Partition {
    pub bounds: Bounds,
    pub mutation: Option<Mutation>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub gateways: [Gateway; REPLICAS],
    pub controller: Controller,
    pub produced: u8,
    /// What any leader has said to be committed.
    pub committed: Vec<Entry>,
    pub broken: bool,
}

/// `PartitionState` without what does not change here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    pub isr: Vec<NodeId>,
    pub elr: Vec<NodeId>,
    pub leader: Option<NodeId>,
    pub leader_epoch: i32,
    pub partition_epoch: i32,
    /// Incarnations, raised by each crash.
    pub brokers: [i64; REPLICAS],
    pub granted: u8,
}

/// What can happen next. What only its own gateway can see happens with the next thing that shows
/// it: a follower flushes just before it fetches, is elected or crashes, and learns of a new epoch
/// just before it fetches from the new leader; who is elected learns of it at once, since an
/// election that nobody has heard of is one that has not happened yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Produce(usize),
    /// Of a leader.
    Flush(usize),
    /// A gateway asks whom it follows, and is answered.
    Fetch {
        at: usize,
        flushes: bool,
    },
    /// It hears of the current epoch before.
    Follow {
        at: usize,
        flushes: bool,
    },
    /// The current leader hears what else the controller has decided.
    Learn(usize),
    /// A leader's wish is granted.
    Wish(usize),
    /// The same, but whoever is behind has not been so for long, and stays.
    WishEarly(usize),
    Elect {
        at: usize,
        flushes: bool,
    },
    Crash {
        at: usize,
        flushes: bool,
    },
}

impl Model for Partition {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            gateways: std::array::from_fn(|_| Gateway::new()),
            controller: Controller {
                isr: (0..REPLICAS).map(node).collect(),
                elr: Vec::new(),
                leader: Some(node(0)),
                leader_epoch: 1,
                partition_epoch: 1,
                brokers: [0; REPLICAS],
                granted: 0,
            },
            produced: 0,
            committed: Vec::new(),
            broken: false,
        };
        (0..REPLICAS).for_each(|at| self.learn(&mut state, at));
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let controller = &state.controller;
        let crashed: i64 = controller.brokers.iter().sum();
        for (at, gateway) in state.gateways.iter().enumerate() {
            let leads = matches!(gateway.role, Role::Leads(..));
            let follows = matches!(gateway.role, Role::Follows(..));
            let current = controller.leader == Some(node(at));
            let mut can = |can: bool, action| actions.extend(can.then_some(action));
            can(leads && state.produced < self.bounds.records, Action::Produce(at));
            can(leads && gateway.log != gateway.flash, Action::Flush(at));
            can(current && controller.has_news(gateway), Action::Learn(at));
            let wishes = current && controller.granted < self.bounds.wishes;
            can(wishes, Action::Wish(at));
            can(wishes, Action::WishEarly(at));
            for flushes in [false, true] {
                if flushes && gateway.log == gateway.flash {
                    continue;
                }
                can(follows, Action::Fetch { at, flushes });
                can(!current && controller.has_news(gateway), Action::Follow { at, flushes });
                let more = controller.leader_epoch < self.bounds.epochs;
                can(more && controller.is_eligible(node(at)), Action::Elect { at, flushes });
                can(crashed < self.bounds.crashes, Action::Crash { at, flushes });
            }
        }
    }
    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Produce(at) => {
                state.produced += 1;
                state.gateways[at].produce(self.mutation).then_some(())?;
            }
            Action::Flush(at) => state.gateways[at].flush(self.mutation),
            Action::Fetch { at, flushes } => {
                state.flush(at, flushes);
                self.fetch(&mut state, at)?;
            }
            Action::Follow { at, flushes } => {
                state.flush(at, flushes);
                self.learn(&mut state, at);
                // What it does before it fetches makes a difference then.
                if self.mutation != Some(Mutation::TruncateByHighWatermark) {
                    self.fetch(&mut state, at)?;
                }
            }
            Action::Learn(at) => self.learn(&mut state, at),
            Action::Wish(at) => self.wish(&mut state, at, false)?,
            Action::WishEarly(at) => self.wish(&mut state, at, true)?,
            Action::Elect { at, flushes } => {
                state.flush(at, flushes);
                state.controller.elect(node(at), self.bounds.min_insync);
                self.learn(&mut state, at);
            }
            Action::Crash { at, flushes } => {
                state.flush(at, flushes);
                let gateway = &mut state.gateways[at];
                gateway.log.clone_from(&gateway.flash);
                gateway.role = Role::None;
                state.controller.crashed(at, self.bounds.min_insync);
            }
        }
        state.observe();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let always = |name, check| Property::<Self>::always(name, check);
        vec![
            always("LogMatching", |_, state: &State| state.logs_match()),
            always("StrongIsr", |_, state: &State| {
                let has_all = |at: usize| state.gateways[at].flash.starts_with(&state.committed);
                state.controller.isr.iter().all(|member| has_all(member.0 as usize))
            }),
            always("NoCommittedRecordLostGlobally", |_, state: &State| !state.broken),
            Property::<Self>::sometimes("all records are committed", |model, state: &State| {
                state.committed.len() == usize::from(model.bounds.records)
            }),
            Property::<Self>::sometimes("the last epoch commits", |model, state: &State| {
                state.committed.last().is_some_and(|(epoch, _)| *epoch == model.bounds.epochs)
            }),
            Property::<Self>::sometimes("a log parts from its flash", |_, state: &State| {
                state.gateways.iter().any(|gateway| {
                    let both = gateway.log.iter().zip(&gateway.flash);
                    both.into_iter().any(|(log, flash)| log != flash)
                })
            }),
        ]
    }
}

impl Partition {
    /// A fetch without an answer that changes anything is none.
    fn fetch(&self, state: &mut State, at: usize) -> Option<()> {
        let (leader, fetch) = state.gateways[at].fetch(self.mutation)?;
        let (answer, entries) = state.gateways[leader].serve(at, fetch)?;
        state.gateways[at].take(&answer, &entries, self.mutation);
        Some(())
    }

    fn learn(&self, state: &mut State, at: usize) {
        let controller = &state.controller;
        let Some(leader) = controller.leader else { return };
        let gateway = &mut state.gateways[at];
        let partition = controller.state();
        let brokers = (0..REPLICAS).map(|other| (node(other), controller.brokers[other]));
        let heard = Heard {
            partition_epoch: controller.partition_epoch,
            registered: controller.brokers,
            ..Heard::default()
        };
        if let Role::Leads(leader, known) = &mut gateway.role
            && leader.decided(NOW, &partition) != Decided::Over
        {
            *known = Heard { fetched: known.fetched, ..heard };
            return leader.registered(NOW, brokers);
        }
        let epoch = LeaderEpoch(controller.leader_epoch);
        let high_watermark = gateway.high_watermark();
        let broker_epoch = controller.brokers[at];
        if leader == node(at) {
            let settings = LeaderSettings {
                lag: Nanos(0),
                min_insync_replicas: self.bounds.min_insync,
                wish_timeout: Nanos(0),
                wish_backoff: Nanos(0),
            };
            let me = IsrMember { node: leader, broker_epoch };
            let log = gateway.state(self.mutation);
            let mut leader = Leader::new(NOW, me, &partition, log, high_watermark, settings);
            leader.registered(NOW, brokers);
            gateway.role = Role::Leads(Box::new(leader), heard);
            return;
        }
        if self.mutation == Some(Mutation::TruncateByHighWatermark) {
            gateway.log.truncate(high_watermark.0 as usize);
        }
        let settings = FollowerSettings { timeout: NEVER, backoff: NEVER, backoff_max: NEVER };
        let follower = Follower::new(epoch, broker_epoch, high_watermark, settings);
        gateway.role = Role::Follows(leader.0 as usize, follower);
    }

    /// The controller grants what a leader wishes; the leader learns of it later. Wishes that are
    /// refused, or lost, change nothing.
    fn wish(&self, state: &mut State, at: usize, early: bool) -> Option<()> {
        let Role::Leads(leader, heard) = &mut state.gateways[at].role else { return None };
        let wish = leader.wish(NOW)?;
        leader.refused(NOW);
        let controller = &mut state.controller;
        let alive = |member: &IsrMember| {
            let broker_epoch = controller.brokers[member.node.0 as usize];
            member.broker_epoch == broker_epoch || member.broker_epoch == -1
        };
        let granted = controller.leader == Some(node(at))
            && wish.leader_epoch.0 == controller.leader_epoch
            && wish.partition_epoch == controller.partition_epoch
            && wish.isr.iter().all(alive);
        let mut isr: Vec<NodeId> = wish.isr.iter().map(|member| member.node).collect();
        isr.iter().for_each(|member| heard.wished[member.0 as usize] = true);
        if self.mutation == Some(Mutation::ExpandTooEarly) {
            let heard_of = leader.followers().filter(|follower| follower.durable.is_some());
            isr.extend(heard_of.map(|follower| follower.node));
            isr.sort();
            isr.dedup();
        }
        let behind = controller.isr.iter().filter(|member| !isr.contains(member));
        let behind: Vec<NodeId> = behind.copied().filter(|_| early).collect();
        // Nobody is behind, or nobody joins: the same as late, or no wish at all.
        let differs = !behind.is_empty() && isr.len() + behind.len() > controller.isr.len();
        (granted && (!early || differs)).then_some(())?;
        isr.extend(behind);
        controller.granted += 1;
        controller.set_isr(isr, self.bounds.min_insync);
        Some(())
    }
}

impl Controller {
    fn state(&self) -> PartitionState {
        PartitionState {
            replicas: (0..REPLICAS).map(node).collect(),
            isr: self.isr.clone(),
            elr: self.elr.clone(),
            leader: self.leader,
            leader_epoch: self.leader_epoch,
            partition_epoch: self.partition_epoch,
            ..PartitionState::default()
        }
    }

    /// Whether there is something that a gateway has not heard and would act on.
    fn has_news(&self, gateway: &Gateway) -> bool {
        let news = match &gateway.role {
            Role::None => true,
            Role::Leads(_, heard) => heard.partition_epoch < self.partition_epoch,
            Role::Follows(_, follower) => follower.leader_epoch().0 < self.leader_epoch,
        };
        news && self.leader.is_some()
    }

    fn is_eligible(&self, node: NodeId) -> bool {
        let in_sync = self.isr.contains(&node);
        let eligible = in_sync || self.isr.is_empty() && self.elr.contains(&node);
        eligible && self.leader != Some(node)
    }

    fn elect(&mut self, node: NodeId, min_insync: usize) {
        self.leader = Some(node);
        self.leader_epoch += 1;
        let mut isr = self.isr.clone();
        if !isr.contains(&node) {
            isr.push(node);
        }
        self.set_isr(isr, min_insync);
    }

    /// Power fails at one gateway, and it registers anew.
    fn crashed(&mut self, at: usize, min_insync: usize) {
        self.brokers[at] += 1;
        if self.leader == Some(node(at)) {
            self.leader = None;
        }
        let isr = self.isr.iter().copied().filter(|member| *member != node(at)).collect();
        self.set_isr(isr, min_insync);
    }

    fn set_isr(&mut self, isr: Vec<NodeId>, min_insync: usize) {
        let mut left: Vec<NodeId> = self.elr.iter().chain(&self.isr).copied().collect();
        left.retain(|member| isr.len() < min_insync && !isr.contains(member));
        left.sort();
        left.dedup();
        self.elr = left;
        self.isr = isr;
        self.isr.sort();
        self.partition_epoch += 1;
    }
}

impl State {
    fn flush(&mut self, at: usize, flushes: bool) {
        if flushes {
            let gateway = &mut self.gateways[at];
            gateway.flash.clone_from(&gateway.log);
        }
    }

    /// Remembers what leaders say to be committed, and holds it against what was.
    fn observe(&mut self) {
        let leaders = self.gateways.iter().filter_map(|gateway| match &gateway.role {
            Role::Leads(leader, _) => Some((leader, &gateway.log)),
            _ => None,
        });
        for (leader, log) in leaders.clone() {
            let committed = &log[..leader.high_watermark().0 as usize];
            let both = committed.len().min(self.committed.len());
            self.broken |= committed[..both] != self.committed[..both];
            if committed.len() > both {
                self.committed = committed.to_vec();
            }
        }
        for (leader, log) in leaders {
            let current = leader.epoch().0 == self.controller.leader_epoch;
            self.broken |= current && !log.starts_with(&self.committed);
        }
    }

    /// Records of one epoch at one place are the same, and so is all before them.
    fn logs_match(&self) -> bool {
        let logs = self.gateways.iter().map(|gateway| &gateway.log);
        let in_place = |log: &Vec<Entry>| (0..).zip(log).all(|(at, (_, put))| *put == at);
        logs.clone().all(in_place)
            && logs.clone().all(|one| {
                logs.clone().all(|other| {
                    let both = one.len().min(other.len());
                    let last = (0..both).rev().find(|at| one[*at] == other[*at]);
                    last.is_none_or(|last| one[..=last] == other[..=last])
                })
            })
    }
}
