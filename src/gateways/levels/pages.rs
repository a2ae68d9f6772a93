//! The pages of the levels gateway: `/health`, `/page/keys` with the ages of relayed keys, and for the demo `/page/tab`
//! with the connection of a browser tab.
//!
//! Also the slow line of the demo: a relay between a tab and the gateway that reads the gateway's socket slowly. To the
//! gateway, this socket is that of a slow client: the kernel takes no more bytes, messages wait in the send queue, and
//! newer states replace older ones. For each tab the relay makes a pair of connected sockets; it listens on a loopback
//! port only while it makes the pair. The gateway's end goes to the loop like a connection that comes back from the HTTP
//! side, with the request, the address and the permit of the tab.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell of a gateway: its start, its pages, its threads"
)]

use crate::gateways::levels::client::{DemoGateway, TabQuestion, pace, tab_name};
use crate::gateways::levels::relay::RelaySettings;
use crossbeam_channel::Sender;
use socket2::SockRef;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;
use tokio::sync::oneshot;
use weirgate_bus::runtime::{Clock, LateWake, detached};
use weirgate_server::http::{
    Answer, GET, Handler, Handover, LateAnswer, RequestParts, Route, StatusCode, WayBack, operator,
};
use weirgate_server::telemetry::Telemetry;
use weirgate_wire::json::ObjectWriter;

/// The path of [`tab_route`], which the demo alone has.
pub(super) const TAB_PATH: &str = "/page/tab";

/// `GET /page/tab?name=NAME&bytes_per_second=N`: the numbers of a tab's connection; also sets the pace of a tab on the
/// slow line. Only the tab that gave its connection the name knows the name.
pub(super) fn tab_route(asks: Sender<TabQuestion>, wake: LateWake, line: SlowLine) -> Route {
    let answer = move |request: RequestParts, _| {
        let query = request.head.uri.query().unwrap_or_default();
        line.set_pace(query);
        let (tell, outcome) = oneshot::channel();
        // The browser may have disconnected.
        let tell = move |look| drop(tell.send(look));
        let _ = asks.send((tab_name(query).unwrap_or_default(), Box::new(tell)));
        wake.wake();
        async move {
            // After the end of the loop, the question is dropped.
            let answer = match outcome.await {
                Ok(Some(look)) => Answer::json(StatusCode::OK, operator::client(&look)),
                // The tab has not sent its name yet. The request is not wrong.
                Ok(None) => Answer::json(StatusCode::OK, "null".to_owned()),
                Err(_) => Answer::detail(StatusCode::SERVICE_UNAVAILABLE, "Stopping"),
            };
            LateAnswer::from(answer.no_store())
        }
    };
    Route {
        path: TAB_PATH,
        methods: &GET,
        answer: Handler::later(answer),
    }
}

/// The response on the path of the slow line to requests that the line did not take.
pub(super) fn slow_route() -> Route {
    let full = |_: &_| Answer::detail(StatusCode::SERVICE_UNAVAILABLE, "No slow line is free");
    Route::get("/page/slow/{path}", full)
}

/// `/health` of the levels gateway (contract levels, `GET /health`). `nats_url` is shown as it is, so it must not have
/// a password.
pub(super) fn health_route(telemetry: &Arc<Telemetry>, nats_url: String) -> Route {
    let telemetry = Arc::clone(telemetry);
    Route::get("/health", move |_| health(&telemetry, &nats_url))
}

/// `/page/keys`: for each relayed key, how long ago its newest good message came, in milliseconds, or null.
pub(super) fn keys_route(
    telemetry: &Arc<Telemetry>,
    clock: Clock,
    relays: Vec<RelaySettings>,
) -> Route {
    let telemetry = Arc::clone(telemetry);
    Route::get("/page/keys", move |_| {
        keys(&telemetry, &relays, clock.mono_us())
    })
}

