//! The reader against a model of a server that stores, deletes and loses messages.

use std::collections::VecDeque;

use proptest::prelude::*;
use sonic_rs::JsonValueTrait;

use super::*;
use crate::sources::stored::check_told;

const NOW_NS: u64 = 1_700_000_000_000_000_000;
const HISTORY_MS: u64 = 60_000;

/// A stream on a server, with its consumers. Each message has a serial number over all lives of the stream as
/// its payload.
struct Server {
    messages: VecDeque<(StoredId, u64)>,
    /// Messages deleted from this life of the stream.
    deleted: Vec<(StoredId, u64)>,
    last: StoredId,
    time_ns: u64,
    created_ns: u64,
    next_serial: u64,
    consumers: Vec<Live>,
    /// Deliveries on their way.
    line: VecDeque<Delivery>,
}

struct Live {
    deliver: String,
    next: u64,
    sequence: u64,
    is_listened_to: bool,
}

#[derive(Clone, Debug)]
enum Event {
    Add(u8),
    /// The oldest messages are deleted.
    Trim(u8),
    /// A message within the stream is deleted.
    Delete(u8),
    /// The stream is deleted and made anew.
    Anew,
    /// The server restarts without the newest messages.
    Restore(u8),
    /// A delivery is lost on its way.
    Drop,
    /// The connection ends.
    Cut,
    /// The reader takes some of the deliveries.
    Read(u8),
}

impl Server {
    fn new() -> Self {
        Self {
            messages: VecDeque::new(),
            deleted: Vec::new(),
            last: StoredId { major: 0, minor: 0 },
            time_ns: NOW_NS,
            created_ns: NOW_NS,
            next_serial: 0,
            consumers: Vec::new(),
            line: VecDeque::new(),
        }
    }

    fn add(&mut self) {
        self.time_ns += 1_000;
        self.last = StoredId {
            major: self.last.major + 1,
            minor: self.time_ns,
        };
        self.messages.push_back((self.last, self.next_serial));
        self.next_serial += 1;
    }

