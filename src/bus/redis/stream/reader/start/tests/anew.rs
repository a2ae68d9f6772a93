//! Streams that were made anew, or were away for a time.

use super::super::super::entry_check::PROOF_BYTES_MAX;
use super::super::super::model::{ModelStep, StreamServer};
use super::super::super::rig::{HISTORY_MS, Log, is_old, read, reading, serials};
use crate::kept::KeptEvent;

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
