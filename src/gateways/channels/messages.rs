//! The messages to clients (protocol-channels.md, "Messages"): the gateway's own, and the messages of the bus. The
//! number of a message is known only when it is queued, so it is the first member after the type.
//!
//! A client gets a message of the bus as text; or, if it asks for binary messages, as a line of text and the bytes of the
//! payload. It gets a copy for its exact name and a copy for each of its patterns. Each is rendered from the message of the
//! feed, once for all clients of the kind.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use chrono::{DateTime, Datelike as _, Timelike as _};
use foldhash::fast::FixedState;

use super::follow_up::NAME_BYTES;
use super::raw_text::{raw_text, raw_text_bytes};
use super::retained::RetainedEnd;
use crate::gateways::shared::feed::write_stamp;
use crate::gateways::shared::history::{END_BYTES_MAX, append_end};
use crate::gateways::shared::members::max_hz;
use crate::gateways::shared::statuses::Status;
use weirgate_core::{
    Brings, ConflationKey, Content, CopyFor, CopyRank, Core, Frame, FrameBuilder, FrameBytes,
    MaxRate, Message, OnBus, Part, Position, Prefix, RetainedCut, TopicName,
};
use weirgate_wire::json::{ListWriter, ObjectWriter, quoted};

/// An answer without its number and its time.
#[derive(Debug)]
pub(super) struct Answer {
    /// The text before the number.
    prefix: &'static str,
    is_pong: bool,
    /// The first members of `subscribed`; `None` for other answers.
    entries: Option<Box<Entries>>,
    body: ObjectWriter,
    /// The frame, while it is put together.
    assembled: Option<Box<Assembled>>,
}

/// A frame with the first bytes of an answer.
#[derive(Debug)]
struct Assembled {
    frame: FrameBuilder,
    /// The bytes of [`Answer::parts`] that the frame has.
    bytes: usize,
}

/// The outcome of the entries of a `subscribe`. What a granted name *brings* ([`Brings`]): where its messages come
/// from, how far back they reach, and how old the newest is.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) granted: ListWriter,
    pub(super) errors: ListWriter,
    /// The granted names, if the answer says what each of them brings.
    pub(super) names: Option<Vec<TopicName>>,
    /// What the granted names bring, added name by name.
    brings: Option<ObjectWriter>,
    /// For a request with `since`: whether all missed messages of each name follow.
    recovered: Option<ObjectWriter>,
    /// Why messages of a name are missing; `None` if none are.
    why: Option<ObjectWriter>,
}

impl Entries {
    /// The entries of an answer that says what each granted name brings.
    pub(super) fn with_brings() -> Self {
        Self {
            names: Some(Vec::new()),
            ..Self::default()
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let names = self.names.as_ref().map_or(0, Vec::len);
        let objects: usize = self.objects().map(|(_, object)| object.bytes()).sum();
        self.granted.bytes() + self.errors.bytes() + NAME_BYTES * names + objects
    }

    /// The members after those of the request.
    fn objects(&self) -> impl Iterator<Item = (&'static str, &ObjectWriter)> {
        let recovered = self.recovered.iter().map(|object| ("recovered", object));
        let why = self.why.iter().map(|object| ("why", object));
        let brings = self.brings.iter().map(|object| ("brings", object));
        recovered.chain(why).chain(brings)
    }
}

/// For each name of a request with `since`, whether all missed messages follow the answer, and why not.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    recovered: ObjectWriter,
    why: ObjectWriter,
}

