//! Pure codecs: request head, frame reader, frame encoding, deflate, JSON guard.
//!
//! Bytes in, values out, and back. A codec keeps no connection and knows no hub.
//!
//! | module | is |
//! | --- | --- |
//! | [`head`] | the request head: its end, and its parts |
//! | [`body`] | the end of a request's body |
//! | [`upgrade`] | the request for a WebSocket upgrade (RFC 6455 §4.2.1); the 101 and refusals |
//! | [`event_stream`] | Server-Sent Events: the request for a stream, the response, the events |
//! | [`deflate`] | permessage-deflate (RFC 7692): negotiation, deflate, bounded inflate |
//! | [`frame_reader`] | client bytes to whole, bounded, inflated frames |
//! | [`encode`] | headers of server frames |
//! | [`json`] | the checks before any JSON parser |
//! | [`traceparent`] | the trace of a request |
//! | [`object_writer`] | JSON objects with their keys in the order of writing, dates |

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod body;
pub mod deflate;
pub mod encode;
pub mod event_stream;
pub mod frame_reader;
pub mod head;
pub mod json;
pub mod object_writer;
pub mod traceparent;
pub mod upgrade;
