//! The pure core: sessions, topics, send queues, shared frames, deadlines.
//!
//! Owns everything that is true of a connection; makes no system call, reads no clock, knows no
//! contract. Called by the reactor (or by a simulation), which is the only one that owns sockets.

mod frame;
mod limits;
mod publication;
mod time;

pub use frame::{Class, ConflationKey, Encoded, Frame, FrameBuilder, FrameBytes, Lead};
pub use limits::{Limits, SendQueueLimits};
pub use publication::{Feed, FeedStats, Publication, Retain, SubjectStats, TopicName};
pub use time::Now;
