//! Starts the programs of an experiment on free loopback ports, and stops the programs.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::bus::Bus;
use crate::clock;
use crate::fault::{Fault, Tried};
use crate::http;
use crate::limit::Gateway;
use crate::process::{Family, Process};

const START_US: u64 = 15_000_000;

/// A child process, stopped on drop.
pub(crate) struct Program {
    /// The name in reports.
    pub(crate) name: String,
    /// The listening address.
    pub(crate) addr: SocketAddr,
    child: Child,
    /// The output, shown if the program does not start; kept until the end.
    dir: TempDir,
}

impl Program {
    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process to measure.
    pub(crate) fn process(&self) -> Result<Process, Fault> {
        Process::new(self.pid())
    }

    /// The process with all descendants.
    pub(crate) fn family(&self) -> Result<Family, Fault> {
        Family::of(self.pid())
    }

    /// Sends a signal to the program.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Fault> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        let sent = pid.map_or(Ok(()), |pid| kill_process(pid, signal));
        sent.map_err(std::io::Error::from).tried("kill(2)")
    }

    /// Waits for the end of the program; returns `None` after `wait_us`.
    pub(crate) fn wait(&mut self, wait_us: u64) -> Result<Option<ExitStatus>, Fault> {
        let end = clock::now_us() + wait_us;
        loop {
            let status = self.child.try_wait().tried("wait for a child")?;
            if status.is_some() || clock::now_us() >= end {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until `/ready` returns 200: all subscriptions are confirmed then. A server without such a
    /// page gets a second for the subscriptions.
    fn ready(self) -> Result<Self, Fault> {
        let end = clock::now_us() + START_US;
        loop {
            let answer = http::get(self.addr, "/ready").unwrap_or_default();
            if answer.starts_with("HTTP/1.1 200") {
                return Ok(self);
            }
            if !answer.starts_with("HTTP/1.1 503") {
                std::thread::sleep(Duration::from_secs(1));
                return Ok(self);
            }
            if clock::now_us() > end {
                return Err(Fault::Server(format!(
                    "{}: not ready after 15 s",
                    self.name
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the program accepts connections.
    fn listening(mut self) -> Result<Self, Fault> {
        let end = clock::now_us() + START_US;
        while TcpStream::connect_timeout(&self.addr, Duration::from_millis(200)).is_err() {
            let ended = self.child.try_wait().tried("wait for a child")?;
            if ended.is_some() || clock::now_us() > end {
                let output =
                    std::fs::read_to_string(self.dir.path().join("output")).unwrap_or_default();
                let why =
                    ended.map_or_else(|| "does not listen after 15 s".into(), |s| s.to_string());
                return Err(Fault::Server(format!("{}: {why}\n{output}", self.name)));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(self)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        for _ in 0..60 {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a nats-server with JetStream and a separate store.
pub(crate) fn nats_server() -> Result<Program, Fault> {
    let addr = free_address()?;
    let dir = TempDir::new().tried("temporary directory")?;
    let mut command = Command::new("nats-server");
    command
        .args([
            "-a",
            "127.0.0.1",
            "-p",
            &addr.port().to_string(),
            "-js",
            "-sd",
        ])
        .arg(dir.path());
    let output = File::create(dir.path().join("output")).tried("output file")?;
    let spawned = command.stdin(Stdio::null()).stderr(output).spawn();
    let child = spawned.map_err(|e| not_started(&e, "nats-server", "nats-server"))?;
    Program {
        name: "nats-server".into(),
        addr,
        child,
        dir,
    }
    .listening()
}

/// Starts a redis-server without a store.
fn redis_server() -> Result<Program, Fault> {
    let addr = free_address()?;
    let dir = TempDir::new().tried("temporary directory")?;
    let port = addr.port().to_string();
    let output = File::create(dir.path().join("output")).tried("output file")?;
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port, "--save", ""]);
    let spawned = command
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(output)
        .spawn();
    let child = spawned.map_err(|e| not_started(&e, "redis-server", "redis-server"))?;
    Program {
        name: "redis-server".into(),
        addr,
        child,
        dir,
    }
    .listening()
}

/// Starts nginx with a configuration for `addr` and the foreground. `{dir}` in the configuration
/// becomes a temporary folder for nginx's files.
pub(crate) fn nginx(config: &str, addr: SocketAddr) -> Result<Program, Fault> {
    let dir = TempDir::new().tried("temporary directory")?;
    let config = config.replace("{dir}", &dir.path().display().to_string());
    let file = dir.path().join("nginx.conf");
    std::fs::write(&file, config).tried("nginx.conf")?;
    let output = File::create(dir.path().join("output")).tried("output file")?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir.path()).arg("-c").arg(&file);
    let spawned = command.stdin(Stdio::null()).stderr(output).spawn();
    let child = spawned.map_err(|e| not_started(&e, "nginx", "nginx-light"))?;
    Program {
        name: "nginx".into(),
        addr,
        child,
        dir,
    }
    .listening()
}

fn not_started(error: &std::io::Error, program: &'static str, package: &'static str) -> Fault {
    if error.kind() == std::io::ErrorKind::NotFound {
        Fault::Missing { program, package }
    } else {
        Fault::Server(format!("{program}: {error}"))
    }
}

/// The kinds of bus for a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BusKind {
    /// redis-server
    Redis,
    /// nats-server
    Nats,
}

impl BusKind {
    /// Starts the bus; returns the program and the URL.
    pub(crate) fn start(self) -> Result<(Program, String), Fault> {
        let bus = match self {
            Self::Redis => redis_server()?,
            Self::Nats => nats_server()?,
        };
        let url = match self {
            Self::Redis => redis_url(&bus),
            Self::Nats => nats_url(&bus),
        };
        Ok((bus, url))
    }
}

/// The URL of a NATS server.
pub(crate) fn nats_url(nats: &Program) -> String {
    format!("nats://{}", nats.addr)
}

/// The URL of a Redis server.
fn redis_url(redis: &Program) -> String {
    format!("redis://{}", redis.addr)
}

/// Starts the server under test: a command line for `sh`, with `{port}` and `{nats}` replaced, and
/// the environment variables NATS_URL and GATEWAY_PORT set.
pub(crate) fn server(template: &str, nats: &str) -> Result<Program, Fault> {
    server_at(template, nats, free_address()?)
}

/// Starts the server under test at a given address.
pub(crate) fn server_at(template: &str, nats: &str, addr: SocketAddr) -> Result<Program, Fault> {
    started(
        template,
        &[("{nats}", "NATS_URL", nats)],
        &["GATEWAY_PORT"],
        addr,
    )
}

/// Starts a server of trades or channels on a bus. `{port}` and `{redis}` or `{nats}` are replaced;
/// REDIS_URL or WEIRGATE_BUS and the variables of the gateways' ports are set.
pub(crate) fn server_on(template: &str, bus: BusKind, url: &str) -> Result<Program, Fault> {
    server_on_at(template, bus, url, free_address()?)
}

/// Starts a server of trades or channels on a bus, at a given address.
pub(crate) fn server_on_at(
    template: &str,
    bus: BusKind,
    url: &str,
    addr: SocketAddr,
) -> Result<Program, Fault> {
    let ports = ["WS_PORT", "REDIS_WS_GATEWAY_PORT"];
    let given = match bus {
        BusKind::Redis => ("{redis}", "REDIS_URL", url),
        BusKind::Nats => ("{nats}", "WEIRGATE_BUS", url),
    };
    started(template, &[given], &ports, addr)
}

/// Starts a server. `given`: triples of placeholder in the command, variable, and value.
fn started(
    template: &str,
    given: &[(&str, &str, &str)],
    port_variables: &[&str],
    addr: SocketAddr,
) -> Result<Program, Fault> {
    let port = addr.port().to_string();
    let line = template.replace("{port}", &port);
    let line = given
        .iter()
        .fold(line, |line, (place, _, value)| line.replace(place, value));
    let dir = TempDir::new().tried("temporary directory")?;
    let output = File::create(dir.path().join("output")).tried("output file")?;
    let child = Command::new("sh")
        // exec: the measured process must be the server, not a shell around the server.
        .args(["-c", &format!("exec {line}")])
        .envs(given.iter().map(|(_, variable, value)| (variable, value)))
        .envs(port_variables.iter().map(|name| (name, &port)))
        .stdin(Stdio::null())
        .stdout(output.try_clone().tried("output file")?)
        .stderr(output)
        .spawn()
        .tried("sh")?;
    Program {
        name: template.into(),
        addr,
        child,
        dir,
    }
    .listening()?
    .ready()
}

/// What a limit reads and sends, and how.
pub(crate) struct LimitSettings<'a> {
    pub(crate) bus: Bus,
    /// URL of the bus.
    pub(crate) url: &'a str,
    pub(crate) subject: &'a str,
    pub(crate) gateway: Gateway,
    /// 1 or 2.
    pub(crate) threads: u8,
    /// Joins the frames of a turn.
    pub(crate) batched: bool,
    /// The clients speak TLS; the certificate is in the environment.
    pub(crate) tls: bool,
}

/// Starts a limit: this program with the subcommand `limit`.
pub(crate) fn limit(settings: &LimitSettings<'_>) -> Result<Program, Fault> {
    let (bus, gateway) = (value_name(settings.bus), value_name(settings.gateway));
    let threads = settings.threads.to_string();
    let url_flag = match settings.bus.kind() {
        BusKind::Redis => "--redis",
        BusKind::Nats => "--nats",
    };
    let subject = settings.subject;
    let mut args = vec!["--exit-with-stdin", "--bus", &bus, url_flag, settings.url];
    args.extend([
        "--subject",
        subject,
        "--gateway",
        &gateway,
        "--threads",
        &threads,
    ]);
    args.extend(settings.batched.then_some("--batched"));
    args.extend(settings.tls.then_some("--tls"));
    limit_with(&args, "limit")
}

/// The name of a value on the command line.
fn value_name(value: impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

fn limit_with(args: &[&str], name: &str) -> Result<Program, Fault> {
    let exe = std::env::current_exe().tried("own path")?;
    let mut child = Command::new(exe)
        .arg("limit")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .tried("start the limit")?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out)
            .read_line(&mut line)
            .tried("the limit's first line")?;
    }
    let port = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("port=")?.parse::<u16>().ok());
    let Some(port) = port else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(Fault::Server(format!("the limit did not start: {line:?}")));
    };
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let dir = TempDir::new().tried("temporary directory")?;
    Ok(Program {
        name: name.into(),
        addr,
        child,
        dir,
    })
}

/// A free address, below the range of ports that the kernel gives to connections: a measurement
/// opens thousands of connections, and the port must stay free.
pub(crate) fn free_address() -> Result<SocketAddr, Fault> {
    // The tests of the project have the ports above.
    const PORTS: std::ops::Range<u64> = 17_000..22_000;
    let count = PORTS.end - PORTS.start;
    // Concurrent measurements start the search at different ports.
    let from = clock::now_us() ^ u64::from(std::process::id()) << 20;
    let addr = |step: u64| {
        let port = PORTS.start + from.wrapping_add(step) % count;
        SocketAddr::from((Ipv4Addr::LOCALHOST, port as u16))
    };
    let free = |addr: &SocketAddr| TcpListener::bind(addr).is_ok();
    let found = (0..count).map(addr).find(free);
    found.ok_or_else(|| Fault::Server("no free port between 17,000 and 22,000".into()))
}
