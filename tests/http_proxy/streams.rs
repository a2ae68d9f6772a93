//! What passes, and how it comes out.

use crate::rig::{
    BASE_PATH, Client, Rig, accept, assert_ends, get, line, lines, ok, post, request,
};
use std::io::{ErrorKind, Write};
use std::time::Duration;
use weirgate_wire::admission::TrustedProxies;

#[test]
fn a_request_and_its_answer_pass_as_they_were() {
    let rig = Rig::new();
    let mut client = rig.connect(
        "PUT /v1/simulation/a%20b/c//?a=1&a=2&b=x%26y&&c HTTP/1.1\r\nHost: public:80\r\n\
         Authorization: Bearer z\r\nCookie: a=b\r\nX-Many: 1\r\nX-Many: 2\r\nContent-Length: 5\r\n\
         Connection: keep-alive, x-hop\r\nX-Hop: 1\r\nX-Internal-Token: stolen\r\n\
         X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n\r\nhello",
    );
    let mut service = accept(&rig.simulation);
    let head = service.head_text();
    let target = format!("PUT {BASE_PATH}/a%20b/c//?a=1&a=2&b=x%26y&&c HTTP/1.1\r\n");
    assert!(head.starts_with(&target), "{head}");
    let mut got = lines(&head);
    got.retain(|line| !line.starts_with("traceparent: 00-"));
    let host = format!("host: {}", rig.simulation.local_addr().unwrap());
    let expected = [
        "authorization: Bearer z",
        "content-length: 5",
        "cookie: a=b",
        &host,
        "x-forwarded-for: 1.2.3.4, 127.0.0.1",
        "x-forwarded-host: public:80",
        "x-forwarded-proto: http",
        "x-many: 1",
        "x-many: 2",
    ];
    assert_eq!(got, expected);
    assert_eq!(service.take(5), b"hello");

    service.send(
        "HTTP/1.1 418 Short And Stout\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Encoding: gzip\r\n\
         Connection: x-secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nLocation: /else where\r\n\
         Date: then\r\nContent-Length: 4\r\n\r\n\x1f\x7f\x01\x02",
    );
    let reply = client.reply();
    assert_eq!(
        (reply.status, &*reply.body),
        (418, &b"\x1f\x7f\x01\x02"[..])
    );
    let expected = [
        "content-encoding: gzip",
        "content-length: 4",
        "date: then",
        "location: /else where",
        "set-cookie: a=1",
        "set-cookie: b=2",
    ];
    assert_eq!(lines(&reply.head), expected);
}

#[test]
fn every_method_passes_on_a_kept_connection() {
    let rig = Rig::new();
    let mut client = rig.connect("");
    client.send(get("/v1/jobs/first"));
    let mut service = rig.accept();
    service.head_text();
    service.send(ok("1"));
    assert_eq!(client.reply().text(), "1");
    for method in [
        "GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "M-SEARCH",
    ] {
        client.send(request(method, "/v1/jobs/x"));
        let head = service.head_text();
        assert!(head.starts_with(&format!("{method} /v1/jobs/x ")), "{head}");
        service.send(ok(method));
        assert_eq!(client.reply().text(), method);
    }
}

#[test]
fn answers_without_a_body_keep_their_length() {
    let rig = Rig::new();
    let mut client = rig.connect("");
    client.send(request("HEAD", "/v1/jobs/x"));
    let mut service = rig.accept();
    assert!(service.head_text().starts_with("HEAD "));
    service.send("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n");
    assert_eq!(client.head().header("content-length"), Some("12345"));
    client.send(get("/v1/jobs/y"));
    // The body might come all the same.
    service = rig.accept();
    for answer in [
        "204 No Content\r\n",
        "304 Not Modified\r\nETag: \"x\"\r\n",
        "200 OK\r\nContent-Length: 0\r\n",
    ] {
        service.head_text();
        service.send(format!("HTTP/1.1 {answer}\r\n"));
        let head = client.head();
        assert!(answer.starts_with(&head.status.to_string()));
        assert_eq!(head.header("transfer-encoding"), None, "{answer}");
        client.send(get("/v1/jobs/z"));
    }
    service.head_text();
    service.send(ok("z"));
    assert_eq!(client.reply().text(), "z");
}

