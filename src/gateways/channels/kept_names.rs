//! The names of the kept feed, whose messages the bus sends without a request, once and in one order, whatever names clients
//! hold. The gateway finds the clients' names that match ([`super::patterns`]), so a message has the same position for all
//! clients.

use std::collections::HashSet;

use foldhash::quality::RandomState;

use weirgate_wire::auth::{NameError, NamePatterns, NameSyntax, StreamSubjects};

/// The names and patterns of the kept feed, and which of them the bus refuses.
#[derive(Debug)]
pub(super) struct KeptNames {
    syntax: NameSyntax,
    names: Vec<String>,
    patterns: NamePatterns,
    /// The subjects of the stream that is the feed, once these are known: it may store some under others.
    subjects: StreamSubjects,
    /// The names that the bus refuses.
    refused: HashSet<String, RandomState>,
    /// The matcher of the names that the bus does not refuse. `None` while it refuses none.
    accepted: Option<NamePatterns>,
    /// The feed is a stream, which weirgate reads whole. The names are then its subjects, once these are known.
    is_stream: bool,
}

impl KeptNames {
    /// The list of names and patterns.
    ///
    /// # Errors
    /// The first text that is neither, and why.
    pub(super) fn new(syntax: NameSyntax, names: Vec<String>) -> Result<Self, (String, NameError)> {
        Ok(Self {
            syntax,
            patterns: NamePatterns::new(syntax, &names)?,
            names,
            subjects: StreamSubjects::default(),
            refused: HashSet::default(),
            accepted: None,
            is_stream: false,
        })
    }

    /// The list of names and patterns of a feed that is a stream. As soon as the bus has said the subjects of the stream,
    /// these are its names.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(super) fn of_stream(
        syntax: NameSyntax,
        names: Vec<String>,
    ) -> Result<Self, (String, NameError)> {
        let names = Self::new(syntax, names)?;
        Ok(Self {
            is_stream: true,
            ..names
        })
    }

    /// Records whether the bus refuses a name of the list, and ignores other names. Returns true if this is new.
    pub(super) fn settle(&mut self, name: &str, is_refused: bool) -> bool {
        let is_new = match is_refused {
            // The subjects of a stream are not requested by name.
            true if self.is_stream || !self.names.iter().any(|kept| kept == name) => false,
            true => self.refused.insert(name.to_owned()),
            false => self.refused.remove(name),
        };
        if is_new {
            self.match_accepted();
        }
        is_new
    }

    /// Prepares to match the accepted names, unless all are accepted.
    fn match_accepted(&mut self) {
        let accepted: Vec<String> = self.accepted().cloned().collect();
        let accepted = NamePatterns::new(self.syntax, &accepted).ok();
        self.accepted = accepted.filter(|_| !self.refused.is_empty());
    }

    fn accepted(&self) -> impl Iterator<Item = &String> {
        let refused = |name: &&String| !self.refused.contains(*name);
        self.names.iter().filter(refused)
    }

    /// Whether the bus refuses every name of the list that contains this name of a client.
    pub(super) fn is_refused(&self, name: &str) -> bool {
        self.accepted.as_ref().is_some_and(|accepted| {
            let is_accepted = match self.syntax.is_pattern(name) {
                true => (self.accepted()).any(|kept| self.syntax.contains(kept, name)),
                false => accepted.matches(name),
            };
            !is_accepted && self.covers(name)
        })
    }

    /// Which of these subjects the stream did not have before; `None`: it had all of them, or the feed is no stream.
    pub(super) fn new_among(&self, subjects: &StreamSubjects) -> Option<NamePatterns> {
        let had = |subject: &String| {
            let mut names = self.names.iter();
            names.any(|name| self.syntax.contains(name, subject))
        };
        // What the stream stored under other subjects (`subject_transform`) until now. If that has changed, it may
        // store these messages under their own subjects from now on.
        let moved = self.subjects.moved_from();
        let moved = moved.filter(|_| !self.subjects.moves_as(subjects));
        let stored = subjects.stored().iter();
        let new = stored.filter(|one| !had(one)).cloned();
        let new: Vec<String> = new.chain(moved.map(str::to_owned)).collect();
        let new = Some(new).filter(|new| !new.is_empty() && self.is_stream);
        new.and_then(|new| NamePatterns::new(self.syntax, &new).ok())
    }

    /// Takes the subjects of the stream that is the kept feed. Returns false, and changes nothing, if there are none,
    /// if they are no names of this bus, or if the feed is no stream.
    pub(super) fn set_subjects(&mut self, subjects: &StreamSubjects) -> bool {
        let stored = subjects.stored();
        let patterns = NamePatterns::new(self.syntax, stored).ok();
        let patterns = patterns.filter(|_| self.is_stream && !stored.is_empty());
        patterns.is_some_and(|patterns| {
            self.patterns = patterns;
            self.names = stored.to_vec();
            self.subjects = subjects.clone();
            true
        })
    }

    /// Whether the kept feed is a stream.
    pub(super) fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// Whether neither the gateway nor the bus can find the messages of this pattern.
    pub(super) fn cannot_match(&self, name: &str) -> bool {
        self.is_stream && self.syntax.is_pattern(name) && !self.syntax.can_match(name)
    }

    /// Whether the feed has all messages of a client's name or pattern. Whether a kept pattern contains the client's
    /// pattern is decided in the plain cases only; the gateway asks the bus for any other pattern. A pattern that is
    /// wider than the subjects of a stream brings only what the stream has: on the bus, weirgate would get the same
    /// messages again, and also its own requests to JetStream and what JetStream delivers. A stream does not have under
    /// this name what it stores under another (`subject_transform`).
    pub(super) fn covers(&self, name: &str) -> bool {
        if self.subjects.moved_to(name).is_some() {
            return false;
        }
        match self.syntax.is_pattern(name) {
            true if self.is_stream => {
                let mut names = self.names.iter();
                names.any(|kept| self.syntax.meets(kept, name)) && self.syntax.can_match(name)
            }
            true => {
                let mut names = self.names.iter();
                names.any(|kept| self.syntax.contains(kept, name)) && self.syntax.can_match(name)
            }
            false => self.patterns.matches(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weirgate_wire::auth::MovedSubjects;

    #[test]
    fn what_a_stream_stores_under_another_subject_comes_from_the_bus() {
        let text = str::to_owned;
        let mut kept = KeptNames::of_stream(NameSyntax::Nats, vec![text(">")]).expect("names");
        let moved = MovedSubjects {
            from: text("t.*.raw"),
            to: text("raw.*"),
        };
        let stored = vec![text("t.>"), text("raw.*")];
        assert!(kept.set_subjects(&StreamSubjects::new(stored.clone(), Some(moved))));
        for name in ["t.a.fine", "raw.a", "t.>", "t.*.*", "raw.*", ">"] {
            assert!(kept.covers(name), "{name}");
        }
        for name in ["t.a.raw", "t.*.raw", "x"] {
            assert!(!kept.covers(name), "{name}");
        }
        // The stream stores them as they are published from here on.
        let whole = StreamSubjects::from(stored);
        let new = kept.new_among(&whole).expect("names");
        assert!(new.matches("t.a.raw") && !new.matches("t.a.fine"));
        assert!(kept.set_subjects(&whole) && kept.covers("t.a.raw"));
        assert!(kept.new_among(&whole).is_none());
    }
}
