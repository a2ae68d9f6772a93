//! The table: every setting of every gateway. Nothing else knows a flag's name, range or default.
//!
//! One file for each part of the program. Rows stand in the order of `--help`, those of one heading
//! together. A setting whose default or env names differ between gateways has a row for each of
//! them.

mod auth;
mod budgets;
mod channels;
mod clients;
mod delivery;
mod events;
mod health;
mod levels;
mod listening;
mod nats;
mod process;
mod redis;
mod trades;

use super::setting::Setting;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// The parts, in the order of `--help`.
static PARTS: &[&[Setting]] = &[
    listening::ROWS,
    nats::ROWS,
    redis::ROWS,
    levels::ROWS,
    channels::ROWS,
    trades::ROWS,
    events::ROWS,
    process::ROWS,
    auth::ROWS,
    clients::ROWS,
    delivery::ROWS,
    budgets::ROWS,
    health::ROWS,
];

/// Every setting: flag, env, default, unit, range, help.
pub fn settings() -> impl Iterator<Item = &'static Setting> {
    PARTS.iter().copied().flatten()
}
