//! The admin listener: it accepts on a thread of its own, and serves the operators' pages.

use super::connection::{self, Server};
use super::handover::Handover;
use super::site::Site;
use crate::listening::handed::take_handed;
use crate::listening::{Bound, ListenAddr, ListenOptions, SocketFile};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;
use weirgate_core::CloseReason;
use weirgate_runtime::Clock;
use weirgate_wire::admission::{ConnectionPermit, Peer, Quota, Room, Sharing};
use weirgate_wire::base::LogBudget;

/// The wait after a failed accept. It doubles with each further failure, up to `RETRY_MAX`.
const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// The admin listener: the operators' pages at a separate address. A thread of its own accepts its connections, independent
/// of the event loop and its connection limits, so that `/ready` can report a hanging loop; and independent of plain
/// requests on the public port. Serves no WebSockets.
pub struct Admin {
    connections: ConnectionSource,
    pub(super) site: Site,
    /// The permits of the connections.
    held: Quota,
    clock: Clock,
}

/// From where the connections come.
enum ConnectionSource {
    Bound(Bound),
    /// Another process hands them over, over this socket.
    Handed(StdUnixStream),
}

impl Admin {
    /// The most connections at once: enough for a few probes and scrapers. For a new connection over the limit, another
    /// one ends, of the client address with the most connections that have nothing to do. If all have a request in
    /// progress, a connection ends whose address has more connections than the address of the new one. If there is
    /// none, the new one waits ([`Sharing::LargestFirst`]).
    pub const CONNECTIONS_MAX: usize = 64;

    /// The most connections that wait. Over the limit, the newest of the address with the most connections ends: if all
    /// waited in the kernel, those of one address would keep others behind them waiting. A connection whose client has
    /// closed its sending side waits no longer.
    pub const WAITING_MAX: usize = 32;

    /// The most open files that the connections take.
    pub(crate) const FILES_MAX: usize = Self::CONNECTIONS_MAX + Self::WAITING_MAX;

    /// Binds `addr`; its connections get `site`.
    ///
    /// # Errors
    /// The address is in use, or does not belong to this machine.
    pub(crate) fn bind(
        addr: &ListenAddr,
        options: &ListenOptions,
        site: Site,
        clock: Clock,
    ) -> io::Result<Self> {
        let bound = ConnectionSource::Bound(addr.bind(options)?);
        Ok(Self::new(bound, site, clock))
    }

    /// Serves `site` to the connections that another process hands over, over `socket`.
    pub(crate) fn handed(socket: StdUnixStream, site: Site, clock: Clock) -> Self {
        Self::new(ConnectionSource::Handed(socket), site, clock)
    }

    fn new(connections: ConnectionSource, site: Site, clock: Clock) -> Self {
        Self {
            connections,
            site: Site {
                is_admin: true,
                ..site
            },
            held: Quota::new("admin_connections", Self::CONNECTIONS_MAX as u64),
            clock,
        }
    }

    /// The bound address; `None` if another process hands the connections over.
    ///
    /// # Errors
    /// The socket has no address, which cannot happen to a bound socket.
    pub fn local_addr(&self) -> io::Result<Option<ListenAddr>> {
        match &self.connections {
            ConnectionSource::Bound(bound) => bound.local_addr().map(Some),
            ConnectionSource::Handed(_) => Ok(None),
        }
    }
}

/// The [`ConnectionSource`], as the thread polls it.
enum Accepting {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        _file: SocketFile,
    },
    Handed(UnixStream),
}

impl Accepting {
    /// Registers the socket with the runtime of the calling thread.
    fn new(connections: ConnectionSource) -> io::Result<Self> {
        match connections {
            ConnectionSource::Handed(socket) => UnixStream::from_std(socket).map(Self::Handed),
            ConnectionSource::Bound(Bound::Tcp(listener)) => {
                TcpListener::from_std(listener).map(Self::Tcp)
            }
            ConnectionSource::Bound(Bound::Unix(listener, file)) => {
                let listener = UnixListener::from_std(listener)?;
                Ok(Self::Unix {
                    listener,
                    _file: file,
                })
            }
        }
    }