#[test]
fn chunks_stay_chunks_both_ways_with_their_trailers() {
    let rig = Rig::new();
    let mut client = rig.connect(post(
        "/v1/jobs/x",
        "Transfer-Encoding: chunked\r\nTrailer: X-Sum, X-Internal-Token\r\nTE: trailers\r\nConnection: TE",
        "5\r\nhello\r\n",
    ));
    let mut service = rig.accept();
    let head = lines(&service.head_text());
    assert_eq!(line(&head, "transfer-encoding"), Some("chunked"));
    assert_eq!(
        (line(&head, "te"), line(&head, "content-length")),
        (Some("trailers"), None)
    );
    assert_eq!(service.take(10), b"5\r\nhello\r\n");
    client.send("0\r\nX-Sum: 9\r\nX-Internal-Token: stolen\r\n\r\n");
    assert_eq!(
        service.take(15).to_ascii_lowercase(),
        b"0\r\nx-sum: 9\r\n\r\n"
    );
    service.send(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Late\r\n\r\n3\r\nabc\r\n",
    );
    let head = client.head();
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    assert_eq!(head.header("trailer"), Some("X-Late"));
    assert_eq!(client.take(8), b"3\r\nabc\r\n");
    service.send("0\r\nX-Late: 1\r\n\r\n");
    assert_eq!(
        client.take(16).to_ascii_lowercase(),
        b"0\r\nx-late: 1\r\n\r\n"
    );
}

#[test]
fn lengths_that_are_said_twice_are_said_once() {
    let rig = Rig::new();
    let twice = "Content-Length: 2\r\nContent-Length: 2";
    let mut client = rig.connect(post("/v1/jobs/x", twice, "ab"));
    let mut service = rig.accept();
    let head = service.head_text();
    assert_eq!(
        head.to_ascii_lowercase().matches("content-length").count(),
        1,
        "{head}"
    );
    assert_eq!(service.take(2), b"ab");
    service.send(format!("HTTP/1.1 200 OK\r\n{twice}\r\n\r\ncd"));
    let reply = client.reply();
    assert_eq!(
        (reply.text(), lines(&reply.head).len()),
        ("cd", 2),
        "{}",
        reply.head
    );
}

#[test]
fn each_byte_passes_when_it_comes() {
    let rig = Rig::new();
    let mut client = rig.connect(post("/v1/jobs/x", "Content-Length: 100000", ""));
    let mut service = rig.accept();
    service.head_text();
    for i in 0..20 {
        client.send([i]);
        assert_eq!(service.take(1), [i]);
    }
    service.send("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n");
    assert_eq!(client.head().status, 200);
    for i in 0..20 {
        service.send([i]);
        assert_eq!(client.take(1), [i]);
    }
}

#[test]
fn an_answer_may_come_before_the_body_has() {
    let rig = Rig::new();
    let mut client = rig.connect(post("/v1/jobs/x", "Content-Length: 100000", "ab"));
    let mut service = rig.accept();
    service.head_text();
    assert_eq!(service.take(2), b"ab");
    service.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1");
    assert_eq!(client.head().status, 200);
    client.send("c");
    assert_eq!(service.take(1), b"c");
    service.send("2");
    assert_eq!(client.take(2), b"12");
}

