//! A relayed subject: the consumer, the position reached, and how much of the backlog is quiet: handed over as state, not as
//! news.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::api::{ApiError, ApiRequest, ConsumerState, Fetched, JetStream, request_failed};
use super::consumers::{
    Attached, Durable, DurableState, DurableTarget, Joined, NotUsed, find_durable,
};
use super::cursor::{Cursor, Observed, Reached};
use super::error::{NatsError, Stop};
use super::health::Health;
use super::jetstream_connection::JetStreamConnection;
use super::look_back::{LookBackError, look_back};
use super::needs::{Action, Need};
use super::protocol::{AckSubject, Delivery};
use super::settings::{LookBack, NatsSettings, StreamSpec, SubscriptionSpec};
use super::standstill::Standstills;
use super::streams::{self, Presence, StreamHead};
use crate::outage::Attempts;
use crate::relay::Relay;
use weirgate_core::{BusEvent, BusMessage, StreamPosition};
use weirgate_runtime::SourceLink;
use weirgate_wire::auth::StreamSubjects;
use weirgate_wire::base::Now;

/// The longest wait for a message of a gap; the messages are in the stream already.
const GAP_MESSAGE_TIMEOUT: Duration = Duration::from_millis(1_000);

/// The servers of a cluster may have clocks that differ by as much, nanoseconds.
const CLOCKS_DIFFER_NS: u64 = 1_000_000_000;

/// The consumer that a subject is to be read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConsumerChoice {
    /// The durable one, or an ephemeral one until the durable one is free.
    Durable,
    /// A new ephemeral one.
    Ephemeral,
}

/// What the stream of a subject has, found out before a consumer delivers.
pub(super) enum Found {
    /// No stream has the subject.
    NoStream,
    Stream {
        head: StreamHead,
        /// The last message of the subject; `None`: it has none.
        newest: Option<Reached>,
        unseen: Unseen,
    },
}

/// How many messages of a subject were not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unseen {
    /// No message was handed over before: the consumer knows how many wait.
    Unknown,
    None,
    /// At most [`NatsSettings::backlog_quiet_min`].
    Few,
    Many,
}

/// A look at the stream of a subject, before it has ended: which messages of the subject were missed is read one by one.
pub(super) struct Look {
    head: StreamHead,
    /// The last message of the subject; `None`: it has none.
    last: Option<Fetched>,
    /// The newest message that was handed over before; `None`: none was.
    reached: Option<u64>,
    /// The messages between these two that were read so far.
    missed: Vec<Fetched>,
    /// There are no others.
    is_read: bool,
}

impl Look {
    fn last_sequence(&self) -> Option<u64> {
        self.last.as_ref().map(|last| last.sequence)
    }

    fn newest(&self) -> Option<Reached> {
        let last = self.last.as_ref()?;
        Some(Reached {
            sequence: last.sequence,
            stored_unix_ns: last.stored_unix_ns,
        })
    }

    /// How many messages were missed, as far as is known by now.
    fn unseen(&self, settings: &NatsSettings) -> Unseen {
        let missed = self.missed.len() as u64 + 1;
        match (self.reached, self.last_sequence()) {
            (None, _) => Unseen::Unknown,
            (Some(reached), last) if last <= Some(reached) => Unseen::None,
            _ if missed <= settings.backlog_quiet_min => Unseen::Few,
            _ => Unseen::Many,
        }
    }

    /// The first sequence number that the next message that was missed can have; `None` if it is known which messages
    /// were missed, or that they are more than a few: each message is a request.
    fn reads_on_from(&self, settings: &NatsSettings) -> Option<u64> {
        if self.is_read || self.unseen(settings) != Unseen::Few {
            return None;
        }
        let before = self.missed.last().map(|missed| missed.sequence);
        let from = before.max(self.reached)? + 1;
        (Some(from) < self.last_sequence()).then_some(from)
    }
}

