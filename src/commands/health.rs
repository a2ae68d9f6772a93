//! `weirgate health`: one `GET /health`, for a container without another HTTP client.
//!
//! A small blocking client in a process of its own. Called by `commands`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command};
use rustls::{ClientConnection, StreamOwned};

use super::args::{For, arg};
use super::link::{Stream, TimedSocket, host_of, left};
use super::program::Exit;
use crate::commands::{GatewayKind, Program};
use weirgate_server::flag;
use weirgate_server::listening::{ListenAddr, client_config_trusting};
use weirgate_server::settings::Env;
use weirgate_server::settings::{Checked, ListenSettings, Rows, Setting};

/// No more of the response is read than this; its status line is much shorter.
const ANSWER_BYTES_MAX: usize = 1024;

/// The PROXY protocol header of a connection that the proxy opens for itself.
const OWN_HEADER: &[u8] = b"PROXY UNKNOWN\r\n";

/// Shown in place of the response if the gateway asks its clients for certificates.
const ASKS: &str = "HTTP/1.1 200 OK, for clients with a certificate";

/// The settings of `weirgate health` from the checked gateway.
const TAKES: [&str; 8] = [
    flag!("listen"),
    flag!("port"),
    flag!("tls-port"),
    flag!("tls-cert"),
    flag!("tls-key"),
    flag!("tls-client-ca"),
    flag!("trusted-proxies"),
    flag!("proxy-protocol"),
];

/// Time limit for the response.
const TIMEOUT_MS: u64 = 2_000;

/// The addresses to ask, and the time limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HealthCheck {
    addrs: Vec<ListenAddr>,
    /// The file with the gateway's certificate, if the addresses are for TLS. An address of another machine must show
    /// this certificate.
    certificate: Option<PathBuf>,
    /// The addresses where a connection must begin with a PROXY protocol header.
    with_header: Vec<ListenAddr>,
    timeout_ms: u64,
}

/// The rows of `weirgate health`, for this gateway; `None`: those that every gateway has.
fn rows(gateway: Option<&GatewayKind>) -> Vec<Setting> {
    let rows = gateway.map_or(Rows::EVERY, |kind| kind.rows).settings();
    rows.into_iter()
        .filter(|s| TAKES.contains(&s.flag))
        .collect()
}

/// The subcommand.
pub(super) fn command(program: &Program, made_for: For) -> Command {
    let names = program.names(", ");
    let first = program.gateways.first();
    let default = first.map_or("", |kind| kind.name);
    let which = Arg::new("gateway").value_name("GATEWAY").help(format!(
        "The gateway that runs: {names} [env: {}] [default: {default}]",
        Env::GATEWAY
    ));
    let which = match made_for {
        For::Completions => which.value_parser(PossibleValuesParser::new(
            program.gateways.iter().map(|kind| kind.name),
        )),
        _ => which,
    };
    Command::new("health")
        .about("Check /health of a running gateway: exit status 0 for 200, otherwise 1")
        .after_help(
            "Reads the address and the port as the gateway does, from the same env. Without arguments in a container, it also \
             reads the arguments of the gateway that is the container's first process.",
        )
        .args_override_self(true)
        .arg(which)
        .args(rows(first).iter().map(|row| arg(row, made_for)))
}

/// Reads the arguments of `weirgate health`.
///
/// # Errors
/// The error in the arguments or in the environment, for the user.
pub(super) fn read(
    program: &'static Program,
    matches: &ArgMatches,
    env: &Env,
) -> Result<HealthCheck, Exit> {
    if !matches.args_present()
        && let Ok(arguments) = fs::read("/proc/1/cmdline")
        && let Some(check) = of_first_process(program, &arguments, env)
    {
        return Ok(check);
    }
    let gateway = match matches.get_one::<String>("gateway") {
        Some(name) => program.named_gateway("GATEWAY", name).map(Some),
        None => program.env_gateway(env),
    };
    // 1, not 2: see [`Exit::status`].
    let gateway = gateway.map_err(|error| Exit::settings(&[error], 1))?;
    let rows = rows(gateway.or_else(|| program.gateways.first()));
    // Without the gateway's own check of its settings, and without warnings: the gateway's log has the results of both.
    let checked = program.checked(rows, matches, env, |_| Vec::new());
    let checked = checked.map_err(|errors| Exit::settings(&errors, 1))?;
    Ok(HealthCheck::of(&checked))
}

