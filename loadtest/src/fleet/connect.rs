//! Opens connections, a bounded number of handshakes at a time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mio::net::TcpStream;
use mio::{Interest, Token};
use socket2::{Domain, Socket, Type};

use super::client::{Client, Kind, Phase};
use super::link::Link;
use super::{Fleet, SMALL_RCVBUF_BYTES};
use crate::clock;
use crate::fault::{Fault, Tried};
use crate::wire::handshake;
use crate::wire::parser::{client_frame, opcode};

/// Handshakes under way at once: below any listen backlog, or lost SYNs cost a second each.
const HANDSHAKES_MAX: usize = 100;
/// Clients of a source address; the ports of an address run out near 28,000.
const CLIENTS_PER_ADDRESS: usize = 16_000;
/// Longest wait for the next hundred handshakes.
const HANDSHAKE_US: u64 = 10_000_000;

impl Fleet {
    /// Adds `count` clients and returns when all are open; fails when a client is refused.
    pub(crate) fn open(&mut self, kind: Kind, count: usize) -> Result<(), Fault> {
        let first = self.clients.len();
        while self.clients.len() < first + count {
            let until = (self.clients.len() + HANDSHAKES_MAX).min(first + count);
            let batch = self.clients.len()..until;
            for index in batch.clone() {
                self.start(index, kind)?;
            }
            let pending = |c: &Client| matches!(c.phase, Phase::Handshake(_));
            let range = batch.clone();
            if !self.run(HANDSHAKE_US, |f| {
                !f.clients[range.clone()].iter().any(pending)
            })? {
                let waiting = self.clients[batch].iter().filter(|c| pending(c)).count();
                return Err(Fault::Server(format!(
                    "{waiting} handshakes without an answer after 10 s"
                )));
            }
            for index in batch {
                self.opened(index)?;
            }
        }
        Ok(())
    }

    fn opened(&mut self, index: usize) -> Result<(), Fault> {
        let client = &mut self.clients[index];
        if let Phase::Refused(why) = &client.phase {
            let addr = self.target.addr;
            return Err(Fault::Server(format!(
                "client {index} cannot connect to {addr}: {why}"
            )));
        }
        if let Some(text) = &self.target.send {
            client.send(
                &client_frame(opcode::TEXT, text.as_bytes()),
                &mut self.readers,
            );
        }
        if client.kind != Kind::Reader
            && let Some(stream) = &mut client.stream
        {
            // Reads follow the clock or never happen; readiness would only wake the loop.
            let socket = stream.socket();
            self.poll.registry().deregister(socket).tried("epoll_ctl")?;
        }
        Ok(())
    }

    fn start(&mut self, index: usize, kind: Kind) -> Result<(), Fault> {
        let stream = self.dial(index, kind)?;
        if kind == Kind::Throttled {
            self.throttle_at_us = clock::now_us();
        }
        let request = self.request(index);
        self.clients.push(Client::new(index, stream, kind, request));
        Ok(())
    }

    /// The upgrade request of a client.
    pub(super) fn request(&self, index: usize) -> Vec<u8> {
        let target = &self.target;
        let path = target.path.replace("{n}", &index.to_string());
        handshake::request(&target.addr.to_string(), &path, target.deflate)
    }

    /// Starts a connection with the events of this client.
    pub(super) fn dial(&self, index: usize, kind: Kind) -> Result<Link, Fault> {
        let mut stream = connect(self.target.addr, index, kind)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.registry();
        registry
            .register(&mut stream, Token(index), interest)
            .tried("epoll_ctl")?;
        let target = &self.target;
        Link::new(stream, target.addr.ip(), target.tls.as_ref())
    }
}

/// Starts a non-blocking connection, from a separate source address for each 16,000 clients.
pub(crate) fn connect(addr: SocketAddr, index: usize, kind: Kind) -> Result<TcpStream, Fault> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).tried("socket")?;
    socket.set_nonblocking(true).tried("O_NONBLOCK")?;
    socket.set_tcp_nodelay(true).tried("TCP_NODELAY")?;
    if kind != Kind::Reader {
        // Before connect(2): the window is announced with the SYN.
        socket
            .set_recv_buffer_size(SMALL_RCVBUF_BYTES)
            .tried("SO_RCVBUF")?;
    }
    let block = (index / CLIENTS_PER_ADDRESS) as u8;
    if let (1.., IpAddr::V4(ip)) = (block, addr.ip())
        && ip.is_loopback()
    {
        let source = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 1 + block), 0));
        socket
            .bind(&source.into())
            .tried(format!("bind {source}"))?;
    }
    match socket.connect(&addr.into()) {
        Err(e) if e.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Err(Fault::Server(format!("connect {addr}: {e}")))
        }
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}
