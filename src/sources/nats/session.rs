//! A connection from its first message to its loss: the messages of all subscriptions, in turns.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use crossbeam_channel::{Select, TryRecvError};

use super::api::ANSWER_TIMEOUT;
use super::connection::Link;
use super::error::{NatsError, Stop};
use super::optional::Presence;
use super::refusals::{INBOXES, Refusal};
use super::servers::Second;
use super::settings::NatsSettings;
use super::subscription::Subscription;
use super::watchdog::{Report, Watchdog, Watched, WatchedConsumer};
use crate::feeds::BusEvent;
use crate::sources::relay::Relay;
use crate::telemetry::{BusStatus, ConsumerStatus, Stall};

/// The limit on messages of a subscription handed over before the others get their turn.
const TURN_MESSAGES_MAX: usize = 64;

/// A session: settings, subscriptions, connections.
pub(super) struct Session<'a> {
    pub(super) settings: &'a NatsSettings,
    pub(super) relay: &'a mut Relay<NatsError>,
    pub(super) subscriptions: &'a mut [Subscription],
    pub(super) bus: &'a Link,
    /// Decides whether this connection is kept during a silence.
    pub(super) second: &'a mut Second,
}

/// The next thing to do.
enum Ready {
    Lost,
    Reports,
    Stopped,
    Messages(usize),
    Nothing,
}

