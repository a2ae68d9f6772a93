//! What waits for clients that came back is limited: for a client, an address, and all together.

use super::resume::{Bench, at};
use super::*;

#[test]
fn no_more_is_sent_again_while_too_much_waits() {
    let mut bench = Bench::with(5, 260);
    for n in 0..60 {
        bench.trade("A", &format!(r#"{{"price":{n}}}"#));
    }
    let all = at(0).to_string();
    let came = |got: &[String]| match got[0].contains(r#""why":"large""#) {
        true => None,
        false => Some(got.len() - 1),
    };
    let slow = |bench: &mut Bench, n| {
        let key = bench.world.accept_from([10, 0, 0, n].into(), 100);
        bench.world.send(key, &request("/", None));
        bench.resumes(key, r#"["A"]"#, &all);
        key
    };
    let first = slow(&mut bench, 1);
    let client_at = |bench: &mut Bench, n, since: &str| {
        let ip = [10, 0, 0, n].into();
        let key = bench.world.connect_from(ip, "/", None);
        bench.world.texts(key);
        came(&bench.resumes(key, r#"["A"]"#, since))
    };
    // An address has a quarter.
    let newest = at(45).to_string();
    assert_eq!(client_at(&mut bench, 1, &newest), None);
    assert_eq!(client_at(&mut bench, 2, &all), Some(60));
    // All clients together.
    let keys: Vec<_> = (2..=4).map(|n| slow(&mut bench, n)).collect();
    assert_eq!(client_at(&mut bench, 5, &newest), None);
    bench.world.open_window(first, usize::MAX);
    assert_eq!(client_at(&mut bench, 1, &all), Some(60));
    assert_eq!(client_at(&mut bench, 5, &all), Some(60));
    assert_eq!(
        client_at(&mut bench, 4, &newest),
        None,
        "the address still waits"
    );
    for key in keys {
        bench.world.open_window(key, usize::MAX);
    }
    assert_eq!(client_at(&mut bench, 4, &all), Some(60));
    bench.world.hub.check_invariants();
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
