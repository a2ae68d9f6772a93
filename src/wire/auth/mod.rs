//! Who a client is and which names it may have: tokens and their keys, roles and their permissions, names and patterns of
//! both buses, origins. Begin with [`Authenticator`] for tokens, with [`Rights`] for names.
//!
//! | file | owns |
//! | --- | --- |
//! | `verify`, `claims`, `token` | the check of a token; the claims in it; the token in a request |
//! | `key_ring`, `keys` | the keys in force, and the key for a token |
//! | `rights`, `acl`, `template` | the names of a user: by the roles of the table, made from claims, and in the token |
//! | `names` | the syntax of names and patterns of either bus |
//! | `glob`, `glob_set`, `subject` | patterns of Redis; patterns of NATS |
//! | `match_budget`, `remembered` | limits on the work of matching; remembered verdicts |
//! | `origins` | the check of an `Origin` |
//!
//! Pure: the time is an argument, and keys come as texts. Called by the gateways.

mod acl;
mod claims;
mod glob;
mod glob_set;
mod key_ring;
mod keys;
mod match_budget;
mod names;
mod origins;
mod remembered;
mod rights;
mod subject;
mod template;
mod token;
mod verify;

pub use acl::{Acl, AclChanges, Undecided, UnfilledName};
pub use claims::TokenClaims;
pub use glob::Glob;
pub use key_ring::KeyRing;
pub use keys::KeySet;
pub use match_budget::{MatchBudget, OverBudget};
pub use names::{NameError, NamePatterns, NameSyntax};
pub use origins::Origins;
pub use remembered::Remembered;
pub use rights::{Rights, RightsCheck, TokenNameLimits};
pub use subject::Subject;
pub use token::{ApiKey, Token, TokenMarks};
pub use verify::{Authenticator, ClaimRules, Identity, Refusal, RefusedToken};
