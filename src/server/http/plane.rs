//! The HTTP thread, from its start to its stop. It serves the connections that the reactor hands over, and the admin
//! listener ([`Admin`]).

use super::admin::{Admin, serve_admin};
use super::connection::{self, Server};
use super::end_reports::EndReports;
use super::handover::{Handover, ReturnToReactor};
use super::settings::HttpSettings;
use super::site::{Site, TakeOver};
use crossbeam_channel::Receiver;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::runtime::{self, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, timeout_at};
use weirgate_core::CloseReason;
use weirgate_runtime::Clock;

/// A message to the HTTP thread.
enum HttpJob {
    /// A connection to serve. Dropping the last value marks its end ([`HttpHandle::is_busy`]).
    Serve(Handover, ReturnToReactor, Arc<()>),
    Stop {
        within: Duration,
    },
}

/// The reactor's handle of the HTTP thread, with the callback that returns connections.
pub struct HttpHandle {
    jobs: mpsc::UnboundedSender<HttpJob>,
    back: ReturnToReactor,
    /// Each handed-over connection holds a clone until it ends.
    open: Arc<()>,
    ends: Receiver<CloseReason>,
}

impl HttpHandle {
    /// Hands a connection over. Never blocks; the limit of connections bounds the queue. If the thread has stopped, the
    /// connection is closed.
    pub fn serve(&self, handover: Handover) {
        let (back, open) = (Arc::clone(&self.back), Arc::clone(&self.open));
        let _ = self.jobs.send(HttpJob::Serve(handover, back, open));
    }

    /// Begins a stop as [`HttpPlane::stop`] does, without waiting for its end. A later stop may shorten the time, but
    /// not extend it.
    pub fn begin_stop(&self, within: Duration) {
        let _ = self.jobs.send(HttpJob::Stop { within });
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
    jobs: mpsc::UnboundedSender<HttpJob>,
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
                let ends = Rc::new(EndReports::new(to_reactor, clock));
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
    pub fn handle(&self, back: ReturnToReactor) -> HttpHandle {
        HttpHandle {
            jobs: self.jobs.clone(),
            back,
            open: Arc::default(),
            ends: self.ends.clone(),
        }
    }

    /// Stops the thread. Idle connections end now; answers in progress have the time `within` from now on to finish.
    /// Blocks until the thread has ended.
    pub fn stop(mut self, within: Duration) {
        self.end(within);
    }

    fn end(&mut self, within: Duration) {
        let _ = self.jobs.send(HttpJob::Stop { within });
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
    queue: mpsc::UnboundedReceiver<HttpJob>,
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
    mut queue: mpsc::UnboundedReceiver<HttpJob>,
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
            Some(HttpJob::Serve(handover, back, open)) => {
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
            Some(HttpJob::Stop { within }) => break within,
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
    mut queue: mpsc::UnboundedReceiver<HttpJob>,
    within: Duration,
) {
    let mut deadline = Instant::now() + within;
    loop {
        let shorter = poll_fn(|cx| {
            // Connections that are handed over from now on are dropped, which closes them.
            while let Poll::Ready(Some(job)) = queue.poll_recv(cx) {
                if let HttpJob::Stop { within } = job {
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