/// A relayed subject, over all connections.
pub(super) struct Subscription {
    pub(super) spec: SubscriptionSpec,
    /// The subject's stream, if weirgate makes the stream.
    ours: Option<StreamSpec>,
    /// Whether the subject is read.
    pub(super) presence: Presence,
    /// The stream, the subject and the durable consumer. The name of the stream is empty until known.
    pub(super) target: DurableTarget,
    subject: Arc<str>,
    /// The stream of this name does not have the subject. It may have messages of it from before.
    lacks_subject: bool,
    cursor: Cursor,
    /// The consumer in use on this connection; `None` without a stream, or after a failed attempt.
    pub(super) attached: Option<Attached>,
    /// Reading from an ephemeral consumer until the durable consumer is free.
    pub(super) awaits_durable: bool,
    /// The deliver subject of the durable consumer, if the server has refused it.
    refused: Option<String>,
    /// To subscribe to the deliver subject. They have pauses, because each refusal is an error in the log of the server.
    durable_attempts: Attempts<NatsError>,
    /// Messages up to this stream sequence are backlog; `None`: no backlog is left.
    quiet_until: Option<u64>,
    /// A message was handed over quietly: the loop is to be told when no backlog is left ([`BusEvent::CaughtUp`]).
    owes_caught_up: bool,
    /// The newest message was handed over ahead of the backlog: the loop is to be told ([`BusEvent::WarmedUp`]).
    owes_warmed_up: bool,
    pub(super) health: Health,
    /// To attach the subject, over all connections.
    pub(super) attempts: Attempts<NatsError>,
    /// The last state logged of stream and durable consumer; each state is logged once.
    logged: Option<DurableState>,
}

impl Subscription {
    /// What a source does with the streams of its subjects.
    pub(super) fn needs() -> Vec<Need> {
        let consumers = "a consumer that is left stays for 10 s";
        vec![
            Need::must(Action::StreamInfo),
            Need::must(Action::CreateStream),
            Need::must(Action::GetMessage),
            Need::must(Action::ConsumerInfo),
            Need::must(Action::CreateDurable),
            Need::must(Action::CreateConsumer),
            Need::may(Action::DeleteConsumer, consumers),
            Need::must(Action::Acknowledge),
            Standstills::need(),
        ]
    }

    pub(super) fn new(spec: SubscriptionSpec, settings: &NatsSettings) -> Self {
        let named = |s: &&StreamSpec| spec.stream.as_ref() == Some(&s.name);
        let ours = settings.streams.iter().find(named).cloned();
        // Attempts have pauses, because each attempt makes the other subjects wait for a moment.
        let attempts = || {
            Attempts::new(
                settings.times.ping_interval_ms,
                settings.consumer_silence_max_ms,
            )
        };
        Self {
            presence: Presence::new(settings.streams_optional && ours.is_some()),
            ours,
            target: DurableTarget {
                stream: spec.stream.clone().unwrap_or_default(),
                subject: spec.subject.clone(),
                durable: spec.durable.clone(),
            },
            subject: spec.subject.as_str().into(),
            lacks_subject: false,
            attempts: attempts(),
            durable_attempts: attempts(),
            spec,
            cursor: Cursor::default(),
            attached: None,
            awaits_durable: false,
            refused: None,
            quiet_until: None,
            owes_caught_up: false,
            owes_warmed_up: false,
            health: Health::new(Instant::now()),
            logged: None,
        }
    }

    /// Whether to attach the subject now: no consumer is in use, and weirgate finds or makes the stream.
    pub(super) fn is_to_be_attached(&self, stream_is_there: bool) -> bool {
        let can_be = stream_is_there || (self.ours.is_some() && !self.presence.is_left_out());
        self.attached.is_none() && can_be && self.attempts.is_due(Instant::now())
    }

    /// Whether the backlog has been handed over, or the server sends no more of it for now, which has a reason of its own
    /// in `/ready`.
    pub(super) fn is_caught_up(&self) -> bool {
        self.quiet_until.is_none() || self.health.stall.is_some()
    }

