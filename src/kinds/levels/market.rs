//! `--market`: whether the two subjects of the market are read beside relays.

use super::relay;
use crate::settings::{Checked, Refused, SettingsError};

/// The words of `--market`, the default first.
pub(super) const WORDS: [&str; 3] = [AUTO, "on", OFF];
const AUTO: &str = "auto";
const OFF: &str = "off";

/// Whether `levels.signals` and `market.flow` are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Market {
    /// If one of their streams exists.
    IfThere,
    /// Always; missing streams are made.
    On,
    /// Never.
    Off,
}

/// The market of these settings. Without a relay there is nothing else to read, so `auto` is `on`.
pub(super) fn of(checked: &Checked) -> Market {
    match checked.choice("market") {
        AUTO if !relay::of(checked).is_empty() => Market::IfThere,
        OFF => Market::Off,
        _ => Market::On,
    }
}

/// The error of settings with nothing to read.
pub(super) fn nothing_to_read(checked: &Checked) -> Option<SettingsError> {
    let is_nothing =
        checked.has("market") && of(checked) == Market::Off && relay::of(checked).is_empty();
    let allowed = || "auto, on, or at least one --relay beside off".to_owned();
    is_nothing.then(|| checked.refused("market", &Refused::new(OFF, allowed())))
}
