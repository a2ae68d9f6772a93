//! The compressor, and the choice of the encoding for a client that negotiated compression.
//!
//! Such a client gets every message as a compressed message. A payload that does not shrink is sent in stored blocks of
//! deflate, because libwebsockets up to 4.3.2 spins on an uncompressed message.

use std::ops::RangeInclusive;

use super::encodings::{FrameId, Key, Kind};
use super::protocol::websocket;
use super::window::OLDER_MAX;
use super::{Encoded, Frame, HubStats, Limits};
use weirgate_wire::deflate;
use weirgate_wire::deflate::{
    DICTIONARY_BYTES_MAX, DeflateParams, Deflater, SMALL_WINDOW_BITS, WINDOW_BITS,
};

/// Larger payloads get the small window for all clients, and refer to no other frame: text that hardly
/// shrinks takes twice as long with the large window, and the loop waits.
const LARGE_BYTES: usize = 128 * 1024;

/// The compression parameters and the window of a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inflates {
    pub(super) params: DeflateParams,
    /// The frame with which the client's window ends.
    pub(super) window: FrameId,
}

/// The deflaters of a hub.
#[derive(Debug)]
pub(super) struct Compressor {
    level: u32,
    deflater: Deflater,
    /// Made by the first client with a small window.
    small: Option<Deflater>,
    /// The sizes of payloads to compress, in bytes.
    worth_it: RangeInclusive<usize>,
    /// Bytes compressed since [`Self::take_bytes`].
    bytes: usize,
}

impl Compressor {
    pub(super) fn new(limits: &Limits) -> Self {
        let level = limits.deflate_level.max(1);
        Self {
            level,
            deflater: Deflater::new(level),
            small: None,
            worth_it: limits.deflate_min_bytes..=limits.deflate_max_bytes,
            bytes: 0,
        }
    }

    /// Bytes compressed since the last call.
    pub(super) fn take_bytes(&mut self) -> usize {
        std::mem::take(&mut self.bytes)
    }

    /// Makes the encoding for this client, unless a fitting encoding exists. [`best`] then returns it.
    pub(super) fn encode(&mut self, frame: &Frame, client: Inflates, stats: &mut HubStats) {
        let after = after(client);
        if after.is_some_and(|key| self.after(frame, key, stats)) {
            return;
        }
        let alone = alone(frame, client.params);
        if alone.is_some_and(|key| self.alone(frame, key, stats)) {
            return;
        }
        frame.encoded_with(Key::of(Kind::Stored, FrameId::NONE), |body| {
            stats.encodings_stored += 1;
            let mut out = websocket::room_for(body.len() + body.len() / 8_192 + 16);
            deflate::stored_message(&mut out, body);
            out.shrink_to_fit();
            Some(out)
        });
    }

    fn is_worth_it(&self, body_bytes: usize) -> bool {
        self.worth_it.contains(&body_bytes)
    }

    /// Whether a payload of this size may refer to earlier frames, and later frames to it.
    pub(super) fn may_refer(&self, body_bytes: usize) -> bool {
        self.is_worth_it(body_bytes) && body_bytes <= LARGE_BYTES
    }

    /// Makes the encoding of `frame` that refers to the client's last frame; returns false if the last frame is too far
    /// back or gone, `frame` already has the most encodings of this kind, or nothing is saved. Once false for a window,
    /// the result stays false: a planned write relies on it.
    fn after(&mut self, frame: &Frame, key: Key, stats: &mut HubStats) -> bool {
        if frame.encoded(key).is_some() {
            return true;
        }
        let is_full = frame.encodings().chained() >= OLDER_MAX;
        if is_full && !frame.link().is_next_after(key.after) {
            return false;
        }
        let Some(earlier) = frame.link().earlier(key.after) else {
            return false;
        };
        let made = frame.encoded_with(key, |body| {
            stats.frames_deflated += 1;
            stats.encodings_chained += 1;
            self.bytes += body.len() + earlier.body().len().min(DICTIONARY_BYTES_MAX);
            let payload = self.deflater.deflate_after(earlier.body(), body)?;
            Some(websocket::behind_room(&payload))
        });
        made.is_some()
    }

    /// Makes the encoding without reference; returns false if the size is outside `worth_it` or nothing
    /// is saved.
    fn alone(&mut self, frame: &Frame, key: Key, stats: &mut HubStats) -> bool {
        let made = frame.encoded_with(key, |body| {
            if !self.is_worth_it(body.len()) {
                return None;
            }
            stats.frames_deflated += 1;
            stats.encodings_alone += 1;
            self.bytes += body.len();
            let deflater = match key.kind {
                Kind::Small => self
                    .small
                    .get_or_insert_with(|| Deflater::with_window(self.level, SMALL_WINDOW_BITS)),
                _ => &mut self.deflater,
            };
            Some(websocket::behind_room(&deflater.deflate(body)?))
        });
        made.is_some()
    }
}

/// Returns the best encoding for a client among the encodings that exist: after its last frame, alone, or stored.
#[inline]
pub(super) fn best(frame: &Frame, client: Inflates) -> Option<(Kind, &Encoded)> {
    let made = |key: Key| Some((key.kind, frame.encoded(key)?));
    let best = after(client).and_then(made);
    let best = best.or_else(|| alone(frame, client.params).and_then(made));
    best.or_else(|| made(Key::of(Kind::Stored, FrameId::NONE)))
}

/// The encoding that refers to the last frame of the client, if that frame is known.
#[inline]
fn after(client: Inflates) -> Option<Key> {
    let known = client.params.takes_over() && client.window != FrameId::NONE;
    known.then_some(Key::of(Kind::After, client.window))
}

/// The encoding without reference, if the client has a window for it.
#[inline]
fn alone(frame: &Frame, params: DeflateParams) -> Option<Key> {
    let body_bytes = frame.body().len();
    match params.deflates_with(body_bytes)? {
        WINDOW_BITS if body_bytes <= LARGE_BYTES => Some(Key::ALONE),
        _ => Some(Key::of(Kind::Small, FrameId::NONE)),
    }
}
