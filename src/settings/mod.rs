//! Flags and env: one table, typed, then resolved.
