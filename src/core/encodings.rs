//! The encodings of a frame beside the plain form. Each is made at most once, for the first client that needs it, and
//! shared with all others.

use std::sync::OnceLock;

use super::message::SharedPayload;
use super::protocol::websocket::Coding;
use super::window::WindowId;
use weirgate_wire::base::allocated_bytes;

/// One encoding of a frame: header and payload in one allocation, except a payload that the frame shares with its message
/// ([`SharedPayload`]).
#[derive(Debug)]
pub struct Encoded {
    bytes: Vec<u8>,
    /// Bytes of the shared payload, which are not among `bytes`.
    shared_bytes: u32,
    /// Index of the header, which ends at the body.
    start: u8,
    /// Index of the payload.
    body_at: u8,
}

impl Encoded {
    pub(super) fn new(bytes: Vec<u8>, start: u8, body_at: u8) -> Self {
        Self {
            bytes,
            shared_bytes: 0,
            start,
            body_at,
        }
    }

    /// The same with so many bytes that the frame shares.
    pub(super) fn sharing(self, shared_bytes: usize) -> Self {
        // A message of the bus is shorter than 4 GiB.
        let shared_bytes = shared_bytes as u32;
        Self {
            shared_bytes,
            ..self
        }
    }

    /// Whether some of the payload is shared.
    #[inline]
    pub(super) fn is_sharing(&self) -> bool {
        self.shared_bytes > 0
    }

    /// Bytes of header and payload, with what is shared.
    #[inline]
    pub(super) fn whole_bytes(&self) -> usize {
        self.bytes.len() - self.start as usize + self.shared_bytes as usize
    }

    /// Bytes of the payload, with what is shared.
    #[inline]
    pub(super) fn body_bytes(&self) -> usize {
        self.bytes.len() - self.body_at as usize + self.shared_bytes as usize
    }

    /// Header and payload, for a client whose frame has no prefix.
    #[inline]
    pub fn whole(&self) -> &[u8] {
        &self.bytes[self.start as usize..]
    }

    /// The payload alone, for frames whose header and prefix are rendered per connection.
    #[inline]
    pub fn body(&self) -> &[u8] {
        &self.bytes[self.body_at as usize..]
    }

    /// The bytes before the payload.
    pub(super) fn header(&self) -> &[u8] {
        &self.bytes[self.start as usize..self.body_at as usize]
    }

    /// Memory of the bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        allocated_bytes(self.bytes.capacity())
    }
}

/// The kind of an encoding. It has one byte, because every send queue keeps the `Kind` of its partly written frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// As the gateway made it, for WebSockets without compression.
    Plain,
    /// Deflated, refers to no earlier frame.
    Alone,
    /// Like `Alone`, within a small window.
    Small,
    /// Not compressed, for clients that agreed on compression.
    Stored,
    /// Deflated, refers to the client's window.
    Chained,
    /// As an event of an event stream.
    Event,
    /// As an event with the payload alone.
    RawEvent,
}

impl Kind {
    /// Whether a client inflates the payload.
    #[inline]
    pub(super) fn coding(self) -> Coding {
        match self {
            Self::Alone | Self::Small | Self::Stored | Self::Chained => Coding::Deflated,
            Self::Plain | Self::Event | Self::RawEvent => Coding::Plain,
        }
    }
}

/// An encoding, and what it refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) kind: Kind,
    /// The window of [`Kind::Chained`]; otherwise [`WindowId::NONE`].
    window: WindowId,
    /// Bytes of the prefix between the window of [`Kind::Chained`] and the payload; otherwise 0.
    prefix_bytes: u32,
}

impl Key {
    pub(super) const ALONE: Self = Self::of(Kind::Alone);

    /// An encoding without reference.
    #[inline]
    pub(super) const fn of(kind: Kind) -> Self {
        let (window, prefix_bytes) = (WindowId::NONE, 0);
        Self {
            kind,
            window,
            prefix_bytes,
        }
    }

    /// The window to which the encoding refers.
    pub(super) fn window(self) -> WindowId {
        self.window
    }

    /// The encoding that refers to a window; `prefix_bytes` of one connection are between.
    #[inline]
    pub(super) const fn chained(window: WindowId, prefix_bytes: usize) -> Self {
        Self {
            kind: Kind::Chained,
            window,
            prefix_bytes: prefix_bytes as u32,
        }
    }
}

/// One encoding of a frame, as an entry of a linked list.
#[derive(Debug)]
struct Made {
    key: Key,
    /// `None`: the encoding would not be smaller than the payload.
    encoded: Option<Encoded>,
    /// The payload that the plain encoding shares: only in the first entry of a list, which has no encoding then.
    shared: Option<Box<SharedPayload>>,
    next: OnceLock<Box<Self>>,
}

impl Made {
    /// Memory of the entry and of its encoding.
    fn memory_bytes(&self) -> usize {
        let shared = self.shared.as_ref().map(|shared| shared.memory_bytes());
        Encodings::memory_of(self.encoded.as_ref()) + shared.unwrap_or_default()
    }
}

/// The encodings of a frame so far.
#[derive(Debug, Default)]
pub(super) struct Encodings(OnceLock<Box<Made>>);

