//! Every limit of the core, with its reason. Nothing is allocated by a size that a peer claims;
//! what has no bound of its own has one here.

/// The largest request or response frame that a connection may carry, in bytes. Kafka's
/// `socket.request.max.bytes` is 100 MiB; a gateway with 512 MB cannot hold that many times over.
/// It is still sixteen times the default `max.message.bytes`.
pub const FRAME_BYTES_MAX: usize = 16 << 20;

/// Memory that the arrays of one decoded message may take, in bytes. An empty string is one byte on
/// the wire and 24 in memory, so a frame's size alone bounds little. 10,000 partitions take about 1
/// MB.
pub const DECODED_BYTES_MAX: usize = 16 << 20;

/// Kafka's default `max.message.bytes`: the largest record batch that a topic takes, in bytes.
pub const MESSAGE_BYTES_DEFAULT: i32 = 1_048_588;

/// The largest record batch that any topic may allow: it has to fit a slot with room for the
/// others.
pub const MESSAGE_BYTES_MAX: i32 = 2 << 20;

/// What a batch may be when it is decompressed, in bytes, where the gateway has to look inside: a
/// hostile batch of some bytes may claim gigabytes. Eight times the largest batch.
pub const UNPACKED_BYTES_MAX: usize = 16 << 20;

/// And how many times as long as `max.message.bytes` of its topic.
pub const UNPACKED_RATIO_MAX: usize = 100;

/// Batches that are unpacked or packed at the same time. The driver does it on its two reading
/// threads, and one of them has to be left for reads.
pub const CODECS_IN_FLIGHT_MAX: usize = 1;

/// Records of one batch that are named when they are refused. Kafka names all; a batch may have
/// 250,000.
pub const RECORD_ERRORS_MAX: usize = 1_000;

/// Searches by timestamp that hold what they read at the same time: each up to one batch.
pub const SEARCHES_READING_MAX: usize = 4;

/// Requests that one connection may have unanswered before its socket is no longer read. Clients
/// keep one to five; `franz-go` and tools that pipeline a few more.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 32;

/// Producers whose sequences are remembered for one partition. Each costs about 100 bytes; the one
/// idle longest is forgotten first. Kafka forgets by time only and has no bound.
pub const PRODUCERS_PER_PARTITION_MAX: usize = 1_000;

/// Batches of each producer that a repeated one is looked for in: Kafka's
/// `ProducerStateEntry.NUM_BATCHES_TO_RETAIN`, which bounds
/// `max.in.flight.requests.per.connection`.
pub const PRODUCER_BATCHES_CHECKED: usize = 5;
/// Batches remembered for each producer: so many that may be truncated because they are not
/// acknowledged, and the last acknowledged one.
pub const PRODUCER_BATCHES_KEPT: usize = PRODUCER_BATCHES_CHECKED + 1;

/// Bytes of one topic name: Kafka's bound, which file systems set there.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;

/// Partitions of one node. Kafka has no bound; here each costs about 1 KiB of memory.
pub const PARTITIONS_MAX: usize = 10_000;

/// Gateways of one cluster, witnesses included.
pub const BROKERS_MAX: usize = 32;

/// Partitions that go back to their preferred leaders in one decision: Kafka's
/// `MAX_ELECTIONS_PER_IMBALANCE`.
pub const GIVEN_BACK_MAX: usize = 1_000;

/// Replicas of one partition: a site has three to nine gateways.
pub const REPLICAS_MAX: usize = 9;

/// Consumer groups of one node. Each costs about 1 KiB without members and offsets. Kafka has no
/// bound; a client that makes up group ids must not fill the memory.
pub const GROUPS_MAX: usize = 1_000;

/// Members of one group: Kafka's `group.max.size`, which has no bound there.
pub const GROUP_MEMBERS_MAX: usize = 500;

/// Bytes that one member may bring into its group: ids, and the metadata of every protocol it
/// offers. Kafka Streams with a hundred tasks brings about 20 KiB.
pub const GROUP_MEMBER_BYTES_MAX: usize = 256 << 10;

/// Bytes of all members of all groups together, and of their assignments.
pub const GROUPS_BYTES_MAX: usize = 16 << 20;

