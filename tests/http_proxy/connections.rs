//! Connections to services: kept, replaced, over TLS; and a client's that becomes a WebSocket.

use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use socket2::SockRef;
use weirgate::gateways::events::EventsService;
use weirgate_wire::admission::Quota;

use crate::rig::{Rig, accept, accept_within, assert_ends, get, ok, post, proxied};

#[test]
fn a_kept_connection_that_was_closed_is_replaced() {
    let rig = Rig::new();
    let mut client = rig.connect("");
    let bodies = [
        get("/v1/jobs/x"),
        post("/v1/jobs/x", "Content-Length: 2", "ab"),
    ];
    for again in bodies {
        client.send(get("/v1/jobs/x"));
        let mut service = rig.accept();
        service.head_text();
        service.send(ok("1"));
        assert_eq!(client.reply().status, 200);
        drop(service);
        // The gateway sees the end when it looks, before or while it sends.
        std::thread::sleep(Duration::from_millis(50));
        client.send(again);
        let mut service = rig.accept();
        service.head_text();
        service.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n2");
        assert_eq!(client.reply().text(), "2");
        assert_ends(&mut service);
    }
}

#[test]
fn what_clients_send_ahead_has_one_sum_of_which_an_address_has_its_share() {
    let rig = Rig::with(|settings| settings.held = Quota::new("http", 200_000));
    let begin = |client: u8, bytes: usize| {
        let ip = IpAddr::from([192, 0, 2, client]);
        let with_head = get("/v1/jobs/x") + &"G".repeat(bytes);
        let mut client = rig.connect_as(ip, with_head);
        let mut service = rig.accept();
        service.head_text();
        client.stream.set_nonblocking(true).unwrap();
        // More than may be read ahead.
        let _ = client.stream.write(&[b'G'; 150_000]);
        (client, service, ip.into())
    };
    let wait_for = |address, bytes: u64| {
        let end = Instant::now() + Duration::from_secs(30);
        while rig.held.of(address) < bytes {
            assert!(Instant::now() < end, "{:?}", rig.held);
            std::thread::sleep(Duration::from_millis(2));
        }
        // It looks again after half a second.
        std::thread::sleep(Duration::from_millis(600));
        rig.held.of(address)
    };
    let many: Vec<_> = (0..3).map(|_| begin(1, 5_000)).collect();
    let of_many = wait_for(many[0].2, 95_000);
    assert!(
        of_many < 130_000,
        "{of_many}: half, and a piece of each connection"
    );
    let other = begin(2, 5_000);
    let of_other = wait_for(other.2, 30_000);
    assert!(of_other < 60_000 && rig.held.held() < 200_000, "{of_other}");
    drop((many, other));
    rig.wait_for_permits(0);
    assert_eq!(rig.held.held(), 0);
}

#[test]
fn a_connection_that_was_not_used_for_long_is_not_used_again() {
    let rig = Rig::new();
    let mut client = rig.connect(get("/v1/jobs/x"));
    let mut first = rig.accept();
    first.head_text();
    first.send(ok("1"));
    client.reply();
    // Common servers end it after 5 s, perhaps just when the next request comes.
    std::thread::sleep(Duration::from_millis(4_500));
    // It ends without a next request: it takes a descriptor and memory.
    assert_ends(&mut first);
    client.send(get("/v1/jobs/x"));
    let mut second = rig.accept();
    second.head_text();
    second.send(ok("2"));
    assert_eq!(client.reply().text(), "2");
}

/// There is room for one connection to both services.
#[test]
fn an_idle_connection_to_another_service_makes_room() {
    let rig = Rig::with(|settings| settings.limits.connections_max = 1);
    let mut client = rig.connect(get("/v1/jobs/x"));
    let mut first = rig.accept();
    first.head_text();
    first.send(ok("1"));
    client.reply();
    client.send(get("/v1/simulation/x"));
    let mut second = accept(&rig.simulation);
    assert_ends(&mut first);
    second.head_text();
    second.send(ok("2"));
    assert_eq!(client.reply().text(), "2");
}

#[test]
fn a_request_that_meets_the_end_of_a_kept_connection_is_sent_again_where_that_does_no_harm() {
    let rig = Rig::new();
    let asked = [
        get("/v1/jobs/x"),
        post("/v1/jobs/x", "Content-Length: 2", "ab"),
    ];
    let [resets, ends] = [true, false];
    for (again, end, status) in [
        (&asked[0], resets, 200),
        (&asked[1], resets, 502),
        // The service may have done what it was asked.
        (&asked[0], ends, 502),
        (&asked[1], ends, 502),
    ] {
        // On a busy machine a reset may come too late to be taken for a crossing.
        let meets_end = || {
            let mut client = rig.connect(get("/v1/jobs/x"));
            let mut service = rig.accept();
            service.head_text();
            service.send(ok("1"));
            client.reply();
            client.send(again);
            service.head_text();
            if end == resets {
                let linger = SockRef::from(&service.stream).set_linger(Some(Duration::ZERO));
                linger.unwrap();
            }
            drop(service);
            if status == 200 {
                let mut service = accept_within(&rig.measurement, Duration::from_millis(500))?;
                service.head_text();
                service.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n2");
            }
            Some(client.reply().status)
        };
        let met = (0..50).find_map(|_| meets_end());
        assert_eq!(met, Some(status));
    }
}

