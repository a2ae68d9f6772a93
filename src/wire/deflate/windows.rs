//! The earlier text of clients, to which their later messages may refer.
//!
//! A client that keeps its window from message to message (context takeover, RFC 7692 §7.1.1.2) may refer to the text
//! of its earlier compressed messages (§7.2.2), but not to that of uncompressed ones. The gateway keeps this text as
//! far back as the window reaches, as the dictionary for the next message. It keeps nothing of a client that sends no
//! compressed messages.
//!
//! Most clients send a few short requests. Once enough of their text has gathered, it is kept deflated, and takes some
//! hundred bytes. The text of a client that sends more is kept as it is, because otherwise every message would have to
//! inflate it again.
//!
//! A client with context takeover can fill its window at any time, so its whole window is counted from the handshake
//! on. The kept text therefore never exceeds the limit for all clients, and no client has to be closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Deflater, InflateError, Inflater};

/// The most text of a client that is kept deflated, in bytes; more text is kept as it is.
const PACKED_TEXT_MAX: usize = 8 * 1024;

/// The most text of a client that gathers before it is deflated, in bytes.
const LOOSE_TEXT_MAX: usize = 512;

/// log2 of the window for [`PACKED_TEXT_MAX`].
const PACKING_WINDOW_BITS: u8 = 13;
const PACKING_LEVEL: u32 = 4;

/// The windows of all clients of a reactor.
#[derive(Clone, Debug, Default)]
pub struct InflateWindows(Arc<Totals>);

#[derive(Debug, Default)]
struct Totals {
    bytes_max: u64,
    granted: AtomicU64,
    kept: AtomicU64,
    refused: AtomicU64,
}

impl InflateWindows {
    /// `bytes_max`: limit of all windows together, each counted whole.
    pub fn new(bytes_max: u64) -> Self {
        Self(Arc::new(Totals {
            bytes_max,
            ..Totals::default()
        }))
    }

    /// Grants a window of `1 << bits` bytes to a new client; `bits` is 9 to 15. If the limit leaves no room, returns
    /// `None` and counts the refusal.
    pub fn grant(&self, bits: u8) -> Option<InflateWindow> {
        let granted = self.granted_bytes() + (1 << bits);
        if granted > self.0.bytes_max {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        // A single thread has all windows, so a load and a store suffice.
        self.0.granted.store(granted, Ordering::Relaxed);
        Some(InflateWindow {
            totals: Arc::clone(&self.0),
            sent: None,
            bits,
        })
    }

    /// Bytes of all granted windows, each counted whole.
    pub fn granted_bytes(&self) -> u64 {
        self.0.granted.load(Ordering::Relaxed)
    }

    /// Bytes of text that are kept now.
    pub fn kept_bytes(&self) -> u64 {
        self.0.kept.load(Ordering::Relaxed)
    }

    /// How many clients got no window because of the limit.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }
}

/// The earlier text that a client's messages may refer to. Dropping it returns its room.
#[derive(Debug)]
pub struct InflateWindow {
    totals: Arc<Totals>,
    /// What the client has sent; `None`: no compressed text so far.
    sent: Option<Box<Sent>>,
    /// log2 of the size of the window in bytes.
    bits: u8,
}

/// The newest text of a client.
#[derive(Debug, Default)]
struct Sent {
    /// The older part, deflated; empty if there is none.
    packed: Vec<u8>,
    /// Bytes of the older part as text.
    packed_text: usize,
    /// The newer part, not deflated.
    loose: Vec<u8>,
    /// All text is in `loose`, and later text is never deflated.
    stays_loose: bool,
}

/// Deflates and inflates the kept text of all clients.
#[derive(Debug, Default)]
pub(super) struct Packer {
    /// The text of the client whose message is being read, inflated: at most [`PACKED_TEXT_MAX`] bytes.
    text: Vec<u8>,
    /// Created for the first client with enough text. Takes about 300 KB.
    deflater: Option<Deflater>,
}

impl Packer {
    /// Returns [`Self::text`] deflated, if the result is at most half as long.
    fn pack(&mut self) -> Option<Vec<u8>> {
        let deflater = self
            .deflater
            .get_or_insert_with(|| Deflater::with_window(PACKING_LEVEL, PACKING_WINDOW_BITS));
        let packed = deflater.deflate(&self.text)?;
        (packed.len() <= self.text.len() / 2).then_some(packed)
    }
}

impl InflateWindow {
    fn bytes_max(&self) -> usize {
        1 << self.bits
    }

    fn kept_bytes(&self) -> u64 {
        self.sent.as_ref().map_or(0, |sent| sent.bytes()) as u64
    }

