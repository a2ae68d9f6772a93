//! What the session gets of a question: values, ends of pages, and the end with the reason why values may be missing.

use std::sync::Arc;

use crate::requests::Question;
use crate::server_words::shown;
use crate::{NAME_NOT_UTF8, NAME_TOO_LONG};
use weirgate_core::{PageCursor, RetainedCut, StoredId};
use weirgate_wire::json::JsonError;

/// A value, or the end of a question.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::nats::subjects) enum RetainedEvent {
    /// A last value, or one of all messages.
    Value {
        question: Question,
        subject: Arc<str>,
        payload: Vec<u8>,
        /// Whether the value of the subject was deleted.
        is_deletion: bool,
        /// The message in its stream.
        id: Option<StoredId>,
    },
    /// The end of a page.
    Page {
        /// The question's number.
        number: u64,
        cursor: Arc<PageCursor>,
        /// Whether the question goes on.
        is_open: bool,
    },
    /// A question for last values that was not answered in time, or for now cannot be; another may go on from the cursor.
    Unanswered {
        question: Question,
        cursor: Arc<PageCursor>,
        /// For the log.
        why: NatsCut,
    },
    /// The end of a question, answered or not.
    End {
        question: Question,
        /// Why values are missing; `None` if they are whole.
        cut: Option<NatsCut>,
    },
}

/// Why values of a question are missing, with a text for the log. [`RetainedCut`] is the reason for clients.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::nats::subjects) enum NatsCut {
    #[error("a pattern has last values in more streams than weirgate looks through")]
    TooManyStreams,
    #[error("a pattern has last values of {NAME_NOT_UTF8}, or {NAME_TOO_LONG}, which are not sent")]
    Unnamed,
    #[error("no subject of the stream is in the name any more")]
    Off,
    #[error("messages after the position of a client are no longer in the stream")]
    Window,
    #[error("the position of a client is of another epoch of the stream")]
    Epoch,
    #[error("JetStream gives no last values: {0}")]
    Refused(String),
    #[error("an answer about last values cannot be read: {0}")]
    Unreadable(String),
}

impl From<JsonError> for NatsCut {
    fn from(error: JsonError) -> Self {
        Self::Unreadable(error.to_string())
    }
}

impl NatsCut {
    /// NATS refuses a question, with these words.
    pub(in crate::nats::subjects) fn refused(words: &str) -> Self {
        Self::Refused(shown(words))
    }

    /// An answer is so long that its end was not read.
    pub(in crate::nats::subjects) fn too_long() -> Self {
        Self::Unreadable("it is too long".to_owned())
    }

    /// An answer has no such member.
    pub(in crate::nats::subjects) fn lacks(member: &str) -> Self {
        Self::Unreadable(format!("it has no `{member}`"))
    }

    /// The reason for clients.
    pub(in crate::nats::subjects) const fn reason(&self) -> RetainedCut {
        match self {
            Self::TooManyStreams => RetainedCut::Limit,
            Self::Unnamed => RetainedCut::Unnamed,
            Self::Off => RetainedCut::Off,
            Self::Window => RetainedCut::Window,
            Self::Epoch => RetainedCut::Epoch,
            Self::Refused(_) => RetainedCut::Refused,
            Self::Unreadable(_) => RetainedCut::Unreadable,
        }
    }
}
