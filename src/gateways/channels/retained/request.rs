//! The requests to the bus about last values.

use std::sync::Arc;

use weirgate_core::{PageCursor, TopicName};
use weirgate_wire::admission::ClientAddr;

/// What the bus is asked about last values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetainedRequest {
    /// A question about a name: its first page.
    Ask {
        /// The channel or pattern.
        name: TopicName,
        /// The wider pattern that the bus is asked for in place of the name; chosen when the request goes to the bus.
        cover: Option<TopicName>,
        /// The number of the question.
        number: u64,
        /// What was read before.
        after: Arc<PageCursor>,
        /// Who asks: of several, one whose address has the fewest questions at the bus.
        client: ClientAddr,
    },
    /// A question about a name, to the stream that is the kept feed: the first page of all messages.
    All {
        /// The channel or pattern; empty for the whole stream.
        name: TopicName,
        /// The number of the question.
        number: u64,
        /// What was read before.
        after: Arc<PageCursor>,
        /// Who asks: of several, one whose address has the fewest questions at the bus.
        client: ClientAddr,
        /// The channels and patterns that clients wait for.
        names: Arc<[TopicName]>,
    },
    /// A question about a name, to the stream that is the kept feed: the newest messages.
    Newest {
        /// The channel or pattern.
        name: TopicName,
        /// The number of the question.
        number: u64,
        /// The client among whose questions this one takes its turn.
        client: ClientAddr,
    },
    /// A question that the bus has not begun takes its turn among those of another client.
    Move {
        /// The channel or pattern.
        name: TopicName,
        /// The number of the question.
        number: u64,
        /// The other client, which waits for it too.
        client: ClientAddr,
    },
    /// The next page.
    More {
        /// The channel or pattern.
        name: TopicName,
        /// The number of the question.
        number: u64,
    },
    /// Nobody waits for the answer any more.
    Forget {
        /// The channel or pattern.
        name: TopicName,
        /// The number of the question.
        number: u64,
    },
}
