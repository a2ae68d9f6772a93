//! Which names the messages of a stream have. The stream may store a message under another name than the one under
//! which it was published.

use std::sync::Arc;

use super::NameSyntax;

/// The subjects of the messages in a stream of NATS.
///
/// ```
/// use weirgate_wire::auth::{MovedSubjects, StreamSubjects};
///
/// let moved = MovedSubjects { from: "t.*.raw".into(), to: "raw.*".into() };
/// let subjects = StreamSubjects::new(vec!["t.>".into(), "raw.*".into()], Some(moved));
/// assert!(subjects.has_all_of("t.a.fine") && subjects.has_all_of("raw.a"));
/// assert!(!subjects.has_some_of("t.a.raw"), "published, and stored under another subject");
/// assert!(subjects.has_some_of("t.a.*") && !subjects.has_all_of("t.a.*"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamSubjects {
    stored: Arc<[String]>,
    moved: Option<Arc<MovedSubjects>>,
}

/// Subjects that a stream stores under others (`subject_transform`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovedSubjects {
    /// Under these, messages are published.
    pub from: String,
    /// Under these, the stream has them.
    pub to: String,
}

impl MovedSubjects {
    /// Whether the stream has no message under this name or pattern, whatever is published under it.
    fn takes_all_of(&self, name: &str) -> bool {
        let nats = NameSyntax::Nats;
        nats.contains(&self.from, name) && !nats.meets(&self.to, name)
    }

    /// Whether the stream has not all that is published under this name or pattern.
    fn takes_some_of(&self, name: &str) -> bool {
        let nats = NameSyntax::Nats;
        nats.meets(&self.from, name) && !nats.contains(&self.to, name)
    }
}

impl StreamSubjects {
    /// `stored`: the names and patterns of the messages in the stream. A pattern is whole in this list even if the
    /// stream stores a part of its names under others; `moved` says which part.
    pub fn new(stored: Vec<String>, moved: Option<MovedSubjects>) -> Self {
        Self {
            stored: stored.into(),
            moved: moved.map(Arc::new),
        }
    }

    /// The names and patterns of the messages in the stream, as in [`Self::new`].
    pub fn stored(&self) -> &[String] {
        &self.stored
    }

    /// The subjects that the stream stores under others.
    pub fn moved_from(&self) -> Option<&str> {
        self.moved.as_ref().map(|moved| &*moved.from)
    }

    /// Whether both streams store the same subjects under the same others, or neither does.
    pub fn moves_as(&self, other: &Self) -> bool {
        self.moved == other.moved
    }

    /// The subjects under which the stream stores all that is published under this name or pattern, if these are
    /// others. `None`: it may have messages under the name itself, or stores none of them.
    pub fn moved_to(&self, name: &str) -> Option<&str> {
        let moved = self.moved.as_ref();
        let moved = moved.filter(|moved| moved.takes_all_of(name));
        moved.map(|moved| &*moved.to)
    }

    /// Whether all messages of a name or pattern are in the stream.
    pub fn has_all_of(&self, name: &str) -> bool {
        let mut stored = self.stored.iter();
        let moved = self.moved.as_ref();
        stored.any(|stored| NameSyntax::Nats.contains(stored, name))
            && !moved.is_some_and(|moved| moved.takes_some_of(name))
    }

    /// Whether messages of a name or pattern may be in the stream.
    pub fn has_some_of(&self, name: &str) -> bool {
        let mut stored = self.stored.iter();
        stored.any(|stored| NameSyntax::Nats.meets(stored, name)) && self.moved_to(name).is_none()
    }
}

impl From<Vec<String>> for StreamSubjects {
    fn from(stored: Vec<String>) -> Self {
        Self::new(stored, None)
    }
}
