//! The cost of large payloads. Work in the loop delays all clients.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weirgate::gateways::events::Push;
use weirgate::gateways::events::broadcast::Broadcast;
use weirgate_core::FrameBytes;
use weirgate_wire::base::Now;
use weirgate_wire::deflate::Deflater;

const MIB: usize = 1024 * 1024;

/// The default of `--deflate-level`, and the largest.
const DEFLATE_LEVELS: [u32; 2] = [4, 9];

/// A JSON object of about `bytes` bytes: repeated names, varied numbers, and some spaces.
fn json(bytes: usize) -> Vec<u8> {
    let mut out = br#"{"event": "x", "targets": {"device_ids": ["d"]}, "data": {"n": [0"#.to_vec();
    let mut state = 1_u64;
    while out.len() < bytes {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let (strike, premium) = (4_000 + (state >> 52), (state >> 32) as u16);
        let bucket =
            format!(r#", {{"strike": {strike}, "premium": -{premium}.75, "side": "CALL"}}"#);
        out.extend_from_slice(bucket.as_bytes());
    }
    out.extend_from_slice(b"]}}");
    out
}

/// Text that hardly deflates.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        b' ' + (state >> 58) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// The time for which the first client with permessage-deflate blocks the loop.
fn deflated(c: &mut Criterion) {
    let mut group = c.benchmark_group("large/deflated");
    for level in DEFLATE_LEVELS {
        let mut deflater = Deflater::new(level);
        for (name, body) in [("json", json(MIB)), ("noise", noise(MIB))] {
            group.throughput(Throughput::Bytes(body.len() as u64));
            group.bench_function(format!("level {level}/{name} 1 MiB"), |b| {
                b.iter(|| deflater.deflate(black_box(&body)));
            });
        }
    }
    group.finish();
}

/// From the body of a broadcast to its frame, outside of the loop; a response of a service takes about as
/// long.
fn broadcast(c: &mut Criterion) {
    let alive = FrameBytes::default();
    let mut group = c.benchmark_group("large/broadcast");
    for mib in [1, 64] {
        let body = json(mib * MIB);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("{mib} MiB"), |b| {
            b.iter_with_large_drop(|| {
                let broadcast = Broadcast::parse(black_box(&body)).expect("JSON");
                Push::parts(broadcast, &alive, Now::default(), Box::new(|_| {}))
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = deflated, broadcast
}
criterion_main!(benches);
