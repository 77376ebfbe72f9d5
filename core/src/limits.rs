//! Every limit of the core, with its reason. Nothing is allocated by a size that a peer claims; what
//! has no bound of its own has one here.

/// The largest request or response frame that a connection may carry, in bytes. Kafka's
/// `socket.request.max.bytes` is 100 MiB; a gateway with 512 MB cannot hold that many times over. It is
/// still sixteen times the default `max.message.bytes`.
pub const FRAME_BYTES_MAX: usize = 16 << 20;

/// Kafka's default `max.message.bytes`: the largest record batch that a topic takes, in bytes.
pub const MESSAGE_BYTES_DEFAULT: i32 = 1_048_588;

/// The largest record batch that any topic may allow: it has to fit a slot with room for the others.
pub const MESSAGE_BYTES_MAX: i32 = 2 << 20;

/// Requests that one connection may have unanswered before its socket is no longer read. Clients keep
/// one to five; `franz-go` and tools that pipeline a few more.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 32;

/// Producers whose sequences are remembered for one partition. Each costs about 100 bytes; the one idle
/// longest is forgotten first. Kafka forgets by time only and has no bound.
pub const PRODUCERS_PER_PARTITION_MAX: usize = 1_000;

/// Batches remembered for each producer to recognise a repeated one: Kafka's
/// `ProducerStateEntry.NUM_BATCHES_TO_RETAIN`, which bounds `max.in.flight.requests.per.connection`.
pub const PRODUCER_BATCHES_KEPT: usize = 5;

/// Bytes of one topic name: Kafka's bound, which file systems set there.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;

/// Partitions of one node. Kafka has no bound; here each costs about 1 KiB of memory.
pub const PARTITIONS_MAX: usize = 10_000;
