//! A program as a list of gateways, and a gateway as a value: name, settings, start, and the protocol for a client in a
//! terminal.

use super::prepared::{Prepared, with_notices};
use super::process::{check_process, start_process};
use super::{RunError, reload};
use std::path::PathBuf;

use crate::auth::{Acl, TokenNameLimits};
use crate::base::{Clock, Finding};
use crate::settings::{Check, Checked, Rows};

/// A program: words, and gateways. The command line makes subcommands, `--help`, `--check`,
/// `WEIRGATE_GATEWAY` and `health` from the list.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The name on the command line.
    pub name: &'static str,
    /// One line for `--help`.
    pub about: &'static str,
    /// The end of `--help`.
    pub start_with: &'static str,
    /// The gateways, in the order of `--help`; not empty. `health` asks the first by default. If there is
    /// only one, the subcommand may be left out.
    pub gateways: &'static [GatewayKind],
}

impl Program {
    /// Returns the gateway with this name.
    pub fn gateway(&self, name: &str) -> Option<&'static GatewayKind> {
        self.gateways.iter().find(|gateway| gateway.name == name)
    }
}

/// A gateway as one value.
#[derive(Clone, Copy, Debug)]
pub struct GatewayKind {
    /// The word on the command line, and the label of the metrics.
    pub name: &'static str,
    /// One line for the list of subcommands.
    pub about: &'static str,
    /// The settings.
    pub rows: Rows,
    /// The check of the gateway's settings against each other, besides the checks of shared settings.
    pub check: Check,
    /// Flags that print something and exit.
    pub prints: &'static [Print],
    /// The protocol, for `weirgate tail`.
    pub dialect: Dialect,
    /// The use of clients' tokens.
    pub tokens: TokenUse,
    prepare: Prepare,
}

/// A gateway's use of its clients' tokens.
#[derive(Clone, Copy, Debug)]
pub enum TokenUse {
    /// Tokens are ignored.
    None,
    /// The claims count, but for the role. The symbols of a client whose token has no limit.
    Claims(fn(&Checked) -> u32),
    /// The role must be in this table, and decides about the client's subscriptions.
    Roles(fn(&Checked) -> Result<RoleTable, RunError>),
}

/// The table of roles of a gateway, and what a client with a token gets from it.
#[derive(Clone, Debug)]
pub struct RoleTable {
    /// The table.
    pub acl: Acl,
    /// The limits of a client's own names.
    pub limits: TokenNameLimits,
    /// The role of a token without one.
    pub default_role: String,
    /// The file of the table; `None` for the built-in table.
    pub file: Option<PathBuf>,
}

/// Assembles a gateway up to listening. Reads every file in the settings, without a bind or a connection. An
/// error in the log means that the gateway can never work: a check of the settings fails then.
type Prepare = fn(&Checked, Clock) -> Result<Prepared, RunError>;

/// A flag that prints something instead of running the gateway.
#[derive(Clone, Copy, Debug)]
pub struct Print {
    /// The flag without its dashes.
    pub flag: &'static str,
    /// One line for `--help`.
    pub help: &'static str,
    /// Makes the text.
    pub text: fn(&Checked) -> Result<String, RunError>,
}

impl GatewayKind {
    /// A gateway of this name that `prepare` assembles ([`Parts::prepare`](super::Parts::prepare)).
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

    /// Sets the check of the settings against each other.
    #[must_use]
    pub const fn check(mut self, check: Check) -> Self {
        self.check = check;
        self
    }

    /// Sets flags that print something and exit.
    #[must_use]
    pub const fn prints(mut self, prints: &'static [Print]) -> Self {
        self.prints = prints;
        self
    }

    /// Sets the protocol of the clients.
    #[must_use]
    pub const fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// Whether clients send tokens.
    pub fn takes_tokens(&self) -> bool {
        !matches!(self.tokens, TokenUse::None)
    }

    /// Sets the use of clients' tokens.
    #[must_use]
    pub const fn tokens(mut self, tokens: TokenUse) -> Self {
        self.tokens = tokens;
        self
    }

    /// Runs the gateway until a signal.
    ///
    /// # Errors
    /// The gateway could not start, the loop failed, or the bus was away for longer than allowed.
    pub fn run(&self, checked: &Checked) -> Result<(), RunError> {
        reload::expect_signals();
        let clock = start_process(checked)?;
        let ended = self.prepare(checked, clock).and_then(Prepared::run);
        ended.map_err(|error| error.of_settings(checked))
    }

    /// Does the work of a start before listening and connecting, without a log. Returns the gateway, and the
    /// warnings and errors of the start's log.
    pub fn check_start(&self, checked: &Checked) -> (Result<Prepared, RunError>, Vec<Finding>) {
        let prepare = || {
            let prepared = self.prepare(checked, check_process(checked)?);
            prepared.map_err(|error| error.of_settings(checked))
        };
        with_notices(prepare)
    }

    fn prepare(&self, checked: &Checked, clock: Clock) -> Result<Prepared, RunError> {
        (self.prepare)(checked, clock)
    }
}

/// The protocol between a client and a gateway. The default is [`Dialect::PLAIN`]: every message is data, and
/// there are no subscriptions.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    /// The path of the WebSocket.
    pub path: &'static str,
    /// The kind of names to subscribe to, for people; empty without subscriptions.
    pub names: &'static str,
    /// An example of such a name, in shell syntax.
    pub example: &'static str,
    /// Whether a message is the gateway's greeting of a new client.
    pub is_greeting: fn(&str) -> bool,
    /// The messages that subscribe to these names.
    pub subscribe: fn(&[String]) -> Vec<String>,
    /// The news of a message about the connection and its subscriptions, for people; `None` for data.
    pub status: fn(&str) -> Option<String>,
    /// Whether a message grants a part of a subscribe request, or refuses a whole request; `None` for other
    /// messages. Each request has one such message.
    pub grants: fn(&str) -> Option<bool>,
}

impl Dialect {
    /// No subscriptions, and all messages are data.
    pub const PLAIN: Self = Self {
        path: "/",
        names: "",
        example: "",
        is_greeting: |_| false,
        subscribe: |_| Vec::new(),
        status: |_| None,
        grants: |_| None,
    };
}