    /// Whether a message was handed over quietly since the last call.
    pub(super) fn take_owed_caught_up(&mut self) -> bool {
        std::mem::take(&mut self.owes_caught_up)
    }

    /// Whether the newest message was handed over ahead of a backlog since the last call.
    pub(super) fn take_owed_warmed_up(&mut self) -> bool {
        std::mem::take(&mut self.owes_warmed_up)
    }

    /// Handles the server's report that no message is pending or unacknowledged. If nothing waits here either, the end
    /// of the backlog was deleted from the stream meanwhile, and the backlog is over.
    pub(super) fn nothing_pending(&mut self, jetstream: &JetStreamConnection) {
        let waits = |s: &Attached| jetstream.has_waiting(s.consumer.sid);
        if !self.attached.as_ref().is_some_and(waits) {
            self.quiet_until = None;
        }
    }

    /// Whether the message comes from the consumer in use.
    pub(super) fn reads(&self, message: &Delivery) -> bool {
        let attached = self.attached.as_ref();
        attached.is_some_and(|attached| attached.consumer.sid == message.sid)
    }

    /// Whether the consumer in use has this name.
    pub(super) fn reads_from(&self, consumer: &str) -> bool {
        let attached = self.attached.as_ref();
        attached.is_some_and(|attached| attached.consumer.name() == Some(consumer))
    }

    /// The newest message that was handed over, or needs no relay.
    pub(super) fn reached(&self) -> Option<Reached> {
        self.cursor.newest()
    }

    /// Stops reading: gives the consumer up, and forgets what was to come from it.
    pub(super) fn stop_reading(&mut self, jetstream: &mut JetStreamConnection) {
        self.quiet_until = None;
        self.awaits_durable = false;
        self.replace_consumer(None, jetstream);
    }

    /// Reads from this consumer, and no more from the one before.
    /// `None`: from none.
    fn replace_consumer(
        &mut self,
        attached: Option<Attached>,
        jetstream: &mut JetStreamConnection,
    ) {
        if let Some(before) = std::mem::replace(&mut self.attached, attached) {
            jetstream.leave_consumer(before.consumer);
        }
    }

    /// Finds or makes the stream, and hands over the newest messages of the subject: the few that were missed, and of more
    /// only the last (warm-up). That needs no consumer: this user may not be permitted to make one, the stream may have no
    /// room for another one, and once a consumer delivers, each answer comes after its backlog.
    pub(super) fn look(
        &mut self,
        jetstream: &mut JetStreamConnection,
        settings: &NatsSettings,
        relay: &Relay<NatsError>,
    ) -> Result<Found, Stop> {
        let Some(head) = self.find_stream(jetstream)? else {
            return Ok(Found::NoStream);
        };
        let mut look = self.begin_look(head, jetstream)?;
        while look.reads_on_from(settings).is_some() {
            self.continue_look(&mut look, jetstream, settings)?;
        }
        self.end_look(look, jetstream, settings, relay)
    }

    /// The requests with which [`Self::find_stream`] begins.
    pub(super) fn stream_requests(&self) -> Vec<ApiRequest> {
        let stream = &self.target.stream;
        let which = || ApiRequest::stream_holding(&self.spec.subject);
        let which = self.spec.stream.is_none().then(which);
        let info = (!stream.is_empty()).then(|| ApiRequest::stream_info(stream));
        which.into_iter().chain(info).collect()
    }

    /// The requests of [`Self::begin_look`]. They are sent after the stream has answered: its state must not be newer than
    /// the last message.
    pub(super) fn newest_requests(&self) -> Vec<ApiRequest> {
        let stream = &self.target.stream;
        let handed = self.cursor.newest();
        let handed = handed.filter(|handed| handed.stored_unix_ns.is_some());
        let handed = handed.map(|handed| ApiRequest::message_at(stream, handed.sequence));
        let last = ApiRequest::last(stream, &self.spec.subject);
        [last].into_iter().chain(handed).collect()
    }