impl Session<'_> {
    /// Relays until the connection is lost or silent, or the loop is gone.
    pub(super) fn run(&mut self, watchdog: &Watchdog) -> Stop {
        let stop = match self.relay_all(watchdog) {
            Err(stop) => stop,
            Ok(never) => match never {},
        };
        match stop {
            Stop::LoopGone => {
                self.settle();
                Stop::LoopGone
            }
            // Messages that have arrived are good, however the connection ended.
            Stop::Bus(error) => match self.relay_rest() {
                Err(Stop::LoopGone) => Stop::LoopGone,
                Err(Stop::Bus(_)) | Ok(()) => Stop::Bus(error),
            },
        }
    }

    fn relay_all(&mut self, watchdog: &Watchdog) -> Result<Infallible, Stop> {
        let mut answered = Instant::now();
        let mut quiet = self.patience();
        let mut told_caught_up = false;
        self.relay_gaps()?;
        loop {
            let caught_up = self.subscriptions.iter().all(Subscription::caught_up);
            if caught_up && !told_caught_up {
                self.relay.link.send(BusEvent::CaughtUp)?;
            }
            told_caught_up = caught_up;
            let until_acks = self.until_acks();
            self.relay.link.set_owing(until_acks.is_some());
            let timeout = until_acks.map_or(quiet, |acks| acks.min(quiet));
            match self.wait(watchdog, timeout) {
                Ready::Stopped => return Err(Stop::LoopGone),
                Ready::Lost => return Err(NatsError::Lost.into()),
                Ready::Messages(index) => self.relay_turn(index)?,
                Ready::Reports | Ready::Nothing => {}
            }
            while let Ok(report) = watchdog.reports.try_recv() {
                answered = Instant::now();
                self.is_heard(answered);
                let found_stream = self.take_in(report, watchdog)?;
                // The last message of the subject was handed over quietly, so `CaughtUp` follows
                // again.
                told_caught_up &= !found_stream;
            }
            self.send_due_acks();
            self.take_refusals(watchdog)?;
            let left = self.patience().saturating_sub(answered.elapsed());
            quiet = if left.is_zero() {
                self.look_elsewhere(answered, watchdog)?
            } else {
                // Consumers are checked only while the link is well: a silent link says nothing
                // about them.
                self.check_consumers(watchdog)?;
                left
            };
        }
    }

    /// The time until the next acknowledgements are due; `None` if none wait.
    fn until_acks(&self) -> Option<Duration> {
        let dues = self.subscriptions.iter().filter_map(|s| s.acks_due());
        Some(dues.min()?.saturating_duration_since(Instant::now()))
    }

    /// Sends all waiting acknowledgements at the end of the process. Otherwise the next reader of a
    /// durable consumer would get the messages again.
    fn settle(&mut self) {
        let mut owed = false;
        for subscription in self.subscriptions.iter_mut() {
            owed |= subscription.acks_due().is_some();
            subscription.send_acks(self.bus);
        }
        // The flush waits without a limit for a dead server, but the process does not wait for this
        // thread.
        if owed && !self.bus.api.is_lost() {
            let _ = self.bus.api.connection.flush();
        }
        self.relay.link.set_owing(false);
    }

    fn send_due_acks(&mut self) {
        let mut now = None;
        for subscription in self.subscriptions.iter_mut() {
            if let Some(due) = subscription.acks_due()
                && due <= *now.get_or_insert_with(Instant::now)
            {
                subscription.send_acks(self.bus);
            }
        }
    }

    fn wait(&mut self, watchdog: &Watchdog, timeout: Duration) -> Ready {
        let mut ready = Ready::Nothing;
        let (subscriptions, bus) = (&*self.subscriptions, self.bus);
        let stopped = self.relay.link.stopped().clone();
        let Ok(found) = self.relay.spin(timeout, || {
            ready = match stopped.try_recv() {
                Err(TryRecvError::Disconnected) => Ready::Stopped,
                Err(TryRecvError::Empty) => look(subscriptions, bus, watchdog),
                Ok(never) => match never {},
            };
            Ok::<_, Infallible>(!matches!(ready, Ready::Nothing))
        });
        if !found {
            ready = self.sleep(watchdog, timeout);
        }
        if let Ready::Messages(_) = ready {
            self.relay.worked();
        }
        ready
    }

    fn sleep(&self, watchdog: &Watchdog, timeout: Duration) -> Ready {
        let mut select = Select::new();
        select.recv(&self.bus.api.lost);
        select.recv(&watchdog.reports);
        select.recv(self.relay.link.stopped());
        let mut indices = Vec::with_capacity(self.subscriptions.len());
        for (index, subscription) in self.subscriptions.iter().enumerate() {
            if let Some(standing) = subscription.standing() {
                select.recv(standing.messages.receiver());
                indices.push(index);
            }
        }
        match select.ready_timeout(timeout) {
            Err(_) => Ready::Nothing,
            Ok(0) => Ready::Lost,
            Ok(1) => Ready::Reports,
            Ok(2) => Ready::Stopped,
            Ok(n) => indices
                .get(n - 3)
                .map_or(Ready::Nothing, |&i| Ready::Messages(i)),
        }
    }

    pub(super) fn relay_turn(&mut self, index: usize) -> Result<(), Stop> {
        for _ in 0..TURN_MESSAGES_MAX {
            let Some(subscription) = self.subscriptions.get_mut(index) else {
                return Ok(());
            };
            let next = subscription
                .standing()
                .map(|s| s.messages.receiver().try_recv());
            let Some(Ok(message)) = next else {
                return Ok(());
            };
            subscription.relay(message, self.bus, &self.relay.link)?;
        }
        Ok(())
    }

    pub(super) fn messages_wait(&self, index: usize) -> bool {
        let standing = self.subscriptions.get(index).and_then(|s| s.standing());
        standing.is_some_and(|s| !s.messages.receiver().is_empty())
    }

    fn relay_rest(&mut self) -> Result<(), Stop> {
        for index in 0..self.subscriptions.len() {
            while self.messages_wait(index) {
                self.relay_turn(index)?;
            }
        }
        Ok(())
    }

    pub(super) fn relay_gaps(&mut self) -> Result<(), Stop> {
        for subscription in self.subscriptions.iter_mut() {
            for message in subscription.take_gap() {
                subscription.relay(message, self.bus, &self.relay.link)?;
            }
        }
        Ok(())
    }

    /// Handles a report. Returns whether a subject that waited for its stream was attached.
    fn take_in(&mut self, report: Report, watchdog: &Watchdog) -> Result<bool, Stop> {
        let reads_from = |s: &Subscription, name: &str| {
            s.standing()
                .is_some_and(|standing| standing.consumer == name)
        };
        let (Report::Answered { index }
        | Report::Pending { index, .. }
        | Report::Gone { index, .. }
        | Report::Free { index }
        | Report::Stream { index, .. }) = report
        else {
            return Ok(false);
        };
        let told = self.silence_told_after();
        let Some(subscription) = self.subscriptions.get_mut(index) else {
            return Ok(false);
        };
        let now = Instant::now();
        if subscription.health_mut().silent_for(now) >= told {
            subscription.attempts_mut().hurry(now);
        }
        if subscription.health_mut().heard(now) {
            let subject = &subscription.spec().subject;
            tracing::info!(subject, "JetStream answers about a consumer again");
            if let Some(consumer) = of(&self.relay.status, subscription) {
                consumer.set_silent(false);
            }
        }
        match report {
            Report::Pending {
                consumer, counts, ..
            } if reads_from(subscription, &consumer) => {
                let judged = subscription.health_mut().judge(counts, Instant::now());
                let pending = counts.pending;
                if let Some(stall) = judged {
                    tell_stall(subscription, stall, pending);
                }
                if let Some(status) = of(&self.relay.status, subscription) {
                    status.set_lag(Some(pending));
                    if let Some(stall) = judged {
                        status.set_stall(stall);
                    }
                }
                if pending == 0 {
                    subscription.nothing_pending();
                }
            }
            Report::Gone { consumer, .. } if reads_from(subscription, &consumer) => {
                tracing::warn!(
                    consumer,
                    "a consumer is gone from the server; making it again"
                );
                self.attach_again(index, watchdog)?;
            }
            Report::Stream { is_there, .. } if subscription.is_to_be_attached(is_there) => {
                return self.attach_again(index, watchdog);
            }
            Report::Free { .. } if subscription.awaits_durable() => {
                self.take_over(index, watchdog)?;
            }
            // About a consumer no longer in use, or a stream still missing.
            Report::Alive
            | Report::Answered { .. }
            | Report::Pending { .. }
            | Report::Gone { .. }
            | Report::Free { .. }
            | Report::Stream { .. } => {}
        }
        Ok(false)
    }

    /// Applies each new refusal to the subscription concerned.
    fn take_refusals(&mut self, watchdog: &Watchdog) -> Result<(), Stop> {
        for refusal in self.bus.api.refusals.take_news() {
            let concerns = |subscription: &Subscription| {
                let stands = subscription.standing();
                stands.is_some_and(|standing| match &refusal {
                    Refusal::Acks { stream, consumer } => {
                        subscription.target().stream == *stream && standing.consumer == *consumer
                    }
                    Refusal::Subscription(subject) => standing.deliver_subject == *subject,
                    Refusal::Request(_) => false,
                })
            };
            let index = self.subscriptions.iter().position(concerns);
            if let Refusal::Subscription(_) = refusal {
                self.relay.status.count_refused();
            }
            let Some(index) = index else { continue };
            match refusal {
                Refusal::Acks { .. } => {
                    let health = self.subscriptions[index].health_mut();
                    health.ack_refused(Instant::now());
                }
                Refusal::Subscription(_) | Refusal::Request(_) => {
                    self.attach_again(index, watchdog)?;
                }
            }
        }
        Ok(())
    }

    /// Handles a silent link. Returns the time until the next look.
    fn look_elsewhere(&mut self, answered: Instant, watchdog: &Watchdog) -> Result<Duration, Stop> {
        let refusals = &self.bus.api.refusals;
        if refusals.has(&Refusal::Request(INBOXES.to_owned())) {
            let what = format!("publish to {INBOXES}");
            let is_of_all = true;
            return Err(NatsError::NotPermitted { what, is_of_all }.into());
        }
        match self.second.look(answered, self.relay, self.settings) {
            Some(next) => Ok(next.saturating_duration_since(Instant::now())),
            // A report during the second connection ends the silence.
            None if !watchdog.reports.is_empty() => Ok(Duration::ZERO),
            None => {
                let silent_ms = answered.elapsed().as_millis() as u64;
                Err(NatsError::Silent { silent_ms }.into())
            }
        }
    }

    /// Records that the link is well.
    fn is_heard(&mut self, now: Instant) {
        if self.second.end(self.relay, true) {
            for subscription in self.subscriptions.iter_mut() {
                subscription.health_mut().link_was_silent(now);
            }
        }
    }

    pub(super) fn watched(&self) -> Vec<Watched> {
        let watched = |(index, s): (usize, &Subscription)| {
            if s.presence == Presence::Forbidden {
                return Watched::Nothing;
            }
            let Some(standing) = s.standing() else {
                return Watched::Subject(index, s.spec().clone());
            };
            let consumer = WatchedConsumer {
                target: s.target().clone(),
                consumer: standing.consumer.clone(),
                deliver_subject: standing.deliver_subject.clone(),
                awaits_durable: s.awaits_durable(),
            };
            Watched::Consumer(index, consumer)
        };
        let all = self.subscriptions.iter().enumerate();
        all.map(watched).collect()
    }

    /// How long the link may be silent. The link is tried once per interval, so the last echo may
    /// be an interval old when the time to answer begins.
    pub(super) fn patience(&self) -> Duration {
        if self.subscriptions.is_empty() {
            return Duration::MAX;
        }
        self.interval() + Duration::from_millis(self.settings.times.ping_timeout_ms)
    }

    /// The length of JetStream's silence about a subject before the log reports it.
    pub(super) fn silence_told_after(&self) -> Duration {
        self.patience().saturating_add(ANSWER_TIMEOUT)
    }

    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis(self.settings.times.ping_interval_ms.max(10))
    }
}

