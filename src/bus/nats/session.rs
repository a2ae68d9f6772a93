//! The work on a connection to a server, from the first message until the connection is lost: relays the messages of all
//! subjects, and from time to time looks at everything else.

use super::health::Counts;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use super::api::ANSWER_TIMEOUT;
use super::cursor::Reached;
use super::error::{NatsError, Stop};
use super::jetstream_connection::JetStreamConnection;
use super::needs::Action;
use super::refusals::{INBOXES, Refusal};
use super::server_search::ServerSearch;
use super::settings::NatsSettings;
use super::standstill::Standstills;
use super::streams::Presence;
use super::subscription::Subscription;
use super::watchdog::{AskServer, Watchdog, WatchdogAnswer, Watched, WatchedConsumer};
use crate::relay::Relay;
use weirgate_core::BusEvent;
use weirgate_runtime::{BusStatus, ConsumerStatus, Stall};

/// A session: settings, subscriptions, connection.
pub(super) struct ConsumersSession<'a> {
    pub(super) settings: &'a NatsSettings,
    pub(super) relay: &'a mut Relay<NatsError>,
    pub(super) subscriptions: &'a mut [Subscription],
    pub(super) jetstream: &'a mut JetStreamConnection,
    /// Decides whether the connection is kept during a silence.
    pub(super) search: &'a mut ServerSearch,
    pub(super) watchdog: Watchdog,
    /// What JetStream has said about the subscriptions, with their indices, to be handled in the next look.
    answers: Vec<(usize, Vec<WatchdogAnswer>)>,
    pub(super) standstills: &'a mut Standstills,
    /// The number of the last question about the account.
    account_request: Option<u64>,
    /// The loop was told that no backlog is left, at least once.
    has_reported_caught_up: bool,
    /// The connection is silent.
    is_silent: bool,
    /// The time of the next look at everything but messages.
    check_due: Instant,
}

impl<'a> ConsumersSession<'a> {
    /// A session before [`Self::set_up`].
    pub(super) fn new(
        settings: &'a NatsSettings,
        relay: &'a mut Relay<NatsError>,
        subscriptions: &'a mut [Subscription],
        jetstream: &'a mut JetStreamConnection,
        search: &'a mut ServerSearch,
        standstills: &'a mut Standstills,
    ) -> Self {
        standstills.forget();
        Self {
            settings,
            relay,
            subscriptions,
            jetstream,
            search,
            // It watches nothing until `set_up` makes the real one.
            watchdog: Watchdog::new(Duration::ZERO, Vec::new(), Instant::now()),
            answers: Vec::new(),
            standstills,
            account_request: None,
            has_reported_caught_up: false,
            is_silent: false,
            check_due: Instant::now(),
        }
    }

    /// Relays until the connection is lost or silent, or the loop is gone.
    pub(super) fn run(&mut self) -> Stop {
        let stop = match self.relay_all() {
            Err(stop) => stop,
            Ok(never) => match never {},
        };
        match stop {
            Stop::LoopGone => {
                self.send_last_acks();
                Stop::LoopGone
            }
            // Messages that have arrived are good, however the connection ended.
            Stop::Bus(error) => {
                self.jetstream.read_rest();
                let relayed = self.relay_waiting();
                if matches!(error, NatsError::LameDuck) {
                    self.send_last_acks();
                }
                match relayed {
                    Err(Stop::LoopGone) => Stop::LoopGone,
                    Err(Stop::Bus(_)) | Ok(()) => Stop::Bus(error),
                }
            }
        }
    }

    fn relay_all(&mut self) -> Result<Infallible, Stop> {
        self.report_caught_up()?;
        loop {
            self.turn()?;
        }
    }

    /// Reads at most once, and relays the messages. Looks at everything else if there is news or the time has come.
    /// Waits if there was nothing to read.
    fn turn(&mut self) -> Result<(), Stop> {
        let has_read = self.jetstream.read()?;
        self.relay_waiting()?;
        let now = match has_read {
            true => self.jetstream.connection.last_received(),
            false => Instant::now(),
        };
        let has_news = self.jetstream.take_woken() || !self.answers.is_empty();
        if has_news || self.is_silent || now >= self.check_due {
            self.check_due = self.check_subscriptions(!has_read)?;
            // Messages that arrived while something was asked.
            self.relay_waiting()?;
        }
        self.report_caught_up()?;
        let acks_due = self.send_due_acks(now);
        self.jetstream.flush()?;
        if has_read {
            self.relay.note_work();
        } else {
            let due = acks_due.map_or(self.check_due, |due| due.min(self.check_due));
            self.jetstream.wait(self.relay, due)?;
        }
        Ok(())
    }