fn keys(telemetry: &Telemetry, relays: &[RelaySettings], now_us: u64) -> Answer {
    let mut object = ObjectWriter::new();
    telemetry.event_loop.read(|numbers| {
        for relay in relays {
            let mut subjects = numbers.feed.subjects.iter();
            let stats = subjects.find(|stats| stats.subject == relay.subject);
            let last = stats.and_then(|stats| Some(stats.last_message?.mono_us));
            let age_ms = last.map(|last_us| now_us.saturating_sub(last_us) / 1_000);
            object.maybe_number(&relay.key, age_ms);
        }
    });
    Answer::json(StatusCode::OK, object.finish()).no_store()
}

fn health(telemetry: &Telemetry, nats_url: &str) -> Answer {
    let numbers = telemetry.event_loop.numbers();
    let mut object = ObjectWriter::new();
    object.string("service", "gateway");
    object.string("status", "healthy");
    object.string("nats_url", nats_url);
    object.number("connections", numbers.hub.open);
    let bus = telemetry.bus();
    object.boolean("nats_connected", bus.is_some_and(|bus| bus.connected()));
    object.maybe_number("last_message_ts", numbers.feed.last_message_unix_ms);
    let mut lag = ObjectWriter::new();
    for consumer in bus.iter().flat_map(|bus| bus.consumers_used()) {
        lag.maybe_number(consumer.name(), consumer.lag());
    }
    object.object("consumer_lag", lag);
    Answer::json(StatusCode::OK, object.finish()).no_store()
}

/// The most tabs on the slow line. Each needs two threads and two more descriptors.
const TABS_MAX: usize = 100;

/// The slowest pace. On a slower line, a pong would come too late.
const BYTES_PER_SECOND_MIN: u32 = 100;

/// Reads from the gateway's socket in a second.
const READS_PER_SECOND: u32 = 20;

/// Bytes of a read.
const READ_BYTES_MAX: usize = 16 * 1024;

/// The longest time in which a tab on the line may take no byte. Then the tab is disconnected.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The tabs on the slow line by name, with the pace of each in bytes per second.
#[derive(Clone, Default)]
pub(super) struct SlowLine(Arc<Mutex<HashMap<String, Weak<AtomicU32>>>>);

impl SlowLine {
    /// If the request is for the slow line, such as `GET /page/slow/ws/stream?name=a&bytes_per_second=2000`, starts a
    /// relay for it and returns `None`. Any other connection is returned, and so is one without a name, with a name in
    /// use, or over [`TABS_MAX`].
    pub(super) fn take(
        &self,
        mut handover: Handover,
        back: &WayBack,
        now_us: u64,
    ) -> Option<Handover> {
        let Some((pace, (gateway, relay))) = self.join(&handover.read).zip(pair().ok()) else {
            return Some(handover);
        };
        let client = std::mem::replace(&mut handover.stream, gateway);
        let _ = client.set_write_timeout(Some(WRITE_TIMEOUT));
        // To the gateway, `/page/slow/ws/stream` is `/ws/stream`.
        let slow = "GET ".len().."GET".len() + DemoGateway::SLOW_PATH.len();
        handover.read.change(now_us, |read| drop(read.drain(slow)));
        if detached("slow-line", move || drop(carry(&pace, &client, &relay))).is_ok() {
            back(handover);
        }
        None
    }

    /// Puts the tab of this request on the line. The tab leaves when the returned pace is dropped.
    fn join(&self, read: &[u8]) -> Option<Arc<AtomicU32>> {
        let line = read.split(|byte| *byte == b'\r').next()?;
        let target = str::from_utf8(line).ok()?.strip_prefix("GET ")?;
        let target = target.strip_prefix(DemoGateway::SLOW_PATH)?;
        let query = target.split([' ', '?']).nth(1)?;
        let name = tab_name(query)?;
        let mut tabs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tabs.retain(|_, pace| pace.strong_count() > 0);
        if tabs.len() >= TABS_MAX || tabs.contains_key(&name) {
            return None;
        }
        let pace = Arc::new(AtomicU32::new(bytes_per_second(query)?));
        tabs.insert(name, Arc::downgrade(&pace));
        Some(pace)
    }

