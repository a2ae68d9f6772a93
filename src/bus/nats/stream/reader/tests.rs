//! The reader against a model of a leader that stores, deletes and loses messages, and of a replica that lags.

use proptest::prelude::*;

use super::super::MS_NS;
use super::acks::{ACK_WAIT, ACKED_SHARE};
use super::*;
use crate::kept::check_reports;

mod answers;
mod model;

use model::{Event, JetStreamServer, NOW_NS};

const HISTORY_MS: u64 = 60_000;

/// A reader on a server, and what the reader said.
struct ReaderRig {
    server: JetStreamServer,
    reader: JetStreamReader,
    now: Instant,
    last_received: Arrivals,
    out: Vec<u8>,
    events: Vec<KeptEvent>,
    /// Serial numbers that nobody can read any more.
    unreadable: Vec<u64>,
    /// The next serial number when the reader first said that it had caught up.
    caught_up_at: Option<u64>,
    /// The next serial number at each loss.
    lost_at: Vec<u64>,
}

impl ReaderRig {
    fn new(before: u8) -> Self {
        Self::of(|server| drop(server.event(&Event::Add(before))))
    }

    fn of(begin: impl FnOnce(&mut JetStreamServer)) -> Self {
        let mut server = JetStreamServer::new();
        begin(&mut server);
        let now = Instant::now();
        let mut bench = Self {
            server,
            reader: JetStreamReader::new("S", HISTORY_MS, usize::MAX),
            now,
            last_received: Arrivals::at(now),
            out: Vec::new(),
            events: Vec::new(),
            unreadable: Vec::new(),
            caught_up_at: None,
            lost_at: Vec::new(),
        };
        bench.connect();
        bench
    }

    fn connect(&mut self) {
        self.server.cut();
        self.out.clear();
        self.reader.connected(self.now, &mut self.out);
    }

    /// Takes so many deliveries.
    fn read(&mut self, count: usize) {
        for _ in 0..count {
            self.server.take(&mut self.out);
            let Some(delivery) = self.server.line.pop_front() else {
                return;
            };
            self.last_received.any_at = self.now;
            let events = self.events.len();
            let taken = self.reader.take(
                delivery,
                self.now,
                self.server.unix_ns(),
                &mut self.out,
                &mut self.events,
            );
            taken.expect("good answers");
            let lost = self.events[events..]
                .iter()
                .filter(|events| **events == KeptEvent::Lost);
            self.lost_at.extend(lost.map(|_| self.server.next_serial));
            if self.events.contains(&KeptEvent::CaughtUp) {
                self.caught_up_at.get_or_insert(self.server.next_serial);
            }
        }
    }

    fn event(&mut self, event: &Event) {
        let lost = self.server.event(event);
        self.unreadable.extend(lost);
        match event {
            Event::Read(count) => self.read((*count).into()),
            Event::Cut | Event::Restore(_) => self.connect(),
            _ => self.server.take(&mut self.out),
        }
    }

    /// Lets some time pass with heartbeats, so that everything is noticed.
    fn settle(&mut self) {
        self.server.holds = false;
        for round in 0..48 {
            if round == 16 {
                self.server.replica = None;
            }
            self.read(1_000);
            self.now += SILENCE_MAX / 3;
            self.server.beat();
            self.read(1_000);
            let ticked = self.tick();
            ticked.expect("answers in time");
            if self.reader.ask_if_due(self.now, &mut self.out) {
                self.reader.ponged();
            }
        }
    }

    fn tick(&mut self) -> Result<(), NatsError> {
        self.reader
            .tick(self.now, self.last_received, &mut self.out)
    }

    /// Checks that no message is missing without a report of a loss, and that no message came twice.
    fn check(&self) {
        let end = self.server.next_serial;
        let mut lost_at = self.lost_at.iter();
        let mut reported_until = 0;
        for (at, events) in self.events.iter().enumerate() {
            let mut next = self.events[at + 1..].iter();
            match (events, next.find(|events| !is_no_message(events))) {
                (KeptEvent::Lost, _) => reported_until = *lost_at.next().expect("noted"),
                (
                    KeptEvent::Hole,
                    Some(KeptEvent::Message {
                        payload,
                        is_old: false,
                        ..
                    }),
                ) => {
                    let serial: u64 = String::from_utf8_lossy(payload).parse().expect("a number");
                    // Clients came after that.
                    let caught_up_at = self.caught_up_at.unwrap_or(0);
                    assert!(
                        serial <= reported_until.max(caught_up_at),
                        "a loss before {serial} that nobody heard of"
                    );
                }
                // No client has heard of a hole among the messages from before the start.
                (KeptEvent::Hole, Some(KeptEvent::Message { is_old: true, .. })) => {}
                (KeptEvent::Hole, behind) => panic!("{behind:?} behind a hole"),
                _ => {}
            }
        }
        let newest = check_reports(&self.events, &self.unreadable, self.caught_up_at, end);
        assert_eq!(newest, Some(end - 1), "the last message came");
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => (1..6_u8).prop_map(Event::Add),
        2 => (1..8_u8).prop_map(Event::Trim),
        1 => (0..6_u8).prop_map(Event::Delete),
        1 => Just(Event::Anew),
        1 => (-5..5_i8).prop_map(Event::Clock),
        2 => (0..4_u8).prop_map(Event::Restore),
        1 => any::<bool>().prop_map(Event::Hold),
        1 => Just(Event::Drop),
        2 => (0..6_u8, any::<bool>()).prop_map(|(behind, is_known)| Event::Lag(behind, is_known)),
        2 => (1..6_u8).prop_map(Event::CatchUp),
        3 => Just(Event::Cut),
        12 => (1..12_u8).prop_map(Event::Read),
    ];
    prop::collection::vec(event, 1..60)
}

