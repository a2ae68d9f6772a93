//! The reader against a model of a server that adds, trims, deletes and loses entries.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::sources::stored::check_told;

const NOW_MS: u64 = 1_700_000_000_000;
const HISTORY_MS: u64 = 60_000;

/// A stream on a server. Each entry has a serial number over all lives of the stream as its payload.
struct Server {
    entries: VecDeque<(StoredId, u64)>,
    last: StoredId,
    next_serial: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Add(u8),
    Trim(u8),
    /// `DEL`, and the next ids are smaller.
    Anew,
    /// Another server takes over: without the newest entries, and with a clock that is behind.
    FailOver(u8, bool),
    /// The reader's connection ends.
    Cut,
    /// The reader asks, and takes the answers.
    Read,
}

impl Server {
    fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            last: StoredId {
                major: NOW_MS,
                minor: 0,
            },
            next_serial: 0,
        }
    }

    fn add(&mut self) {
        self.last.minor += 1;
        self.entries.push_back((self.last, self.next_serial));
        self.next_serial += 1;
    }

    /// Carries out a step; returns the serial numbers that nobody can ever read.
    fn step(&mut self, step: &Step) -> Vec<u64> {
        match step {
            Step::Add(count) => (0..*count).for_each(|_| self.add()),
            Step::Trim(count) => {
                let count = usize::from(*count).min(self.entries.len());
                self.entries.drain(..count);
            }
            Step::Anew => {
                self.entries.clear();
                self.last.major -= 1_000;
            }
            Step::FailOver(count, is_behind) => {
                let count = usize::from(*count).min(self.entries.len());
                let lost = self.entries.split_off(self.entries.len() - count);
                if *is_behind {
                    self.last = self.entries.back().map_or(self.last, |(id, _)| *id);
                }
                return lost.into_iter().map(|(_, serial)| serial).collect();
            }
            Step::Cut | Step::Read => {}
        }
        Vec::new()
    }

    fn answer(&self, command: &[String]) -> Value {
        let id = |text: &str| {
            let (major, minor) = text.split_once('-').expect("an id");
            StoredId {
                major: major.parse().expect("a number"),
                minor: minor.parse().expect("a number"),
            }
        };
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        match words[..] {
            ["XREVRANGE", "ticks", "+", "-", "COUNT", "1"] => {
                Value::Array(self.entries.back().map(entry).into_iter().collect())
            }
            ["XRANGE", "ticks", from, to] => {
                let (from, to) = (id(from), id(to));
                let found = self
                    .entries
                    .iter()
                    .filter(|(id, _)| (from..=to).contains(id));
                Value::Array(found.map(entry).collect())
            }
            [
                "XREAD",
                "COUNT",
                count,
                "BLOCK",
                "1000",
                "STREAMS",
                "ticks",
                after,
            ] => {
                let after = id(after);
                let found = self.entries.iter().filter(|(id, _)| *id > after);
                let count = count.parse().expect("a number");
                let found: Vec<Value> = found.map(entry).take(count).collect();
                match found.is_empty() {
                    true => Value::Nil,
                    false => {
                        let stream = vec![Value::Bulk(b"ticks".to_vec()), Value::Array(found)];
                        Value::Array(vec![Value::Array(stream)])
                    }
                }
            }
            _ => panic!("not a command: {words:?}"),
        }
    }
}

fn entry((id, serial): &(StoredId, u64)) -> Value {
    let bulk = |text: &str| Value::Bulk(text.as_bytes().to_vec());
    let fields = ["channel", "a", "more", "x", "data", &serial.to_string()].map(bulk);
    Value::Array(vec![bulk(&text(*id)), Value::Array(fields.to_vec())])
}

/// What the reader said, and what may be missing.
#[derive(Default)]
struct Log {
    told: Vec<Told>,
    /// Serial numbers that nobody can read any more.
    unreadable: Vec<u64>,
}

