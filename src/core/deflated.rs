//! The compressor, and the choice of the encoding for a client that negotiated compression.
//!
//! Such a client gets every message as a compressed message. A payload that does not shrink is sent in stored blocks of
//! deflate, because libwebsockets up to 4.3.2 spins on an uncompressed message.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::encodings::{Key, Kind};
use super::protocol::websocket;
use super::window::{FrameId, Next, WindowId, Windows};
use super::{Class, Frame, HubStats, Limits};
use weirgate_wire::deflate;
use weirgate_wire::deflate::{DeflateParams, Deflater, SMALL_WINDOW_BITS, WINDOW_BITS};

/// Larger payloads get the small window for all clients, and refer to no other frame: text that hardly
/// shrinks takes twice as long with the large window, and the loop waits.
const LARGE_BYTES: usize = 128 * 1024;

/// The smallest payload that is compressed after a window, bytes: of a smaller one the header takes most.
const REFERS_BYTES_MIN: usize = 64;

/// The most encodings of a frame after windows of few clients. Each costs a compression, so the limit bounds the cost of
/// clients that got other messages before, on purpose or not.
const OTHERS_MAX: usize = 4;

/// An encoding after the window of a lone client is made for so many receivers at least: beside their writes, a
/// compression is little.
const RECEIVERS_OF_LONE: u32 = 128;

/// A client, and a frame that it is about to get.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inflates {
    pub(super) params: DeflateParams,
    /// The client's window before the frame.
    pub(super) window: WindowId,
    /// Bytes of the text before the payload.
    pub(super) prefix_bytes: usize,
    /// The kind of encoding in which a part of the frame went out already.
    pub(super) begun: Option<Kind>,
}

/// How a client gets a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct FramePlan {
    pub(super) key: Key,
    /// The client's window after the frame.
    pub(super) next: WindowId,
}

impl FramePlan {
    /// For a client without a window.
    pub(super) fn of(kind: Kind) -> Self {
        Self {
            key: Key::of(kind),
            next: WindowId::NONE,
        }
    }
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
    /// The sizes of payloads that refer to windows and that later payloads refer to, in bytes.
    refers: RangeInclusive<usize>,
    windows: Windows,
    /// The text of a window.
    text: Vec<u8>,
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
            refers: REFERS_BYTES_MIN.min(limits.deflate_min_bytes)
                ..=LARGE_BYTES.min(limits.deflate_max_bytes),
            windows: Windows::default(),
            text: Vec::new(),
            bytes: 0,
        }
    }

    /// Bytes compressed since the last call.
    pub(super) fn take_bytes(&mut self) -> usize {
        std::mem::take(&mut self.bytes)
    }

    /// Releases the frames of windows: memory is short.
    pub(super) fn release_windows(&mut self) {
        self.windows.release();
    }

    /// Makes the encoding for this client, unless a fitting encoding exists. `company`: clients that got the same
    /// messages before in this flush, of a client with several messages to get.
    pub(super) fn plan(
        &mut self,
        frame: &Arc<Frame>,
        client: Inflates,
        company: &mut u32,
        stats: &mut HubStats,
    ) -> FramePlan {
        if !client.params.takes_over() {
            let kind = client.begun;
            return FramePlan::of(
                kind.unwrap_or_else(|| self.without_window(frame, client, stats)),
            );
        }
        let id = self
            .refers_to_others(frame)
            .then(|| self.windows.number(frame));
        *company = (*company).max(self.windows.clients(client.window));
        let after = Key::after(client.window, client.prefix_bytes);
        let key = match (client.begun, id) {
            (Some(Kind::After), _) => after,
            (Some(kind), _) => Key::of(kind),
            (None, Some(id)) if self.after(frame, id, client, *company, stats) => after,
            (None, _) => Key::of(self.without_window(frame, client, stats)),
        };
        let body_bytes = frame.body().len();
        let next = self.windows.next(Next {
            before: client.window,
            gap: client.prefix_bytes + if id.is_none() { body_bytes } else { 0 },
            frame: id.map(|id| (id, body_bytes)),
        });
        FramePlan { key, next }
    }

    /// Makes an encoding that refers to no window; returns its kind.
    fn without_window(&mut self, frame: &Frame, client: Inflates, stats: &mut HubStats) -> Kind {
        let alone = alone(frame, client.params);
        if let Some(key) = alone
            && self.alone(frame, key, stats)
        {
            return key.kind;
        }
        frame.encoded_with(Key::of(Kind::Stored), |body| {
            stats.encodings_stored += 1;
            let mut out = websocket::room_for(body.len() + body.len() / 8_192 + 16);
            deflate::stored_message(&mut out, body);
            out.shrink_to_fit();
            Some(out)
        });
        Kind::Stored
    }

    fn is_worth_it(&self, body_bytes: usize) -> bool {
        self.worth_it.contains(&body_bytes)
    }

    /// Whether the frame may refer to a window, and later frames to it: not an answer to one client, nor a message of a
    /// user's own.
    fn refers_to_others(&self, frame: &Frame) -> bool {
        frame.class() != Class::Answer
            && !frame.is_private()
            && self.refers.contains(&frame.body().len())
    }

    /// Makes the encoding of `frame` that refers to the client's window; returns false if the window is not known, too
    /// few clients have it, or nothing is saved.
    fn after(
        &mut self,
        frame: &Frame,
        id: FrameId,
        client: Inflates,
        company: u32,
        stats: &mut HubStats,
    ) -> bool {
        if client.window == WindowId::NONE {
            return false;
        }
        let key = Key::after(client.window, client.prefix_bytes);
        if frame.encoded(key).is_some() {
            return true;
        }
        let chained = frame.encodings().chained();
        if !is_shared_enough(company, self.windows.receivers(id), chained) {
            return false;
        }
        self.text.clear();
        let (windows, text) = (&self.windows, &mut self.text);
        let (window, gap) = (client.window, client.prefix_bytes);
        let made = frame.encoded_with(key, |body| {
            if !windows.text(window, gap, body, text) {
                return None;
            }
            stats.frames_deflated += 1;
            stats.encodings_chained += 1;
            self.bytes += body.len() + text.len();
            let payload = self.deflater.deflate_after(text, body)?;
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

/// Whether an encoding after a window is made. `company`: clients with the window; `receivers` of the frame; `chained`:
/// encodings of the frame after other windows.
fn is_shared_enough(company: u32, receivers: u32, chained: usize) -> bool {
    let (company, is_another) = (company.max(1), chained < OTHERS_MAX);
    let is_group = company >= 2 && company.saturating_mul(16) >= receivers;
    let is_cheap = (chained as u32 + 1) * RECEIVERS_OF_LONE <= receivers;
    company.saturating_mul(4) >= receivers || is_another && (is_group || is_cheap)
}

/// The encoding without reference, if the client has a window for it.
#[inline]
fn alone(frame: &Frame, params: DeflateParams) -> Option<Key> {
    let body_bytes = frame.body().len();
    match params.deflates_with(body_bytes)? {
        WINDOW_BITS if body_bytes <= LARGE_BYTES => Some(Key::ALONE),
        _ => Some(Key::of(Kind::Small)),
    }
}
