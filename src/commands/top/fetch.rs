//! One reading of a process: `/operator/state`, bounded in bytes and in time. `top` survives every response.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::link::{LinkError, Target, is_timeout};
use crate::settings::SecretText;
use crate::telemetry::operator_state::OperatorState;
use crate::wire::json;

/// The path of the state.
pub(super) const PATH: &str = "/operator/state";
/// The time limit for a reading.
const READING_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of a response: a gateway with the longest lists sends a tenth of this.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The most headers of a response: proxies add some.
const HEADERS_MAX: usize = 64;

/// The reason for no reading.
#[derive(Debug, thiserror::Error)]
pub(in crate::commands) enum FetchError {
    #[error("no connection: {0}")]
    Unreachable(io::Error),
    #[error("no TLS: {0}")]
    Tls(String),
    #[error("no answer within {} s", READING_TIMEOUT.as_secs())]
    Timeout,
    #[error("the answer is larger than {} MB", ANSWER_BYTES_MAX >> 20)]
    TooLarge,
    #[error("the answer is not HTTP, or broke off")]
    Broken,
    #[error("{path}: status {status}; {advice}")]
    Refused {
        path: &'static str,
        status: u16,
        advice: &'static str,
    },
    #[error(
        "what answers there is not a gateway's admin address, or is of another version of weirgate"
    )]
    NoGateway,
}

impl FetchError {
    /// A response with another status.
    pub(in crate::commands) const fn refused(path: &'static str, status: u16) -> Self {
        let advice = match status {
            401 | 403 => {
                "use --authorization if a proxy asks for a login, and an IP address or localhost as host"
            }
            _ => "is this the address of --admin-addr?",
        };
        Self::Refused {
            path,
            status,
            advice,
        }
    }
}

/// Reads the state of a process once. Blocks for five seconds at most, and for the look-up of a name.
///
/// # Errors
/// There is no response of a gateway.
pub(super) fn read(
    target: &Target,
    ca_file: Option<&Path>,
    authorization: Option<&SecretText>,
) -> Result<OperatorState, FetchError> {
    match exchange(target, ca_file, authorization, ("GET", ""))? {
        (200, body) => state(&body).ok_or(FetchError::NoGateway),
        (status, _) => Err(FetchError::refused(PATH, status)),
    }
}

/// Sends a request to an admin address: a method and a body of JSON. Returns status and body of the response. Blocks for
/// five seconds at most, and for the look-up of a name.
///
/// # Errors
/// There is no whole response.
pub(in crate::commands) fn exchange(
    target: &Target,
    ca_file: Option<&Path>,
    authorization: Option<&SecretText>,
    (method, body): (&str, &str),
) -> Result<(u16, Vec<u8>), FetchError> {
    let until = Instant::now() + READING_TIMEOUT;
    let stream = target.open(ca_file, until).map_err(|error| match error {
        LinkError::Unreachable(error) if is_timeout(&error) => FetchError::Timeout,
        LinkError::Unreachable(error) => FetchError::Unreachable(error),
        LinkError::Tls(reason) => FetchError::Tls(reason),
    })?;
    let login = authorization.map_or_else(String::new, |text| {
        format!("Authorization: {}\r\n", text.expose())
    });
    let length = match body.len() {
        0 => String::new(),
        n => format!("Content-Type: application/json\r\nContent-Length: {n}\r\n"),
    };
    // HTTP/1.0: the body is not chunked.
    let request = format!(
        "{method} {} HTTP/1.0\r\nHost: {}\r\nConnection: close\r\n{login}{length}\r\n{body}",
        target.path, target.authority
    );
    let is_whole = |answer: &[u8]| matches!(Answer::of(answer), Some(answer) if answer.is_whole());
    let answer = stream.ask(&request, ANSWER_BYTES_MAX, until, is_whole);
    let answer = answer.map_err(|error| match is_timeout(&error) {
        true => FetchError::Timeout,
        false => FetchError::Broken,
    })?;
    if answer.len() >= ANSWER_BYTES_MAX {
        return Err(FetchError::TooLarge);
    }
    let answer = Answer::of(&answer).ok_or(FetchError::Broken)?;
    match answer.length.is_some() && !answer.is_whole() {
        true => Err(FetchError::Broken),
        false => Ok((answer.status, answer.body.to_vec())),
    }
}

/// The response so far, after a whole head.
struct Answer<'a> {
    status: u16,
    length: Option<usize>,
    body: &'a [u8],
}

