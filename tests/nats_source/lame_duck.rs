//! A server in lame duck mode is left for another one: names with a gap that is told, streams without a loss.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nats::jetstream::PublishOptions;
use weirgate_bus::StreamSettings;
use weirgate_bus::nats::NatsStreamSource;
use weirgate_test_support::NatsCluster;

use super::cluster::ELECTED_WITHIN;
use super::subjects::{client, run_with, say};
use super::*;

/// Publishers at some servers, each with a subject of its own and numbers without a hole.
struct Publishers {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<u64>>,
}

/// Publishes the number on the subject until the stream has it: while the stream's leader is chosen, it stores nothing.
fn stored(connection: &nats::Connection, subject: &str, number: u64) {
    let js = nats::jetstream::new(connection.clone());
    let text = number.to_string();
    let options = PublishOptions {
        timeout: Some(Duration::from_millis(500)),
        id: Some(format!("{subject} {number}")),
        ..PublishOptions::default()
    };
    eventually_within(ELECTED_WITHIN, "a message is stored", || {
        js.publish_with_options(subject, &text, &options).is_ok()
    });
}

impl Publishers {
    fn start(cluster: &NatsCluster, servers: &[usize]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let publish = |server: &usize| {
            let (url, stop) = (cluster[*server].url(), Arc::clone(&stop));
            let subject = format!("ticks.{server}");
            thread::spawn(move || {
                let connection = client(&url);
                let mut number = 0_u64;
                while !stop.load(Relaxed) {
                    stored(&connection, &subject, number);
                    number += 1;
                    thread::sleep(Duration::from_millis(2));
                }
                connection.flush().expect("flushed");
                number
            })
        };
        let threads = servers.iter().map(publish).collect();
        Self { stop, threads }
    }

    /// The numbers that each has published.
    fn end(self) -> Vec<u64> {
        self.stop.store(true, Relaxed);
        let end = |thread: thread::JoinHandle<u64>| thread.join().expect("a publisher");
        self.threads.into_iter().map(end).collect()
    }
}

#[test]
fn names_go_to_another_server_with_a_gap_that_is_told() {
    let mut cluster = NatsCluster::start();
    let source = run_with(&cluster[0].url(), &["ticks.*", "ticks.1"]);
    cluster[0].lame_duck();
    // Long before the server ends connections.
    let told = source.until("CaughtUp");
    assert_eq!(told[..2], ["Gap", "Down"]);
    assert_eq!(told[told.len() - 2..], ["Up", "CaughtUp"]);
    cluster[0].kill();
    say(&client(&cluster[1].url()), "ticks.2", "1");
    assert_eq!(source.next(), "ticks.2 (ticks.*): 1");
}

#[test]
fn a_single_server_is_kept_until_it_ends() {
    let times = "lame_duck_grace_period: \"2s\"\nlame_duck_duration: \"30s\"";
    let mut server = NatsServer::start_with(times);
    let source = run_with(&server.url(), &["a"]);
    let client = client(&server.url());
    server.lame_duck();
    thread::sleep(Duration::from_millis(1_500));
    say(&client, "a", "still");
    assert_eq!(source.next(), "a: still");
    server.kill();
    server.restart();
    let told = source.until("CaughtUp");
    assert_eq!(told[..2], ["Gap", "Down"]);
}

/// Each look for a successor waits a second for the second address, which accepts and says nothing.
#[test]
fn a_silent_address_beside_it_delays_no_message() {
    let times = "lame_duck_grace_period: \"40s\"\nlame_duck_duration: \"60s\"";
    let server = NatsServer::start_with(times);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("bound");
    let (tried, tries) = bounded(1_000);
    thread::spawn(move || silent.incoming().try_for_each(|stream| tried.send(stream)));
    let source = run_with(&format!("{},nats://{address}", server.url()), &["a"]);
    let client = client(&server.url());
    let of_the_start = tries.len();
    server.lame_duck();
    eventually_within(PATIENCE, "the silent address is tried", || {
        tries.len() > of_the_start
    });
    let began = Instant::now();
    for number in 0..40 {
        say(&client, "a", number.to_string());
        assert_eq!(source.next(), format!("a: {number}"));
    }
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "a second for each"
    );
}

#[test]
fn a_stream_moves_to_another_server_before_the_connection_ends() {
    let mut cluster = NatsCluster::start();
    let js = jetstream(&cluster.urls());
    eventually_within(ELECTED_WITHIN, "a stream", || {
        let config = StreamConfig {
            name: "TICKS".to_owned(),
            subjects: vec!["ticks.*".to_owned()],
            num_replicas: 3,
            ..StreamConfig::default()
        };
        js.add_stream(config).is_ok() || js.stream_info("TICKS").is_ok()
    });
    // The server leads nothing: while a leader is chosen, nobody can read the stream.
    let mut server = None;
    eventually_within(ELECTED_WITHIN, "a server that leads nothing", || {
        let leader = js
            .stream_info("TICKS")
            .ok()
            .and_then(|info| info.cluster.leader);
        let leaders = [
            leader.and_then(|name| cluster.index_of(&name)),
            cluster.leader(),
        ];
        let is_led = leaders.iter().all(Option::is_some);
        server = (0..cluster.servers()).find(|at| is_led && !leaders.contains(&Some(*at)));
        server.is_some()
    });
    let server = server.expect("a server");
    let others: Vec<usize> = (0..cluster.servers()).filter(|at| *at != server).collect();
    let status = Arc::new(BusStatus::new(&[], 1));
    let (sender, events) = bounded(100_000);
    let link = SourceLink::new(sender, Box::new(|| {}), Clock::start());
    let stream = StreamSettings {
        name: "TICKS".to_owned(),
        history_ms: 60_000,
        history_bytes_max: usize::MAX,
        answer_bytes_max: 64 * 1024 * 1024,
        only: None,
    };
    let url = cluster[server].url();
    let plain = NatsSettings::plain(&url, Credentials::None, Tls::default());
    let source = NatsStreamSource::new(plain, 1 << 20, stream, status).expect("a source");
    thread::spawn(move || Box::new(source).run(link));
    let caught_up = |event: &BusEvent| matches!(event, BusEvent::CaughtUp);
    while !caught_up(&events.recv_timeout(PATIENCE).expect("an event")) {}
    let publishers = Publishers::start(&cluster, &others);
    thread::sleep(Duration::from_millis(500));
    cluster[server].lame_duck();
    thread::sleep(Duration::from_secs(5));
    cluster[server].kill();
    let counts = publishers.end();
    let mut came = [Vec::new(), Vec::new()];
    while came[0].len() < counts[0] as usize || came[1].len() < counts[1] as usize {
        match events.recv_timeout(PATIENCE).expect("an event") {
            BusEvent::Message(m) => {
                let at = usize::from(*m.subject == format!("ticks.{}", others[1]));
                came[at].push(String::from_utf8_lossy(&m.payload).parse::<u64>());
            }
            BusEvent::Up | BusEvent::CaughtUp | BusEvent::Feed(_) => {}
            // JetStream may give the next consumer to the server in lame duck mode, which never answers: the next
            // attempt reads on, and nothing is lost.
            BusEvent::Down(fault) if fault.contains("no answer") => {}
            other => panic!("{other:?}"),
        }
    }
    for (came, count) in came.iter().zip(counts) {
        assert_eq!(came, &(0..count).map(Ok).collect::<Vec<_>>());
    }
}
