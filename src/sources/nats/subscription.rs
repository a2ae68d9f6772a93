//! One relayed subject: which consumer it reads from, how far it has come, what is quiet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::api::{ApiError, Fetched};
use super::connection::{Link, answer_control, is_control};
use super::consumers::{self, Durable, Joined, Standing, Target, Told, asked};
use super::error::{NatsError, Stop};
use super::health::{Attempts, Health};
use super::look_back::{LookedBack, look_back};
use super::position::{AckSubject, Cursor, StreamState};
use super::settings::{LookBack, NatsSettings, StreamSpec, SubscriptionSpec};
use crate::feeds::{BusEvent, BusMessage};
use crate::sources::SourceLink;

/// How long one message of a gap may take; they are in the stream already.
const GAP_MESSAGE_TIMEOUT: Duration = Duration::from_millis(1_000);

/// Connections that brought nothing, after which a message that breaks them is looked for.
const FRUITLESS_MAX: u32 = 2;

/// One relayed subject, over all connections.
pub(super) struct Subscription {
    spec: SubscriptionSpec,
    /// Its stream, where that is ours to make.
    ours: Option<StreamSpec>,
    /// The name of its stream is empty until it is known.
    target: Target,
    subject: Arc<str>,
    cursor: Cursor,
    /// The consumer that it reads from on this connection.
    standing: Option<Standing>,
    /// Reading from an unnamed consumer until the durable is free.
    awaits_durable: bool,
    /// The server refused the deliver subject of the durable on this connection.
    is_refused: bool,
    /// Messages of a gap between two connections, to be relayed before anything else.
    gap: Vec<nats::Message>,
    /// Messages up to this stream sequence are backlog.
    quiet_until: Option<u64>,
    /// How far it had come when it was attached last.
    attached_at: Option<u64>,
    /// Connections in a row on which it came no further.
    fruitless: u32,
    health: Health,
    attempts: Attempts,
    was_look_back_limited: bool,
    /// The last thing that was logged of stream and durable, so that it is logged once.
    told: Option<Told>,
}

impl Subscription {
    pub(super) fn new(spec: SubscriptionSpec, settings: &NatsSettings) -> Self {
        let named = |s: &&StreamSpec| spec.stream.as_ref() == Some(&s.name);
        Self {
            ours: settings.streams.iter().find(named).cloned(),
            target: Target {
                stream: spec.stream.clone().unwrap_or_default(),
                subject: spec.subject.clone(),
                durable: spec.durable.clone(),
            },
            subject: spec.subject.as_str().into(),
            // Each attempt makes the other subjects wait for a moment.
            attempts: Attempts::new(
                settings.times.ping_interval_ms,
                settings.consumer_silence_max_ms,
            ),
            spec,
            cursor: Cursor::default(),
            standing: None,
            awaits_durable: false,
            is_refused: false,
            gap: Vec::new(),
            quiet_until: None,
            attached_at: None,
            fruitless: 0,
            health: Health::new(Instant::now()),
            was_look_back_limited: false,
            told: None,
        }
    }

    pub(super) fn spec(&self) -> &SubscriptionSpec {
        &self.spec
    }

    /// What it reads from, while it stands.
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// The consumer that it reads from, while it stands. It does not while it has no stream.
    pub(super) fn standing(&self) -> Option<&Standing> {
        self.standing.as_ref()
    }

    pub(super) fn health_mut(&mut self) -> &mut Health {
        &mut self.health
    }

    pub(super) fn attempts_mut(&mut self) -> &mut Attempts {
        &mut self.attempts
    }

    /// Whether to attach it now, while it is read from nothing, given whether its stream is there.
    pub(super) fn is_to_be_attached(&self, stream_is_there: bool) -> bool {
        let can_be = stream_is_there || (self.ours.is_some() && self.attempts.is_away());
        self.standing.is_none() && can_be && self.attempts.is_due(Instant::now())
    }

    pub(super) fn awaits_durable(&self) -> bool {
        self.awaits_durable
    }

    /// Whether its backlog has been handed over.
    pub(super) fn caught_up(&self) -> bool {
        self.quiet_until.is_none()
    }

    /// The server says that nothing is pending, and nothing waits here: the end of the backlog was
    /// deleted from the stream meanwhile.
    pub(super) fn nothing_pending(&mut self) {
        let waits = |s: &Standing| !s.messages.receiver().is_empty();
        if !self.standing.as_ref().is_some_and(waits) {
            self.quiet_until = None;
        }
    }

