//! What several gateways share: on the client side access, counts, histories and members; of their feeds the reading of
//! messages; of their starts keys and roles, the bus and its source, and the protocols for a client in a terminal.
//!
//! | file | owns |
//! | --- | --- |
//! | `access`, `identifiers`, `members` | of clients: refused tokens and rates; identifiers; members of their JSON |
//! | `history`, `statuses` | messages for a client that resumes; statuses of the bus |
//! | `feed`, `no_feed` | what every feed does; the feed of a gateway without a bus |
//! | `counts`, `metrics` | counters, and the metrics that several gateways have |
//! | `auth`, `roles` | the keys of tokens; the table of roles |
//! | `bus`, `open_bus` | which bus the settings name; its source |
//! | `dialects` | how a client in a terminal talks to each gateway |

pub(super) mod access;
#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell of a start"
)]
pub(super) mod auth;
#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell of a start"
)]
pub(super) mod bus;
pub(super) mod counts;
pub(super) mod dialects;
pub(super) mod feed;
pub(super) mod history;
pub(super) mod identifiers;
pub(super) mod members;
pub(super) mod metrics;
pub(super) mod no_feed;
pub(super) mod open_bus;
#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell of a start"
)]
pub(super) mod roles;
pub(super) mod statuses;
