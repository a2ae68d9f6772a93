//! Messages that a proxy easily changes, to the letter.

use crate::rig::{Client, Rig, accept, get, line, lines, ok, post, request};
use weirgate_wire::admission::TrustedProxies;

/// A request through the proxy, and its head at the service.
fn asked(rig: &Rig, request: impl AsRef<[u8]>) -> (Client, Client, String) {
    let client = rig.connect(request);
    let mut service = rig.accept();
    let head = service.head_text();
    (client, service, head)
}

#[test]
fn odd_targets_pass_as_they_were_sent() {
    let rig = Rig::new();
    for target in [
        "/v1/jobs/",
        "/v1/jobs//a//b/",
        "/v1/jobs/a%2Fb%2fc",
        "/v1/jobs/%zz%",
        "/v1/jobs/%C3%A9%ff",
        "/v1/jobs/a;v=1;w/b;",
        "/v1/jobs/gateway/internal/handle",
        "/v1/jobs/.a/..b/...",
        "/v1/jobs/:@!$&'()*+,=~-._",
        "/v1/jobs/x?",
        "/v1/jobs/x?a=../..&b=%00&c=/gateway/&&",
        "/v1/jobs/x?a=%2e%2e?b",
    ] {
        let (mut client, mut service, head) = asked(&rig, get(target));
        let expected = format!("GET {target} HTTP/1.1\r\n");
        assert!(head.starts_with(&expected), "{target}: {head}");
        service.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.reply().status, 200);
    }
}

#[test]
fn the_inner_token_never_passes_however_it_is_written() {
    let rig = Rig::new();
    for tokens in [
        "X-Internal-Token: s",
        "x-internal-token: s\r\nX-INTERNAL-TOKEN: s",
        "X_Internal_Token: s\r\nX-Internal_Token: s",
        "X-Internal-Token: s\r\nConnection: keep-alive, content-length, host",
        "Connection: X-Internal-Token\r\nX-Internal-Token: s",
    ] {
        let (_, mut service, head) = asked(&rig, post("/v1/jobs/x", tokens, ""));
        assert!(!head.to_lowercase().contains("internal"), "{head}");
        service.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    }
}

#[test]
fn what_concerns_one_connection_passes_neither_way() {
    let rig = Rig::new();
    let hop = "Connection: close, X-One\r\nconnection: x-two\r\nX-One: 1\r\nX-Two: 2\r\n\
               Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
               Proxy-Authorization: Basic x\r\nProxy-Authenticate: Basic\r\nTE: gzip\r\n\
               X-Kept: yes\r\nContent-Length: 2";
    let (mut client, mut service, head) = asked(&rig, post("/v1/jobs/x", hop, "ab"));
    let mut names = names(&head);
    names.retain(|name| !name.starts_with("x-forwarded-"));
    assert_eq!(names, ["content-length", "host", "traceparent", "x-kept"]);
    assert_eq!(service.take(2), b"ab");
    service.send(format!("HTTP/1.1 200 OK\r\nDate: x\r\n{hop}\r\n\r\ncd"));
    let reply = client.reply();
    assert_eq!(reply.text(), "cd");
    // The client's own connection ends as it asked.
    let expected = ["connection", "content-length", "date", "x-kept"];
    assert_eq!(self::names(&reply.head), expected);
    assert_eq!(reply.header("connection"), Some("close"));
}

fn names(head: &str) -> Vec<String> {
    let name = |line: &String| line.split(": ").next().unwrap().to_owned();
    lines(head).iter().map(name).collect()
}

