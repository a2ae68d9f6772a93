//! Toy buses whose connections end, and readers that are late.

use crossbeam_channel::{Receiver, bounded};
use std::collections::VecDeque;

use super::*;
use crate::base::Clock;

/// A bus whose connections end as the list says.
struct Toy<const LOSES: bool> {
    connections: VecDeque<Connection>,
    status: Arc<BusStatus>,
}

fn toy<const LOSES: bool>(connections: &[Connection]) -> Toy<LOSES> {
    Toy {
        connections: connections.iter().copied().collect(),
        status: Arc::new(BusStatus::new(&[], 1)),
    }
}

#[derive(Clone, Copy)]
enum Connection {
    Refused,
    /// Made, and then lost.
    Lost,
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("refused")]
    Refused,
    #[error("lost")]
    Lost,
}

impl<const LOSES: bool> Bus for Toy<LOSES> {
    type Error = Trouble;
    const NAME: &'static str = "the toy bus";
    const OUTAGE_LOSES_MESSAGES: bool = LOSES;

    fn shared(&self) -> (&Arc<BusStatus>, &LinkTimes) {
        let times = &LinkTimes {
            reconnect_delay_min_ms: 1,
            reconnect_delay_max_ms: 1,
            ping_interval_ms: 0,
            ping_timeout_ms: 0,
            silence_max_ms: 0,
        };
        (&self.status, times)
    }

    fn connect_and_relay(&mut self, relay: &mut Relay<Trouble>) -> Stop<Trouble> {
        match self.connections.pop_front() {
            None => Stop::LoopGone,
            Some(Connection::Refused) => Stop::Bus(Trouble::Refused),
            Some(Connection::Lost) => match relay.report_up() {
                Ok(_) => Stop::Bus(Trouble::Lost),
                Err(gone) => gone.into(),
            },
        }
    }
}

/// Both ends of the channel to the loop, with room for so many events.
fn link(room: usize) -> (SourceLink, Receiver<BusEvent>) {
    let (sender, events) = bounded(room);
    let link = SourceLink::new(sender, Box::new(|| {}), Clock::start());
    (link, events)
}

fn told<const LOSES: bool>(connections: &[Connection]) -> (Vec<&'static str>, u64) {
    let (link, events) = link(64);
    let toy = Box::new(toy::<LOSES>(connections));
    let status = Arc::clone(&toy.status);
    toy.run(link);
    let name = |event: BusEvent| match event {
        BusEvent::Up => "up",
        BusEvent::Down(_) => "down",
        BusEvent::Gap { .. } => "gap",
        other => panic!("{other:?}"),
    };
    (events.try_iter().map(name).collect(), status.reconnects())
}

#[test]
fn an_outage_is_told_once_whatever_fails_meanwhile() {
    use Connection::{Lost, Refused};
    let connections = [Refused, Refused, Lost, Refused, Refused, Lost];
    let (events, reconnects) = told::<false>(&connections);
    assert_eq!(events, ["down", "up", "down", "up", "down"]);
    assert_eq!(reconnects, 1);
}

#[test]
fn messages_are_lost_only_after_something_stood_and_where_the_bus_keeps_none() {
    use Connection::{Lost, Refused};
    let connections = [Refused, Lost, Refused, Lost];
    let (events, _) = told::<true>(&connections);
    assert_eq!(events, ["down", "up", "gap", "down", "up", "gap", "down"]);
}

#[test]
fn a_loop_that_ends_ends_a_source_that_waits_for_room() {
    let (link, events) = link(1);
    let toy = Box::new(toy::<false>(&[Connection::Lost; 3]));
    let thread = thread::spawn(move || toy.run(link));
    assert!(matches!(events.recv(), Ok(BusEvent::Up)));
    drop(events);
    assert!(thread.join().is_ok());
}

const SILENCE_MAX: Duration = Duration::from_secs(30);

#[test]
fn a_silent_connection_is_kept_until_another_one_does_better() {
    let mut probe = Probe::new("a bus", SILENCE_MAX);
    let now = Instant::now();
    assert!(probe.judge(now, || Found::Silence).is_some());
    let next = probe.judge(now, || panic!("not due yet"));
    assert!(next.is_some_and(|next| next <= now + 2 * INTERVAL));
    probe.due = Some(now);
    let next = probe.judge(now, || Found::Answer);
    assert!(next.is_some(), "the silent one has its grace");
    let next = probe.judge(now, || panic!("asked and answered"));
    assert!(next.is_some_and(|next| next <= Instant::now() + GRACE));
    probe.answered = Some(now - GRACE);
    assert_eq!(probe.judge(now, || Found::Silence), None);
}

#[test]
fn a_silent_connection_is_given_up_where_nobody_listens_and_after_its_longest_time() {
    let mut probe = Probe::new("a bus", SILENCE_MAX);
    let now = Instant::now();
    assert_eq!(probe.judge(now, || Found::Nobody), None);
    let heard = now - SILENCE_MAX;
    assert_eq!(probe.judge(heard, || Found::Silence), None);
}

#[test]
fn an_answer_that_comes_slowly_counts_while_it_comes() {
    let (status, mut lag) = (BusStatus::default(), StreamLag::default());
    lag.note_distance(&status, Some(0), 0);
    lag.answer_comes_for(&status, Duration::from_secs(7));
    assert_eq!(status.stream_behind(), Some((Some(0), 7_000)));
    assert!(lag.is_logged);
    lag.answer_comes_for(&status, Duration::ZERO);
    assert_eq!(status.stream_behind(), Some((Some(0), 0)));
    assert!(!lag.is_logged);
    lag.note_distance(&status, Some(40), 3_000);
    lag.answer_comes_for(&status, Duration::from_secs(1));
    assert_eq!(status.stream_behind(), Some((Some(40), 3_000)));
    assert!(!lag.is_logged);
}
