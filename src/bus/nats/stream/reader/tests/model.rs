//! The servers of a stream as a model: the leader, and a replica that may lag behind.

use std::collections::VecDeque;

use sonic_rs::JsonValueTrait;

use super::super::*;
use crate::nats::stream_info::rfc_3339;

pub(super) const NOW_NS: u64 = 1_700_000_000_000_000_000;

/// No multiple of the time between two messages.
const CLOCK_STEP_NS: i64 = 20_000_000_007;

/// A stream on a server, with its consumers. Each message has a serial number over all epochs of the stream as
/// its payload.
pub(super) struct JetStreamServer {
    messages: VecDeque<(StoredId, u64)>,
    /// Messages deleted from this epoch of the stream.
    deleted: Vec<(StoredId, u64)>,
    pub(super) last: StoredId,
    /// The messages that the stream has had, without those that a restart has undone.
    stored: Vec<StoredId>,
    pub(super) time_ns: u64,
    /// How far the clock is ahead of the reader's.
    ahead_ns: i64,
    created_ns: u64,
    pub(super) next_serial: u64,
    pub(super) consumers: Vec<LiveConsumer>,
    listened_to: Vec<String>,
    /// Deliveries on their way.
    pub(super) line: VecDeque<Delivery>,
    /// Consumers wait with their deliveries.
    pub(super) holds: bool,
    /// The replica has the messages up to this number; `None`: all of them.
    pub(super) replica: Option<u64>,
    /// Whether the leader knows that the replica lags.
    lag_is_known: bool,
    /// The number of consumers that were made.
    made: u64,
    /// Whether newer messages of a subject replace older ones.
    pub(super) overwrites: bool,
    /// Whether the stream is a mirror, whose origin may lack numbers, and whether it permits no deletion.
    pub(super) mirror: Option<bool>,
    /// More settings of the stream, each with a comma before it.
    pub(super) limits: &'static str,
    /// The subjects that the stream takes; none are said at first.
    pub(super) subjects: &'static [&'static str],
    /// The size of a message, as the leader gives it when it is asked for one.
    pub(super) message_bytes: usize,
    /// How often the leader was asked for a message.
    pub(super) messages_asked: u64,
    /// Whether the stream is kept in memory, where the server must not look for a time if messages within the stream
    /// are gone.
    pub(super) is_in_memory: bool,
    /// Whether the server has forgotten the time of a newest message that was deleted.
    pub(super) forgets_time: bool,
    /// Whether the last answer about the stream said that messages within are gone.
    has_said_holes: bool,
}

/// The most bytes of a message.
const MESSAGE_BYTES_MAX: usize = 1_000;

/// An answer as the reader of the connection gives it.
pub(super) fn over_the_wire(reply: &str, answer: &str, message_bytes_max: usize) -> Delivery {
    let limits = JetStreamReader::payload_limits(message_bytes_max);
    let op = format!("MSG {reply} {ANSWERS_SID} {}\r\n{answer}\r\n", answer.len());
    match protocol::OpReader::new(limits).next(&mut op.as_bytes()) {
        Ok(Some(protocol::Op::Message(delivery))) => delivery,
        other => panic!("{other:?}"),
    }
}

pub(super) struct LiveConsumer {
    deliver: String,
    next: u64,
    sequence: u64,
    is_listened_to: bool,
    is_on_replica: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Event {
    Add(u8),
    /// The oldest messages are deleted.
    Trim(u8),
    /// A message within the stream is deleted.
    Delete(u8),
    /// The stream is deleted and made anew.
    Anew,
    /// The clock of the server changes by so many times 20 s.
    Clock(i8),
    /// The server restarts without the newest messages.
    Restore(u8),
    /// Consumers wait with their deliveries, or go on.
    Hold(bool),
    /// A delivery is lost on its way.
    Drop,
    /// The replica restarts, and lacks so many of the newest messages and all that follow. The leader may not know yet.
    Lag(u8, bool),
    /// The replica gets some of the messages that it lacks.
    CatchUp(u8),
    /// The connection ends.
    Cut,
    /// The reader takes some of the deliveries.
    Read(u8),
}

impl JetStreamServer {
    pub(super) fn new() -> Self {
        Self {
            messages: VecDeque::new(),
            deleted: Vec::new(),
            last: StoredId { major: 0, minor: 0 },
            stored: Vec::new(),
            time_ns: NOW_NS,
            ahead_ns: 0,
            created_ns: NOW_NS,
            next_serial: 0,
            consumers: Vec::new(),
            listened_to: Vec::new(),
            line: VecDeque::new(),
            holds: false,
            replica: None,
            lag_is_known: false,
            made: 0,
            overwrites: false,
            mirror: None,
            limits: "",
            subjects: &[],
            message_bytes: 0,
            messages_asked: 0,
            is_in_memory: false,
            forgets_time: false,
            has_said_holes: false,
        }
    }

