//! The shared table: every setting that several gateways may have. The name, range and default of such a flag
//! are only here.
//!
//! One file for each part of the program. Rows are in the order of `--help`, each once, and the rows of one
//! heading are together. A gateway changes a row with [`super::Change`]. A row of one gateway alone is in the
//! folder of that gateway.

mod auth;
mod budgets;
mod buses;
mod clients;
mod delivery;
mod history;
mod process;
mod tls;

use super::kind::Kind;
use super::setting::{Heading, Part, Setting, Shows};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// The rows before a gateway's own rows.
pub(super) static BEFORE_OWN: &[&[Setting]] =
    &[clients::LISTENING, tls::ROWS, buses::NATS, buses::REDIS];

/// The rows after a gateway's own rows.
pub(super) static AFTER_OWN: &[&[Setting]] = &[
    process::ROWS,
    auth::ROWS,
    clients::CLIENTS,
    delivery::ROWS,
    history::ROWS,
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