    /// Accepts a connection, as a TCP stream whatever its kind. A connection that another process hands over counts as
    /// one of a unix socket.
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, Peer)>> {
        Poll::Ready(match self {
            Self::Tcp(listener) => {
                let (stream, peer) = ready!(listener.poll_accept(cx))?;
                // Fails only on a connection that has ended already; the first read will report the end.
                let _ = stream.set_nodelay(true);
                stream.into_std().map(|stream| (stream, peer.into()))
            }
            Self::Unix { listener, .. } => {
                let (stream, _) = ready!(listener.poll_accept(cx))?;
                // Everything after the accept is the same for all stream sockets.
                let stream = stream.into_std()?;
                // `None`: the kernel is not asked which process this is.
                Ok((OwnedFd::from(stream).into(), Peer::Unix(None)))
            }
            Self::Handed(socket) => {
                let handed = ready!(poll_handed(socket, cx))?;
                Ok((handed.into(), Peer::Unix(None)))
            }
        })
    }
}

/// Takes the next connection that another process hands over. There is none any more once that process has ended.
fn poll_handed(socket: &UnixStream, cx: &mut Context<'_>) -> Poll<io::Result<OwnedFd>> {
    loop {
        ready!(socket.poll_read_ready(cx))?;
        match socket.try_io(Interest::READABLE, || take_handed(socket)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Pending,
            handed => return Poll::Ready(handed),
        }
    }
}

/// How often to check for a connection that may be evicted, and for clients that have left, while new ones wait.
const RECHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The open connections.
struct Connections {
    server: Rc<Server>,
    /// A task for each connection that has a permit.
    tasks: JoinSet<()>,
    /// The permits.
    held: Quota,
    clock: Clock,
    /// Accepted connections without a permit, the oldest first.
    waiting: VecDeque<(TcpStream, Peer)>,
}

impl Connections {
    fn are_full(&self) -> bool {
        self.held.holders() >= Admin::CONNECTIONS_MAX
    }

    /// Ends the waiting connections whose clients have left: closed their sending side, or broken the connection. They would
    /// count as waiting, and at their turn displace connections that somebody uses.
    fn end_abandoned(&mut self) {
        let streams = self.waiting.iter();
        // The kernel reports the end of a connection even if bytes in front of the end are unread.
        let ends = streams.map(|(stream, _)| PollFd::new(stream, PollFlags::RDHUP));
        let mut ends: Vec<_> = ends.collect();
        // The poll has a timeout of zero, so it does not wait.
        if ends.is_empty() || !poll(&mut ends, Some(&Timespec::default())).is_ok_and(|n| n > 0) {
            return;
        }
        let have_left: Vec<_> = ends.iter().map(|end| !end.revents().is_empty()).collect();
        let mut have_left = have_left.into_iter();
        self.waiting.retain(|_| have_left.next() != Some(true));
    }

    /// Takes the first waiting connection for which there is a permit, perhaps that of a connection that may be evicted.
    fn next_seated(&mut self) -> Option<(TcpStream, Peer)> {
        let now_us = self.clock.mono_us();
        let may_fit = |(_, peer): &(TcpStream, Peer)| {
            self.held
                .may_fit(peer.client(), Admin::CONNECTIONS_MAX, now_us)
        };
        let first = self.waiting.iter().position(may_fit)?;
        self.waiting.remove(first)
    }

    /// If too many wait, ends the newest of the address with the most connections.
    fn end_one_too_many(&mut self) {
        if self.waiting.len() > Admin::WAITING_MAX {
            self.end_abandoned();
        }
        if self.waiting.len() <= Admin::WAITING_MAX {
            return;
        }
        let address = |peer: &Peer| peer.client().group();
        let count = |(_, (_, peer)): &(usize, &(TcpStream, Peer))| {
            let of_same = |other: &&(TcpStream, Peer)| address(&other.1) == address(peer);
            let waiting = self.waiting.iter().filter(of_same).count();
            self.held.of(peer.client()) + waiting as u64
        };
        // Of several with the largest count, this returns the last: the newest.
        let newest = self.waiting.iter().enumerate().max_by_key(count);
        let newest = newest.map(|(at, _)| at);
        if let Some((_, peer)) = newest.and_then(|at| self.waiting.remove(at)) {
            let ends = &self.server.ends;
            ends.count(peer, peer.client(), CloseReason::Evicted);
        }
    }