/// Events of a stream that loses nothing.
fn lags() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (1..6_u8).prop_map(Event::Add),
        3 => (0..9_u8, any::<bool>()).prop_map(|(behind, is_known)| Event::Lag(behind, is_known)),
        3 => (1..6_u8).prop_map(Event::CatchUp),
        1 => any::<bool>().prop_map(Event::Hold),
        1 => Just(Event::Drop),
        3 => Just(Event::Cut),
        12 => (1..12_u8).prop_map(Event::Read),
    ];
    prop::collection::vec(event, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    /// The replica lacks messages from before and after the window when the process starts.
    #[test]
    fn a_replica_that_lags_costs_time_and_nothing_else(
        old in 0..6_u8,
        before in 1..6_u8,
        (behind, is_known) in (0..12_u8, any::<bool>()),
        events in lags(),
    ) {
        let mut bench = ReaderRig::of(|server| {
            server.event(&Event::Add(old));
            server.time_ns += 2 * HISTORY_MS * MS_NS;
            server.event(&Event::Add(before));
            server.event(&Event::Lag(behind, is_known));
        });
        for event in &events {
            bench.event(event);
        }
        bench.settle();
        bench.event(&Event::Add(1));
        bench.settle();
        let serials = bench.events.iter().filter_map(|events| match events {
            KeptEvent::Message { payload, .. } => Some(String::from_utf8_lossy(payload).into_owned()),
            _ => None,
        });
        let all = u64::from(old)..bench.server.next_serial;
        prop_assert_eq!(serials.collect::<Vec<_>>(), all.map(|n| n.to_string()).collect::<Vec<_>>());
        prop_assert!(!bench.events.contains(&KeptEvent::Lost) && !bench.events.contains(&KeptEvent::Hole));
        let until = bench.events.iter().position(|event| *event == KeptEvent::CaughtUp).expect("it caught up");
        let read = bench.events[..until].iter().filter(|events| matches!(events, KeptEvent::Message { .. }));
        prop_assert!(read.count() >= before.into(), "ready without the newest message");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn nothing_is_lost_unsaid_and_nothing_comes_twice(
        before in 0..20_u8,
        is_in_memory in any::<bool>(),
        events in events(),
    ) {
        let mut bench = ReaderRig::of(|server| {
            server.is_in_memory = is_in_memory;
            server.event(&Event::Add(before));
        });
        for event in &events {
            bench.event(event);
        }
        bench.settle();
        assert!(bench.reader.is_caught_up(), "whatever was deleted on its way");
        // A message shows what is missing before.
        bench.event(&Event::Add(1));
        bench.settle();
        bench.check();
    }
}

/// Whether this says nothing of messages.
fn is_no_message(events: &KeptEvent) -> bool {
    matches!(
        events,
        KeptEvent::CaughtUp | KeptEvent::Lag { .. } | KeptEvent::InDoubt(_)
    )
}

/// Without [`KeptEvent::Lag`].
fn names(events: &[KeptEvent]) -> Vec<&'static str> {
    let events = events
        .iter()
        .filter(|events| !matches!(events, KeptEvent::Lag { .. }));
    let name = |events: &KeptEvent| match events {
        KeptEvent::Message { is_old: true, .. } => "old",
        KeptEvent::Message { .. } => "message",
        KeptEvent::Bad { .. } => "bad",
        KeptEvent::Lost => "lost",
        KeptEvent::Hole => "hole",
        KeptEvent::Head { .. } => "head",
        KeptEvent::CaughtUp => "caught up",
        KeptEvent::Lag { .. } => "behind",
        KeptEvent::Subjects(_) => "subjects",
        KeptEvent::InDoubt(true) => "doubt",
        KeptEvent::InDoubt(false) => "no doubt",
    };
    events.map(name).collect()
}