    /// Reads the last message of the subject.
    pub(super) fn begin_look(
        &mut self,
        head: StreamHead,
        jetstream: &mut JetStreamConnection,
    ) -> Result<Look, NatsError> {
        let last = jetstream.last_message(&self.target)?;
        self.observe(head, last.as_ref(), jetstream)?;
        Ok(Look {
            head,
            last,
            reached: self.cursor.sequence(),
            missed: Vec::new(),
            is_read: false,
        })
    }

    /// The request of [`Self::continue_look`]; `None` if the look can end.
    pub(super) fn missed_request(
        &self,
        look: &Look,
        settings: &NatsSettings,
    ) -> Option<ApiRequest> {
        let from = look.reads_on_from(settings)?;
        let (stream, subject) = (&self.target.stream, &self.spec.subject);
        Some(ApiRequest::first_from(stream, subject, from))
    }

    /// Reads the next of the messages that were missed.
    pub(super) fn continue_look(
        &self,
        look: &mut Look,
        jetstream: &mut JetStreamConnection,
        settings: &NatsSettings,
    ) -> Result<(), NatsError> {
        let Some(from) = look.reads_on_from(settings) else {
            return Ok(());
        };
        let (stream, subject) = (&self.target.stream, &self.spec.subject);
        let failed = |error| request_failed(format!("give a message of {subject}"), error);
        let found = jetstream
            .first_from(stream, subject, from)
            .map_err(failed)?;
        match found.filter(|found| Some(found.sequence) < look.last_sequence()) {
            Some(missed) => look.missed.push(missed),
            None => look.is_read = true,
        }
        Ok(())
    }

    /// Hands over what was found. Of the few messages that were missed, a consumer delivers some again, and gets its
    /// acknowledgements then.
    pub(super) fn end_look(
        &mut self,
        look: Look,
        jetstream: &mut JetStreamConnection,
        settings: &NatsSettings,
        relay: &Relay<NatsError>,
    ) -> Result<Found, Stop> {
        let (unseen, newest) = (look.unseen(settings), look.newest());
        match (unseen, look.last) {
            (Unseen::None, _) | (_, None) => {}
            (Unseen::Few, Some(last)) => {
                // What was backlog of the consumer before is among them.
                self.quiet_until = None;
                for message in look.missed.into_iter().chain([last]) {
                    self.hand_over_next(message, relay)?;
                }
            }
            (Unseen::Unknown | Unseen::Many, Some(last)) => {
                self.warm(last, jetstream, &settings.look_back, relay)?;
            }
        }
        Ok(Found::Stream {
            head: look.head,
            newest,
            unseen,
        })
    }

    /// Finds or makes a consumer for what was [`found`](Self::look), and decides how much of the backlog is quiet. An error
    /// leaves the consumer in use unchanged.
    ///
    /// The backlog is determined once, from consumer and stream, and ends at a stream sequence. The pending count in
    /// each message would be a simpler end, but under steady traffic the count need never be zero, and a redelivered
    /// message carries a zero before the end of the backlog.
    pub(super) fn attach(
        &mut self,
        found: Found,
        jetstream: &mut JetStreamConnection,
        settings: &NatsSettings,
        choice: ConsumerChoice,
    ) -> Result<(), NatsError> {
        let Found::Stream {
            head,
            newest,
            unseen,
        } = found
        else {
            self.replace_consumer(None, jetstream);
            self.quiet_until = None;
            self.log_state(DurableState::NoStream);
            return Ok(());
        };
        // Also a durable consumer from before would be quiet for ever, and look well.
        if self.lacks_subject {
            return Err(NatsError::NotTaken {
                stream: self.target.stream.clone(),
                subject: self.spec.subject.clone(),
            });
        }
        let last_sequence = newest.map(|newest| newest.sequence);
        // The last message that no consumer has to deliver: it was handed over, or the warm-up has handed it over.
        let before = self.cursor.sequence().or(last_sequence);
        let start = before.unwrap_or(head.last_sequence) + 1;
        let attached = self.subscribe(jetstream, settings, choice, head, start)?;
        let waiting = attached.pending + attached.ack_pending;
        let delivered = attached.delivered.min(head.last_sequence);
        let at_consumer = newest.filter(|newest| newest.sequence == delivered);
        let reached = self.cursor.reached.or(at_consumer);
        let reached = reached.unwrap_or_else(|| Reached::number(delivered));
        self.cursor.reached = Some(reached);
        let is_long = match unseen {
            Unseen::Unknown => waiting > settings.backlog_quiet_min,
            Unseen::None | Unseen::Few => false,
            Unseen::Many => true,
        };
        self.quiet_until = last_sequence.filter(|last| is_long && *last > reached.sequence);
        self.replace_consumer(Some(attached), jetstream);
        Ok(())
    }

