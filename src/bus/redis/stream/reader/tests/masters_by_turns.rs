//! Two servers, each with a stream of its own, that are the master by turns.

use proptest::prelude::*;

use super::super::super::range;
use super::super::model::{ModelStep, Stream, StreamServer};
use super::super::rig::{HELD_BYTES_MAX, Log, NOW_MS, reading, serials, take};
use super::super::{RedisStreamReader, StreamReadError};
use crate::kept::KeptEvent;
use weirgate_core::StoredId;

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
