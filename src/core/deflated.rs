//! The compressor, and the choice of the encoding for a client that negotiated compression.
//!
//! Such a client gets every message as a compressed message. A payload that does not shrink is sent in stored blocks of
//! deflate, because libwebsockets up to 4.3.2 spins on an uncompressed message.
//!
//! A payload that is compressed *after* a window refers to the text of the window ([`super::window`]): its encoding is
//! chained. An encoding without such references stands alone.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::encodings::{Key, Kind};
use super::protocol::websocket;
use super::window::{FrameId, NextPayload, WindowId, Windows};
use super::{Frame, HubStats, LARGE_BYTES, Limits, Now};
use weirgate_wire::deflate::{DeflateParams, Deflater};

/// A larger payload is compressed only if several clients may share the encoding: for one client alone, the loop waits too
/// long.
const OWN_BYTES_MAX: usize = 64 * 1024;

/// The smallest payload that is compressed after a window, bytes: of a smaller one the header takes most.
const REFERS_BYTES_MIN: usize = 64;

/// A frame with so many encodings after windows gets no further one for less than a quarter of its receivers. Each
/// costs a compression, so the limit bounds the cost of clients that got other messages before, on purpose or not.
const OTHERS_MAX: usize = 4;

/// A frame with so many encodings after windows gets no further one, not even for a quarter of its receivers.
const CHAINED_MAX: usize = 6;

/// So many bytes may be compressed for each client with the same window, however many messages come: beside the writes
/// to these clients this costs little.
const BYTES_OF_CLIENT: usize = 512;

/// The most bytes that are compressed in a second for windows with fewer clients than [`BYTES_OF_CLIENT`] requires:
/// 6 % of a core at most.
const FEW_BYTES_PER_SECOND: usize = 16 * 1024 * 1024;

/// The outcome of [`Compressor::chain`].
enum Chained {
    Made,
    /// The frame does not get smaller, or there is nothing to which it may refer.
    Useless,
    /// The window is not known, or too few clients have it.
    Refused,
}

/// How a client inflates the frame that it gets next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

/// A plan that was made in this batch. Most clients of a batch get the same frames after the same windows.
#[derive(Clone, Copy, Debug)]
struct Planned {
    /// The address of the frame. No other frame can get it, because none is made before the batch ends.
    frame: usize,
    client: Inflates,
    /// The `company` of [`Compressor::plan`] after this plan.
    company: u32,
    plan: FramePlan,
}

impl Planned {
    /// Nothing: no frame is at this address.
    fn none() -> Self {
        Self {
            frame: 0,
            client: Inflates::default(),
            company: 0,
            plan: FramePlan::of(Kind::Stored),
        }
    }
}

/// The most plans of a batch that are remembered.
const PLANNED_MAX: usize = 16;

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
    /// Whether anything was compressed since [`Self::take_has_compressed`].
    has_compressed: bool,
    few: FewBudget,
    /// Plans of this batch, each at the place that follows from the address of its frame.
    planned: [Planned; PLANNED_MAX],
    /// Whether there are any: most batches are of clients without compression, and have nothing to forget.
    has_planned: bool,
}