#[test]
fn a_websocket_may_be_asked_for_after_proxied_requests() {
    let rig = Rig::new();
    let mut client = rig.connect(post("/v1/jobs/x", "Content-Length: 2", "ab"));
    let mut service = rig.accept();
    service.head_text();
    let upgrade =
        "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nframe";
    client.send(upgrade);
    service.send(ok("1"));
    assert_eq!(client.reply().text(), "1");
    let returned = rig.returned.recv_timeout(Duration::from_secs(30)).unwrap();
    // The end of the same write may still be in the socket.
    assert!(upgrade.as_bytes().starts_with(&returned.read));
    assert!(returned.read.len() >= upgrade.len() - "frame".len());
}

#[test]
fn a_service_may_be_at_https() {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = signed.cert.der().clone();
    let key =
        rustls::pki_types::PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let tls = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for (host, status) in [("localhost", 200), ("127.0.0.1", 502)] {
        let rig = Rig::with(|settings| {
            let (url, tls) = (format!("https://{host}:{port}"), Arc::new(tls.clone()));
            settings.services[0] = proxied(EventsService::MEASUREMENT, &url, Some(tls));
        });
        let mut client = rig.connect(get("/v1/jobs/x"));
        let stream = accept(&listener).stream;
        let session = ServerConnection::new(Arc::new(server.clone())).unwrap();
        let mut stream = StreamOwned::new(session, stream);
        // To a name that the certificate does not have nothing is said.
        let sent = stream
            .write_all(ok("secret").as_bytes())
            .and_then(|()| stream.flush());
        let reply = client.reply();
        assert_eq!(reply.status, status, "{host}: {sent:?}");
    }
}

#[test]
fn uploads_that_crawl_give_way_whatever_the_number_of_addresses_and_slow_ones_do_not() {
    let rig = Rig::with(|settings| settings.limits.service_connections_max = 8);
    let upload = |client: u8| {
        let post = post("/v1/jobs/up", "Content-Length: 100000", "x");
        let client = rig.connect_as([192, 0, 2, client].into(), post);
        let mut service = rig.accept();
        service.head_text();
        (client, service)
    };
    let (mut slow, mut taker) = upload(1);
    let mut crawls: Vec<_> = [2, 2, 2, 3, 3, 4, 5].into_iter().map(upload).collect();
    // An honest client of 1,500 bytes a second.
    let sender = std::thread::spawn(move || {
        for _ in 0..10 {
            slow.send([b'x'; 300]);
            std::thread::sleep(Duration::from_millis(200));
        }
        slow
    });
    std::thread::sleep(Duration::from_millis(500));
    for (client, _) in &mut crawls {
        client.send("y");
    }
    for other in 11..14 {
        let mut client = rig.connect_as([192, 0, 2, other].into(), get("/v1/jobs/x"));
        let mut service = rig.accept();
        assert!(service.head_text().starts_with("GET "));
        // It keeps its place, so the next one needs another.
        service.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhe");
        assert_eq!(client.head().status, 200);
        crawls.push((client, service));
    }
    let slow_bodies = r#"service="measurement",outcome="slow_body""#;
    rig.wait_for(
        &format!("weirgate_proxy_requests_total{{{slow_bodies}}}"),
        3.0,
    );
    let reply = crawls[0].0.reply();
    assert_eq!(
        (reply.status, reply.text()),
        (408, r#"{"detail":"Request body too slow"}"#)
    );
    assert_eq!(reply.header("connection"), Some("close"));
    let mut slow = sender.join().unwrap();
    taker.take(3_001);
    slow.send(vec![b'x'; 100_000 - 3_001]);
    taker.take(100_000 - 3_001);
    taker.send(ok("done"));
    assert_eq!(slow.reply().text(), "done");
}

/// Of two clients with a large answer each, another request takes the place of the one that reads nothing.
#[test]
fn an_answer_that_its_client_does_not_take_gives_way() {
    const BYTES: usize = 20_000_000;
    let rig = Rig::with(|settings| settings.limits.service_connections_max = 2);
    let begin = |last: u8| {
        let client = rig.connect_as([192, 0, 2, last].into(), get("/v1/jobs/large"));
        let mut service = rig.accept();
        service.head_text();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n");
        service.send(head);
        let sending = thread::spawn(move || service.stream.write_all(&vec![b'x'; BYTES]).is_ok());
        (client, sending)
    };
    let (_unread, cut) = begin(1);
    let (mut reads, whole) = begin(2);
    let reading = thread::spawn(move || {
        reads.head_text();
        for _ in 0..BYTES / 100_000 {
            reads.take(100_000);
            thread::sleep(Duration::from_millis(35));
        }
    });
    let mut third = rig.connect_as([192, 0, 2, 3].into(), get("/v1/jobs/third"));
    let mut service = rig.accept();
    assert!(service.head_text().starts_with("GET /v1/jobs/third "));
    service.send(ok("3"));
    assert_eq!(third.reply().text(), "3");
    assert!(!reading.is_finished(), "it is not the place of the other");
    reading.join().expect("a client that reads stays");
    assert!(whole.join().expect("a thread"), "the whole answer");
    assert!(!cut.join().expect("a thread"));
}