    /// The connection is gone: gives back what was subscribed on it.
    pub(super) fn detach(&mut self) -> Option<nats::Subscription> {
        self.is_refused = false;
        let further = self.cursor.reached() != self.attached_at;
        self.fruitless = if further { 0 } else { self.fruitless + 1 };
        self.let_go()
    }

    /// Reads from nothing. Returns what was subscribed.
    pub(super) fn let_go(&mut self) -> Option<nats::Subscription> {
        self.gap.clear();
        self.quiet_until = None;
        self.awaits_durable = false;
        self.standing.take().map(|s| s.messages)
    }

    /// Finds or makes stream and consumer, warms the cache where that is due, and decides what of
    /// the backlog is quiet.
    ///
    /// What counts as backlog comes from consumer and stream, once, and its end is a stream
    /// sequence. The pending count that each message carries would be the simpler end, but under
    /// steady traffic it need never be zero, and what is delivered again carries a zero before the
    /// backlog's end.
    pub(super) fn attach(
        &mut self,
        bus: &Link,
        settings: &NatsSettings,
        link: &SourceLink,
    ) -> Result<(), Stop> {
        self.health = Health::new(Instant::now());
        self.attach_to(bus, settings, link, settings.ephemeral)
    }

    /// The same with an unnamed consumer, while JetStream does not answer about the durable. An
    /// error leaves everything as it is.
    pub(super) fn attach_elsewhere(
        &mut self,
        bus: &Link,
        settings: &NatsSettings,
        link: &SourceLink,
    ) -> Result<(), Stop> {
        self.health.attached(Instant::now());
        self.attach_to(bus, settings, link, true)
    }

    fn attach_to(
        &mut self,
        bus: &Link,
        settings: &NatsSettings,
        link: &SourceLink,
        unnamed: bool,
    ) -> Result<(), Stop> {
        let Some(stream) = self.find_stream(bus)? else {
            self.standing = None;
            self.quiet_until = None;
            self.tell(Told::NoStream);
            return Ok(());
        };
        self.cursor.observe(stream);
        self.pass_unreadable(bus, link)?;
        let last = bus.last_message(&self.target)?;
        let last_sequence = last.as_ref().map_or(0, |m| m.sequence);
        let start = match (self.cursor.reached(), &last) {
            (Some(reached), _) => reached + 1,
            (None, Some(warm)) => warm.sequence + 1,
            (None, None) => stream.last_sequence + 1,
        };
        let standing = self.stand(bus, settings, unnamed, start)?;
        let first = self.cursor.reached().is_none();
        // A consumer may claim more than a stream that lost its tail has.
        let delivered = standing.delivered.min(stream.last_sequence);
        let reached = self.cursor.reached().unwrap_or(delivered);
        let unseen = self.unseen(bus, &standing, last_sequence, settings.backlog_quiet_min)?;
        let quiet = unseen > settings.backlog_quiet_min;
        if first || quiet {
            self.warm(last, bus, &settings.look_back, link)?;
        }
        self.cursor.reach(reached);
        self.attached_at = Some(reached);
        self.quiet_until = (quiet && last_sequence > reached).then_some(last_sequence);
        self.standing = Some(standing);
        Ok(())
    }

    fn find_stream(&mut self, bus: &Link) -> Result<Option<StreamState>, NatsError> {
        if let Some(ours) = &self.ours {
            return bus.ensure_stream(ours).map(Some);
        }
        let found = consumers::find_stream(&bus.api, &self.spec);
        let found = found.map_err(|e| asked(format!("find the stream of {}", self.subject), e))?;
        Ok(found.map(|(name, state)| {
            self.target.stream = name;
            state
        }))
    }

    /// Hands over messages that the crate cannot read.
    ///
    /// Headers that are no headers make the crate drop the connection, each time the message
    /// comes, so a consumer that starts with it would never get any further. Asked for by its
    /// sequence, the message comes packed up.
    fn pass_unreadable(&mut self, bus: &Link, link: &SourceLink) -> Result<(), Stop> {
        let (stream, subject) = (&self.target.stream, &self.target.subject);
        while let Some(reached) = self.cursor.reached()
            && self.fruitless >= FRUITLESS_MAX
        {
            let next = bus.api.first_from(stream, subject, reached + 1);
            let Ok(Some(next)) = next else { break };
            if next.headers_readable {
                break;
            }
            let sequence = next.sequence;
            tracing::warn!(
                stream,
                subject,
                sequence,
                "a message has headers that are no headers"
            );
            self.hand_over(next.payload, sequence, true, link)?;
            self.cursor.reach(sequence);
        }
        Ok(())
    }

