//! A source that publishes too, for gateways that speak to each other: the four rules that differ.

use weirgate_bus::Publisher;
use weirgate_bus::nats::{NatsSubjectsSettings, NatsSubjectsSource, Settle};

use super::subjects::subscription;
use super::*;

/// A source on its thread, its publisher, and what it hands over.
struct Talking {
    publisher: Publisher,
    events: Receiver<BusEvent>,
}

const ALL: &str = "bus";
const MINE: &str = "bus.me";

impl Talking {
    fn new(url: &str, bytes_max: usize, room: usize) -> Self {
        let settings = NatsSubjectsSettings {
            nats: NatsSettings::plain(url, Credentials::None, Tls::default()),
            payload_bytes_max: 1 << 20,
            is_retained: false,
            stream: None,
            settle: Settle::NEVER,
        };
        let status = Arc::new(BusStatus::new(&[], 1));
        let source = NatsSubjectsSource::publishing(settings, bytes_max, status);
        let (source, interest, publisher) = source.expect("a source");
        for name in [ALL, MINE] {
            interest.subscribe(subscription(name));
        }
        let (sender, events) = bounded(room);
        let link = SourceLink::new(sender, Box::new(|| {}), Clock::start());
        thread::spawn(move || Box::new(source).run(link));
        Self { publisher, events }
    }

    fn publish(&self, subject: &str, text: &str) {
        let published = (self.publisher).publish(&subject.into(), vec![text.into()]);
        assert!(published, "room for {text}");
    }

    /// The next event that `wanted` takes; what comes before is left out.
    fn next<T>(&self, mut wanted: impl FnMut(BusEvent) -> Option<T>) -> T {
        loop {
            let event = self.events.recv_timeout(PATIENCE).expect("an event");
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    }

    fn until_up(&self) {
        self.next(|event| matches!(event, BusEvent::CaughtUp).then_some(()));
    }

    fn fault(&self) -> String {
        self.next(|event| match event {
            BusEvent::Down(fault) => Some(fault),
            _ => None,
        })
    }

    fn text(&self) -> String {
        self.next(|event| match event {
            BusEvent::Message(m) => Some(String::from_utf8_lossy(&m.payload).into_owned()),
            BusEvent::Gap { .. } | BusEvent::Down(_) => panic!("{event:?}"),
            _ => None,
        })
    }
}

#[test]
fn messages_of_any_number_and_size_come_back_in_their_order() {
    let server = NatsServer::start_without_jetstream("");
    let source = Talking::new(&server.url(), 1 << 20, 8_192);
    source.until_up();
    let long = "x".repeat(900_000);
    for n in 0..2_000 {
        source.publish([ALL, MINE][n % 2], &n.to_string());
    }
    // More than the socket takes at once.
    for _ in 0..40 {
        source.publish(ALL, &long);
    }
    for n in 0..2_000 {
        assert_eq!(source.text(), n.to_string());
    }
    for _ in 0..40 {
        assert_eq!(source.text(), long);
    }
}

#[test]
fn messages_that_the_loop_does_not_take_are_dropped_and_counted() {
    let server = NatsServer::start_without_jetstream("");
    let source = Talking::new(&server.url(), 1_000, 8);
    source.until_up();
    for n in 0..1_000 {
        source.publish(ALL, &n.to_string());
    }
    thread::sleep(Duration::from_millis(300));
    let (mut got, mut lost) = (0, 0);
    let mut heartbeats = 0;
    while got + lost < 1_000 {
        source.publish(ALL, "beat");
        source.next(|event| match event {
            BusEvent::Message(m) if m.payload == b"beat" => {
                heartbeats += 1;
                Some(())
            }
            BusEvent::Message(_) => {
                got += 1;
                Some(())
            }
            BusEvent::Gap { lost: Some(n) } => {
                lost += n;
                Some(())
            }
            other => panic!("{other:?}"),
        });
    }
    assert!(got >= 1 && lost >= 900, "{got} and {lost}");
    assert!(heartbeats < 1_000);
}

#[test]
fn a_connection_without_a_message_for_three_seconds_is_left() {
    let server = NatsServer::start_without_jetstream("");
    let source = Talking::new(&server.url(), 1_000, 64);
    source.until_up();
    let begun = Instant::now();
    for _ in 0..5 {
        source.publish(ALL, "beat");
        assert_eq!(source.text(), "beat");
        thread::sleep(Duration::from_secs(1));
    }
    assert!(begun.elapsed() >= Duration::from_secs(5), "kept meanwhile");
    let fault = source.fault();
    assert!(fault.contains("has not answered for 3000 ms"), "{fault}");
    source.until_up();
}

#[test]
fn a_server_that_takes_only_smaller_messages_is_refused() {
    let server = NatsServer::start_without_jetstream("max_payload: 4096");
    let source = Talking::new(&server.url(), 4_097, 64);
    let fault = source.fault();
    assert!(
        fault.contains(
            "at most 4096 bytes (max_payload), and messages between instances have up to 4097 bytes"
        ),
        "{fault}"
    );
    Talking::new(&server.url(), 4_096, 64).until_up();
}

#[test]
fn messages_for_a_lost_connection_are_dropped() {
    let mut server = NatsServer::start_without_jetstream("");
    let source = Talking::new(&server.url(), 1_000, 64);
    source.until_up();
    server.kill();
    source.fault();
    source.publish(ALL, "late");
    server.restart();
    source.until_up();
    source.publish(ALL, "new");
    assert_eq!(source.text(), "new");
}

#[test]
fn every_subject_is_needed_and_a_missing_permission_is_named() {
    for (denied, named) in [
        ("subscribe: { deny: \"bus.me\" }", "subscribe to bus.me"),
        ("publish: { deny: \"bus\" }", "publish to bus;"),
    ] {
        let server = NatsServer::start_with(&format!(
            "authorization {{ users: [
                {{ user: gw, password: p, permissions: {{ {denied} }} }}
            ] }}"
        ));
        let source = Talking::new(&server.url_as("gw:p"), 1_000, 64);
        if denied.starts_with("publish") {
            source.until_up();
            source.publish(ALL, "beat");
        }
        let fault = source.fault();
        assert!(fault.contains(named), "{fault}");
    }
}