/// The check of the gateway that a container's first process runs with these arguments, each ended by a zero byte: the health
/// check of an image is the same for every command. `None` if the process runs no gateway. It may be an init that starts
/// one, as with `docker run --init`.
pub(crate) fn of_first_process(
    program: &'static Program,
    arguments: &[u8],
    env: &Env,
) -> Option<HealthCheck> {
    let arguments = arguments.strip_suffix(b"\0")?;
    let all = arguments.split(|&byte| byte == 0);
    let all = all.map(|arg| OsStr::from_bytes(arg).to_owned());
    let is_other = |arg: &OsString| Path::new(arg).file_name() != Some(OsStr::new(program.name));
    let (gateway, matches) = program.gateway_of(all.skip_while(is_other).collect(), env)?;
    let checked = program.checked(rows(Some(gateway)), &matches, env, |_| Vec::new());
    Some(HealthCheck::of(&checked.ok()?))
}

impl HealthCheck {
    /// A check of a gateway with these settings. It uses TLS only if the gateway has no address without TLS.
    pub(crate) fn of(checked: &Checked) -> Self {
        let listen: ListenSettings = checked.get();
        let mut check = Self::new(&listen.addrs(), TIMEOUT_MS);
        if check.addrs.is_empty() {
            check = Self::new(&listen.tls_addrs(), TIMEOUT_MS);
            check.certificate = checked.first_certificate();
        }
        check.with_header.clone_from(&check.addrs);
        let begins_with_header = |addr: &ListenAddr| checked.begins_with_header(addr);
        check.with_header.retain(begins_with_header);
        check
    }

    /// A check of a gateway that listens on `listen`; an unspecified address is replaced by loopback. `timeout_ms`
    /// limits the whole check.
    pub(crate) fn new(listen: &[ListenAddr], timeout_ms: u64) -> Self {
        Self {
            addrs: listen.iter().flat_map(ListenAddr::to_connect).collect(),
            certificate: None,
            with_header: Vec::new(),
            timeout_ms,
        }
    }

    /// Asks the addresses one after the other, until a response is 200.
    ///
    /// # Errors
    /// No response was 200: the last error, in words.
    pub(crate) fn run(&self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_millis(self.timeout_ms);
        let scheme = if self.certificate.is_some() {
            "https"
        } else {
            "http"
        };
        let mut result = Ok(());
        for addr in &self.addrs {
            result = match self.ask(addr, deadline) {
                Ok(answer) if is_200(&answer) => return Ok(()),
                Ok(answer) => Err(format!("{scheme}://{addr}/health answered: {answer}")),
                Err(error) => Err(format!("no answer from {scheme}://{addr}/health: {error}")),
            };
        }
        result
    }

    /// Returns the status line of the response.
    fn ask(&self, addr: &ListenAddr, deadline: Instant) -> io::Result<String> {
        let mut socket = TimedSocket::new(addr.connect(left(deadline)?)?, deadline);
        let host = host_of(Some(addr));
        if self.with_header.contains(addr) {
            socket.write_all(OWN_HEADER)?;
        }
        match (&self.certificate, addr) {
            (Some(file), ListenAddr::Tcp(tcp)) => over_tls(file, *tcp, socket, &host),
            _ => exchange(Stream::Plain(socket), &host),
        }
    }
}