#[test]
fn how_far_it_is_behind_is_known_while_it_reads_and_when_the_stream_stands_still() {
    let mut bench = ReaderRig::new(3);
    let behind = |bench: &mut ReaderRig| {
        let events = std::mem::take(&mut bench.events);
        let behind = events.iter().filter_map(|events| match events {
            KeptEvent::Lag { messages, ms } => Some((messages.expect("a number"), *ms)),
            _ => None,
        });
        behind.collect::<Vec<_>>()
    };
    bench.server.time_ns += 2_000 * MS_NS;
    bench.event(&Event::Add(1));
    bench.read(100);
    assert_eq!(
        behind(&mut bench),
        [(3, 2_000), (2, 2_000), (1, 2_000), (0, 0)]
    );
    bench.event(&Event::Add(1));
    bench.read(100);
    assert_eq!(behind(&mut bench), [], "read to its end, as before");
    // The server stores messages, and delivers none.
    bench.event(&Event::Hold(true));
    bench.server.time_ns += 7_000 * MS_NS;
    bench.event(&Event::Add(2));
    bench.now += Duration::from_secs(3);
    bench.last_received.any_at = bench.now;
    assert!(bench.reader.ask_if_due(bench.now, &mut bench.out));
    bench.read(1);
    assert_eq!(behind(&mut bench), [(2, 7_000)]);
    // As old as the time for which it was seen to wait, whatever the times of storage say.
    bench.now += Duration::from_secs(9);
    assert!(bench.reader.ask_if_due(bench.now, &mut bench.out));
    bench.read(1);
    assert_eq!(behind(&mut bench), [(2, 9_000)]);
}

/// While NATS is away, the distance is forgotten.
#[test]
fn that_nothing_is_left_is_said_again_on_each_connection() {
    let mut bench = ReaderRig::new(3);
    for _ in 0..2 {
        bench.settle();
        let events = std::mem::take(&mut bench.events);
        let at_the_end = KeptEvent::Lag {
            messages: Some(0),
            ms: 0,
        };
        assert!(events.contains(&at_the_end), "{events:?}");
        bench.connect();
    }
}

#[test]
fn an_empty_stream_is_not_behind() {
    let mut bench = ReaderRig::new(0);
    bench.read(100);
    bench.event(&Event::Add(3));
    bench.read(100);
    let late = |events: &&KeptEvent| matches!(events, KeptEvent::Lag { ms: 1.., .. });
    assert_eq!(bench.events.iter().find(late), None);
}

#[test]
fn a_consumer_that_stands_still_is_replaced() {
    let mut bench = ReaderRig::new(1);
    bench.read(100);
    bench.event(&Event::Hold(true));
    bench.event(&Event::Add(1));
    let mut seconds = 0;
    while !matches!(bench.reader.step, ReaderStep::Pause { .. }) {
        bench.now += Duration::from_millis(500);
        (bench.last_received.any_at, seconds) = (bench.now, seconds + 1);
        bench.server.beat();
        if bench.reader.ask_if_due(bench.now, &mut bench.out) {
            bench.reader.ponged();
        }
        bench.read(100);
        bench.tick().expect("no fault");
        assert!(seconds < 4, "{:?}", bench.reader.step);
    }
    bench.settle();
    assert_eq!(names(&bench.events), ["old", "caught up", "message"]);
}

#[test]
fn what_was_deleted_before_it_was_read_is_told_without_another_message() {
    for (stored, left) in [(5, 0), (5, 2)] {
        let mut bench = ReaderRig::new(1);
        bench.read(100);
        bench.event(&Event::Hold(true));
        bench.event(&Event::Add(stored));
        bench.event(&Event::Trim(stored + 1 - left));
        let mut waits = 0;
        while !bench.events.contains(&KeptEvent::Lost) {
            bench.now += Duration::from_millis(500);
            (bench.last_received.any_at, waits) = (bench.now, waits + 1);
            bench.server.beat();
            let _ = bench.reader.ask_if_due(bench.now, &mut bench.out);
            bench.read(100);
            assert!(waits < 4, "within two seconds");
        }
        bench.settle();
        let want: &[&str] = match left {
            0 => &["old", "caught up", "lost", "head"],
            _ => &["old", "caught up", "lost", "message", "message"],
        };
        assert_eq!(names(&bench.events), want);
    }
}

/// As in a bucket of keys and values.
#[test]
fn a_message_that_a_newer_one_replaces_is_a_hole_and_no_loss() {
    let mut bench = ReaderRig::of(|server| {
        server.overwrites = true;
        server.event(&Event::Add(2));
    });
    bench.read(100);
    bench.events.clear();
    bench.event(&Event::Hold(true));
    bench.event(&Event::Add(3));
    bench.event(&Event::Delete(2));
    bench.event(&Event::Hold(false));
    bench.read(100);
    bench.event(&Event::Add(2));
    bench.event(&Event::Trim(5));
    bench.connect();
    bench.settle();
    let want = ["hole", "message", "message", "caught up", "hole", "message"];
    assert_eq!(names(&bench.events), want);
}

