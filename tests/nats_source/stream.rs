//! The kept feed of a stream, for a user with few rights.

use weirgate_bus::StreamSettings;
use weirgate_bus::nats::NatsStreamSource;

use super::subjects::client;
use super::*;

const MIB: usize = 1024 * 1024;
/// More than a server keeps for a client that reads nothing (64 MiB).
const MESSAGES: usize = 60;

/// Without the right to answer flow control, only the number of messages without an acknowledgement bounds what waits at the
/// server. The loop takes each message late, so the server has filled the socket long before.
#[test]
fn large_messages_that_are_read_late_do_not_cut_the_connection() {
    let server = NatsServer::start_with(
        "max_payload: 8MB
         authorization { users: [
            { user: gw, password: p, permissions: { publish: { deny: \"$JS.FC.>\" } } }
            { user: feed, password: f }
        ] }",
    );
    let feed = client(&server.url_as("feed:f"));
    let js = nats::jetstream::new(feed);
    let config = StreamConfig {
        name: "TICKS".to_owned(),
        subjects: vec!["ticks.*".to_owned()],
        storage: nats::jetstream::StorageType::Memory,
        ..StreamConfig::default()
    };
    js.add_stream(config).expect("a stream");
    let publish = |range: std::ops::Range<usize>| {
        for n in range {
            let bytes = vec![b'1'; (2 + n % 3) * MIB];
            js.publish("ticks.a", bytes).expect("stored");
        }
    };
    publish(0..MESSAGES);
    let settings = NatsSettings::plain(&server.url_as("gw:p"), Credentials::None, Tls::default());
    let stream = StreamSettings {
        name: "TICKS".to_owned(),
        history_ms: 600_000,
        history_bytes_max: usize::MAX,
        answer_bytes_max: 0,
        only: None,
    };
    let status = Arc::new(BusStatus::new(&[], 1));
    let source =
        NatsStreamSource::new(settings, 8 * MIB, stream, Arc::clone(&status)).expect("a source");
    let (sender, events) = bounded(1);
    let link = SourceLink::new(sender, Box::new(|| {}), Clock::start());
    thread::spawn(move || Box::new(source).run(link));
    let mut came = Vec::new();
    while came.len() < 2 * MESSAGES {
        if came.len() == MESSAGES {
            publish(MESSAGES..2 * MESSAGES);
        }
        match events.recv_timeout(PATIENCE).expect("an event") {
            BusEvent::Message(message) => came.push(message.payload.len()),
            BusEvent::Up
            | BusEvent::CaughtUp
            | BusEvent::Feed(_)
            | BusEvent::Subjects(_)
            | BusEvent::ReadTo(_) => {}
            other => panic!("{other:?} after {} messages", came.len()),
        }
        // More is on its way by now than a server lets wait, if nothing bounds that.
        thread::sleep(Duration::from_millis(30));
    }
    let all: Vec<usize> = (0..2 * MESSAGES).map(|n| (2 + n % 3) * MIB).collect();
    assert_eq!(came, all);
    assert_eq!(status.reconnects(), 0);
}
