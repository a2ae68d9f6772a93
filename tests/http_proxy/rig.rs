//! An HTTP thread with the proxy's routes, and both services, played by the test.

use rustls::ClientConfig;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use weirgate::gateways::events;
use weirgate::gateways::events::proxy::{
    Proxied, ProxiedPath, Proxy, ProxyLimits, ProxySettings, ProxyTokens,
};
use weirgate::services::{Service, ServicesAway, Upstream};
use weirgate_core::{FeedStats, Limits};
use weirgate_runtime::Clock;
use weirgate_server::build_info::BuildInfo;
use weirgate_server::http::{Handover, HttpHandle, HttpPlane, Site};
use weirgate_server::run::CommonSettings;
use weirgate_server::telemetry::Telemetry;
pub(crate) use weirgate_test_support::http_client::{Client, get, request};
use weirgate_wire::admission::{
    ConnectionPermit, HeldBytes, Peer, Quota, Transport, TrustedProxies,
};
use weirgate_wire::base::Now;

pub(crate) struct Rig {
    handle: HttpHandle,
    listener: TcpListener,
    pub(crate) permits: Quota,
    pub(crate) measurement: TcpListener,
    pub(crate) simulation: TcpListener,
    /// Connections that asked for a WebSocket.
    pub(crate) returned: Receiver<Handover>,
    telemetry: Arc<Telemetry>,
    /// What requests hold, also in the proxy.
    pub(crate) held: Quota,
    plane: HttpPlane,
}

/// The base path of the simulation service.
pub(crate) const BASE_PATH: &str = "/base";

/// A proxy to these services with the defaults, but for a silence that no test waits for.
pub(crate) fn settings(measurement: &str, simulation: &str) -> ProxySettings {
    ProxySettings {
        services: vec![
            proxied(events::EventsService::MEASUREMENT, measurement, None),
            proxied(events::EventsService::SIMULATION, simulation, None),
        ],
        limits: ProxyLimits::default(),
        held: Limits::default().http_held,
        clock: Clock::start(),
        tokens: ProxyTokens::default(),
    }
}

/// A service with its paths of the contract.
pub(crate) fn proxied(
    service: events::EventsService,
    url: &str,
    tls: Option<Arc<ClientConfig>>,
) -> Proxied {
    let table = events::Services::default();
    let row = table.row(service);
    let paths = row.proxied.iter();
    Proxied {
        service: Service::new(row.name, Upstream::parse(url).unwrap(), tls),
        paths: paths
            .map(|&(path, cut)| ProxiedPath { path, cut })
            .collect(),
    }
}

