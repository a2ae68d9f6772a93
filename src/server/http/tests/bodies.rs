//! Handlers that read bodies and take their time: what passes, what is refused, what is waited for.

use std::future::pending;
use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::time::Duration;

use hyper::HeaderMap;

use super::fixture::{Client, Fixture, get};
use crate::http::{
    Answer, BoxError, Handler, HttpSettings, LateAnswer, ReadBodyError, Route, StatusCode,
};

/// What `/whole/` reads at most.
const WHOLE_MAX: usize = 100_000;

/// Routes whose answers come later.
pub(super) fn routes() -> Vec<Route> {
    let route = |path, answer| Route {
        path,
        methods: Route::ANY_METHOD,
        answer,
    };
    vec![
        route("/whole/{path}", Handler::later(whole)),
        route(
            "/pieces",
            Handler::later(|_, body| async move {
                use http_body_util::BodyExt;
                LateAnswer {
                    status: StatusCode::OK,
                    headers: HeaderMap::new(),
                    body: Box::pin(body.map_err(BoxError::from)),
                    is_passed_on: false,
                    eviction_check: None,
                }
            }),
        ),
        route(
            "/deaf",
            Handler::later(|_, _| async {
                Answer::detail(StatusCode::PAYLOAD_TOO_LARGE, "too much").into()
            }),
        ),
        route(
            "/slow",
            Handler::later(|_, body| async move {
                tokio::time::sleep(Duration::from_millis(600)).await;
                drop(body);
                Answer::json(StatusCode::OK, "1".to_owned()).into()
            }),
        ),
        route("/never", Handler::later(|_, _| pending())),
    ]
}

/// The path and the whole body.
async fn whole(parts: crate::http::RequestParts, body: crate::http::RequestBody) -> LateAnswer {
    match body.read(WHOLE_MAX).await {
        Ok(body) => {
            let text = format!("{}:{}", parts.path(), body.escape_ascii());
            Answer::new(StatusCode::OK, "text/plain", text).into()
        }
        Err(ReadBodyError::TooLarge) => {
            Answer::detail(StatusCode::PAYLOAD_TOO_LARGE, "too much").into()
        }
        Err(_) => Answer::detail(StatusCode::BAD_REQUEST, "broken").into(),
    }
}

fn post(path: &str, headers: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n{body}")
}

const CHUNKED: &str = "Transfer-Encoding: chunked";

#[test]
fn pipelined_requests_with_bodies_are_told_apart() {
    let fixture = Fixture::new();
    let requests = [
        post("/whole/a", "Content-Length: 5", "hello"),
        post(
            "/whole/b",
            CHUNKED,
            "5;x=y\r\nGET /\r\n3\r\n\r\n\r\r\n0\r\nX-Sum: 1\r\n\r\n",
        ),
        post("/whole/c", "Content-Length: 0", ""),
        get("/whole/d"),
        post("/whole/e", "Content-Length: 18", "GET / HTTP/1.1\r\n\r\n"),
        get("/health"),
    ];
    let whole = requests.concat();
    for step in [1, 7, 50, whole.len()] {
        let mut client = fixture.connect("");
        for piece in whole.as_bytes().chunks(step) {
            client.send(piece);
        }
        for text in [
            "/whole/a:hello",
            "/whole/b:GET /\\r\\n\\r",
            "/whole/c:",
            "/whole/d:",
            "/whole/e:GET / HTTP/1.1\\r\\n\\r\\n",
        ] {
            let reply = client.reply();
            assert_eq!(
                (reply.status, reply.text()),
                (200, text),
                "{step} at a time"
            );
            assert_eq!(reply.header("connection"), None);
        }
        assert_eq!(client.reply().status, 200);
        assert_eq!(client.ask(&get("/health")).status, 200);
    }
}

#[test]
fn a_body_may_be_announced_and_awaited() {
    let fixture = Fixture::new();
    let mut client = fixture.connect(post(
        "/whole/a",
        "Content-Length: 2\r\nExpect: 100-continue",
        "",
    ));
    assert_eq!(client.head().status, 100);
    client.send("ok");
    assert_eq!(client.reply().text(), "/whole/a:ok");
    // Who does not read it does not ask for it.
    let mut client = fixture.connect(post(
        "/deaf",
        "Content-Length: 2\r\nExpect: 100-continue",
        "",
    ));
    assert_eq!(client.reply().status, 413);
    assert_eq!(client.end(), b"");
}