    /// How far the newest message of the subject is from the last one handed over, in numbers of the stream.
    pub(super) fn distance(&self, found: &Found) -> u64 {
        match found {
            Found::Stream {
                newest: Some(newest),
                ..
            } => (newest.sequence).saturating_sub(self.cursor.sequence().unwrap_or(0)),
            Found::Stream { newest: None, .. } | Found::NoStream => 0,
        }
    }

    /// Looks for the stream that has the subject, or makes it if it is one of weirgate's own. Returns `None` if no
    /// stream has the subject; otherwise `target` has the name of the stream from here on.
    pub(super) fn find_stream(
        &mut self,
        jetstream: &mut JetStreamConnection,
    ) -> Result<Option<StreamHead>, NatsError> {
        let found = match &self.ours {
            Some(ours) => Some(streams::ensure_stream(jetstream, ours)?),
            None => {
                let action = || format!("find the stream of {}", self.subject);
                let failed = |error| request_failed(action(), error);
                streams::find_stream(jetstream, &self.spec).map_err(failed)?
            }
        };
        let Some(found) = found else { return Ok(None) };
        self.target.stream = found.name;
        self.check_subject(&found.subjects)?;
        self.lacks_subject = self.is_without_subject(&found.subjects);
        Ok(Some(found.head))
    }

    /// Whether the stream that is read, which has these subjects now, stores no more messages under the subject: it stores
    /// them under another one (a transform), or it no longer has the subject.
    pub(super) fn has_left_stream(&self, subjects: &StreamSubjects) -> bool {
        self.attached.is_some()
            && (self.check_subject(subjects).is_err() || self.is_without_subject(subjects))
    }

    /// Whether a stream with these subjects does not have the subject, as far as they are known.
    fn is_without_subject(&self, subjects: &StreamSubjects) -> bool {
        !subjects.stored().is_empty() && !subjects.has_some_of(&self.spec.subject)
    }

    /// Refuses a subject that the stream, which has these subjects, stores under another one: no message of it would ever
    /// come.
    fn check_subject(&self, subjects: &StreamSubjects) -> Result<(), NatsError> {
        match subjects.moved_to(&self.spec.subject) {
            None => Ok(()),
            Some(stored) => Err(NatsError::StoredElsewhere {
                stream: self.target.stream.clone(),
                subject: self.spec.subject.clone(),
                stored: stored.to_owned(),
            }),
        }
    }

    /// Takes in the state of the stream and the last message of the subject, and finds out whether the stream lacks what
    /// was handed over of it, or has given its number to another message.
    fn observe(
        &mut self,
        stream: StreamHead,
        last: Option<&Fetched>,
        jetstream: &mut JetStreamConnection,
    ) -> Result<(), NatsError> {
        let went_back = match self.cursor.observe(stream) {
            Observed::WentBack => true,
            Observed::Other => false,
            Observed::Same => {
                let gave_again = self.gave_number_again(last, jetstream)?;
                if gave_again {
                    self.cursor.start_over();
                }
                gave_again
            }
        };
        if went_back {
            tracing::warn!(
                subject = self.spec.subject,
                stream = self.target.stream,
                last_sequence = stream.last_sequence,
                "the stream has lost its newest messages; clients get the last message that it has"
            );
        }
        Ok(())
    }

