//! The turn of the loop.
//!
//! A turn begins with cheap work: clients that cost little, the bus, and a flush. Then come the clients with costly
//! messages, and last the deadlines, so that a client is judged after the writes to it. Each step that queues something
//! is followed by a flush, after the first of a turn only to clients with little to send.

mod accepts;
mod freeze;
mod inputs;
mod outputs;
mod reads;
mod stop;

use std::sync::Arc;
use std::time::Duration;
use std::{hint, io};

use mio::event::Event;
use mio::{Events, Poll, Token};
use signal_hook_mio::v1_0::Signals;
use tokio::sync::oneshot;

use self::accepts::{FirstReads, HeadRate};
use self::freeze::Freeze;
use self::outputs::{EndLines, EndedConnections};
use self::reads::ThreadTimes;
use self::stop::{StopDeadline, stop_signals};
use super::listeners::{ListenError, Listeners};
use super::readiness::Unread;
use super::report::LoopReport;
use super::seams::Seams;
use super::settings::ReactorSettings;
use super::sockets::{Cost, KeptSent, Sockets};
use crate::listening::ListenAddr;
use crate::telemetry::{Budget, Phase, SearchResult};
use weirgate_core::{
    CloseReason, Feed, Gateway, Hub, Publication, SessionKey, SocketEnd, Transmit, earliest,
};
use weirgate_runtime::{Clock, Spin, Wake};
use weirgate_wire::admission::ClientAddr;
use weirgate_wire::base::{LogBudget, Now};

const WAKER: Token = Token(usize::MAX);
const SIGNALS: Token = Token(usize::MAX - 1);
/// The token of the first listener; the others have the next lower tokens.
const LISTENERS: Token = Token(usize::MAX - 2);

/// One read buffer for all sockets.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// The loop makes a turn at least this often, so that the age of the last turn reveals a hang.
const IDLE_TURN_US: u64 = 500_000;
/// During a stop the loop checks this often whether the HTTP side has ended.
const HTTP_CHECK_US: u64 = 2_000;

/// After the loop has left the port to other processes, a stop waits this long for connections that were accepted
/// before, so that they get their refusal.
const REFUSE_US: u64 = 500_000;

/// The address of a session that has ended; its socket is not read.
const NO_ADDRESS: ClientAddr = ClientAddr::Unix;

/// While the loop spins, it checks the channels this often between two polls; a check costs a few nanoseconds.
const CHECKS_PER_POLL: u32 = 16;

/// The error of [`Reactor::bind`].
#[derive(Debug)]
pub(crate) enum BindError {
    /// An address cannot be listened on.
    Listen(ListenError),
    /// The system refuses a descriptor or a thread.
    System(io::Error),
}

impl From<io::Error> for BindError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// The event loop and its state.
pub(crate) struct Reactor<G: Gateway, F: Feed> {
    poll: Poll,
    wake: Wake,
    signals: Signals,
    listeners: Listeners,
    sockets: Sockets,
    hub: Hub<G>,
    feed: F,
    seams: Seams<G, F>,
    settings: ReactorSettings,
    clock: Clock,
    read_buffer: Box<[u8]>,
    publications: Vec<Publication>,
    report: LoopReport,
    /// The latest time at which accepting begins, microseconds of the monotonic clock; `None` once it has begun.
    accept_from_us: Option<u64>,
    /// Since when accepting waits for evicted connections to end, microseconds of the monotonic clock.
    awaits_evicted_since: Option<u64>,
    /// Index of the kind of costly clients that was read first in this turn.
    first_costly: usize,
    /// From when on `read_us` (`reads.rs`) compares the CPU time of this thread with the time that has passed; `None`:
    /// no costly client waits.
    reading_from: Option<ThreadTimes>,
    first_reads: FirstReads,
    head_rate: HeadRate,
    freeze: Freeze,
    spin: Spin,
    end_lines: EndLines,
    /// The operators that wait for the searches of the survey under way.
    searching: Vec<oneshot::Sender<SearchResult>>,
    ends: EndedConnections,
    stop: Option<StopDeadline>,
    /// A stop does not end before this time while connections are open.
    refuse_until_us: u64,
    /// A second signal has come: the stop ends at once.
    stop_now: bool,
    /// The HTTP side has begun to end, after the last client.
    http_ends: bool,
    /// The time as last read between two turns, microseconds of the monotonic clock.
    now_us: u64,
}

