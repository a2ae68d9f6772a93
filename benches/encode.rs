//! Work done once per message or once per connection, whatever the number of clients.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use weirgate_core::{ConflationKey, Frame, FrameBytes};
use weirgate_wire::deflate::Deflater;
use weirgate_wire::{HeadScanner, RequestHead};

/// The default of `--deflate-level`.
const DEFLATE_LEVEL: u32 = 4;

/// JSON, cut to `bytes` bytes: repeated names, numbers that differ.
fn json(bytes: usize) -> Vec<u8> {
    let mut out = br#"{"ts":1715693832250,"symbol":"ES","buckets":["#.to_vec();
    let mut state = 1_u64;
    while out.len() < bytes {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let (strike, premium) = (4_000 + (state >> 52), (state >> 32) as u16);
        let bucket = format!(r#"{{"strike":{strike},"premium":-{premium}.75,"side":"CALL"}},"#);
        out.extend_from_slice(bucket.as_bytes());
    }
    out.truncate(bytes);
    out
}

/// The cost of the frame that all clients share: a copy of the body behind its header. The time includes
/// freeing the frame.
fn frame(c: &mut Criterion) {
    let alive = FrameBytes::default();
    let mut group = c.benchmark_group("encode/frame");
    for bytes in [200, 2 * 1024, 8 * 1024] {
        let body = json(bytes);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(bytes.to_string(), |b| {
            b.iter(|| {
                Frame::text(&alive)
                    .with_capacity(body.len())
                    .key(ConflationKey(1))
                    .body(black_box(&body))
                    .finish()
            });
        });
    }
    group.finish();
}

/// The cost of the first client with compression. The others share its encoding.
fn deflated(c: &mut Criterion) {
    let alive = FrameBytes::default();
    let mut deflater = Deflater::new(DEFLATE_LEVEL);
    let mut group = c.benchmark_group("encode/deflated");
    for bytes in [2 * 1024, 8 * 1024] {
        let body = json(bytes);
        let frame = || Frame::text(&alive).body(&body).finish();
        let first = frame();
        let encoded = first.deflated_with(|body| deflater.deflate(body));
        let encoded = encoded.expect("worth it").whole().len();
        println!("encode/deflated: {bytes} bytes of JSON become {encoded}");
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(bytes.to_string(), |b| {
            b.iter_batched(
                frame,
                |frame| {
                    assert!(frame.deflated_with(|body| deflater.deflate(body)).is_some());
                    frame
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// A browser's upgrade request, as a proxy passes it on.
const REQUEST: &[u8] = b"GET /ws?symbol=ES HTTP/1.1\r\nHost: levels.example.com\r\n\
    Connection: Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/140.0.0.0 Safari/537.36\r\nUpgrade: websocket\r\nOrigin: https://app.example.com\r\n\
    Sec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-US,en;q=0.9\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
    X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\r\n";

/// The cost of a handshake apart from system calls: finding the end of the head, parsing, negotiating, and
/// writing the 101. Decides the speed of a reconnect storm.
fn handshake(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode/handshake");
    group.throughput(Throughput::Elements(1));
    let mut out = Vec::with_capacity(1024);
    group.bench_function("head_and_101", |b| {
        b.iter(|| {
            let request = black_box(REQUEST);
            let end = HeadScanner::default().end(request).expect("a whole head");
            let head = RequestHead::parse(&request[..end], 100).expect("a good head");
            let upgrade = head.upgrade().expect("a good upgrade");
            let params = upgrade.negotiate_deflate();
            out.clear();
            upgrade.accept(&mut out, params.as_ref(), None);
            out.len()
        });
    });
    group.bench_function("head_alone", |b| {
        b.iter(|| {
            RequestHead::parse(black_box(REQUEST), 100)
                .expect("a good head")
                .minor_version()
        });
    });
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

criterion_group!(name = benches; config = short(); targets = frame, deflated, handshake);
criterion_main!(benches);
