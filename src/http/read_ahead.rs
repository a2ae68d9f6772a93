//! Bytes behind a request that is still being answered.
//!
//! They are read because they hide whether their client is still there: a connection ends behind
//! what was sent on it. Bounded for each connection, and for all of them together.

use std::cell::Cell;
use std::rc::Rc;

/// Bytes of one connection.
const CONNECTION_BYTES_MAX: usize = 256 * 1024;

/// Bytes of all connections.
const ALL_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What all connections have read ahead.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadAhead(Rc<Cell<usize>>);

/// What one connection has read ahead; given back when dropped.
#[derive(Debug)]
pub(super) struct Ahead {
    all: ReadAhead,
    bytes: usize,
}

impl ReadAhead {
    /// Nothing yet, for one more connection.
    pub(super) fn connection(&self) -> Ahead {
        Ahead {
            all: self.clone(),
            bytes: 0,
        }
    }
}

impl Ahead {
    /// So many more bytes may be read.
    pub(super) fn room(&self) -> usize {
        let own = CONNECTION_BYTES_MAX.saturating_sub(self.bytes);
        own.min(ALL_BYTES_MAX.saturating_sub(self.all.0.get()))
    }

    /// So many more bytes were read.
    pub(super) fn grow(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.all.0.set(self.all.0.get() + bytes);
    }

    /// No more than `bytes` are left.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let gone = self.bytes.saturating_sub(bytes);
        self.bytes -= gone;
        self.all.0.set(self.all.0.get().saturating_sub(gone));
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_ahead_is_bounded_for_each_and_for_all() {
        let all = ReadAhead::default();
        let mut connections = Vec::new();
        while all.connection().room() > 0 {
            let mut connection = all.connection();
            connection.grow(connection.room());
            assert_eq!(connection.room(), 0);
            connections.push(connection);
        }
        assert_eq!(connections.len(), ALL_BYTES_MAX / CONNECTION_BYTES_MAX);
        connections[0].shrink_to(CONNECTION_BYTES_MAX - 10);
        connections[0].shrink_to(CONNECTION_BYTES_MAX);
        assert_eq!(all.connection().room(), 10);
        drop(connections);
        assert_eq!(all.0.get(), 0);
    }
}
