//! The JetStream stream source: relays all messages of a stream, for ever. A consumer without a name delivers the
//! stream in order to this connection (`reader`). The connection subscribes only to subjects for answers and
//! deliveries. An outage loses nothing: the stream keeps the messages. If a consumer is silent for three heartbeats,
//! the reader makes another. If a server answers no ping, the connection is given up: a new connection loses nothing,
//! so no second connection finds out first whether the server is only busy.
//!
//! If the loop's channel is full, the thread waits for room and reads nothing; the server stops at the consumer's limit
//! of messages without acknowledgement, or of bytes (flow control). At a stop the consumer is deleted.

mod reader;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use self::reader::JetStreamReader;
use self::reader::LeaderAnswer;
use super::connection::{Arrivals, Connection};
use super::error::{LINES_PER_SECOND, NatsError, Stop, log_error};
use super::needs::{Action, JetStreamNeeds, NatsNeeds};
use super::protocol::Op;
use super::refusals::violation_in;
use super::server_search::ServerSearch;
use super::servers::{NatsServers, waiter};
use super::settings::NatsSettings;
use crate::LinkTimes;
use crate::kept::{KeptEvent, SourceProgress, StreamFeed, StreamSettings};
use crate::relay::{self, Bus, Relay};
use crate::socket::Waiter;
use weirgate_runtime::{BusStatus, Source, SourceLink, Wake};
use weirgate_wire::base::{LogBudget, Now};

const MS_NS: u64 = 1_000_000;
/// How long the server may take at a stop to delete the consumer.
const STOP_PATIENCE: Duration = Duration::from_millis(80);

/// Relays the messages of a stream, for ever.
pub struct NatsStreamSource {
    settings: NatsSettings,
    payload_bytes_max: usize,
    status: Arc<BusStatus>,
    waiter: Waiter,
    wake: Wake,
    servers: NatsServers,
    reader: JetStreamReader,
    pub(super) progress: SourceProgress,
    /// When the stream was made, as `progress` has it.
    made_ns: Option<u64>,
    feed: StreamFeed,
    lines: LogBudget,
    /// Whether the log has the warning about a stream that does not keep its messages (retention: interest).
    has_warned: bool,
}

impl NatsStreamSource {
    /// What a source of this stream needs.
    pub fn needs(stream: &StreamSettings) -> NatsNeeds {
        NatsNeeds {
            payload_bytes_max: JetStreamReader::request_bytes_max(&stream.name),
            jetstream: JetStreamNeeds {
                stream: Some((stream.name.clone(), JetStreamReader::needs())),
                ..JetStreamNeeds::default()
            },
            ..NatsNeeds::default()
        }
    }

