//! What a run of a whole site is like. All of it follows from the seed.

use crate::faults::Faults;
use crate::plan;
use weir_core::limits::ReplicaLimits;
use weir_core::node::Unguarded;
use weir_core::rng::Rng;

/// As small beside what clients send as those of a gateway beside what a link brings.
const REPLICA_LIMITS: ReplicaLimits = ReplicaLimits {
    fetch_min: 2 << 10,
    fetch_max: 16 << 10,
    fetch_all: 32 << 10,
    pending: 8 << 10,
};

/// Bugs of the node's own joints, played by the driver around it. Each must be found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bug {
    #[default]
    None,
    /// `acks=all` is answered when the leader's flash has it.
    AcknowledgeAtDurableEnd,
    /// Followers report their log's end as durable.
    UndurableEnds,
    /// Followers take what they are sent for committed.
    TellUncommitted,
    /// Some followers are sent batches with other values.
    SendAnother,
    /// A gateway that is started anew is taken for the same incarnation.
    SameIncarnation,
    /// A gateway is started on an old copy of its store.
    OldImage,
    /// A connection that broke is not made again.
    ConnectOnce,
    /// Followers are told less than they were told before.
    TellLess,
    /// A group's leader is told its assignment, which is not stored.
    ForgetAssignments,
    /// Offset commits are answered and not stored.
    ForgetCommits,
    /// The removal of a voter is answered, and it votes on.
    ForgetVotes,
    /// A gateway that is told to stop is gone at once.
    StopAtOnce,
    /// A gateway that nobody hears counts as one that says something.
    HeardForEver,
    /// Whoever asks for votes says that it has every entry there is.
    BoastOfEntries,
    /// A partition without a leader gets one that is not in sync.
    ElectAnybody,
    /// What a gateway has lost to damage the controller is not told.
    HideLosses,
    /// A gateway of an old release counts as one of the newest.
    TakenForNew,
    /// Followers ask for more however much waits for their flash.
    AskOnAndOn,
    /// A replica that lacks something reports everything as durable.
    WholeWhileDamaged,
    /// What is lost is put in place before the logs are known to agree.
    UnmatchedRanges,
    /// What is lost is asked for, though the cluster has older gateways.
    RangesTooEarly,
    /// What is lost is fetched with all of its partition.
    WholePartitions,
    /// Who is alone in sync serves past what it has lost.
    PastWhatIsLost,
}