    /// Sets the pace of a tab on the line.
    pub(super) fn set_pace(&self, query: &str) {
        let tabs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tab = tab_name(query).and_then(|name| tabs.get(&name)?.upgrade());
        if let Some((pace, rate)) = tab.zip(bytes_per_second(query)) {
            pace.store(rate, Ordering::Relaxed);
        }
    }
}

fn bytes_per_second(query: &str) -> Option<u32> {
    pace(query).map(|rate| rate.max(BYTES_PER_SECOND_MIN))
}

/// Connects two sockets. Returns the gateway's end and the relay's end. Their buffers are the smallest that the kernel
/// allows, smaller than a compressed message of the demo, because a message there can no longer be replaced by a newer
/// one.
fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    SockRef::from(&listener).set_recv_buffer_size(1)?;
    let gateway = TcpStream::connect(listener.local_addr()?)?;
    let (relay, peer) = listener.accept()?;
    if peer != gateway.local_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    gateway.set_nonblocking(true)?;
    gateway.set_nodelay(true)?;
    SockRef::from(&gateway).set_send_buffer_size(1)?;
    SockRef::from(&gateway).set_tcp_notsent_lowat(1)?;
    Ok((gateway, relay))
}

/// Copies bytes both ways, until the gateway closes its end, or the tab takes no byte within its write timeout.
fn carry(pace: &AtomicU32, mut client: &TcpStream, mut gateway: &TcpStream) -> io::Result<()> {
    client.set_nonblocking(false)?;
    thread::scope(|scope| {
        thread::Builder::new().spawn_scoped(scope, move || {
            let _ = io::copy(&mut client, &mut gateway);
            gateway.shutdown(Shutdown::Write)
        })?;
        let mut buf = [0; READ_BYTES_MAX];
        let rate = || pace.load(Ordering::Relaxed);
        let room = || READ_BYTES_MAX.min((rate() / READS_PER_SECOND) as usize);
        while let Ok(n @ 1..) = gateway.read(&mut buf[..room()])
            && client.write_all(&buf[..n]).is_ok()
        {
            thread::sleep(Duration::from_secs(n as u64) / rate());
        }
        // Ends the other direction too.
        let _ = gateway.shutdown(Shutdown::Both);
        client.shutdown(Shutdown::Both)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Instant;

    use super::*;
    use crate::gateways::levels::settings::is_http_path;
    use weirgate_bus::status::BusStatus;
    use weirgate_core::FeedStats;
    use weirgate_server::http::page::{self, PageParts};
    use weirgate_server::http::{ReadyLimits, pages};
    use weirgate_server::telemetry::{Build, LoopNumbers};
    use weirgate_wire::admission::{ConnectionPermit, HeldBytes, Peer, Quota};
    use weirgate_wire::base::Now;

    fn telemetry(clock: Clock) -> Arc<Telemetry> {
        let consumers = [
            ("gateway_levels", "levels.signals"),
            ("gateway_flow", "market.flow"),
        ];
        let build = Build {
            version: "1.2.3",
            commit: "c0ffee",
            gateway: "levels",
            features: "nats".to_owned(),
        };
        let bus = Arc::new(BusStatus::new(&consumers, clock.mono_us()));
        let feed = FeedStats::of(["levels.signals"]);
        Telemetry::new(build, feed, Some(bus), clock.now())
    }

    fn turn(telemetry: &Telemetry, fill: impl FnOnce(&mut LoopNumbers)) {
        assert!(telemetry.event_loop.turn_ended(Now::default(), fill));
    }

    fn text(answer: &Answer) -> &str {
        std::str::from_utf8(&answer.body).unwrap()
    }

    #[test]
    fn health_keeps_the_order_of_the_contract() {
        let telemetry = telemetry(Clock::start());
        let url = "nats://u:***@nats:4222";
        assert_eq!(
            text(&health(&telemetry, url)),
            r#"{"service":"gateway","status":"healthy","nats_url":"nats://u:***@nats:4222","connections":0,"nats_connected":false,"last_message_ts":null,"consumer_lag":{"gateway_levels":null,"gateway_flow":null}}"#
        );
        turn(&telemetry, |numbers| {
            numbers.hub.open = 3;
            numbers.feed.last_message_unix_ms = Some(1_700_000_000_000);
        });
        let bus = telemetry.bus().unwrap();
        bus.set_up(true);
        bus.consumers()[1].set_lag(Some(7));
        assert_eq!(
            text(&health(&telemetry, url)),
            r#"{"service":"gateway","status":"healthy","nats_url":"nats://u:***@nats:4222","connections":3,"nats_connected":true,"last_message_ts":1700000000000,"consumer_lag":{"gateway_levels":null,"gateway_flow":7}}"#
        );
    }

    #[test]
    fn each_key_of_a_relay_has_the_age_of_its_message() {
        let telemetry = telemetry(Clock::start());
        let relay = |subject: &str, key: &str| RelaySettings {
            subject: subject.to_owned(),
            key: key.to_owned(),
            stream: None,
            durable: key.to_owned(),
        };
        let relays = [relay("a", "one"), relay("b", "two\""), relay("c", "three")];
        turn(&telemetry, |numbers| {
            numbers.feed = FeedStats::of(["a", "b", "c"]);
            numbers.feed.subjects[0].last_message = Some(Now {
                mono_us: 70_000,
                unix_us: 0,
            });
            // Newer than this look.
            numbers.feed.subjects[1].last_message = Some(Now {
                mono_us: 101_000,
                unix_us: 0,
            });
        });
        assert_eq!(
            text(&keys(&telemetry, &relays, 100_000)),
            r#"{"one":30,"two\"":0,"three":null}"#
        );
    }

    #[test]
    fn no_endpoint_can_take_the_path_of_a_page() {
        let clock = Clock::start();
        let telemetry = telemetry(clock);
        let mut routes = pages::status_routes(&telemetry, clock, ReadyLimits::default(), None);
        routes.push(health_route(&telemetry, String::new()));
        routes.push(keys_route(&telemetry, clock, Vec::new()));
        routes.extend(page::routes(PageParts {
            has_status: true,
            has_slow_line: true,
        }));
        for route in routes {
            assert!(is_http_path(route.path), "{}", route.path);
        }
    }

    const FULL_SPEED: u32 = 1_000_000_000;

    /// A slow line, and the connections that it gives to the loop.
    struct Rig {
        line: SlowLine,
        back: WayBack,
        returned: Receiver<Handover>,
    }

    impl Rig {
        fn new() -> Self {
            let (sender, returned) = channel();
            Self {
                line: SlowLine::default(),
                back: Arc::new(move |handover| drop(sender.send(handover))),
                returned,
            }
        }

        /// Hands a connection with this request over. If the line takes it, returns the tab's end and the connection
        /// for the loop.
        fn ask(&self, read: &str) -> Option<(TcpStream, Handover)> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let tab = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            tab.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let (stream, peer) = listener.accept().unwrap();
            stream.set_nonblocking(true).unwrap();
            let all = Quota::new("http_bytes", 1_000);
            let handover = Handover {
                stream,
                tls: None,
                read: HeldBytes::new(&all, Peer::from(peer).client(), read.as_bytes().to_vec(), 0),
                peer: peer.into(),
                permit: ConnectionPermit::of(all.hold(Peer::from(peer).client(), 1, 0)),
            };
            match self.line.take(handover, &self.back, 0) {
                Some(kept) => {
                    assert_eq!(*kept.read, *read.as_bytes());
                    None
                }
                None => {
                    let handover = self.returned.recv().unwrap();
                    assert_eq!(handover.peer, Peer::from(peer));
                    Some((tab, handover))
                }
            }
        }

        fn join(&self, name: impl std::fmt::Display, rate: u32) -> Option<(TcpStream, Handover)> {
            let query = format!("name={name}&bytes_per_second={rate}");
            self.ask(&format!(
                "GET /page/slow/ws/stream?{query} HTTP/1.1\r\n\r\n"
            ))
        }
    }

    #[test]
    fn the_gateway_sees_the_request_without_the_slow_line_and_all_that_follows() {
        let query = "name=a&bytes_per_second=2000000";
        let rest = format!("ws/flow?{query} HTTP/1.1\r\nHost: x\r\n\r\nmore");
        let (mut tab, handover) = Rig::new().ask(&format!("GET /page/slow/{rest}")).unwrap();
        assert_eq!(*handover.read, *format!("GET /{rest}").as_bytes());
        let mut gateway = handover.stream;
        gateway.set_nonblocking(false).unwrap();
        let mut buf = [0; 5];
        tab.write_all(b"hello").unwrap();
        gateway.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"hello");
        gateway.write_all(b"world").unwrap();
        tab.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"world");
        // The end of either side reaches the other side.
        tab.shutdown(Shutdown::Write).unwrap();
        assert_eq!(gateway.read(&mut buf).unwrap(), 0);
        drop(gateway);
        assert_eq!(tab.read(&mut buf).unwrap(), 0);
    }

    #[test]
    fn other_requests_and_tabs_without_a_name_or_a_pace_are_not_taken() {
        let rig = Rig::new();
        for begin in [
            "GET /page/tab?name=a&bytes_per_second=2000",
            "GET /ws/stream?name=a&bytes_per_second=2000",
            "POST /page/slow/ws/stream?name=a&bytes_per_second=2000",
            "GET /page/slow/ws/stream?bytes_per_second=2000",
            "GET /page/slow/ws/stream?name=a",
            "GET /page/slow/ws/stream?name=a&bytes_per_second=fast",
            "GET /page/slow/ws/stream",
        ] {
            let taken = rig.ask(&format!("{begin} HTTP/1.1\r\n\r\n"));
            assert!(taken.is_none(), "{begin}");
        }
        assert_eq!(bytes_per_second("bytes_per_second=1"), Some(100));
    }

    #[test]
    fn tabs_on_the_line_are_bounded_and_a_name_is_free_after_its_tab() {
        let rig = Rig::new();
        let _tab = rig.join("a", FULL_SPEED).expect("a line");
        assert!(rig.join("a", FULL_SPEED).is_none(), "the name is in use");
        let mut tabs: Vec<_> = (1..TABS_MAX)
            .map(|name| rig.join(name, FULL_SPEED).expect("a line"))
            .collect();
        assert!(rig.join(TABS_MAX, FULL_SPEED).is_none());
        tabs.pop();
        let until = Instant::now() + Duration::from_secs(20);
        // The relay ends on its own threads.
        while rig.join("another", FULL_SPEED).is_none() {
            assert!(Instant::now() < until, "the line is not free again");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn few_bytes_wait_in_the_kernel_and_none_is_lost() {
        let rig = Rig::new();
        let (mut tab, handover) = rig.join("a", 100).unwrap();
        let mut gateway = handover.stream;
        let message = vec![b'x'; 100_000];
        let mut taken = 0;
        for _ in 0..20 {
            taken += gateway.write(&message).unwrap_or(0);
            thread::sleep(Duration::from_millis(5));
        }
        assert!((1..2_800).contains(&taken), "{taken} bytes, no message");
        rig.line.set_pace("name=b&bytes_per_second=1000000000");
        rig.line.set_pace("name=a&bytes_per_second=1000000000");
        gateway.set_nonblocking(false).unwrap();
        let sender = thread::spawn(move || gateway.write_all(&vec![b'x'; 100_000]));
        let mut got = Vec::new();
        tab.read_to_end(&mut got).unwrap();
        sender.join().unwrap().unwrap();
        assert_eq!(got.len(), taken + 100_000);
    }

    #[test]
    fn a_tab_that_takes_nothing_leaves_the_line() {
        let [(_tab, client), (mut gateway, relay)] = [(), ()].map(|()| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (one, listener.accept().unwrap().0)
        });
        let timeout = Duration::from_millis(50);
        client.set_write_timeout(Some(timeout)).unwrap();
        let carried = thread::spawn(move || carry(&AtomicU32::new(FULL_SPEED), &client, &relay));
        // The write fails only because the relay has ended: the kernel's buffers are smaller.
        let sent = gateway.write_all(&vec![b'x'; 64 << 20]);
        assert!(sent.is_err(), "{sent:?}");
        let _ = carried.join().unwrap();
    }
}
