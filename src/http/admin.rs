//! The admin listener: the operators' pages on a separate address.
//!
//! Connections are accepted on the HTTP thread, apart from the event loop and its connection limits, so that
//! `/ready` can report a hanging loop. Knows no WebSocket.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tracing::warn;

use super::connection::{self, Server};
use super::handover::{FirstHead, Handover};
use super::site::Site;
use crate::admission::Peer;
use crate::base::{Clock, LogBudget};
use crate::hub::Permit;
use crate::listening::{Bound, ListenAddr, ListenOptions, SocketFile};

/// The first wait after a failed accept; doubled up to `RETRY_MAX`.
const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// A bound listener with its site.
pub struct Admin {
    listener: Listener,
    site: Site,
}

/// A bound listener.
pub(super) struct Listener {
    bound: Bound,
    /// For the limit of log lines.
    clock: Clock,
}

/// Enough for a few probes and scrapers.
const CONNECTIONS_MAX: usize = 64;

impl Admin {
    /// The most connections at once. For a new connection over the limit, the oldest connection without a
    /// request ends; if all have sent a request, the new connection waits in the kernel.
    pub const CONNECTIONS_MAX: usize = CONNECTIONS_MAX;

    /// Binds `addr`, for `site`.
    ///
    /// # Errors
    /// The address is in use, or does not belong to this machine.
    pub fn bind(
        addr: &ListenAddr,
        options: &ListenOptions,
        site: Site,
        clock: Clock,
    ) -> io::Result<Self> {
        let bound = addr.bind(options)?;
        let listener = Listener { bound, clock };
        Ok(Self { listener, site })
    }

    /// The bound address.
    ///
    /// # Errors
    /// The socket has no address, which cannot happen to a bound socket.
    pub fn local_addr(&self) -> io::Result<ListenAddr> {
        self.listener.bound.local_addr()
    }

    pub(super) fn into_parts(self) -> (Listener, Site) {
        (self.listener, self.site)
    }
}

/// A listener on the HTTP thread.
enum Accepting {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        _file: SocketFile,
    },
}

impl Accepting {
    fn new(bound: Bound) -> io::Result<Self> {
        match bound {
            Bound::Tcp(listener) => TcpListener::from_std(listener).map(Self::Tcp),
            Bound::Unix(listener, file) => {
                let listener = UnixListener::from_std(listener)?;
                Ok(Self::Unix {
                    listener,
                    _file: file,
                })
            }
        }
    }

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
                // The rest is the same for every stream socket.
                let stream = stream.into_std()?;
                Ok((OwnedFd::from(stream).into(), Peer::Unix(None)))
            }
        })
    }
}

/// The open connections.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    places: Arc<()>,
    /// Connections without a request yet, oldest first.
    silent: VecDeque<(FirstHead, AbortHandle)>,
}

impl Connections {
    fn are_full(&self) -> bool {
        Permit::taken(&self.places) >= CONNECTIONS_MAX
    }

    /// Accepts the next connection, once there is a permit or a silent connection to end; `None` at the stop.
    async fn accept(
        &mut self,
        listener: &Accepting,
        stopping: &mut watch::Receiver<bool>,
    ) -> Option<io::Result<(TcpStream, Peer)>> {
        let mut stop = pin!(stopping.wait_for(|&stopping| stopping));
        poll_fn(|cx| {
            // A finished task has returned its permit; the end of the next task wakes this future again.
            while let Poll::Ready(Some(_)) = self.tasks.poll_join_next(cx) {}
            self.silent
                .retain(|(first_head, task)| !first_head.is_there() && !task.is_finished());
            if stop.as_mut().poll(cx).is_ready() {
                Poll::Ready(None)
            } else if !self.are_full() || !self.silent.is_empty() {
                listener.poll_accept(cx).map(Some)
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Serves a connection. If all permits are taken, the oldest silent connection ends.
    fn serve(
        &mut self,
        server: &Rc<Server>,
        (stream, peer): (TcpStream, Peer),
        stopping: &watch::Receiver<bool>,
    ) {
        if self.are_full()
            && let Some((_, task)) = self.silent.pop_front()
        {
            task.abort();
        }
        let handover = Handover {
            stream,
            tls: None,
            read: Vec::new(),
            peer,
            permit: Permit::new(&self.places),
        };
        let first_head = FirstHead::default();
        let served = connection::serve(
            Rc::clone(server),
            handover,
            Some(first_head.clone()),
            None,
            stopping.clone(),
        );
        let task = self.tasks.spawn_local(served);
        self.silent.push_back((first_head, task));
    }
}

/// Accepts and serves until the stop, then waits for answers in progress.
pub(super) async fn serve(
    listener: Listener,
    server: Rc<Server>,
    mut stopping: watch::Receiver<bool>,
) {
    let Listener { bound, clock } = listener;
    let listener = match Accepting::new(bound) {
        Ok(listener) => listener,
        Err(error) => return warn!(%error, "no admin pages: the listener does not work"),
    };
    let mut lines = LogBudget::new(1);
    let mut connections = Connections::default();
    let mut retry = RETRY_MIN;
    while let Some(accepted) = connections.accept(&listener, &mut stopping).await {
        match accepted {
            Ok(accepted) => {
                connections.serve(&server, accepted, &stopping);
                retry = RETRY_MIN;
                if connections.are_full() && lines.line(clock.now()).is_some() {
                    warn!(
                        connections = CONNECTIONS_MAX,
                        "the admin pages have no room: a connection that sends no request ends \
                         for a new one, or the new one waits"
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
    while connections.tasks.join_next().await.is_some() {}
}
