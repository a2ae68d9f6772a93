//! Attaches the subjects of a session to consumers, and again when JetStream loses a consumer, is silent about a
//! consumer, or failed to provide one. A fault of one subject does not affect the others. Subjects of optional streams
//! are left out as long as the server has none of the streams: each of their subscriptions has this decision, the same
//! for all ([`Presence`]). A subject of any other stream is always `Wanted`.

use std::time::{Duration, Instant};

use super::api::{ApiRequest, HASTY_TIMEOUT, JetStream};
use super::error::{NatsError, Stop};
use super::health::Health;
use super::session::{ConsumersSession, reset_status, status_of};
use super::streams::{Presence, StreamHead, ensure_stream, presence_of};
use super::subscription::{ConsumerChoice, Found, Look, Subscription};
use super::watchdog::Watchdog;
use crate::outage::Failure;

/// The stream of a subject.
enum Stream {
    /// The subject is not read.
    LeftOut,
    None,
    Found(StreamHead),
}

impl ConsumersSession<'_> {
    /// Sets up streams and consumers, and warms the cache. A subject that fails is left for later; if all fail, returns
    /// the first error.
    pub(super) fn set_up(&mut self) -> Result<(), Stop> {
        let is_without_subject = |stream: &str| {
            let mut specs = self.subscriptions.iter().map(|s| &s.spec);
            specs.all(|spec| spec.stream.as_deref() != Some(stream))
        };
        // The streams of subjects are made when the subjects are attached.
        for stream in &self.settings.streams {
            if is_without_subject(&stream.name) {
                ensure_stream(self.jetstream, stream)?;
            }
        }
        let mut failures = Vec::new();
        let (prompt, silent) = self.ask_for_streams()?;
        let found = self.look_at_all(&prompt, &mut failures)?;
        self.attach_all(found, &mut failures)?;
        if !prompt.is_empty() {
            // The good subjects wait for no more than they have waited for.
            self.jetstream.hurry();
        }
        let found = self.look_at_all(&silent, &mut failures)?;
        self.attach_all(found, &mut failures)?;
        self.jetstream.forget_asked_ahead();
        // From now on the other subjects wait during a request.
        self.jetstream.hurry();
        // A later answer of the server may have left the subject out.
        let is_read = |s: &Subscription| !s.presence.is_left_out();
        failures.retain(|&(index, _)| is_read(&self.subscriptions[index]));
        let read = self.subscriptions.iter().filter(|s| is_read(s)).count();
        let all_failed = failures.len() == read;
        for (index, error) in failures {
            if all_failed {
                return Err(error.into());
            }
            self.attach_failed(index, &error);
        }
        self.watchdog = Watchdog::new(self.interval(), self.watched(), Instant::now());
        self.show_subjects_read();
        Ok(())
    }

    /// Asks for the streams of all subjects that are to be read. Returns the indices of the subjects about which JetStream
    /// has answered, and of those about which it says nothing for now: their servers may be dead.
    fn ask_for_streams(&mut self) -> Result<(Vec<usize>, Vec<usize>), Stop> {
        let mut asked = Vec::new();
        for (index, subscription) in self.subscriptions.iter().enumerate() {
            // The watchdog asks again whether their streams exist. If this user may not ask
            // (`Presence::Forbidden`), a look asks again on each connection.
            if subscription.presence == Presence::LeftOut {
                continue;
            }
            let requests = subscription.stream_requests().into_iter();
            let numbers = requests.map(|request| self.jetstream.ask_ahead(request));
            asked.push((index, numbers.collect::<Vec<_>>()));
        }
        self.jetstream.wait_for_answers(HASTY_TIMEOUT)?;
        let is_answered =
            |(_, numbers): &(usize, Vec<u64>)| !numbers.iter().any(|n| self.jetstream.awaits(*n));
        let (prompt, silent): (Vec<_>, Vec<_>) = asked.into_iter().partition(is_answered);
        let indices = |asked: Vec<(usize, Vec<u64>)>| asked.into_iter().map(|(index, _)| index);
        Ok((indices(prompt).collect(), indices(silent).collect()))
    }

    /// Looks at the streams of these subjects, step by step for all of them together: the requests of a step are on their
    /// way at once, so many subjects take the round trips of one. What was found of a subject is handed over as soon as
    /// its look has ended, and before any consumer exists: the newest state of a subject waits for no backlog, of
    /// whatever subject.
    fn look_at_all(
        &mut self,
        indices: &[usize],
        failures: &mut Vec<(usize, NatsError)>,
    ) -> Result<Vec<(usize, Found)>, Stop> {
        let (mut found, mut heads) = (Vec::new(), Vec::new());
        let asked = indices.iter().map(|index| (*index, ())).collect();
        let streams = self.step_all(asked, failures, |session, index, ()| {
            session.find_stream(index)
        })?;
        for (index, stream) in streams {
            match stream {
                Stream::LeftOut => {}
                Stream::None => found.push((index, Found::NoStream)),
                Stream::Found(head) => heads.push((index, head)),
            }
        }
        for (index, _) in &heads {
            self.ask_ahead(self.subscriptions[*index].newest_requests());
        }
        let mut looks = self.step_all(heads, failures, |session, index, head| {
            Ok(session.subscriptions[index].begin_look(head, session.jetstream)?)
        })?;
        while !looks.is_empty() {
            let (mut ended, mut going) = (Vec::new(), Vec::new());
            for (index, look) in looks {
                match self.subscriptions[index].missed_request(&look, self.settings) {
                    Some(request) => {
                        self.ask_ahead(vec![request]);
                        going.push((index, look));
                    }
                    None => ended.push((index, look)),
                }
            }
            found.extend(self.step_all(ended, failures, Self::end_look)?);
            self.report_warmed_up()?;
            looks = self.step_all(going, failures, |session, index, mut look| {
                let subscription = &session.subscriptions[index];
                subscription.continue_look(&mut look, session.jetstream, session.settings)?;
                Ok(look)
            })?;
        }
        Ok(found)
    }

    /// Takes a step of [`set_up`](Self::set_up) for these subjects. Returns those for which it did not fail.
    fn step_all<T, U>(
        &mut self,
        subjects: Vec<(usize, T)>,
        failures: &mut Vec<(usize, NatsError)>,
        step: impl Fn(&mut Self, usize, T) -> Result<U, Stop>,
    ) -> Result<Vec<(usize, U)>, Stop> {
        let mut next = Vec::with_capacity(subjects.len());
        for (index, one) in subjects {
            let outcome = step(self, index, one);
            if outcome.is_err() {
                self.subscriptions[index].stop_reading(self.jetstream);
            }
            let outcome = outcome.map(|one| next.push((index, one)));
            self.note_attempt(index, outcome, failures)?;
        }
        Ok(next)
    }

    /// Sends the requests of the next step of a subject.
    fn ask_ahead(&mut self, requests: Vec<ApiRequest>) {
        for request in requests {
            self.jetstream.ask_ahead(request);
        }
    }

    /// Hands over what the look at a subject has found.
    fn end_look(&mut self, index: usize, look: Look) -> Result<Found, Stop> {
        let subscription = &mut self.subscriptions[index];
        let (jetstream, relay) = (&mut *self.jetstream, &*self.relay);
        subscription.end_look(look, jetstream, self.settings, relay)
    }

    /// Attaches subjects to consumers for what was found.
    fn attach_all(
        &mut self,
        mut found: Vec<(usize, Found)>,
        failures: &mut Vec<(usize, NatsError)>,
    ) -> Result<(), Stop> {
        // The shortest backlogs first: the answers about a subject come after the backlogs that are on their way.
        found.sort_by_key(|(index, one)| self.subscriptions[*index].distance(one));
        if !self.settings.ephemeral {
            let streams = found
                .iter()
                .filter(|(_, one)| !matches!(one, Found::NoStream));
            for (index, _) in streams {
                let target = &self.subscriptions[*index].target;
                self.ask_ahead(vec![ApiRequest::consumer(&target.stream, &target.durable)]);
            }
        }
        self.step_all(found, failures, Self::attach_to).map(drop)
    }

    /// Notes the outcome of a part of [`set_up`](Self::set_up) for a subject. An error that concerns only this subject goes
    /// to the `failures`.
    fn note_attempt(
        &mut self,
        index: usize,
        outcome: Result<(), Stop>,
        failures: &mut Vec<(usize, NatsError)>,
    ) -> Result<(), Stop> {
        // Also after a failure: the silence of JetStream counts from this connection on.
        self.subscriptions[index].health = Health::new(Instant::now());
        match outcome {
            Ok(()) => {}
            Err(Stop::Bus(error)) if !error.fails_all_requests() => {
                failures.push((index, error));
                // Only the first subject without an answer gets the full timeout; more such waits would delay the
                // good subjects.
                self.jetstream.hurry();
            }
            Err(stop) => return Err(stop),
        }
        Ok(())
    }

    /// Attaches a subject, or leaves the subject out. After an error the subject has no consumer.
    fn attach(&mut self, index: usize) -> Result<(), Stop> {
        let found = self.look(index)?;
        self.report_warmed_up()?;
        match found {
            Some(found) => self.attach_to(index, found),
            None => Ok(()),
        }
    }

    /// Looks at the stream of a subject; `None`: the subject is left out. After an error the subject has no consumer.
    fn look(&mut self, index: usize) -> Result<Option<Found>, Stop> {
        if self.check_presence(index)?.is_left_out() {
            return Ok(None);
        }
        let subscription = &mut self.subscriptions[index];
        let (jetstream, relay) = (&mut *self.jetstream, &*self.relay);
        let found = subscription.look(jetstream, self.settings, relay);
        if found.is_err() {
            subscription.stop_reading(self.jetstream);
        }
        found.map(Some)
    }

    /// Finds or makes the stream of a subject.
    fn find_stream(&mut self, index: usize) -> Result<Stream, Stop> {
        if self.check_presence(index)?.is_left_out() {
            return Ok(Stream::LeftOut);
        }
        let found = self.subscriptions[index].find_stream(self.jetstream)?;
        Ok(found.map_or(Stream::None, Stream::Found))
    }

    /// Attaches a subject to a consumer for what was found. After an error the subject has no consumer.
    fn attach_to(&mut self, index: usize, found: Found) -> Result<(), Stop> {
        let subscription = &mut self.subscriptions[index];
        let choice = match self.settings.ephemeral {
            true => ConsumerChoice::Ephemeral,
            false => ConsumerChoice::Durable,
        };
        if let Err(error) = subscription.attach(found, self.jetstream, self.settings, choice) {
            subscription.stop_reading(self.jetstream);
            return Err(error.into());
        }
        // Not before: a failed attempt is not an answer of JetStream.
        subscription.health = Health::new(Instant::now());
        reset_status(&self.relay.status, subscription);
        let away = subscription.attempts.note_success(Instant::now());
        if let Some(away) = away {
            tracing::info!(
                subject = subscription.spec.subject,
                away_ms = away.as_millis() as u64,
                "a subject is relayed again"
            );
        }
        if let Some(status) = status_of(&self.relay.status, subscription) {
            status.set_attached();
        }
        Ok(())
    }

    /// Records a failed attempt to attach a subject.
    fn attach_failed(&mut self, index: usize, error: &NatsError) {
        let subscription = &mut self.subscriptions[index];
        // Nobody waits for the subject, and the watchdog asks again.
        if subscription.presence.is_left_out() {
            return;
        }
        let now = Instant::now();
        let failure = subscription.attempts.note_failure(error, now);
        self.standstills.note_failure(error, now);
        reset_status(&self.relay.status, subscription);
        if let Some(status) = status_of(&self.relay.status, subscription) {
            status.set_away(self.relay.link.now().mono_us);
        }
        let subject = &subscription.spec.subject;
        match failure {
            Failure::First => tracing::warn!(
                %error,
                subject,
                "a subject cannot be relayed; trying again, and the other subjects go on"
            ),
            Failure::News(away) => tracing::warn!(
                %error,
                subject,
                away_ms = away.as_millis() as u64,
                "a subject still cannot be relayed; trying again"
            ),
            Failure::Same => tracing::debug!(%error, subject, "a subject still cannot be relayed"),
        }
    }

    /// Attaches a subject after the loss of consumer or stream, or after a failed attempt. A failure of this attempt is
    /// logged, and is no error.
    pub(super) fn attach_again(&mut self, index: usize) -> Result<(), Stop> {
        // Waiting messages are relayed first: they are older than the messages of the next consumer.
        self.relay_waiting()?;
        // The acknowledgements belong to the consumer in use until now.
        self.subscriptions[index].send_acks(self.jetstream);
        match self.attach(index) {
            Ok(()) => {}
            Err(Stop::Bus(error)) if !error.fails_all_requests() => {
                self.attach_failed(index, &error);
            }
            Err(stop) => return Err(stop),
        }
        self.watch();
        Ok(())
    }

    /// Stops reading a subject: gives its consumer up, which is deleted if it is not durable, and shows the subject as away
    /// until [`attach_again`](Self::attach_again).
    pub(super) fn stop_reading(&mut self, index: usize) {
        let subscription = &mut self.subscriptions[index];
        subscription.stop_reading(self.jetstream);
        if let Some(status) = status_of(&self.relay.status, subscription) {
            status.set_away(self.relay.link.now().mono_us);
        }
    }

    /// Changes to a durable consumer that is free by now. After a failure the subject is read as before.
    pub(super) fn take_over(&mut self, index: usize) -> Result<(), Stop> {
        let subscription = &mut self.subscriptions[index];
        subscription.send_acks(self.jetstream);
        match subscription.take_over(self.jetstream, self.relay) {
            Ok(()) => self.watch(),
            Err(Stop::Bus(error)) if !error.fails_all_requests() => {
                let subject = &subscription.spec.subject;
                tracing::debug!(%error, subject, "the durable consumer was not taken over");
            }
            Err(stop) => return Err(stop),
        }
        Ok(())
    }

    /// Reports consumers about which JetStream does not answer, and reads the subjects of those that have delivered nothing
    /// for a while from other consumers. The link is well meanwhile, and the other consumers may be well too.
    pub(super) fn check_consumers(&mut self) -> Result<(), Stop> {
        let again = self.attached_again_after();
        let reported_after = self.silence_reported_after();
        for index in 0..self.subscriptions.len() {
            let subscription = &mut self.subscriptions[index];
            if subscription.presence.is_left_out() {
                continue;
            }
            let now = Instant::now();
            if subscription.attempts.is_away() {
                // JetStream has to answer first; silence counts as another failed attempt.
                let is_silent = subscription.health.silent_for(now) >= reported_after;
                if is_silent && subscription.attempts.is_due(now) {
                    let error = subscription.health.silence();
                    self.attach_failed(index, &error);
                }
                continue;
            }
            if let Some(silent) = subscription.health.falls_silent(now, reported_after) {
                let subject = &subscription.spec.subject;
                let silent_ms = silent.as_millis() as u64;
                match subscription.health.refused {
                    Some(_) => tracing::warn!(
                        error = %subscription.health.silence(),
                        subject,
                        silent_ms,
                        "nothing is known about a consumer; the connection is well"
                    ),
                    None => tracing::warn!(
                        subject,
                        silent_ms,
                        "JetStream does not answer about a consumer; the connection is well, and \
                         the other subjects go on"
                    ),
                }
                if let Some(consumer) = status_of(&self.relay.status, subscription) {
                    consumer.set_silent(true);
                    // Not known.
                    consumer.set_lag(None);
                }
            }
            let is_due = subscription.health.is_stalled_too_long(now, again);
            if is_due && subscription.attached.is_some() {
                self.attach_elsewhere(index)?;
            }
        }
        self.check_jetstream(reported_after)
    }

    /// Leaves a server on which JetStream says nothing about any subject and delivers nothing, if another server
    /// answers: this server may be cut off from the others of its cluster.
    fn check_jetstream(&mut self, reported_after: Duration) -> Result<(), Stop> {
        let now = Instant::now();
        let is_read = |s: &&Subscription| !s.presence.is_left_out();
        let mut read = self.subscriptions.iter().filter(is_read).peekable();
        // If no subject is read, nothing can be silent.
        if read.peek().is_none() || !read.all(|s| s.health.hears_nothing(now, reported_after)) {
            return Ok(());
        }
        let (streams, settings, connection) = (
            self.streams_read(),
            self.settings,
            &self.jetstream.connection,
        );
        match self
            .search
            .find_jetstream_elsewhere(&streams, settings, connection)
        {
            true => Err(NatsError::ElsewhereOnly.into()),
            // No other server is better, and this one may have answered meanwhile.
            false => Ok(()),
        }
    }

    /// Reads a subject from another consumer if JetStream has not answered about its own one for a while. To be called when
    /// the leader of its stream answers: an attempt at a stream without one would only keep the other subjects waiting.
    pub(super) fn leave_silent_consumer(&mut self, index: usize) -> Result<(), Stop> {
        let again = self.attached_again_after();
        let subscription = &self.subscriptions[index];
        let is_due = (subscription.health).is_silent_too_long(Instant::now(), again);
        match is_due && subscription.attached.is_some() {
            true => self.attach_elsewhere(index),
            false => Ok(()),
        }
    }

    /// How long a consumer may be silent, or deliver nothing, before its subject is read from another one.
    fn attached_again_after(&self) -> Duration {
        Duration::from_millis(self.settings.consumer_silence_max_ms)
    }

    /// Attaches a subject to an ephemeral consumer, while JetStream does not answer about the durable consumer. After a
    /// failure the subject is read as before.
    fn attach_elsewhere(&mut self, index: usize) -> Result<(), Stop> {
        self.relay_waiting()?;
        let subscription = &mut self.subscriptions[index];
        subscription.send_acks(self.jetstream);
        let relay = &*self.relay;
        subscription.health.attached = Instant::now();
        let (jetstream, choice) = (&mut *self.jetstream, ConsumerChoice::Ephemeral);
        let found = subscription.look(jetstream, self.settings, relay);
        let attached = found
            .and_then(|found| Ok(subscription.attach(found, jetstream, self.settings, choice)?));
        let subject = &subscription.spec.subject;
        match attached {
            // Not all that `fails_all_requests`: the other subjects may still get messages on this connection.
            Err(stop @ (Stop::LoopGone | Stop::Bus(NatsError::Lost | NatsError::Ended(_)))) => {
                return Err(stop);
            }
            Err(Stop::Bus(error)) => {
                self.standstills.note_failure(&error, Instant::now());
                tracing::warn!(%error, subject, "no other consumer can be made for a subject");
            }
            Ok(()) => tracing::warn!(subject, "a subject is read from another consumer"),
        }
        self.watch();
        Ok(())
    }

    /// Decides whether a subject is read. Asks the server, unless the subject is wanted already; the answer is about all
    /// optional subjects.
    ///
    /// # Errors
    /// As [`presence_of`]; nothing is decided.
    fn check_presence(&mut self, index: usize) -> Result<Presence, NatsError> {
        if self.subscriptions[index].presence == Presence::Wanted {
            return Ok(Presence::Wanted);
        }
        let found = presence_of(self.jetstream, &self.settings.streams)?;
        self.log_presence(found);
        for subscription in self.subscriptions.iter_mut() {
            if subscription.presence == Presence::Wanted {
                continue;
            }
            subscription.presence = found;
            let status = status_of(&self.relay.status, subscription);
            if let Some(status) = status {
                status.set_left_out(found.is_left_out());
            }
            // An earlier attempt may have failed for lack of an answer; the subject no longer counts as away.
            if found.is_left_out() {
                subscription.attempts.note_success(Instant::now());
                if let Some(status) = status {
                    status.set_attached();
                }
            }
        }
        Ok(found)
    }

    /// Logs a change.
    fn log_presence(&self, found: Presence) {
        let mut subscriptions = self.subscriptions.iter();
        let was_left_out = subscriptions.any(|s| s.presence.is_left_out());
        let names = self.settings.streams.iter().map(|s| s.name.as_str());
        let streams = names.collect::<Vec<_>>().join(" ");
        match (found.is_left_out(), was_left_out) {
            (false, true) => tracing::info!(
                streams,
                "one of these streams is there by now; their subjects are read too"
            ),
            (true, false) if found == Presence::Forbidden => tracing::info!(
                streams,
                "this user may not ask for all of these streams ($JS.API.STREAM.INFO.*), and none \
                 of the others is there; only the relays are read, and no stream is made (--market)"
            ),
            (true, false) => tracing::info!(
                streams,
                "none of these streams is there; only the relays are read, and no stream is made \
                 (--market)"
            ),
            _ => {}
        }
    }
}
