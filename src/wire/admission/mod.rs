//! Limits for clients: on what all clients hold, with a share for each address; limits by address; the client's address
//! behind proxies; a queue with a share for each address; and the token bucket for all rates.
//!
//! Pure: the caller passes the time. The hub uses the limits by address and the outbound rates, the gateways use the
//! rates of their clients. The bill says which client is costly, and the queue whose turn is next, such as which costly
//! client the loop reads.

mod bill;
mod client_address;
mod fair_queue;
mod held_bytes;
mod limits;
mod permit;
mod quota;

pub use bill::Bill;
pub use client_address::{ClientAddr, Credentials, Network, Peer, TrustedProxies};
pub use fair_queue::FairQueue;
pub use held_bytes::HeldBytes;
pub use limits::{AddressLimits, AddressPermit, AddressRefusal, Addresses, TokenBucket};
pub use permit::{ConnectionPermit, Transport};
pub use quota::{Chosen, Full, Held, Permit, Quota, Rest, RestKind, Room, Sharing};
