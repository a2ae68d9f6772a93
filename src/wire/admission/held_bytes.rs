//! Bytes of a client and their permit in one value: wherever the bytes are moved, they count in the same quota.

use std::fmt;
use std::ops::Deref;
use std::task::Waker;

use super::{ClientAddr, Permit, Quota};

/// An allocation may be twice as large as the bytes in it. For fewer bytes than this, it may be twice as large as this.
const SPARE_BYTES: usize = 512;

/// Bytes of a client, and their permit in a [`Quota`].
pub struct HeldBytes {
    bytes: Vec<u8>,
    permit: Permit,
}

impl HeldBytes {
    /// Charges bytes that are here already to `client`, and makes room if all clients hold too much.
    ///
    /// ```
    /// use weirgate_wire::admission::{HeldBytes, Quota};
    ///
    /// let all = Quota::new("bytes", 100);
    /// let client = std::net::IpAddr::from([192, 0, 2, 1]).into();
    /// let mut held = HeldBytes::new(&all, client, b"GET /".to_vec(), 0);
    /// let path = held.change(1, |bytes| bytes.split_off(4));
    /// assert_eq!((&*held, &*path, all.held()), (&b"GET "[..], &b"/"[..], 4));
    /// drop(held);
    /// assert_eq!(all.held(), 0);
    /// ```
    pub fn new(of: &Quota, client: ClientAddr, bytes: Vec<u8>, now_us: u64) -> Self {
        let permit = of.hold(client, bytes.len() as u64, now_us);
        of.make_room(now_us);
        Self { bytes, permit }
    }

    /// Changes the bytes, then charges their new number. Frees an allocation much larger than the bytes, because the
    /// charge does not cover it.
    pub fn change<T>(&mut self, now_us: u64, change: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let result = change(&mut self.bytes);
        if self.bytes.is_empty() || self.bytes.capacity() > 2 * self.bytes.len().max(SPARE_BYTES) {
            self.bytes.shrink_to_fit();
        }
        let before = self.permit.amount();
        self.permit.set(self.bytes.len() as u64, now_us);
        if self.permit.amount() > before {
            self.permit.quota().make_room(now_us);
        }
        result
    }

    /// Moves the bytes into another value with a permit of its own. This one keeps an amount of 0.
    #[must_use]
    pub fn take(&mut self, now_us: u64) -> Self {
        let bytes = self.change(now_us, std::mem::take);
        let (of, client) = (self.permit.quota(), self.permit.address());
        Self::new(of, client, bytes, now_us)
    }

    /// Whether the owner may read more of this client's bytes: the client's address holds less than what is free.
    pub fn has_room(&self) -> bool {
        let address = self.permit.address();
        self.permit.quota().has_room_for(address)
    }

    /// Whether the owner has to give the bytes up. If not yet, `waker` wakes the owner when it has to.
    pub fn is_evicted(&self, waker: &Waker) -> bool {
        if self.bytes.is_empty() {
            return false;
        }
        self.permit.wake_with(waker);
        self.permit.is_evicted()
    }
}

impl Deref for HeldBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for HeldBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.permit.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn an_allocation_is_at_most_twice_as_large_as_its_bytes() {
        let all = Quota::new("bytes", 1 << 20);
        let client = ClientAddr::from(IpAddr::from([192, 0, 2, 1]));
        let mut held = HeldBytes::new(&all, client, Vec::new(), 0);
        let mut has_bound = |change: &dyn Fn(&mut Vec<u8>)| {
            held.change(1, change);
            assert_eq!(all.held(), held.len() as u64);
            held.bytes.capacity() <= 2 * held.len().max(SPARE_BYTES)
        };
        assert!(has_bound(&|bytes| {
            bytes.reserve(100_000);
            bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
        }));
        assert!(has_bound(&|bytes| bytes.resize(64 * 1024, b'x')));
        assert!(has_bound(&|bytes| drop(bytes.drain(..60 * 1024))));
        assert!(has_bound(&|bytes| bytes.truncate(0)));
        assert_eq!(held.bytes.capacity(), 0);
    }
}
