//! The reader against a model of a server.

mod model;

use std::collections::{HashSet, VecDeque};

use proptest::prelude::*;

use self::model::{ModelStep, Stream, StreamServer};
use super::super::range;
use super::entry_check::PROOF_BYTES_MAX;
use super::writes::WRITES_ASKED_MS;
use super::*;
use crate::kept::check_reports;

const NOW_MS: u64 = 1_700_000_000_000;
const HISTORY_MS: u64 = 60_000;
const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A reader of payloads of up to so many bytes.
fn reading(payload_bytes_max: usize) -> RedisStreamReader {
    RedisStreamReader::new("ticks", HISTORY_MS, payload_bytes_max, HELD_BYTES_MAX)
}

/// Hands answers to the reader as a connection does.
fn take(
    reader: &mut RedisStreamReader,
    (bytes, now_ms): (usize, u64),
    answers: Vec<Value>,
    events: &mut Vec<KeptEvent>,
) -> Result<(), StreamReadError> {
    for answer in answers {
        match answer {
            Value::Array(entries) if reader.takes_entries() => {
                for entry in entries {
                    reader.take(entry, bytes, now_ms, events)?;
                }
                reader.take(Value::Array(Vec::new()), 4, now_ms, events)?;
            }
            answer => {
                let entries = match &answer {
                    Value::Array(entries) => entries.len(),
                    _ => 1,
                };
                reader.take(answer, bytes * entries, now_ms, events)?;
            }
        }
    }
    Ok(())
}

/// What the reader said, and which messages may be missing.
#[derive(Debug, Default)]
struct Log {
    events: Vec<KeptEvent>,
    /// The serial numbers of entries that a failover has lost, or that were deleted.
    unreadable: Vec<u64>,
    /// How long servers were behind, milliseconds.
    behind_ms: u64,
}

impl Log {
    /// Lets the reader send its commands and take the answers; after each command, the server does the step `between`.
    fn take_amid(
        &mut self,
        reader: &mut RedisStreamReader,
        server: &mut StreamServer,
        between: &ModelStep,
    ) {
        let mut answers = Vec::new();
        for command in reader.commands() {
            answers.push(server.answer(&command));
            self.unreadable.extend(server.step(between));
        }
        let now = (server.entry_bytes, NOW_MS + self.behind_ms);
        match take(reader, now, answers, &mut self.events) {
            // The next attempt.
            Err(StreamReadError::Behind | StreamReadError::CatchingUp) => {
                self.behind_ms += 1_000;
                reader.connected();
            }
            taken => taken.expect("good answers"),
        }
    }

    fn take(&mut self, reader: &mut RedisStreamReader, server: &mut StreamServer) {
        self.take_amid(reader, server, &ModelStep::Add(0));
    }

