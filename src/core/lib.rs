//! The pure core, sans-IO: sessions, topics, send queues, shared frames, deadlines.
//!
//! The crate owns the state of every connection, makes no system call, reads no clock and knows no
//! contract. The reactor, which owns the sockets, or a simulation calls the hub.
//!
//! Begin with `hub.rs`: [`Hub`] is what the reactor calls, [`Core`] what a [`Gateway`] calls.
//!
//! The way of a message: a [`Feed`] makes a [`Publication`], [`Hub::handle_publication`] puts the
//! [`Frame`] of the publication into the send queue of every member of the topic, and [`Hub::flush`]
//! gives each client one write.
//!
//! | file | owns |
//! | --- | --- |
//! | `hub`, `core`, `gateway`, `shell` | the core with its gateway, and the interfaces to the gateway and the shell |
//! | `session`, `clients`, `connections`, `tables` | a connection; all sessions; how many there may be; tables by client |
//! | `addresses` | limits by client address |
//! | `protocol`, `handshake`, `reading` | what clients send: protocols, request heads, shares of a turn |
//! | `bus_event`, `publication`, `message`, `losses` | what the bus brings, and what a feed makes of it |
//! | `topics`, `left`, `brings`, `refused_names` | topics and members; names that clients leave, get or do not get |
//! | `frame`, `frame_bytes`, `encodings`, `large_encoding`, `deflated`, `window` | frames, their memory, their other forms |
//! | `send_queue`, `queue`, `flush`, `gather`, `overload`, `release` | what waits for a client, the writes, and what is held back |
//! | `kept_feed`, `history`, `position`, `resume`, `doubts`, `replay` | kept messages, and what a client gets of them |
//! | `turn`, `deadlines` | the time of a turn; the next time to run |
//! | `limits`, `max_rate`, `memory`, `queue_rooms`, `largest`, `stats` | limits, the most messages a second, the clients to drop for memory, counters |
//! | `ends`, `reason`, `revoked` | how clients end, why, and those whom an operator cuts off |
//! | `slow`, `gaps`, `survey`, `search` | for operators: why a client is slow, silences, surveys, searches |

#![cfg_attr(
    not(test),
    deny(
        clippy::disallowed_macros,
        clippy::disallowed_methods,
        clippy::disallowed_types
    )
)]

mod addresses;
mod brings;
mod bus_event;
mod clients;
mod connections;
mod core;
mod deadlines;
mod deflated;
mod doubts;
mod encodings;
mod ends;
mod flush;
mod frame;
mod frame_bytes;
mod gaps;
mod gateway;
mod gather;
mod handshake;
mod history;
mod hub;
mod kept_feed;
mod large_encoding;
mod largest;
mod left;
mod limits;
mod losses;
mod max_rate;
mod memory;
mod message;
mod overload;
mod position;
mod protocol;
mod publication;
mod queue;
mod queue_rooms;
mod reading;
mod reason;
mod refused_names;
mod release;
mod replay;
mod resume;
mod revoked;
mod search;
mod send_queue;
mod session;
mod shell;
mod slow;
mod stats;
mod survey;
mod tables;
mod topics;
mod turn;
mod window;

pub use self::core::Core;
pub use self::hub::Hub;
pub use addresses::AddressLimits;
pub use brings::{Brings, NameSource, OnBus, RetainedCut, ShortHistory};
pub use bus_event::{
    BusEvent, BusMessage, PageCursor, PayloadText, ReadPart, SkippedMessage, StreamPosition,
    Subscription,
};
pub use deadlines::earliest;
use encodings::Encoded;
pub use ends::DrainPlan;
use frame::{Class, LARGE_BYTES};
pub use frame::{ConflationKey, Content, Frame, FrameBuilder, Prefix};
pub use frame_bytes::FrameBytes;
pub use gaps::Gaps;
pub use gateway::{Admission, Closed, Entrance, Gateway};
use history::KeptPage;
pub use history::{KeptCursor, KeptHead, Lacks, Missed, NotKept, Outcome, Wanted};
pub use limits::{HistoryLimits, Limits, SendQueueLimits};
pub use losses::Active;
pub use max_rate::MaxRate;
use message::Render;
pub use message::{Body, CopyFor, Message, Part};
pub use position::{CopyPosition, CopyRank, EntryHash, Mark, Place, Point, Position, StoredId};
pub use protocol::Incoming;
use protocol::RequestRefusal;
pub use publication::{
    BusNotice, EventReader, Feed, FeedLine, FeedNotice, FeedSettings, FeedStats, Publication,
    ReadTo, Retain, SubjectStats, TopicName,
};
pub use reason::{CloseCode, CloseReason, Closing, NotRecovered};
pub use refused_names::{NameRefusal, RefusedName};
pub use resume::Recipient;
pub use revoked::{Connected, Cut, Revoked, RevokedFull, WasConnected};
pub use search::{FoundClient, FoundName, Search, SearchOutcome};
pub use session::{Accepted, ClientSnapshot, ClientState};
pub use shell::{
    CutDone, CutRequest, Dropped, Effect, Ended, PeerEnd, Secured, SocketEnd, Traffic, Transmit,
    Whom, Write,
};
pub use slow::waits::SlowSnapshot;
pub use slow::{SlowReason, TcpSample};
use stats::SendError;
pub use stats::{HistoryStats, HubStats, OverloadStats, PhaseKind};
pub use survey::Survey;
pub use tables::{ByClient, SessionKey};
pub use topics::{Joined, Left, TopicSnapshot};
use weirgate_wire::base::Now;
