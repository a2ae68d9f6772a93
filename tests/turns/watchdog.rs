//! A loop that hangs ends its process, and a process that stood still goes on. Each case is a process of its own: this test
//! program, started again for one test with the environment of [`CHILD`].

use std::convert::Infallible;
use std::env;
use std::hint;
use std::io::{BufRead, BufReader, Read as _};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use weirgate::gateways::NoFeed;
use weirgate_core::{Accepted, Admission, ByClient, Core, Frame, Gateway, Incoming, SessionKey};
use weirgate_server::listening::ListenAddr;
use weirgate_server::run::{CommonSettings, Parts, Prepared};
use weirgate_server::settings::Checked;
use weirgate_wire::RequestHead;

use crate::Client;

/// Milliseconds after which a turn ends the child.
const CHILD: &str = "WATCHDOG_TURN_MAX_MS";

const TURN_MAX: Duration = Duration::from_secs(3);
const FOREVER: Duration = Duration::from_secs(3_600);
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
const SIGABRT: i32 = 6;

/// Does what a message says, and echoes it then.
struct Hangs;

impl Gateway for Hangs {
    type Client = ();
    type In = Infallible;
    type Out = Infallible;

    fn admit(&mut self, _: &mut Core, _: SessionKey, _: &RequestHead<'_>) -> Admission<()> {
        Admission::Accept(Accepted::default(), ())
    }

    fn handle_message(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        (): &mut (),
        message: Incoming<'_>,
    ) {
        let Incoming::Text(text) = message else {
            return;
        };
        match text {
            "spin" => work(FOREVER),
            "sleep" => thread::sleep(FOREVER),
            "work" => work(TURN_MAX / 2),
            _ => {}
        }
        let echo = Frame::text(core.frame_bytes()).answer();
        core.send(key, &echo.body(text.as_bytes()).finish());
    }

    fn handle_input(&mut self, _: &mut Core, _: &mut ByClient<()>, never: Infallible) {
        match never {}
    }
}

/// Uses so much CPU time.
fn work(cpu: Duration) {
    let used = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("proc(5)");
        let ns = text.split(' ').next().expect("the time on a CPU");
        Duration::from_nanos(ns.parse().expect("a number"))
    };
    let until = used() + cpu;
    while used() < until {
        (0..100_000).for_each(|_| hint::spin_loop());
    }
}

/// The process of the other tests: by itself it does nothing.
#[test]
fn the_process_that_hangs() {
    if env::var_os(CHILD).is_none() {
        return;
    }
    let ended = Prepared::start("hangs", &Checked::defaults(), |checked, clock| {
        let mut common = CommonSettings::new(checked);
        common.reactor.listen.addrs = vec![ListenAddr::Tcp(([127, 0, 0, 1], 0).into())];
        common.reactor.stop_timeout_us = STOP_TIMEOUT.as_micros() as u64;
        let turn_max_ms = env::var(CHILD).expect("it is set");
        let turn_max = Duration::from_millis(turn_max_ms.parse().expect("milliseconds"));
        Parts::new("hangs", common, NoFeed::default(), Hangs)
            .turn_max(turn_max)
            .prepare(clock, |listening| {
                println!("listening on {:?}", listening.addrs[0]);
            })
    });
    ended.expect("the loop runs");
}

struct Process {
    child: Child,
    out: BufReader<ChildStdout>,
    addr: SocketAddr,
}

impl Process {
    fn start(turn_max: Duration) -> Self {
        let mut child = Command::new(env::current_exe().expect("this program"))
            .args([
                "--exact",
                "turns::watchdog::the_process_that_hangs",
                "--nocapture",
            ])
            .env(CHILD, turn_max.as_millis().to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        while !line.contains("listening on Tcp(") {
            line.clear();
            assert!(out.read_line(&mut line).expect("text") > 0, "it ended");
        }
        let (_, addr) = line.trim().rsplit_once('(').expect("an address");
        let addr = addr.trim_end_matches(')').parse().expect("an address");
        Self { child, out, addr }
    }

    fn send(&self, text: &str) -> Client {
        let mut client = Client::connect(self.addr);
        let timeout = client.0.set_read_timeout(Some(FOREVER / 60));
        timeout.expect("a socket");
        client.send(text);
        client
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.expect("kill(1)").success());
    }

    /// How the process ended within `most`, and what it wrote; `None` while it lives.
    fn ended_within(&mut self, most: Duration) -> Option<(ExitStatus, String)> {
        let until = Instant::now() + most;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().expect("a child") {
                let mut text = String::new();
                self.out.read_to_string(&mut text).expect("text");
                let mut errors = self.child.stderr.take().expect("a pipe");
                errors.read_to_string(&mut text).expect("text");
                return Some((status, text));
            }
            thread::sleep(Duration::from_millis(20));
        }
        None
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_turn_that_never_ends_ends_the_process() {
    for how in ["spin", "sleep"] {
        let mut process = Process::start(TURN_MAX);
        assert_eq!(process.send("hello").text(), "hello");
        assert!(
            process.ended_within(TURN_MAX).is_none(),
            "an idle loop is no hang"
        );
        let _client = process.send(how);
        let (status, text) = process.ended_within(FOREVER / 60).expect("it ends");
        assert_eq!(status.signal(), Some(SIGABRT), "{how}: {text}");
        assert!(
            text.contains("the loop hangs") && text.contains("phase=Costly"),
            "{text}"
        );
    }
}

#[test]
fn a_process_that_stood_still_is_no_hang() {
    let mut process = Process::start(TURN_MAX);
    for _ in 0..3 {
        process.signal("STOP");
        thread::sleep(TURN_MAX + Duration::from_secs(1));
        process.signal("CONT");
        assert!(process.ended_within(Duration::from_secs(1)).is_none());
    }
    assert_eq!(process.send("hello").text(), "hello");
}

/// As with a used-up quota of the CPU: the process runs for a small part of the time, and a turn takes long on the clock.
#[test]
fn a_starved_process_is_no_hang() {
    let mut process = Process::start(TURN_MAX);
    let mut client = process.send("work");
    let began = Instant::now();
    while began.elapsed() < TURN_MAX * 3 {
        process.signal("STOP");
        thread::sleep(Duration::from_millis(90));
        process.signal("CONT");
        thread::sleep(Duration::from_millis(5));
    }
    assert!(process.ended_within(Duration::ZERO).is_none());
    assert!(process.child.try_wait().expect("a child").is_none());
    assert_eq!(client.text(), "work");
}

#[test]
fn a_stop_does_not_need_a_loop_that_turns() {
    for signals in [1, 2] {
        let mut process = Process::start(FOREVER);
        let _client = process.send("sleep");
        // The loop has taken the message.
        thread::sleep(Duration::from_millis(500));
        process.signal("TERM");
        if signals == 2 {
            thread::sleep(Duration::from_millis(100));
            process.signal("TERM");
        } else {
            assert!(
                process.ended_within(STOP_TIMEOUT / 2).is_none(),
                "the loop has its time"
            );
        }
        let (status, text) = process.ended_within(FOREVER / 60).expect("it ends");
        assert_eq!(status.code(), Some(1), "{text}");
        assert!(text.contains("does not take the stop signal"), "{text}");
    }
    let mut process = Process::start(TURN_MAX);
    assert_eq!(process.send("hello").text(), "hello");
    process.signal("TERM");
    let (status, text) = process.ended_within(FOREVER / 60).expect("it ends");
    assert!(status.success(), "{text}");
}