#[test]
fn the_list_of_addresses_is_appended_to_whoever_sends_it() {
    for (is_trusted, proto) in [(false, "http"), (true, "https")] {
        let trusted = match is_trusted {
            true => TrustedProxies::Any,
            false => TrustedProxies::None,
        };
        let rig = Rig::behind(trusted, |_| {});
        let forwarded = "X-Forwarded-For: 1.1.1.1, 2.2.2.2\r\nX-Forwarded-For: 3.3.3.3\r\n\
                         X-Forwarded-Proto: https\r\nX-Forwarded-Host: www.example";
        let (_, _, head) = asked(&rig, post("/v1/jobs/x", forwarded, ""));
        let head = lines(&head);
        let list = "1.1.1.1, 2.2.2.2, 3.3.3.3, 127.0.0.1";
        assert_eq!(line(&head, "x-forwarded-for"), Some(list));
        assert_eq!(line(&head, "x-forwarded-proto"), Some(proto));
        let host = if proto == "https" {
            "www.example"
        } else {
            "public"
        };
        assert_eq!(line(&head, "x-forwarded-host"), Some(host));
    }
}

#[test]
fn a_length_stays_what_it_was() {
    let rig = Rig::new();
    for (request, length) in [
        (get("/v1/jobs/x"), None),
        (request("DELETE", "/v1/jobs/x"), None),
        (post("/v1/jobs/x", "Content-Length: 0", ""), Some("0")),
        (post("/v1/jobs/x", "Content-Length: 2", "ab"), Some("2")),
    ] {
        let (mut client, mut service, head) = asked(&rig, &request);
        let head = lines(&head);
        assert_eq!(line(&head, "content-length"), length, "{request}");
        assert_eq!(line(&head, "transfer-encoding"), None, "{request}");
        service.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        client.reply();
    }
    for (method, answer) in [
        ("GET", "304 Not Modified\r\nContent-Length: 77"),
        ("HEAD", "304 Not Modified\r\nContent-Length: 77"),
        ("HEAD", "200 OK\r\nContent-Length: 77"),
        ("HEAD", "404 Not Found\r\nContent-Length: 0"),
    ] {
        let (mut client, mut service, _) = asked(&rig, request(method, "/v1/jobs/x"));
        service.send(format!("HTTP/1.1 {answer}\r\nConnection: close\r\n\r\n"));
        let head = client.head();
        let (_, length) = answer.rsplit_once(' ').unwrap();
        assert_eq!(head.header("content-length"), Some(length), "{answer}");
        assert_eq!(head.header("transfer-encoding"), None, "{answer}");
        // Nothing follows, on a connection that goes on.
        client.send(get("/v1/jobs/y"));
        let mut service = rig.accept();
        service.head_text();
        service.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n1");
        assert_eq!(client.reply().text(), "1", "{answer}");
    }
}

#[test]
fn early_heads_of_a_service_are_its_own() {
    let rig = Rig::new();
    let (mut client, mut service, _) = asked(&rig, get("/v1/jobs/x"));
    service.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    service.send("HTTP/1.1 100 Continue\r\n\r\n".to_owned() + &ok("1"));
    let reply = client.reply();
    assert_eq!((reply.status, reply.text()), (200, "1"));
}

#[test]
fn nothing_of_one_client_comes_to_another() {
    let rig = Rig::new();
    let (mut client, mut service, _) = asked(&rig, get("/v1/jobs/x"));
    service.send(
        "HTTP/1.1 302 Found\r\nLocation: /v1/jobs/y\r\nSet-Cookie: a=1\r\nContent-Length: 0\r\n\r\n",
    );
    let reply = client.reply();
    assert_eq!(reply.status, 302);
    assert_eq!(reply.header("location"), Some("/v1/jobs/y"));
    // On the very connection to the service, and nobody followed the redirect before.
    let mut other = rig.connect(get("/v1/jobs/z"));
    let head = service.head_text();
    assert!(head.starts_with("GET /v1/jobs/z "), "{head}");
    assert!(!head.to_lowercase().contains("cookie"), "{head}");
    service.send(ok("1"));
    assert_eq!(other.reply().header("set-cookie"), None);
}

