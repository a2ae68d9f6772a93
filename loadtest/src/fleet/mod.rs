//! Thousands of WebSocket clients on a single thread: a poll, a shared receive buffer, each ready
//! socket read in turn.

mod alarm;
mod client;
mod connect;
mod freshness;
mod lateness;
mod link;
mod returning;
mod talk;
mod tally;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mio::{Events, Poll, Token};
use rustls::ClientConfig;

pub(crate) use alarm::Alarm;
pub(crate) use client::Kind;
use client::{Client, Phase, Shared};
pub(crate) use connect::connect;
pub(crate) use freshness::Freshness;
use hdrhistogram::Histogram;
use lateness::RunDelay;
pub(crate) use lateness::{LATE_SHARE_MAX, Percentiles, histogram, waited_us};
pub(crate) use link::Link;
use returning::Jitter;
pub(crate) use returning::Returns;
pub(crate) use talk::{Talk, Talking};
pub(crate) use tally::{Latency, Samples, Seen, Tally};

use crate::clock;
use crate::fault::{Fault, Tried};
use crate::wire::deflate::{Inflater, Window};
use crate::wire::parser::{client_frame, opcode};

/// The shared receive buffer: large enough to empty a socket in a single read in ordinary traffic.
const SCRATCH_BYTES: usize = 256 * 1024;
/// Interval of the reads of throttled clients.
const THROTTLE_TICK_US: u64 = 50_000;
/// The requested receive buffer of stuck and throttled clients; the kernel doubles the size.
const SMALL_RCVBUF_BYTES: usize = 4096;
/// A token that is not a client's number.
const ALARM: Token = Token(usize::MAX);

/// The destination and options of the clients.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The server; loopback.
    pub(crate) addr: SocketAddr,
    /// Path and query of the upgrade request; `{n}` is the number of the client, from 0.
    pub(crate) path: String,
    /// The TLS of the clients; `None` for plain clients.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// Offer permessage-deflate.
    pub(crate) deflate: Option<Window>,
    /// A text message to send once open (a subscription).
    pub(crate) send: Option<String>,
    /// Reading rate of a throttled client, kbit/s.
    pub(crate) throttle_kbit: u32,
}

/// The clients and their figures.
pub(crate) struct Fleet {
    target: Target,
    poll: Poll,
    /// Ends the wait of [`Fleet::run_until`].
    alarm: Alarm,
    events: Events,
    clients: Vec<Client>,
    scratch: Box<[u8]>,
    inflater: Inflater,
    /// Counts of the readers.
    pub(crate) readers: Tally,
    /// Counts of the throttled clients.
    pub(crate) throttled: Tally,
    /// Time for which the loop waited for a CPU before and in a turn, recorded for each message to a
    /// reader in the turn, microseconds.
    pub(crate) late: Histogram<u64>,
    /// The turns in which the loop waited for a CPU, if kept: the end, and the wait, microseconds.
    pub(crate) late_turns: Option<Vec<(u64, u64)>>,
    run_delay: RunDelay,
    throttle_at_us: u64,
    /// Delays before clients reconnect; `None`: clients do not reconnect.
    jitter: Option<Jitter>,
    returns: Returns,
    /// The conversation of the readers, if any.
    talking: Option<Talking>,
    stop: Arc<AtomicBool>,
}

impl Fleet {
    /// A fleet without clients; `stop` ends every wait with [`Fault::Interrupted`].
    pub(crate) fn new(target: Target, stop: Arc<AtomicBool>) -> Result<Self, Fault> {
        let poll = Poll::new().tried("epoll")?;
        Ok(Self {
            target,
            alarm: Alarm::new(poll.registry(), ALARM)?,
            poll,
            events: Events::with_capacity(1024),
            clients: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            inflater: Inflater::new(),
            readers: Tally::new(),
            throttled: Tally::new(),
            late: histogram(),
            late_turns: None,
            run_delay: RunDelay::default(),
            throttle_at_us: 0,
            jitter: None,
            returns: Returns::default(),
            talking: None,
            stop,
        })
    }

    /// Lets the clients opened later take part in a conversation.
    pub(crate) fn talk(&mut self, talking: Talking) {
        self.talking = Some(talking);
    }

    /// Open clients of a kind.
    pub(crate) fn open_count(&self, kind: Kind) -> usize {
        let open = |c: &&Client| c.kind == kind && c.phase == Phase::Open;
        self.clients.iter().filter(open).count()
    }

    /// Open clients of a kind with message `n` or a later message.
    pub(crate) fn at_least(&self, kind: Kind, n: u64) -> usize {
        let reached =
            |c: &&Client| c.kind == kind && c.phase == Phase::Open && c.seen.last_n >= Some(n);
        self.clients.iter().filter(reached).count()
    }

    /// The newest message of any client.
    pub(crate) fn newest(&self) -> u64 {
        let last = self.clients.iter().filter_map(|c| c.seen.last_n);
        last.max().unwrap_or(0)
    }

    /// The freshness of each client.
    pub(crate) fn freshness(&self) -> impl Iterator<Item = &Freshness> {
        self.clients.iter().map(|c| &c.seen.freshness)
    }

    /// Restarts the longest times without a newer message, and the counts of wrong messages.
    pub(crate) fn forget_gaps(&mut self) {
        for client in &mut self.clients {
            client.seen.freshness.forget();
        }
    }

