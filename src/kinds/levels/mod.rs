//! `weirgate levels` and `weirgate demo`: the same feed and gateway, on NATS or on a simulated market.

mod endpoint;
mod pages;
mod relay;
mod rows;
mod slow;
mod start;

use self::rows::LevelsSettings;
use self::start::{demo, start};
use crate::feeds::levels::KEYS;
use crate::run::GatewayKind;
use crate::settings::{Checked, Part, Rows, SettingsError};

/// `weirgate levels`.
pub(super) const LEVELS: GatewayKind = GatewayKind::new(
    "levels",
    "Relay level signals and market flow from NATS JetStream",
    Rows::gateway(&[
        Part::Bus,
        Part::BusMessages,
        Part::JetStream,
        Part::Nats,
        Part::StopCode,
    ])
    .own(&[rows::OF_LEVELS, rows::OF_BOTH])
    .defaults(rows::defaults),
    start,
)
.check(contradictions)
.dialect(super::dialects::LEVELS);

/// `weirgate demo`.
pub(super) const DEMO: GatewayKind = GatewayKind::new(
    "demo",
    "Run the levels gateway with a simulated market, without a broker",
    Rows::gateway(&[Part::Bus, Part::BusMessages, Part::StopCode])
        .own(&[rows::OF_BOTH, rows::OF_DEMO])
        .changes(rows::DEMO_CHANGES)
        .defaults(rows::demo_defaults),
    demo,
)
.check(unknown_keys)
.dialect(super::dialects::LEVELS);

/// The endpoints with keys outside the payload.
fn unknown_keys(checked: &Checked) -> Vec<SettingsError> {
    let own: LevelsSettings = checked.get();
    let relayed = own.relays.iter().map(|relay| relay.key.as_str());
    let known: Vec<_> = KEYS.into_iter().chain(relayed).collect();
    let refused = own.endpoints.iter().filter_map(|e| e.unknown_key(&known));
    let flag = rows::OF_BOTH[0].flag;
    refused.map(|r| checked.refused(flag, &r)).collect()
}

/// The settings of `weirgate levels` that exclude each other.
fn contradictions(checked: &Checked) -> Vec<SettingsError> {
    let nothing = rows::nothing_to_read(checked);
    nothing.into_iter().chain(unknown_keys(checked)).collect()
}