    /// Whether the stream has given the number of the last message that was handed over to another message. `last`: the
    /// last message of the subject.
    fn gave_number_again(
        &self,
        last: Option<&Fetched>,
        jetstream: &mut JetStreamConnection,
    ) -> Result<bool, NatsError> {
        let Some(Reached {
            sequence,
            stored_unix_ns: Some(stored),
        }) = self.cursor.newest()
        else {
            return Ok(false);
        };
        let found = self.message_at(sequence, jetstream)?;
        let is_other = |one: &Fetched| one.stored_unix_ns.is_some_and(|found| found != stored);
        // The message may be gone; an older number with a later time shows it as well.
        let is_later = |one: &Fetched| {
            one.sequence < sequence && one.stored_unix_ns.is_some_and(|at| at > stored)
        };
        Ok(found.as_ref().is_some_and(is_other) || last.is_some_and(is_later))
    }

    /// Reads the message with this number in the stream, of whatever subject; `None` if the stream no longer has it.
    fn message_at(
        &self,
        sequence: u64,
        jetstream: &mut JetStreamConnection,
    ) -> Result<Option<Fetched>, NatsError> {
        let failed =
            |error| request_failed(format!("give a message of {}", self.spec.subject), error);
        jetstream
            .message_at(&self.target.stream, sequence)
            .map_err(failed)
    }

    /// Changes from an ephemeral consumer to the durable consumer, if still free.
    ///
    /// Both consumers run for a moment. Messages that the durable consumer delivered to others before are awaited from
    /// the ephemeral consumer; a message from both is recognised by its sequence.
    pub(super) fn take_over(
        &mut self,
        jetstream: &mut JetStreamConnection,
        relay: &Relay<NatsError>,
    ) -> Result<(), Stop> {
        if !self.durable_attempts.is_due(Instant::now()) {
            return Ok(());
        }
        let Some(stream) = self.find_stream(jetstream)? else {
            return Ok(());
        };
        let start = self.cursor.sequence().unwrap_or(0) + 1;
        let Some(durable) = self.subscribe_to_durable(jetstream, stream, start)? else {
            return Ok(());
        };
        self.awaits_durable = false;
        let delivered = durable.delivered;
        let Some(unnamed) = self.attached.replace(durable) else {
            return Ok(());
        };
        while self.cursor.sequence() < Some(delivered)
            && let Some(message) = jetstream.next_of(unnamed.consumer.sid, GAP_MESSAGE_TIMEOUT)?
        {
            self.relay(message, jetstream, relay)?;
        }
        jetstream.leave_consumer(unnamed.consumer);
        Ok(())
    }

    /// Subscribes to the durable consumer or, if not available, to an ephemeral consumer.
    fn subscribe(
        &mut self,
        jetstream: &mut JetStreamConnection,
        settings: &NatsSettings,
        choice: ConsumerChoice,
        stream: StreamHead,
        start: u64,
    ) -> Result<Attached, NatsError> {
        if choice == ConsumerChoice::Durable
            && let Some(durable) = self.subscribe_to_durable(jetstream, stream, start)?
        {
            self.awaits_durable = false;
            return Ok(durable);
        }
        self.awaits_durable = !settings.ephemeral;
        let made = jetstream.make_consumer(&self.target, None, start);
        let made = made.map_err(|error| match &self.refused {
            // What is missing, not what would replace it.
            Some(subject) if !error.fails_all_requests() => NatsError::refused(subject),
            _ => error,
        });
        made?.ok_or_else(|| {
            // Only a server giving the same name twice could answer this.
            let reason = ApiError::Unreadable("it says that the name is in use".into());
            request_failed("make an unnamed consumer".into(), reason)
        })
    }

