//! Plain HTTP on a side thread.
//!
//! Serves every connection whose request is not a WebSocket upgrade for the gateway: the reactor hands the connection
//! over with the bytes read so far, and gets it back if the client asks for a WebSocket later. Serves the admin
//! listener too. Never makes the event loop wait: a hand-over is a message, and live state is read from telemetry.
//! Called by `run` (start, stop) and the reactor (hand-over).

mod admin;
pub mod body;
mod caller;
mod client_modules;
mod client_stream;
mod connection;
mod connection_clock;
mod cors;
mod end_reports;
mod files;
mod gate;
mod handover;
pub(crate) mod metrics_format;
pub mod operator;
mod pace;
pub mod page;
mod plane;
mod readiness;
mod requests;
mod service;
mod settings;
pub mod site;
pub mod status_pages;
mod unwritten;

pub use admin::Admin;
pub use body::{BodyTooSlow, BoxError, ReadBodyError, RequestBody};
pub use caller::{Caller, ClientAccess};
pub use client_modules::{ClientModule, client_routes};
pub use cors::Cors;
pub use handover::{Handover, ReturnToReactor};
pub use page::FrontPage;
pub use plane::{HttpHandle, HttpPlane};
pub use readiness::ReadyLimits;
pub use settings::HttpSettings;
pub(crate) use site::TakeOver;
pub use site::{ANY_METHOD, Answer, GET, Handler, LateAnswer, RequestParts, Route, Site};

pub use hyper::StatusCode;
pub use hyper::body::Bytes;
