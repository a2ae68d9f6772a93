//! Names that clients asked for and did not get, or held and lost: counts by reason, the newest for operators, and log
//! lines within a budget.
//!
//! A client may ask for thousands of names that it does not get. So a refusal costs a count and a comparison with the few
//! refusals that are kept, and no client displaces those of the others.

use std::collections::VecDeque;

use super::core::Core;
use super::gateway::Gateway;
use super::reason::labelled;
use super::session::user_in_log;
use super::{Hub, SessionKey, TopicName};
use weirgate_wire::admission::ClientAddr;
use weirgate_wire::base::LogBudget;

/// The most refusals that are kept.
const REFUSED_NAMES_MAX: usize = 128;

/// The most of them by one user at one address.
const REFUSED_NAMES_OF_ONE_MAX: usize = 8;

/// The most log lines a second about refused names, as about ended connections.
const LINES_PER_SECOND: u32 = 10;

/// Characters of a name that are kept.
const NAME_CHARS_MAX: usize = 128;

labelled! {
    /// Why a client does not get a name.
    pub enum NameRefusal {
        /// The role does not grant the name.
        Denied = "denied",
        /// The client's new token does not grant a name that the client held.
        NewToken = "new_token",
        /// The text is no name on this bus, or too long.
        Invalid = "invalid",
        /// The client or the user has reached a limit of its own.
        ClientLimit = "client_limit",
        /// A limit over all clients is reached.
        ServerLimit = "server_limit",
        /// The bus refuses the subscription.
        Bus = "bus",
    }
}

impl NameRefusal {
    /// The reason as the end of a sentence about the name.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Denied => "its role does not grant the name",
            Self::NewToken => "its new token does not grant the name",
            Self::Invalid => "this is no name on this bus, or too long",
            Self::ClientLimit => "a limit of the client or user is reached",
            Self::ServerLimit => "a limit over all clients is reached",
            Self::Bus => "the bus refuses the subscription",
        }
    }
}

/// A name that a client did not get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedName {
    /// When it was refused last, microseconds of the monotonic clock.
    pub at_us: u64,
    /// The connection that asked last.
    pub session: SessionKey,
    /// The client's address.
    pub client: ClientAddr,
    /// The beginning of the user's name, as in the log.
    pub user: Option<Box<str>>,
    /// The role, if the gateway has roles.
    pub role: Option<Box<str>>,
    /// The name as operators see it, cut to 128 characters.
    pub name: TopicName,
    /// The reason.
    pub reason: NameRefusal,
    /// How often it was refused.
    pub times: u64,
}

/// The beginning of a name, as it is kept.
fn shortened(name: &str) -> &str {
    let cut = name.char_indices().nth(NAME_CHARS_MAX);
    &name[..cut.map_or(name.len(), |(at, _)| at)]
}

impl RefusedName {
    /// Whether the client was of this user. Of a long name of a user only the beginning is compared.
    pub fn is_of_user(&self, user: &str) -> bool {
        self.user.as_deref() == Some(user_in_log(user))
    }

    /// Whether this was the name. Of a long name only the beginning is compared.
    pub fn is_of_name(&self, name: &TopicName) -> bool {
        self.name.as_str() == shortened(name.as_str())
    }
}

/// The refusals so far.
#[derive(Debug)]
pub(super) struct RefusedNames {
    /// The newest last.
    kept: VecDeque<RefusedName>,
    lines: LogBudget,
    /// What is to be logged: at most [`LINES_PER_SECOND`] between two turns of the loop.
    unlogged: VecDeque<(RefusedName, u64)>,
}

impl Default for RefusedNames {
    fn default() -> Self {
        Self {
            kept: VecDeque::new(),
            lines: LogBudget::new(LINES_PER_SECOND),
            unlogged: VecDeque::new(),
        }
    }
}

impl RefusedNames {
    /// The kept refusals, the newest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = &RefusedName> {
        self.kept.iter().rev()
    }

    /// Keeps a refusal as the newest. The same name of the same user at the same address is kept once.
    fn keep(&mut self, mut refused: RefusedName) {
        let is_of_same =
            |kept: &RefusedName| kept.client == refused.client && kept.user == refused.user;
        let is_same = |kept: &&RefusedName| {
            is_of_same(kept) && kept.name == refused.name && kept.reason == refused.reason
        };
        let same = self.kept.iter().position(|kept| is_same(&kept));
        let oldest_of_same = || {
            let mut of_same = self.kept.iter().enumerate().filter(|(_, k)| is_of_same(k));
            let oldest = of_same.next().map(|(at, _)| at);
            oldest.filter(|_| of_same.count() + 1 >= REFUSED_NAMES_OF_ONE_MAX)
        };
        let is_full = self.kept.len() >= REFUSED_NAMES_MAX;
        // The same refusal goes; else the oldest of this client, if it has many; else the oldest of all, if there are
        // many.
        let gone = same
            .or_else(oldest_of_same)
            .or_else(|| is_full.then_some(0));
        let gone = gone.and_then(|at| self.kept.remove(at));
        if let Some(same) = gone.filter(|_| same.is_some()) {
            refused.times += same.times;
        }
        self.kept.push_back(refused);
    }
}

impl Core {
    /// Records that a client does not get any of these names.
    pub fn note_refused_names(
        &mut self,
        key: SessionKey,
        names: &[TopicName],
        reason: NameRefusal,
    ) {
        // No more of one client are kept: a request may have thousands.
        let not_kept = names.len().saturating_sub(REFUSED_NAMES_OF_ONE_MAX);
        self.clients.stats.names_refused[reason as usize] += not_kept as u64;
        for name in &names[not_kept..] {
            self.note_refused_name(key, name.as_str(), reason);
        }
    }

    /// Records that a client does not get a name.
    pub fn note_refused_name(&mut self, key: SessionKey, name: &str, reason: NameRefusal) {
        let refused = &mut self.refused_names;
        self.clients.stats.names_refused[reason as usize] += 1;
        let Some(session) = self.clients.session(key) else {
            return;
        };
        let (user, role) = session.user_and_role();
        let name = TopicName::from(shortened(name));
        let refusal = RefusedName {
            at_us: self.now.mono_us,
            session: key,
            client: session.client_addr(),
            user: user.map(|user| user_in_log(user).into()),
            role: role.map(Into::into),
            name: (self.shown_topic)(&name),
            reason,
            times: 1,
        };
        if let Some(line) = refused.lines.line(self.now) {
            refused.unlogged.push_back((refusal.clone(), line));
        }
        refused.keep(refusal);
    }
}

impl<G: Gateway> Hub<G> {
    /// The next refused name for the log, with the number of lines left out before it.
    pub fn poll_refused_name(&mut self) -> Option<(RefusedName, u64)> {
        self.core.refused_names.unlogged.pop_front()
    }

    /// The budget of these lines.
    pub fn refused_name_lines(&mut self) -> &mut LogBudget {
        &mut self.core.refused_names.lines
    }
}
