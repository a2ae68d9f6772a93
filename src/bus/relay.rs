//! The thread of a bus, which makes connection after connection, for ever. Also decides whether to keep a silent
//! connection, and reports how far the reader of a stream is behind.
//!
//! Each bus implements [`Bus`]. The order of events is the same for all: [`BusEvent::Up`] once all subscriptions are
//! confirmed; after a loss a single [`BusEvent::Down`], however many attempts follow. Where an outage loses messages,
//! [`BusEvent::Gap`] comes before `Down`. While a connection is kept although the server is silent, the bus counts as
//! down too: `Down` comes when the silence is noticed, and `Up` at the next byte.

use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::outage::{Failure, LinkTimes, Outages};
use super::{LoopGone, Source, SourceLink};
use crate::runtime::Spin;
use crate::status::{BusStatus, STREAM_LATE_MS};
use weirgate_core::{BusEvent, Fault};

/// The part of the thread that differs from bus to bus.
pub(super) trait Bus {
    /// Why the bus is away. The texts are logged and reported, so they must not hold a secret. A further error of the
    /// same variant is not logged again for a minute.
    type Error: Error;

    /// The name of the bus in log lines.
    const NAME: &'static str;

    /// What this error keeps from being done, if the bus itself is there: the words after "cannot".
    fn cannot(_error: &Self::Error) -> Option<String> {
        None
    }

    /// Whether messages published during an outage are lost. If false, the bus keeps them for weirgate.
    const OUTAGE_LOSES_MESSAGES: bool;

    /// The status of the bus, for other threads, and the times of the link.
    fn shared(&self) -> (&Arc<BusStatus>, &LinkTimes);

    /// Runs a connection from the attempt to connect until the loss. Calls [`Relay::report_up`] as soon as
    /// all subscriptions are confirmed.
    fn connect_and_relay(&mut self, relay: &mut Relay<Self::Error>) -> Stop<Self::Error>;
}

/// The thread of every bus makes connection after connection, until the loop is gone.
impl<B: Bus + Send> Source for B {
    fn run(mut self: Box<Self>, link: SourceLink) {
        Relay::new(link, &*self).run(&mut *self);
    }
}

/// Why work on a connection ended.
#[derive(Debug)]
pub(super) enum Stop<E> {
    /// The bus is away or cannot be used: connect again.
    Bus(E),
    /// The loop that takes the events is gone: end the source.
    LoopGone,
}

impl<E> From<LoopGone> for Stop<E> {
    fn from(_: LoopGone) -> Self {
        Self::LoopGone
    }
}

/// What a source keeps over all its connections: the link to the loop, the status for other threads, and the outages.
pub(super) struct Relay<E> {
    pub(super) link: SourceLink,
    pub(super) status: Arc<BusStatus>,
    pub(super) lag: StreamLag,
    spin: Spin,
    outages: Outages<E>,
    /// Whether `Down` was sent because the server is silent on a connection that is kept.
    is_silent: bool,
}

impl<E: Error> Relay<E> {
    fn new<B: Bus<Error = E>>(link: SourceLink, bus: &B) -> Self {
        let (status, times) = bus.shared();
        let (min_ms, max_ms) = (times.reconnect_delay_min_ms, times.reconnect_delay_max_ms);
        // The clock alone is no good seed: processes that start together can read the same time.
        let seed = RandomState::new().hash_one(link.now().mono_us);
        Self {
            spin: Spin::new(link.spin_us()),
            link,
            status: Arc::clone(status),
            lag: StreamLag::default(),
            outages: Outages::new(min_ms, max_ms, seed),
            is_silent: false,
        }
    }

    /// Connects again and again, until the loop is gone.
    fn run<B: Bus<Error = E>>(mut self, bus: &mut B) {
        while let Stop::Bus(error) = bus.connect_and_relay(&mut self) {
            if self.report_away::<B>(&error).is_err() {
                return;
            }
            thread::sleep(self.outages.next_delay());
        }
    }

