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
pub use self::kept::{CountedFeed, KeptEvent, StreamFeed, StreamSettings};
use self::outage::LinkTimes;
pub use self::publisher::Publisher;
pub use self::requests::BusInterest;

/// The most bytes of the name of a message. Whatever keeps or encodes a message relies on this limit: a name is in the history,
/// in tables and, up to six times as long, in each frame. Names of over 512 bytes come only by clients' patterns. A NATS server
/// has about the same limit by default, Redis has none.
pub(crate) const NAME_BYTES_MAX: usize = 4 * 1024;

/// Why a message is skipped and counted as bad.
const NAME_TOO_LONG: &str = "a name of over 4,096 bytes";
/// The same of a name that is no text. Clients know names as text, and with its wrong bytes replaced, this name could
/// become the text of another one.
const NAME_NOT_UTF8: &str = "a name that is not UTF-8";

/// Returns the name of a message, as clients know it.
///
/// # Errors
/// Why the message is skipped.
fn name_of(bytes: &[u8]) -> Result<&str, &'static str> {
    check_length(bytes)?;
    str::from_utf8(bytes).map_err(|_| NAME_NOT_UTF8)
}

/// As [`name_of`], without a copy.
fn into_name(bytes: Vec<u8>) -> Result<String, &'static str> {
    check_length(&bytes)?;
    String::from_utf8(bytes).map_err(|_| NAME_NOT_UTF8)
}

fn check_length(name: &[u8]) -> Result<(), &'static str> {
    match name.len() {
        0..=NAME_BYTES_MAX => Ok(()),
        _ => Err(NAME_TOO_LONG),
    }
}