    /// The time by the reader's clock.
    pub(super) fn unix_ns(&self) -> u64 {
        self.time_ns.saturating_add_signed(-self.ahead_ns)
    }

    pub(super) fn add(&mut self) {
        self.time_ns += 1_000;
        self.last = StoredId {
            major: self.last.major + 1,
            minor: self.time_ns,
        };
        self.stored.push(self.last);
        self.messages.push_back((self.last, self.next_serial));
        self.next_serial += 1;
    }

    /// The origin of the mirror has a message of another subject.
    pub(super) const fn leave_out(&mut self) {
        self.last.major += 1;
    }

    /// Carries out an event; returns the serial numbers that nobody can ever read.
    pub(super) fn event(&mut self, event: &Event) -> Vec<u64> {
        let stored = self.messages.len();
        match event {
            Event::Add(count) => (0..*count).for_each(|_| self.add()),
            Event::Trim(count) => drop(self.messages.drain(..stored.min((*count).into()))),
            Event::Delete(at) => self.deleted.extend(self.messages.remove((*at).into())),
            Event::Anew => {
                let new = Self::new();
                (self.messages, self.last, self.stored) = (new.messages, new.last, new.stored);
                self.time_ns += 1;
                self.created_ns = self.time_ns;
                self.deleted.clear();
                self.consumers.clear();
                self.replica = None;
            }
            Event::Lag(behind, is_known) => {
                self.replica = Some(self.last.major.saturating_sub((*behind).into()));
                self.lag_is_known = *is_known;
                // They were in the memory of the replica.
                self.consumers.retain(|live| !live.is_on_replica);
            }
            Event::CatchUp(count) => {
                let has = self.replica.map(|has| has + u64::from(*count));
                self.replica = has.filter(|has| *has < self.last.major);
            }
            Event::Restore(count) => {
                let count = stored.min((*count).into());
                let lost = self.messages.split_off(stored - count);
                if let Some((first, _)) = lost.front() {
                    self.last.major = first.major - 1;
                    // Also of a message that was deleted: with the number alone, nobody could tell the stream from the one
                    // that it was before an earlier restart.
                    self.stored.retain(|id| id.major <= self.last.major);
                    self.last.minor = self.stored.last().map_or(0, |id| id.minor);
                    self.replica = None;
                }
                let last = self.last.major;
                let deleted = self.deleted.extract_if(.., |(id, _)| id.major > last);
                let lost = lost.into_iter().chain(deleted);
                return lost.map(|(_, serial)| serial).collect();
            }
            Event::Clock(steps) => {
                let change_ns = i64::from(*steps) * CLOCK_STEP_NS;
                self.time_ns = self.time_ns.saturating_add_signed(change_ns);
                self.ahead_ns += change_ns;
            }
            Event::Drop => {
                let is_live = |delivery: &mut Delivery| delivery.sid != ANSWERS_SID;
                drop(self.line.pop_back_if(is_live));
            }
            Event::Hold(holds) => self.holds = *holds,
            Event::Cut | Event::Read(_) => {}
        }
        Vec::new()
    }

    /// A connection ends: what was on its way is gone.
    pub(super) fn cut(&mut self) {
        self.line.clear();
        self.listened_to.clear();
        for consumer in &mut self.consumers {
            consumer.is_listened_to = false;
        }
    }

