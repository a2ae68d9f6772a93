//! A gateway as one value: what it is called, which settings it has, what runs it, and what a client in a
//! terminal has to know of it.

use std::fmt;

use super::prepared::{Prepared, with_notices};
use super::process::{check_process, start_process};
use super::{RunError, reload};
use crate::auth::Acl;
use crate::base::{Clock, Finding};
use crate::settings::{Check, Checked, Rows};

/// A gateway as one value. A program is a list of these ([`crate::commands::Program`]): its
/// subcommands, `--help`, `--check`, `WEIRGATE_GATEWAY` and `health` are made from the list.
#[derive(Clone, Copy, Debug)]
pub struct GatewayKind {
    /// The word on the command line, and the label of the metrics.
    pub name: &'static str,
    /// One line for the list of subcommands.
    pub about: &'static str,
    /// Its settings.
    pub rows: Rows,
    /// What its settings have to fit together in, besides what the shared ones have to.
    pub check: Check,
    /// Flags that show something and end.
    pub prints: &'static [Print],
    /// How `weirgate tail` speaks with it.
    pub dialect: Dialect,
    /// What it makes of its clients' tokens.
    pub tokens: TokenUse,
    prepare: Prepare,
}

/// What a gateway makes of the tokens of its clients.
#[derive(Clone, Copy, Debug)]
pub enum TokenUse {
    /// It looks at none.
    None,
    /// The claims count, but for the role.
    Claims,
    /// The role has to be in this table, and decides what the client may subscribe to.
    Roles(fn(&Checked) -> Result<Acl, RunError>),
}

/// What puts a gateway together, up to the moment where it listens. Reads every file that the
/// settings name; binds nothing and connects to nobody. What it logs as an error can never work, and
/// a check of the settings fails for it.
type Prepare = fn(&Checked, Clock) -> Result<Prepared, RunError>;

/// A flag that shows something instead of running the gateway.
#[derive(Clone, Copy)]
pub struct Print {
    /// The flag without its dashes.
    pub flag: &'static str,
    /// One line for `--help`.
    pub help: &'static str,
    /// Makes the text.
    pub text: fn(&Checked) -> Result<String, RunError>,
}

impl fmt::Debug for Print {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Print({})", self.flag)
    }
}

impl GatewayKind {
    /// A gateway of this name, which `prepare` puts together
    /// ([`Parts::prepare`](super::Parts::prepare)).
    pub const fn new(
        name: &'static str,
        about: &'static str,
        rows: Rows,
        prepare: Prepare,
    ) -> Self {
        Self {
            name,
            about,
            rows,
            check: |_| Vec::new(),
            prints: &[],
            dialect: Dialect::PLAIN,
            tokens: TokenUse::None,
            prepare,
        }
    }

    /// With settings that have to fit together.
    #[must_use]
    pub const fn check(mut self, check: Check) -> Self {
        self.check = check;
        self
    }

    /// With flags that show something and end.
    #[must_use]
    pub const fn prints(mut self, prints: &'static [Print]) -> Self {
        self.prints = prints;
        self
    }

    /// With clients that speak in a way of their own.
    #[must_use]
    pub const fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// Its clients bring tokens.
    pub fn takes_tokens(&self) -> bool {
        !matches!(self.tokens, TokenUse::None)
    }

    /// With clients that bring tokens.
    #[must_use]
    pub const fn tokens(mut self, tokens: TokenUse) -> Self {
        self.tokens = tokens;
        self
    }

    /// Runs it until a signal.
    ///
    /// # Errors
    /// It could not start, the loop failed, or the bus was away for longer than was allowed.
    pub fn run(&self, checked: &Checked) -> Result<(), RunError> {
        reload::expect_signals();
        let clock = start_process(checked)?;
        let ended = self.prepare(checked, clock).and_then(Prepared::run);
        ended.map_err(|error| error.of_settings(checked))
    }

    /// All that a start does before it listens and connects, without a log: what the start would
    /// have logged as a warning or an error comes back beside the gateway.
    pub fn check_start(&self, checked: &Checked) -> (Result<Prepared, RunError>, Vec<Finding>) {
        let prepare = || {
            let prepared = self.prepare(checked, check_process(checked)?);
            prepared.map_err(|error| error.of_settings(checked))
        };
        with_notices(prepare)
    }

    fn prepare(&self, checked: &Checked, clock: Clock) -> Result<Prepared, RunError> {
        let prepared = (self.prepare)(checked, clock)?;
        let unread = checked.unread();
        debug_assert!(unread.is_empty(), "settings without effect: {unread:?}");
        Ok(prepared)
    }
}

/// How a client speaks with a gateway. A gateway without one of its own is [`Dialect::PLAIN`]: every
/// message is data, and there is nothing to subscribe to.
#[derive(Clone, Copy)]
pub struct Dialect {
    /// The path of the WebSocket.
    pub path: &'static str,
    /// What a client names to subscribe, for people; empty if there is nothing to subscribe to.
    pub names: &'static str,
    /// One of these, as it is typed in a shell.
    pub example: &'static str,
    /// Whether a message is the one with which the gateway greets a new client.
    pub is_greeting: fn(&str) -> bool,
    /// The messages that subscribe to these names.
    pub subscribe: fn(&[String]) -> Vec<String>,
    /// What a message says about the connection and its subscriptions, for people; `None`: data.
    pub status: fn(&str) -> Option<String>,
}

impl Dialect {
    /// Nothing to subscribe to, and all messages are data.
    pub const PLAIN: Self = Self {
        path: "/",
        names: "",
        example: "",
        is_greeting: |_| false,
        subscribe: |_| Vec::new(),
        status: |_| None,
    };
}

impl fmt::Debug for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dialect({})", self.path)
    }
}
