//! The thread of a bus, which makes connection after connection, for ever.
//!
//! Each bus implements [`Bus`]. The order of events is the same for all: [`BusEvent::Up`] once all subscriptions are
//! confirmed; after a loss a single [`BusEvent::Down`], however many attempts follow. Where an outage loses messages,
//! [`BusEvent::Gap`] comes before `Down`. While a connection is kept although the server is silent, the bus counts as
//! down too: `Down` comes when the silence is noticed, and `Up` at the next byte. If that connection is lost after all,
//! its `Gap` follows the `Down`.

use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::outage::{Failure, LinkTimes, Outages};
use super::stream_lag::StreamLag;
use weirgate_core::BusEvent;
use weirgate_runtime::{BusStatus, LoopGone, SourceLink, Spin};

/// The part of the thread that differs from bus to bus.
pub(super) trait Bus {
    /// Why the bus is away. The texts are logged and reported, so they must not hold a secret. After an error was logged,
    /// those of the same variant are not logged for a minute.
    type Error: Error;

    /// The name of the bus in log lines.
    const NAME: &'static str;

    /// Whether messages published during an outage are lost. If false, the bus keeps them for weirgate.
    const OUTAGE_LOSES_MESSAGES: bool;

    /// What this error prevents although the bus answers, as the words after "cannot" in the log. `None`: the bus is
    /// away.
    fn cannot(_error: &Self::Error) -> Option<String> {
        None
    }

    /// The status of the bus, for other threads, and the times of the link.
    fn status_and_times(&self) -> (&Arc<BusStatus>, &LinkTimes);

    /// Runs a connection from the attempt to connect until the loss. Calls [`Relay::report_up`] as soon as
    /// all subscriptions are confirmed.
    fn connect_and_relay(&mut self, relay: &mut Relay<Self::Error>) -> Stop<Self::Error>;
}

/// Makes connection after connection, until the loop is gone.
pub(super) fn run<B: Bus>(bus: &mut B, link: SourceLink) {
    Relay::new(link, bus).run(bus);
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
    /// How far the source is behind its stream.
    pub(super) lag: StreamLag,
    /// Polls in place of sleeping, after messages.
    spin: Spin,
    outages: Outages<E>,
    /// Whether `Down` was sent because the server is silent on a connection that is kept.
    is_silent: bool,
}

impl<E: Error> Relay<E> {
    fn new<B: Bus<Error = E>>(link: SourceLink, bus: &B) -> Self {
        let (status, times) = bus.status_and_times();
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
    pub(super) fn note_work(&mut self) {
        // 0: the waits of this source always sleep.
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
        let recovery = self.outages.note_end(Instant::now());
        if recovery.is_reconnect {
            self.status.count_reconnect();
        }
        Ok(recovery.away.map(|away| away.as_millis() as u64))
    }

    /// Whether all subscriptions were confirmed on the connection in use.
    pub(super) fn is_up_now(&self) -> bool {
        self.outages.is_up_now()
    }

    /// Reports the beginning of an outage to the loop, and logs each kind of error at most once a minute.
    ///
    /// # Errors
    /// The loop is gone.
    pub(super) fn report_away<B: Bus<Error = E>>(&mut self, error: &E) -> Result<(), LoopGone> {
        self.set_down();
        let loses_messages = B::OUTAGE_LOSES_MESSAGES && self.link.may_lose_messages();
        let cannot = B::cannot(error);
        match self.outages.note_failure(error, Instant::now()) {
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
                    // Not in the line of a bus that keeps the messages.
                    messages_lost = loses_messages.then(|| self.outages.was_up()),
                    "{}",
                    match cannot {
                        Some(what) => format!("cannot {what} yet; trying again"),
                        None => format!("{} is away; trying again until it is back", B::NAME),
                    }
                );
                if loses_messages && self.outages.was_up() {
                    // How many were lost is not known.
                    self.link.send(BusEvent::Gap { lost: None })?;
                }
                // Otherwise the loop has had `Down` since the server became silent.
                if !std::mem::take(&mut self.is_silent) {
                    self.link.send(BusEvent::Down(error.to_string()))?;
                }
            }
        }
        Ok(())
    }

    /// From here on, neither the bus nor how far a stream is behind is known to be well.
    fn set_down(&mut self) {
        self.status.set_down(self.link.now().mono_us);
        self.lag.forget();
    }

    /// Reports that the server is silent, if all subscriptions were confirmed before.
    pub(super) fn report_silence(&mut self, fault: String) -> Result<(), LoopGone> {
        self.set_down();
        if self.is_up_now() {
            self.is_silent = true;
            self.link.send(BusEvent::Down(fault))?;
        }
        Ok(())
    }

    /// Reports that a silent server answers again. `is_restored`: all subscriptions are confirmed.
    pub(super) fn report_answer(&mut self, is_restored: bool) -> Result<(), LoopGone> {
        self.status.set_up(is_restored);
        if std::mem::take(&mut self.is_silent) {
            self.link.send(BusEvent::Up)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, bounded};
    use std::collections::VecDeque;

    use super::*;
    use weirgate_runtime::Clock;

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
        /// Made, then silent, then lost.
        Silent,
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

        fn status_and_times(&self) -> (&Arc<BusStatus>, &LinkTimes) {
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
                Some(ToyConnection::Silent) => {
                    let silence = "silent".to_owned();
                    match relay
                        .report_up()
                        .and_then(|_| relay.report_silence(silence))
                    {
                        Ok(()) => Stop::Bus(ToyFault::Lost),
                        Err(gone) => gone.into(),
                    }
                }
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
        let mut toy = toy::<LOSES>(connections);
        let status = Arc::clone(&toy.status);
        run(&mut toy, link);
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
    fn the_gap_of_a_connection_that_was_silent_follows_its_down() {
        use ToyConnection::{Lost, Silent};
        let (events, _) = reported::<true>(&[Silent, Lost]);
        assert_eq!(events, ["up", "down", "gap", "up", "gap", "down"]);
    }

    #[test]
    fn how_far_a_stream_is_behind_is_not_known_while_the_bus_is_away() {
        let (link, _events) = link(64);
        let toy = toy::<false>(&[]);
        let mut relay = Relay::new(link, &toy);
        relay.report_up().expect("a loop");
        relay.lag.note_distance(&toy.status, Some(0), 0);
        assert_eq!(toy.status.stream_behind(), Some((Some(0), 0)));
        let away = relay.report_away::<Toy<false>>(&ToyFault::Lost);
        away.expect("a loop");
        assert_eq!(toy.status.stream_behind(), None);
        // The first answer on the next connection, which does not say yet what there is to read.
        relay
            .lag
            .answer_comes_for(&toy.status, Duration::from_secs(1));
        assert_eq!(toy.status.stream_behind(), None);
        relay.lag.note_distance(&toy.status, Some(7), 2_000);
        assert_eq!(toy.status.stream_behind(), Some((Some(7), 2_000)));
    }

    #[test]
    fn a_loop_that_ends_ends_a_source_that_waits_for_room() {
        let (link, events) = link(1);
        let mut toy = toy::<false>(&[ToyConnection::Lost; 3]);
        let thread = thread::spawn(move || run(&mut toy, link));
        assert!(matches!(events.recv(), Ok(BusEvent::Up)));
        drop(events);
        assert!(thread.join().is_ok());
    }
}
