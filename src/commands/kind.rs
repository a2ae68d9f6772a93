//! A gateway as a value: name, settings, start, its use of tokens, and the protocol for a client in a terminal. A program
//! is a list of such values.

use std::path::PathBuf;

use crate::auth::{Acl, Identity, TokenNameLimits};
use weirgate_server::run::{Prepare, Prepared, RunError};
use weirgate_server::settings::{Check, Checked, Rows};
use weirgate_wire::auth::Refusal;
use weirgate_wire::base::Finding;

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
    pub(crate) prints: &'static [Print],
    /// The protocol, for `weirgate tail`.
    pub(crate) dialect: Dialect,
    /// The use of clients' tokens.
    pub(crate) tokens: TokenUse,
    prepare: Prepare,
}

/// A gateway's use of its clients' tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TokenUse {
    /// Tokens are ignored.
    None,
    /// The claims apply, except the role. The function returns the most symbols of a client whose token has no limit.
    Claims(fn(&Checked) -> u32),
    /// The user is the client's name; the function refuses a token whose user cannot be one.
    Names(fn(&Identity) -> Result<(), Refusal>),
    /// The role must be in this table, which decides about the client's subscriptions.
    Roles(fn(&Checked) -> Result<RoleTable, RunError>),
}

/// The table of roles of a gateway, and what a client with a token gets from it.
#[derive(Clone, Debug)]
pub(crate) struct RoleTable {
    /// The table.
    pub acl: Acl,
    /// The limits of a client's own names.
    pub limits: TokenNameLimits,
    /// The role for a token without a role.
    pub default_role: String,
    /// The file of the table; `None` for the built-in table.
    pub file: Option<PathBuf>,
}

/// A flag that prints something instead of running the gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Print {
    /// The flag without its dashes.
    pub flag: &'static str,
    /// One line for `--help`.
    pub help: &'static str,
    /// Makes the text.
    pub text: fn(&Checked) -> Result<String, RunError>,
}

impl GatewayKind {
    /// A gateway of this name that `prepare` assembles ([`Parts::prepare`](weirgate_server::run::Parts::prepare)).
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
    pub(crate) const fn prints(mut self, prints: &'static [Print]) -> Self {
        self.prints = prints;
        self
    }

    /// Sets the protocol of the clients.
    #[must_use]
    pub(crate) const fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// Whether clients send tokens.
    pub(crate) fn takes_tokens(&self) -> bool {
        !matches!(self.tokens, TokenUse::None)
    }

    /// Sets the use of clients' tokens.
    #[must_use]
    pub(crate) const fn tokens(mut self, tokens: TokenUse) -> Self {
        self.tokens = tokens;
        self
    }

    /// Runs the gateway until a signal.
    ///
    /// # Errors
    /// The gateway could not start, the loop failed, or the bus was away for longer than allowed.
    pub(crate) fn run(&self, checked: &Checked) -> Result<(), RunError> {
        Prepared::start(self.name, checked, self.prepare)
    }

    /// Does the work of a start up to listening and connecting, without a log. Returns the gateway, and the warnings
    /// and errors that the start would log.
    pub(crate) fn check_start(
        &self,
        checked: &Checked,
    ) -> (Result<Prepared, RunError>, Vec<Finding>) {
        Prepared::check(checked, self.prepare)
    }
}

/// The protocol between a client and a gateway. The default is [`Dialect::PLAIN`]: every message is data, and
/// there are no subscriptions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialect {
    /// The path of the WebSocket.
    pub path: &'static str,
    /// The kind of names to subscribe to, for people; empty without subscriptions.
    pub names: &'static str,
    /// An example of such a name, in shell syntax.
    pub example: &'static str,
    /// Whether a message is the gateway's greeting of a new client.
    pub is_greeting: fn(&str) -> bool,
    /// The message that subscribes to these names, at most [`names_per_request`](Self::names_per_request).
    pub subscribe: fn(&[String]) -> String,
    /// The most names in a subscribe request.
    pub names_per_request: usize,
    /// Whether a request with several names is refused whole, because of any of them.
    pub refuses_whole: bool,
    /// What to do if all names are refused, for people.
    pub if_refused: &'static str,
    /// What a message says about the connection and its subscriptions, for people; `None` for data.
    pub status: fn(&str) -> Option<String>,
    /// What a message says about the bus behind the gateway; `None` for other messages. The requests of
    /// [`subscribe`](Self::subscribe) ask for such messages.
    pub bus: fn(&str) -> Option<BusWord>,
    /// `true` if a message grants at least a part of a subscribe request, `false` if it refuses the whole request;
    /// `None` for other messages. Each request gets one such message.
    pub grants: fn(&str) -> Option<bool>,
}

/// What a gateway says about its bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BusWord {
    /// Whether the bus is there.
    pub is_up: bool,
    /// Whether messages were lost since the gateway last said something about its bus.
    pub has_lost: bool,
}

impl Dialect {
    /// No subscriptions, and all messages are data.
    pub(crate) const PLAIN: Self = Self {
        path: "/",
        names: "",
        example: "",
        is_greeting: |_| false,
        subscribe: |_| String::new(),
        names_per_request: 1,
        refuses_whole: false,
        if_refused: "",
        status: |_| None,
        bus: |_| None,
        grants: |_| None,
    };
}
