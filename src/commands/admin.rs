//! The admin addresses of running gateways, for `weirgate top` and `weirgate disconnect`: the arguments that name them, and
//! requests to them. Blocking, in the process of the command.

use super::admin_http::{AdminRequest, NoResponse};
use super::args::{For, arg, value};
use super::link::{LinkError, Target, is_timeout};
use super::program::{Exit, hide_secret};
use crate::commands::Program;
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use hyper::header::HeaderValue;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use weirgate_server::flag;
use weirgate_server::settings::Env;
use weirgate_server::settings::{ListenSettings, Rows, SecretText, Setting};
use weirgate_wire::json::Json;

const ADMIN_ADDR: &str = flag!("admin-addr");
/// The settings of a gateway that these commands have too.
const GATEWAY_SETTINGS: [&str; 2] = [ADMIN_ADDR, flag!("admin-token")];
/// The most addresses: there is a thread for each.
const TARGETS_MAX: usize = 32;
/// The time limit for a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The status and the body of a response, or the reason for no response.
type Answered = Result<(u16, Vec<u8>), String>;

/// The addresses on a command line, and the login for a proxy in front of them.
#[derive(Clone, Debug)]
pub(super) struct AdminAddresses {
    pub(super) targets: Vec<Target>,
    /// The authorities for `https://`; `None` for the system's authorities.
    ca_file: Option<PathBuf>,
    authorization: Option<SecretText>,
}

/// The settings of these commands: two of the gateway, with a help of their own, and those of `top`.
fn rows() -> Vec<Setting> {
    let of_gateway = Rows::EVERY.settings().into_iter();
    let taken = of_gateway.filter(|row| GATEWAY_SETTINGS.contains(&row.flag));
    let taken = taken.map(|row| {
        let help = match row.flag {
            ADMIN_ADDR => "Address of a gateway of this machine, if no URL is given",
            _ => "Token of the admin address, unless --authorization is given",
        };
        let row = row.help(help);
        row.more("Read as the gateway reads it, from the same env.")
    });
    taken.chain(Rows::TOP.settings()).collect()
}

/// The arguments that name the addresses.
pub(super) fn args(made_for: For) -> impl Iterator<Item = Arg> {
    let urls = Arg::new("target")
        .value_name("URL")
        .action(ArgAction::Append)
        .num_args(0..)
        .help("Admin addresses: http://HOST:PORT, HOST:PORT or unix:PATH");
    let authorities =
        "PEM file with the certificates to trust for https:// [default: the system's]";
    let authorities = value("ca-file", "FILE", authorities).value_parser(value_parser!(PathBuf));
    let rows: Vec<Arg> = rows().iter().map(|row| arg(row, made_for)).collect();
    [urls, authorities].into_iter().chain(rows)
}

impl AdminAddresses {
    /// Reads the addresses, and adds `path` to each. `words` is the command as it is typed, for its errors.
    ///
    /// # Errors
    /// The error in the arguments, for the user.
    pub(super) fn read(
        program: &Program,
        matches: &ArgMatches,
        env: &Env,
        words: &str,
        path: &str,
    ) -> Result<Self, Exit> {
        // No gateway starts, so there is no check of its own.
        let checked = program.checked(rows(), matches, env, |_| Vec::new());
        let checked = checked.map_err(|errors| Exit::settings(&errors, 2))?;
        let typed = matches.get_many::<String>("target").unwrap_or_default();
        let parsed: Result<Vec<Target>, String> =
            typed.map(|text| Target::admin(text, path)).collect();
        let mut targets = parsed?;
        if targets.is_empty() {
            let admin_addr = checked.get::<ListenSettings>().admin_addr;
            targets.extend(admin_addr.map(|addr| Target::admin_here(addr, path)));
        }
        let bearer = |token: SecretText| SecretText::new(&format!("Bearer {}", token.expose()));
        let token = checked.get::<ListenSettings>().admin_token.map(bearer);
        let authorization = checked.top_authorization().or(token);
        let is_header = |text: &SecretText| HeaderValue::from_str(&text.expose()).is_ok();
        if !authorization.as_ref().is_none_or(is_header) {
            return Err(Exit::wrong_use(
                "--authorization is not a value of a header",
            ));
        }
        let name = program.name;
        match targets.len() {
            0 => Err(Exit::from(format!(
                "no address to ask: start the gateway with --admin-addr 127.0.0.1:9100, then use \
                 {name} {words} 127.0.0.1:9100"
            ))),
            n if n > TARGETS_MAX => {
                Err(format!("{n} addresses; allowed: at most {TARGETS_MAX}").into())
            }
            _ => Ok(Self {
                targets,
                ca_file: matches.get_one("ca-file").cloned(),
                authorization,
            }),
        }
    }

    /// Takes `--authorization` out of the list of processes.
    pub(super) fn hide_authorization(&self) {
        hide_secret("--authorization", Rows::TOP, self.authorization.as_ref());
    }