    /// Returns the text in the window.
    pub(super) fn text<'a>(
        &'a self,
        inflater: &mut Inflater,
        packer: &'a mut Packer,
    ) -> Result<&'a [u8], InflateError> {
        packer.text.clear();
        let Some(sent) = &self.sent else {
            return Ok(&packer.text);
        };
        if sent.stays_loose {
            return Ok(&sent.loose);
        }
        inflater.inflate(&sent.packed, &mut packer.text, PACKED_TEXT_MAX)?;
        packer.text.extend_from_slice(&sent.loose);
        Ok(&packer.text)
    }

    /// Appends a message to the text. Must follow a call of [`Self::text`], which leaves the text in `packer`.
    pub(super) fn append(&mut self, message: &[u8], packer: &mut Packer) {
        if message.is_empty() {
            return;
        }
        let (bytes_max, before) = (self.bytes_max(), self.kept_bytes());
        let sent = self.sent.get_or_insert_default();
        sent.append(message, bytes_max, packer);
        // A single thread has all windows, so a load and a store suffice.
        let kept = self.totals.kept.load(Ordering::Relaxed) - before + self.kept_bytes();
        self.totals.kept.store(kept, Ordering::Relaxed);
    }
}

impl Drop for InflateWindow {
    fn drop(&mut self) {
        let kept = self.kept_bytes();
        self.totals.kept.fetch_sub(kept, Ordering::Relaxed);
        let granted = self.bytes_max() as u64;
        self.totals.granted.fetch_sub(granted, Ordering::Relaxed);
    }
}

impl Sent {
    /// Memory of the text.
    fn bytes(&self) -> usize {
        self.packed.capacity() + self.loose.capacity()
    }

    /// Appends a message. New text is kept as it is up to [`LOOSE_TEXT_MAX`], then all text is deflated together. Too
    /// long a text, or one that deflate does not shorten enough, stays as it is for good. `packer` has the text before
    /// the message.
    fn append(&mut self, message: &[u8], bytes_max: usize, packer: &mut Packer) {
        if self.stays_loose {
            self.append_loose(message, bytes_max);
            return;
        }
        let loose_bytes = self.loose.len() + message.len();
        let all_bytes = self.packed_text + loose_bytes;
        if all_bytes > bytes_max.min(PACKED_TEXT_MAX) {
            self.stay_loose(&packer.text, message, bytes_max);
            return;
        }
        if loose_bytes <= LOOSE_TEXT_MAX {
            self.loose.reserve_exact(message.len());
            self.loose.extend_from_slice(message);
            return;
        }
        packer.text.extend_from_slice(message);
        match packer.pack() {
            Some(packed) => {
                self.packed = packed;
                self.packed_text = all_bytes;
                self.loose = Vec::new();
            }
            None => self.stay_loose(&packer.text, &[], bytes_max),
        }
    }

    /// Keeps `before` and `message` undeflated, and all later text too.
    fn stay_loose(&mut self, before: &[u8], message: &[u8], bytes_max: usize) {
        let mut loose = Vec::with_capacity((before.len() + message.len()).min(bytes_max));
        loose.extend_from_slice(before);
        *self = Self {
            loose,
            stays_loose: true,
            ..Self::default()
        };
        self.append_loose(message, bytes_max);
    }

    /// Appends to the text that is not deflated. Of all, only the newest `bytes_max` bytes stay.
    fn append_loose(&mut self, message: &[u8], bytes_max: usize) {
        let message = &message[message.len().saturating_sub(bytes_max)..];
        let bytes = self.loose.len() + message.len();
        self.loose.drain(..bytes.saturating_sub(bytes_max));
        if bytes > self.loose.capacity() && self.loose.capacity() < bytes_max {
            // Grows by an eighth, but never past the window.
            let capacity = (bytes + bytes / 8).min(bytes_max);
            self.loose.reserve_exact(capacity - self.loose.len());
        }
        self.loose.extend_from_slice(message);
    }
}

#[cfg(test)]
mod tests {
    use weirgate_test_support::DeflateSender;

    use super::*;

    /// The gateway's state for a client.
    struct FakeClient {
        inflater: Inflater,
        window: InflateWindow,
    }

    impl FakeClient {
        fn of(windows: &InflateWindows, bits: u8) -> Self {
            Self {
                inflater: Inflater::default(),
                window: windows.grant(bits).expect("room"),
            }
        }

        fn inflate(&mut self, message: &[u8]) -> Result<Vec<u8>, InflateError> {
            let mut out = b"before".to_vec();
            self.inflater.begin(Some(&self.window))?;
            while !self.inflater.step(message, &mut out, 1 << 20)? {}
            let text = out.split_off(6);
            self.inflater.append(&mut self.window, &text);
            Ok(text)
        }
    }