    /// Changes over from an unnamed consumer to the durable, if that is still free.
    ///
    /// Both run for a moment. What the durable has delivered to others before is awaited from the
    /// unnamed one; what both bring is known by its sequence.
    pub(super) fn take_over(&mut self, bus: &Link, link: &SourceLink) -> Result<(), Stop> {
        let start = self.cursor.reached().unwrap_or(0) + 1;
        let Some(durable) = self.stand_on_durable(bus, start)? else {
            return Ok(());
        };
        self.awaits_durable = false;
        let delivered = durable.delivered;
        let Some(unnamed) = self.standing.replace(durable) else {
            return Ok(());
        };
        while self.cursor.reached().is_none_or(|r| r < delivered) {
            match unnamed.messages.next_timeout(GAP_MESSAGE_TIMEOUT) {
                Ok(message) => self.relay(message, bus, link)?,
                Err(_) => break,
            }
        }
        // It goes by itself after a while; asking now keeps the server's lists short.
        let stream = &self.target.stream;
        let _ = bus.api.delete_consumer(stream, &unnamed.consumer);
        Ok(())
    }

    /// Subscribes to the durable, or to an unnamed consumer where that is not ours to have.
    fn stand(
        &mut self,
        bus: &Link,
        settings: &NatsSettings,
        unnamed: bool,
        start: u64,
    ) -> Result<Standing, NatsError> {
        if !unnamed && let Some(durable) = self.stand_on_durable(bus, start)? {
            self.awaits_durable = false;
            return Ok(durable);
        }
        self.awaits_durable = !settings.ephemeral && !self.is_refused;
        let made = bus.make_consumer(&self.target, None, start)?;
        made.ok_or_else(|| {
            // a server would have to give one name twice
            let reason = ApiError::Unreadable("it says that the name is in use".into());
            asked("make an unnamed consumer".into(), reason)
        })
    }

    /// `None` when the durable is not ours to have.
    fn stand_on_durable(&mut self, bus: &Link, start: u64) -> Result<Option<Standing>, NatsError> {
        if self.is_refused {
            return Ok(None);
        }
        let durable = self.target.durable.clone();
        let look_up = |spec: &Target| {
            consumers::look_up(&bus.api, spec)
                .map_err(|e| asked(format!("find the consumer {durable}"), e))
        };
        let mut found = look_up(&self.target)?;
        if let Durable::Missing = found {
            if let Some(made) = bus.make_consumer(&self.target, Some(&durable), start)? {
                self.tell(Told::Made);
                return Ok(Some(made));
            }
            // another process was quicker
            found = look_up(&self.target)?;
        }
        let not_ours = match found {
            Durable::Free(info) => match bus.join(&self.target, &info)? {
                Joined::Standing(joined) => {
                    self.tell(Told::Resumed);
                    return Ok(Some(joined));
                }
                Joined::Taken => Told::TAKEN,
                Joined::NotPermitted => {
                    self.is_refused = true;
                    Told::NOT_PERMITTED
                }
            },
            Durable::Unusable(why) => why,
            Durable::Taken | Durable::Missing => Told::TAKEN,
        };
        self.tell(Told::NotOurs(not_ours));
        Ok(None)
    }

    /// How many messages the stream holds that this process has not handed over. When they are few
    /// and some of them went out to a connection that is gone, or to another client, fetches those.
    fn unseen(
        &mut self,
        bus: &Link,
        standing: &Standing,
        last_sequence: u64,
        few: u64,
    ) -> Result<u64, NatsError> {
        self.gap.clear();
        let Some(reached) = self.cursor.reached() else {
            return Ok(standing.pending + standing.ack_pending);
        };
        if last_sequence <= reached {
            return Ok(0);
        }
        if standing.delivered == reached {
            return Ok(standing.pending);
        }
        // The consumer's count has another start than ours: a consumer of our own counts for us.
        let Some(counted) = bus.make_consumer(&self.target, None, reached + 1)? else {
            return Ok(standing.pending);
        };
        if counted.pending <= few {
            for _ in 0..counted.pending {
                match counted.messages.next_timeout(GAP_MESSAGE_TIMEOUT) {
                    Ok(message) => self.gap.push(message),
                    Err(_) => break,
                }
            }
        }
        let _ = bus
            .api
            .delete_consumer(&self.target.stream, &counted.consumer);
        Ok(counted.pending)
    }

