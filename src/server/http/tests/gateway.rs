//! A whole gateway in this process: the reactor, the HTTP thread, and a toy for clients.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::http::{Handover, PageParts, ReturnToReactor};
use crate::listening::ListenAddr;
use crate::run::{CommonSettings, Parts};
use crate::telemetry::Telemetry;
use weirgate_core::{
    Accepted, Admission, BusEvent, ByClient, Core, Entrance, Feed, FeedStats, Frame, Gateway,
    Incoming, Limits, Publication, SessionKey,
};
use weirgate_runtime::Clock;
use weirgate_wire::RequestHead;
use weirgate_wire::auth::Origins;
use weirgate_wire::base::Now;

use super::fixture::{Client, health};

/// Without a bus, caught up from the start.
struct NoFeed(FeedStats);

impl Feed for NoFeed {
    type Event = BusEvent;

    fn event(&mut self, _: Now, _: BusEvent, _: &mut Vec<Publication>) {}

    fn stats(&self) -> &FeedStats {
        &self.0
    }
}

/// Echoes on `/ws`, sends upgrades of `/http` to HTTP, and hangs for as many milliseconds as
/// `hang MS` says.
struct Toy;

impl Gateway for Toy {
    type Client = ();
    type In = Infallible;
    type Out = Infallible;

    fn entrance(&self, path: &str) -> Entrance<'_> {
        match path {
            "/ws" => Entrance::Clients(Origins::any()),
            "/http" => Entrance::Http,
            _ => Entrance::None,
        }
    }

    fn admit(&mut self, _: &mut Core, _: SessionKey, _: &RequestHead<'_>) -> Admission<()> {
        Admission::Accept(Accepted::default(), ())
    }

    fn handle_message(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        (): &mut (),
        message: Incoming<'_>,
    ) {
        let Incoming::Text(text) = message else {
            return;
        };
        if let Some(ms) = text.strip_prefix("hang ") {
            thread::sleep(Duration::from_millis(ms.parse().unwrap()));
        }
        let frame = Frame::text(core.frame_bytes()).answer();
        core.send(key, &frame.body(text.as_bytes()).finish());
    }

    fn handle_input(&mut self, _: &mut Core, _: &mut ByClient<()>, never: Infallible) {
        match never {}
    }
}

/// The address of a TCP port.
pub(super) fn tcp(addr: &ListenAddr) -> SocketAddr {
    match addr {
        ListenAddr::Tcp(addr) => *addr,
        ListenAddr::Unix(_) => panic!("{addr}"),
    }
}

/// Runs until the test binary ends.
pub(super) struct Running {
    pub(super) addr: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) telemetry: Arc<Telemetry>,
    /// The most bytes that came with a connection from the loop.
    pub(super) handed_over: Arc<AtomicUsize>,
}

impl Running {
    pub(super) fn start(limits: Limits) -> Self {
        let any = ListenAddr::Tcp(([127, 0, 0, 1], 0).into());
        let mut common = CommonSettings {
            limits,
            admin_addr: Some(any.clone()),
            ..CommonSettings::default()
        };
        common.reactor.listen.addrs = vec![any];
        common.reactor.budgets.read_us = 200;
        common.ready.loop_stall_ms = 700;
        let feed = NoFeed(FeedStats {
            caught_up: true,
            ..FeedStats::default()
        });
        let (send, listening) = mpsc::channel();
        let handed_over = Arc::new(AtomicUsize::new(0));
        let most = Arc::clone(&handed_over);
        thread::spawn(move || {
            Parts::new("toy", common, feed, Toy)
                .routes(|_| {
                    PageParts {
                        has_status: true,
                        has_slow_line: true,
                    }
                    .routes()
                    .into_iter()
                    .chain([health()])
                    .collect()
                })
                .take_over(Arc::new(move |handover: Handover, _: &ReturnToReactor| {
                    most.fetch_max(handover.read.len(), Relaxed);
                    Some(handover)
                }))
                .run(Clock::start(), |listening| {
                    send.send(listening.clone()).unwrap()
                })
                .unwrap();
        });
        let listening = listening.recv().unwrap();
        Self {
            addr: tcp(&listening.addrs[0]),
            admin: tcp(&listening.admin_addr.unwrap()),
            telemetry: listening.telemetry,
            handed_over,
        }
    }

    pub(super) fn connect(&self) -> Client {
        Client::connect(self.addr)
    }

    /// A counter or gauge without labels, or one with exactly these.
    pub(super) fn metric(&self, name: &str) -> u64 {
        let text = self.telemetry.open_metrics();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.unwrap_or_else(|| panic!("no {name}")).trim();
        value.parse().unwrap()
    }

    /// Waits until a metric has a value.
    pub(super) fn wait_for(&self, name: &str, value: u64) {
        let end = Instant::now() + Duration::from_secs(30);
        while self.metric(name) != value {
            assert!(Instant::now() < end, "{name} is {}", self.metric(name));
            thread::sleep(Duration::from_millis(5));
        }
    }
}