#[test]
fn a_body_that_should_not_be_there_answers_nobody() {
    let head = get("/v1/jobs/x").replacen("GET", "HEAD", 1);
    for (request, answer, is_kept) in [
        (&head, "200 OK\r\nContent-Length: 40", false),
        (&head, "200 OK\r\nTransfer-Encoding: chunked", false),
        (&head, "200 OK", false),
        (&head, "200 OK\r\nContent-Length: 0", true),
        (&head, "204 No Content", true),
        (
            &get("/v1/jobs/x"),
            "204 No Content\r\nContent-Length: 40",
            false,
        ),
        (
            &get("/v1/jobs/x"),
            "304 Not Modified\r\nTransfer-Encoding: chunked",
            false,
        ),
        (&get("/v1/jobs/x"), "304 Not Modified\r\nETag: a", true),
    ] {
        let rig = Rig::new();
        let (mut client, mut service, _) = asked(&rig, request);
        service.send(format!("HTTP/1.1 {answer}\r\n\r\n"));
        assert!(client.head_text().starts_with("HTTP/1.1 "), "{answer}");
        let mut other = rig.connect(get("/v1/jobs/z"));
        let mut next = if is_kept { service } else { rig.accept() };
        assert!(next.head_text().starts_with("GET /v1/jobs/z "), "{answer}");
        next.send(ok("1"));
        assert_eq!(other.reply().text(), "1", "{answer}");
    }
}

#[test]
fn a_service_may_refuse_a_body_without_reading_it() {
    let rig = Rig::new();
    for framing in ["Content-Length: 100000000", "Transfer-Encoding: chunked"] {
        let start = if framing.starts_with('T') {
            "ff\r\nab"
        } else {
            "ab"
        };
        let (mut client, mut service, _) = asked(&rig, post("/v1/jobs/x", framing, start));
        assert!(!service.take(2).is_empty());
        service.send("HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge");
        drop(service);
        let reply = client.reply();
        assert_eq!((reply.status, reply.text()), (413, "large"), "{framing}");
    }
    rig.wait_for_permits(0);
}

#[test]
fn headers_that_some_services_take_for_others_never_pass() {
    let rig = Rig::new();
    let twins = "X_Forwarded_For: 9.9.9.9\r\nX_Forwarded-Proto: https\r\nTransfer_Encoding: chunked\r\n\
                 Content_Length: 7\r\nX_Custom: 1\r\n_: 1\r\nX-Kept: a_b";
    let (_, _, head) = asked(&rig, post("/v1/jobs/x", twins, ""));
    let mut names = names(&head);
    names.retain(|name| !name.starts_with("x-forwarded-"));
    assert_eq!(names, ["host", "traceparent", "x-kept"]);
}

#[test]
fn the_host_that_was_asked_for_is_the_targets_where_it_has_one() {
    let rig = Rig::new();
    for (target, host) in [
        ("http://www.example/v1/jobs/x", "www.example"),
        ("http://www.example:8080/v1/jobs/x", "www.example:8080"),
        ("HTTP://public/v1/jobs/x", "public"),
        ("/v1/jobs/x", "public"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: public\r\n\r\n");
        let (mut client, mut service, head) = asked(&rig, request);
        assert_eq!(line(&lines(&head), "x-forwarded-host"), Some(host));
        service.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        client.reply();
    }
}

#[test]
fn a_redirect_of_the_service_to_itself_leads_to_the_gateway() {
    let rig = Rig::new();
    let mut client = rig.connect(get("/v1/simulation/items"));
    let mut service = accept(&rig.simulation);
    assert!(service.head_text().starts_with("GET /base/items "));
    let own = rig.simulation.local_addr().unwrap();
    service.send(format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{own}/base/items/?a=1\r\nContent-Length: 0\r\n\r\n"
    ));
    let reply = client.reply();
    assert_eq!(reply.status, 307);
    assert_eq!(reply.header("location"), Some("/v1/simulation/items/?a=1"));
}