/// The leader still has messages with numbers above the last one that was read, but newer messages have replaced that.
#[test]
fn a_bucket_without_its_newest_messages_is_found_out_by_their_times() {
    for (publishers, want) in [
        // As far as before: the number of the last message is another one's.
        (10, &["lost", "message", "hole", "message", "caught up"][..]),
        // Farther.
        (30, &["lost", "message", "hole", "message", "caught up"]),
        // Only one message that is not as new as the last one of before by its number.
        (1, &["lost", "message", "caught up"]),
    ] {
        let mut bench = ReaderRig::of(|server| {
            server.overwrites = true;
            server.event(&Event::Add(10));
        });
        bench.event(&Event::Read(100));
        bench.event(&Event::Add(10));
        bench.event(&Event::Read(100));
        bench.events.clear();
        bench.server.cut();
        bench.server.event(&Event::Restore(10));
        bench.server.event(&Event::Add(publishers));
        // The messages of the backup, and all but the first and the last of the new ones were replaced.
        bench.server.event(&Event::Trim(10));
        (2..publishers).for_each(|_| drop(bench.server.event(&Event::Delete(1))));
        bench.connect();
        bench.settle();
        let mut said = names(&bench.events);
        said.sort_by_key(|name| *name == "caught up");
        assert_eq!(said, want, "{publishers}");
    }
}

/// The servers of a stream have different clocks, and another one leads now.
#[test]
fn a_bucket_whose_clock_went_back_is_the_same() {
    for (is_replaced, after) in [(false, 0), (false, 2), (true, 2)] {
        for is_read_before in [false, true] {
            let mut bench = ReaderRig::of(|server| {
                server.overwrites = true;
                server.event(&Event::Add(3));
            });
            bench.event(&Event::Read(100));
            bench.server.time_ns -= 1_500;
            if is_read_before {
                bench.event(&Event::Add(1));
                bench.event(&Event::Read(100));
            }
            bench.events.clear();
            bench.server.cut();
            bench.server.event(&Event::Add(after));
            if is_replaced {
                bench
                    .server
                    .event(&Event::Delete(2 + u8::from(is_read_before)));
            }
            bench.connect();
            bench.settle();
            let messages = names(&bench.events);
            let messages = messages.iter().filter(|name| **name == "message").count();
            // A last message from before the change that was replaced cannot be told from another epoch.
            // Then clients hear of a loss, and some messages come twice.
            let is_doubtful = is_replaced && is_read_before;
            let is_lost = bench.events.contains(&KeptEvent::Lost);
            assert!(!is_lost || is_doubtful, "{:?}", bench.events);
            assert!(is_lost || messages == usize::from(after), "{messages}");
            assert!(messages >= usize::from(after), "{messages}");
        }
    }
}

/// nats-server 2.9.10 crashes if a consumer of a stream in memory begins at a time, and messages within the stream are gone.
#[test]
fn of_a_stream_in_memory_with_holes_the_start_is_found_by_numbers() {
    for is_made_anew in [false, true] {
        let mut bench = ReaderRig::of(|server| {
            server.is_in_memory = true;
            server.event(&Event::Add(5));
            server.event(&Event::Delete(2));
            server.time_ns += 2 * HISTORY_MS * MS_NS;
            server.event(&Event::Add(2));
        });
        if is_made_anew {
            // From a backup, whose messages are all older than what is read.
            bench.event(&Event::Read(1));
            bench.event(&Event::Anew);
            bench.server.time_ns -= 4 * HISTORY_MS * MS_NS;
            bench.event(&Event::Add(3));
            bench.event(&Event::Delete(1));
            bench.server.time_ns += 4 * HISTORY_MS * MS_NS;
        }
        bench.settle();
        bench.event(&Event::Add(1));
        bench.settle();
        let want: &[&str] = match is_made_anew {
            false => &["old", "old", "caught up", "message"],
            true => &["head", "caught up", "message"],
        };
        assert_eq!(names(&bench.events), want);
    }
}

#[test]
fn a_message_that_was_deleted_among_old_ones_is_no_loss() {
    let mut bench = ReaderRig::of(|server| {
        server.event(&Event::Add(5));
        server.event(&Event::Delete(2));
    });
    bench.settle();
    bench.event(&Event::Add(1));
    bench.settle();
    let want = ["old", "old", "hole", "old", "old", "caught up", "message"];
    assert_eq!(names(&bench.events), want);
    bench.check();
}