    /// Subscribes to the durable consumer. Returns `None` if another client or the server prevents that.
    fn subscribe_to_durable(
        &mut self,
        jetstream: &mut JetStreamConnection,
        stream: StreamHead,
        start: u64,
    ) -> Result<Option<Attached>, NatsError> {
        self.refused = None;
        let durable = self.target.durable.clone();
        let failed = |error| request_failed(format!("find the consumer {durable}"), error);
        let last = stream.last_sequence;
        let mut found = find_durable(jetstream, &self.target, last).map_err(failed)?;
        if let Durable::Missing = found {
            if let Some(made) = jetstream.make_consumer(&self.target, Some(&durable), start)? {
                self.log_state(DurableState::Made);
                return Ok(Some(made));
            }
            // Another process was quicker.
            found = find_durable(jetstream, &self.target, last).map_err(failed)?;
        }
        let not_used = match found {
            Durable::Free(state) if self.is_of_another_message(&state, jetstream)? => {
                NotUsed::OtherMessage
            }
            Durable::Free(state) => match jetstream.join(&self.target, &state.info)? {
                Joined::Attached(joined) => {
                    self.durable_attempts.note_success(Instant::now());
                    self.log_state(DurableState::Resumed);
                    return Ok(Some(*joined));
                }
                Joined::NotUsed(why) => {
                    let subject = state.info.config.deliver_subject.unwrap_or_default();
                    if why == NotUsed::NotPermitted {
                        let error = NatsError::refused(&subject);
                        self.durable_attempts.note_failure(&error, Instant::now());
                        self.refused = Some(subject);
                    }
                    why
                }
            },
            Durable::Unusable(why) => why,
            // Missing again: another client has made and deleted it meanwhile.
            Durable::Taken | Durable::Missing => NotUsed::Taken,
        };
        self.log_state(DurableState::NotUsed(not_used));
        Ok(None)
    }

    /// Whether the durable consumer stands at a number that the stream has given to another message since. A process that
    /// has read the messages before needs not know: it takes the consumer over where it has come to itself.
    fn is_of_another_message(
        &self,
        state: &ConsumerState,
        jetstream: &mut JetStreamConnection,
    ) -> Result<bool, NatsError> {
        let Some(active) = state
            .active_unix_ns
            .filter(|_| self.cursor.reached.is_none())
        else {
            return Ok(false);
        };
        let found = self.message_at(state.info.delivered.stream_seq, jetstream)?;
        let stored = found.and_then(|found| found.stored_unix_ns);
        Ok(stored.is_some_and(|stored| stored > active.saturating_add(CLOCKS_DIFFER_NS)))
    }

    /// Hands over the newest message. If the newest is bad, the last good message goes first.
    fn warm(
        &mut self,
        last: Fetched,
        jetstream: &mut JetStreamConnection,
        limits: &LookBack,
        relay: &Relay<NatsError>,
    ) -> Result<(), Stop> {
        let (floor, link) = (self.cursor.sequence().unwrap_or(0), &relay.link);
        match look_back(jetstream, &self.target, &last, floor, limits) {
            Ok(Some(good)) => self.hand_over_quietly(good, link)?,
            Err(LookBackError::Limited) => relay.status.count_look_back_limited(),
            Err(LookBackError::JetStream(ApiError::Lost)) => return Err(NatsError::Lost.into()),
            Ok(None) | Err(LookBackError::JetStream(_)) => {}
        }
        self.hand_over_quietly(last, link)
    }

    fn hand_over_quietly(&mut self, fetched: Fetched, link: &SourceLink) -> Result<(), Stop> {
        let is_quiet = true;
        self.owes_warmed_up = true;
        self.cursor.warmed = Some(Reached {
            sequence: fetched.sequence,
            stored_unix_ns: fetched.stored_unix_ns,
        });
        self.hand_over(fetched, is_quiet, link.now(), link)
    }

