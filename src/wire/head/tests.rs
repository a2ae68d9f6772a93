use proptest::prelude::*;

use super::*;

fn refused(head: &[u8]) -> HeadError {
    match RequestHead::parse(head, 100) {
        Err(error) => error,
        Ok(_) => panic!("taken: {}", head.escape_ascii()),
    }
}

fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes()
}

fn with(lines: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n").into_bytes()
}

#[test]
fn the_end_is_found_in_any_pieces() {
    let head = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let whole = [&head[..], b"\x81\x00 more \r\n\r\n"].concat();
    assert_eq!(HeadScanner::default().end(&whole), Some(head.len()));
    for step in 1..8 {
        let mut scanner = HeadScanner::default();
        let found = (0..)
            .map(|n| (n * step).min(whole.len()))
            .find_map(|len| scanner.end(&whole[..len]));
        assert_eq!(found, Some(head.len()), "{step} bytes at a time");
    }
    let mut scanner = HeadScanner::default();
    assert_eq!(scanner.end(b"\n\n\r\n\n\r\r\n"), None);
    assert_eq!(scanner.end(b""), None);
    assert_eq!(size_of::<HeadScanner>(), 4);
}

#[test]
fn a_head_says_what_was_sent() {
    let bytes = b"\r\nGET /a%20b?x=1&y=?2 HTTP/1.1\r\nHost: example.com:80\r\nX-A:  one \t\r\nx-a: two\r\nX-B: \xff\r\n\r\n";
    let head = RequestHead::parse(bytes, 100).expect("a good head");
    assert_eq!((head.method(), head.target()), ("GET", "/a%20b?x=1&y=?2"));
    assert_eq!((head.path(), head.query()), ("/a%20b", Some("x=1&y=?2")));
    assert_eq!(head.minor_version(), 1);
    assert_eq!(head.header("X-a"), Some("one"));
    assert_eq!(
        head.header_values("X-A").collect::<Vec<_>>(),
        ["one", "two"]
    );
    assert_eq!(head.header("x-b"), Some("\u{fffd}"));
    assert_eq!(head.header("x-c"), None);
    let names: Vec<_> = head.headers().map(|(name, _)| name).collect();
    assert_eq!(names, ["Host", "X-A", "x-a", "X-B"]);
    assert_eq!(head.headers().last(), Some(("X-B", &b"\xff"[..])));
}

#[test]
fn odd_targets_are_paths_like_others() {
    for (target, path, query) in [
        ("/", "/", None),
        ("/../../etc/passwd", "/../../etc/passwd", None),
        ("/%2e%2e/%00", "/%2e%2e/%00", None),
        ("/%ff%fe", "/%ff%fe", None),
        ("/%zz", "/%zz", None),
        ("//", "//", None),
        ("//evil.example/x", "//evil.example/x", None),
        ("/\\", "/\\", None),
        ("/;x", "/;x", None),
        ("/é", "/é", None),
        ("/?", "/", Some("")),
        ("/a#b?c", "/a", None),
        ("/ws?%ff%fe&&=&=&a=%", "/ws", Some("%ff%fe&&=&=&a=%")),
        ("http://evil.example/", "/", None),
        ("HTTPS://[::1]:8000/a?b", "/a", Some("b")),
        ("ws://host?b", "/", Some("b")),
        ("http://host", "/", None),
    ] {
        let bytes = get(target);
        let head = RequestHead::parse(&bytes, 100).unwrap_or_else(|e| panic!("{target}: {e}"));
        assert_eq!((head.path(), head.query()), (path, query), "{target}");
        assert_eq!(head.target(), target);
    }
    let options = RequestHead::parse(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 100);
    assert_eq!(options.map(|head| head.path()), Ok("*"));
}

#[test]
fn targets_that_make_no_url_are_refused() {
    for target in [
        "*",
        "?",
        "x",
        "host:80",
        "#",
        "http://",
        "http:///x",
        "http://a b",
        "ftp://x/",
        "http://u@x/",
    ] {
        assert_eq!(refused(&get(target)).status(), 400, "{target}");
    }
    let raw = b"GET /?\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(refused(raw).status(), 400);
}

#[test]
fn one_host_that_names_a_host() {
    let head = |lines: &str| format!("GET / HTTP/1.1\r\n{lines}\r\n").into_bytes();
    for good in [
        "x",
        "x:80",
        "x:",
        "1.2.3.4:65535",
        "[::1]",
        "[2001:db8::1]:443",
        "a_b-c.d~e",
        "%41.x",
        "xn--bcher-kva.example",
    ] {
        let bytes = head(&format!("host: {good}\r\n"));
        assert!(RequestHead::parse(&bytes, 100).is_ok(), "{good}");
    }
    for bad in [
        "", ":80", "a b", "x:65536", "x:8a", "x:+1", "x:1:2", "[::1", "[::1]x", "[x]", "::1",
        "a/b", "a?b", "a#b", "u@x", "<x>", "%4", "x\\y", "é", "a\tb",
    ] {
        let error = refused(&head(&format!("Host: {bad}\r\n")));
        assert_eq!(error, HeadError::Host("Host header names no host"), "{bad}");
    }
    assert_eq!(refused(&head("")), HeadError::Host("no Host header"));
    let twice = "Host: x\r\nHost: x\r\n";
    assert_eq!(
        refused(&head(twice)),
        HeadError::Host("more than one Host header")
    );
    assert!(
        RequestHead::parse(b"GET / HTTP/1.0\r\n\r\n", 100)
            .is_ok_and(|head| head.minor_version() == 0)
    );
    assert_eq!(
        refused(b"GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n").status(),
        400
    );
}