    /// Carries out the commands of the reader.
    pub(super) fn take(&mut self, out: &mut Vec<u8>) {
        let text = String::from_utf8(std::mem::take(out)).expect("text");
        let mut lines = text.split("\r\n");
        while let Some(line) = lines.next() {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            match words[..] {
                ["PUB", "$JS.API.STREAM.INFO.S", reply, _] => {
                    lines.next();
                    let newest = self.messages.back().map(|(id, _)| *id);
                    let is_known = !self.forgets_time || newest == Some(self.last);
                    let at = if is_known { self.last.minor } else { 0 };
                    let (seq, ts) = (self.last.major, rfc_3339(at));
                    let created = rfc_3339(self.created_ns);
                    let (messages, first) = (self.messages.len(), self.first());
                    self.has_said_holes = first + (messages as u64) <= seq;
                    let storage = if self.is_in_memory { "memory" } else { "file" };
                    let state = format!(
                        r#"{{"messages":{messages},"first_seq":{first},"last_seq":{seq},"last_ts":"{ts}"}}"#
                    );
                    let replica = match (self.replica, self.lag_is_known) {
                        (Some(_), true) => r#"{"name":"s1","current":false,"lag":5000}"#,
                        _ => r#"{"name":"s1","current":true}"#,
                    };
                    let cluster = format!(r#"{{"name":"c","leader":"s0","replicas":[{replica}]}}"#);
                    let mirror = self.mirror.map_or(String::new(), |denies| {
                        format!(
                            r#","mirror":{{"name":"M"}},"deny_delete":{denies},"deny_purge":{denies}"#
                        )
                    });
                    self.answer(
                        reply,
                        format!(
                            r#"{{"created":"{created}","config":{{"subjects":{:?},"max_msgs_per_subject":{},"storage":"{storage}"{mirror}{}}},"state":{state},"cluster":{cluster}}}"#,
                            self.subjects,
                            if self.overwrites { 1 } else { -1 },
                            self.limits,
                        ),
                    );
                }
                ["PUB", "$JS.API.INFO", reply, _] => {
                    lines.next();
                    self.answer(reply, r#"{"limits":{}}"#.to_owned());
                }
                ["PUB", "$JS.API.STREAM.MSG.GET.S", reply, _] => {
                    self.messages_asked += 1;
                    let body = lines.next().expect("a body");
                    let number = sonic_rs::get(body, ["seq"]).ok();
                    let number = number.and_then(|number| number.as_u64());
                    let mut messages = self.messages.iter();
                    let found = messages.find(|(id, _)| Some(id.major) >= number);
                    let answer = match found {
                        Some((id, _)) => {
                            let (seq, time) = (id.major, rfc_3339(id.minor));
                            let data = "eHh4".repeat(self.message_bytes / 3);
                            format!(
                                r#"{{"message":{{"seq":{seq},"data":"{data}","time":"{time}"}}}}"#
                            )
                        }
                        None => r#"{"error":{"code":404,"err_code":10037}}"#.to_owned(),
                    };
                    self.answer(reply, answer);
                }
                ["PUB", "$JS.API.CONSUMER.CREATE.S", reply, _] => {
                    let config = lines.next().expect("a body");
                    let answer = self.create(config);
                    self.answer(reply, answer);
                }
                ["UNSUB", sid] => {
                    let end = format!(".{sid}");
                    self.consumers.retain(|live| !live.deliver.ends_with(&end));
                }
                ["PUB", delete, _, _] if delete.starts_with("$JS.API.CONSUMER.DELETE.S.c") => {
                    lines.next();
                }
                ["PUB", ack, _] => {
                    assert!(ack.starts_with("$JS.ACK."), "{line}");
                    lines.next();
                }
                ["SUB", subject, _] => {
                    let mut consumers = self.consumers.iter_mut();
                    if let Some(live) = consumers.find(|live| live.deliver == subject) {
                        live.is_listened_to = true;
                    }
                    self.listened_to.push(subject.to_owned());
                }
                [] => {}
                _ => panic!("not a command: {line}"),
            }
        }
        self.deliver();
    }

    fn answer(&mut self, reply: &str, payload: String) {
        self.line
            .push_back(over_the_wire(reply, &payload, MESSAGE_BYTES_MAX));
    }

    /// The number of the oldest message, or of the next one.
    fn first(&self) -> u64 {
        let first = self.messages.front();
        first.map_or(self.last.major + 1, |(id, _)| id.major)
    }

    /// The messages on the server of a consumer.
    fn stored(&self, is_on_replica: bool) -> Vec<(StoredId, u64)> {
        let until = self.replica.filter(|_| is_on_replica).unwrap_or(u64::MAX);
        let stored = self.messages.iter().filter(|(id, _)| id.major <= until);
        stored.copied().collect()
    }

    /// Makes a consumer on the leader or on the replica, by turns of no order; returns the answer.
    fn create(&mut self, config: &str) -> String {
        self.made += 1;
        let is_on_replica = self.replica.is_some() && (self.made * 0x9e37) % 7 < 4;
        let stored = self.stored(is_on_replica);
        let last = self.replica.filter(|_| is_on_replica);
        let last = last.map_or(self.last.major, |last| last.min(self.last.major));
        let first = stored.first().map_or(last + 1, |(id, _)| id.major);
        let text = |field| {
            let value = sonic_rs::get(config, ["config", field]).ok();
            value.and_then(|value| value.as_str().map(str::to_owned))
        };
        let next = match sonic_rs::get(config, ["config", "opt_start_seq"]) {
            // A server begins at what it has.
            Ok(sequence) => sequence
                .as_u64()
                .expect("a number")
                .max(first)
                .min(last + 1),
            Err(_) => {
                assert!(!self.is_in_memory || !self.has_said_holes, "a crash");
                let since = text("opt_start_time").expect("a time");
                let first = stored.iter().find(|(id, _)| rfc_3339(id.minor) >= since);
                first.map_or(last + 1, |(id, _)| id.major)
            }
        };
        let deliver = text("deliver_subject").expect("a subject");
        self.consumers.push(LiveConsumer {
            next,
            sequence: 0,
            is_listened_to: self.listened_to.contains(&deliver),
            is_on_replica,
            deliver,
        });
        let waiting = stored.iter().filter(|(id, _)| id.major >= next).count();
        let (before, server) = (next - 1, if is_on_replica { "s1" } else { "s0" });
        let delivered = format!(r#"{{"consumer_seq":0,"stream_seq":{before}}}"#);
        let name = format!("c{}", self.made);
        let cluster = format!(r#"{{"name":"c","leader":"{server}"}}"#);
        format!(
            r#"{{"name":"{name}","num_pending":{waiting},"delivered":{delivered},"cluster":{cluster}}}"#
        )
    }

    /// Puts the waiting messages of all consumers in the line.
    fn deliver(&mut self) {
        if self.holds {
            return;
        }
        let stored = [self.stored(false), self.stored(true)];
        let listened_to = self.consumers.iter_mut().filter(|live| live.is_listened_to);
        for live in listened_to {
            let stored = &stored[usize::from(live.is_on_replica)];
            for (id, serial) in stored {
                if id.major < live.next {
                    continue;
                }
                live.next = id.major + 1;
                live.sequence += 1;
                let (seq, number, ns) = (id.major, live.sequence, id.minor);
                let later = stored.iter().filter(|(other, _)| other > id);
                let pending = later.count();
                let sid = live.deliver.rsplit_once('.').expect("a number").1;
                self.line.push_back(Delivery {
                    subject: "a".into(),
                    sid: sid.parse().expect("a number"),
                    reply: Some(format!("$JS.ACK.S.c.1.{seq}.{number}.{ns}.{pending}")),
                    payload: serial.to_string().into_bytes(),
                    ..Delivery::default()
                });
            }
        }
    }

    /// The heartbeats of all consumers.
    pub(super) fn beat(&mut self) {
        for live in self.consumers.iter().filter(|live| live.is_listened_to) {
            let sid = live.deliver.rsplit_once('.').expect("a number").1;
            self.line.push_back(Delivery {
                sid: sid.parse().expect("a number"),
                status: Some(100),
                last_consumer: Some(live.sequence),
                ..Delivery::default()
            });
        }
    }
}
