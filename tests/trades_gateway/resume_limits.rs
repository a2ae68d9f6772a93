//! What waits for clients that came back is limited: for a client, an address, and all together.

use weirgate_core::Frame;

use super::resume::{Bench, at};
use super::*;

/// A client at 10.0.0.`n` whose kernel takes little, and what it gets first.
fn slow(bench: &mut Bench, n: u8) -> SessionKey {
    let key = bench.world.accept_from([10, 0, 0, n].into(), 100);
    bench.world.send(key, &request("/", None));
    key
}

/// The number of missed trades that a client at 10.0.0.`n` gets; `None`: too much waits.
fn came(bench: &mut Bench, n: u8, since: &str) -> Option<usize> {
    let ip = [10, 0, 0, n].into();
    let key = bench.world.connect_from(ip, "/", None);
    bench.world.texts(key);
    let got = bench.resumes(key, r#"["A"]"#, since);
    let is_large = got[0].contains(r#""why":"large""#);
    (!is_large).then(|| got.len() - 1)
}

#[test]
fn no_more_is_sent_again_to_an_address_that_holds_what_is_left() {
    let mut bench = Bench::with(5, 300);
    for n in 0..60 {
        bench.trade("A", &format!(r#"{{"price":{n}}}"#));
    }
    let (all, newest) = (at(0).to_string(), at(45).to_string());
    let resume_slowly = |bench: &mut Bench, n| {
        let key = slow(bench, n);
        bench.resumes(key, r#"["A"]"#, &all);
        key
    };
    let keys: Vec<_> = (0..4).map(|_| resume_slowly(&mut bench, 1)).collect();
    // The address has more than half of all, so the fourth client got nothing.
    assert_eq!(came(&mut bench, 1, &newest), None);
    let others: Vec<_> = (2..=3).map(|n| resume_slowly(&mut bench, n)).collect();
    // Nothing is left but some of the messages: no address has more than what is left, except a new one.
    assert_eq!(came(&mut bench, 2, &newest), None);
    assert_eq!(came(&mut bench, 4, &all), None, "so many do not fit");
    bench.world.open_window(keys[0], usize::MAX);
    assert_eq!(came(&mut bench, 4, &all), Some(60));
    assert_eq!(came(&mut bench, 1, &newest), None, "two clients still wait");
    for key in keys.into_iter().chain(others) {
        bench.world.open_window(key, usize::MAX);
    }
    assert_eq!(came(&mut bench, 1, &all), Some(60));
    bench.world.hub.check_invariants();
}

#[test]
fn what_waits_is_given_back_as_it_leaves_and_with_the_client() {
    let mut bench = Bench::with(5, 119);
    for n in 0..60 {
        bench.trade("A", &format!(r#"{{"price":{n}}}"#));
    }
    let all = at(0).to_string();
    let key = slow(&mut bench, 1);
    bench.resumes(key, r#"["A"]"#, &all);
    assert_eq!(came(&mut bench, 1, &all), None);
    assert_eq!(came(&mut bench, 2, &all), None);
    // The welcome, the answer and a few messages.
    bench.world.open_window(key, 1_000);
    assert_eq!(came(&mut bench, 2, &all), Some(60));
    let slow = slow(&mut bench, 1);
    bench.world.end(key, true);
    bench.resumes(slow, r#"["A"]"#, &all);
    assert_eq!(came(&mut bench, 2, &all), None);
    bench.world.end(slow, true);
    assert_eq!(came(&mut bench, 2, &all), Some(60));
}

/// Live messages have the limits of the send queues, and take nothing from those who come back.
#[test]
fn live_messages_that_nobody_reads_refuse_no_resume() {
    let mut bench = Bench::with(5, 120);
    for _ in 0..30 {
        let key = slow(&mut bench, 1);
        bench
            .world
            .text(key, r#"{"action":"subscribe","symbols":["A"]}"#);
    }
    for n in 0..60 {
        bench.trade("A", &format!(r#"{{"price":{n}}}"#));
    }
    assert!(bench.world.hub.stats().messages_waiting > 1_500);
    for n in 1..=30 {
        assert_eq!(came(&mut bench, n, &at(0).to_string()), Some(60), "{n}");
    }
}

#[test]
fn what_waits_for_a_client_counts_over_its_requests() {
    let mut bench = Bench::new(5);
    let payload = format!(r#"{{"symbol":"{}"}}"#, "x".repeat(4_000));
    for n in 0..1_000 {
        bench.trade(["A", "B"][n % 2], &payload);
    }
    let key = bench.world.accept(1_000);
    bench.world.send(key, &request("/", None));
    let leave = r#"{"action":"unsubscribe","symbols":["A"]}"#;
    let all = at(0).to_string();
    for _ in 0..4 {
        bench.resumes(key, r#"["A"]"#, &all);
        bench.world.text(key, leave);
    }
    bench.world.open_window(key, usize::MAX);
    let texts = bench.world.texts(key);
    let answers: Vec<bool> = texts
        .iter()
        .filter(|text| text.contains("recovered"))
        .map(|text| text.contains(r#""recovered":true"#))
        .collect();
    assert_eq!(answers, [true, false, false], "4 MiB wait with the first");
    assert_eq!(bench.resumes(key, r#"["A"]"#, &all).len(), 501, "taken");
    // The newest messages count too.
    let key = bench.world.accept(1_000);
    bench.world.send(key, &request("/", None));
    bench.resumes(key, r#"["A","B"]"#, &all);
    let last = r#"{"action":"subscribe","symbols":["C","A"],"last":100}"#;
    bench
        .world
        .text(key, r#"{"action":"unsubscribe","symbols":["A"]}"#);
    bench.world.text(key, last);
    bench.world.open_window(key, usize::MAX);
    let texts = bench.world.texts(key);
    assert!(texts[texts.len() - 1].contains(r#""why":"large""#));
}

#[test]
fn very_many_missed_trades_are_queued_over_several_turns() {
    let mut bench = Bench::of(5, |limits| limits.share_us = 1);
    let mut price = 0;
    let mut trade = |bench: &mut Bench| {
        price += 1;
        bench.trade("A", &format!(r#"{{"price":{price}}}"#));
        price
    };
    for _ in 0..3_000 {
        trade(&mut bench);
    }
    let key = bench.client();
    bench.world.held = true;
    let since = at(10).to_string();
    let request = format!(r#"{{"action":"subscribe","symbols":["A"],"since":"{since}"}}"#);
    bench.world.text(key, &request);
    let (mut turns, mut last) = (0, 0);
    while bench.world.hub.waiting_shares() > 0 {
        let waiting = bench.world.hub.stats().messages_waiting;
        bench.world.hub.begin_part(crate::world::PART_US);
        bench.world.hub.handle_next_share(bench.world.now);
        let more = bench.world.hub.stats().messages_waiting - waiting;
        assert!(more <= 1_000, "{more}");
        last = trade(&mut bench);
        turns += 1;
    }
    assert!(turns >= 2, "{turns}");
    bench.world.held = false;
    bench.world.settle();
    let got = bench.world.texts(key);
    assert!(got[0].contains(r#""recovered":true"#), "{}", got[0]);
    let is_of = |(text, price): (&String, usize)| {
        text.starts_with(&format!(r#"{{"type":"trade","data":{{"price":{price}}}"#))
    };
    assert_eq!(got.len() - 1, last - 10);
    assert!(got[1..].iter().zip(11..).all(is_of));
    assert_eq!(bench.world.hub.core().resumed_messages().held(), 0);
}

/// One client after the other gets earlier trades while memory is short, by `since` or by `last`.
#[test]
fn clients_that_come_back_wait_while_memory_is_short() {
    const LIMIT: u64 = 400_000;
    let mut bench = Bench::of(5, |limits| limits.frame_bytes_max = LIMIT);
    bench.trade("A", r#"{"price":1}"#);
    let outside = vec![b'x'; LIMIT as usize / 4 * 3];
    let outside = Frame::text(&bench.world.frame_bytes)
        .body(&outside)
        .finish();
    let since = at(0).to_string();
    for asked in [format!(r#""since":"{since}""#), r#""last":1"#.to_owned()] {
        let slow = bench.client();
        bench
            .world
            .net
            .sockets
            .get_mut(&slow)
            .expect("a socket")
            .room = 0;
        bench.resumes(slow, r#"["A"]"#, &since);
        let key = bench.client();
        let request = format!(r#"{{"action":"subscribe","symbols":["A"],{asked}}}"#);
        bench.world.text(key, &request);
        bench.world.text(key, r#"{"action":"ping"}"#);
        assert_eq!(bench.world.texts(key), [""; 0], "{asked}");
        bench.world.advance(1_000_000 / 10);
        let got = bench.world.texts(key);
        assert!(got[0].contains("Successfully subscribed"), "{got:?}");
        assert!(got[1].contains(r#""price":1"#), "{got:?}");
        assert!(got.iter().any(|one| one.contains("pong")), "{got:?}");
        for key in [slow, key] {
            bench.world.end(key, true);
        }
        bench.world.advance(1_000_000);
    }
    drop(outside);
    bench.world.hub.check_invariants();
}