#[test]
fn pipelined_requests_with_bodies_pass_in_order() {
    let rig = Rig::new();
    let requests = [
        post("/v1/jobs/1", "Content-Length: 3", "one"),
        post(
            "/v1/jobs/2",
            "Transfer-Encoding: chunked",
            "3\r\ntwo\r\n0\r\n\r\n",
        ),
        get("/v1/jobs/3"),
    ];
    let mut client = rig.connect(requests.concat());
    let mut service = rig.accept();
    for (number, body) in [("1", "one"), ("2", "3\r\ntwo\r\n0\r\n\r\n"), ("3", "")] {
        let head = service.head_text();
        assert!(head.contains(&format!(" /v1/jobs/{number} ")), "{head}");
        assert_eq!(service.take(body.len()), body.as_bytes());
        service.send(ok(number));
        assert_eq!(client.reply().text(), number);
    }
}

#[test]
fn a_reader_that_stops_stops_the_service() {
    let rig = Rig::new();
    let mut client = rig.connect(get("/v1/jobs/x"));
    let mut service = rig.accept();
    service.head_text();
    service.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
    assert_eq!(client.head().status, 200);
    let sent = fill(&mut service);
    assert_eq!(client.take(sent).len(), sent);
}

#[test]
fn a_service_that_stops_reading_stops_the_client() {
    let rig = Rig::new();
    for framing in ["Content-Length: 1000000000", "Transfer-Encoding: chunked"] {
        let mut client = rig.connect(post("/v1/jobs/x", framing, ""));
        if framing.starts_with('T') {
            client.send("10000000\r\n");
        }
        let mut service = rig.accept();
        service.head_text();
        let sent = fill(&mut client);
        assert!(service.take(sent).len() >= sent);
    }
}

/// Writes until nothing goes for half a second; how much went.
fn fill(sender: &mut Client) -> usize {
    sender.stream.set_nonblocking(true).unwrap();
    let (mut sent, mut quiet) = (0, 0);
    while quiet < 50 {
        match sender.stream.write(&[b'x'; 64 * 1024]) {
            Ok(n) => (sent, quiet) = (sent + n, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                quiet += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 100_000_000, "nothing holds the sender back");
    }
    sender.stream.set_nonblocking(false).unwrap();
    sent
}

#[test]
fn a_body_is_asked_for_when_the_service_is_there() {
    let rig = Rig::new();
    let mut client = rig.connect(post(
        "/v1/jobs/x",
        "Content-Length: 70000\r\nExpect: 100-continue",
        "",
    ));
    let mut service = rig.accept();
    let head = lines(&service.head_text());
    assert_eq!(line(&head, "expect"), None);
    assert_eq!(client.head().status, 100);
    client.send("o".repeat(70_000));
    assert_eq!(service.take(70_000).len(), 70_000);
    service.send("HTTP/1.1 100 Continue\r\n\r\n".to_owned() + &ok("1"));
    assert_eq!(client.reply().text(), "1");
}

#[test]
fn an_old_client_and_an_old_service_are_served() {
    let rig = Rig::new();
    let mut client = rig.connect("GET /v1/jobs/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let mut service = rig.accept();
    assert!(
        service
            .head_text()
            .starts_with("GET /v1/jobs/x HTTP/1.1\r\n")
    );
    service.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    let head = client.head();
    assert_eq!((head.status, head.header("transfer-encoding")), (200, None));
    assert_eq!(head.header("connection"), Some("close"));
    assert_eq!(client.end(), b"abc");
    let mut client = rig.connect(get("/v1/jobs/x"));
    service.head_text();
    service.send("HTTP/1.0 200 OK\r\n\r\nabc");
    drop(service);
    assert_eq!(client.head().header("transfer-encoding"), Some("chunked"));
    assert_eq!(client.take(13), b"3\r\nabc\r\n0\r\n\r\n");
}

#[test]
fn answers_may_be_read_by_the_origin_that_asks_unless_the_service_says_otherwise() {
    let rig = Rig::new();
    let mut client = rig.connect("");
    let mut service = None;
    for (own, allowed) in [
        ("", "*"),
        (
            "Access-Control-Allow-Origin: https://b.example\r\n",
            "https://b.example",
        ),
    ] {
        client.send("GET /v1/jobs/x HTTP/1.1\r\nHost: x\r\nOrigin: https://a.example\r\n\r\n");
        let service = service.get_or_insert_with(|| rig.accept());
        service.head_text();
        service.send(format!("HTTP/1.1 200 OK\r\n{own}Content-Length: 0\r\n\r\n"));
        let reply = client.reply();
        assert_eq!(reply.header("access-control-allow-origin"), Some(allowed));
    }
}

#[test]
fn a_trusted_proxy_is_believed() {
    let rig = Rig::behind(TrustedProxies::Any, |_| {});
    let mut client =
        rig.connect("GET /v1/jobs/x HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: https\r\n\r\n");
    let mut service = rig.accept();
    let head = lines(&service.head_text());
    assert_eq!(line(&head, "x-forwarded-proto"), Some("https"));
    service.send(ok(""));
    client.reply();
}

#[test]
fn chunks_pass_with_every_method() {
    let rig = Rig::new();
    let chunked = "Transfer-Encoding: chunked";
    let body = "5\r\nhello\r\n0\r\n\r\n";
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "SEARCH"] {
        let head = format!("{method} /v1/jobs/x HTTP/1.1\r\nHost: x\r\n{chunked}\r\n\r\n");
        let mut client = rig.connect(head.clone() + body);
        let mut service = rig.accept();
        let asked = lines(&service.head_text());
        assert_eq!(line(&asked, "transfer-encoding"), Some("chunked"));
        assert_eq!(service.take(body.len()), body.as_bytes(), "{method}");
        service.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.head().status, 200);
        // Each chunk is checked before it passes.
        let mut client = rig.connect(head + "5\r\nhello\r\nx\r\n");
        let mut service = rig.accept();
        assert_eq!(client.head().status, 400, "{method}");
        assert_ends(&mut service);
    }
}

