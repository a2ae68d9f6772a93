//! `--check` beside a real start with the same settings: what ends the start fails the check, with
//! the same words and status; what the start logs as an error or a warning, the check says.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A start says that it listens, or ends, within this time.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a start comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    /// It listens, and logs nothing that is odd.
    Good,
    /// It listens, and logs so many warnings.
    Warns(usize),
    /// It listens, logs an error, and can never work.
    NeverWorks,
    /// It ends with this status.
    Ends(i32),
}
use Outcome::{Ends, Good, NeverWorks, Warns};

/// What is typed, and what comes of it. `DIR` stands for the folder with the files.
type Case = (
    &'static str,
    &'static [(&'static str, &'static str)],
    Outcome,
);

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const AWAY: (&str, &str) = ("REDIS_URL", "redis://127.0.0.1:1");
const NATS: (&str, &str) = ("NATS_URL", "nats://127.0.0.1:1");
const KEY: (&str, &str) = ("JWT_SECRET", SECRET);
const REQUIRED: (&str, &str) = ("REQUIRE_AUTH", "true");
const PUSHES: (&str, &str) = ("INTERNAL_AUTH_TOKEN", SECRET);

const OF_ALL: &[Case] = &[
    ("demo", &[], Good),
    ("demo --port=x", &[], Ends(2)),
    ("demo --log-filter-file=DIR/none", &[], Ends(2)),
    ("demo --log-filter-file=DIR/text", &[], Ends(2)),
    (
        "demo --listen=unix:DIR/a --unix-socket-owner=nobody-here",
        &[],
        Ends(2),
    ),
    (
        "demo --admin-addr=unix:DIR/b --unix-socket-owner=nobody-here",
        &[],
        Ends(2),
    ),
    (
        "demo --port=33333 --admin-addr=127.0.0.1:33333",
        &[],
        Ends(2),
    ),
    (
        "demo --port=33333 --admin-addr=[::]:33333 --reuse-port",
        &[],
        Ends(2),
    ),
    (
        "demo --listen=unix:DIR/f --admin-addr=unix:DIR/f",
        &[],
        Ends(2),
    ),
    ("demo --listen=unix:DIR/c --reuse-port", &[], Warns(1)),
    (
        "demo --listen=unix:DIR/d --connections-per-ip-max=3",
        &[],
        Warns(1),
    ),
    ("demo", &[("WEIRGATE_PROT", "1")], Warns(1)),
    ("events", &[], Warns(1)),
    ("events", &[PUSHES], Good),
    ("events", &[("INTERNAL_AUTH_TOKEN", "short")], Warns(1)),
    (
        "events --lobby-url=https://h --upstream-ca-file=DIR/none",
        &[PUSHES],
        Ends(2),
    ),
    (
        "events --lobby-url=http://h --upstream-ca-file=DIR/none",
        &[PUSHES],
        Good,
    ),
];

const OF_NATS: &[Case] = &[
    ("levels", &[NATS], Good),
    ("levels", &[NATS, ("NATS_CREDS", "DIR/none")], Ends(2)),
    ("levels", &[NATS, ("NATS_CREDS", "DIR/text")], Ends(2)),
    ("levels", &[NATS, ("NATS_NKEY", "DIR/text")], Ends(2)),
    ("levels", &[NATS, ("NATS_CA", "DIR/none")], Ends(2)),
    (
        "levels",
        &[NATS, ("NATS_CERT", "DIR/text"), ("NATS_KEY", "DIR/text")],
        Ends(2),
    ),
    ("levels", &[NATS, ("NATS_CERT", "DIR/text")], Ends(2)),
    ("levels --relay=news.*=news", &[NATS], Ends(2)),
    ("events --events-bus=nats://127.0.0.1:1", &[PUSHES], Good),
    (
        "events --events-bus=nats://127.0.0.1:1 --nats-creds=DIR/none",
        &[PUSHES],
        Ends(2),
    ),
];

