//! What is a loss and what is none after an entry was read.

mod first_entries;

use super::super::model::{ModelStep, StreamServer};
use super::super::rig::{HELD_BYTES_MAX, Log, NOW_MS, is_old, read, read_all, reading, serials};
use crate::kept::KeptEvent;

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
    let (mut server, mut reader) = read_all(true, 5);
    server.step(&ModelStep::Delete(0));
    assert_eq!(read(&mut reader, &mut server), []);
    server.step(&ModelStep::Add(3));
    server.step(&ModelStep::Trim(5));
    assert!(read(&mut reader, &mut server).contains(&KeptEvent::Lost));
}

#[test]
fn a_stream_made_anew_proves_nothing_though_it_is_empty_and_had_as_many_entries() {
    let (mut server, mut reader) = read_all(true, 6);
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

/// In one answer the new stream has had fewer entries than the old one; in the next it has the counters of the old one.
#[test]
fn counters_that_went_back_once_prove_nothing_later() {
    let (mut server, mut reader) = read_all(true, 20);
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
    let (mut server, mut reader) = read_all(true, 5);
    // The new master lacks two entries that were read, and has trimmed two that were not.
    server.step(&ModelStep::FailOver(2, false));
    server.step(&ModelStep::Add(3));
    server.step(&ModelStep::Trim(5));
    reader.connected();
    assert!(read(&mut reader, &mut server).contains(&KeptEvent::Lost));
}

/// The counters of the two data sets agree, though entries are gone that were not read.
#[test]
fn the_counters_of_another_data_set_prove_nothing() {
    let (mut server, mut reader) = read_all(true, 5);
    server.step(&ModelStep::AnotherDataSet(2, 0));
    server.step(&ModelStep::Add(3));
    server.step(&ModelStep::Trim(5));
    reader.connected();
    assert!(read(&mut reader, &mut server).contains(&KeptEvent::Lost));
}
