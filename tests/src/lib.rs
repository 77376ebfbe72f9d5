//! The whole-system tests of Weir stand in `tests/tests`; this library holds what they share.
