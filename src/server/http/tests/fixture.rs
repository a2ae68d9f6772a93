//! An HTTP thread with the pages of the levels gateway.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use super::bodies;
use crate::build_info::BuildInfo;
use crate::http::readiness::ReadyLimits;
use crate::http::status_pages::status_routes;
use crate::http::{
    Admin, Answer, Handler, Handover, HttpHandle, HttpPlane, HttpSettings, LateAnswer, PageParts,
    Route, Site, StatusCode,
};
use crate::telemetry::Telemetry;
use weirgate_core::FeedStats;
use weirgate_runtime::Clock;

pub(super) use weirgate_test_support::http_client::{Client, get, request};
use weirgate_wire::admission::{ConnectionPermit, HeldBytes, Peer, Quota, Transport};

/// `/health` of some gateway.
pub(super) fn health() -> Route {
    Route::get("/health", |_| {
        let text = r#"{"service":"gateway","status":"healthy","connections":0}"#;
        Answer::json(StatusCode::OK, text.to_owned()).no_store()
    })
}

/// Bytes of the answer at `/large`.
pub(super) const LARGE: usize = 3_000_000;

pub(super) struct Fixture {
    pub(super) plane: HttpPlane,
    pub(super) handle: HttpHandle,
    pub(super) listener: TcpListener,
    /// The connection limits.
    pub(super) permits: Quota,
    /// Connections on their way back to the reactor.
    pub(super) returned: Receiver<Handover>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) held: Quota,
    /// The answers at `/count`.
    pub(super) counted: Arc<AtomicUsize>,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self::with(HttpSettings::default())
    }

    pub(super) fn with(settings: HttpSettings) -> Self {
        Self::of(settings, [], None)
    }

    /// With further routes, and perhaps an admin listener.
    pub(super) fn of(
        settings: HttpSettings,
        more: impl IntoIterator<Item = Route>,
        admin: Option<Admin>,
    ) -> Self {
        let clock = Clock::start();
        let build = BuildInfo {
            version: "1.2.3",
            commit: "c0ffee",
            features: "",
            ..BuildInfo::THIS
        };
        let telemetry = Telemetry::new(build, "levels", FeedStats::default(), None, clock.now());
        let mut routes = status_routes(&telemetry, clock, ReadyLimits::default(), None);
        routes.push(health());
        routes.push(Route {
            path: "/never",
            methods: Route::GET,
            answer: Handler::later(|_, _| std::future::pending::<LateAnswer>()),
        });
        routes.push(Route::get("/large", |_| {
            Answer::new(StatusCode::OK, "text/plain", vec![b'x'; LARGE])
        }));
        routes.extend(
            PageParts {
                has_status: true,
                has_slow_line: true,
            }
            .routes(),
        );
        routes.extend(bodies::routes());
        let counted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&counted);
        routes.push(Route::get("/count", move |_| {
            Answer::json(StatusCode::OK, count.fetch_add(1, Relaxed).to_string())
        }));
        routes.extend(more);
        let site = Site {
            routes,
            ..Site::default()
        };
        let held = settings.held.clone();
        let plane = HttpPlane::start(site, admin, settings, clock).unwrap();
        let (back, returned) = mpsc::channel();
        let back = move |handover| drop(back.send(handover));
        Self {
            handle: plane.handle(Arc::new(back)),
            returned,
            plane,
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            permits: Quota::new("connections", 1 << 20),
            telemetry,
            held,
            counted,
        }
    }

    /// A new connection, of which `read` was read before it is handed over.
    pub(super) fn connect(&self, read: impl AsRef<[u8]>) -> Client {
        let stream = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let (accepted, peer) = self.listener.accept().unwrap();
        self.hand_over(accepted, peer.into(), read);
        Client::new(stream)
    }

    /// A new connection that comes from this peer.
    pub(super) fn connect_as(&self, peer: Peer, read: impl AsRef<[u8]>) -> Client {
        let stream = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = self.listener.accept().unwrap();
        self.hand_over(accepted, peer, read);
        Client::new(stream)
    }

    fn hand_over(&self, accepted: TcpStream, peer: Peer, read: impl AsRef<[u8]>) {
        accepted.set_nonblocking(true).unwrap();
        // The kernel would take megabytes at once and then nothing for a long while.
        let small = socket2::SockRef::from(&accepted).set_send_buffer_size(64 * 1024);
        small.unwrap();
        self.handle.serve(Handover {
            stream: accepted,
            tls: None,
            read: HeldBytes::new(&self.held, peer.client(), read.as_ref().to_vec(), 0),
            peer,
            permit: ConnectionPermit::new(&self.permits, peer.client(), Transport::Plain, 0),
        });
    }

    pub(super) fn taken(&self) -> usize {
        self.permits.holders()
    }

    pub(super) fn wait_for_permits(&self, taken: usize) {
        let end = Instant::now() + Duration::from_secs(30);
        while self.taken() != taken {
            assert!(Instant::now() < end, "{} permits taken", self.taken());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
