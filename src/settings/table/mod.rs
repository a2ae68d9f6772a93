//! The shared table: every setting that more than one gateway may have. Nothing else knows such a
//! flag's name, range or default.
//!
//! One file for each part of the program. Rows stand in the order of `--help`, those of one heading
//! together, and each once: where a gateway differs, the gateway says so ([`super::Change`]). The
//! rows that only one gateway has are that gateway's.

mod auth;
mod budgets;
mod buses;
mod clients;
mod delivery;
mod process;

use super::kind::Kind;
use super::setting::{Heading, Part, Setting, Shows};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// What stands before the rows of one gateway alone.
pub(super) static BEFORE_OWN: &[&[Setting]] = &[clients::LISTENING, buses::NATS, buses::REDIS];

/// What stands after them.
pub(super) static AFTER_OWN: &[&[Setting]] = &[
    process::ROWS,
    auth::ROWS,
    clients::CLIENTS,
    delivery::ROWS,
    budgets::ROWS,
    HEALTH,
    TAIL,
    TOP,
];

/// The health check.
static HEALTH: &[Setting] = &[Setting::ms(
    Heading::HEALTH,
    "health-timeout-ms",
    (1, MINUTE_MS),
    "2000",
    "Time limit for the response",
)
.limit(
    "the check fails",
    Shows::Elsewhere("exit status 1"),
    "src/commands/health.rs::silence_and_a_closed_port_end_in_time",
)
.part(Part::Health)];

/// `weirgate tail`.
static TAIL: &[Setting] = &[Setting::new(
    Heading::TAIL,
    "token",
    Kind::Secret,
    "",
    "Token for the gateway, sent as Authorization: Bearer TOKEN",
)
.more("A token given as a flag is moved to the environment at once, out of the list of processes.")
.part(Part::Tail)];

/// `weirgate top`.
static TOP: &[Setting] = &[Setting::new(
    Heading::TOP,
    "authorization",
    Kind::Secret,
    "",
    "Header for a proxy with a login: Bearer TOKEN, or Basic BASE64 of USER:PASSWORD",
)
.more("A value given as a flag is moved to the environment at once, out of the list of processes.")
.part(Part::Top)];
