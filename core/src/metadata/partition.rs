//! Who holds a partition, who leads it, and who has all that is committed: what the controller
//! decides and everyone follows.

use crate::types::NodeId;
use alloc::vec;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// One partition's replication, as KRaft's `PartitionRegistration`. Each list has at most
/// [`REPLICAS_MAX`](crate::limits::REPLICAS_MAX) nodes and none twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// The first one is the preferred leader.
    pub replicas: Vec<NodeId>,
    /// In-sync replicas: each has everything below the high watermark on its flash.
    pub isr: Vec<NodeId>,
    /// Eligible leader replicas (KIP-966): not in sync any more, and still with everything below
    /// the high watermark, since that stood still when they left.
    pub elr: Vec<NodeId>,
    pub leader: Option<NodeId>,
    /// Raised with each new leader, and whenever followers have to look at their logs anew.
    pub leader_epoch: i32,
    /// Raised with each change of this state: a wish that names an older one is refused.
    pub partition_epoch: i32,
    /// Replicas that a reassignment brings in, a part of `replicas` already.
    pub adding: Vec<NodeId>,
    /// Replicas that it will take out, and that are in `replicas` until then.
    pub removing: Vec<NodeId>,
}

impl PartitionState {
    /// Of a partition that one gateway holds alone.
    pub fn alone(node: NodeId) -> PartitionState {
        PartitionState {
            replicas: vec![node],
            isr: vec![node],
            leader: Some(node),
            ..PartitionState::default()
        }
    }

    pub fn is_replica(&self, node: NodeId) -> bool {
        self.replicas.contains(&node)
    }

    pub fn is_in_sync(&self, node: NodeId) -> bool {
        self.isr.contains(&node)
    }
}