impl<'a> Answer<'a> {
    /// Returns `None` before the end of the head, and for what is not HTTP.
    fn of(answer: &'a [u8]) -> Option<Self> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(at) = head.parse(answer).ok()? else {
            return None;
        };
        let is_length = |h: &&httparse::Header<'_>| h.name.eq_ignore_ascii_case("content-length");
        let length = head.headers.iter().find(is_length);
        let length = length.and_then(|h| std::str::from_utf8(h.value).ok()?.trim().parse().ok());
        Some(Self {
            status: head.code?,
            length,
            body: answer.get(at..)?,
        })
    }

    fn is_whole(&self) -> bool {
        self.length.is_some_and(|length| self.body.len() >= length)
    }
}

/// Returns `None` if the text is not the state of a gateway.
fn state(text: &[u8]) -> Option<OperatorState> {
    let state: OperatorState = json::read(text).ok()?.parse().ok()?;
    (!state.gateway.is_empty()).then_some(state)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;
    use std::time::Instant;

    use super::samples::STATE;
    use super::*;
    use crate::telemetry::operator_state::ShownClient;

    fn read_at(
        addr: std::net::SocketAddr,
        authorization: Option<&SecretText>,
    ) -> Result<OperatorState, FetchError> {
        read(&Target::here(&[addr.into()], PATH), None, authorization)
    }

    /// Reads from a server whose responses `answer` writes. Returns the request heads too.
    fn read_from(
        answer: impl Fn(&str, &mut std::net::TcpStream) + Send + 'static,
    ) -> (Result<OperatorState, FetchError>, Vec<String>) {
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
                let head = String::from_utf8(head).unwrap();
                answer(&head, &mut stream);
                heads.push(head);
            }
        });
        let result = read_at(addr, Some(&SecretText::new("Basic YTpi")));
        drop(std::net::TcpStream::connect(addr).unwrap());
        (result, server.join().unwrap())
    }

    fn ok(body: &str) -> String {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    #[test]
    fn a_reading_is_one_request_with_what_the_proxy_asks_for() {
        let (state, heads) = read_from(|_, stream| {
            let _ = stream.write_all(ok(STATE).as_bytes());
        });
        let state = state.unwrap();
        assert_eq!((state.gateway.as_str(), state.ready), ("levels", true));
        assert_eq!(state.numbers.clients, Some(3));
        assert_eq!(state.numbers.cpu_seconds, None, "of another version");
        let survey = state.survey.unwrap();
        assert_eq!(survey.slowest[0].user.as_deref(), Some("ann"));
        assert_eq!(survey.slowest[0].traffic.messages_conflated, 17);
        assert_eq!(heads.len(), 1);
        assert!(
            heads[0].starts_with("GET /operator/state HTTP/1.0\r\nHost: 127.0.0.1:")
                && heads[0].contains("Authorization: Basic YTpi\r\n"),
            "{heads:?}"
        );
    }

    #[test]
    fn anything_else_is_no_state() {
        let deep = "[".repeat(100_000);
        for text in [
            "",
            "{}",
            "[1]",
            "null",
            "<html>",
            r#"{"gateway":1,"ready":true}"#,
            r#"{"gateway":"x","ends":{}}"#,
            &deep,
        ] {
            assert_eq!(state(text.as_bytes()), None, "{text:.20}");
        }
        assert_eq!(state(b"{\"gateway\":\"\xff\",\"ready\":true}"), None);
    }

    #[test]
    fn what_another_version_lacks_or_adds_is_left_out() {
        let text = r#"{"gateway":"x","new":[{}],"bus":null,"survey":{"slowest":[{"new":1}]}}"#;
        let state = state(text.as_bytes()).expect("a gateway");
        assert_eq!((state.ready, state.numbers.clients), (false, None));
        let survey = state.survey.expect("a survey");
        assert_eq!(survey.slowest, [ShownClient::default()]);
    }

    #[test]
    fn any_other_answer_is_an_error_that_says_what_came() {
        let cases: [(&'static str, &str); 5] = [
            ("hello\r\n\r\n", "is not HTTP"),
            (
                "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n",
                "--admin-addr",
            ),
            (
                "HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n",
                "--authorization",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
                "is not a gateway",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
                "broke off",
            ),
        ];
        for (answer, words) in cases {
            let (reading, _) = read_from(move |_, stream| {
                let _ = stream.write_all(answer.as_bytes());
            });
            let error = reading.unwrap_err().to_string();
            assert!(error.contains(words), "{answer}: {error}");
        }
    }

    #[test]
    fn an_answer_without_end_is_cut_off() {
        let (reading, _) = read_from(|_, stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            // Until the client closes.
            while stream.write_all(&[b' '; 65_536]).is_ok() {}
        });
        assert!(matches!(reading, Err(FetchError::TooLarge)), "{reading:?}");
    }

    #[test]
    fn silence_ends_in_time_and_a_closed_port_at_once() {
        let begun = Instant::now();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = silent.local_addr().unwrap();
        let reading = read_at(addr, None);
        assert!(matches!(reading, Err(FetchError::Timeout)), "{reading:?}");
        assert!(begun.elapsed() < READING_TIMEOUT * 2);
        // Bound but not listening, so that no other socket gets the port.
        let closed =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        closed.bind(&any.into()).unwrap();
        let addr = closed.local_addr().unwrap().as_socket().unwrap();
        let reading = read_at(addr, None);
        assert!(
            matches!(reading, Err(FetchError::Unreachable(_))),
            "{reading:?}"
        );
    }
}