impl<G: Gateway, F: Feed> Reactor<G, F> {
    /// Binds the listeners and creates the poll. `seams` is called with the handle that wakes the loop, which
    /// the other threads need.
    ///
    /// # Errors
    /// An address cannot be bound, or the system refuses a descriptor.
    pub(crate) fn bind(
        settings: ReactorSettings,
        mut hub: Hub<G>,
        feed: F,
        clock: Clock,
        seams: impl FnOnce(&Wake) -> io::Result<Seams<G, F>>,
    ) -> Result<Self, BindError> {
        let poll = Poll::new()?;
        let wake = Wake::new(poll.registry(), WAKER, "the loop")?;
        settings.listen.gate.set_wake(&wake);
        let signals = stop_signals(poll.registry(), SIGNALS)?;
        let listeners = Listeners::bind(&settings.listen, poll.registry(), LISTENERS)
            .map_err(BindError::Listen)?;
        let registry = poll.registry().try_clone()?;
        let seams = seams(&wake)?;
        let sockets = Sockets::new(registry, clock, &wake);
        hub.set_turn_clock(move || clock.mono_us());
        Ok(Self {
            poll,
            wake,
            signals,
            listeners,
            sockets,
            hub,
            feed,
            report: LoopReport::new(Arc::clone(&seams.telemetry.event_loop.durations)),
            seams,
            spin: Spin::new(settings.spin_us),
            accept_from_us: Some(clock.mono_us() + settings.accept_wait_us),
            settings,
            clock,
            read_buffer: vec![0; READ_BUFFER_BYTES].into_boxed_slice(),
            publications: Vec::new(),
            awaits_evicted_since: None,
            first_costly: 0,
            reading_from: None,
            first_reads: FirstReads::default(),
            head_rate: HeadRate::default(),
            freeze: Freeze::default(),
            end_lines: EndLines::default(),
            searching: Vec::new(),
            ends: EndedConnections::default(),
            stop: None,
            refuse_until_us: 0,
            stop_now: false,
            http_ends: false,
            now_us: clock.mono_us(),
        })
    }

    /// Returns the addresses of the listeners, in the order of the settings.
    pub(crate) fn local_addrs(&self) -> &[ListenAddr] {
        self.listeners.local_addrs()
    }

    /// Returns the addresses of the listeners for TLS, in the order of the settings.
    pub(crate) fn local_tls_addrs(&self) -> &[ListenAddr] {
        self.listeners.local_tls_addrs()
    }

