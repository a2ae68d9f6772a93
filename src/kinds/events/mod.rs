//! `weirgate events`: the gateway between devices and HTTP services.

mod broadcast;
mod bus;
mod pages;
mod rows;
mod start;

use crate::run::GatewayKind;
use crate::settings::{Part, Rows};

/// `weirgate events`.
pub(super) const EVENTS: GatewayKind = GatewayKind::new(
    "events",
    "Route devices' requests to HTTP services, and push events to devices",
    Rows::gateway(&[Part::Json, Part::History, Part::StopCode])
        .own(&[rows::OWN, bus::ROWS])
        .changes(rows::CHANGES),
    start::start,
)
.check(bus::check)
.dialect(super::dialects::EVENTS);
