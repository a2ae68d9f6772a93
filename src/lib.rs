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
//! | [`auth`] | tokens and keys, roles, origins | hold a session, read a file | [`gateways`] |
//! | [`admission`] | limits by address, client addresses, token buckets | hold a session | [`gateways`], [`hub`] |
//! | [`reactor`] | every system call of the socket side | know a gateway or a feed | `main` |
//! | [`sources`] | bus threads | parse a payload | `main` |
//! | [`http`] | plain HTTP on a side thread: pages, health, metrics | make the loop wait | `main`, [`reactor`] |
//! | [`telemetry`] | metric names, histograms, log set-up | decide anything | everyone in the shell |
//! | [`settings`] | flags and env, typed, then resolved | start anything | `main` |
//! | [`log_budget`] | how many lines one place may log | log | [`feeds`], [`reactor`] |
//! | [`clock`] | both clocks of the process | be used by a pure module | the shell |
//! | [`run`] | putting the parts together, from resolved settings | hold logic of its own | `main` |
//! | [`key_files`] | the keys of tokens, read again when they change | judge a token | [`run`], [`token_command`] |
//! | [`trust`] | whom outgoing TLS trusts | connect | [`sources`], [`run`] |
//! | [`token_command`] | `weirgate token`: makes and judges tokens | start anything | `main` |
//! | [`health_check`] | `weirgate health`: asks a running one | start anything | `main` |

pub mod admission;
pub mod auth;
pub mod clock;
pub mod feeds;
pub mod gateways;
pub mod health_check;
pub mod http;
pub mod hub;
pub mod key_files;
pub mod log_budget;
pub mod reactor;
pub mod run;
pub mod settings;
pub mod sources;
pub mod telemetry;
pub mod token_command;
pub mod trust;
pub mod wire;
