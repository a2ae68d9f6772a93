//! Results of readers.

use super::*;

/// Checks what a reader said about a stream whose payloads are serial numbers below `end`: no message came twice, and
/// none is missing without a report of a loss, except for the `unreadable` ones. The messages from `caught_up_at` on may
/// not be missing even before the first one that came. Returns the newest serial number.
pub(crate) fn check_reports(
    events: &[KeptEvent],
    unreadable: &[u64],
    mut caught_up_at: Option<u64>,
    end: u64,
) -> Option<u64> {
    let assert_unreadable = |mut serials: std::ops::Range<u64>| {
        let lost = serials.find(|serial| !unreadable.contains(serial));
        assert_eq!(lost, None, "before {}", serials.end);
    };
    let (mut next, mut has_caught_up, mut newest) = (None, false, None);
    for events in events {
        match events {
            KeptEvent::Lost | KeptEvent::Hole => (next, newest, caught_up_at) = (None, None, None),
            KeptEvent::CaughtUp => has_caught_up = true,
            KeptEvent::Lag { .. } | KeptEvent::Subjects(_) | KeptEvent::InDoubt(_) => {}
            KeptEvent::Head { id, .. } => newest = Some(*id),
            KeptEvent::Bad { why, .. } => panic!("{why}"),
            KeptEvent::Message {
                id,
                payload,
                is_old,
                ..
            } => {
                let text = String::from_utf8_lossy(payload);
                let serial: u64 = text.parse().expect("a number");
                let first = caught_up_at.map_or(serial, |caught_up_at| caught_up_at.min(serial));
                let from = next.unwrap_or(first);
                assert!(serial >= from, "{serial} came twice");
                assert_unreadable(from..serial);
                assert!(newest.replace(*id) < Some(*id), "{serial} out of order");
                assert_eq!(*is_old, !has_caught_up, "{serial}");
                next = Some(serial + 1);
            }
        }
    }
    assert_unreadable(next.or(caught_up_at).unwrap_or(end)..end);
    next.and_then(|next| next.checked_sub(1))
}

#[test]
fn an_entry_that_is_no_message_is_reported_with_its_id() {
    let settings = StreamSettings {
        name: "ticks".to_owned(),
        history_ms: 60_000,
        history_bytes_max: usize::MAX,
        answer_bytes_max: 64 * 1024 * 1024,
        only: None,
    };
    let now = Now {
        mono_us: 1,
        unix_us: 1,
    };
    let bad = StoredId { major: 5, minor: 7 };
    let why = "no field data";
    let mut feed = StreamFeed::of_redis(settings);
    let event = feed.event(now, KeptEvent::Bad { id: bad, why });
    let Some(BusEvent::Skipped(skipped)) = event else {
        panic!("{event:?}");
    };
    assert_eq!((skipped.id, skipped.why), (Some(bad), why));
}

#[test]
fn what_was_stored_since_the_start_is_for_clients_that_were_taken_meanwhile() {
    let settings = StreamSettings {
        name: "ticks".to_owned(),
        history_ms: 60_000,
        history_bytes_max: usize::MAX,
        answer_bytes_max: 64 * 1024 * 1024,
        only: None,
    };
    let start_ms = 1_700_000_000_000;
    let start = Now {
        mono_us: 1,
        unix_us: 1_700_000_000_000 * 1_000,
    };
    let id = |storage_time, ms: u64| match storage_time {
        StorageTime::MajorMs => (ms, 7),
        StorageTime::MinorNs => (7, ms * 1_000_000),
    };
    for storage_time in [StorageTime::MajorMs, StorageTime::MinorNs] {
        let mut feed = StreamFeed::new(settings.clone(), storage_time);
        feed.connecting(start);
        let now = start.plus_us(9_000_000);
        feed.connecting(now);
        for (stored_ms, is_old, quiet, received_ms) in [
            (start_ms - 1, true, true, start.unix_ms() - 1),
            (start_ms, true, false, start.unix_ms()),
            (start_ms + 9_000, false, false, now.unix_ms()),
        ] {
            let (major, minor) = id(storage_time, stored_ms);
            let events = KeptEvent::Message {
                id: StoredId { major, minor },
                hash: None,
                subject: "a".to_owned(),
                payload: Vec::new(),
                is_deletion: false,
                is_old,
            };
            let Some(BusEvent::Message(message)) = feed.event(now, events) else {
                panic!("no message");
            };
            let got = (message.quiet, message.received.unix_ms());
            assert_eq!(got, (quiet, received_ms), "{storage_time:?} {stored_ms}");
        }
    }
}
