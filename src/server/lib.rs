//! The server around a gateway: the event loop and its sockets, listeners and TLS, plain HTTP, metrics, settings, and the
//! process from its start to its stop.
//!
//! Every system call for clients is here. Knows no contract: a gateway comes as [`run::Parts`]. Begin with
//! `server/reactor/turn.rs`, a turn of the loop.
//!
//! | module | holds |
//! | --- | --- |
//! | `reactor` | the loop, the sockets of clients, signals |
//! | [`listening`] | addresses to listen on, TLS towards clients |
//! | [`http`] | plain HTTP on side threads: pages, metrics |
//! | [`telemetry`] | metric names, the numbers of a turn, the log |
//! | [`settings`] | the table of flags and environment names, typed and checked |
//! | [`run`] | from the parts of a gateway to a process that runs until a signal; files that are read again |
//! | `supervisor` | several processes on one port, with one admin address (`--processes`) |
//! | [`build_info`] | version, commit, compiler |

pub mod build_info;
pub mod http;
pub mod listening;
mod reactor;
pub mod run;
pub mod settings;
mod supervisor;
pub mod telemetry;