impl Recovered {
    /// Adds a name. `why`: why not all of its messages follow the answer.
    pub(super) fn push(&mut self, name: &TopicName, why: Option<&str>) {
        self.recovered.boolean(name.as_str(), why.is_none());
        if let Some(why) = why {
            self.why.string(name.as_str(), why);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.recovered.bytes() + self.why.bytes()
    }
}

impl Answer {
    pub(super) fn connected(client_id: &str, role: &str) -> Self {
        let mut answer = Self::new(r#"{"type":"connected","seq":"#);
        answer.body.string("clientId", client_id);
        answer.body.string("role", role);
        answer
    }

    pub(super) fn subscribed(entries: Entries, request_id: &str) -> Self {
        let mut answer = Self::new(r#"{"type":"subscribed","seq":"#);
        answer.entries = Some(Box::new(entries));
        answer.to(request_id)
    }

    pub(super) fn unsubscribed(gone: &ListWriter, request_id: &str) -> Self {
        let mut answer = Self::new(r#"{"type":"unsubscribed","seq":"#);
        answer.body.raw("channels", &gone.finish());
        answer.to(request_id)
    }

    pub(super) fn authenticated(role: &str, revoked: &ListWriter, request_id: &str) -> Self {
        let mut answer = Self::new(r#"{"type":"authenticated","seq":"#);
        answer.body.string("role", role);
        answer.body.raw("revoked", &revoked.finish());
        answer.to(request_id)
    }

    /// Returns the frame of a status of the bus.
    pub(super) fn status(core: &Core, status: Status) -> Arc<Frame> {
        let mut answer = Self::new(r#"{"type":"status","seq":"#);
        answer.body.string("bus", status.bus());
        if status.has_lost {
            answer.body.boolean("lost", true);
        }
        answer.frame(core, status.position)
    }

    /// Returns the frame of the end of a name's last values: how many were sent, and why not all.
    pub(super) fn retained(core: &Core, end: &RetainedEnd) -> Arc<Frame> {
        let mut answer = Self::new(r#"{"type":"retained","seq":"#);
        answer.body.string("channel", end.name.as_str());
        answer.body.number("count", end.count);
        if let Some(cut) = end.cut {
            answer.body.string("cut", cut.label());
        }
        answer.frame(core, None)
    }

    /// Returns the frame of the end of a name's kept messages: how many were sent, and why not all.
    pub(super) fn last(
        core: &Core,
        name: &TopicName,
        count: u64,
        cut: Option<RetainedCut>,
        position: Option<Position>,
    ) -> Arc<Frame> {
        let mut answer = Self::new(r#"{"type":"last","seq":"#);
        answer.body.string("channel", name.as_str());
        answer.body.number("count", count);
        if let Some(cut) = cut {
            answer.body.string("cut", cut.label());
        }
        answer.frame(core, position)
    }

    pub(super) fn pong(request_id: &str) -> Self {
        let mut answer = Self::new(r#"{"type":"pong","seq":"#);
        answer.is_pong = true;
        answer.to(request_id)
    }

    pub(super) fn rate(rate: Option<MaxRate>, request_id: &str) -> Self {
        let mut answer = Self::new(r#"{"type":"rate","seq":"#);
        answer.body.raw("max_hz", &max_hz(rate));
        answer.to(request_id)
    }

    pub(super) fn error(error: &str, request_id: &str) -> Self {
        let mut answer = Self::new(r#"{"type":"error","seq":"#);
        answer.body.string("error", error);
        answer.to(request_id)
    }

    fn new(prefix: &'static str) -> Self {
        Self {
            prefix,
            is_pong: false,
            entries: None,
            body: ObjectWriter::new(),
            assembled: None,
        }
    }

    fn to(mut self, request_id: &str) -> Self {
        self.body.raw("requestId", request_id);
        self
    }

    /// Adds the outcomes of a request with `since`.
    pub(super) fn set_recovered(&mut self, recovered: Recovered) {
        if let Some(entries) = &mut self.entries {
            entries.recovered = Some(recovered.recovered);
            entries.why = Some(recovered.why).filter(|why| !why.is_empty());
        }
    }

    /// Adds why messages are missing, for a request with `last` alone.
    pub(super) fn set_why(&mut self, recovered: Recovered) {
        if let Some(entries) = &mut self.entries {
            entries.why = Some(recovered.why).filter(|why| !why.is_empty());
        }
    }

    /// Returns the granted names, if the client asks what they bring: the caller then calls
    /// [`push_brings`](Self::push_brings) for each.
    pub(super) fn take_names(&mut self) -> Vec<TopicName> {
        let entries = self.entries.as_mut();
        let Some(entries) = entries else {
            return Vec::new();
        };
        let names = entries.names.take();
        entries.brings = names.as_ref().map(|names| {
            // Room for all at once: text that outgrows its room is moved, and this one may be very long.
            ObjectWriter::with_capacity(entries.granted.bytes() + BRINGS_BYTES * names.len())
        });
        names.unwrap_or_default()
    }

    /// Adds what a granted name brings. A name that the bus refuses brings nothing: an error about it follows.
    pub(super) fn push_brings(&mut self, name: &TopicName, brings: &Brings) {
        let Some(entries) = &mut self.entries else {
            return;
        };
        if brings.on_bus == OnBus::Refused {
            return;
        }
        let ms = |us: u64| us / 1_000;
        let mut one = ObjectWriter::new();
        one.string("from", brings.from.label());
        if let Some(reach) = brings.reach {
            one.number("reach_ms", ms(reach.us));
            if let Some(short) = reach.short {
                one.string("why", short.label());
            }
        }
        if let Some(newest_us) = brings.newest_us {
            one.number("newest_age_ms", ms(newest_us));
        }
        if let Some(all) = &mut entries.brings {
            all.object(name.as_str(), one);
        }
    }

    /// Returns the memory of the answer: the bytes of the finished one, approximately, and those of the frame so far.
    pub(super) fn bytes(&self) -> usize {
        let assembled = self.assembled.as_ref();
        self.text_bytes() + assembled.map_or(0, |assembled| assembled.bytes)
    }

    fn text_bytes(&self) -> usize {
        let entries = self.entries.as_ref();
        entries.map_or(0, |entries| entries.bytes()) + self.body.bytes()
    }

    /// The parts of the answer before its time and position. The prefix has opened the object and has its first members.
    fn parts(&self) -> Vec<&str> {
        let mut parts = Vec::new();
        if let Some(entries) = &self.entries {
            let (granted, errors) = (entries.granted.texts(), entries.errors.texts());
            parts.extend([r#","channels":["#, granted, r#"],"errors":["#, errors, "]"]);
        }
        parts.extend([",", self.body.members()]);
        let objects = self.entries.iter().flat_map(|entries| entries.objects());
        for (key, object) in objects {
            parts.extend([",\"", key, "\":{", object.members(), "}"]);
        }
        parts
    }

    /// Copies the next [`ASSEMBLED_AT_ONCE`] bytes of a complete answer into its frame: an answer may have many
    /// megabytes. Returns whether bytes may be left.
    pub(super) fn assemble_next(&mut self, core: &Core) -> bool {
        let assembled = self.assembled.take();
        let mut assembled = assembled.unwrap_or_else(|| self.begin_frame(core));
        // `before`: of the bytes that the frame has already, how many are still to be skipped, in this part and after it.
        let (mut before, mut room) = (assembled.bytes, ASSEMBLED_AT_ONCE);
        for part in self.parts() {
            let rest = &part.as_bytes()[before.min(part.len())..];
            before -= part.len() - rest.len();
            let some = &rest[..rest.len().min(room)];
            assembled.frame.payload().extend_from_slice(some);
            assembled.bytes += some.len();
            room -= some.len();
        }
        self.assembled = Some(assembled);
        room == 0
    }

    fn begin_frame(&self, core: &Core) -> Box<Assembled> {
        let frame = Frame::text(core.frame_bytes())
            .with_capacity(self.text_bytes() + MEMBERS_BYTES_MAX + END_BYTES_MAX)
            .prefix(Prefix::Seq(self.prefix));
        let frame = match self.is_pong {
            true => frame.pong(),
            false => frame.answer(),
        };
        Box::new(Assembled { frame, bytes: 0 })
    }

    /// Begins the frame again, because the answer has changed.
    pub(super) fn assemble_again(&mut self) {
        self.assembled = None;
    }

    /// Builds the frame, with the present time and the position that the client has reached.
    pub(super) fn frame(&mut self, core: &Core, position: Option<Position>) -> Arc<Frame> {
        while self.assemble_next(core) {}
        let now = core.now();
        let timestamp = quoted(&iso_utc(now.unix_ms()));
        let assembled = self.assembled.take();
        let assembled = assembled.unwrap_or_else(|| self.begin_frame(core));
        let mut frame = assembled.frame.received(now);
        let parts = [br#","timestamp":"#, timestamp.as_bytes()];
        append_all(frame.payload(), &parts);
        append_end(&mut frame, position, CopyRank::LAST);
        frame.finish()
    }
}

/// Bytes that a step puts into the frame of an answer.
const ASSEMBLED_AT_ONCE: usize = 512 * 1024;

/// Usual bytes of what a name brings, beside the name.
const BRINGS_BYTES: usize = 96;

/// The most bytes of an answer beside those of [`Answer::bytes`] and its position.
const MEMBERS_BYTES_MAX: usize = 160;

/// The text before the number of a message of the bus.
const PREFIX: Prefix = Prefix::Seq(r#"{"type":"data","seq":"#);

/// `{"type":"data","seq":n,"channel":…,"pattern":…,"data":…,"timestamp":…,"pos":…}`, or the same without `data`, a line
/// feed and the payload. After `data`, a deletion has `"deleted":true`, a last value `"retained":true`; after the time
/// comes `"recv_us":…` with `--stamp`. Each copy has its own position, because a client may lose its connection between
/// two copies. For a slow client, only a newer copy for the same name or pattern replaces a copy. `alive` counts
/// the memory of the frame.
pub(super) fn render(copy: &CopyFor<'_>, alive: &FrameBytes) -> Arc<Frame> {
    let (message, content) = (copy.message, copy.content);
    let pattern = copy.pattern.map(TopicName::as_str);
    let (name, pattern_text) = (quoted(copy.name), pattern.map(quoted));
    let time = iso_utc(message.unix_ms);
    let mut stamp = Vec::new();
    if message.is_stamped {
        stamp.push(b',');
        write_stamp(message.received, &mut stamp);
    }
    let (frame, data_name, part) = match content {
        Content::Text => (Frame::text(alive), &br#","data":"#[..], text_of(message)),
        Content::Binary => (Frame::binary(alive), &b""[..], Some(Part::Payload)),
    };
    let if_so = |is_so: bool, member: &'static [u8]| if is_so { member } else { b"" };
    let before = [
        br#","channel":"#,
        name.as_bytes(),
        br#","pattern":"#,
        pattern_text.as_deref().unwrap_or("null").as_bytes(),
        data_name,
    ];
    let after = [
        if_so(message.is_deletion, br#","deleted":true"#),
        if_so(message.is_last_value, br#","retained":true"#),
        br#","timestamp":""#,
        time.as_bytes(),
        b"\"",
        &stamp,
    ];
    let bytes: usize = before.iter().chain(&after).map(|part| part.len()).sum();
    let copied = part.map_or(0, |part| message.copied_bytes(part));
    let mut frame = frame
        .with_capacity(bytes + END_BYTES_MAX + NULL.len() + copied)
        .prefix(PREFIX)
        .received(message.received)
        .common(message.is_common())
        .of_feed(message.is_of_feed);
    if let Some(ConflationKey(key)) = message.key {
        // With the kind: a topic has frames of both kinds, and while the loop is behind, it holds one state for each
        // topic and key (`core/overload.rs`).
        let key = FixedState::default().hash_one((key, pattern, content == Content::Text));
        frame = frame.key(ConflationKey(key));
    }
    append_all(frame.payload(), &before);
    match (content, part) {
        (Content::Text, Some(part)) => frame.share(message, part),
        (Content::Text, None) => frame.payload().extend_from_slice(NULL),
        (Content::Binary, _) => {}
    }
    append_all(frame.payload(), &after);
    let rank = pattern.map_or(CopyRank::LAST, CopyRank::of_pattern);
    append_end(&mut frame, copy.position, rank);
    if content == Content::Binary {
        frame.payload().push(b'\n');
        frame.share(message, Part::Payload);
    }
    frame.finish()
}

/// Appends the parts of a payload, one after another.
fn append_all(payload: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        payload.extend_from_slice(part);
    }
}

/// A time in ISO 8601, UTC, with milliseconds: `2026-01-09T10:30:00.000Z`. A time out of range, or with a year of more
/// than four digits, becomes 1970. Each message has such a time, and chrono's own formatting takes four times as long.
pub(super) fn iso_utc(unix_ms: i64) -> String {
    let time = DateTime::from_timestamp_millis(unix_ms);
    let time = time.filter(|time| (0..=9999).contains(&time.year()));
    let time = time.unwrap_or_default();
    let mut text = *b"0000-00-00T00:00:00.000Z";
    for (at, number) in [
        (0..4, time.year().unsigned_abs()),
        (5..7, time.month()),
        (8..10, time.day()),
        (11..13, time.hour()),
        (14..16, time.minute()),
        (17..19, time.second()),
        (20..23, time.timestamp_subsec_millis()),
    ] {
        write_digits(number, &mut text[at]);
    }
    str::from_utf8(&text).unwrap_or_default().to_owned()
}

/// Writes a number with leading zeros.
fn write_digits(mut number: u32, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// The data of a deletion, which has no payload.
const NULL: &[u8] = b"null";

/// Which part of the message has the payload as a JSON value; `None` without a payload. Makes the text of a payload
/// that is not JSON, unless it was made before.
fn text_of(message: &Message) -> Option<Part> {
    match message.content {
        _ if message.payload().is_empty() => None,
        // The feed has found that it is JSON.
        Content::Text => Some(Part::Payload),
        Content::Binary => {
            message.text_with(|payload| raw_text(payload, raw_text_bytes(payload)));
            Some(Part::Text)
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::SecondsFormat;

    use super::*;

    #[test]
    fn a_time_is_to_the_millisecond_in_utc() {
        assert_eq!(iso_utc(1_767_954_600_007), "2026-01-09T10:30:00.007Z");
        assert_eq!(iso_utc(i64::MAX), "1970-01-01T00:00:00.000Z");
        for unix_ms in (-62_167_219_200_000..253_402_300_800_000).step_by(999_999_999_937) {
            let time = DateTime::from_timestamp_millis(unix_ms).unwrap();
            let wanted = time.to_rfc3339_opts(SecondsFormat::Millis, true);
            assert_eq!(iso_utc(unix_ms), wanted);
        }
    }

    /// The frame of a message for clients of its name or of a pattern, with the prefix of the first message.
    fn rendered(message: &Arc<Message>, pattern: Option<&str>, content: Content) -> String {
        let pattern = pattern.map(|pattern| TopicName::from(pattern.to_owned()));
        let copy = CopyFor {
            message,
            name: "a\"b",
            pattern: pattern.as_ref(),
            position: None,
            content,
        };
        let frame = render(&copy, &FrameBytes::default());
        assert_eq!((frame.content(), frame.prefix()), (content, PREFIX));
        String::from_utf8_lossy(frame.body()).into_owned()
    }

    #[test]
    fn each_kind_of_client_gets_its_frame_of_the_same_message() {
        let now = weirgate_wire::base::Now {
            mono_us: 5,
            unix_us: 1_767_954_600_006_999,
        };
        let made = |payload: &[u8], set: fn(&mut Message)| {
            let mut message = Message::new(payload.to_vec(), now, &FrameBytes::default());
            message.unix_ms += 1;
            set(&mut message);
            Arc::new(message)
        };
        let time = "\"timestamp\":\"2026-01-09T10:30:00.007Z\"";
        let json = made(b"{\"p\": 1.50}", |message| message.content = Content::Text);
        let bytes = made(b"\n\xff", |_| {});
        let deleted = made(b"", |message| message.is_deletion = true);
        let value = made(b"", |message| {
            (message.is_deletion, message.is_last_value) = (true, true);
        });
        let stamped = made(b"1", |message| {
            (message.content, message.is_stamped) = (Content::Text, true);
        });
        for (message, text, members) in [
            (&json, "{\"p\": 1.50}", ""),
            (&bytes, "{\"raw\":\"\\n\u{fffd}\"}", ""),
            (&deleted, "null", ",\"deleted\":true"),
            (&value, "null", ",\"deleted\":true,\"retained\":true"),
        ] {
            for (pattern, shown) in [(None, "null"), (Some("a*"), "\"a*\"")] {
                let head = format!(",\"channel\":\"a\\\"b\",\"pattern\":{shown}");
                let got = rendered(message, pattern, Content::Text);
                assert_eq!(got, format!("{head},\"data\":{text}{members},{time}}}"));
                let payload = String::from_utf8_lossy(message.payload());
                let got = rendered(message, pattern, Content::Binary);
                assert_eq!(got, format!("{head}{members},{time}}}\n{payload}"));
            }
        }
        let got = rendered(&stamped, None, Content::Text);
        assert!(
            got.ends_with(&format!("{time},\"recv_us\":1767954600006999}}")),
            "{got}"
        );
    }
}
