//! Members as small models in seeded disorder: silence, restarts of theirs, power cuts of the
//! node's, and other nodes that take over.
//!
//! Three checkers watch: GroupOwnsEachPartitionOnce, OffsetsNeverGoBack, GenerationOnlyGrows. For
//! each there is a [`Mutation`] that it finds.

use super::*;
use alloc::format;

const PARTITIONS: i32 = 4;

/// A fault that is put in on purpose.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mutation {
    None,
    /// Leaders assign partition 0 to everybody.
    AssignTwice,
    /// Batches are called durable before they are on flash.
    DurableBeforeFlush,
    /// A node that takes over tells what is not on all replicas, and may be lost with it.
    ServeUnreplicated,
    /// A power cut loses what is said of groups, though it was on flash.
    ForgetGroups,
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    /// Not running.
    Off,
    /// Running, and about to join.
    Out,
    Joining(Ticket),
    Syncing(Ticket),
    In,
}

/// A client: joins, reads, commits, and does as it is told.
#[derive(Clone, Debug)]
struct Client {
    instance: Option<String>,
    phase: Phase,
    joined: JoinGroupResponse,
    /// The next offset of each partition that it owns.
    positions: BTreeMap<i32, i64>,
}

struct Simulation {
    world: World,
    rng: Rng,
    mutation: Mutation,
    clients: Vec<Client>,
    /// Commits without answer yet, and whose they are.
    commits: BTreeMap<Ticket, usize>,
    /// Which client owns a partition in a generation.
    owners: BTreeMap<(i32, i32), usize>,
    offsets_seen: BTreeMap<i32, i64>,
    generation_synced: i32,
}

type Checked = Result<(), String>;

impl Simulation {
    fn new(seed: u64, mutation: Mutation) -> Simulation {
        let mut rng = Rng::new(seed);
        let client = |place: u64| Client {
            instance: (place % 2 == 1).then(|| format!("pump-{place}")),
            phase: Phase::Off,
            joined: JoinGroupResponse::default(),
            positions: BTreeMap::new(),
        };
        let clients = (0..2 + rng.below(3)).map(client).collect();
        let mut world = World::new();
        world.flushes_itself = false;
        let (commits, owners) = (BTreeMap::new(), BTreeMap::new());
        let (offsets_seen, generation_synced) = (BTreeMap::new(), 0);
        Simulation {
            world,
            rng,
            mutation,
            clients,
            commits,
            owners,
            offsets_seen,
            generation_synced,
        }
    }

    fn run(&mut self, steps: usize) -> Checked {
        for _ in 0..steps {
            self.step()?;
            self.offsets_never_go_back()?;
            self.generation_only_grows()?;
        }
        self.calm_down()
    }

    fn step(&mut self) -> Checked {
        match self.rng.below(100) {
            0 => self.cut_power(),
            1 => self.compact(),
            2 => return self.fail_over(),
            3..=4 => {
                let ms = self.rng.below(30_000);
                self.world.pass(ms);
            }
            5..=24 => {
                let ms = self.rng.below(500);
                self.world.pass(ms);
            }
            25..=54 => self.flush(),
            _ => {
                let who = self.rng.below(self.clients.len() as u64) as usize;
                return self.act(who);
            }
        }
        Ok(())
    }

    fn flush(&mut self) {
        if self.mutation == Mutation::DurableBeforeFlush {
            if let Some((token, records)) = self.world.unflushed.pop_front() {
                self.world.groups.durable(self.world.now, token);
                // On flash only later, if there is a later.
                if self.rng.percent(70) {
                    self.world.log.extend(records);
                }
            }
        } else {
            self.world.flush_one();
        }
        self.world.pump();
    }

    fn cut_power(&mut self) {
        if self.mutation == Mutation::ForgetGroups {
            self.world.log.retain(|record| record.key[1] != 2);
        }
        self.world.restart();
        self.commits.clear();
        for client in &mut self.clients {
            // The connection is gone: what was asked is asked again.
            match client.phase {
                Phase::Joining(_) => client.phase = Phase::Out,
                Phase::Syncing(_) => client.phase = Phase::Out,
                _ => {}
            }
        }
    }

    /// Another node has some of what was on its way, and everybody who waits is sent there.
    fn fail_over(&mut self) -> Checked {
        let kept = self.rng.below(4) as usize;
        let unreplicated = self.world.log.len();
        self.world.fail_over(kept);
        if self.mutation == Mutation::ServeUnreplicated {
            self.offsets_never_go_back()?;
            self.world.log.truncate(unreplicated);
            self.world.fail_over(0);
        }
        for client in &self.clients {
            if let Phase::Joining(ticket) | Phase::Syncing(ticket) = client.phase
                && !self.world.answers.contains_key(&ticket)
            {
                return Err(format!("EverybodyIsAnswered: {client:?} waits for nobody"));
            }
        }
        Ok(())
    }

