//! Starts the programs of an experiment on free loopback ports, and ends them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::clock;
use crate::fault::{Fault, Tried};
use crate::http;
use crate::process::{Family, Process};

const START_US: u64 = 15_000_000;

/// A child process that ends with this value.
pub(crate) struct Program {
    /// How it is called in reports.
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    child: Child,
    /// Its output, shown when it does not start; kept until it ends.
    dir: TempDir,
}

impl Program {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process to measure.
    pub(crate) fn process(&self) -> Result<Process, Fault> {
        Process::new(self.pid())
    }

    /// The process with those that it started.
    pub(crate) fn family(&self) -> Result<Family, Fault> {
        Family::of(self.pid())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Fault> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        let sent = pid.map_or(Ok(()), |pid| kill_process(pid, signal));
        sent.map_err(std::io::Error::from).tried("kill(2)")
    }

    /// Waits for its end; `None` when it takes longer than `wait_us`.
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

    /// Waits until `/ready` says 200, which is when its subscriptions stand; a server that has no
    /// such page gets a second for them.
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

    /// Waits until it accepts connections.
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

/// A nats-server with JetStream and a store of its own, for as long as the value lives.
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

/// A redis-server without a store, for as long as the value lives.
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

/// nginx with this configuration, which has it listen on `addr` and stay in the foreground. Its
/// files go where it says `{dir}`.
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

/// A bus that a command starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BusKind {
    /// redis-server
    Redis,
    /// nats-server
    Nats,
}

impl BusKind {
    /// The bus, for as long as the value lives, and its URL.
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

/// The server under test: a command line for `sh`, with `{port}` and `{nats}` replaced, and the
/// environment variables NATS_URL and GATEWAY_PORT set.
pub(crate) fn server(template: &str, nats: &str) -> Result<Program, Fault> {
    server_at(template, nats, free_address()?)
}

/// The same at an address of the caller's.
pub(crate) fn server_at(template: &str, nats: &str, addr: SocketAddr) -> Result<Program, Fault> {
    started(
        template,
        &[("{nats}", "NATS_URL", nats)],
        &["GATEWAY_PORT"],
        addr,
    )
}

/// A server of trades or channels on a bus: `{port}`, and `{redis}` or `{nats}`, are replaced, and
/// REDIS_URL or WEIRGATE_BUS and the variables of the gateways' ports are set.
pub(crate) fn server_on(template: &str, bus: BusKind, url: &str) -> Result<Program, Fault> {
    let ports = ["WS_PORT", "REDIS_WS_GATEWAY_PORT"];
    let given = match bus {
        BusKind::Redis => ("{redis}", "REDIS_URL", url),
        BusKind::Nats => ("{nats}", "WEIRGATE_BUS", url),
    };
    started(template, &[given], &ports, free_address()?)
}

/// A server of devices: `{port}` is replaced, and of `given` each place by its value, which its
/// variable has too.
pub(crate) fn server_of_devices(
    template: &str,
    given: &[(&str, &str, &str)],
) -> Result<Program, Fault> {
    started(template, given, &["GATEWAY_PORT"], free_address()?)
}

/// `given`: what stands for a value in the command, the value's variable, and the value.
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
        // exec: the process that is measured must be the server, not a shell around it.
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

/// The raw limit, this program once more.
pub(crate) fn limit(nats: &str, subject: &str, batched: bool) -> Result<Program, Fault> {
    let mut args = vec!["--nats", nats, "--subject", subject, "--exit-with-stdin"];
    args.extend(batched.then_some("--batched"));
    let name = if batched { "limit (batched)" } else { "limit" };
    limit_with(&args, name)
}

/// The raw limit that sends what it reads, and where to write that.
pub(crate) fn limit_on_lines() -> Result<(Program, ChildStdin), Fault> {
    let mut limit = limit_with(&["--lines"], "limit")?;
    let lines = limit.child.stdin.take();
    let lines = lines.ok_or_else(|| Fault::Server("the limit has no standard input".into()))?;
    Ok((limit, lines))
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

/// An address that nobody listens on, and that stays so: it is below the ports that the kernel gives
/// to connections, of which a measurement makes thousands.
pub(crate) fn free_address() -> Result<SocketAddr, Fault> {
    const PORTS: std::ops::Range<u64> = 20_000..32_000;
    let count = PORTS.end - PORTS.start;
    // Measurements that run at the same time begin to look in different places.
    let from = clock::now_us() ^ u64::from(std::process::id()) << 20;
    let addr = |step: u64| {
        let port = PORTS.start + from.wrapping_add(step) % count;
        SocketAddr::from((Ipv4Addr::LOCALHOST, port as u16))
    };
    let free = |addr: &SocketAddr| TcpListener::bind(addr).is_ok();
    let found = (0..count).map(addr).find(free);
    found.ok_or_else(|| Fault::Server("no free port between 20,000 and 32,000".into()))
}
