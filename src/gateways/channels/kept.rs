//! The names of the kept feed. The bus sends their messages once and in one order, whatever names clients hold. The
//! gateway finds the clients' names that match ([`super::patterns`]), so a message has the same position for all
//! clients.

use crate::auth::{NameError, NamePatterns, NameSyntax};
use crate::hub::{Core, SessionKey, TopicName, Wanted};

/// The names read from the start.
#[derive(Debug)]
pub struct KeptNames {
    syntax: NameSyntax,
    names: Vec<String>,
    patterns: NamePatterns,
    /// The bus can be asked for names outside of the feed.
    has_others: bool,
}

impl KeptNames {
    /// The list of names and patterns.
    ///
    /// # Errors
    /// The first text that is neither, and why.
    pub fn new(syntax: NameSyntax, names: Vec<String>) -> Result<Self, (String, NameError)> {
        Ok(Self {
            syntax,
            patterns: NamePatterns::new(syntax, &names)?,
            names,
            has_others: true,
        })
    }

    /// The feed is a stream, which weirgate reads whole, so the gateway can ask the bus for nothing else.
    #[must_use]
    pub fn of_stream(self) -> Self {
        Self {
            has_others: false,
            ..self
        }
    }

    /// Whether neither the gateway nor the bus can find the messages of this pattern.
    pub(super) fn cannot_match(&self, name: &str) -> bool {
        !self.has_others && self.syntax.is_pattern(name) && !self.syntax.can_match(name)
    }

    /// Whether the feed has all messages of a client's name or pattern. Whether a kept pattern contains the client's
    /// pattern is decided in the plain cases only; the gateway asks the bus for any other pattern.
    pub(super) fn covers(&self, name: &str) -> bool {
        match self.syntax.is_pattern(name) {
            true => {
                let mut names = self.names.iter();
                names.any(|kept| self.syntax.contains(kept, name)) && self.syntax.can_match(name)
            }
            false => self.patterns.matches(name),
        }
    }
}

/// Whether the client is a member of a name of the kept feed.
pub(super) fn holds_kept(core: &Core, key: SessionKey, kept: Option<&KeptNames>) -> bool {
    kept.is_some_and(|kept| core.joined(key).any(|name| kept.covers(name.as_str())))
}

/// A name to resume, with the matcher.
pub(super) fn wanted<'a>((name, patterns): &'a (TopicName, Option<NamePatterns>)) -> Wanted<'a> {
    Wanted {
        name,
        patterns: patterns.as_ref(),
    }
}