#[test]
fn versions_that_are_not_known() {
    for (line, status) in [
        ("GET / HTTP/9.9", 505),
        ("GET / HTTP/2.0", 505),
        ("PRI * HTTP/2.0", 505),
        ("GET / HTTP/1.2", 505),
        ("GET / HTTP/11", 400),
        ("GET / HTTQ/1.1", 400),
        ("GET / http/1.1", 400),
        ("GET /", 400),
        ("GET", 400),
        ("", 400),
        ("GET  / HTTP/1.1", 400),
        ("GET / x HTTP/1.1", 400),
        (" GET / HTTP/1.1", 400),
        ("G(T / HTTP/1.1", 400),
        ("GET / HTTP/1.1 ", 400),
    ] {
        let error = refused(format!("{line}\r\nHost: x\r\n\r\n").as_bytes());
        assert_eq!(error.status(), status, "{line}: {error}");
    }
}

#[test]
fn lines_that_two_readers_could_read_differently() {
    for lines in [
        "X-A : b",
        "X-A: a\rX-B: b",
        "X-A: a\0b",
        "X-A: a\nX-B: b",
        "X-A: a\r\n folded",
        "X-A: a\r\n\tfolded",
        " X-A: b",
        "X-A",
        ": b",
        "X A: b",
        "X-\u{e9}: b",
        "X-A: \x7f",
        "X-A: a\r\r\nX-B: b",
    ] {
        let error = refused(&with(lines));
        assert!(
            matches!(error, HeadError::Syntax(_)),
            "{lines:?}: {error:?}"
        );
        assert_eq!(error.status(), 400);
    }
    assert_eq!(refused(b"GET / HTTP/1.1\nHost: x\n\n").status(), 400);
    for no_http in [
        &b"\x16\x03\x01\x00\xc8\x01\r\n\r\n"[..],
        &[0; 512],
        b"\r\n\r\n",
        b"",
    ] {
        assert_eq!(refused(no_http).status(), 400);
    }
    // Bytes past the end of the head are the caller's, not a second head.
    assert_eq!(
        refused(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET").status(),
        400
    );
    assert_eq!(refused(b"GET / HTTP/1.1\r\nHost: x\r\n").status(), 400);
}

#[test]
fn the_length_of_a_body_has_one_reading() {
    for lines in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 0x5",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, Chunked",
        "Transfer-Encoding: chunked, gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gz\u{e9}ip, chunked",
    ] {
        let error = refused(&with(lines));
        assert!(matches!(error, HeadError::Body(_)), "{lines:?}: {error:?}");
    }
    for lines in [
        "Content-Length: 5",
        "Content-Length: 5\r\ncontent-length: 5",
        "Transfer-Encoding: gzip, Chunked",
    ] {
        assert!(RequestHead::parse(&with(lines), 100).is_ok(), "{lines:?}");
    }
    let old = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert!(matches!(refused(old), HeadError::Body(_)));
}

#[test]
fn the_number_of_headers_is_bounded() {
    let lines = |n: usize| -> Vec<u8> {
        let lines: Vec<_> = (0..n).map(|i| format!("X-{i}: a")).collect();
        with(&lines.join("\r\n"))
    };
    assert!(RequestHead::parse(&lines(99), 100).is_ok());
    assert_eq!(refused(&lines(100)), HeadError::TooManyHeaders);
    assert_eq!(refused(&lines(2000)).status(), 431);
    assert!(matches!(
        RequestHead::parse(&get("/"), 0),
        Err(HeadError::TooManyHeaders)
    ));
}

#[test]
fn a_head_without_end_is_too_large_or_its_target_too_long() {
    assert_eq!(HeadError::too_large(b"GET /aaaaaa").status(), 414);
    assert_eq!(
        HeadError::too_large(b"GET / HTTP/1.1\r\nX: aaa").status(),
        431
    );
}

fn token() -> impl Strategy<Value = String> {
    "[A-Za-z0-9!#$&'*+.^_`|~-]{1,12}"
}

proptest! {
    #[test]
    fn parse_undoes_writing(
        method in token(),
        path in "/[!-~&&[^?#]]{0,20}",
        query in prop::option::of("[!-~&&[^#]]{0,20}"),
        headers in prop::collection::vec(("X-[A-Za-z0-9]{1,8}", "([!-~]([ -~]{0,10}[!-~])?)?"), 0..8),
    ) {
        let target = query.as_ref().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
        let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: x\r\n");
        for (name, value) in &headers {
            bytes.push_str(&format!("{name}: {value}\r\n"));
        }
        bytes.push_str("\r\n");
        let head = RequestHead::parse(bytes.as_bytes(), 100).expect("a good head");
        prop_assert_eq!(head.method(), method);
        prop_assert_eq!(head.target(), target);
        prop_assert_eq!(head.path(), path);
        prop_assert_eq!(head.query(), query.as_deref());
        let parsed: Vec<_> = head.headers().skip(1).collect();
        let written: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
        prop_assert_eq!(parsed, written);
        prop_assert!(!head.asks_upgrade());
    }

    #[test]
    fn random_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        lines in "(GET /|HTTP/1.1|\r\n|Host|: |x|,|%|\\[|\\]|content-length|1|Upgrade|\\PC){0,20}",
    ) {
        for tail in [&b""[..], b"\r\n\r\n"] {
            for bytes in [&bytes[..], lines.as_bytes(), format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}").as_bytes()] {
                let bytes = [bytes, tail].concat();
                HeadScanner::default().end(&bytes);
                if let Ok(head) = RequestHead::parse(&bytes, 10) {
                    let _ = head.upgrade().map(|upgrade| upgrade.negotiate_deflate());
                }
            }
        }
    }
}
