//! The client's own rate, `?max_hz=2` in the request or set later (contract: protocol-levels.md, protocol-channels.md):
//! [`Throttle`] holds frames with a conflation key. It opens every interval, and then the newest frame of each key is sent.
//!
//! A frame that comes while the throttle is open is sent at once, and the throttle opens again an interval later. Held frames
//! count as waiting. If the newest frames of all keys are too many bytes, the throttle opens early: a client that reads
//! gets more than its rate, and stays; a client that does not read meets the hard limit of the send queue. All clients
//! together hold no more frames than there are keys: a client holds only the newest frame of a key, and all clients
//! share the frame.
//!
//! [`Gate`] is for a client behind buffers that weirgate cannot see, such as the buffers of a base station or a proxy.
//! States wait here, where a newer state replaces the older, and not in the buffers.
//!
//! A gate is made when a pong takes longer than [`LATE_PONG_US`]. From then on a state is sent only while few bytes are
//! in flight, which the pong of a ping after the last state tells. The window of bytes begins at one state, doubles if
//! the pong for the whole window comes in time, and is halved with every late pong. A client that is only far away, or
//! was late once, has the whole window after some round trips, and the gate ends. A gate also ends if no state has had
//! to wait for some time. Frames with a position are never held back, because a position promises everything before.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::limits::LATE_PONG_US;
use crate::{ConflationKey, Frame, Now, RequestRefusal};
use weirgate_wire::head::RequestHead;

const PARAMETER: &str = "max_hz";
const MIN_HZ: f64 = 0.1;
const MAX_HZ: f64 = 1_000.0;
const REFUSAL: RequestRefusal =
    RequestRefusal::new(400, "max_hz must be a number from 0.1 to 1000");

/// The most times a second at which a client wants frames with a conflation key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxRate {
    /// The time between two openings, microseconds.
    interval_us: u64,
}

impl MaxRate {
    /// Returns the rate in a request's query; `None` if the query names no rate. The first `max_hz`
    /// counts.
    ///
    /// # Errors
    /// The value is not a decimal number in the range.
    pub fn of(head: &RequestHead<'_>) -> Result<Option<Self>, RequestRefusal> {
        let value = head.parameters(PARAMETER).next();
        let rate = value.map(|value| Self::parse(&value).ok_or(REFUSAL));
        rate.transpose()
    }

    /// The rate in times a second, rounded to thousandths.
    pub fn hz(self) -> f64 {
        (1e9 / self.interval_us as f64).round() / 1e3
    }

    /// Reads a decimal number of times a second; `None` out of range, or for another text.
    pub fn parse(value: &str) -> Option<Self> {
        // Without signs, exponents, `inf` and `nan`, which the parser of Rust takes.
        let is_decimal = value.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let hz = value.parse::<f64>().ok().filter(|_| is_decimal)?;
        (MIN_HZ..=MAX_HZ).contains(&hz).then(|| Self {
            interval_us: (1e6 / hz).round() as u64,
        })
    }
}

/// A frame that waits until the throttle opens.
#[derive(Debug)]
struct HeldFrame {
    /// Held frames are sent in the order of these numbers.
    number: u64,
    frame: Arc<Frame>,
}

/// What happens to a frame.
#[derive(Debug)]
pub(super) enum Throttled {
    /// The throttle is open: the frame is sent at once.
    Leaves,
    /// The throttle holds the frame. Has the older frame of the same key that it replaces, if there is one.
    Held(Option<Arc<Frame>>),
    /// Too many bytes would wait: the throttle has to open first.
    Full,
}

/// Limits how often a client gets a frame of a key.
#[derive(Debug)]
pub(super) struct Throttle {
    /// 0: the client has no rate of its own.
    interval_us: u64,
    /// The gate of a client behind deep buffers.
    pub(super) gate: Option<Gate>,
    /// When the throttle opens next, microseconds of the monotonic clock.
    next_us: u64,
    held: HashMap<ConflationKey, HeldFrame, RandomState>,
    /// Queue bytes of the held frames.
    bytes: usize,
    numbered: u64,
}

impl Throttle {
    /// Returns an open throttle. Without a rate it is always open, unless a gate is closed.
    pub(super) fn new(rate: Option<MaxRate>) -> Self {
        Self {
            interval_us: rate.map_or(0, |rate| rate.interval_us),
            gate: None,
            next_us: 0,
            held: HashMap::default(),
            bytes: 0,
            numbered: 0,
        }
    }

