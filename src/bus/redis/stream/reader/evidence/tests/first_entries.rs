//! What is a loss and what is none before an entry was read: the reader has seen the stream empty.

use super::super::super::model::{ModelStep, StreamServer};
use super::super::super::rig::{read, reading, seen_empty, serials};
use crate::kept::KeptEvent;

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
