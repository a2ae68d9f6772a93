//! The HTTP thread: accepts handed-over connections, serves and ends them.

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
use tokio::time::timeout;

use super::admin::{self, Admin};
use super::connection::{self, Server};
use super::handover::{Handover, HttpSettings, WayBack};
use super::site::{Site, TakeOver};

enum Job {
    Serve(Handover, WayBack),
    Stop { within: Duration },
}

/// The reactor's handle of the HTTP thread, with the way back.
#[derive(Clone)]
pub struct HttpHandle {
    jobs: mpsc::UnboundedSender<Job>,
    back: WayBack,
}

impl HttpHandle {
    /// Hands a connection over. Never blocks; the connection limits bound how many connections wait. If the
    /// thread has stopped, the connection is closed.
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
    /// Starts the thread: `site` for handed-over connections, `admin` for the admin listener.
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
                // Work on other threads may exceed the time for the stop.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            jobs,
            thread: Some(thread),
        })
    }

    /// Makes a handle; connections with a later request for a WebSocket go `back`.
    pub fn handle(&self, back: WayBack) -> HttpHandle {
        HttpHandle {
            jobs: self.jobs.clone(),
            back,
        }
    }

    /// Stops: idle connections end now, answers in progress have until `deadline`, counted from now. Blocks
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
    site: Site,
    admin: Option<Admin>,
    settings: HttpSettings,
    queue: mpsc::UnboundedReceiver<Job>,
) {
    let nobody: TakeOver = Arc::new(|handover, _| Some(handover));
    let take_over = site.take_over.clone().unwrap_or(nobody);
    let server = |site| Rc::new(Server::new(site, settings.clone()));
    let admin = admin.map(|admin| {
        let (listener, site) = admin.into_parts();
        (listener, server(site))
    });
    LocalSet::new().block_on(runtime, serve(server(site), take_over, admin, queue));
}

async fn serve(
    server: Rc<Server>,
    take_over: TakeOver,
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
            // Finished tasks return their memory.
            while let Poll::Ready(Some(_)) = connections.poll_join_next(cx) {}
            queue.poll_recv(cx)
        });
        match job.await {
            Some(Job::Serve(handover, back)) => {
                let Some(handover) = take_over(handover, &back) else {
                    continue;
                };
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
    // Unfinished tasks are dropped with the set.
    let _ = timeout(within, all).await;
}
