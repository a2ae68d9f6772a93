//! Searches for what clients can say that makes a turn of the loop long: requests, orders of requests, and what the bus
//! does meanwhile are mutated, and what costs most CPU in one turn is mutated further. The time is that of the thread
//! alone, so other processes do not count.
//!
//! `TURN_SECONDS`: seconds for each gateway, 3 by default. `TURN_SEED`: 1 by default. `TURN_NAMES`: the most names of a
//! request. `make long-turns` searches longer, in a release build and with 100,000 names.

mod world;

mod long_turns {
    pub(super) mod acts;
    pub(super) mod cases;
    pub(super) mod channels;
    pub(super) mod events;
    pub(super) mod levels;
    pub(super) mod search;
    pub(super) mod trades;
    pub(super) mod turns;
}

use long_turns::cases::play_all;
use long_turns::search::search;
use long_turns::{channels, events, levels, trades};

#[test]
fn channels() {
    search::<channels::Channels>("channels");
}

#[test]
fn trades() {
    search::<trades::Trades>("trades");
}

#[test]
fn events() {
    search::<events::Events>("events");
}

#[test]
fn levels() {
    search::<levels::Levels>("levels");
}

#[test]
fn channels_of_very_many_names() {
    play_all::<channels::Channels>("channels", channels::cases());
}

#[test]
fn trades_of_very_many_symbols() {
    play_all::<trades::Trades>("trades", trades::cases());
}

#[test]
fn events_of_very_many_devices() {
    play_all::<events::Events>("events", events::cases());
}

#[test]
fn levels_of_very_many_members() {
    play_all::<levels::Levels>("levels", levels::cases());
}