fn telemetry(proxy: &Proxy, away: ServicesAway) -> Arc<Telemetry> {
    let now = Now {
        mono_us: 0,
        unix_us: 0,
    };
    let telemetry = Telemetry::new(BuildInfo::THIS, "events", FeedStats::default(), None, now);
    let mut metrics = proxy.metrics();
    metrics.push(away.metric());
    telemetry.add_gateway(metrics);
    telemetry
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut ProxySettings)) -> Self {
        Self::behind(TrustedProxies::None, change)
    }

    /// Behind proxies that are trusted.
    pub(crate) fn behind(
        trusted_proxies: TrustedProxies,
        change: impl FnOnce(&mut ProxySettings),
    ) -> Self {
        let service = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (measurement, simulation) = (service(), service());
        let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let mut settings = settings(&url(&measurement), &(url(&simulation) + BASE_PATH));
        change(&mut settings);
        let services = settings.services.iter();
        let services: Vec<_> = services.map(|proxied| proxied.service.clone()).collect();
        let away = ServicesAway::of(&services);
        let held = settings.held.clone();
        let mut http = CommonSettings::default().http;
        http.held = held.clone();
        Arc::make_mut(&mut http.access).trusted_proxies = trusted_proxies;
        let proxy = Proxy::new(settings);
        let telemetry = telemetry(&proxy, away);
        let site = Site {
            routes: proxy.routes(),
            ..Site::default()
        };
        let plane = HttpPlane::start(site, None, http, Clock::start()).unwrap();
        let (back, returned) = mpsc::channel();
        Self {
            handle: plane.handle(Arc::new(move |handover| drop(back.send(handover)))),
            listener: service(),
            permits: Quota::new("connections", 1 << 20),
            measurement,
            simulation,
            returned,
            telemetry,
            held,
            plane,
        }
    }

    /// A new connection to the gateway.
    pub(crate) fn connect(&self, read: impl AsRef<[u8]>) -> Client {
        self.connect_as([127, 0, 0, 1].into(), read)
    }

    /// The same from somewhere else.
    pub(crate) fn connect_as(&self, peer: IpAddr, read: impl AsRef<[u8]>) -> Client {
        let client = Client::connect(self.listener.local_addr().unwrap());
        let (accepted, from) = self.listener.accept().unwrap();
        let peer = SocketAddr::new(peer, from.port());
        accepted.set_nonblocking(true).unwrap();
        self.handle.serve(Handover {
            stream: accepted,
            tls: None,
            read: HeldBytes::new(
                &self.held,
                Peer::from(peer).client(),
                read.as_ref().to_vec(),
                0,
            ),
            peer: peer.into(),
            permit: ConnectionPermit::new(
                &self.permits,
                Peer::from(peer).client(),
                Transport::Plain,
                0,
            ),
        });
        client
    }

    /// The next connection to the measurement service.
    pub(crate) fn accept(&self) -> Client {
        accept(&self.measurement)
    }

    /// Begins to stop, with this much time for what is on its way.
    pub(crate) fn stop(self, within: Duration) -> JoinHandle<()> {
        std::thread::spawn(move || self.plane.stop(within))
    }

    /// No request has reached a service.
    pub(crate) fn assert_untouched(&self) {
        for service in [&self.measurement, &self.simulation] {
            service.set_nonblocking(true).unwrap();
            assert!(service.accept().is_err(), "a service was asked");
            service.set_nonblocking(false).unwrap();
        }
    }

    /// What the page says of a metric, with its labels as they stand there.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let page = self.telemetry.open_metrics();
        let values = page.lines().find_map(|line| line.strip_prefix(name));
        let value = values.unwrap_or_else(|| panic!("no {name} in {page}"));
        value.trim().parse().unwrap()
    }

    /// Waits until it says this.
    pub(crate) fn wait_for(&self, name: &str, expected: f64) {
        let end = Instant::now() + Duration::from_secs(30);
        while self.metric(name) != expected {
            assert!(Instant::now() < end, "{name} is {}", self.metric(name));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn wait_for_permits(&self, taken: usize) {
        let end = Instant::now() + Duration::from_secs(30);
        while self.permits.holders() != taken {
            assert!(Instant::now() < end, "permits stay taken");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

pub(crate) fn accept(service: &TcpListener) -> Client {
    let connection = accept_within(service, Duration::from_secs(30));
    connection.expect("the service is asked")
}

/// The next connection, if one comes within this time.
pub(crate) fn accept_within(service: &TcpListener, time: Duration) -> Option<Client> {
    service.set_nonblocking(true).unwrap();
    let end = Instant::now() + time;
    let stream = loop {
        match service.accept() {
            Ok((stream, _)) => break stream,
            Err(_) if Instant::now() > end => return None,
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    service.set_nonblocking(false).unwrap();
    stream.set_nonblocking(false).unwrap();
    Some(Client::new(stream))
}

/// Header lines of a head, names in lower case, sorted; without the first line.
pub(crate) fn lines(head: &str) -> Vec<String> {
    let line = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        format!("{}: {}", name.to_ascii_lowercase(), value.trim())
    };
    let mut lines: Vec<_> = head.trim_end().lines().skip(1).map(line).collect();
    lines.sort();
    lines
}

pub(crate) fn line<'a>(lines: &'a [String], name: &str) -> Option<&'a str> {
    let start = format!("{name}: ");
    lines.iter().find_map(|line| line.strip_prefix(&start))
}

pub(crate) fn post(path: &str, headers: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: public\r\n{headers}\r\n\r\n{body}")
}

pub(crate) fn ok(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// A connection ends, in whatever way, once what is on it is read.
pub(crate) fn assert_ends(client: &mut Client) {
    let mut rest = [0; 64 * 1024];
    loop {
        match client.stream.read(&mut rest) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("still open");
            }
            Err(_) => return,
        }
    }
}