/// Bytes of a group's record in `__consumer_offsets`, which has to fit one batch of that topic.
pub const GROUP_RECORD_BYTES_MAX: usize = 1 << 20;

/// Committed offsets of all groups together. Each costs about 150 bytes and its metadata.
pub const GROUP_OFFSETS_MAX: usize = 100_000;

/// Characters of the metadata beside a committed offset: Kafka's `offset.metadata.max.bytes`.
pub const OFFSET_METADATA_MAX: usize = 4_096;

/// Bytes of records that are appended to `__consumer_offsets` as one batch.
pub const GROUP_APPEND_BYTES_MAX: usize = 256 << 10;

/// Partitions of `__consumer_offsets` when it is created. Kafka's default is 50 for a cluster; each
/// costs memory, and one gateway has few groups.
pub const OFFSETS_PARTITIONS: i32 = 8;

/// Bytes of records in one fetch answer, unless the first batch alone is larger: it has to fit a
/// frame, and memory several times over. Kafka's `fetch.max.bytes` is 55 MiB.
pub const FETCH_BYTES_MAX: usize = 8 << 20;

/// Fetches that read the disk at the same time; others wait for their turn. Each may hold
/// [`FETCH_BYTES_MAX`], though few do: what is read is what partitions have.
pub const FETCHES_READING_MAX: usize = 8;

/// Partitions that all waiting fetches and all fetch sessions may name together, about 100 bytes
/// each. A fetch beyond it is answered at once; a session beyond it is not opened.
pub const FETCH_PARTITIONS_MAX: usize = 200_000;

/// Fetch sessions that are remembered: Kafka's `max.incremental.fetch.session.cache.slots`.
pub const FETCH_SESSIONS_MAX: usize = 1_000;

/// Voters of the metadata quorum, or those that it is changed to. Kafka advises 3 or 5.
pub const VOTERS_MAX: usize = 9;

/// Observers of the metadata quorum: a site has nine gateways at most, and room to replace them.
pub const OBSERVERS_MAX: usize = 32;

/// What replication holds in memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaLimits {
    /// One answer to a follower: enough to keep a link busy, and the least and the most. Kafka's
    /// `replica.fetch.max.bytes` is 1 MiB.
    pub fetch_min: usize,
    pub fetch_max: usize,
    /// The answers to one gateway for all partitions together, which may be asked for at the same
    /// time; far below what a link queues.
    pub fetch_all: usize,
    /// While so much waits for the flash, a follower asks for nothing else: a link may bring many
    /// times what a card takes. A commit writes half of it, the other half comes meanwhile.
    pub pending: usize,
}

impl Default for ReplicaLimits {
    fn default() -> ReplicaLimits {
        ReplicaLimits {
            fetch_min: 32 << 10,
            fetch_max: 1 << 20,
            fetch_all: 8 << 20,
            pending: 2 << 20,
        }
    }
}

/// Reads of the disk at the same time for replicas that have lost something, each of
/// [`crate::log::MOVE_BYTES_MAX`] or of one batch. Each replica asks for one part of a partition at
/// a time.
pub const RANGES_LENT_MAX: usize = 16;

/// Bytes of one payload of the metadata log: it goes into one batch of the flash log.
pub const QUORUM_PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// Bytes of the entries in one message of the quorum, unless the first one alone is larger. Larger
/// ones would hold up heartbeats on a slow link.
pub const QUORUM_ENTRIES_BYTES_MAX: usize = 64 << 10;

/// Entries in one message of the quorum.
pub const QUORUM_ENTRIES_MAX: usize = 1_024;

/// Bytes of payloads that a leader has taken and that are not committed.
pub const QUORUM_UNCOMMITTED_BYTES_MAX: u64 = 8 << 20;

/// Messages of the quorum that wait until something is durable; beyond it they are dropped, as a
/// network would.
pub const QUORUM_OUTBOX_MAX: usize = 1_024;

/// Bytes of a snapshot of the metadata: 10,000 partitions take about 1 MB.
pub const QUORUM_SNAPSHOT_BYTES_MAX: u64 = 16 << 20;

/// Bytes of a snapshot that go into one message.
pub const QUORUM_CHUNK_BYTES_MAX: usize = 256 << 10;
