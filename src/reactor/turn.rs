//! The turn of the loop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use mio::event::Event;
use mio::{Events, Poll, Token};

use super::listener::{ListenSettings, Listener};
use super::report;
use super::signals::StopSignals;
use super::sockets::Sockets;
use super::wake::Wake;
use crate::clock::Clock;
use crate::http::{Handover, HttpHandle};
use crate::hub::{
    Call, CloseReason, DrainPlan, Effect, Ended, Feed, Gateway, Hub, Now, Permit, Publication,
    Reply, SessionKey, TopicName,
};
use crate::telemetry::{LogBudget, Stage, Telemetry};

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);
const SIGNALS: Token = Token(usize::MAX - 2);

/// One read buffer for all sockets.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// The loop turns at least this often, so that its age tells whether it hangs.
const IDLE_TURN_US: u64 = 500_000;

/// Lines about ended connections; more are counted and said with the next.
const END_LINES_PER_SECOND: u32 = 10;

/// What one turn may do before it looks at the other things again.
#[derive(Clone, Debug)]
pub struct TurnBudgets {
    /// Connections accepted.
    pub accepts_max: usize,
    /// Bytes read from one socket.
    pub read_bytes_max: usize,
    /// Bytes of publications queued per client before they are flushed.
    pub publication_bytes_max: usize,
}

/// Everything that the loop is told at the start.
#[derive(Clone, Debug)]
pub struct ReactorSettings {
    /// The listening socket.
    pub listen: ListenSettings,
    /// Per turn.
    pub budgets: TurnBudgets,
    /// The phases of a stop.
    pub drain: DrainPlan,
    /// From the last phase of a stop to its end, whoever is left.
    pub stop_timeout_us: u64,
}

/// What leaves the loop besides bytes.
#[derive(Debug)]
pub enum Outside {
    /// A request to a service.
    Call(Call),
    /// A topic got its first member or lost its last.
    Interest {
        /// The topic.
        topic: TopicName,
        /// Somebody wants it.
        wanted: bool,
    },
}

/// What the loop is connected to.
pub struct Seams<G: Gateway, F: Feed> {
    /// From the source thread.
    pub bus: Receiver<F::Event>,
    /// From the HTTP side.
    pub commands: Receiver<G::Command>,
    /// Answers to calls.
    pub replies: Receiver<Reply>,
    /// To whoever makes calls and subscribes; must not block.
    pub outside: Box<dyn FnMut(Outside)>,
    /// Takes over sockets that speak plain HTTP.
    pub http: HttpHandle,
    /// What others may see of the loop.
    pub telemetry: Arc<Telemetry>,
}

/// The loop with everything it owns.
pub struct Reactor<G: Gateway, F: Feed> {
    poll: Poll,
    wake: Wake,
    signals: StopSignals,
    listener: Listener,
    sockets: Sockets,
    hub: Hub<G>,
    feed: F,
    seams: Seams<G, F>,
    settings: ReactorSettings,
    clock: Clock,
    read_buffer: Box<[u8]>,
    publications: Vec<Publication>,
    /// Some clients have more to send than one write takes.
    more_to_flush: bool,
    end_lines: LogBudget,
    /// A stop ends at this moment at the latest.
    stop_at_us: Option<u64>,
    stop_now: bool,
}

impl<G: Gateway, F: Feed> Reactor<G, F> {
    /// Binds the listener and makes the poll. `seams` is asked for with the handle that wakes the
    /// loop, which the other threads need.
    ///
    /// # Errors
    /// The address cannot be bound, or the system refuses a descriptor.
    pub fn bind(
        settings: ReactorSettings,
        hub: Hub<G>,
        feed: F,
        clock: Clock,
        seams: impl FnOnce(&Wake) -> io::Result<Seams<G, F>>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let wake = Wake::new(poll.registry(), WAKER)?;
        let signals = StopSignals::register(poll.registry(), SIGNALS)?;
        let listener = Listener::bind(&settings.listen, poll.registry(), LISTENER)?;
        let seams = seams(&wake)?;
        Ok(Self {
            poll,
            wake,
            signals,
            listener,
            sockets: Sockets::default(),
            hub,
            feed,
            seams,
            settings,
            clock,
            read_buffer: vec![0; READ_BUFFER_BYTES].into_boxed_slice(),
            publications: Vec::new(),
            more_to_flush: false,
            end_lines: LogBudget::new(END_LINES_PER_SECOND),
            stop_at_us: None,
            stop_now: false,
        })
    }