/// What is left of [`FEW_BYTES_PER_SECOND`] in this second.
#[derive(Debug)]
struct FewBudget {
    /// The second, counted by the monotonic clock.
    second: u64,
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
            has_compressed: false,
            few: FewBudget {
                second: 0,
                bytes: FEW_BYTES_PER_SECOND,
            },
            planned: [Planned::none(); PLANNED_MAX],
            has_planned: false,
        }
    }

    /// Begins a batch of writes.
    pub(super) fn begin(&mut self, now: Now) {
        if std::mem::take(&mut self.has_planned) {
            self.planned.fill(Planned::none());
        }
        let second = now.mono_us / 1_000_000;
        if second != self.few.second {
            self.few = FewBudget {
                second,
                bytes: FEW_BYTES_PER_SECOND,
            };
        }
    }

    /// Notes the end of a batch of writes.
    pub(super) fn end(&mut self) {
        self.windows.release_excess();
    }

    /// Whether anything was compressed since the last call.
    #[inline]
    pub(super) fn take_has_compressed(&mut self) -> bool {
        std::mem::take(&mut self.has_compressed)
    }

    /// Releases the frames of windows: memory is short.
    pub(super) fn release_windows(&mut self) {
        self.windows.release_all();
    }

    /// Makes the encoding for this client, unless a fitting encoding exists. `company`: about how many clients get the
    /// same messages in this flush; it grows from message to message of a client.
    #[inline]
    pub(super) fn plan(
        &mut self,
        frame: &Arc<Frame>,
        client: Inflates,
        company: &mut u32,
        stats: &mut HubStats,
    ) -> &FramePlan {
        let address = Arc::as_ptr(frame).addr();
        let place = address / size_of::<Frame>() % PLANNED_MAX;
        let known = &self.planned[place];
        if known.frame == address && known.client == client {
            *company = (*company).max(known.company);
            self.windows.count_move(client.window, known.plan.next);
        } else {
            let plan = self.make_plan(frame, client, company, stats);
            self.has_planned = true;
            self.planned[place] = Planned {
                frame: address,
                client,
                company: *company,
                plan,
            };
        }
        &self.planned[place].plan
    }

    /// Chooses the encoding of a frame for which this batch has no plan yet.
    fn make_plan(
        &mut self,
        frame: &Arc<Frame>,
        client: Inflates,
        company: &mut u32,
        stats: &mut HubStats,
    ) -> FramePlan {
        if client.params.takes_over() {
            return self.plan_in_window(frame, client, company, stats);
        }
        // The rest of a frame has to come in the encoding in which it was begun.
        let key = match client.begun {
            Some(Kind::Chained) => Key::chained(client.window, client.prefix_bytes),
            Some(kind) => Key::of(kind),
            None => self.without_window(frame, client, stats),
        };
        let next = WindowId::NONE;
        FramePlan { key, next }
    }

    /// Plans a frame for a client whose messages may refer to earlier ones.
    fn plan_in_window(
        &mut self,
        frame: &Arc<Frame>,
        client: Inflates,
        company: &mut u32,
        stats: &mut HubStats,
    ) -> FramePlan {
        let id = self
            .refers_to_others(frame)
            .then(|| self.windows.intern(frame));
        *company = (*company).max(self.windows.clients(client.window));
        let (key, before) = match (client.begun, id) {
            (Some(Kind::Chained), _) => {
                let window = client.window;
                (Key::chained(window, client.prefix_bytes), window)
            }
            (Some(kind), _) => (Key::of(kind), client.window),
            (None, Some(id)) => self.choose(frame, id, client, *company, stats),
            (None, None) => (self.without_window(frame, client, stats), client.window),
        };
        let body_bytes = frame.body_bytes();
        let next = self.windows.move_client(NextPayload {
            client: client.window,
            before,
            // A frame to which no other refers is in the window only by its length.
            gap: client.prefix_bytes + if id.is_none() { body_bytes } else { 0 },
            frame: id.map(|id| (id, body_bytes)),
        });
        FramePlan { key, next }
    }

    /// Makes the encoding after the client's window, or after its last message, or without reference. Also returns the
    /// part of the window that counts from now on: all of it, or only its last message, or nothing. A shorter window is
    /// the same for more clients, those that got different messages before.
    fn choose(
        &mut self,
        frame: &Frame,
        id: FrameId,
        client: Inflates,
        company: u32,
        stats: &mut HubStats,
    ) -> (Key, WindowId) {
        let mut window = client.window;
        let mut outcome = self.chain(frame, id, window, client.prefix_bytes, company, stats);
        if matches!(outcome, Chained::Refused) {
            window = self.windows.last_of(window);
            let company = self.windows.clients(window);
            outcome = self.chain(frame, id, window, client.prefix_bytes, company, stats);
        }
        match outcome {
            Chained::Made => (Key::chained(window, client.prefix_bytes), window),
            Chained::Useless => (self.without_window(frame, client, stats), client.window),
            Chained::Refused => (self.without_window(frame, client, stats), WindowId::NONE),
        }
    }

    /// Makes an encoding that refers to no window.
    fn without_window(&mut self, frame: &Frame, client: Inflates, stats: &mut HubStats) -> Key {
        let alone = alone_key(frame, client.params);
        if let Some(key) = alone
            && self.encode_alone(frame, key, stats)
        {
            return key;
        }
        let key = Key::of(Kind::Stored);
        frame.encoded_stored(key, |pieces| {
            stats.encodings_stored += 1;
            let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
            // With room for the headers of the stored blocks.
            let mut out = websocket::room_for(bytes + bytes / 8_192 + 32);
            Deflater::write_stored(&mut out, pieces);
            out.shrink_to_fit();
            out
        });
        key
    }

    /// The encoding that a client with compression gets of a large frame: compressed unless that was found to save nothing.
    pub(super) fn large_kind(&self, frame: &Frame, client: Inflates) -> Kind {
        let saves = |key: &Key| !frame.was_tried(*key) || frame.encoded(*key).is_some();
        let alone = alone_key(frame, client.params).filter(|_| self.is_worth_it(frame));
        let chosen = alone.filter(saves).map_or(Kind::Stored, |key| key.kind);
        client.begun.unwrap_or(chosen)
    }

    fn is_worth_it(&self, frame: &Frame) -> bool {
        let body_bytes = frame.body_bytes();
        let is_short = frame.is_common() || body_bytes <= OWN_BYTES_MAX;
        is_short && self.worth_it.contains(&body_bytes)
    }

    /// Whether the frame may refer to a window, and later frames to it.
    fn refers_to_others(&self, frame: &Frame) -> bool {
        frame.is_common() && self.refers.contains(&frame.body_bytes())
    }

    /// Makes the encoding of `frame` after a window and so many bytes of a prefix. `company`: clients with the window.
    fn chain(
        &mut self,
        frame: &Frame,
        id: FrameId,
        window: WindowId,
        prefix_bytes: usize,
        company: u32,
        stats: &mut HubStats,
    ) -> Chained {
        if window == WindowId::NONE {
            return Chained::Refused;
        }
        let key = Key::chained(window, prefix_bytes);
        if frame.encoded(key).is_some() {
            return Chained::Made;
        }
        let bytes = frame.body_bytes() + self.windows.bytes(window);
        let is_quarter = company.saturating_mul(4) >= self.windows.receivers(id);
        let chained_max = if is_quarter { CHAINED_MAX } else { OTHERS_MAX };
        if frame.encodings().chained_count() >= chained_max || !self.take_permission(company, bytes)
        {
            return Chained::Refused;
        }
        self.text.clear();
        let (windows, text) = (&self.windows, &mut self.text);
        let made = frame.encoded_with(key, |body| {
            // The window has no text, or the payload could refer to bytes that differ from client to client.
            if !windows.text(window, prefix_bytes, body, text) {
                return None;
            }
            stats.frames_deflated += 1;
            stats.encodings_chained += 1;
            self.has_compressed = true;
            let payload = self.deflater.deflate_after(text, body)?;
            Some(websocket::with_header_room(&payload))
        });
        match made {
            Some(_) => Chained::Made,
            None => Chained::Useless,
        }
    }

    /// Whether so many bytes may be compressed for so many clients: if the clients are enough to share the cost, or the
    /// budget for few clients still has the bytes, which are then taken from it.
    fn take_permission(&mut self, clients: u32, bytes: usize) -> bool {
        if (clients as usize).saturating_mul(BYTES_OF_CLIENT) >= bytes {
            return true;
        }
        let left = self.few.bytes.checked_sub(bytes);
        self.few.bytes = left.unwrap_or(self.few.bytes);
        left.is_some()
    }

    /// Makes the encoding without reference; returns false if the size is outside `worth_it` or nothing
    /// is saved.
    fn encode_alone(&mut self, frame: &Frame, key: Key, stats: &mut HubStats) -> bool {
        if !self.is_worth_it(frame) {
            return false;
        }
        let made = frame.encoded_with(key, |body| {
            stats.frames_deflated += 1;
            stats.encodings_alone += 1;
            self.has_compressed = true;
            let deflater = match key.kind {
                Kind::Small => self.small.get_or_insert_with(|| {
                    Deflater::with_window(self.level, Deflater::SMALL_WINDOW_BITS)
                }),
                _ => &mut self.deflater,
            };
            Some(websocket::with_header_room(&deflater.deflate(body)?))
        });
        made.is_some()
    }
}

/// The encoding without reference, if the client has a window for it.
#[inline]
fn alone_key(frame: &Frame, params: DeflateParams) -> Option<Key> {
    let body_bytes = frame.body_bytes();
    match params.deflates_with(body_bytes)? {
        // A large payload is compressed with the small window for all clients ([`LARGE_BYTES`]).
        Deflater::WINDOW_BITS if body_bytes <= LARGE_BYTES => Some(Key::ALONE),
        _ => Some(Key::of(Kind::Small)),
    }
}