    /// Sets or ends the rate. The caller has opened the throttle, so no frame is held.
    pub(super) fn set_rate(&mut self, now: Now, rate: Option<MaxRate>) {
        self.interval_us = rate.map_or(0, |rate| rate.interval_us);
        self.next_us = self.next_us.min(now.mono_us + self.interval_us);
    }

    /// The client's own rate.
    pub(super) fn rate(&self) -> Option<MaxRate> {
        self.has_rate().then_some(MaxRate {
            interval_us: self.interval_us,
        })
    }

    /// Whether the client has a rate of its own.
    pub(super) fn has_rate(&self) -> bool {
        self.interval_us > 0
    }

    /// Decides on a frame while `under_way` bytes are in flight to the client. At most `bytes_max` bytes wait, unless a
    /// single frame is larger.
    pub(super) fn judge(
        &mut self,
        now: Now,
        key: ConflationKey,
        frame: &Arc<Frame>,
        under_way: u64,
        bytes_max: usize,
    ) -> Throttled {
        let has_rate = self.has_rate();
        let gate = self.gate.as_mut().filter(|_| !frame.is_of_feed());
        // Held frames are sent first, even after a gate has ended.
        let is_free = gate.is_none() && self.held.is_empty();
        if !has_rate && (is_free || frame.is_of_feed()) {
            return Throttled::Leaves;
        }
        let is_open = self.held.is_empty() && now.mono_us >= self.next_us;
        let bytes = frame.queue_bytes();
        if is_open && gate.is_none_or(|gate| gate.try_pass(now, under_way, bytes)) {
            self.next_us = now.mono_us + self.interval_us;
            return Throttled::Leaves;
        }
        let replaced = self.held.get(&key).map(|held| held.frame.queue_bytes());
        let others = self.held.len() - usize::from(replaced.is_some());
        let bytes = self.bytes - replaced.unwrap_or(0) + frame.queue_bytes();
        if others > 0 && bytes > bytes_max {
            return Throttled::Full;
        }
        self.numbered += 1;
        self.bytes = bytes;
        let newest = HeldFrame {
            number: self.numbered,
            frame: Arc::clone(frame),
        };
        let older = self.held.insert(key, newest);
        Throttled::Held(older.map(|held| held.frame))
    }

    /// When the throttle opens next; `None` if it holds no frame.
    pub(super) fn due_us(&self) -> Option<u64> {
        let gate = self.gate.as_ref().filter(|gate| gate.is_closed);
        let due_us = gate.map_or(self.next_us, |gate| self.next_us.max(gate.opens_us()));
        (!self.held.is_empty()).then_some(due_us)
    }

    /// Opens the throttle: returns the held frames, oldest first. Without a held frame it stays open.
    pub(super) fn open(&mut self, now: Now) -> Vec<Arc<Frame>> {
        if self.held.is_empty() {
            return Vec::new();
        }
        // A late call leaves the times of the later openings as they are, unless a whole interval has passed. After an
        // early call the throttle opens an interval from now.
        let interval = self.next_us..self.next_us + self.interval_us;
        self.next_us = match interval.contains(&now.mono_us) {
            true => interval.end,
            false => now.mono_us + self.interval_us,
        };
        self.bytes = 0;
        if let Some(gate) = &mut self.gate {
            gate.is_closed = true;
            gate.note_sent(now);
        }
        let mut held: Vec<HeldFrame> = std::mem::take(&mut self.held).into_values().collect();
        held.sort_unstable_by_key(|held| held.number);
        held.into_iter().map(|held| held.frame).collect()
    }

