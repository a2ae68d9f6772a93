//! What a client in a terminal has to know of a gateway: `weirgate tail`.

use std::fmt;

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