    /// Carries out an event; returns the serial numbers that nobody can ever read.
    fn event(&mut self, event: &Event) -> Vec<u64> {
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
            Event::Cut | Event::Read(_) => {}
        }
        Vec::new()
    }

    /// A connection ends: what was on its way is gone.
    fn cut(&mut self) {
        self.line.clear();
        for consumer in &mut self.consumers {
            consumer.is_listened_to = false;
        }
    }

    /// Carries out the commands of the reader.
    fn take(&mut self, out: &mut Vec<u8>) {
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
                    self.answer(reply, format!(r#"{{"num_pending":{waiting}}}"#));
                }
                ["UNSUB", sid] => {
                    let end = format!(".{sid}");
                    self.consumers.retain(|live| !live.deliver.ends_with(&end));
                }
                ["PUB", ack, _] => {
                    assert!(ack.starts_with("$JS.ACK."), "{line}");
                    lines.next();
                }
                ["SUB", ..] | [] => {}
                _ => panic!("not a command: {line}"),
            }
        }
        self.deliver();
    }

    fn answer(&mut self, reply: &str, payload: String) {
        self.line.push_back(Delivery {
            subject: reply.to_owned(),
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
        self.consumers.push(Live {
            deliver: text("deliver_subject").expect("a subject"),
            next,
            sequence: 0,
            is_listened_to: true,
        });
        let waiting = self.messages.iter();
        waiting.filter(|(id, _)| id.major >= next).count()
    }

    /// Puts the waiting messages of all consumers in the line.
    fn deliver(&mut self) {
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
                    subject: "a".to_owned(),
                    sid: sid.parse().expect("a number"),
                    reply: Some(format!("$JS.ACK.S.c.1.{seq}.{number}.{ns}.{pending}")),
                    payload: serial.to_string().into_bytes(),
                    ..Delivery::default()
                });
            }
        }
    }

    /// The heartbeats of all consumers.
    fn beat(&mut self) {
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

/// A reader on a server, and what the reader said.
struct Bench {
    server: Server,
    reader: StreamReader,
    now: Instant,
    out: Vec<u8>,
    told: Vec<Told>,
    /// Serial numbers that nobody can read any more.
    unreadable: Vec<u64>,
    /// The next serial number when the reader stood for the first time.
    stood_at: Option<u64>,
}

impl Bench {
    fn new(before: u8) -> Self {
        let mut server = Server::new();
        server.event(&Event::Add(before));
        let mut bench = Self {
            server,
            reader: StreamReader::new("S", HISTORY_MS),
            now: Instant::now(),
            out: Vec::new(),
            told: Vec::new(),
            unreadable: Vec::new(),
            stood_at: None,
        };
        bench.connect();
        bench
    }

    fn connect(&mut self) {
        self.server.cut();
        self.out.clear();
        self.reader.connected(self.now, &mut self.out);
    }

    /// Takes so many deliveries.
    fn read(&mut self, count: usize) {
        for _ in 0..count {
            self.server.take(&mut self.out);
            let Some(delivery) = self.server.line.pop_front() else {
                return;
            };
            let now = (self.now, self.server.time_ns);
            let taken = self
                .reader
                .take(delivery, now, &mut self.out, &mut self.told);
            taken.expect("good answers");
            if self.told.contains(&Told::Stands) {
                self.stood_at.get_or_insert(self.server.next_serial);
            }
        }
    }

    fn event(&mut self, event: &Event) {
        let lost = self.server.event(event);
        self.unreadable.extend(lost);
        match event {
            Event::Read(count) => self.read((*count).into()),
            Event::Cut | Event::Restore(_) => self.connect(),
            _ => self.server.take(&mut self.out),
        }
    }

    /// Lets some time pass with heartbeats, so that everything is noticed.
    fn settle(&mut self) {
        for _ in 0..16 {
            self.read(1_000);
            self.now += SILENCE_MAX / 2;
            self.server.beat();
            self.read(1_000);
            let ticked = self.reader.tick(self.now, &mut self.out);
            ticked.expect("answers in time");
        }
    }

    /// Checks that no message is missing without a loss, and that none came twice.
    fn check(&self) {
        let end = self.server.next_serial;
        let newest = check_told(&self.told, &self.unreadable, self.stood_at, end);
        assert_eq!(newest, Some(end - 1), "the last message came");
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => (1..6_u8).prop_map(Event::Add),
        2 => (1..8_u8).prop_map(Event::Trim),
        1 => (0..6_u8).prop_map(Event::Delete),
        1 => Just(Event::Anew),
        2 => (0..4_u8).prop_map(Event::Restore),
        1 => Just(Event::Drop),
        3 => Just(Event::Cut),
        12 => (1..12_u8).prop_map(Event::Read),
    ];
    prop::collection::vec(event, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn nothing_is_lost_unsaid_and_nothing_comes_twice(before in 0..20_u8, events in events()) {
        let mut bench = Bench::new(before);
        for event in &events {
            bench.event(event);
        }
        bench.settle();
        assert!(bench.reader.stands, "whatever was deleted on its way");
        // A message shows what is missing before.
        bench.event(&Event::Add(1));
        bench.settle();
        bench.check();
    }
}

fn names(told: &[Told]) -> Vec<&'static str> {
    let name = |told: &Told| match told {
        Told::Message { is_old: true, .. } => "old",
        Told::Message { .. } => "message",
        Told::Bad(_) => "bad",
        Told::Lost => "lost",
        Told::Head(_) => "head",
        Told::Stands => "stands",
    };
    told.iter().map(name).collect()
}

#[test]
fn old_messages_come_before_it_stands_and_a_cut_loses_nothing() {
    let mut bench = Bench::new(2);
    bench.read(100);
    bench.event(&Event::Add(1));
    bench.read(100);
    bench.connect();
    bench.event(&Event::Add(1));
    bench.read(100);
    let want = ["old", "old", "stands", "message", "stands", "message"];
    assert_eq!(names(&bench.told), want);
}

#[test]
fn an_empty_stream_stands_at_its_head() {
    let mut bench = Bench::new(0);
    bench.read(100);
    assert_eq!(names(&bench.told), ["stands"]);
    let mut bench = Bench::new(3);
    bench.server.event(&Event::Trim(3));
    bench.read(100);
    bench.connect();
    bench.read(100);
    assert_eq!(names(&bench.told), ["head", "stands", "stands"]);
    assert_eq!(bench.told[0], Told::Head(bench.server.last));
}

#[test]
fn what_came_and_went_while_the_stream_was_empty_is_a_loss() {
    for (before, gone, left, want) in [
        (0, 2, 0, &["lost", "head", "stands"][..]),
        (3, 2, 1, &["stands", "lost", "message"]),
        (0, 0, 1, &["stands", "message"]),
        (3, 0, 1, &["stands", "message"]),
    ] {
        let mut bench = Bench::new(before);
        bench.server.event(&Event::Trim(before));
        bench.read(100);
        bench.told.clear();
        bench.server.event(&Event::Add(gone));
        bench.server.event(&Event::Trim(gone));
        bench.server.event(&Event::Add(left));
        bench.connect();
        bench.read(100);
        assert_eq!(names(&bench.told), want, "{before} {gone} {left}");
    }
}

#[test]
fn what_was_purged_made_anew_or_restored_is_a_loss() {
    for event in [
        Event::Trim(2),
        Event::Anew,
        Event::Restore(1),
        Event::Restore(2),
    ] {
        let mut bench = Bench::new(2);
        bench.read(100);
        bench.told.clear();
        bench.event(&event);
        bench.connect();
        bench.read(100);
        assert_eq!(names(&bench.told)[0], "lost", "{event:?}");
        assert_eq!(names(&bench.told).last(), Some(&"stands"), "{event:?}");
    }
}

#[test]
fn a_lost_delivery_and_a_consumer_without_heartbeats_are_replaced() {
    let mut bench = Bench::new(1);
    bench.read(100);
    bench.event(&Event::Add(1));
    bench.event(&Event::Drop);
    bench.server.beat();
    bench.read(100);
    // Each look makes a consumer, so there is a pause before.
    assert_eq!(bench.reader.due(), Some(bench.now + MISSED_PAUSE));
    bench.now += MISSED_PAUSE;
    let ticked = bench.reader.tick(bench.now, &mut bench.out);
    ticked.expect("no fault");
    bench.read(100);
    bench.server.consumers.clear();
    bench.event(&Event::Add(1));
    bench.now += SILENCE_MAX;
    bench
        .reader
        .tick(bench.now, &mut bench.out)
        .expect("no fault");
    bench.read(100);
    assert_eq!(names(&bench.told), ["old", "stands", "message", "message"]);
}

#[test]
fn messages_are_acknowledged_many_at_a_time() {
    let mut bench = Bench::new(0);
    bench.read(100);
    let acks = |out: &[u8]| String::from_utf8_lossy(out).matches("$JS.ACK.").count();
    for _ in 0..ACKED_TOGETHER / 2 {
        bench.server.add();
    }
    bench.server.take(&mut bench.out);
    while let Some(delivery) = bench.server.line.pop_front() {
        let now = (bench.now, NOW_NS);
        let taken = bench
            .reader
            .take(delivery, now, &mut bench.out, &mut bench.told);
        taken.expect("good messages");
    }
    assert_eq!(acks(&bench.out), 0);
    assert_eq!(bench.reader.due(), Some(bench.now + ACK_WAIT));
    bench.now += ACK_WAIT;
    bench
        .reader
        .tick(bench.now, &mut bench.out)
        .expect("no fault");
    assert_eq!(acks(&bench.out), 1);
}

#[test]
fn a_refusal_and_a_silence_end_the_connection() {
    let mut bench = Bench::new(0);
    bench.now += ANSWER_TIMEOUT;
    let silent = bench.reader.tick(bench.now, &mut bench.out);
    assert!(silent.is_err_and(|error| error.to_string().contains("no answer")));
    let answer = |payload: &[u8], status| Delivery {
        subject: ".1".to_owned(),
        sid: ANSWERS_SID,
        payload: payload.to_vec(),
        status,
        ..Delivery::default()
    };
    let missing = br#"{"error":{"description":"stream not found"}}"#;
    for (delivery, words) in [
        (answer(missing, None), "stream not found"),
        (answer(b"", Some(503)), "nobody answers"),
    ] {
        let mut bench = Bench::new(0);
        let now = (bench.now, NOW_NS);
        let taken = bench
            .reader
            .take(delivery, now, &mut bench.out, &mut bench.told);
        assert!(taken.is_err_and(|error| error.to_string().contains(words)));
    }
}
