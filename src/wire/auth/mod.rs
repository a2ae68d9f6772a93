//! Names and patterns of both buses, origins, and what the core and the settings know of tokens. Begin with
//! [`NamePatterns`].
//!
//! | file | owns |
//! | --- | --- |
//! | `names` | the syntax of names and patterns of either bus |
//! | `glob`, `glob_set`, `subject` | patterns of Redis; patterns of NATS |
//! | `stream_subjects` | which names a stream has |
//! | `match_budget` | the limit on the work of matching |
//! | `origins` | the check of an `Origin` |
//! | `token` | the rules for claims, why a token is refused, the marks of a token |
//!
//! Pure: the time is an argument. The check of tokens and the table of roles are in the crate of the gateways.

mod glob;
mod glob_set;
mod match_budget;
mod names;
mod origins;
mod stream_subjects;
mod subject;
mod token;

pub use match_budget::{MatchBudget, OverBudget};
pub use names::{NameError, NamePatterns, NameSyntax};
pub use origins::Origins;
pub use stream_subjects::{MovedSubjects, StreamSubjects};
pub use subject::Subject;
pub use token::{ClaimRules, Refusal, TokenMarks};
