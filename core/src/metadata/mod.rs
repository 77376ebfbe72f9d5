//! The cluster image: nodes, topics, partitions, configs; changed only by applying records.
