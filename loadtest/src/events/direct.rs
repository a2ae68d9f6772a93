//! The same requests directly to the service, over kept connections.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::schedule::{Request, Side};
use crate::clock;
use crate::fault::{Fault, Tried};
use crate::fleet::{Alarm, Seen, Tally};
use crate::http;
use crate::stamp;

const ALARM: Token = Token(usize::MAX);
/// Longest wait, so a stop request is noticed without traffic.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// A client of the service with only the necessary work of a gateway.
pub(super) struct Direct {
    addr: SocketAddr,
    poll: Poll,
    events: Events,
    alarm: Alarm,
    links: Vec<Link>,
    /// Links without a request; the most recently used link is reused first.
    idle: Vec<usize>,
    tally: Tally,
    stop: Arc<AtomicBool>,
}

struct Link {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Direct {
    pub(super) fn new(addr: SocketAddr, stop: Arc<AtomicBool>) -> Result<Self, Fault> {
        let poll = Poll::new().tried("epoll")?;
        Ok(Self {
            addr,
            alarm: Alarm::new(poll.registry(), ALARM)?,
            poll,
            events: Events::with_capacity(256),
            links: Vec::new(),
            idle: Vec::new(),
            tally: Tally::new(),
            stop,
        })
    }

    /// A free connection; opens a connection if none is free.
    fn link(&mut self) -> Result<usize, Fault> {
        if let Some(index) = self.idle.pop() {
            return Ok(index);
        }
        let stream = std::net::TcpStream::connect(self.addr).tried("connect to the service")?;
        stream.set_nodelay(true).tried("TCP_NODELAY")?;
        stream.set_nonblocking(true).tried("O_NONBLOCK")?;
        let mut stream = TcpStream::from_std(stream);
        let index = self.links.len();
        let registry = self.poll.registry();
        registry
            .register(&mut stream, Token(index), Interest::READABLE)
            .tried("epoll_ctl")?;
        let read = Vec::new();
        self.links.push(Link { stream, read });
        Ok(index)
    }

    fn turn(&mut self, at_us: u64) -> Result<(), Fault> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Fault::Interrupted);
        }
        let wait = Duration::from_micros(at_us.saturating_sub(clock::now_us()));
        match self.poll.poll(&mut self.events, Some(wait.min(WAIT_MAX))) {
            Err(e) if e.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other.tried("epoll_wait")?,
        }
        for event in &self.events {
            let Token(index) = event.token();
            let Some(link) = self.links.get_mut(index) else {
                continue;
            };
            if link.answered(&mut self.tally)? {
                self.idle.push(index);
            }
        }
        Ok(())
    }
}

impl Link {
    /// Reads all available bytes; returns true at the end of a response.
    fn answered(&mut self, tally: &mut Tally) -> Result<bool, Fault> {
        let mut block = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut block) {
                Ok(0) => return Err(Fault::Server("the service hung up".into())),
                Ok(n) => self.read.extend_from_slice(&block[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                other => drop(other.tried("read from the service")?),
            }
        }
        let Some(body) = http::body(&self.read) else {
            return Ok(false);
        };
        // A separate order for each request: responses overtake each other.
        let seen = &mut Seen::default();
        tally.message(seen, stamp::find(&self.read[body]), clock::now_us());
        self.read.clear();
        Ok(true)
    }
}

impl Side for Direct {
    fn send(&mut self, request: &Request<'_>) -> Result<(), Fault> {
        let Request {
            device,
            event,
            n,
            data,
        } = request;
        // The gateway's request for this message.
        let body = format!(
            r#"{{"client":{{"device_id":"device-{device}","connection_id":"AAAAAAAAAAAAAAAAAAAAAA","ip":"127.0.0.1"}},"message":{{"event":"{event}","request_id":"{n}","data":{data}}}}}"#
        );
        let message = format!(
            "POST /gateway/handle HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.addr,
            body.len()
        );
        let index = self.link()?;
        let stream = &mut self.links[index].stream;
        // The link is idle, so the kernel has room for the message.
        stream
            .write_all(message.as_bytes())
            .tried("write to the service")
    }

    fn run_until(&mut self, at_us: u64) -> Result<(), Fault> {
        self.alarm.set(at_us)?;
        while clock::now_us() < at_us {
            self.turn(at_us)?;
        }
        Ok(())
    }

    fn tally(&self) -> &Tally {
        &self.tally
    }

    fn count_from(&mut self, n: u64) {
        self.tally = Tally {
            from_n: n,
            ..Tally::new()
        };
    }
}
