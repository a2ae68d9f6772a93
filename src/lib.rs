//! weirgate: one process between a message bus and WebSocket clients.
//!
//! Three words for the style: pure core, thin shell, named limits. The map:
//!
//! | module | owns | must never | called by |
//! | --- | --- | --- | --- |
//! | [`hub`] | sessions, topics, send queues, shared frames, deadlines | make a system call, read a clock, know a contract | [`reactor`] |
//! | [`feeds`] | bus bytes to publications, one feed a process | know a client, a socket, a broker | [`reactor`], through [`hub::Feed`] |
//! | [`gateways`] | the client side of each contract | know a socket, a broker | [`hub`], through [`hub::Gateway`] |
//! | [`wire`] | codecs: request head, frames, deflate, JSON guard | keep a connection | [`hub`], [`feeds`], [`gateways`] |
//! | [`auth`] | tokens and keys, roles, origins | hold a session, read a file | [`gateways`], [`hub`] |
//! | [`admission`] | limits by address, client addresses, token buckets | hold a session | [`gateways`], [`hub`] |
//! | [`reactor`] | every system call of the socket side | know a gateway or a feed | [`run`] |
//! | [`sources`] | bus threads | parse a payload | [`run`] |
//! | [`http`] | plain HTTP on a side thread: pages, health, metrics | make the loop wait | [`run`], [`reactor`] |
//! | [`telemetry`] | metric names, histograms, log set-up | decide anything | everyone in the shell |
//! | [`settings`] | flags and env, typed, then checked | start anything, know a gateway | [`commands`], [`run`], [`kinds`] |
//! | [`log_budget`] | how many lines one place may log | log | [`feeds`], [`reactor`] |
//! | [`random`] | the seeded generator | draw a seed | [`hub`], [`sources`] |
//! | `wake` | waking a thread that waits in its poll | wait | [`reactor`], [`sources`], [`run`] |
//! | [`clock`] | both clocks of the process | be used by a pure module | the shell |
//! | [`run`] | from the parts of any gateway to a process that runs | know a gateway | [`kinds`], [`commands`] |
//! | [`kinds`] | each gateway put together, with its settings and pages; the list of them | be known by anything but `main` | `main` |
//! | [`commands`] | the command line of a list of gateways; `health` and `token` | know a gateway | `main` |
//! | [`key_files`] | the keys of tokens, read again when they change | judge a token | [`kinds`], [`commands`] |
//! | [`trust`] | whom outgoing TLS trusts | connect | [`sources`], [`kinds`] |

pub mod admission;
pub mod auth;
pub mod clock;
pub mod commands;
pub mod feeds;
pub mod gateways;
pub mod http;
pub mod hub;
pub mod key_files;
pub mod kinds;
pub mod log_budget;
pub mod random;
pub mod reactor;
pub mod run;
pub mod settings;
pub mod sources;
pub mod telemetry;
pub mod trust;
mod wake;
pub mod wire;