/// Samples of a gateway's responses, for the tests.
#[cfg(test)]
pub(super) mod samples {
    use crate::telemetry::operator_state::{Numbers, OperatorState};

    pub(crate) const STATE: &str = r#"{"gateway":"levels","version":"0.1.0","now_unix_ms":1700000010000,"uptime_seconds":3723,
    "ready":true,"reasons":[],"status":"Ready","last_turn_age_ms":2,
    "numbers":{"clients":3,"connections":95,"connections_max":100,"connections_accepted":40,"connections_ended":37,
     "bus_messages":120,"bus_messages_bad":0,"bus_gaps":0,"bus_queue_messages":0,"bus_last_message_unix_ms":1700000009400,
     "messages_sent":5000,"messages_conflated":97,"messages_shed":0,"messages_dropped":12,"messages_waiting":4,
     "send_queue_bytes":66436,"send_queue_peak_bytes":65536,"frame_bytes":268435456,"sent_bytes":9000000,"received_messages":3},
    "closes":{"peer_closed":36,"send_stalled":1},
    "bus":{"connected":true,"subscribed":true,"away_ms":null,"reconnects":2,"refused":0,
     "consumers":[{"name":"gateway_flow","subject":"market.flow","lag":40,"away_ms":null,"stalled":false}]},
    "survey":{"age_ms":900,"took_us":12,"slices":1,"interval_ms":1000,"clients":3,"clients_waiting":2,"clients_blocked":1,
     "clients_conflating":1,"slowest":[
      {"session":"7-19","client":"10.0.0.1","user":"ann","path":"/ws/stream","state":"conflating","age_ms":5000,"queue_messages":3,"queue_bytes":65536,"oldest_ms":1200,"stuck_ms":1100,"conflated":17,"messages_in":1,"messages_out":400,"bytes_in":10,"bytes_out":9000,"topics":1,"topic":"levels","recent_messages":0},
      {"session":"3-2","client":"10.0.0.2","user":null,"path":"/ws/stream","state":"waiting","age_ms":3700000,"queue_messages":1,"queue_bytes":900,"oldest_ms":4,"stuck_ms":4,"conflated":0,"messages_in":1,"messages_out":51000,"bytes_in":10,"bytes_out":9000,"topics":3,"topic":null,"recent_messages":0}],
     "busiest":[{"session":"4-4","client":"2001:db8::17","user":null,"path":"/ws/stream","state":"idle","age_ms":61000,"queue_messages":0,"queue_bytes":0,"oldest_ms":null,"stuck_ms":null,"conflated":0,"messages_in":5,"messages_out":1234,"bytes_in":10,"bytes_out":9000,"topics":1,"topic":"levels","recent_messages":14}],
     "topics":1,"busiest_topics":[{"name":"levels","members":3,"recent_messages":14,"recent_bytes":233470}]},
    "ends":[{"at_unix_ms":1700000004000,"client":"10.0.0.9","peer":"10.0.0.9:4711","user":null,"path":"/ws/stream","reason":"send_stalled","code":1013,"age_ms":31000,"bytes_in":1,"bytes_out":2,"messages_in":3,"messages_out":400,"conflated":80},
     {"at_unix_ms":1700000001000,"client":"10.0.0.8","peer":"10.0.0.8:4712","user":"bob","path":"/ws/stream","reason":"peer_closed","code":null,"age_ms":900,"bytes_in":1,"bytes_out":2,"messages_in":3,"messages_out":4,"conflated":0}],
    "revoked":2,"revoked_newest":[{"user":"eve","until":1700003600},{"role":"guest","address":"10.0.0.3"}],"limits":[
     {"name":"--connections-max","about":"Connections at once","is_bytes":false,"now":95,"max":100},
     {"name":"--frame-bytes-max","about":"Memory of frames","is_bytes":true,"now":268435456,"max":536870912},
     {"name":"--all-wildcards-max","about":"Patterns","is_bytes":false,"now":2,"max":null}]}"#;

    /// The state of these samples.
    pub(crate) fn state() -> OperatorState {
        state_with(|_| {})
    }

    /// The state of these samples with other numbers.
    pub(crate) fn state_with(change: impl FnOnce(&mut Numbers)) -> OperatorState {
        let mut state: OperatorState = sonic_rs::from_str(STATE).expect("the state of a gateway");
        change(&mut state.numbers);
        state
    }
}
