//! The pure core: sessions, topics, send queues, shared frames, deadlines.
//!
//! Owns everything that is true of a connection; makes no system call, reads no clock, knows no
//! contract. Called by the reactor (or by a simulation), which is the only one that owns sockets.
//!
//! The way of a message: a [`Feed`] makes a [`Publication`] of it, [`Hub::published`] puts its one
//! [`Frame`] into the send queue of every member of the topic, and [`Hub::flush`] gives each
//! client one write.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod clients;
mod core;
mod deadlines;
mod drain;
mod due;
mod ended;
mod flush;
mod frame;
mod gateway;
mod handshake;
#[expect(
    clippy::module_inception,
    reason = "the hub is what the module is named after"
)]
mod hub;
mod keys;
mod limits;
mod outgoing;
mod publication;
mod queue;
mod reason;
mod send_queue;
mod session;
mod stats;
mod time;
mod topics;

pub use self::core::Core;
pub use drain::DrainPlan;
pub use ended::Ended;
pub use frame::{Class, ConflationKey, Encoded, Frame, FrameBuilder, FrameBytes, Lead};
pub use gateway::{
    Accepted, Admission, Answer, Call, CallFailure, Effect, ForClient, Gateway, Incoming, Permit,
    Reader, Reply, Transmit, Write,
};
pub use hub::Hub;
pub use keys::SessionKey;
pub use limits::{Limits, SendQueueLimits};
pub use publication::{
    BusNotice, Feed, FeedLine, FeedStats, Publication, Retain, SubjectStats, TopicName,
};
pub use reason::{CloseCode, CloseReason, Closing};
pub use session::PhaseKind;
pub use stats::{HubStats, SendError};
pub use time::Now;
