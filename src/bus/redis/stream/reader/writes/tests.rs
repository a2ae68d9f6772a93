//! Servers that lack entries which were read from another one.

use super::super::model::{ModelStep, StreamServer};
use super::super::rig::{Log, is_old, read, read_all, reading};
use super::WRITES_ASKED_MS;
use crate::kept::KeptEvent;

/// The server has only some of the entries that were read: a replica that gets the others later, one that is cut off from
/// its master, and a new master that never had them.
#[test]
fn another_server_that_lacks_entries_is_left_before_its_stream_counts_as_another_one() {
    let (mut server, mut reader) = read_all(true, 5);
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
    let hash = server.newest().map(|newest| newest.hash);
    let (id, lost) = (server.last, KeptEvent::Lost);
    let head = KeptEvent::Head { id, hash };
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
