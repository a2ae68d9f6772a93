//! TLS towards clients: the server's certificates, and the TLS of one connection.
//!
//! | file | has |
//! | --- | --- |
//! | `certificates` | certificates and keys of PEM files, their facts, and the choice by the client's name for the server |
//! | `client_certificates` | the check of clients' certificates |
//! | `own` | the client side of a process that connects to itself |
//! | `session` | one connection: the handshake, records to plain bytes, plain bytes to records |
//!
//! The bytes that the sessions of all clients hold are one [`Holding`](crate::admission::Holding), whichever thread has
//! the session.
//!
//! Makes no system call on a socket: the event loop, its thread for handshakes, and the HTTP side move the bytes.
//! Cryptography, records and the rules of the protocol come from rustls.

mod certificates;
mod client_certificates;
mod own;
mod session;

pub use self::certificates::{
    CertificateError, CertificateFacts, CertificateFiles, ENDS_SOON_S, ENDS_VERY_SOON_S,
    OldestVersion, ServerTls, ServerTlsFiles, ServerTlsInForce,
};
pub use self::own::{greet_itself, of_own_certificate};
#[cfg(test)]
pub(crate) use self::session::tests as session_tests;
pub use self::session::{RECORD_BYTES_MAX, TlsSession, sealed_bytes_max};