/// A user may not ask for messages: what the leader says of the whole stream counts.
#[test]
fn a_loss_is_told_to_a_user_that_may_not_ask_for_messages() {
    let mut bench = ReaderRig::new(3);
    bench.read(100);
    bench.events.clear();
    bench.event(&Event::Restore(2));
    bench.event(&Event::Add(4));
    bench.connect();
    bench.read(4);
    assert!(matches!(bench.reader.step, ReaderStep::Verify { .. }));
    bench.out.clear();
    bench.reader.handle_leader_answer(
        LeaderAnswer::Unknown,
        bench.now,
        &mut bench.out,
        &mut bench.events,
    );
    bench.settle();
    let want = [
        "lost",
        "caught up",
        "message",
        "message",
        "message",
        "message",
    ];
    assert_eq!(names(&bench.events), want);
}

#[test]
fn old_messages_come_before_it_stands_and_a_cut_loses_nothing() {
    let mut bench = ReaderRig::new(2);
    bench.read(100);
    bench.event(&Event::Add(1));
    bench.read(100);
    bench.connect();
    bench.event(&Event::Add(1));
    bench.read(100);
    let want = ["old", "old", "caught up", "message", "caught up", "message"];
    assert_eq!(names(&bench.events), want);
}

#[test]
fn messages_deleted_before_their_delivery_are_not_waited_for() {
    let mut bench = ReaderRig::new(3);
    bench.event(&Event::Hold(true));
    bench.read(100);
    bench.event(&Event::Trim(3));
    bench.settle();
    assert_eq!(names(&bench.events), ["head", "caught up"]);
}

#[test]
fn old_messages_deleted_during_a_cut_are_not_waited_for() {
    // The messages are deleted before the next connection has read an answer, or after this number of answers.
    for answers in 0..3 {
        let mut bench = ReaderRig::new(3);
        // Three answers and a message.
        bench.read(4);
        bench.event(&Event::Cut);
        bench.read(answers);
        bench.event(&Event::Delete(2));
        bench.event(&Event::Delete(1));
        bench.read(100);
        assert_eq!(names(&bench.events), ["old", "caught up"], "{answers}");
    }
}

#[test]
fn an_empty_stream_stands_at_its_head() {
    let mut bench = ReaderRig::new(0);
    bench.read(100);
    assert_eq!(names(&bench.events), ["caught up"]);
    let mut bench = ReaderRig::new(3);
    bench.server.event(&Event::Trim(3));
    bench.read(100);
    bench.connect();
    bench.read(100);
    assert_eq!(names(&bench.events), ["head", "caught up", "caught up"]);
    let (id, hash) = (bench.server.last, None);
    assert_eq!(bench.events[0], KeptEvent::Head { id, hash });
}

#[test]
fn what_came_and_went_while_the_stream_was_empty_is_a_loss() {
    for (before, gone, left, want) in [
        (0, 2, 0, &["lost", "head", "caught up"][..]),
        (3, 2, 1, &["caught up", "lost", "message"]),
        (0, 0, 1, &["caught up", "message"]),
        (3, 0, 1, &["caught up", "message"]),
    ] {
        let mut bench = ReaderRig::new(before);
        bench.server.event(&Event::Trim(before));
        bench.read(100);
        bench.events.clear();
        bench.server.event(&Event::Add(gone));
        bench.server.event(&Event::Trim(gone));
        bench.server.event(&Event::Add(left));
        bench.connect();
        bench.read(100);
        assert_eq!(names(&bench.events), want, "{before} {gone} {left}");
    }
}

#[test]
fn what_was_made_anew_or_restored_is_a_loss() {
    for event in [Event::Anew, Event::Restore(1), Event::Restore(2)] {
        let mut bench = ReaderRig::new(2);
        bench.read(100);
        bench.events.clear();
        bench.event(&event);
        bench.connect();
        bench.read(100);
        assert_eq!(names(&bench.events)[0], "lost", "{event:?}");
        assert_eq!(names(&bench.events).last(), Some(&"caught up"), "{event:?}");
    }
}

/// As after a failover to a server whose clock is behind, or once a clock that was ahead is right again.
#[test]
fn what_comes_after_a_loss_is_read_though_its_time_is_earlier() {
    for (is_made_before, losses, want) in [
        (
            true,
            &[Event::Anew][..],
            &["lost", "caught up", "message"][..],
        ),
        // By the time of its making, it may be a backup.
        (false, &[Event::Anew], &["lost", "head", "caught up"]),
        (true, &[Event::Restore(2)], &["lost", "head", "caught up"]),
        // Another message has the number of the last one that was read.
        (true, &[Event::Restore(1)], &["lost", "head", "caught up"]),
        // One was deleted before it was read.
        (
            true,
            &[Event::Add(1), Event::Trim(9)],
            &["lost", "head", "caught up"],
        ),
    ] {
        let mut bench = ReaderRig::of(|server| {
            server.event(&Event::Clock(100));
            server.event(if is_made_before {
                &Event::Add(0)
            } else {
                &Event::Anew
            });
            server.event(&Event::Add(3));
        });
        bench.settle();
        bench.events.clear();
        bench.server.cut();
        bench.server.event(&Event::Clock(-100));
        losses
            .iter()
            .for_each(|event| drop(bench.server.event(event)));
        bench.server.add();
        bench.connect();
        bench.settle();
        assert_eq!(names(&bench.events), want, "{losses:?}");
        bench.events.clear();
        bench.event(&Event::Add(3));
        bench.settle();
        assert_eq!(names(&bench.events), ["message"; 3], "{losses:?}");
    }
}

