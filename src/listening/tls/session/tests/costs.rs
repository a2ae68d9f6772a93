//! What a client may make a step cost.

use super::*;

/// Opening stops where the step has cost as much as its buffer, and goes on without further bytes.
#[test]
fn a_step_opens_as_many_records_as_large_ones_would_cost() {
    for versions in VERSIONS {
        let (mut client, mut session) = greeted(versions);
        let text: Vec<u8> = (0..200).collect();
        for byte in &text {
            client.writer().write_all(&[*byte]).expect("a record");
        }
        let records = sent(&mut client);
        let mut into = vec![0; 16 * RECORD_COST_BYTES];
        let mut got = Vec::new();
        let mut raw = records.clone();
        while got.is_empty() || session.has_input() {
            let n = session.open(&mut raw, &mut into).expect("opened");
            assert!(n == 16 || got.len() + n == text.len(), "{n} in a step");
            got.extend_from_slice(&into[..n]);
            raw.clear();
            let answer = sealed(&mut session, b"between");
            assert_eq!(received(&mut client, &answer), b"between");
        }
        assert!(got == text && session.held_bytes() == 0);
    }
}

/// A session that has got key updates, with so many bytes of data after each: how many were let through.
fn key_updates(count: usize, data: &[u8]) -> usize {
    let (mut client, mut session) = greeted(VERSIONS[0]);
    client.set_buffer_limit(None);
    let mut into = vec![0; 100_000];
    let is_let_through = |_: &usize| {
        client.refresh_traffic_keys().expect("a key update");
        client.writer().write_all(data).expect("written");
        let opened = session.open(&mut sent(&mut client), &mut into);
        received(&mut client, &kept(&mut session));
        opened.is_ok_and(|n| n == data.len())
    };
    (0..count).take_while(is_let_through).count()
}

#[test]
fn key_updates_are_permitted_by_data_and_time() {
    assert_eq!(key_updates(50, &[7; DATALESS_EVERY_BYTES]), 50);
    let let_through = key_updates(2_000, b"x");
    assert!((10..1_000).contains(&let_through), "{let_through}");
}