    /// The node writes the topic anew and trims what is before.
    fn compact(&mut self) {
        let live = self.world.groups.live_records();
        self.world.flush();
        self.world.pump();
        self.world.log = live;
        // What was polled while flushing comes behind.
        while !self.world.unflushed.is_empty() {
            self.world.flush();
            self.world.pump();
        }
    }

    fn act(&mut self, who: usize) -> Checked {
        match self.clients[who].phase.clone() {
            Phase::Off => {
                if self.rng.percent(20) {
                    self.clients[who].phase = Phase::Out;
                    self.clients[who].joined = JoinGroupResponse::default();
                }
            }
            Phase::Out => self.ask_to_join(who),
            Phase::Joining(ticket) => {
                self.world.pump();
                if let Some(AnyResponse::JoinGroup(joined)) = self.world.answers.remove(&ticket) {
                    return self.got_joined(who, joined);
                }
            }
            Phase::Syncing(ticket) => {
                self.world.pump();
                if let Some(AnyResponse::SyncGroup(synced)) = self.world.answers.remove(&ticket) {
                    return self.got_assigned(who, synced);
                }
            }
            Phase::In => self.live(who),
        }
        Ok(())
    }

    fn ask_to_join(&mut self, who: usize) {
        self.world.pump();
        let answers = &mut self.world.answers;
        self.commits.retain(|ticket, _| answers.remove(ticket).is_none());
        // As real consumers do: else it would read offsets from before its own commit.
        if self.commits.values().any(|committer| *committer == who) {
            return;
        }
        let client = &self.clients[who];
        let request = join_request(&client.joined.member_id, client.instance.as_deref());
        let version = if self.rng.percent(50) { 9 } else { 5 };
        let ticket = self.world.ask_join(version, request);
        self.clients[who].phase = Phase::Joining(ticket);
    }

    fn got_joined(&mut self, who: usize, joined: JoinGroupResponse) -> Checked {
        match joined.error_code {
            ErrorCode::NONE => {}
            ErrorCode::FENCED_INSTANCE_ID => {
                self.stop(who);
                return Ok(());
            }
            code => {
                self.clients[who].phase = Phase::Out;
                self.clients[who].joined.member_id = match code {
                    ErrorCode::MEMBER_ID_REQUIRED => joined.member_id,
                    ErrorCode::UNKNOWN_MEMBER_ID => String::new(),
                    _ => self.clients[who].joined.member_id.clone(),
                };
                return Ok(());
            }
        }
        let mut assigned = Vec::new();
        if joined.leader == joined.member_id && !joined.skip_assignment {
            assigned = self.assign(&joined.members);
        }
        let assigned: Vec<(&str, &str)> =
            assigned.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect();
        let ticket = self.world.ask_sync(&joined, &assigned);
        self.clients[who].joined = joined;
        self.clients[who].phase = Phase::Syncing(ticket);
        Ok(())
    }

    /// Deals the partitions out, each to one.
    fn assign(&mut self, members: &[JoinGroupResponseMember]) -> Vec<(String, String)> {
        let first = self.rng.below(members.len() as u64) as usize;
        let mut dealt: Vec<(String, String)> =
            members.iter().map(|member| (member.member_id.clone(), String::new())).collect();
        for partition in 0..PARTITIONS {
            let to = (first + partition as usize) % members.len();
            for (place, (_, text)) in dealt.iter_mut().enumerate() {
                if place == to || (self.mutation == Mutation::AssignTwice && partition == 0) {
                    text.push_str(&partition.to_string());
                }
            }
        }
        dealt
    }

    fn got_assigned(&mut self, who: usize, synced: SyncGroupResponse) -> Checked {
        if synced.error_code.is_error() {
            self.lost(who, synced.error_code);
            return Ok(());
        }
        let generation = self.clients[who].joined.generation_id;
        self.generation_synced = self.generation_synced.max(generation);
        self.clients[who].phase = Phase::In;
        self.clients[who].positions.clear();
        let committed: BTreeMap<i32, i64> =
            self.world.groups.committed(GROUP).map(|(_, index, offset)| (index, offset)).collect();
        for digit in synced.assignment.iter() {
            let partition = i32::from(digit - b'0');
            let owner = *self.owners.entry((generation, partition)).or_insert(who);
            if owner != who {
                return Err(format!(
                    "GroupOwnsEachPartitionOnce: {owner} and {who} own {partition} in {generation}"
                ));
            }
            let position = committed.get(&partition).copied().unwrap_or(0);
            self.clients[who].positions.insert(partition, position);
        }
        Ok(())
    }

    fn live(&mut self, who: usize) {
        let joined = self.clients[who].joined.clone();
        match self.rng.below(100) {
            0..=2 => self.stop(who),
            3..=5 => {
                // Static members just stop; a restart takes their place.
                if self.clients[who].instance.is_none() {
                    self.world.leave(&[(&joined.member_id, None)]);
                }
                self.stop(who);
            }
            6..=8 => self.clients[who].phase = Phase::Out,
            9..=50 => {
                let instance = self.clients[who].instance.clone();
                let code = self.world.heartbeat(&joined, instance.as_deref());
                if code.is_error() {
                    self.lost(who, code);
                }
            }
            _ => self.commit(who),
        }
    }

