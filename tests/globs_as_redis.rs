//! Patterns mean here what they mean to a real redis-server: `KEYS` matches with the same function
//! as publications.

use std::collections::BTreeSet;

use weirgate_test_support::RedisServer;
use weirgate_wire::auth::{NamePatterns, NameSyntax};

/// Texts over an alphabet, from a seed that never changes.
fn texts(alphabet: &[&str], length_max: u64, count: usize, mut seed: u64) -> BTreeSet<String> {
    let mut random = |below: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut texts = BTreeSet::new();
    while texts.len() < count {
        let length = 1 + random(length_max);
        let text = (0..length).map(|_| alphabet[random(alphabet.len() as u64) as usize]);
        texts.insert(text.collect());
    }
    texts
}

#[test]
fn a_pattern_matches_what_redis_matches() {
    let server = RedisServer::start();
    let mut client = server.client();
    let names = texts(&["a", "b", "-", "]", "[", "\\", "^", "é"], 4, 600, 1);
    let patterns = texts(
        &["a", "b", "*", "?", "[", "]", "^", "-", "\\", "é"],
        6,
        4_000,
        2,
    );
    for name in &names {
        let set: () = redis::cmd("SET")
            .arg(name)
            .arg(1)
            .query(&mut client)
            .expect("set");
        set
    }
    let (mut compared, mut matched) = (0, 0);
    for pattern in &patterns {
        // A text without a wildcard is a name. What depends on the machine is refused. Both are no part of this.
        if !NameSyntax::Redis.is_pattern(pattern) {
            continue;
        }
        let Ok(own) = NamePatterns::new(NameSyntax::Redis, std::slice::from_ref(pattern)) else {
            continue;
        };
        let keys: Vec<Vec<u8>> = redis::cmd("KEYS")
            .arg(pattern)
            .query(&mut client)
            .expect("keys");
        let theirs: BTreeSet<Vec<u8>> = keys.into_iter().collect();
        let ours = names.iter().filter(|name| own.matches(name));
        let ours: BTreeSet<Vec<u8>> = ours.map(|name| name.clone().into_bytes()).collect();
        assert_eq!(ours, theirs, "{pattern}");
        compared += 1;
        matched += usize::from(!theirs.is_empty());
    }
    assert!(
        compared > 1_500 && matched > 300,
        "{compared} compared, {matched} matched"
    );
}