impl Log {
    fn take(&mut self, reader: &mut StreamReader, server: &Server) {
        let answers = reader.commands();
        let answers = answers.iter().map(|c| server.answer(c)).collect();
        reader
            .take(answers, NOW_MS, &mut self.told)
            .expect("good answers");
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (1..6_u8).prop_map(Step::Add),
        2 => (1..8_u8).prop_map(Step::Trim),
        1 => Just(Step::Anew),
        2 => (0..4_u8, any::<bool>()).prop_map(|(lost, behind)| Step::FailOver(lost, behind)),
        3 => Just(Step::Cut),
        12 => Just(Step::Read),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn nothing_is_lost_unsaid_and_nothing_comes_twice(before in 0..20_u8, steps in steps()) {
        let mut server = Server::new();
        server.step(&Step::Add(before));
        // A payload limit that makes answers of 4 entries.
        let mut reader = StreamReader::new("ticks", HISTORY_MS, ANSWER_BYTES_MAX / 4);
        let mut log = Log::default();
        reader.connected();
        log.take(&mut reader, &server);
        for step in &steps {
            let lost = server.step(step);
            log.unreadable.extend(lost);
            match step {
                Step::Read => log.take(&mut reader, &server),
                // A failover ends the connection.
                Step::Cut | Step::FailOver(..) => {
                    reader.connected();
                    log.take(&mut reader, &server);
                }
                _ => {}
            }
        }
        for _ in 0..100 {
            log.take(&mut reader, &server);
        }
        // While the stream is empty, only a reconnection is proof of nothing.
        check_told(&log.told, &log.unreadable, None, server.next_serial);
    }
}

fn read(reader: &mut StreamReader, server: &Server) -> Vec<Told> {
    let mut log = Log::default();
    log.take(reader, server);
    log.told
}

#[test]
fn old_entries_come_before_it_stands() {
    let mut server = Server::new();
    let mut reader = StreamReader::new("ticks", HISTORY_MS, 1_000);
    assert_eq!(read(&mut reader, &server), [Told::Stands], "empty");
    server.step(&Step::Add(2));
    let mut reader = StreamReader::new("ticks", HISTORY_MS, 1_000);
    assert_eq!(read(&mut reader, &server), []);
    server.step(&Step::Add(1));
    let told = read(&mut reader, &server);
    let is_old = |told: &Told| match told {
        Told::Message { is_old, .. } => Some(*is_old),
        _ => None,
    };
    let told: Vec<_> = told.iter().map(is_old).collect();
    assert_eq!(told, [Some(true), Some(true), None, Some(false)]);
}

#[test]
fn a_reconnection_to_a_stream_that_was_empty_proves_nothing() {
    for entries in 0..2 {
        let mut server = Server::new();
        let mut reader = StreamReader::new("ticks", HISTORY_MS, 1_000);
        reader.connected();
        assert_eq!(read(&mut reader, &server), [Told::Stands]);
        assert_eq!(read(&mut reader, &server), []);
        server.step(&Step::Add(2));
        server.step(&Step::Trim(2));
        server.step(&Step::Add(entries));
        reader.connected();
        assert_eq!(read(&mut reader, &server), [Told::Lost, Told::Stands]);
        assert_eq!(read(&mut reader, &server).len(), usize::from(entries));
    }
}

#[test]
fn a_clock_that_is_behind_hides_no_old_entry() {
    let mut server = Server::new();
    server.last.major -= 3_600_000;
    server.step(&Step::Add(1));
    let mut reader = StreamReader::new("ticks", HISTORY_MS, 1_000);
    read(&mut reader, &server);
    assert_eq!(read(&mut reader, &server).len(), 2);
}

#[test]
fn entries_of_another_form_are_bad_and_the_next_ones_come() {
    let bulk = |text: &str| Value::Bulk(text.as_bytes().to_vec());
    let of = |fields: &[Value]| message(fields.to_vec());
    let (channel, data) = (bulk("channel"), bulk("data"));
    let good = [channel.clone(), bulk("a"), data.clone(), bulk("1")];
    assert_eq!(of(&good), Ok(("a".to_owned(), b"1".to_vec())));
    let long = [
        channel.clone(),
        bulk("a"),
        data.clone(),
        Value::Cut(b"12".to_vec()),
    ];
    assert_eq!(of(&long), Ok(("a".to_owned(), b"12".to_vec())));
    for bad in [
        &[][..],
        &good[..2],
        &good[2..],
        &[
            channel.clone(),
            Value::Cut(b"aa".to_vec()),
            data.clone(),
            bulk("1"),
        ],
        &[channel, Value::Bulk(vec![0xff]), data, bulk("1")],
        &[Value::Nil, bulk("a")],
    ] {
        assert!(of(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_refusal_and_a_wrong_answer_end_the_connection() {
    for (answer, trouble) in [
        (
            Value::Error("WRONGTYPE x".to_owned()),
            Trouble::Refused("WRONGTYPE x".to_owned()),
        ),
        (
            Value::Integer(1),
            Trouble::Wrong("an answer that fits no question"),
        ),
    ] {
        let mut reader = StreamReader::new("ticks", HISTORY_MS, 1_000);
        let taken = reader.take(vec![answer], NOW_MS, &mut Vec::new());
        assert_eq!(taken, Err(trouble));
    }
}

#[test]
fn answers_stay_within_their_bytes() {
    for (bytes_max, entries) in [(1_000, 512), (1 << 20, 64), (16 << 20, 4), (1 << 30, 1)] {
        let reader = StreamReader::new("ticks", HISTORY_MS, bytes_max);
        assert_eq!(reader.entries_max, entries);
    }
}
