//! `loadtest events` against the gateway itself, small.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

const LOADTEST: &str = env!("CARGO_BIN_EXE_loadtest");

/// The gateway that was built beside loadtest; no program of its own is as good a counterpart.
fn gateway() -> String {
    let program = PathBuf::from(LOADTEST).with_file_name("weirgate");
    assert!(
        program.exists(),
        "weirgate is missing: cargo build --workspace --bins"
    );
    format!("{} events", program.display())
}

fn events(scenario: &str, server: &str, args: &[&str]) -> (Output, Value) {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("result.json");
    let output = Command::new(LOADTEST)
        .args(["events", scenario, "--server", server, "--json"])
        .arg(&file)
        .args(args)
        .output()
        .unwrap();
    let json = std::fs::read(&file).unwrap_or_default();
    (output, serde_json::from_slice(&json).unwrap_or_default())
}

/// Runs a scenario that must succeed and gives its JSON.
fn result(scenario: &str, args: &[&str]) -> Value {
    let (output, json) = events(scenario, &gateway(), args);
    assert!(output.status.success(), "{output:?}");
    json
}

#[test]
fn each_request_is_answered_after_the_services_time_on_both_ways() {
    let seen = result(
        "requests",
        &[
            "--devices",
            "20",
            "--rates",
            "50,200",
            "--seconds",
            "0.5",
            "--warm-up",
            "0.1",
            "--rounds",
            "2",
            "--added-max",
            "10000",
        ],
    );
    let rates = seen["rates"].as_array().unwrap();
    assert_eq!(rates.len(), 2);
    for (at, sent) in rates.iter().zip([25, 100]) {
        for way in ["gateway", "direct"] {
            for part in at[way].as_array().unwrap() {
                assert_eq!(
                    (&part["sent"], &part["answered"]),
                    (&sent.into(), &sent.into())
                );
                assert!(part["latency"]["p50_ms"].as_f64() >= Some(5.0), "{part}");
            }
        }
        assert_eq!(at["added_p99_ms"]["n"], 2);
    }
}

/// One round of ten requests.
const SHORT: [&str; 10] = [
    "--devices",
    "5",
    "--rates",
    "50",
    "--seconds",
    "0.2",
    "--warm-up",
    "0",
    "--rounds",
    "1",
];

#[test]
fn a_bound_that_is_passed_fails() {
    let (output, _) = events(
        "requests",
        &gateway(),
        &[&SHORT[..], &["--added-max=-10000"]].concat(),
    );
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("50/s: added at p99, ms: "), "{stderr}");
}

#[test]
fn errors_are_no_answers() {
    // Nobody listens on port 1.
    let server = format!("{} --lobby-url http://127.0.0.1:1", gateway());
    let (output, seen) = events(
        "requests",
        &server,
        &[&SHORT[..], &["--added-max=10000"]].concat(),
    );
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(seen["rates"][0]["gateway"][0]["answered"], 0, "{seen}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("10 answers are missing"), "{stderr}");
}

#[test]
fn who_calls_a_service_that_hangs_gets_errors_and_the_others_answers() {
    let server = format!("env HTTP_TIMEOUT_SECONDS=0.5 {}", gateway());
    let args = [
        "--devices",
        "20",
        "--callers",
        "5",
        "--rate",
        "100",
        "--callers-rate",
        "50",
        "--seconds",
        "2",
        "--warm-up",
        "0.1",
        "--rounds",
        "1",
        "--ratio-max",
        "10000",
    ];
    let (output, seen) = events("hang", &server, &args);
    assert!(output.status.success(), "{output:?}");
    for part in seen["parts"].as_array().unwrap() {
        assert_eq!(
            (&part["sent"], &part["answered"]),
            (&200.into(), &200.into())
        );
        let errors = part["errors"].as_u64().unwrap();
        assert_eq!(part["hangs"] == true, errors > 0, "{part}");
    }
}

#[test]
fn each_device_gets_each_push_once_from_gateway_and_limit() {
    let seen = result(
        "push",
        &[
            "--devices",
            "100",
            "--bytes",
            "500",
            "--pushes",
            "3",
            "--rounds",
            "2",
            "--ratio-max",
            "10000",
        ],
    );
    for server in ["gateway", "limit"] {
        let parts = seen[server].as_array().unwrap();
        assert_eq!(parts.len(), 2);
        for part in parts {
            assert_eq!((&part["missing"], &part["twice"]), (&0.into(), &0.into()));
            assert!(part["cpu_ms"].as_f64() > Some(0.0), "{part}");
        }
    }
    assert_eq!(seen["time_ratio"]["n"], 2);
}

#[test]
fn a_frame_that_several_devices_leave_unread_is_kept_once() {
    let seen = result(
        "never-read",
        &[
            "--devices",
            "20",
            "--stuck",
            "4",
            "--seconds",
            "1",
            "--rounds",
            "1",
            "--ratio-max",
            "10000",
        ],
    );
    let parts = seen["parts"].as_array().unwrap();
    let [with, without] = &parts[..] else {
        panic!("{seen}");
    };
    for part in [with, without] {
        assert_eq!((&part["missing"], &part["twice"]), (&0.into(), &0.into()));
    }
    assert_eq!(
        (&with["stuck"], &with["stuck_at_end"]),
        (&4.into(), &4.into())
    );
    let [queued, frames] = ["queued_bytes", "frame_bytes"].map(|name| with[name].as_u64().unwrap());
    // Sockets take different amounts; four copies would be as much as is queued.
    assert!(frames > 0 && frames * 2 < queued, "{with}");
    assert_eq!(
        (&without["queued_bytes"], &without["stuck_at_end"]),
        (&0.into(), &0.into())
    );
}