    /// Where the loop listens.
    ///
    /// # Errors
    /// The socket has no address, which a bound one always has.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Turns until a stop is complete.
    ///
    /// # Errors
    /// The poll failed: nothing can be served any more.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        while !self.is_stopped() {
            let timeout = self.timeout();
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => self.turn(&events),
            }
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        let now = self.clock.now().mono_us;
        let late = self.stop_at_us.is_some_and(|at| now >= at);
        self.stop_now || late || self.hub.is_drained()
    }

    /// How long nothing is due. Rounded up by the poll, so a turn never comes too early.
    fn timeout(&self) -> Duration {
        let waits = self.more_to_flush || self.sockets.readable() > 0 || !self.seams.bus.is_empty();
        if waits {
            return Duration::ZERO;
        }
        let now = self.clock.now().mono_us;
        let dues = [
            self.hub.next_deadline(),
            self.listener.due_us(),
            self.stop_at_us,
        ];
        let due = dues.into_iter().flatten().min().unwrap_or(u64::MAX);
        Duration::from_micros(due.saturating_sub(now).min(IDLE_TURN_US))
    }

    fn turn(&mut self, events: &Events) {
        self.wake.awake();
        let now = self.clock.now();
        events.iter().for_each(|event| self.event(now, event));
        self.accept(now);
        self.read(now);
        self.take_replies(now);
        self.take_bus();
        self.hub.tick(self.clock.now());
        self.flush();
        self.effects();
        report::store(
            &self.seams.telemetry.event_loop,
            &self.hub,
            &self.feed,
            self.listener.errors,
        );
        self.seams.telemetry.event_loop.turn_ended(self.clock.now());
    }

    fn event(&mut self, now: Now, event: &Event) {
        match event.token() {
            LISTENER => self.listener.set_ready(),
            WAKER => {}
            SIGNALS => self.stop(now),
            Token(bits) => {
                let key = SessionKey::from_bits(bits as u64);
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.sockets.set_readable(key);
                }
                if event.is_writable() {
                    self.hub.writable(now, key);
                }
            }
        }
    }

    /// The first signal drains; the second ends at once.
    fn stop(&mut self, now: Now) {
        for _ in 0..self.signals.pending().0 {
            if self.stop_at_us.is_some() {
                tracing::warn!("second stop signal: ending at once");
                self.stop_now = true;
                return;
            }
            let plan = self.settings.drain;
            tracing::info!(clients = self.hub.stats().open, "stopping");
            let phases = plan.delay_us + plan.spread_us;
            let timeout_us = self.settings.stop_timeout_us;
            // The whole process has to be gone by then, not only the last client.
            let last_turn_us = timeout_us - timeout_us / 20;
            self.stop_at_us = Some(now.mono_us + phases + last_turn_us);
            self.seams.telemetry.event_loop.set_draining();
            self.hub.drain(now, plan);
        }
    }

    fn accept(&mut self, now: Now) {
        for _ in 0..self.settings.budgets.accepts_max {
            let Some((stream, peer)) = self.listener.accept(now) else {
                return;
            };
            let key = self.hub.accept(now, peer);
            if let Err(error) = self.sockets.insert(self.poll.registry(), key, stream) {
                tracing::warn!(%error, "a connection could not be registered");
                self.hub.ended(now, key, true);
            }
        }
    }

    /// Gives each socket with an edge its budget; who has more stays in the list.
    fn read(&mut self, now: Now) {
        for _ in 0..self.sockets.readable() {
            let Some(key) = self.sockets.next_readable() else {
                return;
            };
            if self.read_one(now, key) {
                self.sockets.set_readable(key);
            }
        }
    }

    /// `true`: the budget is used up and the socket may hold more.
    fn read_one(&mut self, now: Now, key: SessionKey) -> bool {
        let mut budget = self.settings.budgets.read_bytes_max;
        while self.hub.wants_read(key) {
            if budget == 0 {
                return true;
            }
            let room = self.read_buffer.len().min(budget);
            match self.sockets.read(key, &mut self.read_buffer[..room]) {
                // A short read is not the end: data and FIN can share one edge.
                Ok(n) if n > 0 => {
                    budget -= n;
                    self.hub.received(now, key, &self.read_buffer[..n]);
                }
                Ok(_) => {
                    self.hub.ended(now, key, false);
                    return false;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.hub.ended(now, key, true);
                    return false;
                }
            }
        }
        false
    }

    fn take_replies(&mut self, now: Now) {
        for _ in 0..self.seams.replies.len() {
            if let Ok(reply) = self.seams.replies.try_recv() {
                self.hub.reply(now, reply);
            }
        }
        for _ in 0..self.seams.commands.len() {
            if let Ok(command) = self.seams.commands.try_recv() {
                self.hub.command(now, command);
            }
        }
    }

    /// Takes what the channel holds, up to a part that every client's queue takes easily; the
    /// rest has its turn after this part is flushed.
    fn take_bus(&mut self) {
        let budget = self.settings.budgets.publication_bytes_max;
        let mut bytes = 0;
        for _ in 0..self.seams.bus.len() {
            let Ok(event) = self.seams.bus.try_recv() else {
                return;
            };
            let now = self.clock.now();
            if let Some(notice) = self.feed.notice(&event) {
                self.hub.noticed(now, &notice);
            }
            self.feed.event(now, event, &mut self.publications);
            if !self.publications.is_empty() {
                let took_us = self.clock.now().mono_us - now.mono_us;
                let metrics = &self.seams.telemetry.event_loop;
                metrics.observe_stage_us(Stage::Feed, took_us);
            }
            for publication in self.publications.drain(..) {
                let received_us = publication.frame.received().mono_us;
                let waited_us = now.mono_us.saturating_sub(received_us);
                self.seams
                    .telemetry
                    .event_loop
                    .observe_stage_us(Stage::BusToFeed, waited_us);
                bytes += publication.frame.queue_bytes();
                self.hub.published(now, &publication);
            }
            if bytes >= budget {
                return;
            }
        }
    }

    fn flush(&mut self) {
        let from = self.clock.now();
        let writes = self.hub.stats().writes;
        self.more_to_flush = self.hub.flush(from, &mut self.sockets);
        if self.hub.stats().writes > writes {
            let took_us = self.clock.now().mono_us - from.mono_us;
            self.seams
                .telemetry
                .event_loop
                .observe_stage_us(Stage::Fanout, took_us);
        }
    }

    fn effects(&mut self) {
        while let Some(effect) = self.hub.next_effect() {
            match effect {
                Effect::HalfClose(key) => {
                    self.sockets.half_close(key);
                    // Its FIN may have come while nobody read.
                    self.sockets.set_readable(key);
                }
                Effect::Release { key, reset, ended } => {
                    self.log_end(&ended);
                    self.sockets.close(key, reset);
                    self.hub.released(key);
                }
                Effect::ToHttp { key, read, permit } => self.hand_over(key, read, permit),
                Effect::Resume(key) => self.sockets.set_readable(key),
                Effect::Call(call) => (self.seams.outside)(Outside::Call(call)),
                Effect::Interest { topic, wanted } => {
                    (self.seams.outside)(Outside::Interest { topic, wanted });
                }
            }
        }
    }

    /// One line per ended connection, and a bounded number of lines.
    fn log_end(&mut self, ended: &Ended) {
        let Some(line) = self.end_lines.line(self.clock.now()) else {
            return;
        };
        tracing::info!(
            peer = %ended.peer,
            reason = ended.reason.map_or("none", CloseReason::label),
            age_ms = ended.age_us / 1000,
            bytes_in = ended.bytes_in,
            bytes_out = ended.bytes_out,
            lines_left_out = line.suppressed,
            "connection ended"
        );
    }

    fn hand_over(&mut self, key: SessionKey, read: Vec<u8>, permit: Permit) {
        let peer = self.hub.core().peer(key);
        let stream = self.sockets.hand_over(self.poll.registry(), key);
        self.hub.released(key);
        if let (Some(stream), Some(peer)) = (stream, peer) {
            self.seams.http.serve(Handover {
                stream: std::net::TcpStream::from(std::os::fd::OwnedFd::from(stream)),
                read,
                peer,
                permit: Box::new(permit),
            });
        }
    }
}
