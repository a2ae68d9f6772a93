//! Flags and environment: one table, from texts to checked values.
//!
//! A row ([`Setting`]) is data. A gateway has [`Rows`]: parts of the shared table, its own rows, and changes to rows.
//! The command line, the names in the environment, `--help` and `--check` are all made from the rows, so they cannot
//! disagree.
//!
//! There are two stages: `typed` has the text of each setting and its source (flag, environment, default);
//! [`Checked`] has the values, each allowed, and all checked against each other. Each row writes a field of a group: a
//! struct whose `Default` is the only place for the defaults. The code that uses settings gets whole groups.
//!
//! Precedence, highest first: flag, the environment names of the replaced gateway, `WEIRGATE_*`, default. An empty
//! value is unset.
//!
//! This module knows no gateway, starts nothing, and never reads the real environment: callers pass arguments and
//! environment in, so tests need no process. Called by `commands` and by programs that assemble a gateway.
//!
//! | file | owns |
//! | --- | --- |
//! | `setting`, `kind`, `field` | a row: its names, its kind of value, the field that it writes |
//! | `table`, `groups` | the shared rows; the groups that they write |
//! | `env`, `typed`, `checked`, `contradictions` | the environment; the two stages; checks of values against each other |
//! | `error`, `removed` | errors in settings; settings of earlier versions |
//! | `listen`, `key_set_url`, `secret` | values with rules of their own: addresses, the URL of a key set, secrets |
//! | `memory_share`, `processes` | the parts of a limit: of `--memory-max`, of several processes |

mod checked;
mod contradictions;
mod env;
mod error;
mod field;
mod groups;
mod key_set_url;
mod kind;
mod listen;
mod memory_share;
mod processes;
mod removed;
mod secret;
mod setting;
mod table;
mod typed;

pub(crate) use crate::flag;
pub(crate) use checked::SecretFile;
pub use checked::{Check, Checked, CheckedValue};
pub use env::Env;
pub(crate) use env::secret_text;
pub use error::SettingsError;
pub use field::{At, Field, Groups, Milli, With};
pub use groups::{AuthSettings, NatsAccess, RedisAccess};
pub(crate) use groups::{BusSettings, ProcessSettings, TlsSettings};
pub use key_set_url::KeySetUrl;
pub use kind::{Form, Kind, RefusedValue, Unit, Value, without_secrets};
pub use listen::ListenSettings;
pub use secret::{SecretText, SecretUrl};
pub use setting::{Counts, Given, Heading, Setting, Shows, TablePart};
pub use table::{RowChange, Rows};
pub use typed::Source;
