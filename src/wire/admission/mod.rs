//! Limits for clients: on what all clients hold, with a share for each address; the client's address behind proxies; a
//! queue with a share for each address; and the token bucket for all rates.
//!
//! Pure: the caller passes the time. The hub uses the outbound rates, the gateways the rates of their clients. The bill
//! says which client is costly; the queue says whose turn is next, such as which costly client the loop reads.

mod bill;
mod client_address;
mod fair_queue;
mod held_bytes;
mod permit;
mod quota;
mod token_bucket;

pub use bill::Bill;
pub use client_address::{ClientAddr, Credentials, Peer, TrustedProxies};
pub use fair_queue::FairQueue;
pub use held_bytes::HeldBytes;
pub use permit::{ConnectionPermit, Transport};
pub use quota::{Chosen, Full, Held, Permit, Quota, Rest, RestKind, Room, Sharing};
pub use token_bucket::TokenBucket;
