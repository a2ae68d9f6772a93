//! The HTTP thread: receives connections from the reactor, accepts connections of the admin listener, and serves both
//! until they end.

use super::connection::{self, Server};
use super::handover::{Ends, Handover, HttpSettings, WayBack};
use super::site::{Site, TakeOver};
use crate::listening::{Bound, ListenAddr, ListenOptions, SocketFile};
use crossbeam_channel::Receiver;
use std::future::{Future, poll_fn};
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::{self, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::warn;
use weirgate_bus::runtime::Clock;
use weirgate_core::CloseReason;
use weirgate_wire::admission::{ConnectionPermit, Peer, Quota, Room};
use weirgate_wire::base::LogBudget;

enum Job {
    Serve(Handover, WayBack, Arc<()>),
    Stop { within: Duration },
}

/// The reactor's handle of the HTTP thread, with the callback that returns connections.
pub struct HttpHandle {
    jobs: mpsc::UnboundedSender<Job>,
    back: WayBack,
    /// Each handed-over connection holds a clone until it ends.
    open: Arc<()>,
    ends: Receiver<CloseReason>,
}

impl HttpHandle {
    /// Hands a connection over. Never blocks; the limit of connections bounds the queue. If the thread has stopped, the
    /// connection is closed.
    pub fn serve(&self, handover: Handover) {
        let (back, open) = (Arc::clone(&self.back), Arc::clone(&self.open));
        let _ = self.jobs.send(Job::Serve(handover, back, open));
    }

    /// Begins a stop as [`HttpPlane::stop`] does, without waiting for its end. A later stop may shorten the time, but
    /// not extend it.
    pub fn begin_stop(&self, within: Duration) {
        let _ = self.jobs.send(Job::Stop { within });
    }

    /// The reason of the next connection that had to be evicted or broke the protocol of TLS; `None` if there is none.
    pub fn next_end(&self) -> Option<CloseReason> {
        self.ends.try_recv().ok()
    }

    /// Whether any handed-over connection is open.
    pub fn is_busy(&self) -> bool {
        Arc::strong_count(&self.open) > 1
    }
}

/// The HTTP thread. Dropping it ends the thread and its connections at once; [`HttpPlane::stop`] lets answers finish
/// first.
pub struct HttpPlane {
    jobs: mpsc::UnboundedSender<Job>,
    ends: Receiver<CloseReason>,
    thread: Option<JoinHandle<()>>,
}

impl HttpPlane {
    /// Starts the thread: `site` serves handed-over connections, `admin` is the admin listener.
    ///
    /// # Errors
    /// The system refuses a thread or descriptors for its event loop.
    pub fn start(
        site: Site,
        admin: Option<Admin>,
        settings: HttpSettings,
        clock: Clock,
    ) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (jobs, queue) = mpsc::unbounded_channel();
        let (to_reactor, ends) = crossbeam_channel::unbounded();
        let thread = thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || {
                let ends = Rc::new(Ends::new(to_reactor, clock));
                let server = |site| Rc::new(Server::new(site, Rc::clone(&ends), settings.clone()));
                run(&runtime, server, site, admin, queue);
                // Work on other threads may take longer than the stop may.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            jobs,
            ends,
            thread: Some(thread),
        })
    }

    /// Makes a handle. Connections that ask for a WebSocket later are returned through `back`.
    pub fn handle(&self, back: WayBack) -> HttpHandle {
        HttpHandle {
            jobs: self.jobs.clone(),
            back,
            open: Arc::default(),
            ends: self.ends.clone(),
        }
    }

    /// Stops the thread. Idle connections end now; answers in progress have `deadline` from now on to finish. Blocks
    /// until the thread has ended.
    pub fn stop(mut self, deadline: Duration) {
        self.end(deadline);
    }

    fn end(&mut self, within: Duration) {
        let _ = self.jobs.send(Job::Stop { within });
        if let Some(thread) = self.thread.take() {
            // The panic hook has reported a panic of the thread; the process is ending anyway.
            let _ = thread.join();
        }
    }
}

impl Drop for HttpPlane {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.end(Duration::ZERO);
        }
    }
}

fn run(
    runtime: &Runtime,
    server: impl Fn(Site) -> Rc<Server>,
    site: Site,
    admin: Option<Admin>,
    queue: mpsc::UnboundedReceiver<Job>,
) {
    let nobody: TakeOver = Arc::new(|handover, _| Some(handover));
    let take_over = site.take_over.clone().unwrap_or(nobody);
    LocalSet::new().block_on(runtime, serve(server, site, take_over, admin, queue));
}

async fn serve(
    server: impl Fn(Site) -> Rc<Server>,
    site: Site,
    take_over: TakeOver,
    admin: Option<Admin>,
    mut queue: mpsc::UnboundedReceiver<Job>,
) {
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    if let Some(admin) = admin {
        let server = server(admin.site.clone());
        connections.spawn_local(serve_admin(admin, server, stopping.clone()));
    }
    let server = server(site);
    let within = loop {
        let job = poll_fn(|cx| {
            // Finished tasks return their memory.
            while let Poll::Ready(Some(_)) = connections.poll_join_next(cx) {}
            queue.poll_recv(cx)
        });
        match job.await {
            Some(Job::Serve(handover, back, open)) => {
                let Some(handover) = take_over(handover, &back) else {
                    continue;
                };
                let (server, stopping) = (Rc::clone(&server), stopping.clone());
                let served = connection::serve(server, handover, Some(back), stopping);
                connections.spawn_local(async move {
                    served.await;
                    drop(open);
                });
            }
            Some(Job::Stop { within }) => break within,
            None => break Duration::ZERO,
        }
    };
    stop.send_replace(true);
    end(connections, queue, within).await;
}