    /// Tells the loop that the newest message of a subject was handed over ahead of its backlog: the state need not wait for
    /// the backlog, above all not for that of another subject.
    pub(super) fn report_warmed_up(&mut self) -> Result<(), Stop> {
        let mut is_owed = false;
        for subscription in self.subscriptions.iter_mut() {
            is_owed |= subscription.take_owed_warmed_up();
        }
        if is_owed {
            self.relay.link.send(BusEvent::WarmedUp)?;
        }
        Ok(())
    }

    /// Tells the loop that no backlog is left: once, and again after each message that was handed over quietly, however
    /// little of a turn its backlog took.
    fn report_caught_up(&mut self) -> Result<(), Stop> {
        self.report_warmed_up()?;
        if !self.subscriptions.iter().all(Subscription::is_caught_up) {
            return Ok(());
        }
        let mut is_owed = !std::mem::replace(&mut self.has_reported_caught_up, true);
        for subscription in self.subscriptions.iter_mut() {
            is_owed |= subscription.take_owed_caught_up();
        }
        if is_owed {
            self.relay.link.send(BusEvent::CaughtUp)?;
        }
        Ok(())
    }

    /// Handles answers, refusals and silences. Returns the time of the next look.
    fn check_subscriptions(&mut self, nothing_to_read: bool) -> Result<Instant, Stop> {
        if self.relay.link.is_over() {
            return Err(Stop::LoopGone);
        }
        let now = Instant::now();
        if now.saturating_duration_since(self.check_due) > self.interval() {
            // The thread has waited for room in the loop. The answers may be among what it has not read.
            self.watchdog.wait_longer(now);
            for subscription in self.subscriptions.iter_mut() {
                subscription.health.last_received = now;
            }
        }
        self.take_refusals()?;
        for (index, answers) in std::mem::take(&mut self.answers) {
            for answer in answers {
                self.handle_answer(index, answer)?;
            }
        }
        let streams = self.streams_read();
        let (settings, connection) = (self.settings, &self.jetstream.connection);
        if self.search.find_successor(&streams, settings, connection) {
            return Err(NatsError::LameDuck.into());
        }
        let Some(next) = self
            .jetstream
            .connection
            .watch(&self.settings.times, nothing_to_read)
        else {
            return self.check_other_server(self.jetstream.connection.last_received());
        };
        self.is_silent = false;
        self.note_received()?;
        // Consumers are checked only while the link is well: a silent link says nothing about them.
        self.check_consumers()?;
        let (watchdog, mut asker) = self.watching();
        watchdog.tick(Instant::now(), &mut asker);
        self.ask_account();
        Ok(self.watchdog.due().map_or(next, |due| due.min(next)))
    }

    /// Asks about the account, if a stream stands still, and shows what the server has said of the streams.
    fn ask_account(&mut self) {
        if self.standstills.take_account_question(Instant::now()) {
            let number = self
                .jetstream
                .ask(&Action::AccountInfo.subject_without_stream(), b"");
            self.account_request = Some(number);
        }
        self.standstills.show(&self.relay.status);
    }

    /// The watchdog, and what sends its questions to the server.
    fn watching(&mut self) -> (&mut Watchdog, Asker<'_>) {
        let asker = Asker {
            jetstream: &mut *self.jetstream,
            subscriptions: &*self.subscriptions,
        };
        (&mut self.watchdog, asker)
    }