    /// Runs turns until a stop is complete.
    ///
    /// # Errors
    /// The poll failed: no client can be served any more.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        self.now_us = self.clock.mono_us();
        while !self.advance_stop() {
            self.wait(&mut events)?;
            if self.listeners.are_held() {
                self.listen_if_open()?;
            }
            self.turn(&events);
        }
        while let Some(effect) = self.hub.poll_effect() {
            self.carry_out(effect);
        }
        self.begin(Phase::Ended);
        self.end_lines.log_left_out(LogBudget::left_out_at_end);
        self.log_refused_names(LogBudget::left_out_at_end);
        Ok(())
    }

    /// Listens once the supervisor has asked for it, unless a stop has begun.
    fn listen_if_open(&mut self) -> io::Result<()> {
        let is_stopping = self.stop.is_some();
        if !is_stopping
            && self
                .listeners
                .listen_if_open(self.poll.registry())
                .map_err(|failed| failed.error)?
        {
            tracing::info!("weirgate is listening");
        }
        Ok(())
    }

    /// Waits for work: without sleeping while the loop spins.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let mut timeout = Duration::ZERO;
        if !self.has_work() {
            if self.settings.spin_us > 0 && self.spin(events)? {
                return Ok(());
            }
            // A message that another thread puts in a channel after the next check wakes the loop.
            self.wake.arm();
            if !self.has_messages() {
                timeout = self.timeout();
            }
        }
        self.freeze.note_sleep(self.now_us, timeout);
        poll(&mut self.poll, events, timeout)?;
        self.wake.disarm();
        Ok(())
    }

    /// Polls without sleeping for some time after the last work, until the next deadline. Returns whether
    /// there is work.
    fn spin(&mut self, events: &mut Events) -> io::Result<bool> {
        let timeout_us = u64::try_from(self.timeout().as_micros()).unwrap_or(u64::MAX);
        let due_us = self.now_us.saturating_add(timeout_us);
        let (poller, seams, sockets) = (&mut self.poll, &self.seams, &self.sockets);
        let found = self.spin.poll(self.clock, due_us, || {
            let has_messages = (0..CHECKS_PER_POLL).any(|_| {
                hint::spin_loop();
                seams.have_messages() || sockets.may_evict()
            });
            poll(poller, events, Duration::ZERO)?;
            Ok(has_messages || !events.is_empty())
        });
        self.now_us = self.clock.mono_us();
        found
    }

    /// Goes on with a stop. Returns whether it is complete. Once the last client has ended, the HTTP side ends too: idle
    /// connections at once, answers in progress within the time left.
    fn advance_stop(&mut self) -> bool {
        let Some(stop) = &mut self.stop else {
            return false;
        };
        let now = self.now_us;
        let connections = self.hub.core().connections();
        if self.stop_now || stop.note_connections(now, connections) {
            return true;
        }
        let stop_at = stop.at_us();
        // Connections that were accepted before the port was handed over still get their refusal.
        let refuses = now < self.refuse_until_us && connections > 0;
        if !self.hub.is_drained() || refuses {
            return false;
        }
        if !self.http_ends {
            self.http_ends = true;
            let left = Duration::from_micros(stop_at - now);
            self.seams.http.begin_stop(left);
        }
        !self.seams.http.is_busy()
    }

    /// Whether the next turn has something to do at once. Of the channels, checks only that of the bus, which has most
    /// of the work: `wait` checks all of them anyway, after it has armed the wake.
    fn has_work(&self) -> bool {
        self.clients_wait()
            || self.freeze.is_catching_up()
            || self.accept_from_us.is_some() && self.feed.stats().caught_up
            || !self.seams.bus.is_empty()
            || self.hub.is_surveying()
    }

    /// Whether another thread has put something in a channel, or has chosen a client to be evicted.
    fn has_messages(&self) -> bool {
        self.seams.have_messages() || self.sockets.may_evict()
    }

    /// Returns the time to the next deadline. The poll rounds up, so a turn never comes too early.
    fn timeout(&self) -> Duration {
        let dues = [
            self.hub.poll_timeout(),
            self.hub.slow_due(),
            self.listeners.due_us(),
            self.report.due_us(),
            self.stop.as_ref().map(StopDeadline::at_us),
            self.accept_from_us,
            self.http_ends.then_some(self.now_us + HTTP_CHECK_US),
            self.survey_due_us(),
        ];
        let due = earliest(dues).unwrap_or(u64::MAX);
        Duration::from_micros(due.saturating_sub(self.now_us).min(IDLE_TURN_US))
    }

    /// Returns the current time in a turn that began at `began`. Reads only the monotonic clock.
    fn since(&self, began: Now) -> Now {
        let passed_us = self.clock.mono_us().saturating_sub(began.mono_us);
        began.plus_us(passed_us)
    }

    /// Does one turn of the loop, after a poll that brought these events.
    fn turn(&mut self, events: &Events) {
        let now = self.clock.now();
        self.report
            .note_oversleep(self.freeze.note_wake(now.mono_us));
        if self.settings.spin_us > 0 && (!events.is_empty() || self.seams.have_messages()) {
            self.spin.worked(now.mono_us);
        }
        self.hub.begin_turn_at(now.mono_us);
        self.begin(Phase::Read);
        events.iter().for_each(|event| self.event(now, event));
        let at_us = self.send_kept(now);
        self.accept(now, at_us);
        self.read_cheap(now);
        self.begin(Phase::Inputs);
        self.take_inputs(now);
        self.begin(Phase::Bus);
        self.take_bus(now);
        self.flush_all(now);
        self.begin(Phase::Costly);
        self.read_costly();
        self.flush_little(now);
        self.begin(Phase::Deadlines);
        self.handle_deadlines(now, events.is_empty());
        self.flush_little(now);
        self.begin(Phase::Effects);
        self.end_evicted();
        self.effects();
        self.survey();
        self.publish_numbers(now);
        self.check_slow();
        self.begin(Phase::Wait);
    }

    fn begin(&self, phase: Phase) {
        self.seams.telemetry.event_loop.begin(phase);
    }

    /// Records how much of a client's input may be unread.
    fn note_unread(&mut self, key: SessionKey, unread: Unread) {
        let core = self.hub.core();
        let address = || core.client_addr(key).unwrap_or(NO_ADDRESS);
        self.sockets.note_unread(key, unread, address);
    }

    /// Puts a client's socket that may hold unread bytes in the list of readable sockets.
    fn read_on(&mut self, key: SessionKey) {
        self.note_unread(key, Unread::Nothing);
    }

    /// Reports to the hub the end of a peer's side, even if unread bytes precede the end.
    fn check_end(&mut self, now: Now, key: SessionKey) {
        if let Some(end) = self.sockets.peer_end(key) {
            self.hub.handle_end_seen(now, key, end);
        }
    }

    /// Whether this turn has left something to read, to send or to close for a client.
    fn clients_wait(&self) -> bool {
        let mut costs = Cost::ALL.into_iter();
        let has_to_read = costs.any(|cost| self.sockets.readable(cost) > 0);
        let has_to_write = self.hub.has_to_flush() || self.sockets.has_sendable();
        let has_to_write = has_to_write || self.hub.has_effects();
        let waiting = self.hub.waiting_shares() + self.hub.waiting_for_room();
        has_to_read || has_to_write || waiting > 0
    }

    /// Handles due deadlines. After a freeze of the process, waits until the loop has read all input that arrived in the
    /// meantime.
    fn handle_deadlines(&mut self, began: Now, poll_was_empty: bool) {
        let now = self.since(began);
        self.freeze.note_time(now.mono_us);
        let is_quiet = poll_was_empty && !self.clients_wait();
        if self.freeze.note_turn_end(now.mono_us, is_quiet) {
            self.hub.handle_timeout(now);
        }
    }

    /// Ends the clients that were chosen because the TLS of all clients holds too many bytes.
    fn end_evicted(&mut self) {
        for key in self.sockets.take_evicted() {
            let now = self.clock.now();
            self.hub
                .handle_failed(now, key, CloseReason::TlsMemory, SocketEnd::Reset);
        }
    }

    /// Handles an event of the poll.
    fn event(&mut self, now: Now, event: &Event) {
        match event.token() {
            WAKER => {}
            SIGNALS => self.stop(now),
            token if self.listeners.set_ready(token) => {}
            Token(bits) => {
                let key = SessionKey::from_bits(bits as u64);
                self.sockets.note_end(key, event);
                self.note_unread(key, Unread::of(event));
                self.check_end(now, key);
                if event.is_writable() && self.sockets.note_room(key) {
                    self.hub.handle_writable(now, key);
                }
            }
        }
    }

    /// Sends kept records of TLS to clients whose sockets take bytes again, as many as there is time for: they may be some
    /// MiB together. Returns the time at the end, microseconds.
    fn send_kept(&mut self, now: Now) -> u64 {
        if !self.sockets.has_sendable() {
            return now.mono_us;
        }
        self.hub.begin_part(self.settings.budgets.flush_us);
        while let Some(key) = self.sockets.next_with_room() {
            match self.sockets.send_kept(key) {
                KeptSent::All => self.hub.handle_writable(now, key),
                KeptSent::Part => self.hub.handle_progress(now, key),
                KeptSent::Nothing => {}
            }
            if !self.hub.has_time() {
                break;
            }
        }
        self.clock.mono_us()
    }

    /// Starts to drain at the first signal; ends at once at the second.
    fn stop(&mut self, now: Now) {
        for _ in 0..self.signals.pending().count() {
            if self.stop.is_some() {
                tracing::warn!("second stop signal: ending at once");
                self.stop_now = true;
                return;
            }
            let plan = self.settings.drain;
            tracing::info!(clients = self.hub.stats().open, "stopping");
            let connections = self.hub.core().connections();
            // The deadline is for the end of the process, not of the last client.
            let margin_us = self.settings.stop_timeout_us / 20;
            let in_time_us = |stop_us: u64| now.mono_us + stop_us - margin_us;
            let at_us = in_time_us(self.settings.stop_time_us(connections as u64));
            let at_us_max = in_time_us(self.settings.longest_stop_us(connections as u64));
            self.stop = Some(StopDeadline::new(at_us, at_us_max, connections));
            self.seams.telemetry.event_loop.set_draining();
            self.hub.drain(now, plan);
        }
    }

    /// Writes to clients with little to send, after the flush.
    fn flush_little(&mut self, began: Now) {
        if self.hub.has_to_flush() {
            let now = self.since(began);
            let flush_us = self.settings.budgets.flush_little_us;
            self.hub.begin_later_part(flush_us);
            self.flush(now, Hub::flush_little);
        }
    }

    /// Writes to all clients, once a turn.
    fn flush_all(&mut self, began: Now) {
        if self.hub.has_to_flush() {
            let now = self.since(began);
            let flush_us = self.settings.budgets.flush_us;
            self.hub.begin_part_at(now.mono_us, flush_us);
            self.flush(now, Hub::flush);
        }
    }

    /// Calls one of the flushes of the hub. Records the end if all clients were reached; otherwise a later turn goes
    /// on, and records it.
    fn flush(&mut self, now: Now, flush: fn(&mut Hub<G>, Now, &mut dyn Transmit) -> bool) {
        self.begin(Phase::Flush);
        flush(&mut self.hub, now, &mut self.sockets);
        // A flush without time for all clients goes on in a later turn, which then records its end. The result of
        // `flush` does not show that: a client that was reached may have more to send.
        if self.hub.is_flushing() {
            if !self.hub.has_time() {
                self.report.count_spent(Budget::Flush);
            }
            return;
        }
        let first_write_us = self.sockets.take_first_write_us();
        let ended_us = self.clock.mono_us();
        self.report.note_flush_end(first_write_us, ended_us);
    }

    /// Checks some of the clients whose send queue waits, if a check is due.
    fn check_slow(&mut self) {
        if self.hub.slow_due().is_some_and(|at| at <= self.now_us) {
            let (now, late_us) = (self.clock.now(), self.report.late_us());
            self.hub.check_slow(now, late_us, &mut self.sockets);
        }
    }
}

/// Fills `events`; leaves them empty if a signal interrupts the poll.
fn poll(poll: &mut Poll, events: &mut Events, timeout: Duration) -> io::Result<()> {
    match poll.poll(events, Some(timeout)) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}
