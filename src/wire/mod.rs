//! Pure codecs: request head, frames, deflate, JSON.
//!
//! Bytes in, values out, and back. A codec keeps no connection and knows no hub.
//!
//! | module | is |
//! | --- | --- |
//! | [`head`] | the request head: its end, its parts, and the trace in it |
//! | [`body`] | the end of a request's body |
//! | [`upgrade`] | the request for a WebSocket upgrade (RFC 6455 §4.2.1); the 101 and refusals |
//! | [`event_stream`] | Server-Sent Events: the request for a stream, the response, the events |
//! | [`deflate`] | permessage-deflate (RFC 7692): negotiation, deflate, bounded inflate |
//! | [`frame`] | the header of a server's frame; a client's frame, unmasked and checked |
//! | [`frame_reader`] | client bytes to whole, bounded, inflated frames |
//! | [`space`] | the two spaces of HTTP around a name or a value |
//! | [`json`] | the checks before any JSON parser; objects with their keys in the order of writing, dates |

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod body;
pub mod deflate;
pub mod event_stream;
pub mod frame;
pub mod frame_reader;
pub mod head;
pub mod json;
pub mod space;
pub mod upgrade;