    /// Sends the acknowledgements that are due. Returns when the next ones are due; `None` if none wait.
    fn send_due_acks(&mut self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for subscription in self.subscriptions.iter_mut() {
            let Some(due) = subscription.acks_due() else {
                continue;
            };
            if due <= now {
                subscription.send_acks(self.jetstream);
            } else {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        self.relay.link.set_owing(next.is_some());
        next
    }

    /// Sends all waiting acknowledgements before the process ends or moves to another server. Otherwise the next reader
    /// of a durable consumer would get the messages again.
    fn send_last_acks(&mut self) {
        let mut acks_wait = false;
        for subscription in self.subscriptions.iter_mut() {
            acks_wait |= subscription.acks_due().is_some();
            subscription.send_acks(self.jetstream);
        }
        if acks_wait {
            self.jetstream.flush_and_wait();
        }
        // A stop need not wait for this source any more.
        self.relay.link.set_owing(false);
    }

    /// Relays the messages that were read.
    pub(super) fn relay_waiting(&mut self) -> Result<(), Stop> {
        while let Some(message) = self.jetstream.next()? {
            if JetStreamConnection::is_answer(&message) {
                if message
                    .request()
                    .is_some_and(|number| self.account_request == Some(number))
                {
                    self.standstills.note_account(&message.payload);
                    continue;
                }
                let (watchdog, mut asker) = self.watching();
                let found = watchdog.take(message, Instant::now(), &mut asker);
                self.answers.extend(found);
                continue;
            }
            let mut subscriptions = self.subscriptions.iter_mut();
            // A message of no subscription comes from a consumer that was left a moment ago.
            if let Some(subscription) = subscriptions.find(|s| s.reads(&message)) {
                subscription.relay(message, self.jetstream, self.relay)?;
            }
        }
        Ok(())
    }

    /// Handles an answer of JetStream about a subscription.
    fn handle_answer(&mut self, index: usize, answer: WatchdogAnswer) -> Result<(), Stop> {
        let now = Instant::now();
        if answer == WatchdogAnswer::NoLeader {
            // No word of JetStream: a server that is cut off from its cluster says so too.
            let stream = &self.subscriptions[index].target.stream;
            self.standstills.no_leader(stream, now);
            return Ok(());
        }
        if answer == WatchdogAnswer::StreamAnswers {
            // No word about the consumer.
            return self.leave_silent_consumer(index);
        }
        if let WatchdogAnswer::Refused(error) = answer {
            self.subscriptions[index].health.refused = Some(error);
            return Ok(());
        }
        self.note_life(index, now);
        let subscription = &mut self.subscriptions[index];
        match answer {
            WatchdogAnswer::Counted(consumer, counts) if subscription.reads_from(&consumer) => {
                self.judge_counts(index, counts);
            }
            WatchdogAnswer::Gone(consumer) if subscription.reads_from(&consumer) => {
                tracing::warn!(
                    consumer,
                    "a consumer is gone from the server; making it again"
                );
                self.attach_again(index)?;
            }
            WatchdogAnswer::Paused(consumer) if subscription.reads_from(&consumer) => {
                tracing::warn!(
                    consumer,
                    "a consumer is paused (pause_until); reading from another one until it goes on"
                );
                self.attach_again(index)?;
            }
            WatchdogAnswer::WentBack(consumer) if subscription.reads_from(&consumer) => {
                self.stop_reading(index);
                self.attach_again(index)?;
            }
            WatchdogAnswer::StreamExists(is_there) if subscription.is_to_be_attached(is_there) => {
                self.attach_again(index)?;
            }
            WatchdogAnswer::Free if subscription.awaits_durable => self.take_over(index)?,
            WatchdogAnswer::State(info) => {
                let stream = &subscription.target.stream;
                self.standstills.note_info(stream, Ok(&info), now);
                // The attempt finds the stream that has the subject now. Of a transform, and of a stream that is chosen by its
                // name and has the subject no more, it says so, and later ones notice that this is over.
                if subscription.has_left_stream(&info.subjects) {
                    self.attach_again(index)?;
                }
            }
            // About a consumer no longer in use, or a stream still missing.
            WatchdogAnswer::Other
            | WatchdogAnswer::NoLeader
            | WatchdogAnswer::StreamAnswers
            | WatchdogAnswer::Refused(_)
            | WatchdogAnswer::Counted(..)
            | WatchdogAnswer::Gone(_)
            | WatchdogAnswer::Paused(_)
            | WatchdogAnswer::WentBack(_)
            | WatchdogAnswer::Free
            | WatchdogAnswer::StreamExists(_) => {}
        }
        Ok(())
    }

    /// Notes that JetStream answers about a subscription.
    fn note_life(&mut self, index: usize, now: Instant) {
        let reported_after = self.silence_reported_after();
        let subscription = &mut self.subscriptions[index];
        if subscription.health.silent_for(now) >= reported_after {
            subscription.attempts.hurry(now);
        }
        if subscription.health.note_received(now) {
            let subject = &subscription.spec.subject;
            tracing::info!(subject, "JetStream answers about a consumer again");
            if let Some(consumer) = status_of(&self.relay.status, subscription) {
                consumer.set_silent(false);
            }
        }
    }

    /// Judges by its counts whether the consumer in use still delivers.
    fn judge_counts(&mut self, index: usize, counts: Counts) {
        let subscription = &mut self.subscriptions[index];
        let has_changed = subscription.health.judge(counts, Instant::now());
        let (stall, pending) = (subscription.health.stall, counts.pending);
        if has_changed {
            log_stall(subscription, stall, pending);
        }
        if let Some(status) = status_of(&self.relay.status, subscription) {
            status.set_lag(Some(pending));
            if has_changed {
                status.set_stall(stall);
            }
        }
        if pending == 0 && counts.ack_pending == 0 {
            subscription.nothing_pending(self.jetstream);
        }
    }

    /// Applies each new refusal to the subscription concerned.
    fn take_refusals(&mut self) -> Result<(), Stop> {
        for refusal in self.jetstream.refusals.take_news() {
            if let Refusal::Request(subject) = &refusal {
                if Action::AccountInfo.has_subject(subject) {
                    self.standstills.not_permitted();
                    continue;
                }
                let (watchdog, mut asker) = self.watching();
                let found = watchdog.refused(subject, Instant::now(), &mut asker);
                self.answers.extend(found);
                continue;
            }
            let concerns = |subscription: &Subscription| {
                let attached = subscription.attached.as_ref();
                attached.is_some_and(|attached| match &refusal {
                    Refusal::Acks { stream, consumer } => {
                        let is_of = attached.consumer.name() == Some(consumer);
                        subscription.target.stream == *stream && is_of
                    }
                    Refusal::Subscription(subject) => attached.consumer.deliver_subject == *subject,
                    Refusal::Request(_) => false,
                })
            };
            let index = self.subscriptions.iter().position(concerns);
            if let Refusal::Subscription(subject) = &refusal {
                self.relay.status.count_refused();
                if subject == INBOXES {
                    // Neither messages nor answers come any more, and a server that gives the permission back does not make the
                    // subscriptions again.
                    return Err(NatsError::not_permitted("subscribe", INBOXES).into());
                }
            }
            let Some(index) = index else { continue };
            match refusal {
                Refusal::Acks { .. } => {
                    self.subscriptions[index].health.acks_refused = Some(Instant::now());
                }
                Refusal::Subscription(_) | Refusal::Request(_) => {
                    self.attach_again(index)?;
                }
            }
        }
        Ok(())
    }

    /// Handles a link that has been silent since `last_received`. Returns the time of the next look.
    fn check_other_server(&mut self, last_received: Instant) -> Result<Instant, Stop> {
        self.is_silent = true;
        match self.search.probe_if_due(
            last_received,
            self.relay,
            self.settings,
            &self.jetstream.connection,
        )? {
            Some(next) => Ok(next),
            // News during the second connection ends the silence.
            None if self.jetstream.has_news()? => Ok(Instant::now()),
            None => Err(self.jetstream.connection.silent().into()),
        }
    }

    /// Records that the link is well.
    fn note_received(&mut self) -> Result<(), Stop> {
        // The link alone is meant: each subject has its own status.
        let is_restored = true;
        if self.search.end_silence(self.relay, is_restored)? {
            let now = Instant::now();
            for subscription in self.subscriptions.iter_mut() {
                // A silence of the whole link says nothing about JetStream.
                subscription.health.last_received = now;
            }
        }
        Ok(())
    }

    /// The known streams of the subjects that are read, with the subjects.
    fn subjects_read(&self) -> impl Iterator<Item = (&str, &str)> {
        let read = |s: &&Subscription| !s.presence.is_left_out() && !s.target.stream.is_empty();
        let read = self.subscriptions.iter().filter(read);
        read.map(|s| (s.target.stream.as_str(), s.spec.subject.as_str()))
    }

    /// The known streams of the subjects that are read.
    pub(super) fn streams_read(&self) -> Vec<String> {
        let streams = self.subjects_read();
        streams.map(|(stream, _)| stream.to_owned()).collect()
    }

    /// Shows operators which subjects are read from which stream.
    pub(super) fn show_subjects_read(&self) {
        self.relay.status.set_subjects_read(self.subjects_read());
    }

    /// Watches the consumers that are in use now.
    pub(super) fn watch(&mut self) {
        self.show_subjects_read();
        let watched = self.watched();
        let read = self.subscriptions.iter();
        let read = read.filter(|s| !s.presence.is_left_out());
        let (attached, waiting): (Vec<_>, Vec<_>) = read.partition(|s| s.attached.is_some());
        let streams: Vec<_> = attached.iter().map(|s| s.target.stream.as_str()).collect();
        let some_wait = !waiting.is_empty();
        self.standstills
            .keep_only(&streams, some_wait, &self.relay.status);
        self.watchdog.watch(watched, Instant::now());
        self.check_due = Instant::now();
    }

    /// What the watchdog has to look after, for each subscription.
    pub(super) fn watched(&self) -> Vec<Watched> {
        let watched = |subscription: &Subscription| match &subscription.attached {
            _ if subscription.presence == Presence::Forbidden => Watched::Nothing,
            None => Watched::Subject(subscription.spec.clone()),
            Some(attached) => Watched::Consumer(WatchedConsumer {
                target: subscription.target.clone(),
                consumer: attached.consumer.name().unwrap_or_default().to_owned(),
                deliver_subject: attached.consumer.deliver_subject.clone(),
                awaits_durable: subscription.awaits_durable,
            }),
        };
        self.subscriptions.iter().map(watched).collect()
    }

    /// How long JetStream may be silent about a consumer. It is asked once per interval, so the last answer may be an
    /// interval old when the time to answer begins.
    pub(super) fn patience(&self) -> Duration {
        self.interval() + Duration::from_millis(self.settings.times.ping_timeout_ms)
    }

    /// The length of JetStream's silence about a subject before the log reports it.
    pub(super) fn silence_reported_after(&self) -> Duration {
        self.patience().saturating_add(ANSWER_TIMEOUT)
    }

    /// The pause between two questions about a subscription; at least 10 ms, so that no setting makes the questions
    /// follow each other at once.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis(self.settings.times.ping_interval_ms.max(10))
    }
}

/// Sends the questions of the watchdog.
struct Asker<'a> {
    jetstream: &'a mut JetStreamConnection,
    subscriptions: &'a [Subscription],
}