const OF_REDIS: &[Case] = &[
    ("channels", &[AWAY], Good),
    ("channels --acl=DIR/none", &[AWAY], Ends(2)),
    ("channels --acl=DIR/text", &[AWAY], Ends(2)),
    ("channels --acl=DIR/list.json", &[AWAY], Ends(2)),
    ("channels --acl=DIR", &[AWAY], Ends(2)),
    ("channels --acl=DIR/user.json", &[AWAY], Ends(2)),
    ("channels --acl=DIR/places.json", &[AWAY], Warns(1)),
    (
        "channels --acl=DIR/places.json",
        &[AWAY, REQUIRED, KEY],
        Good,
    ),
    ("channels", &[AWAY, REQUIRED], NeverWorks),
    ("channels", &[AWAY, REQUIRED, KEY], Good),
    (
        "channels",
        &[AWAY, REQUIRED, ("JWT_SECRET", "short")],
        Warns(1),
    ),
    (
        "channels",
        &[AWAY, REQUIRED, ("GATEWAY_API_KEY", "short")],
        Warns(1),
    ),
    (
        "channels",
        &[AWAY, REQUIRED, KEY, ("DEFAULT_ROLE", "guest")],
        Warns(1),
    ),
    ("channels", &[AWAY, ("DEFAULT_ROLE", "guest")], NeverWorks),
    ("channels --acl=DIR/guest.json", &[AWAY], NeverWorks),
    (
        "channels --acl=DIR/guest.json",
        &[AWAY, ("DEFAULT_ROLE", "guest")],
        Good,
    ),
    (
        "channels",
        &[AWAY, REQUIRED, ("JWT_JWKS_FILE", "DIR/none")],
        Ends(2),
    ),
    (
        "channels",
        &[AWAY, REQUIRED, ("JWT_JWKS_FILE", "DIR/list.json")],
        Ends(2),
    ),
    (
        "channels",
        &[AWAY, REQUIRED, ("JWT_PUBLIC_KEY_FILES", "DIR/private")],
        Ends(2),
    ),
    (
        "channels --redis-ca-file=DIR/none",
        &[("REDIS_URL", "rediss://127.0.0.1:1")],
        Ends(2),
    ),
    (
        "channels --redis-ca-file=DIR/text",
        &[("REDIS_URL", "rediss://127.0.0.1:1")],
        Ends(2),
    ),
    (
        "channels",
        &[("REDIS_SENTINELS", "h:x"), ("REDIS_SENTINEL_MASTER", "m")],
        Ends(2),
    ),
    (
        "channels --redis-sentinels=rediss://h,g --redis-sentinel-master=m",
        &[("REDIS_URL", "rediss://h")],
        Ends(2),
    ),
    (
        "channels --redis-tls-name=h",
        &[("REDIS_URL", "redis://127.0.0.1:1")],
        Ends(2),
    ),
    ("trades", &[], Ends(2)),
    ("trades", &[AWAY], Good),
    ("trades", &[AWAY, REQUIRED], NeverWorks),
    (
        "trades",
        &[AWAY, REQUIRED, ("JWT_SECRET", "short")],
        Warns(1),
    ),
    ("trades", &[AWAY, ("JWT_JWKS_FILE", "DIR/text")], Ends(2)),
    ("events --events-bus=redis://127.0.0.1:1", &[PUSHES], Good),
    (
        "events --events-bus=rediss://h --redis-sentinels=h --redis-sentinel-master=m",
        &[PUSHES],
        Ends(2),
    ),
    (
        "events --events-bus=rediss://h --redis-ca-file=DIR/none",
        &[PUSHES],
        Ends(2),
    ),
];

