//! The HTTP threads, from their start to their stop: one serves the connections that the reactor hands over, the other one
//! the admin listener ([`Admin`]). So no number of requests on the public port delays the operators' pages, probes, and
//! pushes.

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
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, timeout_at};
use weirgate_core::CloseReason;
use weirgate_runtime::Clock;

/// A message to an HTTP thread.
enum HttpJob {
    /// A connection to serve. It counts as open until the `Arc` is dropped ([`HttpHandle::is_busy`]).
    Serve(Handover, ReturnToReactor, Arc<()>),
    Stop {
        within: Duration,
    },
}

/// What an HTTP thread serves.
enum Served {
    /// Connections that the reactor hands over.
    HandedOver(Site),
    Admin(Admin),
}

/// The senders of messages to the threads: the one that serves handed-over connections, and the one of the admin listener.
#[derive(Clone)]
struct Jobs {
    public: mpsc::UnboundedSender<HttpJob>,
    admin: Option<mpsc::UnboundedSender<HttpJob>>,
}

impl Jobs {
    fn stop(&self, within: Duration) {
        for jobs in self.admin.iter().chain([&self.public]) {
            // Fails if the thread has ended already.
            let _ = jobs.send(HttpJob::Stop { within });
        }
    }
}

/// The reactor's handle of the HTTP threads, with the callback that returns connections.
pub struct HttpHandle {
    jobs: Jobs,
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
        let _ = self.jobs.public.send(HttpJob::Serve(handover, back, open));
    }

    /// Begins a stop as [`HttpPlane::stop`] does, without waiting for its end. A later stop may shorten the time, but
    /// not extend it.
    pub fn begin_stop(&self, within: Duration) {
        self.jobs.stop(within);
    }

    /// The reason of the next end that the threads have reported: of a connection that had to be evicted, broke the
    /// protocol of TLS, spoke another protocol, or was cut off. `None`: there is none.
    pub fn next_end(&self) -> Option<CloseReason> {
        self.ends.try_recv().ok()
    }

    /// Whether any handed-over connection is open.
    pub fn is_busy(&self) -> bool {
        Arc::strong_count(&self.open) > 1
    }
}

/// The HTTP threads. Dropping this ends the threads and their connections at once; [`HttpPlane::stop`] lets answers finish
/// first.
pub struct HttpPlane {
    jobs: Jobs,
    ends: Receiver<CloseReason>,
    /// Empty once they have ended.
    threads: Vec<JoinHandle<()>>,
}

impl HttpPlane {
    /// Starts the threads: `site` serves handed-over connections, `admin` is the admin listener.
    ///
    /// # Errors
    /// The system refuses a thread, or descriptors for its event loop.
    pub fn start(
        site: Site,
        admin: Option<Admin>,
        settings: HttpSettings,
        clock: Clock,
    ) -> io::Result<Self> {
        let (to_reactor, ends) = crossbeam_channel::unbounded();
        let reports = Arc::new(EndReports::new(to_reactor, clock));
        let start = |name, served| start_thread(name, served, Arc::clone(&reports), &settings);
        let (public, thread) = start("http", Served::HandedOver(site))?;
        let mut plane = Self {
            jobs: Jobs {
                public,
                admin: None,
            },
            ends,
            threads: vec![thread],
        };
        if let Some(admin) = admin {
            let (jobs, thread) = start("admin", Served::Admin(admin))?;
            plane.jobs.admin = Some(jobs);
            plane.threads.push(thread);
        }
        Ok(plane)
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

    /// Stops the threads. Idle connections end now; answers in progress have the time `within` from now on to finish.
    /// Blocks until the threads have ended.
    pub fn stop(mut self, within: Duration) {
        self.end(within);
    }

    fn end(&mut self, within: Duration) {
        self.jobs.stop(within);
        for thread in self.threads.drain(..) {
            // The panic hook has reported a panic of the thread; the process is ending anyway.
            let _ = thread.join();
        }
    }
}

impl Drop for HttpPlane {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.end(Duration::ZERO);
        }
    }
}

/// Starts a thread. Returns the sender of its messages.
fn start_thread(
    name: &str,
    served: Served,
    ends: Arc<EndReports>,
    settings: &HttpSettings,
) -> io::Result<(mpsc::UnboundedSender<HttpJob>, JoinHandle<()>)> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (jobs, queue) = mpsc::unbounded_channel();
    let (thread, settings) = (
        thread::Builder::new().name(name.to_owned()),
        settings.clone(),
    );
    let thread = thread.spawn(move || {
        let server = |site| Rc::new(Server::new(site, ends, settings));
        LocalSet::new().block_on(&runtime, serve(server, served, queue));
        // Blocking work, which the runtime does on threads of its own, may take longer than the stop may.
        runtime.shutdown_background();
    })?;
    Ok((jobs, thread))
}

/// Serves connections until a job says to stop, or no sender of jobs is left. In the former case, requests under way
/// have the time that the job grants.
async fn serve(
    server: impl FnOnce(Site) -> Rc<Server>,
    served: Served,
    mut queue: mpsc::UnboundedReceiver<HttpJob>,
) {
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let server = match served {
        Served::HandedOver(site) => server(site),
        Served::Admin(admin) => {
            let server = server(admin.site.clone());
            connections.spawn_local(serve_admin(admin, Rc::clone(&server), stopping.clone()));
            server
        }
    };
    let nobody: TakeOver = Arc::new(|handover, _| Some(handover));
    let take_over = server.site.take_over.clone().unwrap_or(nobody);
    let within = loop {
        let job = poll_fn(|cx| {
            // Finished tasks return their memory.
            while let Poll::Ready(Some(_)) = connections.poll_join_next(cx) {}
            queue.poll_recv(cx)
        });
        match job.await {
            Some(HttpJob::Serve(handover, back, open)) => {
                let Some(handover) = take_over(handover, &back) else {
                    // The gateway has taken the connection over.
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
