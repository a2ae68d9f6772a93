//! A gateway from outside (`examples/ticker.rs`) as a program: its settings, its page, its clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tungstenite::{Message, WebSocket};

/// The example, which a whole `cargo test` builds; alone: `cargo build --example ticker` before.
fn ticker() -> Command {
    let test = std::env::current_exe().expect("the test's own path");
    // target/PROFILE/deps/ticker-HASH
    let profile = test.ancestors().nth(2).expect("a profile");
    let example = profile.join("examples/ticker");
    assert!(example.exists(), "not built: cargo build --example ticker");
    let mut command = Command::new(example);
    command.env_clear().stdin(Stdio::null());
    command
}

fn shown(args: &[&str]) -> Output {
    ticker().args(args).output().expect("the example runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A ticker that runs, killed when dropped.
struct Running {
    child: Child,
    addr: String,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        let mut command = ticker();
        command
            .args(["--listen", "127.0.0.1", "--port", "0"])
            .args(args);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let said = BufReader::new(child.stdout.take().expect("its output"));
        // Log lines come before it.
        let addr = said.lines().map_while(Result::ok).find_map(|line| {
            let url = line.strip_prefix("ticker on ws://")?;
            url.strip_suffix("/ws").map(str::to_owned)
        });
        let addr = addr.expect("a line with the address");
        Self { child, addr }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.addr).expect("it listens");
        let patience = Some(Duration::from_secs(30));
        stream.set_read_timeout(patience).expect("a timeout");
        stream
    }

    fn subscriber(&self) -> WebSocket<TcpStream> {
        let url = format!("ws://{}/ws", self.addr);
        let (mut client, _) = tungstenite::client(url, self.connect()).expect("upgraded");
        client.send(Message::text("subscribe")).expect("sent");
        client
    }

    fn get(&self, path: &str) -> String {
        let mut stream = self.connect();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    fn stop(mut self) -> Option<i32> {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        let kill = Command::new("kill").arg(pid.to_string()).status();
        assert!(kill.expect("kill").success());
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number of the next tick.
fn tick(client: &mut WebSocket<TcpStream>) -> u64 {
    let message = client.read().expect("a message");
    let text = message.to_text().expect("text");
    let number = text
        .strip_prefix(r#"{"tick":"#)
        .and_then(|t| t.strip_suffix('}'));
    number
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("{text}"))
}

#[test]
fn whoever_subscribes_gets_every_tick_from_the_newest_on() {
    let running = Running::start(&["--tick-interval-ms", "10"]);
    let mut first = running.subscriber();
    let from = tick(&mut first);
    for n in 1..=20 {
        assert_eq!(tick(&mut first), from + n);
    }
    let mut late = running.subscriber();
    assert!(
        tick(&mut late) >= from + 20,
        "the retained frame is the newest"
    );

    let health = running.get("/health");
    assert!(
        health.starts_with("HTTP/1.1 200") && health.ends_with(r#"{"clients":2}"#),
        "{health}"
    );
    assert!(
        running
            .get("/ready")
            .ends_with(r#"{"ready":true,"reasons":[]}"#)
    );
    let metrics = running.get("/metrics");
    assert!(metrics.contains("weirgate_clients 2"), "{metrics}");
    assert!(metrics.contains(r#"gateway="ticker""#), "{metrics}");

    let port = running.addr.rsplit(':').next().expect("a port");
    let asked = shown(&["health", "--listen", "127.0.0.1", "--port", port]);
    assert!(asked.status.success(), "{}", text(&asked.stderr));
    drop((first, late));
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn its_own_setting_is_one_among_the_others() {
    let help = text(&shown(&["--help"]).stdout);
    for part in [
        "Ticks:\n",
        "--tick-interval-ms <MS>",
        "[default: 250]",
        "--listen <ADDR|unix:PATH>",
    ] {
        assert!(help.contains(part), "{part}: {help}");
    }
    assert!(!help.contains("nats"), "{help}");
    let checked = ticker()
        .arg("--check")
        .env("WEIRGATE_TICK_INTERVAL_MS", "7")
        .output();
    let checked = text(&checked.expect("it runs").stdout);
    assert!(
        checked.starts_with("ticker: the settings are good\n"),
        "{checked}"
    );
    let line = checked
        .lines()
        .find(|line| line.contains("--tick-interval-ms"));
    let line = line.unwrap_or_default();
    assert!(
        line.ends_with("env WEIRGATE_TICK_INTERVAL_MS") && line.contains(" 7 "),
        "{checked}"
    );
    let refused = shown(&["--tick-interval-ms", "0"]);
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(
        text(&refused.stderr),
        "error: --tick-interval-ms is \"0\"; allowed: a whole number from 1 to 60000\n"
    );
}