fn write_files(folder: &Path) {
    for (name, text) in [
        ("text", "nothing of use\n"),
        ("list.json", r#"{"guest": "a"}"#),
        ("guest.json", r#"{"guest": ["a"]}"#),
        ("user.json", r#"{"user": ["a:{user}"]}"#),
        ("places.json", r#"{"user": ["a:{sub}"]}"#),
        ("private", "-----BEGIN PRIVATE KEY-----\n"),
    ] {
        fs::write(folder.join(name), text).expect("written");
    }
}

/// The program with what was typed, and nothing else in its environment.
fn command(case: &Case, folder: &Path) -> Command {
    let folder = folder.to_str().expect("text");
    let mut command = Command::new(env!("CARGO_BIN_EXE_weirgate"));
    let in_folder = |text: &str| text.replace("DIR", folder);
    command.args(case.0.split(' ').map(in_folder));
    if !case.0.contains("--listen") {
        command.arg("--listen=127.0.0.1");
    }
    if !case.0.contains("--port") {
        command.arg("--port=0");
    }
    let env = case.1.iter().map(|&(name, value)| (name, in_folder(value)));
    command.env_clear().envs(env).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Kills the process at the end of its test.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The status and the words of a start that ended, or the lines of one that listens.
fn start(case: &Case, folder: &Path) -> Result<Vec<String>, (i32, String)> {
    let mut started = Started(command(case, folder).spawn().expect("the binary runs"));
    let stdout = started.0.stdout.take().expect("piped");
    let mut stderr = started.0.stderr.take().expect("piped");
    let lines = lines_of(stdout);
    let mut seen = Vec::new();
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) if line.contains("WebSocket: ") => return Ok(seen),
            Ok(line) => seen.push(line),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("{case:?}: {seen:?}"),
            Err(_) => break,
        }
    }
    let mut text = String::new();
    stderr.read_to_string(&mut text).expect("text");
    let status = started.0.wait().expect("it ended").code();
    Err((status.expect("by itself"), text))
}

fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// The lines of this level that the start logs before it listens. What a thread of a bus logs is not
/// of the settings.
fn logged<'a>(lines: &'a [String], level: &'a str) -> Vec<&'a String> {
    let of_level = move |line: &&String| line.contains(level) && !line.contains("weirgate_bus::");
    lines.iter().filter(of_level).collect()
}

/// The outcome of the start, after a comparison with the check.
fn compare(case: &Case, folder: &Path) -> Outcome {
    let mut check = command(case, folder);
    let json = check.args(["--check", "--format=json"]).output();
    let json = json.expect("the binary runs");
    let told: Value = serde_json::from_slice(&json.stdout)
        .unwrap_or_else(|error| panic!("{case:?}: {error}: {json:?}"));
    let texts = |name: &str| -> Vec<String> {
        let texts = told[name].as_array().expect("a list").iter();
        texts
            .map(|text| text.as_str().expect("text").to_owned())
            .collect()
    };
    let status = json.status.code().expect("by itself");
    assert_eq!(told["status"], status, "{case:?}");
    let plain = command(case, folder).arg("--check").output();
    let plain = plain.expect("the binary runs");
    assert_eq!(plain.status.code(), Some(status), "{case:?}");
    let (errors, warnings) = (texts("errors"), texts("warnings"));
    match start(case, folder) {
        Err((ended, words)) => {
            let all: String = errors
                .iter()
                .map(|error| format!("error: {error}\n"))
                .collect();
            assert_eq!((status, all), (ended, words.clone()), "{case:?}");
            assert_eq!(String::from_utf8_lossy(&plain.stderr), words, "{case:?}");
            assert!(plain.stdout.is_empty(), "{case:?}");
            Ends(ended)
        }
        Ok(lines) => {
            for (level, told) in [(" ERROR ", &errors), (" WARN ", &warnings)] {
                let logged = logged(&lines, level);
                assert_eq!(logged.len(), told.len(), "{case:?}: {lines:?} {told:?}");
                for (line, text) in logged.iter().zip(told) {
                    let message = text.split(" (").next().expect("a message");
                    assert!(line.contains(message), "{case:?}: {line} {text}");
                }
            }
            assert_eq!(status, if errors.is_empty() { 0 } else { 2 }, "{case:?}");
            match (errors.len(), warnings.len()) {
                (0, 0) => Good,
                (0, number) => Warns(number),
                _ => NeverWorks,
            }
        }
    }
}

#[test]
fn a_check_says_what_a_start_with_the_same_settings_does() {
    let folder = tempfile::tempdir().expect("a folder");
    write_files(folder.path());
    for case in OF_ALL.iter().chain(OF_NATS).chain(OF_REDIS) {
        assert_eq!(compare(case, folder.path()), case.2, "{case:?}");
    }
}

#[test]
fn what_a_check_names_is_the_setting_and_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    write_files(folder.path());
    let said = |case: Case| {
        let output = command(&case, folder.path()).arg("--check").output();
        String::from_utf8(output.expect("the binary runs").stderr).expect("text")
    };
    let none = folder.path().join("none").display().to_string();
    for (case, setting) in [
        (("channels --acl=DIR/none", &[AWAY][..], Ends(2)), "--acl"),
        (
            ("levels --nats-creds=DIR/none", &[], Ends(2)),
            "--nats-creds",
        ),
        (("levels --nats-nkey=DIR/none", &[], Ends(2)), "--nats-nkey"),
        (("levels --nats-ca=DIR/none", &[], Ends(2)), "--nats-ca"),
    ] {
        let text = said(case);
        assert!(text.contains(setting) && text.contains(&none), "{text}");
    }
}

#[test]
fn a_check_with_connect_finds_an_address_that_is_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port();
    let socket = folder.path().join("a.sock");
    let listening = UnixListener::bind(&socket).expect("bound");
    let check = |listen: &str, more: &str| {
        let args = ["demo", "--check", "--connect", listen, more];
        let mut command = Command::new(env!("CARGO_BIN_EXE_weirgate"));
        let output = command.args(args).env_clear().output().expect("it runs");
        let text = [output.stdout, output.stderr].map(|t| String::from_utf8(t).expect("text"));
        (output.status.code(), text.concat())
    };
    let (status, text) = check("--listen=127.0.0.1", &format!("--port={port}"));
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("Address already in use"), "{text}");
    let unix = format!("--listen=unix:{}", socket.display());
    let (status, text) = check(&unix, "--all");
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("another process listens there"), "{text}");
    drop(listening);
    // A child of another test has the descriptor too, until it runs its program.
    let deadline = Instant::now() + PATIENCE;
    while UnixStream::connect(&socket).is_ok() {
        assert!(Instant::now() < deadline, "somebody listens still");
        thread::sleep(Duration::from_millis(5));
    }
    let (status, text) = check(&unix, "--all");
    assert_eq!(status, Some(0), "{text}");
    assert!(!socket.exists(), "nothing is left behind");
    let admin = format!("--admin-addr=0.0.0.0:{port}");
    drop(taken);
    let (status, text) = check(&admin, &format!("--port={port}"));
    assert_eq!(status, Some(2), "two listeners on one port: {text}");
}
