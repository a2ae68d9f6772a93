//! Plain HTTP on side threads.
//!
//! Serves every connection whose request is not for a WebSocket or an event stream of the gateway: the reactor hands
//! the connection over with the bytes read so far, and gets it back if the client asks for one later. Serves the admin
//! listener too. Never makes the event loop wait: a hand-over is a message, and live state is read from telemetry.
//! Called by `run` (start, stop) and the reactor (hand-over).
//!
//! Begin with `plane.rs` (the threads), then `connection.rs` and `gate.rs`.
//!
//! | file | owns |
//! | --- | --- |
//! | `plane`, `handover`, `admin` | the threads; connections from and to the reactor; the admin listener |
//! | `turns` | which connection works next |
//! | `connection`, `connection_clock`, `client_stream` | a connection, its timeouts, its socket |
//! | `gate` | one request at a time to hyper, under the reactor's rules for heads |
//! | `requests`, `unwritten`, `pace`, `end_reports` | the answers of a connection, what hyper holds of them, the speed of request bodies, ends to report |
//! | `service`, `cors`, `caller`, `in_progress` | from a request to its answer: origins, routes, the sender |
//! | `site`, `body`, `settings` | for gateways: routes and answers, bodies in pieces; the settings |
//! | `files`, `page`, `client_modules` | files in the binary: pages, and the clients for browsers |
//! | `status_pages`, `readiness`, `metrics_format` | `/ready`, `/stats`, `/metrics` |
//! | `operator` | the operator's page |

mod admin;
mod body;
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
mod in_progress;
pub(crate) mod metrics_format;
pub(crate) mod operator;
mod pace;
mod page;
mod plane;
mod readiness;
mod requests;
mod service;
mod settings;
mod site;
pub(crate) mod status_pages;
#[cfg(test)]
mod tests;
mod turns;
mod unwritten;

pub(crate) use admin::Admin;
pub use body::{BoxError, HeldBody, Progress, ReadBodyError, RequestBody, read_body};
pub use client_modules::ClientModule;
pub(crate) use cors::Cors;
pub use handover::Handover;
pub(crate) use handover::ReturnToReactor;
pub use page::{FrontPage, PageParts};
pub use plane::{HttpHandle, HttpPlane};
pub(crate) use readiness::ReadyLimits;
pub(crate) use settings::HttpSettings;
pub(crate) use site::TakeOver;
pub use site::{Answer, Handler, LateAnswer, RequestParts, Route, Site};

pub use hyper::StatusCode;
