//! Flags and env: one table, typed, then checked.
//!
//! A row ([`Setting`]) is data. A gateway has [`Rows`]: parts of the shared table, its own rows, and
//! where it differs. The command line, the reading of the environment, `--help` and `--check` are
//! all made from them, so none of them can disagree with another. Two stages: [`typed`] says what
//! was given and by whom (flag, env, default), [`Checked`] holds the values, each allowed, all
//! fitting together; a gateway makes its own settings of them where it is put together.
//! Precedence, highest first: flag, the env names of the gateway that is replaced, `WEIRGATE_*`,
//! default; an empty value is unset.
//!
//! Knows no gateway. Never starts anything, and never reads the real environment: both arguments
//! and environment are handed in, so every rule here is tested without a process. Called by
//! `commands` and by whoever puts a gateway together.

mod checked;
mod error;
mod groups;
mod kind;
mod listen;
mod rows;
mod secret;
mod setting;
mod table;
pub mod typed;

pub use checked::{Check, Checked, CheckedValue};
pub use error::{SettingsError, Warning};
pub use groups::{AuthSettings, NatsAccess, NatsUser, RedisAccess, SentinelSettings, TLS_NAME};
pub use kind::{Form, Kind, Refused, Unit, Value};
pub use rows::{Change, Rows, table};
pub use secret::{SecretText, SecretUrl};
pub use setting::{Heading, Limit, Part, Setting, Shows};
pub use typed::Source;
