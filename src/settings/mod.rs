//! Flags and env: one table, typed, then resolved.
//!
//! The table ([`settings`]) is data. The command line, the reading of the environment, `--help`
//! and `--check` are all generated from it, so none of them can disagree with another. Two stages:
//! [`typed`] says what was given and by whom (flag, env, default), [`resolved`] holds plain structs
//! that the rest of the program takes. Precedence: the flag, over the env names of the gateway
//! that is replaced, over `WEIRGATE_*`, over the default; an empty value is unset.
//!
//! Never starts anything, and never reads the real environment: both arguments and environment are
//! handed in, so every rule here is tested without a process. Called by `main`.

pub mod banner;
pub mod cli;
mod command;
pub mod endpoint;
mod error;
mod kind;
mod limit;
pub mod relay;
pub mod resolved;
mod secret;
mod setting;
mod table;
#[cfg(test)]
mod tests;
pub mod typed;

pub use cli::{Exit, Invocation, parse};
pub use endpoint::EndpointSettings;
pub use error::{SettingsError, Warning};
pub use kind::{Kind, Unit, Value};
pub use limit::{Limit, Shows};
pub use relay::RelaySettings;
pub use resolved::{
    AuthSettings, ChannelsSettings, CommonSettings, DemoSettings, EventsSettings, LevelsSettings,
    LimitSettings, LogFormat, NatsAccess, NatsUser, RedisSettings, SendQueueSettings,
    SentinelSettings, TradesSettings,
};
pub use secret::{SecretText, SecretUrl};
pub use setting::{Heading, Setting, Subcommand};
pub use table::settings;
pub use typed::Source;
