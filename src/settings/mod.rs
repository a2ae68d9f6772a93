//! Flags and env: one table, from texts to checked values.
//!
//! A row ([`Setting`]) is data. A gateway has [`Rows`]: parts of the shared table, own rows, and
//! changes. The command line, the reading of the environment, `--help` and `--check` are all made from the
//! rows, so they cannot disagree. There are two stages: [`typed`] has the text and its source (flag, env,
//! default), [`Checked`] has the values, each allowed and all consistent. A gateway makes its own settings of
//! the checked values. Precedence, highest first: flag, the env names of the replaced gateway, `WEIRGATE_*`,
//! default; an empty value is unset.
//!
//! Knows no gateway. Never starts anything, and never reads the real environment: callers pass in arguments
//! and environment, so tests need no process. Called by `commands` and by programs that assemble a gateway.

mod checked;
mod error;
mod groups;
mod kind;
mod listen;
mod memory;
mod secret;
mod setting;
mod table;
pub mod typed;

pub use checked::{Check, Checked, CheckedValue};
pub use error::{SettingsError, Warning};
pub use groups::{AuthSettings, HTTP_MEMORY_PART, KeySetUrl, RESUME_MEMORY_PART, TLS_NAME};
pub use kind::{Form, Kind, Refused, Unit, Value};
pub use secret::{SecretText, SecretUrl};
pub use setting::{Heading, Limit, MistakenEnv, Part, Setting, Shows};
pub use table::{Change, Rows, table};
pub use typed::Source;
