//! The HTTP thread: takes connections over, serves them, ends them in time.

use std::future::poll_fn;
use std::io;
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{self, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use super::admin::{self, Admin};
use super::connection::{self, Server};
use super::service::Service;
use super::site::Site;
use crate::admission::Peer;
use crate::hub::Permit;

/// Limits of plain HTTP connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// A request head may have this many bytes; 431 beyond.
    pub head_bytes_max: usize,
    /// A request head may have this many headers; 431 beyond.
    pub head_headers_max: usize,
    /// The reactor takes requests for event streams.
    pub event_stream: bool,
    /// From the first byte of a head to its end, in milliseconds.
    pub head_timeout_ms: u64,
    /// A connection without a request may stay for this long, in milliseconds, counted from the
    /// last byte either way.
    pub idle_timeout_ms: u64,
    /// After our end of a connection, the client's is awaited for this long, in milliseconds.
    pub linger_ms: u64,
    /// Bytes that are still read from a client after our end.
    pub linger_bytes_max: usize,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            head_bytes_max: 16 * 1024,
            head_headers_max: 100,
            event_stream: false,
            head_timeout_ms: 10_000,
            idle_timeout_ms: 75_000,
            linger_ms: 1_000,
            linger_bytes_max: 256 * 1024,
        }
    }
}

/// A connection on its way from one side to the other: from the reactor with a plain request, or
/// back to it with one for a WebSocket.
#[derive(Debug)]
pub struct Handover {
    /// The socket, nonblocking.
    pub stream: TcpStream,
    /// The bytes read so far, from the start of the request line on.
    pub read: Vec<u8>,
    /// The other end.
    pub peer: Peer,
    /// Its place in the connection limits: dropped when the connection has ended.
    pub permit: Permit,
}

/// Takes a connection back whose client asks for a WebSocket; called on the HTTP thread, must not
/// block.
pub type WayBack = Arc<dyn Fn(Handover) + Send + Sync>;

enum Job {
    Serve(Handover, WayBack),
    Stop { within: Duration },
}

/// The way to the HTTP thread and back, for the reactor.
#[derive(Clone)]
pub struct HttpHandle {
    jobs: mpsc::UnboundedSender<Job>,
    back: WayBack,
}

impl HttpHandle {
    /// Hands a connection over. Never blocks; the connection limits bound how many wait. When the
    /// thread has stopped the connection is closed.
    pub fn serve(&self, handover: Handover) {
        let _ = self.jobs.send(Job::Serve(handover, Arc::clone(&self.back)));
    }
}

/// The HTTP thread. Dropping it ends the thread and its connections at once; [`HttpPlane::stop`]
/// lets answers finish.
pub struct HttpPlane {
    jobs: mpsc::UnboundedSender<Job>,
    thread: Option<JoinHandle<()>>,
}

impl HttpPlane {
    /// Starts the thread: `site` for connections that are handed over, `admin` for its own.
    ///
    /// # Errors
    /// The system refuses a thread or descriptors for its event loop.
    pub fn start(site: Site, admin: Option<Admin>, settings: HttpSettings) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let (jobs, queue) = mpsc::unbounded_channel();
        let thread = thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || {
                run(&runtime, site, admin, settings, queue);
                // Work aside may take longer than the stop has time for.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            jobs,
            thread: Some(thread),
        })
    }

    /// The way to hand connections over; those that ask for a WebSocket later go `back`.
    pub fn handle(&self, back: WayBack) -> HttpHandle {
        HttpHandle {
            jobs: self.jobs.clone(),
            back,
        }
    }

    /// Stops: idle connections end now, answers on their way have until `deadline`, counted from
    /// now. Blocks until the thread has ended.
    pub fn stop(mut self, deadline: Duration) {
        self.end(deadline);
    }

    fn end(&mut self, within: Duration) {
        let _ = self.jobs.send(Job::Stop { within });
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the panic hook; the process is ending anyway.
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
    site: Site,
    admin: Option<Admin>,
    settings: HttpSettings,
    queue: mpsc::UnboundedReceiver<Job>,
) {
    let server = |site| Rc::new(Server::new(Service::new(site), settings.clone()));
    let admin = admin.map(|admin| {
        let (listener, site) = admin.into_parts();
        (listener, server(site))
    });
    LocalSet::new().block_on(runtime, serve(server(site), admin, queue));
}

async fn serve(
    server: Rc<Server>,
    admin: Option<(admin::Listener, Rc<Server>)>,
    mut queue: mpsc::UnboundedReceiver<Job>,
) {
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    if let Some((listener, server)) = admin {
        connections.spawn_local(admin::serve(listener, server, stopping.clone()));
    }
    let within = loop {
        let job = poll_fn(|cx| {
            // What has ended gives its memory back.
            while let Poll::Ready(Some(_)) = connections.poll_join_next(cx) {}
            queue.poll_recv(cx)
        });
        match job.await {
            Some(Job::Serve(handover, back)) => {
                let (server, stopping) = (Rc::clone(&server), stopping.clone());
                let served = connection::serve(server, handover, None, Some(back), stopping);
                connections.spawn_local(served);
            }
            Some(Job::Stop { within }) => break within,
            None => break Duration::ZERO,
        }
    };
    queue.close();
    stop.send_replace(true);
    let all = async { while connections.join_next().await.is_some() {} };
    // What is not done in time is dropped with the set.
    let _ = timeout(within, all).await;
}