/// The clock of this machine is ahead of the server's.
#[test]
fn what_comes_after_the_start_is_read_whatever_its_time() {
    for (before, want) in [
        (0, &["caught up", "message", "message"][..]),
        (3, &["old", "old", "old", "caught up", "message", "message"]),
    ] {
        let mut bench = ReaderRig::new(before);
        bench.server.event(&Event::Clock(-100));
        // Between the look and the consumer.
        bench.read(1);
        bench.server.add();
        bench.settle();
        bench.event(&Event::Add(1));
        bench.settle();
        assert_eq!(names(&bench.events), want);
    }
}

#[test]
fn a_lost_delivery_and_a_consumer_without_heartbeats_are_replaced() {
    let mut bench = ReaderRig::new(1);
    bench.read(100);
    bench.event(&Event::Add(1));
    bench.event(&Event::Drop);
    bench.server.beat();
    bench.read(100);
    // Each look at the stream makes another consumer, so the reader pauses before it looks.
    assert_eq!(
        bench.reader.due(bench.last_received),
        Some(bench.now + ANOTHER_PAUSE)
    );
    bench.now += ANOTHER_PAUSE;
    bench.tick().expect("no fault");
    bench.read(100);
    bench.server.consumers.clear();
    bench.event(&Event::Add(1));
    bench.now += SILENCE_MAX;
    bench.tick().expect("no fault");
    bench.read(100);
    assert_eq!(
        names(&bench.events),
        ["old", "caught up", "message", "message"]
    );
}

#[test]
fn messages_are_acknowledged_many_at_a_time() {
    let mut bench = ReaderRig::new(0);
    bench.read(100);
    let acks = |out: &[u8]| String::from_utf8_lossy(out).matches("$JS.ACK.").count();
    for _ in 0..bench.reader.limits.pending_max / ACKED_SHARE / 2 {
        bench.server.add();
    }
    bench.server.take(&mut bench.out);
    while let Some(delivery) = bench.server.line.pop_front() {
        let (now, unix_ns) = (bench.now, NOW_NS);
        let taken = bench
            .reader
            .take(delivery, now, unix_ns, &mut bench.out, &mut bench.events);
        taken.expect("good messages");
    }
    assert_eq!(acks(&bench.out), 0);
    assert_eq!(bench.reader.work_due(), Some(bench.now + ACK_WAIT));
    bench.now += ACK_WAIT;
    bench.tick().expect("no fault");
    assert_eq!(acks(&bench.out), 1);
}

#[test]
fn a_refusal_and_a_silence_end_the_connection() {
    let mut bench = ReaderRig::new(0);
    bench.now += ANSWER_TIMEOUT;
    let silent = bench.tick();
    assert!(silent.is_err_and(|error| error.to_string().contains("no answer")));
    let answer = |payload: &[u8], status| Delivery {
        subject: ".1".into(),
        sid: ANSWERS_SID,
        payload: payload.to_vec(),
        status,
        ..Delivery::default()
    };
    let missing = br#"{"error":{"description":"stream not found"}}"#;
    for (delivery, words) in [
        (answer(missing, None), "stream not found"),
        (answer(b"", Some(503)), "nobody answers"),
    ] {
        let mut bench = ReaderRig::new(0);
        let (now, unix_ns) = (bench.now, NOW_NS);
        let taken = bench
            .reader
            .take(delivery, now, unix_ns, &mut bench.out, &mut bench.events);
        assert!(taken.is_err_and(|error| error.to_string().contains(words)));
    }
}

#[test]
fn all_holes_of_a_backlog_are_one_loss() {
    let mut bench = ReaderRig::new(2);
    bench.read(100);
    bench.events.clear();
    bench.event(&Event::Hold(true));
    bench.event(&Event::Add(9));
    for at in [3, 5, 6] {
        bench.event(&Event::Delete(at));
    }
    bench.event(&Event::Hold(false));
    bench.connect();
    bench.read(100);
    let mut events = names(&bench.events);
    events.retain(|event| *event != "message");
    assert_eq!(events, ["caught up", "lost", "hole", "hole"]);
    // What is lost later is news again.
    bench.event(&Event::Hold(true));
    bench.event(&Event::Add(2));
    bench.event(&Event::Delete(8));
    bench.event(&Event::Hold(false));
    bench.read(100);
    let events = names(&bench.events);
    assert!(events.ends_with(&["lost", "message"]), "{events:?}");
}

