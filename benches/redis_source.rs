//! Messages per second through the Redis source, from the socket to the loop's channel. The server is a
//! thread that writes the same bytes over and over, so the source is the slower part.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_channel::{Receiver, Sender, bounded};
use weirgate_bus::redis::{RedisEndpoint, RedisSettings, RedisSource};
use weirgate_core::{BusEvent, Subscription};
use weirgate_runtime::{BusStatus, Clock, Source, SourceLink};

const MESSAGES: usize = 10_000;
const PAYLOAD_BYTES: usize = 200;
const PATTERN: &str = "channel:trade:*";
const CHANNEL: &str = "channel:trade:AAPL";
/// As many as the loop of a gateway has room for.
const ROOM: usize = 1_024;

/// A server for one client. Sends all messages once for each word on the channel.
fn serve(listener: &TcpListener, go: &Receiver<()>) {
    let (mut stream, _) = listener.accept().expect("a client");
    answer(&mut stream, "SETNAME", b"+PONG\r\n+OK\r\n");
    let (bytes, name) = (PATTERN.len(), PATTERN);
    let confirmed = format!("*3\r\n$10\r\npsubscribe\r\n${bytes}\r\n{name}\r\n:1\r\n");
    answer(&mut stream, PATTERN, confirmed.as_bytes());
    let message = format!(
        "*4\r\n$8\r\npmessage\r\n${bytes}\r\n{name}\r\n${}\r\n{CHANNEL}\r\n${PAYLOAD_BYTES}\r\n{}\r\n",
        CHANNEL.len(),
        "x".repeat(PAYLOAD_BYTES)
    );
    let messages = message.repeat(MESSAGES);
    while go.recv().is_ok() {
        stream.write_all(messages.as_bytes()).expect("written");
    }
}

fn answer(stream: &mut TcpStream, to: &str, with: &[u8]) {
    let mut asked = Vec::new();
    let mut buffer = [0; 1024];
    while !String::from_utf8_lossy(&asked).contains(to) {
        let bytes = stream.read(&mut buffer).expect("a command");
        asked.extend_from_slice(&buffer[..bytes]);
    }
    stream.write_all(with).expect("written");
}

fn start() -> (Sender<()>, Receiver<BusEvent>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (go, gone) = bounded(1);
    thread::spawn(move || serve(&listener, &gone));
    let mut settings = RedisSettings::new(RedisEndpoint::new("127.0.0.1", port));
    // This server responds to no pings.
    settings.times.ping_interval_ms = 3_600_000;
    let status = Arc::new(BusStatus::new(&[], 1));
    let (source, interest) = RedisSource::new(settings, status).expect("a source");
    interest.subscribe(Subscription::pattern(PATTERN));
    let (sender, events) = bounded(ROOM);
    let link = SourceLink::new(sender, Box::new(|| {}), Clock::start());
    thread::spawn(move || Box::new(source).run(link));
    while !matches!(events.recv(), Ok(BusEvent::CaughtUp)) {}
    (go, events)
}

fn messages(c: &mut Criterion) {
    let (go, events) = start();
    let mut group = c.benchmark_group("redis_source");
    group.throughput(Throughput::Elements(MESSAGES as u64));
    group.bench_function("pmessage_200_bytes", |b| {
        b.iter_custom(|rounds| {
            let from = Instant::now();
            for _ in 0..rounds {
                go.send(()).expect("the server lives");
                for _ in 0..MESSAGES {
                    assert!(matches!(events.recv(), Ok(BusEvent::Message(_))));
                }
            }
            from.elapsed()
        });
    });
    group.finish();
}

criterion_group!(benches, messages);
criterion_main!(benches);