    fn commit(&mut self, who: usize) {
        let client = &mut self.clients[who];
        let mut partitions = Vec::new();
        for (partition, position) in &mut client.positions {
            *position += self.rng.below(3) as i64;
            partitions.push(OffsetCommitRequestPartition {
                partition_index: *partition,
                committed_offset: *position,
                ..OffsetCommitRequestPartition::default()
            });
        }
        let topic = OffsetCommitRequestTopic {
            name: "sensors".into(),
            partitions,
            ..OffsetCommitRequestTopic::default()
        };
        let request = OffsetCommitRequest {
            group_id: GROUP.into(),
            generation_id_or_member_epoch: client.joined.generation_id,
            member_id: client.joined.member_id.clone(),
            group_instance_id: client.instance.clone(),
            topics: vec![topic],
            ..OffsetCommitRequest::default()
        };
        let ticket = self.world.ticket();
        let topics = self.world.topics.clone();
        self.world.groups.commit_offsets(self.world.now, 8, request, &topics, ticket);
        self.world.pump();
        self.commits.insert(ticket, who);
    }

    fn lost(&mut self, who: usize, code: ErrorCode) {
        match code {
            ErrorCode::FENCED_INSTANCE_ID => return self.stop(who),
            ErrorCode::UNKNOWN_MEMBER_ID => self.clients[who].joined.member_id.clear(),
            _ => {}
        }
        self.clients[who].phase = Phase::Out;
    }

    fn stop(&mut self, who: usize) {
        self.clients[who].phase = Phase::Off;
        self.clients[who].positions.clear();
    }

    fn offsets_never_go_back(&mut self) -> Checked {
        let now: Vec<(i32, i64)> =
            self.world.groups.committed(GROUP).map(|(_, index, offset)| (index, offset)).collect();
        let committed: BTreeMap<i32, i64> = now.into_iter().collect();
        for (partition, seen) in &self.offsets_seen {
            let offset = committed.get(partition).copied().unwrap_or(-1);
            if offset < *seen {
                return Err(format!("OffsetsNeverGoBack: {partition} from {seen} to {offset}"));
            }
        }
        self.offsets_seen = committed;
        Ok(())
    }

    /// A generation whose assignment was told is never given out again. One that nobody was told an
    /// assignment of may be: a power cut forgets it, and its members join anew.
    fn generation_only_grows(&self) -> Checked {
        let generation = self.world.view().map_or(0, |view| view.generation);
        let synced = self.generation_synced;
        if generation < synced {
            return Err(format!("GenerationOnlyGrows: {generation} after {synced} was synced"));
        }
        Ok(())
    }

    /// Without disorder every client is in the group soon, and every partition is owned.
    fn calm_down(&mut self) -> Checked {
        for client in &mut self.clients {
            if client.phase == Phase::Off {
                client.joined = JoinGroupResponse::default();
                client.phase = Phase::Out;
            }
        }
        for _ in 0..400 {
            for who in 0..self.clients.len() {
                match self.clients[who].phase {
                    Phase::In => {
                        let client = self.clients[who].clone();
                        let instance = client.instance.as_deref();
                        let code = self.world.heartbeat(&client.joined, instance);
                        if code.is_error() {
                            self.lost(who, code);
                        }
                    }
                    Phase::Off => self.clients[who].phase = Phase::Out,
                    _ => self.act(who)?,
                }
            }
            self.world.flush();
            self.world.pump();
            self.world.pass(500);
        }
        let everybody_in = self.clients.iter().all(|client| client.phase == Phase::In);
        let owned: usize = self.clients.iter().map(|client| client.positions.len()).sum();
        if everybody_in && owned == PARTITIONS as usize && self.world.state() == State::Stable {
            return Ok(());
        }
        Err(format!("the group does not come to rest: {:?} {:?}", self.world.view(), self.clients))
    }
}

#[test]
fn a_group_keeps_its_promises_in_disorder_and_comes_to_rest() {
    for seed in 0..300 {
        if let Err(why) = Simulation::new(seed, Mutation::None).run(600) {
            panic!("seed {seed}: {why}");
        }
    }
}

#[test]
fn each_checker_finds_its_mutation() {
    let found = |mutation: Mutation, checker: &str| {
        let runs = (0..100).filter_map(|seed| Simulation::new(seed, mutation).run(600).err());
        let why: Vec<String> = runs.collect();
        assert!(why.iter().any(|why| why.starts_with(checker)), "{checker} not among {why:?}");
    };
    found(Mutation::AssignTwice, "GroupOwnsEachPartitionOnce");
    found(Mutation::DurableBeforeFlush, "OffsetsNeverGoBack");
    found(Mutation::ServeUnreplicated, "OffsetsNeverGoBack");
    found(Mutation::ForgetGroups, "GenerationOnlyGrows");
}
