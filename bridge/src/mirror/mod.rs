//! The mirror: topics of this cluster to a central Kafka, each record once and in order.

mod settings;
mod status;

pub use settings::{Route, StartAt, TopicFilter};
pub use status::{Handle, PartitionStatus, RouteStatus, State, Status, UnknownRoute};
