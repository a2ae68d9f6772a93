//! TLS towards clients: the server's certificates, and the TLS of one connection.
//!
//! | file | has |
//! | --- | --- |
//! | `certificates` | certificates and keys of PEM files, their facts, and the choice by the client's name for the server |
//! | `client_certificates` | the check of clients' certificates |
//! | `own_client` | the client side of a process that connects to itself |
//! | `session` | one connection: the handshake, records to plain bytes, plain bytes to records |
//! | `tickets` | the tickets of clients that come back |
//!
//! The bytes that the sessions of all clients hold are one [`Quota`](weirgate_wire::admission::Quota), whichever thread
//! has the session.
//!
//! Makes no system call on a socket: the event loop, its thread for handshakes, and the HTTP side move the bytes.
//! Cryptography, records and the rules of the protocol come from rustls.

mod certificates;
mod client_certificates;
mod own_client;
mod session;
mod tickets;

pub(crate) use self::certificates::{
    CertificateError, CertificateFacts, ENDS_SOON_S, ServerTls, ServerTlsInForce,
};
pub(crate) use self::certificates::{CertificateFiles, OldestVersion, ServerTlsFiles};
pub use self::own_client::client_config_trusting;
pub(crate) use self::own_client::greet_itself;
pub(crate) use self::session::RECORD_BYTES_MAX;
pub use self::session::TlsSession;
#[cfg(test)]
pub(crate) use self::session::tests as session_tests;
pub(crate) use self::tickets::tickets;