    /// Accepts connections, and returns the next one for which there is room. Returns `None` at the stop.
    async fn accept(
        &mut self,
        listener: &Accepting,
        stopping: &mut watch::Receiver<bool>,
    ) -> Option<io::Result<(TcpStream, Peer)>> {
        let mut stop = pin!(stopping.wait_for(|&stopping| stopping));
        let mut again = pin!(sleep(RECHECK_INTERVAL));
        poll_fn(|cx| {
            // Finished tasks have returned their permits. The end of a further task wakes this future again.
            while let Poll::Ready(Some(_)) = self.tasks.poll_join_next(cx) {}
            if stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            // Only before the loop: a new connection for which there is room is served, even if its client has closed
            // its sending side already.
            self.end_abandoned();
            loop {
                if let Some(seated) = self.next_seated() {
                    return Poll::Ready(Some(Ok(seated)));
                }
                self.end_one_too_many();
                match listener.poll_accept(cx) {
                    Poll::Ready(Ok(accepted)) => self.waiting.push_back(accepted),
                    Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                    Poll::Pending => break,
                }
            }
            // While connections wait, this future is woken again after the interval.
            while !self.waiting.is_empty() && again.as_mut().poll(cx).is_ready() {
                again.as_mut().reset(Instant::now() + RECHECK_INTERVAL);
            }
            Poll::Pending
        })
        .await
    }

    /// Serves a connection. If all permits are in use, another connection ends for it.
    fn serve(&mut self, (stream, peer): (TcpStream, Peer), stopping: &watch::Receiver<bool>) {
        let server = &self.server;
        let now_us = self.clock.mono_us();
        let permit = ConnectionPermit::of(self.held.hold(peer.client(), 1, now_us));
        // `early` is for holders that another thread ends; these connections end on this one.
        let room = Room {
            holders_max: Admin::CONNECTIONS_MAX,
            sharing: Sharing::LargestFirst,
            early: false,
        };
        // Cannot fail: `accept` has checked for room.
        let _ = permit.held().fit(room, now_us);
        let handover = Handover {
            stream,
            tls: None,
            read: server.nothing_read(&peer),
            peer,
            permit,
        };
        // `None`: a request for a WebSocket is refused.
        let served = connection::serve(Rc::clone(server), handover, None, stopping.clone());
        self.tasks.spawn_local(served);
    }
}

/// Accepts and serves connections until the stop, then waits for the answers in progress.
pub(super) async fn serve_admin(
    Admin {
        connections,
        held,
        clock,
        ..
    }: Admin,
    server: Rc<Server>,
    mut stopping: watch::Receiver<bool>,
) {
    let listener = match Accepting::new(connections) {
        Ok(listener) => listener,
        Err(error) => return warn!(%error, "no admin pages: the listener does not work"),
    };
    let mut lines = LogBudget::new(1);
    let mut connections = Connections {
        server,
        tasks: JoinSet::new(),
        held,
        clock,
        waiting: VecDeque::new(),
    };
    let mut retry = RETRY_MIN;
    while let Some(accepted) = connections.accept(&listener, &mut stopping).await {
        match accepted {
            Ok(accepted) => {
                connections.serve(accepted, &stopping);
                retry = RETRY_MIN;
                if connections.are_full() && lines.line(clock.now()).is_some() {
                    warn!(
                        connections = Admin::CONNECTIONS_MAX,
                        "the admin pages have no room: a connection of the address with the most ends for a new one, or \
                         the new one waits"
                    );
                }
            }
            Err(error) => {
                if lines.line(clock.now()).is_some() {
                    warn!(%error, "cannot accept connections to the admin pages; trying again");
                }
                let stop = stopping.wait_for(|&stopping| stopping);
                if timeout(retry, stop).await.is_ok() {
                    break;
                }
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
    drop(listener);
    connections.waiting.clear();
    while connections.tasks.join_next().await.is_some() {}
}