    /// Hands over the newest message; before it the last good one, if the newest is bad.
    fn warm(
        &mut self,
        last: Option<Fetched>,
        bus: &Link,
        limits: &LookBack,
        link: &SourceLink,
    ) -> Result<(), Stop> {
        let Some(last) = last else { return Ok(()) };
        let floor = self.cursor.reached().unwrap_or(0);
        let found = look_back(&bus.api, &self.target, &last, floor, limits);
        found.tell(&self.spec.subject);
        match found {
            LookedBack::Good(good, _) => {
                self.hand_over(good.payload, good.sequence, true, link)?;
            }
            LookedBack::Limited(_) => self.was_look_back_limited = true,
            LookedBack::Failed(ApiError::Lost, _) => return Err(NatsError::Lost.into()),
            LookedBack::NewestIsGood | LookedBack::NoneIsGood(_) | LookedBack::Failed(..) => {}
        }
        self.hand_over(last.payload, last.sequence, true, link)
    }

    /// Whether a search for the last good message ended at its limit since the last call.
    pub(super) fn take_look_back_limited(&mut self) -> bool {
        std::mem::take(&mut self.was_look_back_limited)
    }

    /// Takes the messages of the gap, which are to be relayed before those of the consumer.
    pub(super) fn take_gap(&mut self) -> Vec<nats::Message> {
        std::mem::take(&mut self.gap)
    }

    /// Hands a message over and then owes its acknowledgement, so that what the loop has no room for
    /// stays with the server. Whatever its size: a message that is too big is the feed's to refuse and
    /// count, and it is acknowledged like any other.
    pub(super) fn relay(
        &mut self,
        mut message: nats::Message,
        bus: &Link,
        link: &SourceLink,
    ) -> Result<(), Stop> {
        if is_control(&message) {
            answer_control(&message, bus);
            return Ok(());
        }
        let Some(ack) = message.reply.as_deref().and_then(AckSubject::parse) else {
            return Ok(());
        };
        // Delivered again, or known from the consumer that was read before this one.
        let news = self
            .cursor
            .reached()
            .is_none_or(|r| ack.stream_sequence > r);
        let now = Instant::now();
        if news {
            if !link.has_room(message.data.len()) {
                // The wait may be long, and the server would deliver again what the loop has.
                self.send_acks(bus);
            }
            let data = std::mem::take(&mut message.data);
            let quiet = self.quiet_until.is_some();
            self.hand_over(data, ack.stream_sequence, quiet, link)?;
            self.cursor.reach(ack.stream_sequence);
            self.health.handed(now);
        }
        let ends = |until: u64| ack.stream_sequence >= until;
        if self.quiet_until.is_some_and(ends) {
            self.quiet_until = None;
        }
        let Some(subject) = message.reply.take() else {
            return Ok(());
        };
        let owe = |standing: &mut Standing| standing.acks.owe(subject, now);
        if self.standing.as_mut().is_some_and(owe) {
            self.send_acks(bus);
        }
        Ok(())
    }

    /// Sends the acknowledgements that are owed. What a lost connection does not take, the server
    /// delivers again.
    pub(super) fn send_acks(&mut self, bus: &Link) {
        let acks = self.standing.iter_mut().flat_map(|s| s.acks.take());
        acks.for_each(|subject| bus.answer(&subject));
    }

    /// When to send them.
    pub(super) fn acks_due(&self) -> Option<Instant> {
        self.standing.as_ref().and_then(|s| s.acks.due())
    }

    fn hand_over(
        &self,
        payload: Vec<u8>,
        sequence: u64,
        quiet: bool,
        link: &SourceLink,
    ) -> Result<(), Stop> {
        let message = BusMessage {
            subject: Arc::clone(&self.subject),
            pattern: None,
            payload,
            position: Some(self.cursor.position(sequence)),
            received: link.now(),
            quiet,
        };
        Ok(link.send(BusEvent::Message(message))?)
    }

    /// Logs what became of the durable, unless that was the last thing logged of it.
    fn tell(&mut self, what: Told) {
        if self.told.replace(what) == Some(what) {
            return;
        }
        what.log(&self.spec, &self.target);
    }
}