    fn request(n: usize) -> String {
        let name = n * 7_919 % 1_000;
        format!(r#"{{"action":"subscribe","channels":["market:tick:S{name:03}"]}}"#)
    }

    /// Text with repeats near and far, or noise.
    fn text(random: &mut u64, bytes: usize) -> Vec<u8> {
        let mut next = || {
            *random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *random >> 33
        };
        let noise = next().is_multiple_of(8);
        let mut text = Vec::new();
        while text.len() < bytes {
            match noise {
                true => text.extend(next().to_le_bytes()),
                false => text.extend(request(next() as usize % 300).into_bytes()),
            }
        }
        text.truncate(bytes);
        text
    }

    #[test]
    fn messages_may_refer_to_whatever_the_client_has_sent() {
        let windows = InflateWindows::new(1 << 20);
        for (bits, seed) in (9..=15).flat_map(|bits| (0..6).map(move |seed| (bits, seed))) {
            let mut random = seed + 1;
            let (mut client, mut held) = (DeflateSender::new(bits), FakeClient::of(&windows, bits));
            let sizes: &[usize] = match seed {
                0 => &[40, 60],
                1 => &[0, 1, 511, 512, 513],
                2 => &[2_000, 100],
                3 => &[8_191, 1, 8_193, 300],
                4 => &[32_767, 32_769, 50, 70_000, 10],
                _ => &[20_000, 50, 3_000, 0, 50],
            };
            for n in 0..120 {
                let text = text(&mut random, sizes[n % sizes.len()]);
                let message = match n % 17 {
                    16 => client.last_block(&text),
                    _ => client.message(&text),
                };
                assert!(
                    held.inflate(&message).as_ref() == Ok(&text),
                    "{bits} {seed} {n}"
                );
                assert!(windows.kept_bytes() <= 1 << bits);
            }
            assert_eq!(windows.granted_bytes(), 1 << bits);
        }
        assert_eq!((windows.granted_bytes(), windows.kept_bytes()), (0, 0));
        assert_eq!(windows.refused(), 0);
    }

    #[test]
    fn the_text_of_a_few_short_requests_takes_some_hundred_bytes() {
        let windows = InflateWindows::new(1 << 20);
        let (mut client, mut held) = (DeflateSender::new(15), FakeClient::of(&windows, 15));
        assert_eq!(windows.kept_bytes(), 0);
        let (mut sent, mut most) = (0, 0);
        for n in 0..64 {
            let request = request(n);
            let message = client.message(request.as_bytes());
            assert_eq!(held.inflate(&message), Ok(request.clone().into_bytes()));
            sent += request.len();
            most = most.max(windows.kept_bytes());
        }
        assert!(sent > 3_000 && most < 900, "{most} bytes for {sent}");
    }

    #[test]
    fn what_lies_further_back_than_the_window_cannot_be_referred_to() {
        let windows = InflateWindows::new(1 << 20);
        let mut random = 1;
        for (bits, distance, is_kept) in [
            (15, 32_000, true),
            (9, 400, true),
            (9, 600, false),
            (12, 3_900, true),
            (12, 4_200, false),
        ] {
            // The client ignores the agreed window.
            let (mut client, mut held) = (DeflateSender::new(15), FakeClient::of(&windows, bits));
            let first: Vec<u8> = (0..100).map(|_| text(&mut random, 8)[1]).collect();
            let noise: Vec<u8> = (0..distance - 100).map(|n| (n * n % 251) as u8).collect();
            for text in [&first, &noise] {
                assert!(held.inflate(&client.message(text)).as_ref() == Ok(text));
            }
            let again = held.inflate(&client.message(&first));
            let expected = if is_kept {
                Ok(first)
            } else {
                Err(InflateError::Corrupt)
            };
            assert_eq!(again, expected, "{bits} bits, {distance} back");
        }
    }

    #[test]
    fn windows_are_granted_up_to_the_limit_of_all() {
        let windows = InflateWindows::new(3 << 15);
        let mut held: Vec<_> = (0..3).map(|_| windows.grant(15)).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(windows.grant(9).is_none() && windows.grant(15).is_none());
        assert_eq!((windows.granted_bytes(), windows.refused()), (3 << 15, 2));
        held.pop();
        assert_eq!(windows.granted_bytes(), 2 << 15);
        assert!(windows.grant(15).is_some() && windows.grant(9).is_some());
        assert!(InflateWindows::new(0).grant(9).is_none());
    }
}