/// Waits until all connections have ended. Drops the connections that are left `within` from now, or earlier if a later
/// stop asks for that.
async fn end(
    mut connections: JoinSet<()>,
    mut queue: mpsc::UnboundedReceiver<Job>,
    within: Duration,
) {
    let mut deadline = Instant::now() + within;
    loop {
        let shorter = poll_fn(|cx| {
            // Connections that are handed over from now on are dropped, which closes them.
            while let Poll::Ready(Some(job)) = queue.poll_recv(cx) {
                if let Job::Stop { within } = job {
                    return Poll::Ready(Some(within));
                }
            }
            while let Poll::Ready(ended) = connections.poll_join_next(cx) {
                if ended.is_none() {
                    return Poll::Ready(None);
                }
            }
            Poll::Pending
        });
        match timeout_at(deadline, shorter).await {
            Ok(Some(within)) => deadline = deadline.min(Instant::now() + within),
            Ok(None) | Err(_) => return,
        }
    }
}

/// The wait after a failed accept. It doubles with each further failure, up to `RETRY_MAX`.
const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// The admin listener: the operators' pages at a separate address. The HTTP thread accepts its connections, independent
/// of the event loop and its connection limits, so that `/ready` can report a hanging loop. Serves no WebSockets.
pub struct Admin {
    bound: Bound,
    site: Site,
    held: Quota,
    clock: Clock,
}

impl Admin {
    /// The most connections at once: enough for a few probes and scrapers. For a new connection over the limit, the
    /// connection that has been without a request for the longest ends, or else one whose client has not sent a byte of
    /// a body, or taken a byte of an answer, for a second. If all connections have a request in progress, the new
    /// connection waits in the kernel.
    pub const CONNECTIONS_MAX: usize = 64;

    /// Binds `addr`; its connections get `site`.
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
        let site = Site {
            is_admin: true,
            ..site
        };
        let held = Quota::new("admin_connections", Self::CONNECTIONS_MAX as u64);
        Ok(Self {
            bound,
            site,
            held,
            clock,
        })
    }

    /// The bound address.
    ///
    /// # Errors
    /// The socket has no address, which cannot happen to a bound socket.
    pub fn local_addr(&self) -> io::Result<ListenAddr> {
        self.bound.local_addr()
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
                // Everything after the accept is the same for all stream sockets.
                let stream = stream.into_std()?;
                Ok((OwnedFd::from(stream).into(), Peer::Unix(None)))
            }
        })
    }
}

/// How often to look for a connection that rests, while new ones wait for it.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The open connections.
struct Connections {
    tasks: JoinSet<()>,
    held: Quota,
    clock: Clock,
}

impl Connections {
    /// Whether a new connection finds a place, perhaps that of one that rests.
    fn have_room(&self) -> bool {
        let now_us = self.clock.mono_us();
        self.held.may_fit(Admin::CONNECTIONS_MAX, now_us)
    }

    fn are_full(&self) -> bool {
        self.held.holders() >= Admin::CONNECTIONS_MAX
    }

    /// Accepts the next connection, once there is room for it. Returns `None` at the stop.
    async fn accept(
        &mut self,
        listener: &Accepting,
        stopping: &mut watch::Receiver<bool>,
    ) -> Option<io::Result<(TcpStream, Peer)>> {
        let mut stop = pin!(stopping.wait_for(|&stopping| stopping));
        let mut again = pin!(sleep(LOOK_AGAIN));
        poll_fn(|cx| {
            // Finished tasks have returned their permits. The end of a further task wakes this future again.
            while let Poll::Ready(Some(_)) = self.tasks.poll_join_next(cx) {}
            if stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            if self.have_room() {
                return listener.poll_accept(cx).map(Some);
            }
            while again.as_mut().poll(cx).is_ready() {
                again.as_mut().reset(Instant::now() + LOOK_AGAIN);
            }
            Poll::Pending
        })
        .await
    }

    /// Serves a connection. If all places are taken, a connection that rests ends for it.
    fn serve(
        &mut self,
        server: &Rc<Server>,
        (stream, peer): (TcpStream, Peer),
        stopping: &watch::Receiver<bool>,
    ) {
        let now_us = self.clock.mono_us();
        let permit = ConnectionPermit::of(self.held.hold(peer.client(), 1, now_us));
        // There is room, as `accept` has looked.
        let room = Room {
            holders_max: Admin::CONNECTIONS_MAX,
            is_shared: false,
            early: false,
        };
        let _ = permit.held().fit(room, now_us);
        let handover = Handover {
            stream,
            tls: None,
            read: server.nothing_read(&peer),
            peer,
            permit,
        };
        let served = connection::serve(Rc::clone(server), handover, None, stopping.clone());
        self.tasks.spawn_local(served);
    }
}

/// Accepts and serves connections until the stop, then waits for the answers in progress.
async fn serve_admin(
    Admin {
        bound, held, clock, ..
    }: Admin,
    server: Rc<Server>,
    mut stopping: watch::Receiver<bool>,
) {
    let listener = match Accepting::new(bound) {
        Ok(listener) => listener,
        Err(error) => return warn!(%error, "no admin pages: the listener does not work"),
    };
    let mut lines = LogBudget::new(1);
    let mut connections = Connections {
        tasks: JoinSet::new(),
        held,
        clock,
    };
    let mut retry = RETRY_MIN;
    while let Some(accepted) = connections.accept(&listener, &mut stopping).await {
        match accepted {
            Ok(accepted) => {
                connections.serve(&server, accepted, &stopping);
                retry = RETRY_MIN;
                if connections.are_full() && lines.line(clock.now()).is_some() {
                    warn!(
                        connections = Admin::CONNECTIONS_MAX,
                        "the admin pages have no room: the connection that has been idle for the longest \
                         ends for a new one, or the new one waits"
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
