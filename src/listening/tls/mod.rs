//! TLS towards clients: the server's certificates, the TLS of one connection, and the held bytes of the sessions of
//! all clients.
//!
//! | file | has |
//! | --- | --- |
//! | `certificates` | certificates and keys of PEM files, their facts, and the choice by the client's name for the server |
//! | `own` | the client side of a process that connects to itself |
//! | `session` | one connection: the handshake, records to plain bytes, plain bytes to records |
//!
//! Makes no system call on a socket: the event loop, its thread for handshakes and the HTTP side move the bytes.
//! Cryptography, records and the rules of the protocol are rustls's.

mod certificates;
mod own;
mod session;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub use self::certificates::{
    CertificateError, CertificateFacts, CertificateFiles, ENDS_SOON_S, ENDS_VERY_SOON_S,
    OldestVersion, ServerTls, ServerTlsFiles, ServerTlsInForce,
};
pub use self::own::{greet_itself, of_own_certificate};
#[cfg(test)]
pub(crate) use self::session::tests as session_tests;
pub use self::session::{RECORD_BYTES_MAX, TlsSession, sealed_bytes_max};

/// The thread of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The thread of handshakes.
    Handshakes,
    /// The event loop.
    Loop,
    /// The HTTP thread.
    Http,
}

/// The bytes that all sessions hold: unfinished handshakes and records of clients, plain bytes without room, and
/// records without room in the network. Bounded together.
#[derive(Debug)]
pub struct HeldBytes {
    /// By [`Holder`].
    shares: [AtomicUsize; 3],
    bytes_max: usize,
}

impl HeldBytes {
    /// No bytes, with a limit for all sessions.
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            shares: Default::default(),
            bytes_max,
        })
    }

    fn now(&self) -> [usize; 3] {
        self.shares.each_ref().map(|share| share.load(Relaxed))
    }

    /// The bytes of all sessions.
    pub fn all(&self) -> usize {
        self.now().iter().sum()
    }

    /// The bytes over the limit, for the thread whose sessions hold the most; 0 for the others: clients of plain
    /// HTTP that hold many bytes end no WebSocket, and the other way.
    pub fn excess(&self, holder: Holder) -> usize {
        let now = self.now();
        let has_most = now.iter().all(|share| *share <= now[holder as usize]);
        match has_most {
            true => now.iter().sum::<usize>().saturating_sub(self.bytes_max),
            false => 0,
        }
    }
}

/// The bytes of a session among the bytes of all.
#[derive(Debug)]
struct Share {
    all: Arc<HeldBytes>,
    holder: Holder,
    bytes: usize,
}

impl Share {
    /// Nothing, for a session before its handshake.
    fn new(all: &Arc<HeldBytes>) -> Self {
        Self {
            all: Arc::clone(all),
            holder: Holder::Handshakes,
            bytes: 0,
        }
    }

    /// Counts the bytes of the session.
    #[inline]
    fn set(&mut self, bytes: usize) {
        // Most records come and go whole.
        if bytes != self.bytes {
            let share = &self.all.shares[self.holder as usize];
            match bytes > self.bytes {
                true => share.fetch_add(bytes - self.bytes, Relaxed),
                false => share.fetch_sub(self.bytes - bytes, Relaxed),
            };
            self.bytes = bytes;
        }
    }

    /// Counts the bytes of the session for another thread.
    fn move_to(&mut self, holder: Holder) {
        let bytes = self.bytes;
        self.set(0);
        self.holder = holder;
        self.set(bytes);
    }

    /// Whether the session holds bytes while its thread has bytes to free.
    fn is_too_much(&self) -> bool {
        self.bytes > 0 && self.all.excess(self.holder) > 0
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_with_the_most_bytes_frees_those_over_the_limit() {
        let all = HeldBytes::new(100);
        let share = |holder, bytes| {
            let mut share = Share::new(&all);
            share.set(bytes);
            share.move_to(holder);
            share
        };
        let excess = || [Holder::Handshakes, Holder::Loop, Holder::Http].map(|h| all.excess(h));
        let mut http = share(Holder::Http, 60);
        let of_loop = share(Holder::Loop, 40);
        let empty = share(Holder::Http, 0);
        assert_eq!((all.all(), excess()), (100, [0, 0, 0]));
        let handshake = share(Holder::Handshakes, 10);
        assert_eq!(excess(), [0, 0, 10]);
        assert!(http.is_too_much() && !empty.is_too_much());
        assert!(!of_loop.is_too_much() && !handshake.is_too_much());
        http.set(51);
        assert_eq!(excess(), [0, 0, 1]);
        http.move_to(Holder::Loop);
        assert_eq!(excess(), [0, 1, 0]);
        drop((http, of_loop));
        assert_eq!((all.all(), excess()), (10, [0, 0, 0]));
    }
}