impl AskServer for Asker<'_> {
    fn ask(&mut self, subject: &str, body: &[u8]) -> u64 {
        self.jetstream.ask(subject, body)
    }

    fn reached(&self, index: usize) -> Option<Reached> {
        self.subscriptions.get(index)?.reached()
    }
}

/// The status of a subscription, for `/health` and `/ready`.
pub(super) fn status_of<'a>(
    status: &'a BusStatus,
    subscription: &Subscription,
) -> Option<&'a ConsumerStatus> {
    let subject = &subscription.spec.subject;
    status.consumers().iter().find(|c| c.subject() == subject)
}

/// Resets the status of the subscription's consumer.
pub(super) fn reset_status(status: &BusStatus, subscription: &Subscription) {
    if let Some(consumer) = status_of(status, subscription) {
        // Not known.
        consumer.set_lag(None);
        consumer.set_silent(false);
        consumer.set_stall(None);
    }
}

/// Logs that a subscription gets no messages although NATS has some, `lag` of them; or, with `None`, that it gets them
/// again.
fn log_stall(subscription: &Subscription, stall: Option<Stall>, lag: u64) {
    let subject = &subscription.spec.subject;
    match stall {
        Some(Stall::AcksRefused) => tracing::warn!(
            subject,
            lag,
            "NATS takes no acknowledgement of this subject and delivers no more after a limit; \
             let this user publish to $JS.ACK.>"
        ),
        Some(Stall::NothingDelivered) => tracing::warn!(
            subject,
            lag,
            "NATS holds messages of this subject, and none came for 5 s"
        ),
        None => tracing::info!(subject, lag, "the subject recovered"),
    }
}
