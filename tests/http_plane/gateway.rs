//! A whole gateway in this process: the reactor, the HTTP thread, and a toy for clients.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::never;
use weirgate::clock::Clock;
use weirgate::http::{Admin, Cors, HttpPlane, HttpSettings, ReadyLimits, Site, page, pages};
use weirgate::hub::{
    Accepted, Admission, CloseReason, Core, DrainPlan, Feed, FeedStats, Frame, FrameBytes, Gateway,
    Hub, Incoming, Limits, Now, Publication, SessionKey,
};
use weirgate::reactor::{ListenSettings, Reactor, ReactorSettings, Seams, TurnBudgets, way_back};
use weirgate::telemetry::{Build, Telemetry};
use weirgate::wire::head::RequestHead;

use crate::fixture::Client;

/// Echoes on `/ws`, sends upgrades of `/http` to HTTP, and hangs for as many milliseconds as
/// `hang MS` says.
struct Toy;

impl Gateway for Toy {
    type Command = Infallible;

    fn upgrade(&mut self, _: &mut Core, _: SessionKey, head: &RequestHead<'_>) -> Admission {
        match head.path() {
            "/ws" if head.asks_upgrade() => Admission::Accept(Accepted::default()),
            path if head.asks_upgrade() && path != "/http" => Admission::Refuse {
                status: 403,
                detail: "No WebSocket here",
            },
            _ => Admission::ToHttp,
        }
    }

    fn opened(&mut self, _: &mut Core, _: SessionKey) {}

    fn message(&mut self, core: &mut Core, key: SessionKey, message: Incoming<'_>) {
        let Incoming::Text(text) = message else {
            return;
        };
        if let Some(ms) = text.strip_prefix("hang ") {
            thread::sleep(Duration::from_millis(ms.parse().unwrap()));
        }
        let frame = Frame::text(core.frame_bytes()).answer();
        core.send(key, &frame.body(text.as_bytes()).finish());
    }

    fn command(&mut self, _: &mut Core, never: Self::Command) {
        match never {}
    }

    fn closed(&mut self, _: &mut Core, _: SessionKey, _: CloseReason) {}
}

struct NoFeed(FeedStats);

impl Feed for NoFeed {
    type Event = Infallible;

    fn event(&mut self, _: Now, never: Infallible, _: &mut Vec<Publication>) {
        match never {}
    }

    fn stats(&self) -> &FeedStats {
        &self.0
    }
}

/// Runs until the test binary ends.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) telemetry: Arc<Telemetry>,
}

impl Running {
    pub(crate) fn start(limits: Limits) -> Self {
        let clock = Clock::start();
        let feed = NoFeed(FeedStats {
            caught_up: true,
            ..FeedStats::default()
        });
        let build = Build {
            version: "1.2.3",
            gateway: "toy",
            features: String::new(),
        };
        let telemetry = Telemetry::new(build, feed.stats().clone(), None, clock.now());
        let ready = ReadyLimits {
            loop_stall_ms: 700,
            ..ReadyLimits::default()
        };
        let mut routes = pages::status_routes(&telemetry, clock, ready, None);
        routes.push(pages::levels_health_route(&telemetry, "none".to_owned()));
        routes.extend(page::routes());
        let site = Site {
            routes,
            fallback: None,
            cors: Cors::Any,
        };
        let (site, admin) = site.split_admin();
        let admin = Admin::bind("127.0.0.1:0".parse().unwrap(), admin, clock).unwrap();
        let admin_addr = admin.local_addr().unwrap();
        let (send_addr, addr) = mpsc::channel();
        let for_loop = Arc::clone(&telemetry);
        thread::spawn(move || {
            let http = HttpPlane::start(site, Some(admin), HttpSettings::default()).unwrap();
            let seams = |wake: &_| {
                let (back, returned) = way_back(wake);
                Ok(Seams {
                    bus: never(),
                    commands: never(),
                    replies: never(),
                    outside: Box::new(|_| {}),
                    http: http.handle(back),
                    returned,
                    telemetry: for_loop,
                })
            };
            let hub = Hub::new(Core::new(limits, FrameBytes::default(), 1), Toy);
            let mut reactor = Reactor::bind(settings(), hub, feed, clock, seams).unwrap();
            send_addr.send(reactor.local_addr().unwrap()).unwrap();
            reactor.run()
        });
        Self {
            addr: addr.recv().unwrap(),
            admin: admin_addr,
            telemetry,
        }
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.addr)
    }

    /// A counter or gauge without labels, or one with exactly these.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.telemetry.open_metrics();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.unwrap_or_else(|| panic!("no {name}")).trim();
        value.parse().unwrap()
    }

    /// Waits until a metric has a value.
    pub(crate) fn wait_for(&self, name: &str, value: u64) {
        let end = Instant::now() + Duration::from_secs(5);
        while self.metric(name) != value {
            assert!(Instant::now() < end, "{name} is {}", self.metric(name));
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn settings() -> ReactorSettings {
    ReactorSettings {
        listen: ListenSettings {
            addr: ([127, 0, 0, 1], 0).into(),
            backlog: 64,
            notsent_lowat_bytes: 16 * 1024,
        },
        budgets: TurnBudgets {
            accepts_max: 16,
            read_bytes_max: 64 * 1024,
            publication_bytes_max: 128 * 1024,
        },
        drain: DrainPlan::default(),
        stop_timeout_us: 1_000_000,
    }
}
