//! `weirgate channels`: the settings, the pages and the start of the gateway.

mod bus;
mod pages;
mod rows;
mod start;

use self::start::start;
use super::auth::acl;
use crate::run::{GatewayKind, Print, TokenUse};
use crate::settings::{Part, Rows};

/// `weirgate channels`.
pub(super) const CHANNELS: GatewayKind = GatewayKind::new(
    "channels",
    "Relay Redis channels or NATS subjects that clients choose, with roles and limits",
    Rows::gateway(&[
        Part::Bus,
        Part::BusMessages,
        Part::Nats,
        Part::Redis,
        Part::RedisHost,
        Part::Json,
        Part::History,
        Part::HistoryMarks,
        Part::Stream,
        Part::StopCode,
        Part::RequireAuth,
        Part::Tokens,
    ])
    .own(&[rows::OWN])
    .changes(rows::CHANGES),
    start,
)
.check(rows::check)
.prints(PRINTS)
.dialect(super::dialects::CHANNELS)
.tokens(TokenUse::Roles(|checked| {
    acl(checked.path("acl").as_deref(), rows::syntax(checked))
}));

const PRINTS: &[Print] = &[Print {
    flag: "print-acl",
    help: "Show the table of who may subscribe to what, as JSON, and exit",
    text: |checked| {
        let file = checked.path("acl");
        acl(file.as_deref(), rows::syntax(checked)).map(|acl| acl.to_json())
    },
}];
