//! What operators see of proxied requests: each is counted once, a failure is a line in the log.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, Once};
use std::thread;
use std::time::{Duration, Instant};

use weirgate::gateways::events::proxy::ProxySettings;

use crate::rig::{Client, Rig, accept, assert_ends, get, ok, post};

fn ended(service: &str, outcome: &str) -> String {
    let labels = format!(r#"service="{service}",outcome="{outcome}""#);
    format!("weirgate_proxy_requests_total{{{labels}}}")
}

fn in_flight(service: &str) -> String {
    format!(r#"weirgate_proxy_requests_in_flight{{service="{service}"}}"#)
}

fn waits(service: &str) -> String {
    format!(r#"weirgate_proxy_waits_total{{service="{service}"}}"#)
}

/// One request that ends in some way.
type Scene = fn(&Rig);

fn asked(rig: &Rig) -> (Client, Client) {
    let client = rig.connect(get("/v1/jobs/x"));
    let mut service = rig.accept();
    service.head_text();
    (client, service)
}

fn answered_with(rig: &Rig, status: &str) {
    let (mut client, mut service) = asked(rig);
    service.send(format!("HTTP/1.1 {status}\r\nContent-Length: 1\r\n\r\n1"));
    client.reply();
}

fn refused_with(rig: &Rig, request: &str, status: u16) {
    assert_eq!(rig.connect(request).head().status, status);
}

fn unreachable(rig: &Rig) {
    let (mut client, service) = asked(rig);
    drop(service);
    assert_eq!(client.reply().status, 502);
}

fn half_answered(rig: &Rig) -> (Client, Client) {
    let (mut client, mut service) = asked(rig);
    service.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhe");
    client.head();
    (client, service)
}

fn no_connection(rig: &Rig) {
    let (mut first, mut service) = asked(rig);
    service.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
    first.head();
    // A service that is never silent keeps its connection.
    let drip = thread::spawn(move || {
        while service.stream.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(50));
        }
    });
    assert_eq!(rig.connect(get("/v1/jobs/x")).reply().status, 504);
    assert_eq!(rig.metric(&waits("measurement")), 1.0);
    assert_eq!(rig.metric(&in_flight("measurement")), 1.0);
    drop(first);
    drip.join().unwrap();
}

fn broken_upload(rig: &Rig, answer: &str) -> Client {
    let chunked = "Transfer-Encoding: chunked";
    let mut client = rig.connect(post("/v1/jobs/x", chunked, "2\r\nhe\r\n"));
    let mut service = rig.accept();
    service.head_text();
    service.send(answer);
    if !answer.is_empty() {
        client.head();
    }
    client.send("x\r\n");
    assert_ends(&mut service);
    client
}

#[test]
fn each_request_is_counted_once_by_what_came_of_it() {
    let scenes: &[(&str, Scene)] = &[
        ("answered", |rig| answered_with(rig, "302 Found")),
        ("answered", |rig| {
            let mut client = rig.connect("HEAD /v1/jobs/x HTTP/1.1\r\nHost: x\r\n\r\n");
            let mut service = rig.accept();
            service.head_text();
            service.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
            client.head();
        }),
        ("refused", |rig| answered_with(rig, "400 Bad Request")),
        ("refused", |rig| answered_with(rig, "504 Gateway Timeout")),
        ("unreachable", unreachable),
        ("timeout", |rig| {
            let (mut client, _service) = asked(rig);
            assert_eq!(client.reply().status, 504);
        }),
        ("no_connection", no_connection),
        ("cut", |rig| drop(half_answered(rig).1)),
        ("cut", |rig| {
            let (mut client, mut service) = half_answered(rig);
            assert_ends(&mut service);
            client.end();
        }),
        ("client_gone", |rig| {
            let (client, mut service) = asked(rig);
            drop(client);
            assert_ends(&mut service);
        }),
        ("client_gone", |rig| {
            let (client, mut service) = half_answered(rig);
            drop(client);
            assert_ends(&mut service);
        }),
        ("bad_path", |rig| {
            refused_with(rig, &get("/v1/jobs/../x"), 400)
        }),
        ("bad_request", |rig| {
            assert_eq!(broken_upload(rig, "").reply().status, 400);
        }),
        ("bad_request", |rig| {
            drop(broken_upload(
                rig,
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            ));
        }),
        ("bad_request", |rig| {
            let coded = post("/v1/jobs/x", "Transfer-Encoding: gzip, chunked", "");
            refused_with(rig, &coded, 501);
        }),
    ];
    for (outcome, scene) in scenes {
        // One connection is enough for all but the one that finds none.
        let few = |settings: &mut ProxySettings| {
            settings.limits.service_connections_max = 1;
            settings.limits.silence_timeout_ms = 400;
        };
        let rig = Rig::with(few);
        scene(&rig);
        rig.wait_for(&ended("measurement", outcome), 1.0);
        // Only the service itself says that it is away, and no body of a client.
        let is_away = ["unreachable", "timeout"].contains(outcome);
        let away = rig.metric(r#"weirgate_service_away{service="measurement"}"#);
        assert_eq!(away, f64::from(u8::from(is_away)), "{outcome}");
    }
}

#[test]
fn the_requests_of_each_service_are_counted_apart() {
    let rig = Rig::new();
    refused_with(&rig, &get("/v1/simulation/gateway/handle"), 404);
    rig.wait_for(&ended("simulation", "inner_path"), 1.0);
    assert_eq!(rig.metric(&ended("measurement", "inner_path")), 0.0);
    let mut client = rig.connect(post("/v1/simulation/x", "Content-Length: 5", "hello"));
    let mut service = accept(&rig.simulation);
    service.head_text();
    assert_eq!(service.take(5), b"hello");
    assert_eq!(rig.metric(&in_flight("simulation")), 1.0);
    service.send(ok("12"));
    assert_eq!(client.reply().text(), "12");
    rig.wait_for(&ended("simulation", "answered"), 1.0);
    for name in [in_flight("simulation"), waits("simulation")] {
        assert_eq!(rig.metric(&name), 0.0, "{name}");
    }
}

#[test]
fn the_time_to_the_head_is_observed_when_there_is_one() {
    let rig = Rig::new();
    let heads = |what: &str| {
        let labels = r#"{service="measurement"}"#;
        rig.metric(&format!(
            "weirgate_proxy_head_duration_seconds_{what}{labels}"
        ))
    };
    unreachable(&rig);
    assert_eq!(heads("count"), 0.0);
    let (mut client, mut service) = asked(&rig);
    thread::sleep(Duration::from_millis(50));
    service.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
    client.head();
    assert_eq!(heads("count"), 1.0);
    assert!((0.05..5.0).contains(&heads("sum")), "{}", heads("sum"));
}

/// What this process logs.
#[derive(Clone, Copy)]
struct Log;

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

impl Log {
    fn start() {
        static STARTED: Once = Once::new();
        STARTED.call_once(|| {
            let subscriber = tracing_subscriber::fmt().with_writer(|| Self).json();
            tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
        });
    }

    fn lines() -> MutexGuard<'static, Vec<u8>> {
        LINES.lock().unwrap()
    }

    /// Those with this text in them.
    fn with(text: &str) -> Vec<String> {
        let lines = String::from_utf8(Self::lines().clone()).unwrap();
        let with = lines.lines().filter(|line| line.contains(text));
        with.map(str::to_owned).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::lines().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn failures_and_refusals_are_logged_a_few_a_second_without_what_was_sent() {
    Log::start();
    let rig = Rig::new();
    let upstream = rig.measurement.local_addr().unwrap().to_string();
    let secret = "Authorization: Bearer SECRET\r\nContent-Length: 6";
    let begun = Instant::now();
    for _ in 0..20 {
        let mut client = rig.connect(post("/v1/jobs/SECRET?token=SECRET", secret, "SECRET"));
        drop(rig.accept());
        assert_eq!(client.reply().status, 502);
        let bad = post("/v1/jobs/SECRET/../x?token=SECRET", secret, "SECRET");
        let mut client = rig.connect_as([192, 0, 2, 77].into(), bad);
        assert_eq!(client.reply().status, 400);
    }
    let seconds = begun.elapsed().as_secs() as usize + 2;
    let failures = Log::with(&upstream);
    let refusals = Log::with("192.0.2.77");
    for (lines, outcome) in [(failures, "unreachable"), (refusals, "bad_path")] {
        assert!((5..=5 * seconds).contains(&lines.len()), "{lines:?}");
        for line in lines {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            let fields = &line["fields"];
            assert_eq!(line["level"], "WARN");
            assert_eq!(fields["service"], "measurement", "{line}");
            assert_eq!(fields["outcome"], outcome, "{line}");
            assert!(fields["suppressed"].is_u64(), "{line}");
            assert!(
                outcome == "bad_path" || fields["cause"].is_string(),
                "{line}"
            );
            assert!(!line.to_string().contains("SECRET"), "{line}");
        }
    }
    thread::sleep(Duration::from_millis(1_100));
    unreachable(&rig);
    let lines = Log::with(&upstream);
    let last: serde_json::Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    let told: u64 = lines.iter().map(|line| suppressed(line)).sum();
    assert_eq!(told as usize + lines.len(), 21, "{last}");
}

fn suppressed(line: &str) -> u64 {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    line["fields"]["suppressed"].as_u64().unwrap()
}