    /// Sends a request; an empty `body` is left out, any other is JSON. Returns the status and the body of the
    /// response. Blocks for at most five seconds.
    ///
    /// # Errors
    /// No whole response arrived: the reason, for the user.
    pub(super) fn ask(&self, target: &Target, method: &str, body: &str) -> Answered {
        let timeout = || format!("no answer within {} s", REQUEST_TIMEOUT.as_secs());
        let until = Instant::now() + REQUEST_TIMEOUT;
        let stream = target.open(self.ca_file.as_deref(), until);
        let stream = stream.map_err(|error| match error {
            LinkError::Unreachable(error) if is_timeout(&error) => timeout(),
            LinkError::Unreachable(error) => format!("no connection: {error}"),
            LinkError::Tls { reason, .. } => format!("no TLS: {reason}"),
        })?;
        let authorization = self.authorization.as_ref().map(SecretText::expose);
        let request = AdminRequest {
            method,
            authorization: authorization.as_deref(),
            body,
        };
        let response = request.exchange(stream, target);
        response.map_err(|why| match why {
            NoResponse::TimedOut => timeout(),
            NoResponse::Broken => "the answer is not HTTP, or broke off".to_owned(),
            NoResponse::TooLarge { bytes_max } => {
                format!("the answer is larger than {} MB", bytes_max >> 20)
            }
        })
    }
}

/// The error for a response whose status is none of those that the caller expects.
pub(super) fn refused(path: &str, status: u16, body: &[u8]) -> String {
    let advice = match status {
        401 | 403 => {
            "set WEIRGATE_ADMIN_TOKEN as for the gateway, use --authorization if a proxy asks for a login, and an \
             IP address or localhost as host"
        }
        // The gateway stops, has too much to do, or none of its processes answers.
        503 => return format!("{path}: status 503; {}", detail(body, "try again soon")),
        _ => "is this the address of --admin-addr?",
    };
    format!("{path}: status {status}; {advice}")
}

/// What the gateway says of a request, or else this.
pub(super) fn detail(body: &[u8], or_else: &str) -> String {
    let body = Json::read(body).ok();
    let detail = body.and_then(|body| body.text(&["detail"]));
    detail.unwrap_or_else(|| or_else.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::thread;

    use super::*;

    const PATH: &str = "/operator/state";

    impl AdminAddresses {
        /// These addresses, without a login.
        pub(in crate::commands) fn of(targets: Vec<Target>) -> Self {
            Self {
                targets,
                ca_file: None,
                authorization: None,
            }
        }
    }

    fn ask(addr: SocketAddr) -> Answered {
        let target = Target::here(&[addr.into()], PATH);
        let admins = AdminAddresses {
            authorization: Some(SecretText::new("Basic YTpi")),
            ..AdminAddresses::of(Vec::new())
        };
        admins.ask(&target, "GET", "")
    }

    /// Sends a request to a server whose responses `answer` writes. Returns the heads of the requests too.
    fn answered(answer: impl Fn(&mut TcpStream) + Send + 'static) -> (Answered, Vec<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let mut heads = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().unwrap();
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                    head.push(byte[0]);
                }
                if head.is_empty() {
                    return heads;
                }
                heads.push(String::from_utf8(head).unwrap());
                answer(&mut stream);
            }
        });
        let result = ask(addr);
        drop(TcpStream::connect(addr).unwrap());
        (result, server.join().unwrap())
    }

    #[test]
    fn a_reading_is_one_request_with_what_the_proxy_asks_for() {
        let (answer, heads) = answered(|stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        });
        assert_eq!(answer, Ok((200, b"{}".to_vec())));
        assert_eq!(heads.len(), 1);
        assert!(
            heads[0].starts_with("GET /operator/state HTTP/1.0\r\nHost: 127.0.0.1:")
                && heads[0].contains("Authorization: Basic YTpi\r\n"),
            "{heads:?}"
        );
    }

    #[test]
    fn any_other_answer_is_an_error_that_says_what_came() {
        for (answer, words) in [
            ("hello\r\n\r\n", "is not HTTP"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
                "broke off",
            ),
        ] {
            let (read, _) = answered(move |stream| {
                let _ = stream.write_all(answer.as_bytes());
            });
            let error = read.unwrap_err();
            assert!(error.contains(words), "{answer}: {error}");
        }
        assert!(refused(PATH, 404, b"").contains("--admin-addr"));
        assert!(refused(PATH, 401, b"").contains("--authorization"));
        let stopping = refused(PATH, 503, br#"{"detail":"The gateway stops"}"#);
        assert_eq!(stopping, "/operator/state: status 503; The gateway stops");
        assert!(refused(PATH, 503, b"busy").ends_with("; try again soon"));
    }

    #[test]
    fn an_answer_without_end_is_cut_off() {
        let (read, _) = answered(|stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            // Until the client closes.
            while stream.write_all(&[b' '; 65_536]).is_ok() {}
        });
        let error = read.unwrap_err();
        assert!(error.contains("larger than"), "{error}");
    }

    #[test]
    fn silence_ends_in_time_and_a_closed_port_at_once() {
        let begun = Instant::now();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = ask(silent.local_addr().unwrap()).unwrap_err();
        assert!(error.contains("no answer within"), "{error}");
        assert!(begun.elapsed() < REQUEST_TIMEOUT * 2);
        // Bound but not listening, so that no other socket can get the port.
        let closed =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        closed.bind(&any.into()).unwrap();
        let addr = closed.local_addr().unwrap().as_socket().unwrap();
        let error = ask(addr).unwrap_err();
        assert!(error.contains("no connection"), "{error}");
    }
}
