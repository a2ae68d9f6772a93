//! The names of the kept feed. The bus sends their messages once and in one order, whatever clients hold; the
//! gateway finds the matching names of clients, so a message has the same position for all clients.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::ChannelsGateway;
use crate::auth::{NameError, NamePatterns, NameSyntax};
use crate::hub::{
    ConflationKey, Core, Frame, FrameBytes, Place, Publication, SessionKey, TopicName, Wanted,
};
use crate::wire::object_writer::quoted;

/// The text before the pattern in the frame of an exact name, behind the name.
const PATTERN: &str = r#","pattern":"#;

/// The names read from the start, and the clients' patterns among them.
#[derive(Debug)]
pub struct KeptNames {
    syntax: NameSyntax,
    names: Vec<String>,
    patterns: NamePatterns,
    /// Patterns with members, compared with each message.
    held: Vec<(TopicName, NamePatterns)>,
}

impl KeptNames {
    /// The list of names and patterns.
    ///
    /// # Errors
    /// The first text of another kind, and why.
    pub fn new(syntax: NameSyntax, names: Vec<String>) -> Result<Self, (String, NameError)> {
        Ok(Self {
            syntax,
            patterns: NamePatterns::new(syntax, &names)?,
            names,
            held: Vec::new(),
        })
    }

    /// Whether all messages of a client's name or pattern are of the feed. Of two patterns only the plain
    /// cases are decided; any other pattern is asked of the bus.
    pub(super) fn hold(&self, name: &str) -> bool {
        match self.syntax.is_pattern(name) {
            true => self
                .names
                .iter()
                .any(|kept| self.syntax.contains(kept, name)),
            false => self.patterns.matches(name),
        }
    }

    /// Handles the first member of a name of the feed.
    pub(super) fn joined(&mut self, name: &TopicName) {
        if let Some(patterns) = self.patterns_of(name)
            && !self.held.iter().any(|(held, _)| held == name)
        {
            self.held.push((name.clone(), patterns));
        }
    }

    /// Handles the end of a name's last member.
    pub(super) fn left(&mut self, name: &TopicName) {
        self.held.retain(|(held, _)| held != name);
    }

    /// The matcher of a name, if the name is a pattern.
    pub(super) fn patterns_of(&self, name: &TopicName) -> Option<NamePatterns> {
        let text = [name.as_str().to_owned()];
        let is_pattern = self.syntax.is_pattern(name.as_str());
        is_pattern.then(|| NamePatterns::new(self.syntax, &text).ok())?
    }

    /// The matching patterns with members.
    pub(super) fn matching(&self, name: &TopicName) -> impl Iterator<Item = &TopicName> {
        let held = self.held.iter();
        let matching = held.filter(|(_, patterns)| patterns.matches(name.as_str()));
        matching.map(|(pattern, _)| pattern)
    }
}

impl ChannelsGateway {
    /// Publishes a message of the kept feed to the members of the name, and of the matching patterns.
    pub(super) fn publish_kept(&mut self, core: &mut Core, publication: &Publication) {
        core.publish(publication);
        let Some(kept) = &self.kept else { return };
        for pattern in kept.matching(&publication.topic) {
            let frame = &publication.frame;
            let frame = variant(frame, &publication.topic, pattern, core.frame_bytes());
            if publication.place.position().is_some() {
                core.keep_variant(pattern, &frame);
            }
            core.publish(&Publication {
                topic: pattern.clone(),
                frame,
                place: Place::Outside,
                ..*publication
            });
        }
    }
}

/// Whether the client is a member of a name of the kept feed.
pub(super) fn holds_kept(core: &Core, key: SessionKey, kept: Option<&KeptNames>) -> bool {
    kept.is_some_and(|kept| core.joined(key).any(|name| kept.hold(name.as_str())))
}

/// A name to resume, with the matcher.
pub(super) fn wanted<'a>((name, patterns): &'a (TopicName, Option<NamePatterns>)) -> Wanted<'a> {
    Wanted {
        name,
        patterns: patterns.as_ref(),
    }
}

/// The frame of a message for clients of a pattern: with the pattern in place of `null`.
pub(super) fn variant(
    frame: &Frame,
    name: &TopicName,
    pattern: &TopicName,
    alive: &FrameBytes,
) -> Arc<Frame> {
    let pattern_text = quoted(pattern.as_str());
    let body = frame.body();
    // The feed writes `,"channel":NAME,"pattern":null,…` behind the number.
    let before = r#","channel":"#.len() + quoted(name.as_str()).len() + PATTERN.len();
    let (before, rest) = body.split_at(before.min(body.len()));
    let rest = rest.strip_prefix(b"null").unwrap_or(rest);
    let mut builder = Frame::text(alive)
        .with_capacity(before.len() + pattern_text.len() + rest.len())
        .lead(frame.lead())
        .received(frame.received())
        .ending_like(frame);
    if let Some(ConflationKey(key)) = frame.key() {
        // Each copy is replaced by copies of the same kind.
        let key = FixedState::default().hash_one((key, pattern.as_str()));
        builder = builder.key(ConflationKey(key));
    }
    for part in [before, pattern_text.as_bytes(), rest] {
        builder = builder.body(part);
    }
    builder.finish()
}