#[test]
fn a_large_message_over_a_slow_link_is_no_silence() {
    let mut bench = ReaderRig::new(1);
    // The answer comes after the message.
    for is_made in [false, true] {
        for _ in 0..40 {
            bench.now += SILENCE_MAX / 2;
            bench.last_received = Arrivals::at(bench.now);
            bench.tick().expect("bytes come");
        }
        assert_eq!(bench.reader.last_request, if is_made { 3 } else { 1 });
        bench.read(100);
    }
    bench.now += SILENCE_MAX;
    bench.tick().expect("another consumer");
    assert_eq!(bench.reader.last_request, 4, "no byte for too long");
}

/// If the stream is made anew after the look of a reconnection, only its creation time shows that.
#[test]
fn a_stream_made_anew_between_the_look_and_the_consumer_is_a_loss() {
    for (before, gone) in [(0, 0), (0, 1), (3, 0), (3, 2)] {
        let mut bench = ReaderRig::new(before);
        bench.event(&Event::Trim(gone + before));
        bench.settle();
        bench.events.clear();
        bench.connect();
        bench.server.take(&mut bench.out);
        bench.server.add();
        bench.event(&Event::Anew);
        (0..=before).for_each(|_| bench.server.add());
        bench.event(&Event::Trim(before));
        bench.settle();
        assert_eq!(names(&bench.events), ["lost", "caught up", "message"]);
    }
}

/// A server comes back without its newest messages, and new messages get their numbers.
#[test]
fn the_newest_message_that_was_replaced_is_a_loss_though_it_was_the_newest_at_a_look() {
    let mut bench = ReaderRig::new(3);
    bench.settle();
    bench.connect();
    bench.event(&Event::Read(1));
    bench.event(&Event::Restore(1));
    bench.event(&Event::Add(2));
    bench.event(&Event::Trim(3));
    bench.settle();
    assert!(
        bench.events.contains(&KeptEvent::Lost),
        "{:?}",
        bench.events
    );
}

/// nats-server 2.9.10 forgets over a restart when it was stored.
#[test]
fn the_newest_message_that_was_deleted_after_it_was_read_or_before_the_start_is_no_loss() {
    for is_read in [true, false] {
        let mut bench = ReaderRig::new(3);
        if is_read {
            bench.settle();
        }
        bench.event(&Event::Delete(2));
        bench.settle();
        bench.server.forgets_time = true;
        bench.event(&Event::Cut);
        bench.settle();
        bench.event(&Event::Add(1));
        bench.settle();
        let want: &[&str] = match is_read {
            true => &["old", "old", "old", "caught up", "caught up", "message"],
            false => &["old", "old", "caught up", "caught up", "hole", "message"],
        };
        assert_eq!(names(&bench.events), want);
    }
}

/// A mirror has the numbers of its origin, and those of subjects that it does not copy are missing.
#[test]
fn what_a_mirror_leaves_out_is_no_loss() {
    let reads = |denies| {
        let mut bench = ReaderRig::of(|server| {
            server.mirror = Some(denies);
            server.event(&Event::Add(3));
            server.leave_out();
        });
        bench.settle();
        for _ in 0..3 {
            bench.server.leave_out();
            bench.event(&Event::Add(1));
            bench.read(1_000);
        }
        let (asked, made) = (bench.server.messages_asked, bench.reader.last_sid);
        (0..9).for_each(|_| bench.server.leave_out());
        bench.settle();
        assert_eq!(asked, bench.server.messages_asked, "nothing is unread");
        assert_eq!(made, bench.reader.last_sid, "the same consumer");
        bench.event(&Event::Add(1));
        bench.settle();
        let reads = names(&bench.events);
        let read = reads.iter().filter(|name| **name == "message");
        assert_eq!(
            (read.count(), reads.contains(&"lost")),
            (4, false),
            "{reads:?}"
        );
        // The number before the first one is from before the start: it may have had a message.
        let holes = reads.iter().filter(|name| **name == "hole");
        assert_eq!(holes.count(), usize::from(!denies), "{reads:?}");
        bench
    };
    // What comes and goes while nobody reads leaves no trace, unless that cannot be.
    for denies in [false, true] {
        for is_deleted in [false, true] {
            let mut bench = reads(denies);
            bench.event(&Event::Hold(true));
            bench.event(&Event::Add(1));
            match is_deleted && !denies {
                true => bench.event(&Event::Delete(7)),
                false => bench.server.leave_out(),
            }
            bench.event(&Event::Add(1));
            bench.event(&Event::Cut);
            bench.settle();
            assert_eq!(bench.events.contains(&KeptEvent::Lost), !denies);
        }
    }
}

