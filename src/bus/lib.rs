//! The buses: NATS, Redis and a simulated market, each read by a thread of its own. Each source blocks on its broker,
//! stamps messages with the time and sends them to the loop.
//!
//! Begin with [`weirgate_runtime::Source`] and [`weirgate_runtime::SourceLink`], then `relay.rs`.
//!
//! A source owns its connection and its retries. It never parses a payload and never touches a client. The channel to
//! the loop is bounded, and the source waits while it is full; each source documents what its bus does meanwhile.
//!
//! Each bus has a folder with its settings, its errors, and its implementation of `relay::Bus`, which runs one
//! connection from the attempt to connect until the loss. What the buses share is here:
//!
//! | file | owns |
//! | --- | --- |
//! | [`nats`], [`redis`], [`simulated`] | the buses |
//! | `check` | for a check before a start: the names to ask for, and the findings from the answers of a bus |
//! | `relay` | the thread: connection after connection, the events of an outage, status and log |
//! | `probe` | whether to keep a silent connection |
//! | `stream_lag` | how far the reader of a stream is behind |
//! | `outage` | the times of the link; since when the bus is away, and when to try again; pure |
//! | `server_words` | a server's words, cut for the log; pure |
//! | `kept` | the messages of the kept feed: their positions, and the marks from which they are counted; a stream of the bus as the kept feed, the same for all buses |
//! | `ledger` | for a bus whose names change while the source runs: the wanted names, their state on the server, and the next command; pure |
//! | `requests` | requests for changing names and last values, on the way from a gateway to the thread |
//! | `publisher` | messages to publish, on the way from a gateway to the thread |
//! | `socket` | a socket and a waker in a single poll; TCP, TLS, bytes that wait to be written or taken, and lines in pieces |

mod check;
mod kept;
mod ledger;
pub mod nats;
mod outage;
mod probe;
mod publisher;
pub mod redis;
mod relay;
mod requests;
mod server_words;
pub mod simulated;
mod socket;
mod stream_lag;

pub(crate) use self::check::{Answers, list, names_to_check};
pub use self::kept::{CountedFeed, KeptEvent, LossSigns, StorageTime, StreamFeed, StreamSettings};
use self::outage::LinkTimes;
pub use self::publisher::Publisher;
pub use self::requests::BusInterest;

/// Why a message is skipped and counted as bad: clients know names as text, and bytes that are no text would become the
/// text of other names too.
const NAME_NOT_UTF8: &str = "a name that is not UTF-8";