    /// Records that messages arrived, so that the next waits spin.
    pub(super) fn worked(&mut self) {
        if self.link.spin_us() > 0 {
            self.spin.worked(self.link.now().mono_us);
        }
    }

    /// Polls `has_work` without sleeping, for some time after the last messages, and for at most `timeout`. Returns
    /// whether there was work.
    ///
    /// # Errors
    /// The errors of `has_work`.
    pub(super) fn spin<F>(
        &mut self,
        timeout: Duration,
        has_work: impl FnMut() -> Result<bool, F>,
    ) -> Result<bool, F> {
        if self.link.spin_us() == 0 {
            return Ok(false);
        }
        let clock = self.link.clock();
        let timeout_us = u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX);
        let due_us = clock.now().mono_us.saturating_add(timeout_us);
        let found = self.spin.poll(clock, due_us, has_work);
        self.status.set_spin(self.spin.counts());
        found
    }

    /// Reports that all subscriptions are confirmed. Returns the time for which the bus was away,
    /// milliseconds; `None` if the first attempt succeeded.
    ///
    /// # Errors
    /// The loop is gone.
    pub(super) fn report_up(&mut self) -> Result<Option<u64>, LoopGone> {
        self.status.set_up(true);
        self.link.send(BusEvent::Up)?;
        let recovery = self.outages.ended(Instant::now());
        if recovery.is_reconnect {
            self.status.count_reconnect();
        }
        Ok(recovery.away.map(|away| away.as_millis() as u64))
    }

    /// Whether all subscriptions were confirmed on the connection in use.
    pub(super) fn is_up_now(&self) -> bool {
        self.outages.is_up_now()
    }

    /// Reports the beginning of an outage to the loop, and logs each kind of error once a minute at most.
    pub(super) fn report_away<B: Bus<Error = E>>(&mut self, error: &E) -> Result<(), LoopGone> {
        self.status.set_down(self.link.now().mono_us);
        let loses_messages = B::OUTAGE_LOSES_MESSAGES && self.link.carries();
        let cannot = B::cannot(error);
        match self.outages.failed(error, Instant::now()) {
            Failure::Same => tracing::debug!(%error, "{} is still away", B::NAME),
            Failure::News(away) => tracing::warn!(
                %error,
                away_ms = away.as_millis() as u64,
                "{}; trying again",
                match cannot {
                    Some(what) => format!("still cannot {what}"),
                    None => format!("{} is still away", B::NAME),
                }
            ),
            Failure::First => {
                tracing::warn!(
                    %error,
                    messages_lost = loses_messages.then(|| self.outages.was_up()),
                    "{}",
                    match cannot {
                        Some(what) => format!("cannot {what} yet; trying again"),
                        None => format!("{} is away; trying again until it is back", B::NAME),
                    }
                );
                if loses_messages && self.outages.was_up() {
                    self.link.send(BusEvent::Gap { lost: None })?;
                }
                if !std::mem::take(&mut self.is_silent) {
                    self.link.send(BusEvent::Down(Fault(error.to_string())))?;
                }
            }
        }
        Ok(())
    }

    /// Reports that the server is silent, if all subscriptions were confirmed before.
    fn report_silence(&mut self, fault: String) -> Result<(), LoopGone> {
        self.status.set_down(self.link.now().mono_us);
        if self.is_up_now() {
            self.is_silent = true;
            self.link.send(BusEvent::Down(Fault(fault)))?;
        }
        Ok(())
    }

    /// Reports that a silent server answers again. `is_restored`: all subscriptions are confirmed.
    fn report_answer(&mut self, is_restored: bool) -> Result<(), LoopGone> {
        self.status.set_up(is_restored);
        if std::mem::take(&mut self.is_silent) {
            self.link.send(BusEvent::Up)?;
        }
        Ok(())
    }
}

/// The time between two second connections.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long the silent connection is kept after an answer on a second connection. A server that was stopped and
/// continues answers on both at about the same time.
const GRACE: Duration = Duration::from_secs(1);

/// The result of a second connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A server answers, so a new connection would work.
    Answer,
    /// The host refuses the connection: no server listens there.
    Nobody,
    /// No answer, so a new connection would not work either.
    Silence,
}