/// What the limits of a mirror remove while the reader is behind looks like numbers that the mirror leaves out.
#[test]
fn what_a_mirror_removes_before_it_is_read_is_a_loss() {
    let limits = [
        r#","max_msgs":8"#,
        r#","max_bytes":4000"#,
        r#","max_age":1000000000"#,
    ];
    for limits in limits {
        for (denies, is_behind) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut bench = ReaderRig::of(|server| {
                server.mirror = Some(denies);
                server.limits = limits;
                server.event(&Event::Add(8));
            });
            bench.settle();
            bench.event(&Event::Hold(is_behind));
            for _ in 0..12 {
                bench.server.leave_out();
                bench.event(&Event::Add(1));
                if !is_behind {
                    bench.read(1_000);
                    bench.now += DOUBT_PAUSE;
                    bench.reader.ask_if_due(bench.now, &mut bench.out);
                    bench.read(1_000);
                }
                bench.event(&Event::Trim(1));
            }
            bench.event(&Event::Hold(false));
            bench.settle();
            let is_told = bench.events.contains(&KeptEvent::Lost);
            assert_eq!(is_told, is_behind, "{limits} {:?}", bench.events);
            // No client can resume between the message behind the hole and the report.
            let names = names(&bench.events);
            if let Some(lost) = names.iter().position(|name| *name == "lost") {
                let doubt = names.iter().position(|name| *name == "doubt");
                let doubt = doubt.expect("a doubt");
                assert_eq!(names[doubt + 1], "message");
                assert!(
                    doubt < lost && names[lost..].contains(&"no doubt"),
                    "{names:?}"
                );
                assert!(!names[doubt..lost].contains(&"no doubt"), "{names:?}");
            }
        }
    }
}

/// The newest message came at once, and nothing waited behind it then. What comes later waits if the server has stopped: at its
/// limit of messages without acknowledgement, or for a response to its flow control.
#[test]
fn what_a_mirror_removes_while_its_server_has_stopped_is_a_loss() {
    for (read, control, is_told) in [
        (2_047, "", false),
        (2_048, "", true),
        (2_049, "", false),
        (2_048 + 512, "", true),
        (5, "flow", true),
    ] {
        let mut bench = ReaderRig::of(|server| server.mirror = Some(false));
        bench.settle();
        for _ in 0..read {
            bench.event(&Event::Add(1));
            bench.read(1);
        }
        if control == "flow" {
            bench.server.line.push_back(Delivery {
                sid: bench.reader.last_sid,
                status: Some(100),
                reply: Some("$JS.ACK.FC".to_owned()),
                ..Delivery::default()
            });
            bench.read(1);
        }
        bench.event(&Event::Hold(true));
        bench.event(&Event::Add(9));
        (0..12).for_each(|_| bench.event(&Event::Trim(u8::MAX)));
        bench.event(&Event::Hold(false));
        bench.event(&Event::Add(1));
        bench.settle();
        let is_lost = bench.events.contains(&KeptEvent::Lost);
        assert_eq!(is_lost, is_told, "{read} {control}");
    }
}

/// Under load, a message often waits behind the last one, and there is one doubt after the other. Each answer is reported, so that
/// clients learn about what came before their requests.
#[test]
fn a_purge_that_is_only_possible_is_a_doubt_until_an_answer() {
    let mut bench = ReaderRig::of(|server| {
        server.mirror = Some(false);
        server.event(&Event::Add(3));
    });
    bench.settle();
    bench.event(&Event::Hold(true));
    for _ in 0..4 {
        bench.server.leave_out();
        bench.event(&Event::Add(1));
    }
    bench.event(&Event::Hold(false));
    bench.read(1_000);
    assert!(bench.reader.progress.is_in_doubt());
    let words = |bench: &ReaderRig| {
        let names = names(&bench.events).into_iter();
        names
            .filter(|name| ["doubt", "no doubt", "lost"].contains(name))
            .collect::<Vec<_>>()
    };
    assert_eq!(words(&bench), ["doubt"]);
    // Others come between a question and its answer.
    bench.now += DOUBT_PAUSE;
    bench.reader.ask_if_due(bench.now, &mut bench.out);
    for _ in 0..2 {
        bench.server.leave_out();
        bench.server.event(&Event::Add(1));
    }
    bench.settle();
    let words = words(&bench);
    assert!(words.starts_with(&["doubt"]) && words.ends_with(&["no doubt"]));
    assert!(!words.contains(&"lost"), "{words:?}");
}

/// Publishers are quiet for longer than the stream keeps messages, and the connection ends.
#[test]
fn what_was_trimmed_after_it_was_read_is_no_loss() {
    let mut bench = ReaderRig::new(3);
    bench.settle();
    for is_lost in [false, true] {
        bench.event(&Event::Trim(9));
        if is_lost {
            bench.server.add();
            bench.event(&Event::Trim(9));
        }
        bench.event(&Event::Cut);
        bench.event(&Event::Read(9));
        bench.event(&Event::Add(1));
        bench.settle();
        assert_eq!(
            bench.events.contains(&KeptEvent::Lost),
            is_lost,
            "{:?}",
            bench.events
        );
        bench.check();
    }
}