    /// Makes a source, which keeps `status` up to date. A payload over `payload_bytes_max` is cut after the first byte
    /// over the limit.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new(
        settings: NatsSettings,
        payload_bytes_max: usize,
        stream: StreamSettings,
        status: Arc<BusStatus>,
    ) -> Result<Self, NatsError> {
        let (waiter, wake) = waiter("the NATS source")?;
        Ok(Self {
            settings,
            payload_bytes_max,
            status,
            waiter,
            wake,
            servers: NatsServers::default(),
            reader: JetStreamReader::new(&stream.name, stream.history_ms, stream.history_bytes_max),
            progress: SourceProgress::default(),
            made_ns: None,
            feed: StreamFeed::of_jetstream(stream),
            lines: LogBudget::new(LINES_PER_SECOND),
            has_warned: false,
        })
    }

    /// Reads the stream until the connection is lost or silent, or the loop is gone. `before`: the connection to a
    /// server in lame duck mode, which ends once this one delivers.
    fn use_connection(
        &mut self,
        connection: &mut Connection,
        mut before: Option<Connection>,
        search: &mut ServerSearch,
        relay: &mut Relay<NatsError>,
    ) -> Stop {
        if before.is_none() {
            // `false`: the bus answers, but the stream is not read to its end yet.
            relay.status.set_up(false);
        }
        relay.link.wake_at_end(&self.wake);
        self.reader.connected(Instant::now(), connection.out());
        let streams = [self.reader.stream().to_owned()];
        let stop = loop {
            if let Err(stop) = self.turn(connection, relay) {
                break stop;
            }
            before = before.filter(|_| !self.reader.is_caught_up());
            if search.find_successor(&streams, &self.settings, connection) {
                break NatsError::LameDuck.into();
            }
        };
        if let Stop::LoopGone = stop {
            self.reader.stop(connection.out());
            connection.wait_until_taken(&mut self.waiter, STOP_PATIENCE);
            // A stop need not wait for this source any more.
            relay.link.set_owing(false);
        }
        stop
    }

    /// Reads at most once, then handles the bytes. Waits if there was nothing to read.
    fn turn(
        &mut self,
        connection: &mut Connection,
        relay: &mut Relay<NatsError>,
    ) -> Result<(), Stop> {
        if self.waiter.take_woken() {
            self.wake.arm();
        }
        if relay.link.is_over() {
            return Err(Stop::LoopGone);
        }
        let has_read = connection.read(&mut self.waiter)?;
        // While a large message is arriving, no heartbeat can arrive, so only the pings judge the silence.
        let arrivals = match connection.sid_of_partial() {
            Some(_) => Arrivals::at(Instant::now()),
            None => connection.arrivals,
        };
        match has_read {
            true => self.take_all(connection, relay)?,
            false => {
                let now = Instant::now();
                self.reader.tick(now, arrivals, connection.out())?;
                if self.reader.ask_if_due(now, connection.out()) {
                    connection.ping();
                }
            }
        }
        relay.link.set_owing(self.reader.owes());
        let next = connection.watch(&self.settings.times, !has_read);
        let until = next.ok_or_else(|| connection.silent())?;
        connection.flush(&mut self.waiter)?;
        if !has_read {
            let dues = [self.reader.due(arrivals), self.reader.work_due()];
            let until = dues.into_iter().flatten().fold(until, Instant::min);
            connection.wait(&mut self.waiter, relay, until)?;
        }
        Ok(())
    }

    /// Handles all operations that were read, and shows what they say of the stream.
    fn take_all(
        &mut self,
        connection: &mut Connection,
        relay: &mut Relay<NatsError>,
    ) -> Result<(), Stop> {
        let taken = self.take_ops(connection, relay);
        self.reader.standstills.show(&relay.status);
        taken
    }

    /// Handles everything that the connection has read.
    fn take_ops(
        &mut self,
        connection: &mut Connection,
        relay: &mut Relay<NatsError>,
    ) -> Result<(), Stop> {
        let received = relay.link.now();
        let unix_ms = u64::try_from(received.unix_ms()).unwrap_or(0);
        let (now, unix_ns) = (Instant::now(), unix_ms.saturating_mul(MS_NS));
        let mut events = Vec::new();
        while let Some(op) = connection.next_op()? {
            match op {
                Op::Message(delivery) => {
                    let taken =
                        self.reader
                            .take(delivery, now, unix_ns, connection.out(), &mut events);
                    if !events.is_empty() {
                        relay.note_work();
                    }
                    self.hand_over(&mut events, relay, received)?;
                    match taken {
                        Err(error) if error.keeps_connection() => {
                            relay.report_away::<Self>(&error)?;
                            // The bus answers, though the stream cannot be read.
                            relay.status.set_up(false);
                        }
                        taken => taken?,
                    }
                    if !self.reader.keeps() && !std::mem::replace(&mut self.has_warned, true) {
                        tracing::warn!(
                            "the stream keeps no message after all consumers have it (retention: interest): what is \
                             published while weirgate is away is lost, and a restart has no history"
                        );
                    }
                }
                Op::Error(words) => {
                    self.refused(&words, connection, relay.link.now(), &mut events)?;
                    self.hand_over(&mut events, relay, received)?;
                }
                Op::Pong => self.reader.ponged(),
                Op::Info(_) | Op::Ok | Op::Ping => {}
            }
        }
        Ok(())
    }

    /// Hands these events over to the loop.
    fn hand_over(
        &mut self,
        events: &mut Vec<KeptEvent>,
        relay: &mut Relay<NatsError>,
        received: Now,
    ) -> Result<(), Stop> {
        self.progress.note(events);
        for event in events.drain(..) {
            self.feed.hand_over(relay, received, event)?;
        }
        // Only now: what a reader for clients brings of a new stream must come after the loss of the old one.
        if let Some(made_ns) = self.reader.made_ns()
            && self.made_ns.replace(made_ns) != Some(made_ns)
        {
            self.progress.made(made_ns, Instant::now());
        }
        Ok(())
    }

    /// Handles an error of the server. A refusal of a permission that the reader cannot do without ends the connection.
    fn refused(
        &mut self,
        words: &str,
        connection: &mut Connection,
        now: Now,
        events: &mut Vec<KeptEvent>,
    ) -> Result<(), NatsError> {
        if let Some(violation) = violation_in(words) {
            let needs = JetStreamReader::needs();
            if let Some(need) = needs.into_iter().find(|need| violation.is_of(need))
                && let Some(without) = need.without
            {
                if self.go_without(need.action, connection, events) {
                    let permission = need.action.permission(None, None);
                    tracing::warn!("this user may not publish to {permission}: {without}");
                }
                return Ok(());
            }
            return Err(violation.error());
        }
        log_error(&mut self.lines, now, words);
        Ok(())
    }

    /// Reads without a permission that is refused. Returns whether to log that.
    fn go_without(
        &mut self,
        action: Action,
        connection: &mut Connection,
        events: &mut Vec<KeptEvent>,
    ) -> bool {
        let (now, out) = (Instant::now(), connection.out());
        match action {
            Action::ControlFlow => self.reader.without_flow_control(now, out),
            Action::Acknowledge => self.reader.without_acks(now, out),
            Action::GetMessage => {
                self.reader
                    .handle_leader_answer(LeaderAnswer::Unknown, now, out, events);
                false
            }
            Action::AccountInfo => self.reader.standstills.not_permitted(),
            // The server deletes a consumer by itself that this user may not delete.
            _ => false,
        }
    }
}

