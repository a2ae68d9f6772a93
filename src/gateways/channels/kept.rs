//! The names of the kept feed. The bus sends their messages once and in one order, whatever clients hold; the
//! gateway finds the matching names of clients, so a message has the same position for all clients.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::ChannelsGateway;
use super::held::HeldPatterns;
use crate::auth::{NameError, NamePatterns, NameSyntax};
use crate::hub::{
    ConflationKey, CopyRank, Core, Frame, FrameBytes, Place, Publication, SessionKey, TopicName,
    Wanted,
};
use crate::wire::object_writer::quoted;

/// The text before the pattern in the frame of an exact name, behind the name.
const PATTERN: &str = r#","pattern":"#;
/// The text behind the position at the end of a frame.
const POSITION_END: &[u8] = br#""}"#;

/// The names read from the start, and the clients' patterns among them.
#[derive(Debug)]
pub struct KeptNames {
    syntax: NameSyntax,
    names: Vec<String>,
    patterns: NamePatterns,
    /// Names outside of the feed can be asked of the bus.
    has_others: bool,
    held: HeldPatterns,
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
            has_others: true,
            held: HeldPatterns::default(),
        })
    }

    /// The feed is a stream, which is read whole: nothing else can be asked of the bus.
    #[must_use]
    pub fn of_stream(self) -> Self {
        Self {
            has_others: false,
            ..self
        }
    }

    /// Whether neither the gateway nor the bus can find the messages of this name.
    pub(super) fn refuse(&self, name: &str) -> bool {
        !self.has_others && self.syntax.is_pattern(name) && !self.syntax.can_match(name)
    }

    /// Whether all messages of a client's name or pattern are of the feed. Of two patterns only the plain
    /// cases are decided; any other pattern is asked of the bus.
    pub(super) fn hold(&self, name: &str) -> bool {
        match self.syntax.is_pattern(name) {
            true => {
                let mut names = self.names.iter();
                names.any(|kept| self.syntax.contains(kept, name)) && self.syntax.can_match(name)
            }
            false => self.patterns.matches(name),
        }
    }

    /// Handles the first member of a name of the feed.
    pub(super) fn joined(&mut self, name: &TopicName) {
        if let Some(patterns) = self.patterns_of(name) {
            self.held.add(name, patterns);
        }
    }

    /// Handles the end of a name's last member.
    pub(super) fn left(&mut self, name: &TopicName) {
        self.held.remove(name);
    }

    /// The matcher of a name, if the name is a pattern.
    pub(super) fn patterns_of(&self, name: &TopicName) -> Option<NamePatterns> {
        let text = [name.as_str().to_owned()];
        let is_pattern = self.syntax.is_pattern(name.as_str());
        is_pattern.then(|| NamePatterns::new(self.syntax, &text).ok())?
    }

    /// The matching patterns with members, in the order of the copies.
    pub(super) fn matching(&mut self, name: &TopicName) -> impl Iterator<Item = &TopicName> {
        self.held.matching(name.as_str())
    }
}

impl ChannelsGateway {
    /// Publishes a message of the kept feed to the members of the matching patterns, and of the name. A
    /// client may be cut between two copies, so each copy has a position.
    pub(super) fn publish_kept(&mut self, core: &mut Core, publication: &Publication) {
        let (name, frame) = (&publication.topic, &publication.frame);
        let has_position = publication.place.position().is_some();
        let is_pattern = self.syntax().is_pattern(name.as_str());
        let kept = self.kept.iter_mut();
        let patterns = kept.flat_map(|kept| kept.matching(name));
        let variants: Vec<_> = patterns
            .map(|pattern| (pattern, variant(frame, name, pattern, core.frame_bytes())))
            .collect();
        for (pattern, frame) in &variants {
            core.publish(&Publication {
                topic: (*pattern).clone(),
                frame: Arc::clone(frame),
                place: Place::Outside,
                ..*publication
            });
        }
        match is_pattern {
            true => core.publish_to_nobody(publication),
            false => core.publish(publication),
        }
        for (pattern, frame) in variants.iter().filter(|_| has_position) {
            core.keep_variant(pattern, frame);
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

/// The frame of a message for clients of a pattern: with the pattern in place of `null`, and with the rank
/// of this copy behind the position.
pub(super) fn variant(
    frame: &Frame,
    name: &TopicName,
    pattern: &TopicName,
    alive: &FrameBytes,
) -> Arc<Frame> {
    let pattern_text = quoted(pattern.as_str());
    // The feed writes `,"channel":NAME,"pattern":null,…` behind the number.
    let before = r#","channel":"#.len() + quoted(name.as_str()).len() + PATTERN.len();
    let body = frame.body();
    let (before, rest) = body.split_at(before.min(body.len()));
    let rest = rest.strip_prefix(b"null").unwrap_or(rest);
    let (rest, suffix, end) = match rest.strip_suffix(POSITION_END) {
        Some(rest) if frame.has_position() => {
            let suffix = CopyRank::of_pattern(pattern.as_str()).suffix();
            (rest, suffix, POSITION_END)
        }
        _ => (rest, Vec::new(), &[][..]),
    };
    let parts = [before, pattern_text.as_bytes(), rest, &suffix, end];
    let mut builder = Frame::text(alive)
        .with_capacity(parts.iter().map(|part| part.len()).sum())
        .lead(frame.lead())
        .received(frame.received())
        .ending_like(frame, suffix.len());
    if let Some(ConflationKey(key)) = frame.key() {
        // Each copy is replaced by copies of the same kind.
        let key = FixedState::default().hash_one((key, pattern.as_str()));
        builder = builder.key(ConflationKey(key));
    }
    for part in parts {
        builder = builder.body(part);
    }
    builder.finish()
}