impl Bug {
    /// The guards of the node that are taken away.
    pub fn unguarded(self) -> Unguarded {
        Unguarded {
            whole_while_damaged: self == Bug::WholeWhileDamaged,
            unmatched_ranges: self == Bug::UnmatchedRanges,
            ranges_at_any_level: self == Bug::RangesTooEarly,
            whole_partitions: self == Bug::WholePartitions,
            past_what_is_lost: self == Bug::PastWhatIsLost,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Plan {
    /// The stores, and the clients' batches.
    pub store: plan::Plan,
    pub gateways: usize,
    /// The first so many gateways are voters, the others observers.
    pub voters: usize,
    /// The last voter holds no partitions.
    pub witness: bool,
    /// `min.insync.replicas` of all topics.
    pub min_insync: usize,
    pub producers: u64,
    /// How many times slower than those of one gateway the clients are.
    pub pace: u64,
    pub readers: u64,
    pub groups: bool,
    pub faults_ms: u64,
    /// Between two faults at most.
    pub fault_every_ms: u64,
    pub kills: bool,
    /// Power cuts of one, of some, of all.
    pub cuts: bool,
    pub partitions: bool,
    pub pauses: bool,
    pub clock_jumps: bool,
    pub wipes: bool,
    pub stops: bool,
    /// Stores whose flushes lie until they are cut.
    pub lies: bool,
    /// Disks that fail and stall, of a minority of the gateways.
    pub sick_disks: bool,
    /// Votes are given and taken.
    pub members: bool,
    /// Replicas are moved, gateways drained, and leaderships given back.
    pub moves: bool,
    /// All gateways begin with the oldest release, and have the newest after some start.
    pub upgrade: bool,
    /// Of a hundred messages of the quorum, which the driver drops when a link is full.
    pub loss: u64,
    pub duplication: u64,
    /// Messages between gateways take up to so long.
    pub delay_us: u64,
    pub bug: Bug,
}

impl Plan {
    pub fn random(rng: &mut Rng) -> Plan {
        let gateways = [3, 3, 3, 4, 5, 7][rng.below(6) as usize];
        // The others are observers.
        let voters = if rng.percent(40) { 3 } else { gateways };
        let witness = rng.percent(25);
        let data_gateways = gateways - usize::from(witness);
        let harmless = Faults::default();
        let store = plan::Plan {
            slots: 80,
            slot_bytes: 256 << 10,
            value_bytes_max: [64, 300, 1_000][rng.below(3) as usize],
            faults: Faults { write_error: 1, flush_error: 2, read_error: 2, stall: 4, ..harmless },
            retention: false,
            ..plan::Plan::random(rng)
        };
        Plan {
            store,
            gateways,
            voters,
            witness,
            min_insync: if data_gateways < 3 && rng.percent(70) { 1 } else { 2 },
            producers: 2 + rng.below(3),
            pace: [2, 4, 10][rng.below(3) as usize],
            readers: rng.below(3),
            groups: false,
            faults_ms: 10_000 + rng.below(20_000),
            fault_every_ms: [500, 2_000, 6_000][rng.below(3) as usize],
            kills: rng.percent(70),
            cuts: rng.percent(60),
            partitions: rng.percent(60),
            pauses: rng.percent(40),
            clock_jumps: rng.percent(30),
            wipes: rng.percent(30),
            stops: rng.percent(40),
            lies: rng.percent(30),
            sick_disks: rng.percent(30),
            members: rng.percent(40),
            moves: rng.percent(40),
            loss: [0, 5, 30][rng.below(3) as usize],
            duplication: [0, 10, 50][rng.below(3) as usize],
            delay_us: [500, 5_000, 30_000][rng.below(3) as usize],
            upgrade: rng.percent(25),
            bug: Bug::None,
        }
    }

    /// Nothing goes wrong, nothing has to go for want of room, and records are taken without one of
    /// the gateways.
    pub fn calm(&mut self) {
        self.min_insync = self.min_insync.min(self.replication_factor() as usize - 1);
        self.store.slots = 300;
        self.store.faults = Faults::default();
        (self.kills, self.cuts, self.partitions, self.pauses) = (false, false, false, false);
        (self.clock_jumps, self.wipes, self.stops) = (false, false, false);
        (self.lies, self.sick_disks, self.members, self.moves) = (false, false, false, false);
        self.upgrade = false;
        (self.loss, self.duplication) = (0, 0);
        self.store.resets = 0;
    }

    pub fn replica_limits(&self) -> ReplicaLimits {
        match self.bug {
            Bug::AskOnAndOn => ReplicaLimits { pending: usize::MAX, ..REPLICA_LIMITS },
            _ => REPLICA_LIMITS,
        }
    }

    pub fn replication_factor(&self) -> i16 {
        let data_gateways = self.gateways - usize::from(self.witness);
        data_gateways.min(3) as i16
    }

    /// Whether the gateway's disk is one of those that fail: a minority, and never a majority of
    /// the replicas.
    pub fn is_sick(&self, gateway: usize) -> bool {
        self.sick_disks && gateway == 0
    }

    /// Whether records are taken without one of the gateways.
    pub fn stays_available(&self) -> bool {
        self.min_insync < self.replication_factor() as usize
    }

    pub fn holds_partitions(&self, gateway: usize) -> bool {
        !(self.witness && gateway + 1 == self.voters)
    }
}