#[test]
fn a_connection_goes_on_behind_trailers() {
    let rig = Rig::new();
    for announced in ["", "\r\nTrailer: X-Sum"] {
        let chunked = format!("Transfer-Encoding: chunked{announced}");
        let first = post(
            "/v1/jobs/1",
            &chunked,
            "5\r\nhello\r\n0\r\nX-Sum: 9\r\n\r\n",
        );
        let mut client = rig.connect(first + &get("/v1/jobs/2"));
        let mut service = rig.accept();
        service.head_text();
        let last = if announced.is_empty() {
            ""
        } else {
            "x-sum: 9\r\n"
        };
        let body = format!("5\r\nhello\r\n0\r\n{last}\r\n");
        let got = service.take(body.len()).to_ascii_lowercase();
        assert_eq!(got, body.as_bytes());
        service.send(ok("1"));
        let reply = client.reply();
        assert_eq!((reply.text(), reply.header("connection")), ("1", None));
        // On the same connections, both of them.
        assert!(service.head_text().starts_with("GET /v1/jobs/2 "));
        service.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n2");
        assert_eq!(client.reply().text(), "2");
        client.send(get("/v1/jobs/3"));
        let mut service = rig.accept();
        service.head_text();
        service.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n3");
        assert_eq!(client.reply().text(), "3");
    }
}

#[test]
fn what_is_pipelined_in_plenty_is_answered_in_order() {
    let rig = Rig::new();
    let padding = format!("X: {}", "x".repeat(12_000));
    let request = |n: usize| post(&format!("/v1/jobs/{n}"), &padding, "");
    let all: String = (0..50).map(request).collect();
    let mut client = rig.connect(&all[..20_000]);
    client.send(&all[20_000..]);
    let mut service = rig.accept();
    for n in 0..50 {
        assert!(
            service
                .head_text()
                .starts_with(&format!("POST /v1/jobs/{n} "))
        );
        // Time to read what waits behind this request.
        std::thread::sleep(Duration::from_millis(2));
        service.send(ok(&n.to_string()));
        assert_eq!(client.reply().text(), n.to_string());
    }
}