/// Decides whether to keep a silent connection. A second connection shows whether a new connection would work. A busy
/// or stopped server delivers everything on its existing connections as soon as the server continues, and a new
/// connection would lose the messages published meanwhile.
#[derive(Debug)]
pub(super) struct Probe {
    /// The name of the bus in log lines.
    bus: &'static str,
    /// After this silence the connection is given up, even if no second connection had an answer.
    silence_max: Duration,
    /// The time of the next second connection; `None` while the connection is not silent.
    due: Option<Instant>,
    /// The time of the first answer to a second connection in this silence.
    answered: Option<Instant>,
}

impl Probe {
    pub(super) fn new(bus: &'static str, times: &LinkTimes) -> Self {
        Self {
            bus,
            silence_max: Duration::from_millis(times.silence_max_ms),
            due: None,
            answered: None,
        }
    }

    /// Handles too long a silence, since `last_received`. Its first call logs a warning and reports that the bus is down. Calls
    /// `second` if a second connection is due. Returns the time of the next call; `None` if the silent connection is to
    /// be given up.
    ///
    /// # Errors
    /// The loop is gone.
    pub(super) fn check<E: Error>(
        &mut self,
        last_received: Instant,
        relay: &mut Relay<E>,
        second: impl FnOnce() -> Found,
    ) -> Result<Option<Instant>, LoopGone> {
        if self.due.is_none() {
            let (bus, silent_ms) = (self.bus, last_received.elapsed().as_millis() as u64);
            relay.report_silence(format!("{bus} has not answered for {silent_ms} ms"))?;
            tracing::warn!(silent_ms, "{bus} does not answer; keeping the connection");
        }
        Ok(self.next_check(last_received, second))
    }

    /// When to check again; `None` if the connection is to be given up. Makes a second connection to the server when that
    /// is due.
    fn next_check(
        &mut self,
        last_received: Instant,
        second: impl FnOnce() -> Found,
    ) -> Option<Instant> {
        let mut give_up = last_received + self.silence_max;
        if let Some(answered) = self.answered {
            give_up = give_up.min(answered + GRACE);
        }
        let now = Instant::now();
        if now >= give_up {
            return None;
        }
        if self.answered.is_some() {
            return Some(give_up);
        }
        if self.due.is_none_or(|due| now >= due) {
            match second() {
                Found::Answer => self.answered = Some(Instant::now()),
                Found::Nobody => return None,
                Found::Silence => {}
            }
            self.due = Some(Instant::now() + INTERVAL);
        }
        self.due.map(|due| due.min(give_up))
    }

    /// Records that the connection said something. If that ends too long a silence, reports that the bus is up again,
    /// and returns true; nothing was lost then. `is_restored`: all subscriptions are confirmed.
    ///
    /// # Errors
    /// The loop is gone.
    pub(super) fn end_silence<E: Error>(
        &mut self,
        relay: &mut Relay<E>,
        is_restored: bool,
    ) -> Result<bool, LoopGone> {
        self.answered = None;
        let was_silent = self.due.take().is_some();
        if was_silent {
            relay.report_answer(is_restored)?;
            tracing::info!("{} answers again", self.bus);
        }
        Ok(was_silent)
    }
}

/// How long a start may read the stream before the loop accepts clients (`STREAM_WAIT_US`).
const START: Duration = Duration::from_secs(5);
/// Below this distance, the reader counts as no longer behind, milliseconds.
const LOGGED_UNTIL_MS: u64 = 1_000;

/// How far the reader of a stream is behind the newest message: the distance that the reader reported last, or the time
/// for which the present answer has been arriving, if that is longer. Over a slow line a single answer can take
/// minutes, and all its messages were stored before it began.
#[derive(Debug)]
pub(super) struct StreamLag {
    /// The last reported distance: messages, if known, and milliseconds. `None` before the first report.
    reported: Option<(Option<u64>, u64)>,
    logged: Logged,
    /// The start of this process, until the reader has caught up for the first time. The loop accepts no client before
    /// that, for [`START`] at most.
    begun: Option<Instant>,
}

