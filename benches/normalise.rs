//! The levels feed: normalising a recorded message of ten levels, relaying flow beside it, and the
//! depth guard.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use weirgate::gateways::levels::feed::{Endpoint, LevelsFeed, LevelsFeedSettings, Normaliser};
use weirgate_core::{BusEvent, BusMessage, Feed, FrameBytes, Publication, TopicName};
use weirgate_wire::base::Now;
use weirgate_wire::json::Json;

const NOW: Now = Now {
    mono_us: 1_000_000,
    unix_us: 1_715_693_832_250 * 1_000,
};

/// Ten full levels with predictions, in a publisher's form: without white space.
fn ten_levels() -> Vec<u8> {
    let case = include_str!("../tests/vectors/levels/public/p28_ten_levels.json");
    let case: serde_json::Value = serde_json::from_str(case).expect("a case");
    case["steps"][0]["message"].to_string().into_bytes()
}

/// A flow snapshot of about `bytes` bytes.
fn flow(bytes: usize) -> Vec<u8> {
    let bucket = r#"{"strike":6920,"premium":-15250.75,"volume":1200,"side":"CALL"}"#;
    let buckets = vec![bucket; bytes / (bucket.len() + 1)].join(",");
    format!(r#"{{"ts":1715693832250,"symbol":"ES","buckets":[{buckets}]}}"#).into_bytes()
}

fn message(subject: &Arc<str>, payload: &[u8]) -> BusEvent {
    BusEvent::Message(BusMessage::new(Arc::clone(subject), payload.to_vec(), NOW))
}

fn normalise(c: &mut Criterion) {
    let levels = ten_levels();
    let mut group = c.benchmark_group("levels");
    group.throughput(Throughput::Bytes(levels.len() as u64));
    let mut normaliser = Normaliser::new(240);
    let mut out = Vec::with_capacity(32 * 1024);
    group.bench_function("normalise", |b| {
        b.iter(|| {
            out.clear();
            let viewport = normaliser.normalise(black_box(&levels), NOW.unix_ms(), &mut out);
            assert!(viewport.is_ok());
        });
    });
    group.bench_function("depth_guard", |b| {
        b.iter(|| Json::check(black_box(&levels)));
    });
    let deep = format!("[{}]", vec!["{}"; levels.len() / 3].join(","));
    group.bench_function("depth_guard_slow_path", |b| {
        b.iter(|| Json::check(black_box(deep.as_bytes())));
    });
    group.finish();
}

/// Levels and flow, each also under its own path.
fn endpoints() -> LevelsFeedSettings {
    let endpoint = |path: &'static str, keys: &[&str]| Endpoint {
        topic: TopicName::fixed(path),
        keys: keys.iter().map(|&key| key.to_owned()).collect(),
    };
    LevelsFeedSettings {
        endpoints: vec![
            endpoint("/ws/levels", &["levels", "viewport"]),
            endpoint("/ws/flow", &["flow"]),
        ],
        ..LevelsFeedSettings::default()
    }
}

fn merge(c: &mut Criterion) {
    let levels: Arc<str> = Arc::from("levels.signals");
    let market: Arc<str> = Arc::from("market.flow");
    let mut group = c.benchmark_group("merge");
    let mut out: Vec<Publication> = Vec::new();
    let payloads = [
        ("levels_8k", &levels, ten_levels()),
        ("flow_8k", &market, flow(8 * 1024)),
        ("flow_2k", &market, flow(2 * 1024)),
    ];
    // With endpoints, each message has a topic besides the whole document.
    let feeds = [
        ("", LevelsFeedSettings::default(), 1),
        ("_endpoint", endpoints(), 2),
    ];
    for (suffix, settings, publications) in feeds {
        let mut feed = LevelsFeed::new(settings, FrameBytes::default());
        for (name, subject, payload) in &payloads {
            group.throughput(Throughput::Bytes(payload.len() as u64));
            group.bench_function(format!("{name}{suffix}"), |b| {
                b.iter_batched(
                    || message(subject, payload),
                    |event| {
                        feed.event(NOW, event, &mut out);
                        assert_eq!(out.len(), publications);
                        out.clear();
                    },
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, normalise, merge);
criterion_main!(benches);
