//! The shared table: every setting that more than one gateway may have. Nothing else knows such a
//! flag's name, range or default.
//!
//! One file for each part of the program. Rows stand in the order of `--help`, those of one heading
//! together, and each once: where a gateway differs, the gateway says so ([`super::Change`]). The
//! rows that only one gateway has are that gateway's.

mod auth;
mod budgets;
mod clients;
mod delivery;
mod health;
mod listening;
mod nats;
mod process;
mod redis;

use super::setting::Setting;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// What stands before the rows of one gateway alone.
pub(super) static BEFORE_OWN: &[&[Setting]] = &[listening::ROWS, nats::ROWS, redis::ROWS];

/// What stands after them.
pub(super) static AFTER_OWN: &[&[Setting]] = &[
    process::ROWS,
    auth::ROWS,
    clients::ROWS,
    delivery::ROWS,
    budgets::ROWS,
    health::ROWS,
];
