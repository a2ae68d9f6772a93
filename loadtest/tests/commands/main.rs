//! The commands against a real nats-server, with the raw limit as the server.

mod buses;
mod compare;
mod tail;
mod tls;

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use weirgate_test_support::{NatsServer, RedisServer, free_port};

const LOADTEST: &str = env!("CARGO_BIN_EXE_loadtest");

/// A child that does not outlive the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn loadtest(args: &[&str]) -> Output {
    Command::new(LOADTEST).args(args).output().unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Runs a command that must succeed and gives its JSON.
fn result(args: &[&str]) -> Value {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("result.json");
    let output = loadtest(&[args, &["--json", file.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{output:?}");
    json(&file)
}

/// The limit as a server that a command starts.
fn limit_command() -> String {
    format!("{LOADTEST} limit --port {{port}} --nats {{nats}}")
}

/// 50 clients on a limit on NATS; `count` messages of `bytes` bytes at `rate`; what clients say.
fn clients_on_limit(limit_args: &[&str], publish_args: &[&str], expect: &str) -> (Value, bool) {
    let dir = TempDir::new().unwrap();
    let nats = NatsServer::start();
    let url = nats.url();
    let mut limit = Command::new(LOADTEST)
        .args(["limit", "--nats", &url])
        .args(limit_args)
        .stdout(Stdio::piped())
        .spawn()
        .map(Ended)
        .unwrap();
    let mut ready = String::new();
    BufReader::new(limit.0.stdout.take().unwrap())
        .read_line(&mut ready)
        .unwrap();
    let port = ready
        .split_whitespace()
        .find_map(|w| w.strip_prefix("port="))
        .unwrap();
    let file = dir.path().join("clients.json");
    let mut clients = Command::new(LOADTEST)
        .args([
            "clients",
            &format!("ws://127.0.0.1:{port}/ws/stream"),
            "-n",
            "50",
            "--seconds",
            "5",
        ])
        .args([
            "--expect",
            expect,
            "--server-pid",
            &limit.0.id().to_string(),
            "--json",
        ])
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map(Ended)
        .unwrap();
    let mut stderr = BufReader::new(clients.0.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert_eq!(line, "50 clients open\n");
    let published = loadtest(&[&["publish", "nats", "--nats", &url], publish_args].concat());
    assert!(published.status.success(), "{published:?}");
    let good = clients.0.wait().unwrap().success();
    stderr.read_to_string(&mut line).unwrap();
    (json(&file), good)
}

#[test]
fn fifty_clients_get_every_message_of_the_limit() {
    let publish = ["--count", "60", "--rate", "100", "--bytes", "2048"];
    for limit in [&[][..], &["--batched"]] {
        let (seen, good) = clients_on_limit(limit, &publish, "60");
        assert!(good, "{seen}");
        assert_eq!(seen["lost"], 0);
        assert_eq!(seen["readers"]["deliveries"], 50 * 60);
        assert_eq!(seen["readers"]["open_at_end"], 50);
        assert_eq!(seen["readers"]["payload_bytes"], 50 * 60 * (2048 + 9));
        assert_eq!(
            (&seen["fewest_of_a_client"], &seen["most_of_a_client"]),
            (&60.into(), &60.into())
        );
        // A busy machine makes loadtest late, and then it says nothing.
        let within = |figure: &str| {
            let value = &seen["readers"]["latency"][figure];
            value.is_null() || value.as_f64().is_some_and(|ms| ms > 0.0 && ms < 2_000.0)
        };
        assert!(within("p50_ms") && within("max_ms"), "{seen}");
        assert!(
            seen["server"]["cpu_us_per_delivery"].as_f64() > Some(0.1),
            "{seen}"
        );
    }
}

#[test]
fn messages_that_never_came_are_a_loss() {
    let publish = ["--count", "5", "--rate", "100", "--bytes", "200"];
    let (seen, good) = clients_on_limit(&[], &publish, "6");
    assert!(!good);
    assert_eq!(seen["lost"], 50);
}

#[test]
fn an_interrupted_comparison_reports_its_whole_rounds() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("result.json");
    let mut child = Command::new(LOADTEST)
        .args(&compare::SMALL[..])
        .args(["--aa", "--limits", "raw", "--rounds", "1000", "--json"])
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map(Ended)
        .unwrap();
    let lines = BufReader::new(child.0.stderr.take().unwrap()).lines();
    let begun = |line: &String| line.starts_with("round 2/1000");
    let mut lines = lines.map_while(Result::ok).skip_while(|line| !begun(line));
    assert!(lines.next().is_some());
    let pid = child.0.id().to_string();
    Command::new("kill").args(["-INT", &pid]).status().unwrap();
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.0.wait().unwrap().code(), Some(1), "{rest:?}");
    assert!(
        rest.iter().any(|line| line == "loadtest: interrupted"),
        "{rest:?}"
    );
    let seen = json(&file);
    assert_eq!(seen["rounds"], 1);
    for server in seen["cases"][0]["servers"].as_array().unwrap() {
        assert_eq!(
            (&server["cpu_us_per_delivery"]["n"], &server["deliveries"]),
            (&1.into(), &400.into())
        );
    }
}

#[test]
fn a_report_is_a_page_with_its_data_and_can_be_made_again_from_the_json() {
    let dir = TempDir::new().unwrap();
    let (made, again) = (dir.path().join("made"), dir.path().join("again"));
    let server = limit_command();
    let args = [
        "--server", &server, "--rounds", "1", "--limits", "raw", "--report",
    ];
    let output = loadtest(&[&compare::SMALL[..], &args, &[made.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{output:?}");
    let page = std::fs::read_to_string(made.join("index.html")).unwrap();
    assert!(page.contains("\"cpu_us_per_delivery\"") && !page.contains("histogram_us"));
    // Time that the host took counts as well.
    assert!(page.contains("The host or other programs disturbed"));
    let table = std::fs::read_to_string(made.join("table.md")).unwrap();
    assert_eq!(table.lines().count(), 4, "{table}");
    let result = made.join("result.json");
    let output = loadtest(&["report", result.to_str().unwrap(), again.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let second = std::fs::read_to_string(again.join("index.html")).unwrap();
    // The last digit of a number may be another.
    let points = |page: &str| page.matches("\"stands\"").count();
    assert!(points(&page) > 20 && points(&second) == points(&page));
    let output = loadtest(&["report", made.join("table.md").to_str().unwrap(), "unused"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_comparison_without_sense_is_refused() {
    let server = limit_command();
    let twice = [
        "--server",
        &format!("a={server}"),
        "--server",
        &format!("a={server}"),
    ];
    for args in [
        &twice[..],
        &["--aa", "--limits", "none"],
        &["--aa", "--rounds", "0"],
    ] {
        let output = loadtest(&[&compare::SMALL[..], args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
    }
}

#[test]
fn memory_counts_clients_in_steps() {
    let server = limit_command();
    let seen = result(&[
        "memory",
        "--server",
        &server,
        "--clients",
        "0,100,300",
        "--settle",
        "0.2",
    ]);
    let steps = seen.as_array().unwrap();
    assert_eq!(
        steps
            .iter()
            .map(|s| s["clients"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [0, 100, 300]
    );
    assert!(
        steps[2]["idle_bytes_per_client"].as_f64() < Some(20_000.0),
        "{seen}"
    );
    assert!(
        steps[2]["cpu_us_per_handshake"].as_f64() > Some(0.0),
        "{seen}"
    );
}

#[test]
fn a_small_burst_reaches_everyone() {
    let server = limit_command();
    let seen = result(&[
        "slow",
        "burst",
        "--server",
        &server,
        "--clients",
        "20",
        "--messages",
        "5",
    ]);
    assert_eq!(
        (&seen["newest"], &seen["deliveries"]),
        (&20.into(), &100.into())
    );
}

#[test]
fn a_server_that_keeps_stuck_clients_fails() {
    let server = limit_command();
    let output = loadtest(&[
        "slow",
        "never-read",
        "--server",
        &server,
        "--clients",
        "20",
        "--stuck",
        "2",
        "--seconds",
        "1",
        "--rounds",
        "1",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("0 messages lost, 0 readers closed, stuck clients stayed in 1 parts"),
        "{stderr}"
    );
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let addr = format!("127.0.0.1:{}", free_port());
    let output = loadtest(&["clients", &format!("ws://{addr}/ws/stream"), "-n", "2"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        format!(
            "loadtest: server: client 0 cannot connect to {addr}: connection refused, nothing listens there\n"
        )
    );
}

#[test]
fn a_server_that_does_not_start_is_named_with_what_it_said() {
    let output = loadtest(&[
        "slow",
        "burst",
        "--server",
        "sh -c 'echo out of cheese; exit 3'",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("exit status: 3") && stderr.contains("out of cheese"),
        "{stderr}"
    );
}

#[test]
fn a_storm_opens_all_and_has_bounds() {
    let limit = limit_command();
    let storm = ["storm", "connect", "--server", &limit, "-n", "300"];
    let generous = ["--rounds", "1", "--p99-max", "5000", "--open-max", "20"];
    let rounds = result(&[&storm[..], &generous, &["--connect-max", "20"]].concat());
    assert_eq!(rounds[0]["opened"], 300);
    assert_eq!(rounds[0]["refused"], 0);
    assert!(rounds[0]["open_s"].as_f64().unwrap() > 0.0);
    let output = loadtest(&[&storm[..], &["--rounds", "1", "--open-max", "0"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("(at most 0)"), "{stderr}");
}

#[test]
fn a_stop_is_timed_while_the_clients_come_back() {
    let limit = limit_command();
    let stop = ["storm", "stop", "--server", &limit, "-n", "50"];
    let output = loadtest(&[&stop[..], &["--rounds", "1", "--stop-max", "0"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("1 of 1 stops took more than 0 s"),
        "{stderr}"
    );
}
