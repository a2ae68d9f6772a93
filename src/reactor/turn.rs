//! The turn of the loop.
//!
//! A turn answers what costs little first: clients that send little, the bus, and one flush. Then come
//! the clients whose messages cost much, and what is due by the clock, so that a client is judged
//! after it was written to. A flush follows on each of them where there is something to send.

mod freeze;
mod reading;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Poll, Token};

use self::freeze::Freeze;
use super::listener::Listener;
use super::report::{Report, Shell, log_lines};
use super::seams::{ReactorSettings, Seams};
use super::signals::StopSignals;
use super::sockets::{Cost, Sockets};
use crate::clock::Clock;
use crate::http::Handover;
use crate::hub::{Effect, Ended, Feed, Gateway, Hub, Now, Permit, Publication, SessionKey};
use crate::log_budget::LogBudget;
use crate::telemetry::{Budget, Stage};
use crate::wake::Wake;

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);
const SIGNALS: Token = Token(usize::MAX - 2);

/// One read buffer for all sockets.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// The loop turns at least this often, so that its age tells whether it hangs.
const IDLE_TURN_US: u64 = 500_000;

/// Time of one flush; the clients that are left have their writes in the next turn.
const FLUSH_US_MAX: u64 = 4_000;

/// Inputs of the gateway in one turn; more wait for the next.
const INPUTS_MAX: usize = 64;