    /// Fewest and most of a count over the readers.
    pub(crate) fn range_of_readers(&self, of: impl Fn(&Seen) -> u64) -> (u64, u64) {
        let of_readers = || {
            self.clients
                .iter()
                .filter(|c| c.kind == Kind::Reader)
                .map(|c| of(&c.seen))
        };
        (
            of_readers().min().unwrap_or(0),
            of_readers().max().unwrap_or(0),
        )
    }

    /// Clients with negotiated permessage-deflate.
    pub(crate) fn deflate_count(&self) -> usize {
        self.clients.iter().filter(|c| c.deflate.is_some()).count()
    }

    /// Restarts all counts, for messages numbered `n` and above.
    pub(crate) fn count_from(&mut self, n: u64) {
        self.late.reset();
        self.run_delay.take_us();
        for tally in [&mut self.readers, &mut self.throttled] {
            // The ends of connections are kept: a client lost in the warm-up is still lost.
            let ends = std::mem::take(&mut tally.ends);
            *tally = Tally {
                from_n: n,
                ends,
                ..Tally::new()
            };
        }
        for client in &mut self.clients {
            client.seen.deliveries = 0;
            client.seen.unstamped = 0;
        }
    }

    /// Sends a text message from every open client.
    pub(crate) fn send_all(&mut self, text: &str) {
        let frame = client_frame(opcode::TEXT, text.as_bytes());
        for client in self.clients.iter_mut().filter(|c| c.phase == Phase::Open) {
            client.send(&frame, &mut self.readers);
        }
    }

    /// Reads for `wait_us`, or until `done` returns true (called after each turn); returns true if done.
    pub(crate) fn run(
        &mut self,
        wait_us: u64,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<bool, Fault> {
        let end = clock::now_us() + wait_us;
        loop {
            self.turn(end)?;
            if done(self) {
                return Ok(true);
            }
            if clock::now_us() >= end {
                return Ok(false);
            }
        }
    }

    /// Reads until `at_us`, to the microsecond as far as the machine allows.
    pub(crate) fn run_until(&mut self, at_us: u64) -> Result<(), Fault> {
        self.alarm.set(at_us)?;
        while clock::now_us() < at_us {
            self.turn(at_us)?;
        }
        Ok(())
    }

    /// Sends a close frame (1000) on every connection and drops the connection.
    pub(crate) fn close(mut self) {
        let frame = client_frame(opcode::CLOSE, &1000u16.to_be_bytes());
        for client in self.clients.iter_mut().filter(|c| c.phase == Phase::Open) {
            client.send(&frame, &mut self.readers);
        }
    }

    /// Waits once and handles all ready sockets.
    fn turn(&mut self, end_us: u64) -> Result<(), Fault> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Fault::Interrupted);
        }
        let now = clock::now_us();
        // Short waits, so `done` and the stop flag are checked even without traffic.
        let wait = end_us.saturating_sub(now).min(THROTTLE_TICK_US);
        match self
            .poll
            .poll(&mut self.events, Some(Duration::from_micros(wait)))
        {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other.tried("epoll_wait")?,
        }
        let before = self.readers.deliveries;
        let mut talk = self.talking.as_ref().map(|talking| talking.borrow_mut());
        let mut shared = Shared {
            scratch: &mut self.scratch,
            offered: self.target.deflate,
            inflater: &mut self.inflater,
            tally: &mut self.readers,
            talk: talk.as_deref_mut(),
        };
        for event in &self.events {
            let Some(client) = self.clients.get_mut(event.token().0) else {
                continue;
            };
            let handshaking = matches!(client.phase, Phase::Handshake(_));
            if event.is_writable() {
                client.write(shared.tally);
            }
            if event.is_readable() && (handshaking || client.kind == Kind::Reader) {
                client.read(&mut shared, usize::MAX, event.is_read_closed());
            }
        }
        drop(talk);
        let read = self.readers.deliveries - before;
        let late_us = self.run_delay.take_us();
        if read > 0 {
            self.late.saturating_record_n(late_us, read);
        }
        if late_us > 0
            && let Some(turns) = &mut self.late_turns
        {
            turns.push((clock::now_us(), late_us));
        }
        self.read_throttled();
        self.come_back()
    }

    /// Reads for throttled clients as much as the rate allows since the last tick. An unused share
    /// expires, and a late tick counts at most twice, so no burst builds up.
    fn read_throttled(&mut self) {
        let now = clock::now_us();
        if now < self.throttle_at_us {
            return;
        }
        let late = now - self.throttle_at_us;
        let ticks_us = THROTTLE_TICK_US + late.min(THROTTLE_TICK_US);
        self.throttle_at_us = now + THROTTLE_TICK_US;
        let budget = u64::from(self.target.throttle_kbit) * ticks_us / 8_000;
        let mut shared = Shared {
            scratch: &mut self.scratch,
            offered: self.target.deflate,
            inflater: &mut self.inflater,
            tally: &mut self.throttled,
            talk: None,
        };
        let throttled = |c: &&mut Client| c.kind == Kind::Throttled && c.phase == Phase::Open;
        for client in self.clients.iter_mut().filter(throttled) {
            client.read(&mut shared, budget as usize, true);
        }
    }
}