#[test]
fn a_body_over_the_readers_limit_ends_the_connection_after_the_answer() {
    let fixture = Fixture::new();
    let more = WHOLE_MAX + 1;
    let announced = post("/whole/a", &format!("Content-Length: {more}"), "");
    let chunked = post(
        "/whole/a",
        CHUNKED,
        &format!("{more:x}\r\n{}", "x".repeat(more)),
    );
    let deaf = post("/deaf", "Content-Length: 50", &get("/health"));
    for request in [announced, chunked, deaf] {
        let mut client = fixture.connect(request);
        let reply = client.reply();
        assert_eq!(
            (reply.status, reply.header("connection")),
            (413, Some("close"))
        );
        assert_eq!(client.end(), b"");
    }
}

#[test]
fn chunks_without_a_clear_end_are_broken_and_nothing_behind_them_is_a_request() {
    let fixture = Fixture::new();
    for body in [
        "x\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5\nhello",
        "4\r\nhello\r\n0\r\n\r\n",
        "-1\r\n",
        "5\r\nhello\r\n0\r\n\n",
    ] {
        let smuggled = body.to_owned() + "\r\n" + &get("/health");
        let mut client = fixture.connect(post("/whole/a", CHUNKED, &smuggled));
        let reply = client.reply();
        assert_eq!(
            (reply.status, reply.text()),
            (400, r#"{"detail":"broken"}"#),
            "{body:?}"
        );
        assert_eq!(client.end(), b"", "{body:?}");
    }
}

#[test]
fn two_readings_of_a_length_are_refused_before_any_handler() {
    let fixture = Fixture::new();
    for framing in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 6",
        "Transfer-Encoding: chunked, identity",
    ] {
        let request = post("/whole/a", framing, "0\r\n\r\n") + &get("/health");
        let mut client = fixture.connect(get("/health") + &request);
        assert_eq!(client.reply().status, 200);
        assert_eq!(client.reply().status, 400, "{framing}");
        assert_eq!(client.end(), b"");
    }
}

#[test]
fn a_handler_that_does_not_read_stops_the_sender_and_an_echo_does_not() {
    let fixture = Fixture::new();
    let request = post("/pieces", "Content-Length: 100000000", "");
    let mut client = fixture.connect(request);
    assert_eq!(client.head().status, 200);
    // Nobody reads the echo, so nobody reads what is sent: both stop at what the kernel takes.
    client.stream.set_nonblocking(true).unwrap();
    let mut sent = 0;
    let mut quiet = 0;
    while quiet < 50 {
        match client.stream.write(&[b'x'; 64 * 1024]) {
            Ok(n) => (sent, quiet) = (sent + n, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                quiet += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 50_000_000, "nothing holds the sender back");
    }
    client.stream.set_nonblocking(false).unwrap();
    // Once it is read, it flows on.
    assert_eq!(client.take(sent).len(), sent);
}

#[test]
fn a_handler_may_take_longer_than_a_connection_may_idle() {
    let fixture = Fixture::with(HttpSettings {
        idle_timeout_ms: 200,
        ..HttpSettings::default()
    });
    let mut client = fixture.connect("");
    assert_eq!(client.ask(&get("/slow")).status, 200);
    assert_eq!(client.ask(&get("/slow")).status, 200);
    assert_eq!(client.end(), b"");
    // A client that owes bytes has no more time than before.
    let mut owing = fixture.connect(post("/whole/a", "Content-Length: 5", "he"));
    assert_eq!(owing.end(), b"");
    fixture.wait_for_permits(0);
}

#[test]
fn a_client_that_leaves_frees_its_place_while_a_handler_works() {
    let fixture = Fixture::new();
    let leave: [fn(Client); 2] = [
        |client| drop(client),
        |client| {
            let socket = socket2::Socket::from(client.stream);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
        },
    ];
    for leave in leave {
        let client = fixture.connect(get("/never"));
        assert_eq!(fixture.taken(), 1);
        leave(client);
        fixture.wait_for_permits(0);
    }
    let half = fixture.connect(post("/whole/a", "Content-Length: 5", "he"));
    half.stream.shutdown(Shutdown::Write).unwrap();
    fixture.wait_for_permits(0);
}
