//! `loadtest tail`.

use super::*;

#[test]
fn the_tail_names_the_worst_messages_and_where_their_time_went() {
    let server = limit_command();
    let load = ["--clients", "10", "--bytes", "512", "--rate", "60"];
    let args = ["tail", "--server", &server, "--seconds", "2"];
    let seen = result(&[&args[..], &load].concat());
    assert_eq!(
        (&seen["messages"], &seen["deliveries"], &seen["lost"]),
        (&120.into(), &1_200.into(), &0.into())
    );
    let latency = &seen["latency"];
    let figures =
        ["p50_ms", "p99_ms", "p999_ms", "max_ms"].map(|name| latency[name].as_f64().unwrap());
    assert!(figures[0] > 0.0 && figures.is_sorted(), "{figures:?}");
    let worst = seen["worst"].as_array().unwrap();
    assert_eq!(worst.len(), 100);
    for message in worst {
        let parts = message["parts_us"].as_array().unwrap().iter();
        let sum: u64 = parts.map(|part| part.as_u64().unwrap()).sum();
        assert_eq!(sum, message["took_us"].as_u64().unwrap());
    }
    let slowest = worst[0]["took_us"].as_u64().unwrap() as f64 / 1e3;
    assert!(
        (slowest - figures[3]).abs() <= slowest / 500.0,
        "{slowest} of {figures:?}"
    );
}
