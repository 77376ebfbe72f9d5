//! Consumer groups, the classic protocol: members, generations, assignments, committed offsets.
