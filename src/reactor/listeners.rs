//! All that the loop listens on.

use std::io;

use mio::net::TcpStream;
use mio::{Registry, Token};

use super::listener::{ListenSettings, Listener};
use crate::admission::Peer;
use crate::hub::Now;
use crate::listening::ListenAddr;

/// The listening sockets, each of which has its turn.
#[derive(Debug)]
pub(super) struct Listeners {
    all: Vec<Listener>,
    /// Where they listen: with the ports that were taken.
    addrs: Vec<ListenAddr>,
    /// The token of the first; those of the others are below it.
    first_token: usize,
    /// Which accepts next.
    next: usize,
    /// Others may listen on the same TCP ports.
    reuse_port: bool,
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct ListenError {
    /// What was asked for.
    pub addr: ListenAddr,
    /// What the system said.
    pub error: io::Error,
}

impl Listeners {
    /// Listens on every address. The first has the token `first`, the others those below it.
    pub(super) fn bind(
        settings: &ListenSettings,
        registry: &Registry,
        first: Token,
    ) -> Result<Self, ListenError> {
        let mut listeners = Self {
            all: Vec::new(),
            addrs: Vec::new(),
            first_token: first.0,
            next: 0,
            reuse_port: settings.options.reuse_port,
        };
        for addr in &settings.addrs {
            let failed = |error| ListenError {
                addr: addr.clone(),
                error,
            };
            let bound = addr.bind(&settings.options).map_err(failed)?;
            listeners.addrs.push(bound.local_addr().map_err(failed)?);
            let token = Token(first.0 - listeners.all.len());
            let listener = Listener::register(bound, registry, token);
            listeners.all.push(listener.map_err(failed)?);
        }
        Ok(listeners)
    }

    pub(super) fn local_addrs(&self) -> &[ListenAddr] {
        &self.addrs
    }

    /// The poll said of this token that connections wait; `false`: the token is none of theirs.
    pub(super) fn set_ready(&mut self, token: Token) -> bool {
        let at = self.first_token.checked_sub(token.0);
        let listener = at.and_then(|at| self.all.get_mut(at));
        listener.map(Listener::set_ready).is_some()
    }

    /// When to come back for connections that wait with no new edge; `None`: at the next edge.
    pub(super) fn due_us(&self) -> Option<u64> {
        self.all.iter().filter_map(Listener::due_us).min()
    }

    /// Takes the next connection, each listener in turn.
    pub(super) fn accept(&mut self, now: Now) -> Option<(TcpStream, Peer)> {
        for _ in 0..self.all.len() {
            let at = self.next;
            self.next = (at + 1) % self.all.len();
            let accepted = self.all.get_mut(at).and_then(|one| one.accept(now));
            if accepted.is_some() {
                return accepted;
            }
        }
        None
    }

    /// Accepts no more: who connects from here on is refused by the system.
    pub(super) fn close(&mut self) {
        self.all.iter_mut().for_each(Listener::close);
    }

    /// Other processes may take the clients of an open TCP port.
    pub(super) fn can_give_way(&self) -> bool {
        self.reuse_port && self.all.iter().any(Listener::is_tcp)
    }

    /// Connections may wait without an edge that was seen.
    pub(super) fn look_again(&mut self) {
        self.all.iter_mut().for_each(Listener::set_ready);
    }

    /// Leaves the TCP ports to the others, where no connection waits: the kernel resets those that
    /// do.
    pub(super) fn give_way(&mut self) {
        let idle = self.all.iter_mut();
        idle.filter(|one| one.is_tcp() && !one.is_ready())
            .for_each(Listener::close);
    }

    /// Failed accepts.
    pub(super) fn errors(&self) -> u64 {
        self.all.iter().map(|one| one.errors).sum()
    }
}
