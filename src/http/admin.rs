//! The admin listener: the operators' pages on an address of their own.
//!
//! It is accepted on the HTTP thread, apart from the event loop and its connection limits, so that
//! `/ready` can tell that the loop hangs. Knows no WebSocket.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::warn;

use super::connection::{self, Server};
use super::plane::Handover;
use super::site::Site;
use crate::clock::Clock;
use crate::hub::Permit;
use crate::log_budget::LogBudget;

/// First wait after a failed accept, doubling to the last.
const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// A listener that is bound, and what it serves.
pub struct Admin {
    listener: Listener,
    site: Site,
}

/// A listener that is bound.
pub(super) struct Listener {
    socket: std::net::TcpListener,
    /// For the limit of log lines.
    clock: Clock,
}

/// A few probes and scrapers.
const CONNECTIONS_MAX: usize = 64;

impl Admin {
    /// Connections at once. Others wait in the kernel until one ends.
    pub const CONNECTIONS_MAX: usize = CONNECTIONS_MAX;

    /// Binds `addr`, for `site`.
    ///
    /// # Errors
    /// The address is taken, or is none of this machine's.
    pub fn bind(addr: SocketAddr, site: Site, clock: Clock) -> io::Result<Self> {
        let socket = std::net::TcpListener::bind(addr)?;
        socket.set_nonblocking(true)?;
        let listener = Listener { socket, clock };
        Ok(Self { listener, site })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket has no address, which a bound one always has.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.socket.local_addr()
    }

    pub(super) fn into_parts(self) -> (Listener, Site) {
        (self.listener, self.site)
    }
}

/// Accepts and serves until the stop, then waits for answers on their way.
pub(super) async fn serve(
    listener: Listener,
    server: Rc<Server>,
    mut stopping: watch::Receiver<bool>,
) {
    let Listener { socket, clock } = listener;
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => return warn!(%error, "no admin pages: the listener does not work"),
    };
    let mut lines = LogBudget::new(1);
    let places = Arc::new(());
    let mut connections = JoinSet::new();
    let mut retry = RETRY_MIN;
    while let Some(accepted) = accept(&listener, &places, &mut connections, &mut stopping).await {
        match accepted.and_then(|(stream, peer)| handover(stream, peer, &places)) {
            Ok(handover) => {
                retry = RETRY_MIN;
                let served =
                    connection::serve(Rc::clone(&server), handover, None, stopping.clone());
                connections.spawn_local(served);
                let is_full = Permit::taken(&places) >= CONNECTIONS_MAX;
                if is_full && lines.line(clock.now()).is_some() {
                    warn!(
                        connections = CONNECTIONS_MAX,
                        "the admin pages take no more connections until one ends"
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
    while connections.join_next().await.is_some() {}
}

/// The next connection, once there is a place for it; `None` at the stop.
async fn accept(
    listener: &TcpListener,
    places: &Arc<()>,
    connections: &mut JoinSet<()>,
    stopping: &mut watch::Receiver<bool>,
) -> Option<io::Result<(TcpStream, SocketAddr)>> {
    let mut stop = pin!(stopping.wait_for(|&stopping| stopping));
    poll_fn(|cx| {
        // Whose end this sees has given its place back; the next end wakes this again.
        while let Poll::Ready(Some(_)) = connections.poll_join_next(cx) {}
        if stop.as_mut().poll(cx).is_ready() {
            Poll::Ready(None)
        } else if Permit::taken(places) < CONNECTIONS_MAX {
            listener.poll_accept(cx).map(Some)
        } else {
            Poll::Pending
        }
    })
    .await
}

fn handover(stream: TcpStream, peer: SocketAddr, places: &Arc<()>) -> io::Result<Handover> {
    // Fails only on a connection that is gone already; the first read will say so.
    let _ = stream.set_nodelay(true);
    Ok(Handover {
        stream: stream.into_std()?,
        read: Vec::new(),
        peer,
        permit: Permit::new(places),
    })
}
