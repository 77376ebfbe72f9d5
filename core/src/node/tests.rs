//! Facts about the node.
