//! Clients that connect as fast as the kernel allows, without a limit on handshakes under way.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};
use rustls::ClientConfig;

use crate::clock;
use crate::fault::{Fault, Tried};
use crate::fleet::{Kind, Link, connect};
use crate::wire::handshake::{self, Answer};
use crate::wire::parser::{FrameParser, Received, client_frame, opcode};

/// Connects between two polls, so early clients do not wait for late clients.
const CONNECTS_PER_TURN: usize = 64;
/// Pause of a refused client before the next attempt.
const REFUSED_PAUSE_US: u64 = 50_000;

/// Times of a connection, microseconds; 0 until the step is reached.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    /// Start of connect(2).
    pub(super) began_us: u64,
    /// The kernel has the connection.
    pub(super) connected_us: u64,
    /// The response 101 is read.
    pub(super) opened_us: u64,
}

/// A client of the swarm.
#[derive(Default)]
struct Caller {
    stream: Option<Link>,
    times: Times,
    /// The request is written.
    has_asked: bool,
    head: Vec<u8>,
    frames: FrameParser,
}

/// All clients, on a single thread with a shared poll.
pub(super) struct Swarm {
    addr: SocketAddr,
    /// `None` for plain connections.
    tls: Option<Arc<ClientConfig>>,
    request: Vec<u8>,
    poll: Poll,
    events: Events,
    callers: Vec<Caller>,
    scratch: Vec<u8>,
    /// Due times and clients of reconnects; `None`: clients do not reconnect.
    due: Option<Vec<(u64, usize)>>,
    /// Connections without success: refused, or ended in the handshake.
    pub(super) refused: u64,
    /// Attempts after the first of each client.
    pub(super) returns: u64,
}

impl Swarm {
    /// A swarm without clients.
    pub(super) fn new(
        addr: SocketAddr,
        path: &str,
        tls: Option<Arc<ClientConfig>>,
    ) -> Result<Self, Fault> {
        Ok(Self {
            addr,
            tls,
            request: handshake::request(&addr.to_string(), path, None),
            poll: Poll::new().tried("epoll")?,
            events: Events::with_capacity(1024),
            callers: Vec::new(),
            scratch: vec![0; 64 * 1024],
            due: None,
            refused: 0,
            returns: 0,
        })
    }

    /// Starts `count` connections without a pause.
    pub(super) fn call(&mut self, count: usize) -> Result<(), Fault> {
        for _ in 0..count {
            let index = self.callers.len();
            self.callers.push(Caller::default());
            self.dial(index)?;
            if index.is_multiple_of(CONNECTS_PER_TURN) {
                self.turn(0)?;
            }
        }
        Ok(())
    }

    /// Enables immediate reconnects after the end of a connection.
    pub(super) fn let_come_back(&mut self) {
        self.due = Some(Vec::new());
    }

    /// Number of open clients.
    pub(super) fn open_count(&self) -> usize {
        let open = |c: &&Caller| c.stream.is_some() && c.times.opened_us > 0;
        self.callers.iter().filter(open).count()
    }

    /// Times of the newest connection of each client.
    pub(super) fn times(&self) -> impl Iterator<Item = Times> {
        self.callers.iter().map(|c| c.times)
    }

    fn dial(&mut self, index: usize) -> Result<(), Fault> {
        let began_us = clock::now_us();
        let mut stream = connect(self.addr, index, Kind::Reader)?;
        self.poll
            .registry()
            .register(
                &mut stream,
                Token(index),
                Interest::READABLE | Interest::WRITABLE,
            )
            .tried("epoll_ctl")?;
        let stream = Link::new(stream, self.addr.ip(), self.tls.as_ref())?;
        self.callers[index] = Caller {
            stream: Some(stream),
            times: Times {
                began_us,
                ..Times::default()
            },
            ..Caller::default()
        };
        Ok(())
    }

    /// Waits once, for at most `wait_us`, and handles all ready sockets.
    pub(super) fn turn(&mut self, wait_us: u64) -> Result<(), Fault> {
        let wait = Some(Duration::from_micros(wait_us));
        match self.poll.poll(&mut self.events, wait) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other.tried("epoll_wait")?,
        }
        for event in &self.events {
            let index = event.token().0;
            let caller = &mut self.callers[index];
            let was_open = caller.times.opened_us > 0;
            if caller.ready(&self.request, &mut self.scratch).is_ok() {
                continue;
            }
            caller.stream = None;
            self.refused += u64::from(!was_open);
            if let Some(due) = &mut self.due {
                let pause_us = if was_open { 0 } else { REFUSED_PAUSE_US };
                due.push((clock::now_us() + pause_us, index));
            }
        }
        self.come_back()
    }

    fn come_back(&mut self) -> Result<(), Fault> {
        let Some(due) = &mut self.due else {
            return Ok(());
        };
        let now = clock::now_us();
        let (ready, later) = std::mem::take(due)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        *due = later;
        let ready: Vec<(u64, usize)> = ready;
        for (_, index) in ready {
            self.returns += 1;
            if self.dial(index).is_err() {
                // Nobody listens any more: on the same machine, the kernel reports this immediately.
                self.refused += 1;
            }
        }
        Ok(())
    }
}

impl Caller {
    /// Continues as far as the socket allows; an error is the end of the connection.
    fn ready(&mut self, request: &[u8], scratch: &mut [u8]) -> io::Result<()> {
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        if self.times.connected_us == 0 {
            let socket = stream.socket();
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
            match socket.peer_addr() {
                Err(e) if e.kind() == io::ErrorKind::NotConnected => return Ok(()),
                other => drop(other?),
            }
            self.times.connected_us = clock::now_us();
        }
        if !self.has_asked {
            // The socket is fresh: the buffer has room for the whole request. TLS takes it after its handshake.
            match stream.write_all(request) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                written => written?,
            }
            self.has_asked = true;
        }
        loop {
            match stream.read(scratch) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) if self.times.opened_us == 0 => {
                    self.head.extend_from_slice(&scratch[..n]);
                    match handshake::answer(&self.head, None) {
                        Answer::Partial => {}
                        Answer::Open { head_bytes, .. } => {
                            self.times.opened_us = clock::now_us();
                            let head = std::mem::take(&mut self.head);
                            answer_close(&mut self.frames, &head[head_bytes..], stream)?;
                        }
                        Answer::Refused(why) => return Err(io::Error::other(why)),
                    }
                }
                Ok(n) => answer_close(&mut self.frames, &scratch[..n], stream)?,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// Reads frames, and answers a close frame as clients do: the server waits for the answer before the connection ends.
fn answer_close(frames: &mut FrameParser, bytes: &[u8], stream: &mut Link) -> io::Result<()> {
    let mut answer = None;
    let fed = frames.feed(bytes, |received| {
        if let Received::Control {
            opcode: opcode::CLOSE,
            payload,
        } = received
        {
            answer = Some(client_frame(opcode::CLOSE, payload));
        }
    });
    fed.map_err(io::Error::other)?;
    answer.map_or(Ok(()), |answer| stream.write_all(&answer))
}
