//! What every other crate reads and writes with: codecs, names and patterns, limits for clients. Bytes in, values out,
//! and back.
//!
//! Pure: no socket, clock, thread or file; the caller passes the time and the bytes. Knows no connection and no hub.
//! Begin with `frame_reader.rs`: client bytes to messages.
//!
//! | module | is |
//! | --- | --- |
//! | `head` | the request head: its end, its parts, and the trace in it |
//! | `body` | the end of a request's body |
//! | `upgrade` | the request for a WebSocket upgrade (RFC 6455 §4.2.1); the 101 and refusals |
//! | `event_stream` | Server-Sent Events: the request for a stream |
//! | [`deflate`] | permessage-deflate (RFC 7692): negotiation, deflate, bounded inflate |
//! | `frame` | the header of a server's frame; a client's frame, unmasked and checked |
//! | `frame_reader` | client bytes to whole, bounded, inflated frames |
//! | [`space`] | the two spaces of HTTP around a name or a value |
//! | [`json`] | the checks before any JSON parser; objects with their keys in the order of writing |
//! | [`auth`] | names and patterns of both buses, origins; why a token is refused |
//! | [`admission`] | limits for clients: sums with a share for each address, rates, turns of addresses, addresses behind proxies |
//! | [`base`] | an instant on both clocks, seeded numbers, budgets of log lines, texts for people |

#![cfg_attr(
    not(test),
    deny(
        clippy::disallowed_macros,
        clippy::disallowed_methods,
        clippy::disallowed_types
    )
)]

pub mod admission;
pub mod auth;
pub mod base;
mod body;
pub mod deflate;
mod event_stream;
mod frame;
mod frame_reader;
mod head;
pub mod json;
pub mod space;
mod upgrade;

pub use body::BodyScanner;
pub use frame::{DataFrame, EMPTY_PING, FrameScratch};
pub use frame_reader::{FrameError, FrameReader};
pub use head::{HeadError, HeadScanner, RequestHead, Trace};
pub use upgrade::{UpgradeError, write_refusal};