    /// Removes the held frames with one of these keys; returns frames and bytes.
    pub(super) fn remove<'a>(
        &mut self,
        keys: impl Iterator<Item = &'a ConflationKey>,
    ) -> (u32, usize) {
        let gone = keys.filter_map(|key| self.held.remove(key));
        let (frames, bytes) = gone.fold((0, 0), |(frames, bytes), held| {
            (frames + 1, bytes + held.frame.queue_bytes())
        });
        self.bytes -= bytes;
        (frames, bytes)
    }

    pub(super) fn frames(&self) -> impl Iterator<Item = &Arc<Frame>> {
        self.held.values().map(|held| &held.frame)
    }

    pub(super) fn count(&self) -> usize {
        self.held.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A pong is behind a queue if it takes longer than the shortest pong by more than this, and by more than half of the
/// shortest.
const QUEUED_US: u32 = 100_000;

/// The pongs that have to come in time after a late pong before the window grows again.
const PONGS_AFTER_LATE: u8 = 16;

/// After this many pongs in time, during which no state had to wait, the gate ends.
const PONGS_UNUSED_MAX: u8 = 16;

/// The longest that a state waits for a pong: `WAIT_US_MIN`, or `WAIT_PONGS` times the time of the last pong if that is
/// longer.
const WAIT_US_MIN: u64 = 1_500_000;
const WAIT_PONGS: u64 = 3;

/// A gate whose window has this many bytes ends: above, the send queue itself conflates (the default soft limit).
const WINDOW_BYTES_MAX: u64 = 256 * 1024;

/// Limits the bytes that may be in flight to a client.
#[derive(Debug)]
pub(super) struct Gate {
    since_us: u64,
    /// Bytes that may be in flight; a single state always may.
    window_bytes: u64,
    least_pong_us: u32,
    last_pong_us: u32,
    /// The longest that a state waits for a pong.
    wait_us: u64,
    /// Pongs in time before the window may grow.
    pongs_to_wait: u8,
    /// Pongs in time since a state last had to wait.
    pongs_unused: u8,
    /// The next state waits for a pong.
    pub(super) is_closed: bool,
    /// A state was sent since the last ping.
    sent_since_ping: bool,
    /// When the last state was sent, or the gate was made, microseconds of the monotonic clock.
    sent_us: u64,
}

impl Gate {
    /// A gate for a client whose pong is late.
    pub(super) fn new(now: Now) -> Self {
        Self {
            since_us: now.mono_us,
            window_bytes: 0,
            least_pong_us: u32::MAX,
            last_pong_us: LATE_PONG_US,
            wait_us: WAIT_US_MIN,
            pongs_to_wait: 0,
            pongs_unused: 0,
            is_closed: true,
            sent_since_ping: false,
            sent_us: now.mono_us,
        }
    }

    /// Decides whether a state of `bytes` bytes may be sent while `under_way` bytes are in flight. If not, the gate is closed
    /// until a pong, or for some time.
    pub(super) fn try_pass(&mut self, now: Now, under_way: u64, bytes: usize) -> bool {
        self.is_closed = under_way > 0 && under_way + bytes as u64 > self.window_bytes;
        match self.is_closed {
            true => self.pongs_unused = 0,
            false => self.note_sent(now),
        }
        !self.is_closed
    }

    /// Notes that a state is sent.
    pub(super) fn note_sent(&mut self, now: Now) {
        self.sent_since_ping = true;
        self.sent_us = now.mono_us;
    }

    /// Whether a pong is needed, because a state waits for one or was sent since the last ping. The caller sends a ping
    /// then.
    pub(super) fn take_awaits_pong(&mut self) -> bool {
        std::mem::take(&mut self.sent_since_ping) || self.is_closed
    }

    /// When a closed gate lets a state through even without a pong, because some networks drop pings.
    pub(super) fn opens_us(&self) -> u64 {
        self.sent_us + self.wait_us
    }

    /// Handles a pong: the client has got `answered` more bytes than at the last pong, and `under_way` bytes are still
    /// in flight.
    pub(super) fn answered(&mut self, pong_us: u32, answered: u64, under_way: u64) {
        self.last_pong_us = pong_us;
        self.wait_us = WAIT_US_MIN.max(WAIT_PONGS * u64::from(pong_us));
        self.least_pong_us = self.least_pong_us.min(pong_us);
        let margin_us = QUEUED_US.max(self.least_pong_us / 2);
        let is_late = pong_us > LATE_PONG_US || pong_us - self.least_pong_us > margin_us;
        self.pongs_unused = match is_late {
            true => 0,
            false => self.pongs_unused.saturating_add(1),
        };
        if is_late {
            self.window_bytes /= 2;
            self.pongs_to_wait = PONGS_AFTER_LATE;
        } else if self.pongs_to_wait > 0 {
            self.pongs_to_wait -= 1;
        } else if answered >= self.window_bytes {
            self.window_bytes = 2 * answered;
        }
        self.is_closed = under_way > 0 && under_way >= self.window_bytes;
    }

    /// Whether the gate has nothing left to hold back.
    pub(super) fn is_wide(&self) -> bool {
        self.window_bytes >= WINDOW_BYTES_MAX || self.pongs_unused >= PONGS_UNUSED_MAX
    }

    /// The time for which there has been a gate, microseconds.
    pub(super) fn age_us(&self, now: Now) -> u64 {
        now.mono_us.saturating_sub(self.since_us)
    }

    /// The state of the gate in words for operators, with figures.
    pub(super) fn say(&self) -> String {
        let seconds = f64::from(self.last_pong_us) / 1e6;
        format!("its pong takes {seconds:.1} s: states wait here, not in the buffers on the way")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FrameBytes;
    use weirgate_wire::head::RequestHead;

    fn of(query: &str) -> Result<Option<u64>, RequestRefusal> {
        let text = format!("GET /ws{query} HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = RequestHead::parse(text.as_bytes(), 10).expect("a head");
        MaxRate::of(&head).map(|rate| rate.map(|rate| rate.interval_us))
    }

    #[test]
    fn no_state_overtakes_what_waits_when_a_gate_ends() {
        let (now, key, alive) = (Now::default(), ConflationKey(1), FrameBytes::default());
        let frame = || Frame::text(&alive).key(key).body(b"x").finish();
        let mut throttle = Throttle::new(None);
        throttle.gate = Some(Gate::new(now));
        let judged = |throttle: &mut Throttle| throttle.judge(now, key, &frame(), 9, 99);
        assert!(matches!(judged(&mut throttle), Throttled::Held(None)));
        throttle.gate = None;
        assert!(matches!(judged(&mut throttle), Throttled::Held(Some(_))));
        assert_eq!(throttle.open(now).len(), 1);
        assert!(matches!(judged(&mut throttle), Throttled::Leaves));
    }

    #[test]
    fn a_gate_holds_no_message_of_the_kept_feed_with_or_without_a_position() {
        let (now, key, alive) = (Now::default(), ConflationKey(1), FrameBytes::default());
        let mut throttle = Throttle::new(None);
        throttle.gate = Some(Gate::new(now));
        let frame = Frame::text(&alive).key(key).of_feed(true).body(b"x");
        let judged = throttle.judge(now, key, &frame.finish(), 9, 99);
        assert!(matches!(judged, Throttled::Leaves));
    }

    #[test]
    fn a_rate_is_a_decimal_number_from_a_tenth_to_a_thousand() {
        for (query, want) in [
            ("", None),
            ("?token=a&MAX_HZ=7", None),
            ("?max_hz=1", Some(1_000_000)),
            ("?token=a&max_hz=2.5&max_hz=x", Some(400_000)),
            ("?max_hz=.5", Some(2_000_000)),
            ("?max_hz=0.1", Some(10_000_000)),
            ("?max_hz=1000", Some(1_000)),
            ("?max_hz=%33", Some(333_333)),
        ] {
            assert_eq!(of(query), Ok(want), "{query}");
        }
        for value in [
            "",
            "0",
            "0.09",
            "1000.1",
            "-1",
            "+1",
            "1e2",
            "inf",
            "nan",
            "1,5",
            "1.5.5",
            ".",
            "1hz",
            "%F0%9F%90%8C",
            "1%00",
        ] {
            assert_eq!(of(&format!("?max_hz={value}")), Err(REFUSAL), "{value}");
        }
    }

    fn closed() -> Gate {
        Gate::new(Now::default())
    }

    #[test]
    fn one_state_at_a_time_is_under_way_while_pongs_are_late() {
        let mut gate = closed();
        assert!(!gate.try_pass(Now::default(), 9, 1));
        for _ in 0..99 {
            gate.answered(LATE_PONG_US + 1, 10_000, 0);
            assert!(!gate.is_closed && !gate.is_wide());
            assert!(
                gate.try_pass(Now::default(), 0, 10_000)
                    && !gate.try_pass(Now::default(), 10_000, 10_000)
            );
        }
    }

    #[test]
    fn a_client_far_away_has_no_gate_after_some_pongs() {
        let mut gate = closed();
        let mut pongs = 0;
        while !gate.is_wide() {
            assert!(!gate.try_pass(Now::default(), 1, 1 << 40));
            // The feed brings more than may leave.
            gate.answered(
                300_000 + pongs % 2 * 90_000,
                gate.window_bytes.max(2_000),
                0,
            );
            pongs += 1;
        }
        assert_eq!(pongs, 8);
    }

    #[test]
    fn a_thin_line_keeps_its_gate() {
        // 20 kB/s, states of 4 kB. As many bytes as the gate allows are always in flight, and the pong takes
        // accordingly long.
        let mut gate = closed();
        for _ in 0..200 {
            let bytes = gate.window_bytes.max(4_000) / 4_000 * 4_000;
            let pong_us = 20_000 + bytes as u32 * 50;
            gate.answered(pong_us, bytes, 0);
            assert!(!gate.try_pass(Now::default(), bytes, 4_000) || gate.window_bytes > bytes);
            assert!(gate.window_bytes <= 32_000, "{}", gate.window_bytes);
        }
    }
}