/// The next thing to do, without waiting.
fn look(subscriptions: &[Subscription], bus: &Link, watchdog: &Watchdog) -> Ready {
    if let Err(TryRecvError::Disconnected) = bus.api.lost.try_recv() {
        return Ready::Lost;
    }
    if !watchdog.reports.is_empty() {
        return Ready::Reports;
    }
    let waits = |s: &Subscription| {
        s.standing()
            .is_some_and(|standing| !standing.messages.receiver().is_empty())
    };
    let index = subscriptions.iter().position(waits);
    index.map_or(Ready::Nothing, Ready::Messages)
}

/// The status of a subscription, for `/health` and `/ready`.
pub(super) fn of<'a>(
    status: &'a BusStatus,
    subscription: &Subscription,
) -> Option<&'a ConsumerStatus> {
    let subject = &subscription.spec().subject;
    status.consumers().iter().find(|c| c.subject() == subject)
}

/// Resets the status of the subscription's consumer.
pub(super) fn forget(status: &BusStatus, subscription: &Subscription) {
    if let Some(consumer) = of(status, subscription) {
        consumer.set_lag(None);
        consumer.set_silent(false);
        consumer.set_stall(None);
    }
}

fn tell_stall(subscription: &Subscription, stall: Option<Stall>, lag: u64) {
    let subject = &subscription.spec().subject;
    match stall {
        Some(Stall::AcksRefused) => tracing::warn!(
            subject,
            lag,
            "NATS takes no acknowledgement of this subject and delivers no more behind a limit; \
             let this user publish to $JS.ACK.>"
        ),
        Some(Stall::NothingDelivered) => tracing::warn!(
            subject,
            lag,
            "NATS holds messages of this subject, and none came for 5 s"
        ),
        None => tracing::info!(subject, lag, "a subject is well again"),
    }
}
