//! Plain HTTP on a side thread.
//!
//! Owns every connection whose request was not a WebSocket upgrade for the gateway: the reactor
//! hands it over with the bytes read so far. Never makes the loop wait: the hand-over is a
//! message, live state is read from atomics. Called by `main` (start, stop) and the reactor
//! (hand-over).

mod connection;
mod cors;
pub mod pages;
mod plane;
mod readiness;
mod rewind;
mod service;
mod site;

pub use cors::Cors;
pub use plane::{Handover, HttpHandle, HttpPlane, HttpSettings};
pub use readiness::{NotReady, ReadyLimits};
pub use site::{Answer, GET, Handler, RequestParts, Route, Site};

pub use hyper::body::Bytes;
pub use hyper::{HeaderMap, Method, StatusCode, header};
