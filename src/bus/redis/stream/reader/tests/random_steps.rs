//! Random steps of a server: nothing is lost unsaid, and nothing comes twice.

use proptest::prelude::*;

use super::super::super::range;
use super::super::model::{ModelStep, StreamServer};
use super::super::rig::{HELD_BYTES_MAX, Log, reading, serials};
use crate::kept::check_reports;

pub(super) fn steps() -> impl Strategy<Value = Vec<ModelStep>> {
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