impl Encodings {
    /// No encoding yet, for a frame whose plain encoding shares this payload.
    pub(super) fn sharing(shared: Box<SharedPayload>) -> Self {
        Self(OnceLock::from(Box::new(Made {
            key: Key::of(Kind::Plain),
            encoded: None,
            shared: Some(shared),
            next: OnceLock::new(),
        })))
    }

    /// What the plain encoding shares.
    pub(super) fn shared(&self) -> Option<&SharedPayload> {
        self.0.get()?.shared.as_deref()
    }

    #[inline]
    fn iter(&self) -> impl Iterator<Item = &Made> {
        let first = self.0.get().map(Box::as_ref);
        std::iter::successors(first, |at| at.next.get().map(Box::as_ref))
    }

    /// Returns an encoding that exists already and is worth sending.
    #[inline]
    pub(super) fn get(&self, key: Key) -> Option<&Encoded> {
        self.iter().find(|at| at.key == key)?.encoded.as_ref()
    }

    /// Returns whether an encoding was made, also if it is not worth sending.
    pub(super) fn was_tried(&self, key: Key) -> bool {
        self.iter().any(|at| at.key == key)
    }

    /// Returns the encoding of `key`; the first call makes the encoding.
    pub(super) fn get_or_make(
        &self,
        key: Key,
        make: impl FnOnce() -> Option<Encoded>,
    ) -> Option<&Encoded> {
        let (mut at, mut make) = (&self.0, Some(make));
        loop {
            // Another thread may put another encoding here at the same time.
            let made = at.get_or_init(|| {
                Box::new(Made {
                    key,
                    encoded: make.take().and_then(|make| make()),
                    shared: None,
                    next: OnceLock::new(),
                })
            });
            if made.key == key {
                return made.encoded.as_ref();
            }
            at = &made.next;
        }
    }

    /// Returns the number of encodings that refer to a window.
    pub(super) fn chained_count(&self) -> usize {
        self.iter()
            .filter(|at| at.key.kind == Kind::Chained)
            .count()
    }

    /// Memory of all encodings, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.iter().map(Made::memory_bytes).sum()
    }

    /// Memory of one encoding, in bytes. An encoding that saves nothing is remembered, and takes memory too.
    pub(super) fn memory_of(encoded: Option<&Encoded>) -> usize {
        allocated_bytes(size_of::<Made>()) + encoded.map_or(0, Encoded::memory_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    fn encoded(bytes: usize) -> Encoded {
        Encoded::new(vec![0; bytes], 0, 0)
    }

    /// Bytes of the encoding of `key`, made with `bytes` by the first call.
    fn made(encodings: &Encodings, key: Key, bytes: usize) -> Option<usize> {
        let encoded = encodings.get_or_make(key, || Some(encoded(bytes)));
        encoded.map(|encoded| encoded.whole().len())
    }

    #[test]
    fn each_encoding_is_made_once_and_found_by_its_key() {
        let encodings = Encodings::default();
        let alone = [Kind::Alone, Kind::Small, Kind::Stored, Kind::Event];
        let alone = alone.map(Key::of);
        let chained = [(1, 0), (1, 9), (2, 9)];
        let chained = chained.map(|(id, prefix)| Key::chained(WindowId::of(id), prefix));
        let keys: Vec<_> = alone.into_iter().chain(chained).collect();
        for (key, bytes) in keys.iter().zip(1..) {
            assert!(encodings.get(*key).is_none());
            assert_eq!(made(&encodings, *key, bytes), Some(bytes));
        }
        for (key, bytes) in keys.iter().zip(1..) {
            assert_eq!(made(&encodings, *key, 100), Some(bytes), "{key:?}");
        }
        assert_eq!(encodings.chained_count(), 3);
        let of_each = Encodings::memory_of(Some(&encoded(1)));
        assert_eq!(
            encodings.memory_bytes(),
            7 * of_each,
            "allocations of 32 bytes each"
        );
    }

    #[test]
    fn an_encoding_that_saves_nothing_is_tried_once() {
        let encodings = Encodings::default();
        assert!(encodings.get_or_make(Key::ALONE, || None).is_none());
        assert_eq!(made(&encodings, Key::ALONE, 1), None);
        assert!(encodings.get(Key::ALONE).is_none());
        assert_eq!(encodings.memory_bytes(), Encodings::memory_of(None));
    }

    #[test]
    fn a_thread_that_waits_for_the_encoding_of_another_makes_its_own() {
        let (encodings, begun) = (Encodings::default(), Barrier::new(2));
        thread::scope(|threads| {
            threads.spawn(|| {
                encodings.get_or_make(Key::ALONE, || {
                    begun.wait();
                    // Meanwhile the other thread comes to the same place of the list.
                    (0..10_000).for_each(|_| thread::yield_now());
                    Some(encoded(1))
                });
            });
            begun.wait();
            let stored = Key::of(Kind::Stored);
            assert_eq!(made(&encodings, stored, 2), Some(2));
        });
        assert_eq!(made(&encodings, Key::ALONE, 3), Some(1));
    }
}
