//! A server of streams as a model.

use std::collections::VecDeque;

use sonic_rs::JsonValueTrait;

use super::super::consumer::rfc_3339;
use super::super::*;

pub(super) const NOW_NS: u64 = 1_700_000_000_000_000_000;

/// A stream on a server, with its consumers. Each message has a serial number over all lives of the stream as
/// its payload.
pub(super) struct Server {
    messages: VecDeque<(StoredId, u64)>,
    /// Messages deleted from this life of the stream.
    deleted: Vec<(StoredId, u64)>,
    pub(super) last: StoredId,
    pub(super) time_ns: u64,
    created_ns: u64,
    pub(super) next_serial: u64,
    pub(super) consumers: Vec<Live>,
    listened_to: Vec<String>,
    /// Deliveries on their way.
    pub(super) line: VecDeque<Delivery>,
    /// Consumers wait with their deliveries.
    pub(super) holds: bool,
}

pub(super) struct Live {
    deliver: String,
    next: u64,
    sequence: u64,
    is_listened_to: bool,
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
    /// The server restarts without the newest messages.
    Restore(u8),
    /// Consumers wait with their deliveries, or go on.
    Hold(bool),
    /// A delivery is lost on its way.
    Drop,
    /// The connection ends.
    Cut,
    /// The reader takes some of the deliveries.
    Read(u8),
}

impl Server {
    pub(super) fn new() -> Self {
        Self {
            messages: VecDeque::new(),
            deleted: Vec::new(),
            last: StoredId { major: 0, minor: 0 },
            time_ns: NOW_NS,
            created_ns: NOW_NS,
            next_serial: 0,
            consumers: Vec::new(),
            listened_to: Vec::new(),
            line: VecDeque::new(),
            holds: false,
        }
    }

    pub(super) fn add(&mut self) {
        self.time_ns += 1_000;
        self.last = StoredId {
            major: self.last.major + 1,
            minor: self.time_ns,
        };
        self.messages.push_back((self.last, self.next_serial));
        self.next_serial += 1;
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
                (self.messages, self.last) = (new.messages, new.last);
                self.created_ns += 1;
                self.deleted.clear();
                self.consumers.clear();
            }
            Event::Restore(count) => {
                let count = stored.min((*count).into());
                let lost = self.messages.split_off(stored - count);
                if let Some((first, _)) = lost.front() {
                    self.last.major = first.major - 1;
                    self.last.minor = self.messages.back().map_or(0, |(id, _)| id.minor);
                }
                let last = self.last.major;
                let deleted = self.deleted.extract_if(.., |(id, _)| id.major > last);
                let lost = lost.into_iter().chain(deleted);
                return lost.map(|(_, serial)| serial).collect();
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
                    let (seq, ts) = (self.last.major, rfc_3339(self.last.minor));
                    let created = rfc_3339(self.created_ns);
                    let state = format!(r#"{{"last_seq":{seq},"last_ts":"{ts}"}}"#);
                    let info = format!(r#"{{"created":"{created}","state":{state}}}"#);
                    self.answer(reply, info);
                }
                ["PUB", "$JS.API.CONSUMER.CREATE.S", reply, _] => {
                    let config = lines.next().expect("a body");
                    let waiting = self.create(config);
                    let name = format!("c{}", self.consumers.len());
                    self.answer(
                        reply,
                        format!(r#"{{"name":"{name}","num_pending":{waiting}}}"#),
                    );
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
        self.line.push_back(Delivery {
            subject: reply.into(),
            sid: ANSWERS_SID,
            payload: payload.into_bytes(),
            ..Delivery::default()
        });
    }

    /// Makes a consumer; returns the number of messages that wait.
    fn create(&mut self, config: &str) -> usize {
        let text = |field| {
            let value = sonic_rs::get(config, ["config", field]).ok();
            value.and_then(|value| value.as_str().map(str::to_owned))
        };
        let next = match sonic_rs::get(config, ["config", "opt_start_seq"]) {
            Ok(sequence) => sequence.as_u64().expect("a number"),
            Err(_) => {
                let since = text("opt_start_time").expect("a time");
                let mut messages = self.messages.iter();
                let first = messages.find(|(id, _)| rfc_3339(id.minor) >= since);
                first.map_or(self.last.major + 1, |(id, _)| id.major)
            }
        };
        let deliver = text("deliver_subject").expect("a subject");
        self.consumers.push(Live {
            next,
            sequence: 0,
            is_listened_to: self.listened_to.contains(&deliver),
            deliver,
        });
        let waiting = self.messages.iter();
        waiting.filter(|(id, _)| id.major >= next).count()
    }

    /// Puts the waiting messages of all consumers in the line.
    fn deliver(&mut self) {
        if self.holds {
            return;
        }
        let listened_to = self.consumers.iter_mut().filter(|live| live.is_listened_to);
        for live in listened_to {
            for (id, serial) in &self.messages {
                if id.major < live.next {
                    continue;
                }
                live.next = id.major + 1;
                live.sequence += 1;
                let (seq, number, ns) = (id.major, live.sequence, id.minor);
                let later = self.messages.iter().filter(|(other, _)| other > id);
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
