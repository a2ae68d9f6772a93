//! Flags and env: one table, from texts to checked values.
//!
//! A row ([`Setting`]) is data. A gateway has [`Rows`]: parts of the shared table, own rows, and
//! changes. The command line, the reading of the environment, `--help` and `--check` are all made from the
//! rows, so they cannot disagree. There are two stages: [`typed`] has the text and its source (flag, env,
//! default), [`Checked`] has the values, each allowed and all consistent. Each row writes a field of a group, a struct
//! whose `Default` has the only defaults; the users of the settings get the groups. Precedence, highest first: flag, the env names of the replaced gateway, `WEIRGATE_*`,
//! default; an empty value is unset.
//!
//! Knows no gateway. Never starts anything, and never reads the real environment: callers pass in arguments
//! and environment, so tests need no process. Called by `commands` and by programs that assemble a gateway.

mod checked;
mod field;
mod groups;
mod kind;
mod listen;
mod secret;
mod setting;
mod table;
pub mod typed;

pub(crate) use checked::flag;
pub use checked::{Check, Checked, CheckedValue};
pub use field::{At, Field, FieldValue, Group, Groups, Milli, With};
pub(crate) use field::{field, group};
pub use groups::{
    AuthSettings, BusSettings, KeySetUrl, NatsAccess, ProcessSettings, RedisAccess, StreamSettings,
    TLS_NAME, TailSettings, TlsSettings, TopSettings,
};
pub use kind::{Form, Kind, Refused, Unit, Value};
pub use listen::{Listen, ListenSettings};
pub use secret::{SecretText, SecretUrl};
pub use setting::{Given, Heading, Limit, MistakenEnv, Part, Setting, Shows};
pub use table::{Change, Rows, table};
pub(crate) use table::{has_flag, shared_flag};
pub use typed::{SettingsError, Source};