    /// Reads until the reader waits for new entries.
    fn take_all(&mut self, reader: &mut RedisStreamReader, server: &mut StreamServer) {
        (0..10).for_each(|_| self.take(reader, server));
        while matches!(reader.step, Step::CatchUp { .. }) {
            self.take(reader, server);
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<ModelStep>> {
    let step = prop_oneof![
        8 => (1..6_u8).prop_map(ModelStep::Add),
        2 => (1..8_u8).prop_map(ModelStep::Trim),
        1 => Just(ModelStep::Anew),
        1 => Just(ModelStep::AnewAbove),
        1 => Just(ModelStep::Evicted),
        2 => (0..4_u8, any::<bool>()).prop_map(|(lost, behind)| ModelStep::FailOver(lost, behind)),
        3 => Just(ModelStep::Cut),
        8 => Just(ModelStep::Read),
        2 => (1..6_u8).prop_map(ModelStep::AddAmid),
        2 => (1..8_u8).prop_map(ModelStep::TrimAmid),
        2 => (0..3_u8).prop_map(ModelStep::Delete),
        1 => (0..3_u8).prop_map(ModelStep::DeleteAmid),
        1 => Just(ModelStep::Night),
        1 => Just(ModelStep::RenameAway),
        1 => Just(ModelStep::RenameBack),
        1 => (0..4_u8, 0..4_u8).prop_map(|(lacks, has)| ModelStep::AnotherDataSet(lacks, has)),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn nothing_is_lost_unsaid_and_nothing_comes_twice(
        before in 0..20_u8,
        has_counters in any::<bool>(),
        entry_bytes in prop::sample::select(vec![100, range::ANSWER_BYTES / 5]),
        steps in steps(),
    ) {
        let mut server = StreamServer { has_counters, entry_bytes, ..StreamServer::new() };
        server.step(&ModelStep::Add(before));
        // A payload limit that makes answers of 4 entries.
        let mut reader = reading(HELD_BYTES_MAX / 4);
        let mut log = Log::default();
        reader.connected();
        log.take(&mut reader, &mut server);
        for step in &steps {
            let lost = server.step(step);
            log.unreadable.extend(lost);
            match step {
                ModelStep::Read => log.take(&mut reader, &mut server),
                ModelStep::AddAmid(n) => log.take_amid(&mut reader, &mut server, &ModelStep::Add(*n)),
                ModelStep::TrimAmid(n) => log.take_amid(&mut reader, &mut server, &ModelStep::Trim(*n)),
                ModelStep::DeleteAmid(n) => log.take_amid(&mut reader, &mut server, &ModelStep::Delete(*n)),
                // A failover ends the connection.
                ModelStep::Cut | ModelStep::FailOver(..) => {
                    reader.connected();
                    log.take(&mut reader, &mut server);
                }
                _ => {}
            }
        }
        // What came and went in an empty stream shows at the latest with the next entry.
        server.step(&ModelStep::Add(1));
        for _ in 0..200 {
            log.take(&mut reader, &mut server);
        }
        // Nobody knows what was in a stream before the reader has seen it empty or has read an entry.
        let caught_up_at = (before == 0).then_some(0);
        check_reports(&log.events, &log.unreadable, caught_up_at, server.next_serial);
        // Not even after a loss.
        let mut serials = serials(&log.events);
        serials.sort_unstable();
        prop_assert!(serials.is_sorted_by(|a, b| a < b), "twice: {:?}", serials);
    }
}

/// A step of two servers, of which one is the master.
#[derive(Clone, Debug)]
enum GroupStep {
    Add(u8),
    Trim(u8),
    Read,
    /// The reader has time for more than the entries that are there, and for a server that is behind.
    ReadAll,
    /// The replica, which lacks so many of the newest entries, becomes the master.
    FailOver(u8),
    /// The former master becomes the master again, with the entries that it had then.
    FailBack,
    /// The master restarts without its data.
    RestartEmpty,
}

fn group_steps() -> impl Strategy<Value = Vec<GroupStep>> {
    let step = prop_oneof![
        8 => (1..12_u8).prop_map(GroupStep::Add),
        1 => (1..8_u8).prop_map(GroupStep::Trim),
        8 => Just(GroupStep::Read),
        2 => Just(GroupStep::ReadAll),
        2 => (0..8_u8).prop_map(GroupStep::FailOver),
        2 => Just(GroupStep::FailBack),
        1 => Just(GroupStep::RestartEmpty),
    ];
    prop::collection::vec(step, 1..60)
}

/// The master of two servers, whose clocks agree; and the stream of the other one.
struct Group {
    master: StreamServer,
    former: Stream,
    now_ms: u64,
    /// The time between two entries.
    step_ms: u64,
}

impl Group {
    fn add(&mut self, count: u8) {
        for _ in 0..count {
            self.now_ms += self.step_ms;
            let (major, minor) = (self.now_ms, 0);
            self.master.last = self.master.last.max(StoredId { major, minor });
            self.master.step(&ModelStep::Add(1));
        }
    }

    /// Returns whether the connection of the reader ends.
    fn step(&mut self, step: &GroupStep) -> bool {
        let master = &mut self.master;
        let own = (
            master.entries.clone(),
            master.last,
            master.added,
            master.last_deleted,
        );
        match step {
            GroupStep::Add(count) => self.add(*count),
            GroupStep::Trim(count) => drop(master.step(&ModelStep::Trim(*count))),
            GroupStep::Read | GroupStep::ReadAll => {}
            GroupStep::FailOver(lacks) => {
                master.step(&ModelStep::FailOver(*lacks, false));
                let newest = master.entries.back();
                master.last = newest.map_or_else(StoredId::default, |(id, _)| *id);
                self.former = own;
            }
            GroupStep::FailBack => {
                let former = std::mem::replace(&mut self.former, own);
                master.swap(former);
                master.process += 1;
            }
            GroupStep::RestartEmpty => {
                master.swap(Stream::default());
                master.process += 1;
            }
        }
        use GroupStep::{FailBack, FailOver, RestartEmpty};
        matches!(step, FailOver(_) | FailBack | RestartEmpty)
    }

    fn read(&self, reader: &mut RedisStreamReader, log: &mut Log) {
        let commands = reader.commands();
        let answers = commands.iter().map(|command| self.master.answer(command));
        let now_ms = self.now_ms + log.behind_ms;
        let now = (self.master.entry_bytes, now_ms);
        match take(reader, now, answers.collect(), &mut log.events) {
            Err(StreamReadError::Behind | StreamReadError::CatchingUp) => {
                log.behind_ms += 1_000;
                reader.connected();
            }
            taken => taken.expect("good answers"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    /// Nor does an entry come that is older than a loss that was reported earlier: clients were told that it is missing.
    #[test]
    fn servers_that_take_over_by_turns_bring_nothing_twice_and_nothing_from_before_an_earlier_loss(
        before in 0..20_u8,
        known_max in prop::sample::select(vec![10, 30, 10_000]),
        step_ms in prop::sample::select(vec![1, 5_000, 40_000]),
        entry_bytes in prop::sample::select(vec![100, range::ANSWER_BYTES / 5]),
        steps in group_steps(),
    ) {
        let master = StreamServer { entry_bytes, ..StreamServer::new() };
        let mut group = Group { master, former: Stream::default(), now_ms: NOW_MS, step_ms };
        group.add(before);
        let mut reader = reading(HELD_BYTES_MAX / 4);
        reader.known.set_max(known_max);
        let (mut log, mut lost_before) = (Log::default(), vec![u64::MAX]);
        reader.connected();
        group.read(&mut reader, &mut log);
        for step in &steps {
            if group.step(step) {
                reader.connected();
            }
            let reads = match step {
                GroupStep::Add(_) | GroupStep::Trim(_) => 0,
                GroupStep::ReadAll => 8,
                _ => 1,
            };
            (0..reads).for_each(|_| group.read(&mut reader, &mut log));
            // What is added from here on is in none of these losses.
            let losses = log.events.iter().filter(|event| **event == KeptEvent::Lost).count();
            lost_before.resize(1 + losses, group.master.next_serial);
        }
        group.add(1);
        (0..100).for_each(|_| group.read(&mut reader, &mut log));
        let mut serials = serials(&log.events);
        prop_assert_eq!(serials.last(), Some(&(group.master.next_serial - 1)));
        serials.sort_unstable();
        prop_assert!(serials.is_sorted_by(|a, b| a < b), "twice: {:?}", serials);
        let mut told_until = None;
        for (n, events) in log.events.split(|event| *event == KeptEvent::Lost).enumerate() {
            let came = self::serials(events);
            prop_assert!(came.iter().all(|serial| Some(*serial) > told_until), "{came:?}");
            let lost_before = lost_before.get(n).copied().unwrap_or(u64::MAX);
            let first = came.first().map(|first| *first.min(&lost_before.saturating_sub(1)));
            told_until = first.or(told_until);
        }
    }
}

/// The serial numbers of the messages.
fn serials(events: &[KeptEvent]) -> Vec<u64> {
    let serial = |event: &KeptEvent| match event {
        KeptEvent::Message { payload, .. } => String::from_utf8_lossy(payload).parse().ok(),
        _ => None,
    };
    events.iter().filter_map(serial).collect()
}

/// Trims and deletions are left out: to the counters, two lives of a stream are one.
fn steps_of_streams_with_the_same_ids() -> impl Strategy<Value = Vec<ModelStep>> {
    let step = prop_oneof![
        8 => (1..6_u8).prop_map(ModelStep::Add),
        3 => Just(ModelStep::AnewFromFirst),
        2 => Just(ModelStep::Cut),
        8 => Just(ModelStep::Read),
        2 => (1..6_u8).prop_map(ModelStep::AddAmid),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn nothing_is_lost_unsaid_though_streams_made_anew_have_the_same_ids(
        before in 0..20_u8,
        has_counters in any::<bool>(),
        entry_bytes in prop::sample::select(vec![100, range::ANSWER_BYTES / 5]),
        steps in steps_of_streams_with_the_same_ids(),
    ) {
        let mut server = StreamServer { has_counters, entry_bytes, ..StreamServer::new() };
        server.step(&ModelStep::Add(before));
        let mut reader = reading(HELD_BYTES_MAX / 4);
        let mut log = Log::default();
        let mut deleted = Vec::new();
        reader.connected();
        for step in steps.iter().chain([&ModelStep::Read; 200]) {
            if matches!(step, ModelStep::AnewFromFirst) {
                deleted.extend(server.entries.iter().map(|(_, serial)| *serial));
            }
            server.step(step);
            match step {
                ModelStep::Read => log.take(&mut reader, &mut server),
                ModelStep::AddAmid(n) => log.take_amid(&mut reader, &mut server, &ModelStep::Add(*n)),
                ModelStep::Cut => reader.connected(),
                _ => {}
            }
        }
        check_reports(&log.events, &deleted, None, server.next_serial);
    }
}

/// The entries that were read have the ids of new ones, between two answers or while the connection is away. If the content is
/// the same, too, the count of entries still shows that the stream was made anew, and no entry comes a second time.
#[test]
fn a_stream_made_anew_with_the_id_of_the_last_entry_is_a_loss_and_is_read_from_its_first_entry() {
    for (before, after) in [(2, 3), (5, 8), (5, 5), (5, 3)] {
        for variant in 0..16 {
            let [is_cut, has_counters, is_large, is_monotone] =
                [1, 2, 4, 8].map(|bit| variant & bit > 0);
            if is_monotone && (!has_counters || after >= before) {
                continue;
            }
            let mut server = StreamServer {
                has_counters,
                is_monotone,
                entry_bytes: if is_large { PROOF_BYTES_MAX + 1 } else { 100 },
                ..StreamServer::new()
            };
            let case = format!("{before} {after} {is_cut} {has_counters} {is_large} {is_monotone}");
            server.step(&ModelStep::Add(before));
            let mut reader = reading(1_000);
            let mut log = Log::default();
            (0..5).for_each(|_| log.take_all(&mut reader, &mut server));
            log.events.clear();
            server.step(&ModelStep::AnewFromFirst);
            server.step(&ModelStep::Add(after));
            if is_cut {
                reader.connected();
            }
            // Without the script, a large entry is checked now and then.
            log.take_all(&mut reader, &mut server);
            log.take_all(&mut reader, &mut server);
            let lost = log.events.iter().filter(|event| **event == KeptEvent::Lost);
            assert_eq!(lost.count(), 1, "{case}");
            if !is_monotone {
                let new: Vec<u64> = (before.into()..(before + after).into()).collect();
                assert_eq!(serials(&log.events), new, "{case}");
            }
            server.step(&ModelStep::Add(1));
            let events = read(&mut reader, &mut server);
            assert_eq!(events.len(), usize::from(!is_monotone), "{case} {events:?}");
        }
    }
}

/// Its ids are lower, by a clock that is behind, or the same as before.
#[test]
fn a_stream_made_anew_is_read_from_its_first_entry() {
    for (lower_ms, is_cut) in [(1_000, false), (1_000, true), (0, false), (0, true)] {
        let mut server = StreamServer::new();
        let first = server.last;
        server.step(&ModelStep::Add(5));
        let mut reader = reading(1_000);
        read(&mut reader, &mut server);
        server.step(&ModelStep::Anew);
        server.last = first;
        server.last.major -= lower_ms;
        server.step(&ModelStep::Add(3));
        if is_cut {
            reader.connected();
        }
        let events = read(&mut reader, &mut server);
        assert_eq!(events[0], KeptEvent::Lost, "{lower_ms} {is_cut}");
        assert_eq!(serials(&events), [5, 6, 7], "{lower_ms} {is_cut}");
        assert!(events.iter().all(|event| is_old(event) != Some(true)));
        let lost = events.iter().filter(|event| **event == KeptEvent::Lost);
        assert_eq!(lost.count(), 1);
        server.step(&ModelStep::Add(1));
        assert_eq!(serials(&read(&mut reader, &mut server)), [8]);
    }
}

/// The key is away for a moment, with a reconnection or another stream meanwhile, and with a new entry when it is back.
#[test]
fn a_stream_that_was_away_and_is_back_brings_only_new_entries() {
    for variant in 0..64 {
        let [
            has_counters,
            is_large,
            is_cut,
            has_other,
            reads_other,
            has_new,
        ] = [1, 2, 4, 8, 16, 32].map(|bit| variant & bit > 0);
        let case =
            format!("{has_counters} {is_large} {is_cut} {has_other} {reads_other} {has_new}");
        let mut server = StreamServer {
            has_counters,
            entry_bytes: if is_large { PROOF_BYTES_MAX + 1 } else { 100 },
            ..StreamServer::new()
        };
        server.last.major -= 2 * HISTORY_MS;
        server.step(&ModelStep::Add(3));
        server.last.major += 2 * HISTORY_MS;
        server.step(&ModelStep::Add(100));
        let mut reader = reading(1_000);
        assert_eq!(serials(&read(&mut reader, &mut server)).len(), 100);
        server.step(&ModelStep::RenameAway);
        // Without the script, a large entry is checked now and then.
        let mut events = read(&mut reader, &mut server);
        events.extend(read(&mut reader, &mut server));
        assert_eq!(events, [KeptEvent::Lost], "{case}");
        server.step(&ModelStep::Add(if has_other { 5 } else { 0 }));
        if reads_other {
            let events = read(&mut reader, &mut server);
            assert_eq!(
                serials(&events).len(),
                if has_other { 5 } else { 0 },
                "{case}"
            );
        }
        if is_cut {
            reader.connected();
        }
        server.step(&ModelStep::RenameBack);
        server.step(&ModelStep::Add(u8::from(has_new)));
        let mut events = read(&mut reader, &mut server);
        events.extend(read(&mut reader, &mut server));
        let last = server.next_serial - 1;
        assert_eq!(
            serials(&events),
            if has_new { vec![last] } else { vec![] },
            "{case}"
        );
        server.step(&ModelStep::Add(1));
        assert_eq!(
            serials(&read(&mut reader, &mut server)),
            [last + 1],
            "{case}"
        );
    }
}

/// Another stream, with many entries of an hour ago, takes the place of one that was away, or of one that never was there.
#[test]
fn a_whole_stream_that_appears_brings_only_the_entries_of_the_history() {
    for variant in 0..8 {
        let [has_counters, was_read, is_cut] = [1, 2, 4].map(|bit| variant & bit > 0);
        let case = format!("{has_counters} {was_read} {is_cut}");
        let mut server = StreamServer {
            has_counters,
            ..StreamServer::new()
        };
        server.step(&ModelStep::Add(if was_read { 3 } else { 0 }));
        let mut reader = reading(1_000);
        read(&mut reader, &mut server);
        server.step(&ModelStep::Anew);
        read(&mut reader, &mut server);
        if is_cut {
            reader.connected();
        }
        let (first, last) = (server.next_serial, StreamServer::new().last);
        server.last.major = last.major - 3_600_000;
        server.step(&ModelStep::Add(100));
        // If no entry was read, nothing but the newest one says what time it is.
        server.last.major = if was_read {
            server.last.major
        } else {
            last.major
        };
        server.step(&ModelStep::Add(5));
        let events = read(&mut reader, &mut server);
        let new = if was_read {
            vec![]
        } else {
            (first + 100..first + 105).collect()
        };
        assert_eq!(serials(&events), new, "{case}");
        server.step(&ModelStep::Add(1));
        assert_eq!(
            serials(&read(&mut reader, &mut server)),
            [first + 105],
            "{case}"
        );
    }
}

/// A master that was cut off becomes a replica of the new one: on the same process, the stream lacks entries that were read,
/// and has others with ids among theirs.
#[test]
fn another_data_set_on_the_same_process_brings_all_its_entries_once() {
    for variant in 0..16 {
        let [has_counters, is_cut, is_amid, is_back] = [1, 2, 4, 8].map(|bit| variant & bit > 0);
        let case = format!("{has_counters} {is_cut} {is_amid} {is_back}");
        let (mut server, mut reader) = read_all(has_counters, 20);
        let full = server.entries.clone();
        server.step(&ModelStep::AnotherDataSet(8, 6));
        server.step(&ModelStep::Add(1));
        if is_cut {
            reader.connected();
        }
        let mut log = Log::default();
        if is_amid {
            log.take_amid(&mut reader, &mut server, &ModelStep::Add(1));
        }
        log.take_all(&mut reader, &mut server);
        let new: Vec<u64> = (20..server.next_serial).collect();
        assert_eq!(serials(&log.events), new, "{case}");
        let lost = log.events.iter().filter(|event| **event == KeptEvent::Lost);
        assert_eq!(lost.count(), 1, "{case}");
        if is_back {
            server.step(&ModelStep::AnotherDataSet(0, 0));
            server.entries.extend(full);
            server.entries.make_contiguous().sort_unstable();
            let mut ids = HashSet::new();
            server.entries.retain(|(id, _)| ids.insert(*id));
            assert!(
                serials(&read(&mut reader, &mut server)).is_empty(),
                "{case}"
            );
        }
        server.step(&ModelStep::Add(1));
        let events = read(&mut reader, &mut server);
        assert_eq!(serials(&events), [server.next_serial - 1], "{case}");
    }
}

/// The counters of the two data sets agree, though entries are gone that were not read.
#[test]
fn the_counters_of_another_data_set_prove_nothing() {
    let mut server = StreamServer::new();
    server.step(&ModelStep::Add(5));
    let mut reader = reading(1_000);
    read(&mut reader, &mut server);
    server.step(&ModelStep::AnotherDataSet(2, 0));
    server.step(&ModelStep::Add(3));
    server.step(&ModelStep::Trim(5));
    reader.connected();
    assert!(read(&mut reader, &mut server).contains(&KeptEvent::Lost));
}

/// A server takes over without the last two entries, and its clock is behind. With one new entry, its newest id is lower when
/// the reader is back; with four, its ids have passed those that it lacks.
#[test]
fn entries_with_lower_ids_come_after_a_failover_and_those_before_come_not_again() {
    for (added, serials_expected) in [(1, &[5][..]), (4, &[5, 6, 7, 8])] {
        let mut server = StreamServer::new();
        server.step(&ModelStep::Add(5));
        let mut reader = reading(1_000);
        read(&mut reader, &mut server);
        server.step(&ModelStep::FailOver(2, true));
        server.last.minor -= 900;
        server.step(&ModelStep::Add(added));
        reader.connected();
        let events = read(&mut reader, &mut server);
        assert_eq!(events[..2], [KeptEvent::Lost, KeptEvent::CaughtUp]);
        assert_eq!(serials(&events), serials_expected);
    }
}

/// The reader goes to a server that lacks entries, which has a new one or none, and then to one that has them: the first
/// one, or the same one later.
#[test]
fn entries_that_a_server_lacked_come_not_again_from_another_one_or_later() {
    for variant in 0..8 {
        let [has_new, is_back, is_cut] = [1, 2, 4].map(|bit| variant & bit > 0);
        if is_back && !is_cut {
            continue;
        }
        let case = format!("{has_new} {is_back} {is_cut}");
        let mut server = StreamServer::new();
        server.step(&ModelStep::Add(10));
        let mut reader = reading(1_000);
        read(&mut reader, &mut server);
        let (full, last) = (server.entries.clone(), server.last);
        server.step(&ModelStep::FailOver(5, true));
        server.step(&ModelStep::Add(u8::from(has_new)));
        reader.connected();
        let events = read(&mut reader, &mut server);
        assert_eq!(serials(&events).len(), usize::from(has_new), "{case}");
        server.process -= u64::from(is_back);
        (server.entries, server.last) = (full, last);
        server.added = server.entries.len() as u64;
        if is_cut {
            reader.connected();
        }
        let events = read(&mut reader, &mut server);
        assert!(serials(&events).is_empty(), "{case} {events:?}");
        server.step(&ModelStep::Add(1));
        let events = read(&mut reader, &mut server);
        assert_eq!(serials(&events), [server.next_serial - 1], "{case}");
    }
}

/// An older dump of the stream is restored, and then a newer one; with an entry of its own after each, and the reader looks
/// between the two, or not.
#[test]
fn entries_that_a_restored_dump_brings_back_come_not_again() {
    for variant in 0..16 {
        let [has_counters, is_cut, has_own, has_new] = [1, 2, 4, 8].map(|bit| variant & bit > 0);
        let case = format!("{has_counters} {is_cut} {has_own} {has_new}");
        let (mut server, mut reader) = read_all(has_counters, 20);
        let newer = (server.entries.clone(), server.last, 20, StoredId::default());
        let older: VecDeque<_> = newer.0.iter().take(6).copied().collect();
        let last = older[5].0;
        for (dump, adds) in [
            ((older, last, 6, StoredId::default()), has_own),
            (newer, has_new),
        ] {
            server.clock = server.clock.max(server.last);
            server.swap(dump);
            let serial = server.next_serial;
            server.step(&ModelStep::Add(u8::from(adds)));
            if is_cut {
                reader.connected();
            }
            let mut events = read(&mut reader, &mut server);
            events.extend(read(&mut reader, &mut server));
            let expected: Vec<u64> = (serial..server.next_serial).collect();
            assert_eq!(serials(&events), expected, "{case}");
        }
    }
}

/// Another server lacks more entries than the reader knows, so it cannot tell whether its newest entry was read.
#[test]
fn no_entry_comes_again_if_very_many_were_lost() {
    let mut server = StreamServer::new();
    (0..80).for_each(|_| drop(server.step(&ModelStep::Add(250))));
    let mut reader = reading(1_000);
    let mut log = Log::default();
    (0..5).for_each(|_| log.take_all(&mut reader, &mut server));
    assert_eq!(serials(&log.events).len(), 20_000);
    server.process += 1;
    server.entries.truncate(100);
    server.last = server.entries[99].0;
    reader.connected();
    let events = read(&mut reader, &mut server);
    let head = KeptEvent::Head(server.last);
    assert_eq!(events, [KeptEvent::Lost, head, KeptEvent::CaughtUp]);
}

/// What the reader says until it waits for new entries, without how far it is behind.
fn read(reader: &mut RedisStreamReader, server: &mut StreamServer) -> Vec<KeptEvent> {
    let mut log = Log::default();
    log.take_all(reader, server);
    let events = log.events.into_iter();
    events
        .filter(|events| !matches!(events, KeptEvent::Lag { .. }))
        .collect()
}

fn is_old(events: &KeptEvent) -> Option<bool> {
    match events {
        KeptEvent::Message { is_old, .. } => Some(*is_old),
        _ => None,
    }
}

#[test]
fn old_entries_come_before_it_stands() {
    let mut server = StreamServer::new();
    let mut reader = reading(1_000);
    assert_eq!(
        read(&mut reader, &mut server),
        [KeptEvent::CaughtUp],
        "empty"
    );
    server.step(&ModelStep::Add(2));
    let mut reader = reading(1_000);
    let mut log = Log::default();
    log.take(&mut reader, &mut server);
    assert_eq!(log.events, []);
    server.step(&ModelStep::Add(1));
    let events = read(&mut reader, &mut server);
    let events: Vec<_> = events.iter().map(is_old).collect();
    assert_eq!(events, [Some(true), Some(true), None, Some(false)]);
}

#[test]
fn a_reconnection_to_a_stream_that_was_empty_proves_nothing() {
    for entries in 0..2 {
        let mut server = StreamServer::new();
        let mut reader = reading(1_000);
        reader.connected();
        assert_eq!(read(&mut reader, &mut server), [KeptEvent::CaughtUp]);
        server.step(&ModelStep::Add(2));
        server.step(&ModelStep::Trim(2));
        server.step(&ModelStep::Add(entries));
        reader.connected();
        let events = read(&mut reader, &mut server);
        assert_eq!(events[..2], [KeptEvent::Lost, KeptEvent::CaughtUp]);
        assert_eq!(events.len(), 2 + usize::from(entries));
    }
}

/// A server with a stream of so many entries, and a reader that has read them.
fn read_all(has_counters: bool, entries: u8) -> (StreamServer, RedisStreamReader) {
    let mut server = StreamServer {
        has_counters,
        ..StreamServer::new()
    };
    server.step(&ModelStep::Add(entries));
    let mut reader = reading(1_000);
    read(&mut reader, &mut server);
    (server, reader)
}

/// A server, and a reader that has seen its stream empty. `had_entries`: the stream had some before, which were trimmed.
fn seen_empty(has_counters: bool, had_entries: bool) -> (StreamServer, RedisStreamReader) {
    let mut server = StreamServer {
        has_counters,
        ..StreamServer::new()
    };
    if had_entries {
        server.step(&ModelStep::Add(5));
        server.step(&ModelStep::Trim(5));
    }
    let mut reader = reading(1_000);
    assert_eq!(read(&mut reader, &mut server), [KeptEvent::CaughtUp]);
    (server, reader)
}

/// A transaction adds and trims, on a connection that has seen the stream empty.
#[test]
fn what_was_trimmed_before_the_first_entry_was_read_is_a_loss() {
    for variant in 0..16 {
        let [has_counters, had_entries, is_trimmed, is_large] =
            [1, 2, 4, 8].map(|bit| variant & bit > 0);
        let case = format!("{has_counters} {had_entries} {is_trimmed} {is_large}");
        let (mut server, mut reader) = seen_empty(has_counters, had_entries);
        let added = if is_large { 100 } else { 12 };
        server.step(&ModelStep::Add(added));
        let trimmed = if is_trimmed { added - 10 } else { 0 };
        server.step(&ModelStep::Trim(trimmed));
        let events = read(&mut reader, &mut server);
        // Without counters, entries beyond the first answer could be others.
        let is_lost = is_trimmed || is_large && !has_counters;
        assert_eq!(events.contains(&KeptEvent::Lost), is_lost, "{case}");
        assert_eq!(events[0] == KeptEvent::Lost, is_lost, "{case}");
        assert_eq!(
            serials(&events).len(),
            usize::from(added - trimmed),
            "{case}"
        );
    }
}

/// A stream that was made anew has the counters of one that has lost nothing. Other streams of the server get entries, too.
#[test]
fn a_stream_made_anew_before_its_first_entry_was_read_is_a_loss() {
    for variant in 0..32 {
        let [
            has_counters,
            had_entries,
            is_seen_empty,
            is_other,
            is_evicted,
        ] = [1, 2, 4, 8, 16].map(|bit| variant & bit > 0);
        let case = format!("{has_counters} {had_entries} {is_seen_empty} {is_other} {is_evicted}");
        let (mut server, mut reader) = seen_empty(has_counters, had_entries);
        let added = if is_other { 0 } else { 2 };
        server.step(&ModelStep::Add(added));
        server.step(&match is_evicted {
            true => ModelStep::Evicted,
            false => ModelStep::Anew,
        });
        let mut events = Vec::new();
        if is_seen_empty {
            events.extend(read(&mut reader, &mut server));
        }
        server.step(&ModelStep::Add(3));
        events.extend(read(&mut reader, &mut server));
        // A deletion alone loses nothing.
        let lost = usize::from(!is_other);
        assert_eq!(
            events
                .iter()
                .filter(|event| **event == KeptEvent::Lost)
                .count(),
            lost,
            "{case}"
        );
        assert_eq!(serials(&events).len(), 3, "{case}");
    }
}

/// `CONFIG RESETSTAT` while the stream is empty: what the server counts afterwards says nothing of before, even if it has
/// counted as many additions and removals again.
#[test]
fn a_server_that_counts_anew_does_not_say_what_came_and_went() {
    for variant in 0..8 {
        let [has_counters, is_anew, had_fewer] = [1, 2, 4].map(|bit| variant & bit > 0);
        let case = format!("{has_counters} {is_anew} {had_fewer}");
        let (mut server, mut reader) = seen_empty(has_counters, !had_fewer);
        // Entries of other streams.
        server.next_serial += 20;
        assert_eq!(read(&mut reader, &mut server), [], "{case}");
        server.count_anew();
        server.step(&ModelStep::Add(if had_fewer { 40 } else { 12 }));
        server.step(&match is_anew {
            true => ModelStep::Anew,
            false => ModelStep::Trim(if had_fewer { 30 } else { 2 }),
        });
        let mut events = read(&mut reader, &mut server);
        server.step(&ModelStep::Add(3));
        events.extend(read(&mut reader, &mut server));
        assert!(events.contains(&KeptEvent::Lost), "{case}");
        // Later, it says everything again.
        server.step(&ModelStep::Add(3));
        let events = read(&mut reader, &mut server);
        assert!(!events.contains(&KeptEvent::Lost), "{case}");
    }
}

/// On a server with other streams, only a deletion makes the counters doubtful.
#[test]
fn entries_of_other_streams_are_no_loss_of_an_empty_one() {
    let mut server = StreamServer::new();
    let mut reader = reading(1_000);
    assert_eq!(read(&mut reader, &mut server), [KeptEvent::CaughtUp]);
    for _ in 0..3 {
        server.next_serial += 100;
        assert_eq!(read(&mut reader, &mut server), []);
    }
    server.next_serial += 100;
    server.step(&ModelStep::Add(1));
    assert_eq!(serials(&read(&mut reader, &mut server)), [400]);
}

/// The stream is emptied again before it was read, and what follows is whole.
#[test]
fn entries_that_came_and_went_before_the_first_one_was_read_are_one_loss() {
    let mut server = StreamServer::new();
    let mut reader = reading(1_000);
    read(&mut reader, &mut server);
    server.step(&ModelStep::Add(3));
    server.step(&ModelStep::Trim(3));
    assert_eq!(read(&mut reader, &mut server), [KeptEvent::Lost]);
    server.step(&ModelStep::Add(2));
    assert_eq!(read(&mut reader, &mut server).len(), 2);
}

/// Publishers trim by age, so the first entry after a quiet time trims all entries that were read.
#[test]
fn what_was_trimmed_after_it_was_read_is_no_loss() {
    for (before, entry_bytes) in [(1, 100), (5, 100), (1_000, 100), (3, 1 << 20)] {
        for is_cut in [false, true] {
            let mut server = StreamServer {
                entry_bytes,
                ..StreamServer::new()
            };
            (0..before / 5 + 1)
                .for_each(|_| drop(server.step(&ModelStep::Add(before.min(5) as u8))));
            let mut reader = reading(1_000);
            read(&mut reader, &mut server);
            for _ in 0..3 {
                server.step(&ModelStep::Night);
                if is_cut {
                    reader.connected();
                }
                let events = read(&mut reader, &mut server);
                let arrived = events
                    .iter()
                    .filter(|events| is_old(events) == Some(false))
                    .count();
                assert_eq!(arrived, 1, "{before} {events:?}");
                assert!(
                    !events.contains(&KeptEvent::Lost),
                    "{before} {is_cut} {events:?}"
                );
            }
            // Now an entry is gone that was not read.
            server.step(&ModelStep::Add(2));
            server.step(&ModelStep::Trim(2));
            server.step(&ModelStep::Add(1));
            assert!(read(&mut reader, &mut server).contains(&KeptEvent::Lost));
        }
    }
}

/// `XDEL` of entries that were read, the newest among them, at rest and in the middle of others.
#[test]
fn what_was_deleted_after_it_was_read_is_no_loss() {
    for (before, deleted, is_cut) in [(5, 1, false), (5, 3, true), (200, 1, true), (200, 2, false)]
    {
        let mut server = StreamServer::new();
        (0..before).for_each(|_| drop(server.step(&ModelStep::Add(5))));
        // An answer holds four entries.
        let mut reader = reading(HELD_BYTES_MAX / 4);
        read(&mut reader, &mut server);
        for _ in 0..3 {
            (0..deleted).for_each(|_| drop(server.step(&ModelStep::Delete(0))));
            if is_cut {
                reader.connected();
                read(&mut reader, &mut server);
            }
            // Then nothing, an entry, and more entries than an answer holds.
            for added in [0, 1, 9] {
                let mut log = Log::default();
                let amid = &ModelStep::Add(added);
                log.take_amid(&mut reader, &mut server, amid);
                log.take_all(&mut reader, &mut server);
                assert!(!log.events.contains(&KeptEvent::Lost), "{before} {log:?}");
            }
        }
        assert_eq!(reader.position.after(), server.last, "all were read");
        // Now an entry is gone that was not read, and one that was read.
        server.step(&ModelStep::Delete(0));
        server.step(&ModelStep::Add(2));
        server.step(&ModelStep::Delete(1));
        assert!(read(&mut reader, &mut server).contains(&KeptEvent::Lost));
    }
}

/// Older entries are left at the deletion, and trimmed later together with some that were not read.
#[test]
fn what_was_trimmed_unread_after_a_deletion_is_a_loss() {
    let mut server = StreamServer::new();
    server.step(&ModelStep::Add(5));
    let mut reader = reading(1_000);
    read(&mut reader, &mut server);
    server.step(&ModelStep::Delete(0));
    assert_eq!(read(&mut reader, &mut server), []);
    server.step(&ModelStep::Add(3));
    server.step(&ModelStep::Trim(5));
    assert!(read(&mut reader, &mut server).contains(&KeptEvent::Lost));
}

#[test]
fn a_stream_made_anew_proves_nothing_though_it_is_empty_and_had_as_many_entries() {
    let mut server = StreamServer::new();
    server.step(&ModelStep::Add(6));
    let mut reader = reading(1_000);
    read(&mut reader, &mut server);
    server.step(&ModelStep::Anew);
    server.step(&ModelStep::Add(6));
    server.step(&ModelStep::Trim(6));
    assert!(read(&mut reader, &mut server).contains(&KeptEvent::Lost));
}

/// The stream is made anew before anything was read, so nothing is lost and no loss is reported. The counters of the
/// old stream must not prove anything later.
#[test]
fn the_counters_of_a_look_count_no_more_once_the_stream_is_made_anew_before_anything_was_read() {
    for all in [false, true] {
        let mut server = StreamServer::new();
        server.step(&ModelStep::Add(12));
        let mut reader = reading(1_000);
        let mut events = Vec::new();
        for command in reader.commands() {
            let taken = reader.take(server.answer(&command), 100, NOW_MS, &mut events);
            taken.expect("a good answer");
        }
        server.step(&ModelStep::Trim(12));
        server.added = 0;
        server.step(&ModelStep::Add(if all { 20 } else { 0 }));
        read(&mut reader, &mut server);
        server.step(&ModelStep::Add(if all { 0 } else { 20 }));
        read(&mut reader, &mut server);
        server.step(&ModelStep::Add(13));
        server.step(&ModelStep::Trim(32));
        assert!(
            read(&mut reader, &mut server).contains(&KeptEvent::Lost),
            "{all}"
        );
    }
}

/// The new stream has had more entries than the old one had at the look, and more than were read of it.
#[test]
fn what_was_read_of_a_stream_made_anew_after_the_look_may_be_trimmed_without_a_loss() {
    let mut server = StreamServer::new();
    server.step(&ModelStep::Add(12));
    let mut reader = reading(1_000);
    let mut events = Vec::new();
    for command in reader.commands() {
        let taken = reader.take(server.answer(&command), 100, NOW_MS, &mut events);
        taken.expect("a good answer");
    }
    server.step(&ModelStep::Trim(12));
    server.added = 0;
    server.step(&ModelStep::Add(40));
    server.step(&ModelStep::Trim(20));
    read(&mut reader, &mut server);
    server.step(&ModelStep::Night);
    let events = read(&mut reader, &mut server);
    assert!(!events.contains(&KeptEvent::Lost), "{events:?}");
}

/// The new stream has had as many entries as the old one, and all are trimmed. Only its last id is another.
#[test]
fn a_young_stream_made_anew_and_emptied_with_the_counters_of_before_is_a_loss() {
    let (mut server, mut reader) = read_all(true, 2);
    server.step(&ModelStep::AnewAbove);
    server.step(&ModelStep::Add(2));
    server.step(&ModelStep::Trim(2));
    assert!(read(&mut reader, &mut server).contains(&KeptEvent::Lost));
}

/// The ids of the new stream are above the old ones, and as many entries were trimmed as the old stream had when it was
/// read. A transaction needs only one entry more than the old stream had.
#[test]
fn a_young_stream_made_anew_with_the_counters_of_before_is_a_loss() {
    for had in [1, 5, 40] {
        for anew in [ModelStep::AnewAbove, ModelStep::Evicted] {
            for (unread, left) in [(4, 5), (0, 1), (0, had)] {
                let case = format!("{had} {anew:?} {unread} {left}");
                let (mut server, mut reader) = read_all(true, had);
                server.step(&ModelStep::Add(unread));
                server.step(&anew);
                server.step(&ModelStep::Add(had + left));
                server.step(&ModelStep::Trim(had));
                let events = read(&mut reader, &mut server);
                assert!(events.contains(&KeptEvent::Lost), "{case}");
                assert_eq!(serials(&events).len(), usize::from(left), "{case}");
            }
        }
    }
}

/// Other keys are deleted all the time, and other streams get entries. A stream that has had more entries than were added
/// since it was seen is still the same one, and one of which nobody knows that may be another one.
#[test]
fn what_was_trimmed_after_it_was_read_is_no_loss_on_a_busy_server() {
    for (had, says_executed) in [(30, true), (30, false), (5, true)] {
        let (mut server, mut reader) = read_all(true, had);
        server.says_executed = says_executed;
        reader.connected();
        for _ in 0..50 {
            // The answers of a second without an entry.
            read(&mut reader, &mut server);
            server.deletions += 1;
            server.next_serial += 20;
            server.step(&ModelStep::Night);
            let events = read(&mut reader, &mut server);
            let is_whole = had > 20 && says_executed;
            assert_eq!(events[0] != KeptEvent::Lost, is_whole, "{events:?}");
            if !is_whole {
                break;
            }
        }
    }
}

/// In one answer the new stream has had fewer entries than the old one; in the next it has the counters of the old one.
#[test]
fn counters_that_went_back_once_prove_nothing_later() {
    let mut server = StreamServer::new();
    server.step(&ModelStep::Add(20));
    let mut reader = reading(1_000);
    read(&mut reader, &mut server);
    let before = server.last;
    server.step(&ModelStep::Anew);
    server.step(&ModelStep::Add(9));
    let mut log = Log::default();
    log.take(&mut reader, &mut server);
    server.last = before;
    server.step(&ModelStep::Add(11));
    server.step(&ModelStep::Trim(20));
    server.step(&ModelStep::Add(1));
    log.take_all(&mut reader, &mut server);
    assert!(log.events.contains(&KeptEvent::Lost));
}

#[test]
fn the_counters_of_another_server_prove_nothing() {
    let mut server = StreamServer::new();
    server.step(&ModelStep::Add(5));
    let mut reader = reading(1_000);
    read(&mut reader, &mut server);
    // The new master lacks two entries that were read, and has trimmed two that were not.
    server.step(&ModelStep::FailOver(2, false));
    server.step(&ModelStep::Add(3));
    server.step(&ModelStep::Trim(5));
    reader.connected();
    assert!(read(&mut reader, &mut server).contains(&KeptEvent::Lost));
}

/// The server has only some of the entries that were read: a replica that gets the others later, one that is cut off from
/// its master, and a new master that never had them.
#[test]
fn another_server_that_lacks_entries_is_left_before_its_stream_counts_as_another_one() {
    let mut server = StreamServer::new();
    server.step(&ModelStep::Add(5));
    let mut reader = reading(1_000);
    read(&mut reader, &mut server);
    let full = server.entries.clone();
    server.process += 1;
    server.entries.truncate(3);
    server.last = server.entries[2].0;
    let mut log = Log::default();
    reader.connected();
    (0..4).for_each(|_| log.take(&mut reader, &mut server));
    assert_eq!((&log.events[..], log.behind_ms), (&[][..], 4_000));
    server.last = full[4].0;
    server.entries = full;
    log.take_all(&mut reader, &mut server);
    server.step(&ModelStep::Add(1));
    log.take_all(&mut reader, &mut server);
    let arrived: Vec<_> = log.events.iter().filter_map(is_old).collect();
    assert_eq!(arrived, [false], "once and in order");
    assert!(!log.events.contains(&KeptEvent::Lost), "{log:?}");

    server.process += 1;
    server.is_cut_off = true;
    server.entries.truncate(3);
    server.last = server.entries[2].0;
    log.events.clear();
    reader.connected();
    (0..20).for_each(|_| log.take(&mut reader, &mut server));
    assert_eq!(log.events, []);
    server.is_cut_off = false;
    log.take_all(&mut reader, &mut server);
    let (lost, head) = (KeptEvent::Lost, KeptEvent::Head(server.last));
    assert_eq!(log.events[..3], [lost, head, KeptEvent::CaughtUp]);
    assert_eq!(reader.reached(), Some(server.last));
}

/// A replica lacks writes that the master had when the entries were read, for longer than a server may be behind that could
/// have another stream. Once it has them, nothing is lost or double; or its stream is another one, and is read.
#[test]
fn a_replica_that_will_have_the_entries_is_waited_for() {
    for has_entries in [true, false] {
        let mut server = StreamServer::new();
        server.written_to = Some(("h", 100));
        let mut reader = reading(1_000);
        read(&mut reader, &mut server);
        // The count of writes is asked for again after entries, once in a while.
        let mut log = Log::default();
        server.step(&ModelStep::Add(5));
        server.written_to = Some(("h", 600));
        log.take_all(&mut reader, &mut server);
        log.behind_ms = 2 * WRITES_ASKED_MS;
        (0..3).for_each(|_| log.take(&mut reader, &mut server));
        let asked = reader.commands().len();
        log.take_all(&mut reader, &mut server);
        assert_eq!(reader.commands().len(), asked, "idle");
        let full = server.entries.clone();
        server.process += 1;
        server.is_replica = true;
        server.entries.truncate(3);
        server.last = server.entries[2].0;
        server.written_to = Some(("h", 599));
        log.events.clear();
        reader.connected();
        (0..60).for_each(|_| log.take(&mut reader, &mut server));
        assert_eq!(log.events, [], "it waits for a minute");
        server.written_to = Some(("h", 600));
        if has_entries {
            server.last = full[4].0;
            server.entries = full;
            log.take_all(&mut reader, &mut server);
            assert_eq!(log.events[..1], [KeptEvent::CaughtUp]);
            assert!(!log.events.contains(&KeptEvent::Lost), "{log:?}");
            continue;
        }
        (0..4).for_each(|_| log.take(&mut reader, &mut server));
        assert_eq!(log.events, [], "the usual time");
        log.take_all(&mut reader, &mut server);
        assert_eq!(log.events[..1], [KeptEvent::Lost]);
    }
}

/// A server in another history of writes, or without the rest of this one, does not get the entries.
#[test]
fn a_server_that_may_never_have_the_entries_is_waited_for_as_long_as_any() {
    for (is_replica, written_to) in [
        (false, Some(("h", 50))),
        (true, Some(("other", 50))),
        (true, Some(("h", 100))),
        (true, None),
    ] {
        let mut server = StreamServer::new();
        server.step(&ModelStep::Add(5));
        server.written_to = Some(("h", 100));
        let mut reader = reading(1_000);
        read(&mut reader, &mut server);
        server.process += 1;
        (server.is_replica, server.written_to) = (is_replica, written_to);
        server.entries.truncate(3);
        server.last = server.entries[2].0;
        let mut log = Log::default();
        reader.connected();
        log.take_all(&mut reader, &mut server);
        assert_eq!((log.behind_ms, &log.events[0]), (5_000, &KeptEvent::Lost));
    }
}

/// An idle reader checks with the script, or only now and then with the entry itself.
#[test]
fn a_large_entry_is_not_read_again_and_again() {
    for has_counters in [true, false] {
        let mut server = StreamServer {
            entry_bytes: 1 << 20,
            has_counters,
            ..StreamServer::new()
        };
        server.step(&ModelStep::Add(1));
        let mut reader = reading(1_000);
        read(&mut reader, &mut server);
        let mut again = 0;
        let mut log = Log::default();
        for _ in 0..100 {
            let commands = reader.commands();
            again += commands.iter().filter(|words| words[0] == "XRANGE").count();
            log.take(&mut reader, &mut server);
        }
        assert!(again <= if has_counters { 0 } else { 10 }, "{again}");
        assert_eq!(log.events, []);
    }
}

#[test]
fn how_far_it_is_behind_is_known_in_the_middle_of_much() {
    let mut server = StreamServer {
        entry_bytes: 1 << 20,
        ..StreamServer::new()
    };
    server.step(&ModelStep::Add(40));
    let mut reader = reading(HELD_BYTES_MAX);
    let mut log = Log::default();
    log.take_all(&mut reader, &mut server);
    server.step(&ModelStep::Add(40));
    log.events.clear();
    log.take_all(&mut reader, &mut server);
    let behind = log.events.iter().filter_map(|events| match events {
        KeptEvent::Lag { messages, .. } => *messages,
        _ => None,
    });
    // Before an answer to XREAD with one entry, then after answers with one new entry each.
    assert_eq!(behind.collect::<Vec<_>>()[..3], [40, 38, 37]);
}

#[test]
fn the_first_entries_of_an_empty_stream_make_the_reader_late_by_no_years() {
    let (mut server, mut reader) = seen_empty(true, false);
    server.step(&ModelStep::Add(40));
    let mut log = Log::default();
    log.take_all(&mut reader, &mut server);
    let ms = log.events.iter().filter_map(|events| match events {
        KeptEvent::Lag { ms, .. } => Some(*ms),
        _ => None,
    });
    assert!(ms.clone().count() > 1 && ms.max() < Some(60_000));
}

#[test]
fn a_clock_that_is_behind_hides_no_old_entry() {
    let mut server = StreamServer::new();
    server.last.major -= 3_600_000;
    server.step(&ModelStep::Add(1));
    let mut reader = reading(1_000);
    assert_eq!(read(&mut reader, &mut server).len(), 2);
}

#[test]
fn a_refusal_and_a_wrong_answer_end_the_connection() {
    for (answer, trouble) in [
        (
            Value::Error("WRONGTYPE x".to_owned()),
            StreamReadError::Refused("WRONGTYPE x".to_owned()),
        ),
        (
            Value::Integer(1),
            StreamReadError::Wrong("an answer that fits no question"),
        ),
    ] {
        let mut reader = reading(1_000);
        let commands = reader.commands().len();
        let answers = vec![answer; commands];
        let taken = take(&mut reader, (100, NOW_MS), answers, &mut Vec::new());
        assert_eq!(taken, Err(trouble));
    }
}

#[test]
fn answers_stay_within_their_bytes() {
    let number = |reader: &mut RedisStreamReader, name: &str| {
        let commands = reader.commands();
        let at = commands[0].iter().position(|word| word == "COUNT");
        assert_eq!(commands[0][0], name);
        commands[0][at.expect("a count") + 1].parse::<usize>()
    };
    // The limit on what is held, the limit on a payload, and the COUNT of XREAD.
    for (held_bytes_max, bytes_max, held) in [
        (64 << 20, 1_000, 16),
        (64 << 20, 16 << 20, 4),
        (64 << 20, 1 << 30, 1),
        (20 << 20, 10 << 20, 2),
        (1 << 20, 10 << 20, 1),
    ] {
        let mut server = StreamServer::new();
        (0..20).for_each(|_| drop(server.step(&ModelStep::Add(100))));
        let mut reader = RedisStreamReader::new("ticks", HISTORY_MS, bytes_max, held_bytes_max);
        let mut log = Log::default();
        log.take_all(&mut reader, &mut server);
        assert_eq!(number(&mut reader, "XREAD"), Ok(held));
        // What follows on another connection may be larger.
        reader.connected();
        log.take(&mut reader, &mut server);
        assert_eq!(number(&mut reader, "XRANGE"), Ok(2));
    }
}
