//! What the messages of clients may refer to: the text that each client has sent.
//!
//! A client whose window stays from message to message (context takeover, RFC 7692 §7.1.1.2) refers
//! to the text of its earlier compressed messages, and to nothing else (§7.2.2): not to messages that
//! were not compressed. So that text is kept, as far back as the window reaches, and is the
//! dictionary of the next inflate. Of a client that sent no compressed message nothing is kept.
//!
//! Most clients send a few short requests. Their text is deflated once some has gathered, so that it
//! takes some hundred bytes; the text of a client that sends more is kept as it is, because with
//! each message it would have to be inflated again.
//!
//! A client that may take over can fill its window at any time, so each counts with its whole window
//! from its handshake on: what is kept never passes the limit of all, and no client has to go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Deflater, InflateError, Inflater};

/// Text of one client that is kept deflated at most; more is kept as it is.
const PACKED_TEXT_MAX: usize = 8 * 1024;

/// Text of one client that gathers before all of its text is deflated.
const LOOSE_TEXT_MAX: usize = 512;

/// log2 of the window that holds [`PACKED_TEXT_MAX`].
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
    /// `bytes_max`: of all windows together, each counted whole.
    pub fn new(bytes_max: u64) -> Self {
        Self(Arc::new(Totals {
            bytes_max,
            ..Totals::default()
        }))
    }

    /// A window of `1 << bits` bytes for a new client, `bits` 9 to 15. `None`: the limit leaves no
    /// room, which is counted.
    pub fn grant(&self, bits: u8) -> Option<InflateWindow> {
        let granted = self.granted_bytes() + (1 << bits);
        if granted > self.0.bytes_max {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.0.granted.store(granted, Ordering::Relaxed);
        Some(InflateWindow {
            totals: Arc::clone(&self.0),
            sent: None,
            bits,
        })
    }

    /// Bytes that the windows of all clients may come to.
    pub fn granted_bytes(&self) -> u64 {
        self.0.granted.load(Ordering::Relaxed)
    }

    /// Bytes that are kept now.
    pub fn kept_bytes(&self) -> u64 {
        self.0.kept.load(Ordering::Relaxed)
    }

    /// Clients that got no window.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }
}

/// What the messages of one client may refer to. When dropped, its room is free again.
#[derive(Debug)]
pub struct InflateWindow {
    totals: Arc<Totals>,
    /// From the first compressed message on.
    sent: Option<Box<Sent>>,
    bits: u8,
}

/// The newest text of a client.
#[derive(Debug, Default)]
struct Sent {
    /// The older part, deflated; empty if there is none.
    packed: Vec<u8>,
    /// Bytes of that part as text.
    packed_text: usize,
    /// The newer part as it is.
    loose: Vec<u8>,
    /// There is no packed part any more.
    stays_loose: bool,
}

/// What deflates and inflates the text of all clients.
#[derive(Debug, Default)]
pub(super) struct Packer {
    /// The text of the client whose message is read; at most [`PACKED_TEXT_MAX`] is kept.
    text: Vec<u8>,
    /// Made by the first client with so much text. Takes about 300 KB.
    deflater: Option<Deflater>,
}

impl Packer {
    /// `text`, deflated, if that takes half as much.
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

    /// The text in the window.
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

    /// Puts the text of a message behind what [`Self::text`] has just returned.
    pub(super) fn append(&mut self, message: &[u8], packer: &mut Packer) {
        if message.is_empty() {
            return;
        }
        let (bytes_max, before) = (self.bytes_max(), self.kept_bytes());
        let sent = self.sent.get_or_insert_default();
        sent.append(message, bytes_max, packer);
        // One thread has all windows.
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

    /// From here on the text, `before` and behind it `message`, is kept as it is.
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

    fn append_loose(&mut self, message: &[u8], bytes_max: usize) {
        let message = &message[message.len().saturating_sub(bytes_max)..];
        let bytes = self.loose.len() + message.len();
        self.loose.drain(..bytes.saturating_sub(bytes_max));
        if bytes > self.loose.capacity() && self.loose.capacity() < bytes_max {
            // By an eighth, but never past the window.
            let capacity = (bytes + bytes / 8).min(bytes_max);
            self.loose.reserve_exact(capacity - self.loose.len());
        }
        self.loose.extend_from_slice(message);
    }
}

#[cfg(test)]
mod tests;