/// Lines about ended connections; more are counted and said with the next.
const END_LINES_PER_SECOND: u32 = 10;

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
    report: Report,
    /// Which of those that cost much is read first.
    first_costly: usize,
    freeze: Freeze,
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
        let wake = Wake::new(poll.registry(), WAKER, "the loop")?;
        let signals = StopSignals::register(poll.registry(), SIGNALS)?;
        let listener = Listener::bind(&settings.listen, poll.registry(), LISTENER)?;
        let seams = seams(&wake)?;
        Ok(Self {
            poll,
            wake,
            signals,
            listener,
            sockets: Sockets::new(clock),
            hub,
            feed,
            seams,
            settings,
            clock,
            read_buffer: vec![0; READ_BUFFER_BYTES].into_boxed_slice(),
            publications: Vec::new(),
            report: Report::default(),
            first_costly: 0,
            freeze: Freeze::default(),
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
            // Only what comes after the look at the channels has to wake the loop.
            self.wake.awake();
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
        let waits = self.clients_wait()
            || self.freeze.is_catching_up()
            || !self.seams.bus.is_empty()
            || !self.seams.inputs.is_empty()
            || !self.seams.returned.is_empty();
        if waits {
            return Duration::ZERO;
        }
        let now = self.clock.now().mono_us;
        let dues = [
            self.hub.poll_timeout(),
            self.listener.due_us(),
            self.report.due_us(),
            self.stop_at_us,
        ];
        let due = dues.into_iter().flatten().min().unwrap_or(u64::MAX);
        Duration::from_micros(due.saturating_sub(now).min(IDLE_TURN_US))
    }

    fn turn(&mut self, events: &Events) {
        self.wake.will_look();
        let now = self.clock.now();
        self.freeze.look(now.mono_us);
        events.iter().for_each(|event| self.event(now, event));
        self.accept_and_read(now);
        self.take_inputs(now);
        self.take_bus();
        self.flush();
        self.read_costly();
        self.flush();
        self.judge(events.is_empty());
        self.flush();
        self.effects();
        self.tell(now);
    }

    /// Some clients have more to read or to send than this turn took.
    fn clients_wait(&self) -> bool {
        let readable = Cost::ALL.map(|cost| self.sockets.readable(cost));
        self.hub.has_to_flush() || self.hub.waiting_shares() > 0 || readable != [0; Cost::ALL.len()]
    }

    /// Does what is due by the clock. After a time in which the process stood still that comes when
    /// all that happened meanwhile was looked at.
    fn judge(&mut self, poll_was_empty: bool) {
        let now = self.clock.now();
        self.freeze.look(now.mono_us);
        let is_quiet = poll_was_empty && !self.clients_wait();
        if self.freeze.may_judge(now.mono_us, is_quiet) {
            self.hub.handle_timeout(now);
        }
    }

    /// Ends a turn that began at `began` with what others may know of it.
    fn tell(&mut self, began: Now) {
        let shell = Shell {
            accept_errors: self.listener.errors,
            bus_queue_messages: self.seams.bus.len(),
            bus_queue_messages_max: self.seams.bus.capacity().unwrap_or(0),
            bus_queue_bytes: self.seams.bus_bytes.held(),
            bus_queue_bytes_max: self.seams.bus_bytes.max(),
        };
        if !self.hub.is_flushing() {
            // Messages that no client took.
            self.report.flushed(None, began.mono_us);
        }
        let turn = [began, self.clock.now()];
        let event_loop = &self.seams.telemetry.event_loop;
        let feed = self.feed.stats();
        self.report
            .turn_ended(event_loop, turn, &mut self.hub, feed, shell);
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
                    self.hub.handle_writable(now, key);
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

    fn take_inputs(&mut self, now: Now) {
        for input in self.seams.inputs.try_iter().take(INPUTS_MAX) {
            self.hub.handle_input(now, input);
        }
    }

    /// Takes what the channel holds, up to a part that every client's queue takes easily; the
    /// rest has its turn after this part is flushed. An event counts for its payload at least: a
    /// message that is refused costs time too.
    fn take_bus(&mut self) {
        let budget = self.settings.budgets.publication_bytes_max;
        let mut bytes = 0;
        for _ in 0..self.seams.bus.len() {
            let Ok(event) = self.seams.bus.try_recv() else {
                return;
            };
            let payload_bytes = (self.seams.event_bytes)(&event);
            self.seams.bus_bytes.give_back(payload_bytes);
            bytes += self.take_event(event).max(payload_bytes);
            if bytes >= budget {
                self.report.spent(Budget::Publications);
                return;
            }
        }
    }

    /// From one event of the bus to the send queues; the bytes that each of its topics' members
    /// got.
    fn take_event(&mut self, event: F::Event) -> usize {
        let now = self.clock.now();
        if let Some(notice) = self.feed.notice(&event) {
            self.hub.handle_notice(now, &notice);
        }
        self.feed.event(now, event, &mut self.publications);
        log_lines(&mut self.feed);
        if self.publications.is_empty() {
            return 0;
        }
        let made_us = self.clock.now().mono_us;
        let mut bytes = 0;
        for publication in self.publications.drain(..) {
            if publication.deliver {
                let received_us = publication.frame.received().mono_us;
                self.report.taken(received_us, now.mono_us);
            }
            bytes += publication.frame.queue_bytes();
            self.hub.handle_publication(now, &publication);
        }
        self.report.stage(Stage::Feed, now.mono_us, made_us);
        let queued_us = self.clock.now().mono_us;
        self.report.stage(Stage::Queue, made_us, queued_us);
        bytes
    }

    fn flush(&mut self) {
        if !self.hub.has_to_flush() {
            return;
        }
        let now = self.clock.now();
        self.sockets.allow_flush_us(FLUSH_US_MAX);
        self.hub.flush(now, &mut self.sockets);
        if self.hub.is_flushing() {
            self.report.spent(Budget::Flush);
            return;
        }
        let first_write_us = self.sockets.take_first_write_us();
        let ended_us = self.clock.now().mono_us;
        self.report.flushed(first_write_us, ended_us);
    }

    fn effects(&mut self) {
        while let Some(effect) = self.hub.poll_effect() {
            match effect {
                Effect::HalfClose(key) => {
                    self.sockets.half_close(key);
                    // Its FIN may have come while nobody read.
                    self.sockets.set_readable(key);
                }
                Effect::Release { key, reset, ended } => {
                    self.log_end(&ended);
                    self.sockets.close(key, reset);
                    self.hub.handle_released(key);
                }
                Effect::ToHttp { key, read, permit } => self.hand_over(key, read, permit),
                Effect::Resume(key) => self.sockets.set_readable(key),
            }
        }
        while let Some(output) = self.hub.poll_output() {
            (self.seams.output)(output);
        }
    }

    /// One line per ended connection, and a bounded number of lines.
    fn log_end(&mut self, ended: &Ended) {
        let Some(line) = self.end_lines.line(self.clock.now()) else {
            return;
        };
        tracing::info!(
            client = %ended.client,
            peer = %ended.peer,
            user = ended.user.as_deref(),
            path = &*ended.path,
            reason = ended.reason.label(),
            code = ended.code,
            age_ms = ended.age_us / 1000,
            bytes_in = ended.bytes_in,
            bytes_out = ended.bytes_out,
            messages_in = ended.messages_in,
            messages_out = ended.messages_out,
            conflated = ended.messages_conflated,
            lines_left_out = line.suppressed,
            "connection ended"
        );
    }

    fn hand_over(&mut self, key: SessionKey, read: Vec<u8>, permit: Permit) {
        let peer = self.hub.core().peer(key);
        let stream = self.sockets.hand_over(self.poll.registry(), key);
        self.hub.handle_released(key);
        if let (Some(stream), Some(peer)) = (stream, peer) {
            self.seams.http.serve(Handover {
                stream: std::net::TcpStream::from(std::os::fd::OwnedFd::from(stream)),
                read,
                peer,
                permit,
            });
        }
    }
}