/// Asks over TLS. A gateway is alive even if its certificate files have changed since the start, so at an address of
/// this machine any certificate is accepted. If the gateway asks clients for a certificate, the page cannot be fetched;
/// the handshake alone then shows that the loop and its thread are alive.
fn over_tls(
    file: &Path,
    addr: SocketAddr,
    mut socket: TimedSocket,
    host: &str,
) -> io::Result<String> {
    // Becomes true if the gateway asks for a certificate.
    let asked = Arc::default();
    let file = (!is_here(&socket, addr)).then_some(file);
    let config = client_config_trusting(file, &asked);
    let config = Arc::new(config.map_err(io::Error::other)?);
    let session = ClientConnection::new(config, addr.ip().into());
    let mut session = session.map_err(io::Error::other)?;
    while session.is_handshaking() {
        let moved = session.complete_io(&mut socket);
        // In TLS 1.2 the server ends the handshake of a client without a certificate.
        if AtomicBool::load(&asked, Relaxed) {
            return Ok(ASKS.to_owned());
        }
        moved?;
    }
    let stream = Stream::Tls(Box::new(StreamOwned::new(session, socket)));
    exchange(stream, host)
}

/// Whether the other end is this machine: the kernel has then given both ends the same address.
fn is_here(socket: &TimedSocket, addr: SocketAddr) -> bool {
    let own = socket
        .local_addr()
        .ok()
        .and_then(|own| own.as_socket())
        .map(|own| own.ip());
    addr.ip().to_canonical().is_loopback() || own == Some(addr.ip())
}

/// Asks, and returns the status line of the response.
fn exchange(stream: Stream, host: &str) -> io::Result<String> {
    let request = format!("GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let is_whole = |answer: &[u8]| answer.contains(&b'\n');
    let answer = stream.ask(&request, ANSWER_BYTES_MAX, is_whole)?;
    let line = answer.split(|&b| b == b'\n').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).trim_end().to_owned())
}

fn is_200(status_line: &str) -> bool {
    let mut words = status_line.split(' ');
    words.next().is_some_and(|v| v.starts_with("HTTP/1.")) && words.next() == Some("200")
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{SocketAddr, TcpListener};
    use std::thread;

    use super::*;

    /// Runs a check against a server that reads the request and then sends `parts` one by one.
    fn answered(parts: &'static [&'static str], timeout_ms: u64) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let check = HealthCheck::new(&[listener.local_addr().unwrap().into()], timeout_ms);
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                request.push(byte[0]);
            }
            for part in parts {
                stream.write_all(part.as_bytes()).unwrap();
                thread::sleep(Duration::from_millis(5));
            }
            if parts.is_empty() {
                // Silent until the client has given up.
                let _ = stream.read(&mut byte);
            }
            String::from_utf8(request).unwrap()
        });
        let result = check.run();
        let request = server.join().unwrap();
        assert!(request.starts_with("GET /health HTTP/1.1\r\nHost: 127.0.0.1:"));
        result
    }

    #[test]
    fn only_200_is_healthy() {
        assert!(answered(&["HTTP/1.1 200 OK\r\n\r\n{}"], 5000).is_ok());
        assert!(answered(&["HTTP/1", ".1 20", "0 OK\r\n"], 5000).is_ok());
        for answer in [
            &["HTTP/1.1 503 Service Unavailable\r\n\r\n"],
            &["HTTP/1.1 2000 OK\r\n\r\n"],
            &["hello\n"],
        ] {
            let error = answered(answer, 5000).unwrap_err();
            assert!(error.contains("/health answered: "), "{error}");
        }
    }

    #[test]
    fn silence_and_a_closed_port_end_in_time() {
        let started = Instant::now();
        let error = answered(&[], 50).unwrap_err();
        assert!(error.starts_with("no answer from http://"), "{error}");
        // Nobody listens there.
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        let error = HealthCheck::new(&[addr.into()], 1000).run().unwrap_err();
        assert!(error.contains("/health"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_unix_socket_is_asked_too_and_one_answer_is_enough() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 512];
            let n = stream.read(&mut head).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            String::from_utf8_lossy(&head[..n]).into_owned()
        });
        let nobody = ListenAddr::Unix(folder.path().join("nobody"));
        let both = [nobody.clone(), ListenAddr::Unix(path)];
        assert!(HealthCheck::new(&both, 5000).run().is_ok());
        assert!(server.join().unwrap().contains("Host: localhost\r\n"));
        let error = HealthCheck::new(&[nobody], 5000).run().unwrap_err();
        assert!(error.contains("http://unix:/"), "{error}");
    }
}
