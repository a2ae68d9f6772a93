//! Questions for stored messages, and the answers of a server.

mod all;
mod asking;
mod bench;
mod last_message;
mod making;
mod pages;
mod rereading;
mod search;
mod silence;