impl Source for NatsStreamSource {
    fn run(mut self: Box<Self>, link: SourceLink) {
        relay::run(&mut *self, link);
    }
}

impl Bus for NatsStreamSource {
    type Error = NatsError;
    const NAME: &'static str = "NATS";

    fn cannot(error: &NatsError) -> Option<String> {
        match error {
            NatsError::NoSuchStream(stream) | NatsError::WorkQueue(stream) => {
                Some(format!("read the stream {stream}"))
            }
            _ => None,
        }
    }

    const OUTAGE_LOSES_MESSAGES: bool = false;

    fn status_and_times(&self) -> (&Arc<BusStatus>, &LinkTimes) {
        (&self.status, &self.settings.times)
    }

    fn connect_and_relay(&mut self, relay: &mut Relay<NatsError>) -> Stop {
        self.feed.connecting(relay.link.now());
        let mut before = None;
        loop {
            let limits = JetStreamReader::payload_limits(self.payload_bytes_max);
            let nats = &self.settings;
            let mut connection = match self.servers.connection(&mut self.waiter, nats, limits) {
                Ok(connection) => connection,
                Err(error) => return error.into(),
            };
            let mut search = self.servers.search(nats);
            let stop = self.use_connection(&mut connection, before.take(), &mut search, relay);
            let next = search.into_next();
            self.servers
                .note_end(&self.settings, &connection, next, &stop);
            connection.set_aside(&self.waiter);
            match &stop {
                Stop::Bus(error @ NatsError::LameDuck) => {
                    tracing::info!(%error, "NATS moves");
                    before = Some(connection);
                }
                _ => return stop,
            }
        }
    }
}