    /// Hands a message over, then queues the acknowledgement: without room in the loop, the message stays with the
    /// server. Messages of any size are acknowledged; the feed refuses and counts messages over a limit.
    pub(super) fn relay(
        &mut self,
        message: Delivery,
        jetstream: &mut JetStreamConnection,
        relay: &Relay<NatsError>,
    ) -> Result<(), Stop> {
        if message.status == Some(100) {
            // A flow control message is answered on its reply subject; the heartbeat of a stalled consumer is answered
            // on the subject that the heartbeat names. Consumers made by weirgate send neither; consumers of other
            // clients may.
            if let Some(subject) = message.reply.or(message.stalled) {
                jetstream.answer(&subject);
            }
            return Ok(());
        }
        let ack = message.reply.as_deref().and_then(AckSubject::parse);
        let (Some(reply), Some(ack)) = (message.reply, ack) else {
            return Ok(());
        };
        // Not news: delivered again, or known from the previous consumer.
        let news = self.cursor.sequence() < Some(ack.stream_sequence);
        let now = Instant::now();
        if news {
            if !relay
                .link
                .has_room(message.subject.len() + message.payload.len())
            {
                // The wait for room may be long, and the server would redeliver messages that were handed over.
                self.send_acks(jetstream);
                jetstream.flush()?;
            }
            let message = Fetched {
                sequence: ack.stream_sequence,
                payload: message.payload,
                stored_unix_ns: Some(ack.stored_unix_ns),
                is_deletion: message.is_deletion,
            };
            self.hand_over_next(message, relay)?;
            self.health.handed = now;
        }
        self.quiet_until = self
            .quiet_until
            .filter(|until| *until > ack.stream_sequence);
        let owe = |attached: &mut Attached| attached.acks.owe(reply, now);
        if self.attached.as_mut().is_some_and(owe) {
            self.send_acks(jetstream);
        }
        Ok(())
    }

    /// Hands over the next message of the subject, and moves the cursor to it.
    fn hand_over_next(&mut self, message: Fetched, relay: &Relay<NatsError>) -> Result<(), Stop> {
        let quiet = self.quiet_until.is_some();
        let received = relay.link.now();
        let reached = Reached {
            sequence: message.sequence,
            stored_unix_ns: message.stored_unix_ns,
        };
        if let Some(stored_unix_ns) = message.stored_unix_ns.filter(|_| !quiet) {
            relay.status.count_arrival(received, stored_unix_ns / 1_000);
        }
        self.hand_over(message, quiet, received, &relay.link)?;
        self.cursor.reached = Some(reached);
        Ok(())
    }

    /// Sends the queued acknowledgements. The server redelivers messages whose acknowledgements are lost.
    pub(super) fn send_acks(&mut self, jetstream: &mut JetStreamConnection) {
        let acks = self.attached.iter_mut().flat_map(|s| s.acks.take());
        acks.for_each(|subject| jetstream.answer(&subject));
    }

    /// The time to send the queued acknowledgements.
    pub(super) fn acks_due(&self) -> Option<Instant> {
        self.attached.as_ref().and_then(|s| s.acks.due())
    }

    /// Sends a message to the loop. If it is `quiet` (backlog, or an older state), the loop is also to be notified once
    /// no backlog is left. Does not move the cursor.
    fn hand_over(
        &mut self,
        fetched: Fetched,
        quiet: bool,
        received: Now,
        link: &SourceLink,
    ) -> Result<(), Stop> {
        let message = BusMessage {
            position: Some(StreamPosition {
                epoch: self.cursor.epoch,
                sequence: fetched.sequence,
            }),
            quiet,
            ..BusMessage::new(Arc::clone(&self.subject), fetched.payload, received)
        };
        self.owes_caught_up |= quiet;
        Ok(link.send(BusEvent::of(message, fetched.is_deletion))?)
    }

    /// Logs `what`, unless it was the last state logged.
    fn log_state(&mut self, what: DurableState) {
        if self.logged.replace(what) != Some(what) {
            what.log(&self.spec, &self.target);
        }
    }
}
