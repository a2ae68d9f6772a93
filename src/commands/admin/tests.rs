use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::*;

const PATH: &str = "/operator/state";

fn ask(addr: SocketAddr) -> Answered {
    let target = Target::here(&[addr.into()], PATH);
    let at = Admins {
        targets: Vec::new(),
        ca_file: None,
        authorization: Some(SecretText::new("Basic YTpi")),
    };
    at.ask(&target, "GET", "")
}

/// Asks a server whose responses `answer` writes. Returns the request heads too.
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
    assert!(refused(PATH, 404).contains("--admin-addr"));
    assert!(refused(PATH, 401).contains("--authorization"));
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
    // Bound but not listening, so that no other socket gets the port.
    let closed = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    closed.bind(&any.into()).unwrap();
    let addr = closed.local_addr().unwrap().as_socket().unwrap();
    let error = ask(addr).unwrap_err();
    assert!(error.contains("no connection"), "{error}");
}

#[test]
fn addresses_are_read_as_a_person_has_them() {
    for (text, shown, base, authority, tls) in [
        ("http://h:9100", "h:9100", "", "h:9100", false),
        ("h:9100", "h:9100", "", "h:9100", false),
        ("h:9100/operator/", "h:9100", "", "h:9100", false),
        ("http://[::1]:9/", "[::1]:9", "", "[::1]:9", false),
        ("HTTPS://h/a/operator?x#y", "https://h/a", "/a", "h", true),
        (
            "unix:/run/a.sock",
            "unix:/run/a.sock",
            "",
            "localhost",
            false,
        ),
    ] {
        let target = parse(text, PATH).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(target.to_string(), shown, "{text}");
        let want = (format!("{base}{PATH}"), authority, tls);
        assert_eq!(
            (target.path, &*target.authority, target.tls),
            want,
            "{text}"
        );
    }
    let all = ListenAddr::from(std::net::SocketAddr::from(([0, 0, 0, 0], 9100)));
    assert_eq!(here(all, PATH).to_string(), "127.0.0.1:9100");
}

#[test]
fn what_is_no_address_is_refused_without_being_repeated() {
    for text in [
        "",
        "ftp://secret",
        "http://u:secret@h",
        "http://",
        "http://h:secret",
        "unix:",
    ] {
        let error = parse(text, PATH).expect_err(text);
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn a_silent_gateway_delays_no_other() {
    let listeners = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    let targets = listeners.each_ref().map(|listener| {
        let addr = listener.local_addr().unwrap();
        Target::here(&[addr.into()], PATH)
    });
    // Each answers only once both have a request.
    let server = thread::spawn(move || {
        let mut streams = listeners.map(|listener| {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            stream
        });
        for stream in &mut streams {
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
            stream.write_all(answer).unwrap();
        }
    });
    let command = DisconnectCommand {
        at: Admins {
            targets: targets.into(),
            ca_file: None,
            authorization: None,
        },
        body: "{}".to_owned(),
    };
    assert_eq!(command.ask_all(), [0; 2].map(|_| (true, "{}".to_owned())));
    server.join().unwrap();
}