/// The last log line about the distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Logged {
    None,
    /// The reader reads what the stream holds at a start.
    Start,
    /// Clients see messages late.
    Late,
}

impl Default for StreamLag {
    fn default() -> Self {
        Self {
            reported: None,
            logged: Logged::None,
            begun: Some(Instant::now()),
        }
    }
}

impl StreamLag {
    /// Records the distance that the reader reports: messages, if known, and milliseconds from storage to storage.
    pub(super) fn note_distance(&mut self, status: &BusStatus, messages: Option<u64>, ms: u64) {
        self.reported = Some((messages, ms));
        self.show(status, ms);
    }

    /// Records for how long the present answer has been arriving.
    pub(super) fn answer_comes_for(&mut self, status: &BusStatus, time: Duration) {
        let answer_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if let Some((_, ms)) = self.reported {
            self.show(status, ms.max(answer_ms));
        }
    }

    /// Records that the reader has the newest message.
    pub(super) fn caught_up(&mut self) {
        self.begun = None;
    }

    fn show(&mut self, status: &BusStatus, ms: u64) {
        let messages = self.reported.and_then(|(messages, _)| messages);
        status.set_stream_behind(messages, ms);
        let has_clients = || self.begun.is_none_or(|begun| begun.elapsed() >= START);
        match self.logged {
            Logged::Late if ms < LOGGED_UNTIL_MS => {
                self.logged = Logged::None;
                tracing::info!("the reader is no longer behind the stream");
            }
            Logged::None | Logged::Start if ms > STREAM_LATE_MS && has_clients() => {
                self.logged = Logged::Late;
                tracing::warn!(
                    behind_ms = ms,
                    messages,
                    "the reader is behind the stream: a thin line to the bus, or no free core; clients see messages late"
                );
            }
            Logged::None if ms > STREAM_LATE_MS => {
                self.logged = Logged::Start;
                tracing::info!(
                    behind_ms = ms,
                    messages,
                    "reading what the stream holds, before the first client"
                );
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, bounded};
    use std::collections::VecDeque;

    use super::*;
    use crate::runtime::Clock;

    /// A bus whose connections end as the list says.
    struct Toy<const LOSES: bool> {
        connections: VecDeque<ToyConnection>,
        status: Arc<BusStatus>,
    }

    fn toy<const LOSES: bool>(connections: &[ToyConnection]) -> Toy<LOSES> {
        Toy {
            connections: connections.iter().copied().collect(),
            status: Arc::new(BusStatus::new(&[], 1)),
        }
    }

    #[derive(Clone, Copy)]
    enum ToyConnection {
        Refused,
        /// Made, and then lost.
        Lost,
    }

    #[derive(Debug, thiserror::Error)]
    enum ToyFault {
        #[error("refused")]
        Refused,
        #[error("lost")]
        Lost,
    }

    impl<const LOSES: bool> Bus for Toy<LOSES> {
        type Error = ToyFault;
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

        fn connect_and_relay(&mut self, relay: &mut Relay<ToyFault>) -> Stop<ToyFault> {
            match self.connections.pop_front() {
                None => Stop::LoopGone,
                Some(ToyConnection::Refused) => Stop::Bus(ToyFault::Refused),
                Some(ToyConnection::Lost) => match relay.report_up() {
                    Ok(_) => Stop::Bus(ToyFault::Lost),
                    Err(gone) => gone.into(),
                },
            }
        }
    }

    /// Both ends of a channel to the loop, with room for `room` events.
    fn link(room: usize) -> (SourceLink, Receiver<BusEvent>) {
        let (sender, events) = bounded(room);
        let link = SourceLink::new(sender, Box::new(|| {}), Clock::start());
        (link, events)
    }

    fn reported<const LOSES: bool>(connections: &[ToyConnection]) -> (Vec<&'static str>, u64) {
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
        use ToyConnection::{Lost, Refused};
        let connections = [Refused, Refused, Lost, Refused, Refused, Lost];
        let (events, reconnects) = reported::<false>(&connections);
        assert_eq!(events, ["down", "up", "down", "up", "down"]);
        assert_eq!(reconnects, 1);
    }

    #[test]
    fn messages_are_lost_only_after_something_stood_and_where_the_bus_keeps_none() {
        use ToyConnection::{Lost, Refused};
        let connections = [Refused, Lost, Refused, Lost];
        let (events, _) = reported::<true>(&connections);
        assert_eq!(events, ["down", "up", "gap", "down", "up", "gap", "down"]);
    }

    #[test]
    fn a_loop_that_ends_ends_a_source_that_waits_for_room() {
        let (link, events) = link(1);
        let toy = Box::new(toy::<false>(&[ToyConnection::Lost; 3]));
        let thread = thread::spawn(move || toy.run(link));
        assert!(matches!(events.recv(), Ok(BusEvent::Up)));
        drop(events);
        assert!(thread.join().is_ok());
    }

    #[test]
    fn a_silent_connection_is_kept_until_another_one_does_better() {
        let mut probe = Probe::new("a bus", &LinkTimes::default());
        let now = Instant::now();
        assert!(probe.next_check(now, || Found::Silence).is_some());
        let next = probe.next_check(now, || panic!("not due yet"));
        assert!(next.is_some_and(|next| next <= now + 2 * INTERVAL));
        probe.due = Some(now);
        let next = probe.next_check(now, || Found::Answer);
        assert!(next.is_some(), "the silent one has its grace");
        let next = probe.next_check(now, || panic!("asked and answered"));
        assert!(next.is_some_and(|next| next <= Instant::now() + GRACE));
        probe.answered = Some(now - GRACE);
        assert_eq!(probe.next_check(now, || Found::Silence), None);
    }

    #[test]
    fn a_silent_connection_is_given_up_where_nobody_listens_and_after_its_longest_time() {
        let mut probe = Probe::new("a bus", &LinkTimes::default());
        let now = Instant::now();
        assert_eq!(probe.next_check(now, || Found::Nobody), None);
        let last_received = now - probe.silence_max;
        assert_eq!(probe.next_check(last_received, || Found::Silence), None);
    }

    #[test]
    fn an_answer_that_comes_slowly_counts_while_it_comes() {
        let (status, mut lag) = (BusStatus::default(), StreamLag::default());
        lag.caught_up();
        lag.note_distance(&status, Some(0), 0);
        lag.answer_comes_for(&status, Duration::from_secs(7));
        assert_eq!(status.stream_behind(), Some((Some(0), 7_000)));
        assert_eq!(lag.logged, Logged::Late);
        lag.answer_comes_for(&status, Duration::ZERO);
        assert_eq!(status.stream_behind(), Some((Some(0), 0)));
        assert_eq!(lag.logged, Logged::None);
        lag.note_distance(&status, Some(40), 3_000);
        lag.answer_comes_for(&status, Duration::from_secs(1));
        assert_eq!(status.stream_behind(), Some((Some(40), 3_000)));
        assert_eq!(lag.logged, Logged::None);
    }

    #[test]
    fn a_start_on_a_full_stream_is_no_warning_until_clients_come() {
        let (status, mut lag) = (BusStatus::default(), StreamLag::default());
        lag.note_distance(&status, Some(9), 600_000);
        assert_eq!(lag.logged, Logged::Start);
        assert_eq!(status.stream_behind(), Some((Some(9), 600_000)));
        lag.begun = lag.begun.and_then(|begun| begun.checked_sub(START));
        lag.note_distance(&status, Some(8), 600_000);
        assert_eq!(lag.logged, Logged::Late);
        let (status, mut lag) = (BusStatus::default(), StreamLag::default());
        lag.note_distance(&status, Some(1), 600_000);
        lag.caught_up();
        lag.note_distance(&status, Some(0), 0);
        lag.note_distance(&status, Some(9), 600_000);
        assert_eq!(lag.logged, Logged::Late);
    }
}
