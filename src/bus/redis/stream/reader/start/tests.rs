//! What is read, and what is passed over, at first and in another stream.

mod anew;

use std::collections::{HashSet, VecDeque};

use super::super::model::{ModelStep, StreamServer};
use super::super::rig::{Log, read, read_all, reading, serials};
use crate::kept::KeptEvent;
use weirgate_core::StoredId;

#[test]
fn a_clock_that_is_behind_hides_no_old_entry() {
    let mut server = StreamServer::new();
    server.last.major -= 3_600_000;
    server.step(&ModelStep::Add(1));
    let mut reader = reading(1_000);
    assert_eq!(read(&mut reader, &mut server).len(), 2);
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

/// A server takes over without the last two entries, and its clock is behind. With one new entry, its newest id is lower when
/// the reader is back; with four, its ids have passed those that it lacks.
#[test]
fn entries_with_lower_ids_come_after_a_failover_and_those_before_come_not_again() {
    for (added, serials_expected) in [(1, &[5][..]), (4, &[5, 6, 7, 8])] {
        let (mut server, mut reader) = read_all(true, 5);
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
        let (mut server, mut reader) = read_all(true, 10);
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
    let hash = server.newest().map(|newest| newest.hash);
    let id = server.last;
    let head = KeptEvent::Head { id, hash };
    assert_eq!(events, [KeptEvent::Lost, head, KeptEvent::CaughtUp]);
}
