//! Calls of services over real sockets: each service is a thread that says what the test wants.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, ServerConfig, ServerConnection, StreamOwned};
use socket2::SockRef;
use weirgate::http::calls::{CallLimits, CallStats, Called, Calls, Upstream};
use weirgate::hub::{Answer, Call, CallFailure, Frame, FrameBytes, Reader, Reply};
use weirgate::trust;
use weirgate::wire::traceparent::Trace;

const SILENCE: Duration = Duration::from_millis(300);
/// For an answer that has to come; longer than any limit here.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a service does with the `n`th request of its `connection`th connection; the connection
/// ends when it returns `false`.
type Script = fn(&mut dyn ReadWrite, &Asked) -> bool;

trait ReadWrite: Read + Write {
    /// The socket below.
    fn socket(&self) -> &TcpStream;

    /// Says that no more will come.
    fn end(&self) {
        self.socket().shutdown(Shutdown::Write).expect("connected");
    }

    /// The end of the connection will be a reset; says that it ends.
    fn reset(&self) -> bool {
        let socket = SockRef::from(self.socket());
        let linger = socket.set_linger(Some(Duration::ZERO));
        linger.expect("a socket");
        false
    }
}

impl ReadWrite for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl ReadWrite for StreamOwned<ServerConnection, TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref()
    }
}

/// A request, and its number among those of the service and of its connection, both from 0.
struct Asked {
    text: String,
    of_connection: usize,
    connection: usize,
}

/// What came of a call.
type Outcome = Result<Answer, CallFailure>;

struct World {
    calls: Calls,
    replies: Receiver<Reply>,
    /// What readers were given, in their order.
    outcomes: Receiver<Outcome>,
    tell: Sender<Outcome>,
    stats: Arc<CallStats>,
    requests: Arc<AtomicUsize>,
}

fn limits() -> CallLimits {
    CallLimits {
        silence: SILENCE,
        whole: 6 * SILENCE,
        answer_bytes_max: 1000,
    }
}

/// Where nothing should take too long.
fn patient() -> CallLimits {
    CallLimits {
        silence: PATIENCE,
        whole: PATIENCE,
        ..limits()
    }
}

impl World {
    fn new(script: Script) -> Self {
        Self::with(script, "/", limits())
    }

    fn with(script: Script, path: &str, limits: CallLimits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}{path}", listener.local_addr().expect("bound"));
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                let (mut stream, counted) = (stream.expect("accepted"), Arc::clone(&counted));
                thread::spawn(move || serve(&mut stream, connection, script, &counted));
            }
        });
        Self::at(&url, requests, None, limits)
    }

    fn at(
        url: &str,
        requests: Arc<AtomicUsize>,
        tls: Option<Arc<ClientConfig>>,
        limits: CallLimits,
    ) -> Self {
        let stats = Arc::<CallStats>::default();
        let called = Called {
            upstream: Upstream::parse(url).expect("a URL"),
            stats: Arc::clone(&stats),
        };
        let (reply, replies) = mpsc::channel();
        let replied = Box::new(move |one| reply.send(one).expect("the test waits"));
        let (tell, outcomes) = mpsc::channel();
        Self {
            calls: Calls::start(vec![called], tls, limits, replied).expect("a thread"),
            replies,
            outcomes,
            tell,
            stats,
            requests,
        }
    }

    fn make(&self, body: &str) {
        self.make_read(body, || {});
    }

    /// `reading` is called when what came of the call is read.
    fn make_read(&self, body: &str, reading: impl Fn() + Send + Sync + 'static) {
        let tell = self.tell.clone();
        self.calls.make(Call {
            id: 7,
            service: 0,
            body: body.as_bytes().to_vec(),
            trace: Trace {
                parent: "00-1-2-01".to_owned(),
                state: "a=b,c=d".to_owned(),
            },
            reader: Reader::new(move |outcome| {
                reading();
                tell.send(outcome).expect("the test waits");
                Ok(Frame::text(&FrameBytes::default()).body(b"read").finish())
            }),
        });
    }

    fn reply(&self) -> Outcome {
        let reply = self.replies.recv_timeout(PATIENCE).expect("a reply");
        assert_eq!(reply.id, 7);
        assert_eq!(reply.frame.expect("an answer").body(), b"read");
        let outcome = self.outcomes.try_recv().expect("it was read before");
        assert_eq!(reply.failure, outcome.as_ref().err().copied());
        outcome
    }

    fn call(&self) -> Outcome {
        self.make("{}");
        self.reply()
    }

    fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }
}

fn serve(stream: &mut dyn ReadWrite, connection: usize, script: Script, counted: &AtomicUsize) {
    let mut of_connection = 0;
    while let Some(text) = read_request(stream) {
        counted.fetch_add(1, SeqCst);
        let asked = Asked {
            text,
            of_connection,
            connection,
        };
        if !script(stream, &asked) {
            return;
        }
        of_connection += 1;
    }
}

fn read_request(stream: &mut dyn ReadWrite) -> Option<String> {
    let mut read = Vec::new();
    let mut byte = [0];
    while !read.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        read.extend(byte);
    }
    let head = String::from_utf8(read).expect("text").to_lowercase();
    let length = head.split("content-length: ").nth(1).expect("a length");
    let length = length.split("\r\n").next().expect("digits").parse();
    let mut body = vec![0; length.expect("a number")];
    stream.read_exact(&mut body).ok()?;
    Some(head + std::str::from_utf8(&body).expect("text"))
}

fn say(stream: &mut dyn ReadWrite, text: &str) -> bool {
    stream.write_all(text.as_bytes()).is_ok()
}

fn ok(stream: &mut dyn ReadWrite, body: &str) -> bool {
    let length = body.len();
    say(
        stream,
        &format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"),
    )
}

fn hang(stream: &mut dyn ReadWrite) -> bool {
    // Ends when the gateway gives the connection up.
    let _ = stream.read(&mut [0]);
    false
}

fn body(outcome: Outcome) -> String {
    String::from_utf8(outcome.expect("an answer").body).expect("text")
}

#[test]
fn a_call_is_a_post_and_its_answer_comes_back_as_it_was() {
    let echo: Script = |stream, asked| {
        let body = &asked.text;
        let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let head = "HTTP/1.1 307 Elsewhere\r\nLocation: /x\r\nContent-Type: Text/Odd; a=b\r\n\
                    Content-Encoding: GZip\r\nSet-Cookie: a=b\r\nTransfer-Encoding: chunked\r\n\r\n";
        say(stream, head) && say(stream, &chunk)
    };
    let world = World::with(echo, "/base/", limits());
    for _ in 0..2 {
        world.make(r#"{"a":1}"#);
        let answer = world.reply().expect("an answer");
        assert_eq!(
            (answer.status, answer.content_type.as_str()),
            (307, "Text/Odd; a=b")
        );
        let asked = String::from_utf8(answer.body).expect("text");
        assert!(
            asked.starts_with("post /base/gateway/handle http/1.1\r\n"),
            "{asked}"
        );
        assert!(asked.ends_with("\r\n\r\n{\"a\":1}"), "{asked}");
        for header in [
            "\r\nhost: 127.0.0.1:",
            "\r\ncontent-type: application/json\r\n",
            "\r\naccept-encoding: identity\r\n",
            "\r\ntraceparent: 00-1-2-01\r\n",
            "\r\ntracestate: a=b,c=d\r\n",
        ] {
            assert!(asked.contains(header), "{asked}");
        }
        assert!(!asked.contains("cookie"), "{asked}");
    }
    assert_eq!(world.requests(), 2, "redirects are not followed");
    assert_eq!(world.stats.outcomes().next(), Some(("answered", 2)));
    assert_eq!(world.stats.in_flight(), 0);
}

#[test]
fn an_answer_that_was_compressed_all_the_same_is_read() {
    let gzip: Script = |stream, _| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(b"[1]").expect("memory");
        let body = encoder.finish().expect("memory");
        let head = "HTTP/1.1 200 OK\r\nContent-Encoding: GZip\r\nContent-Length: ";
        say(stream, &format!("{head}{}\r\n\r\n", body.len())) && stream.write_all(&body).is_ok()
    };
    assert_eq!(body(World::new(gzip).call()), "[1]");
}

#[test]
fn a_service_that_says_nothing_is_given_up() {
    let silent: Script = |stream, _| hang(stream);
    let within: Script =
        |stream, _| say(stream, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc") && hang(stream);
    for script in [silent, within] {
        let world = World::new(script);
        assert_eq!(world.call(), Err(CallFailure::Timeout));
        assert_eq!(world.requests(), 1, "it is not asked again");
    }
}

#[test]
fn a_slow_service_has_time_while_it_goes_on() {
    let slow: Script = |stream, _| {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow";
        // Longer in all than one silence may be.
        text.as_bytes().chunks(6).all(|part| {
            thread::sleep(SILENCE / 5);
            stream.write_all(part).is_ok()
        })
    };
    assert_eq!(body(World::new(slow).call()), "slow");
    let for_ever: Script = |stream, _| {
        say(stream, "HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n");
        while say(stream, "x") {
            thread::sleep(SILENCE / 10);
        }
        false
    };
    let short = CallLimits {
        whole: 2 * SILENCE,
        ..limits()
    };
    let outcome = World::with(for_ever, "/", short).call();
    assert_eq!(outcome, Err(CallFailure::Timeout), "but not for ever");
}

#[test]
fn an_answer_over_its_limit_is_not_read_to_its_end() {
    let announced: Script =
        |stream, _| say(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n") && hang(stream);
    let endless: Script = |stream, _| {
        say(
            stream,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        while say(stream, "64\r\n") && say(stream, &"x".repeat(100)) && say(stream, "\r\n") {}
        false
    };
    for script in [announced, endless] {
        assert_eq!(World::new(script).call(), Err(CallFailure::TooLarge));
    }
    let just: Script = |stream, _| ok(stream, &"x".repeat(1000));
    assert_eq!(body(World::new(just).call()).len(), 1000);
}

#[test]
fn a_kept_connection_that_turns_out_closed_is_replaced() {
    let resets: Script = |stream, asked| {
        asked.of_connection == 0 && ok(stream, &asked.connection.to_string()) || stream.reset()
    };
    // As one whose end was on its way when the request was sent.
    let ends_then_resets: Script = |stream, asked| {
        if asked.of_connection == 0 {
            return ok(stream, &asked.connection.to_string());
        }
        stream.end();
        thread::sleep(Duration::from_millis(10));
        stream.reset()
    };
    for script in [resets, ends_then_resets] {
        let world = World::with(script, "/", patient());
        for connection in 0..3 {
            assert_eq!(body(world.call()), connection.to_string());
        }
        assert_eq!(world.requests(), 5, "one each, and two that met the end");
    }
    let ends: Script = |stream, asked| {
        ok(stream, &asked.connection.to_string());
        false
    };
    let world = World::new(ends);
    for connection in 0..20 {
        assert_eq!(body(world.call()), connection.to_string());
    }
}

#[test]
fn what_a_service_took_is_not_asked_again() {
    let cuts: Script = |stream, asked| asked.of_connection == 0 && ok(stream, "");
    let dies: Script = |stream, asked| {
        if asked.of_connection == 0 {
            return ok(stream, "");
        }
        thread::sleep(Duration::from_millis(1_100));
        stream.reset()
    };
    for script in [cuts, dies] {
        let world = World::with(script, "/", patient());
        assert_eq!(body(world.call()), "");
        assert_eq!(world.call(), Err(CallFailure::Unreachable));
        assert_eq!(world.requests(), 2);
    }
}

#[test]
fn cut_refused_and_nonsense_are_unreachable() {
    let cut: Script = |_, _| false;
    let cut_within: Script = |stream, _| {
        say(stream, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
        false
    };
    let nonsense: Script = |stream, _| say(stream, "220 smtp ready\r\n\r\n");
    for script in [cut, cut_within, nonsense] {
        let world = World::new(script);
        assert_eq!(world.call(), Err(CallFailure::Unreachable));
        assert_eq!(world.requests(), 1, "it is not asked again");
    }
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = nobody.local_addr().expect("bound");
    drop(nobody);
    for url in [
        format!("http://{addr}"),
        "http://no.such.host.invalid".to_owned(),
    ] {
        let world = World::at(&url, Arc::default(), None, patient());
        assert_eq!(world.call(), Err(CallFailure::Unreachable), "{url}");
    }
}

#[test]
fn calls_do_not_wait_for_each_other() {
    let by_body: Script = |stream, asked| match asked.text.ends_with("slow") {
        true => hang(stream),
        false => ok(stream, "quick"),
    };
    let world = World::new(by_body);
    world.make("slow");
    for _ in 0..5 {
        assert_eq!(body(world.call()), "quick");
    }
    assert_eq!(world.reply(), Err(CallFailure::Timeout));
}

/// Readers at work, and whether they may go on.
#[derive(Default)]
struct Desk {
    reading: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Desk {
    fn read(&self) {
        let mut reading = self.reading.lock().expect("no panic");
        reading.0 += 1;
        self.changed.notify_all();
        let done = self.changed.wait_while(reading, |(_, go_on)| !*go_on);
        drop(done.expect("no panic"));
    }

    fn wait_for(&self, readers: usize) {
        let reading = self.reading.lock().expect("no panic");
        let few = |(now, _): &mut (usize, bool)| *now < readers;
        let waited = self.changed.wait_timeout_while(reading, PATIENCE, few);
        assert!(!waited.expect("no panic").1.timed_out(), "too few readers");
    }

    fn go_on(&self) {
        self.reading.lock().expect("no panic").1 = true;
        self.changed.notify_all();
    }
}

#[test]
fn calls_go_on_while_large_answers_are_read_two_at_a_time() {
    const LARGE_BYTES: usize = 400_000;
    let script: Script = |stream, asked| {
        let large = asked.text.ends_with("large");
        ok(stream, &"x".repeat(if large { LARGE_BYTES } else { 1 }))
    };
    let limits = CallLimits {
        answer_bytes_max: LARGE_BYTES,
        ..patient()
    };
    let world = World::with(script, "/", limits);
    let desk = Arc::new(Desk::default());
    for _ in 0..3 {
        let desk = Arc::clone(&desk);
        world.make_read("large", move || desk.read());
    }
    desk.wait_for(2);
    while world.stats.in_flight() > 0 {
        thread::yield_now();
    }
    assert_eq!(body(world.call()), "x", "it waits for no reader");
    assert_eq!(desk.reading.lock().expect("no panic").0, 2);
    desk.go_on();
    for _ in 0..3 {
        assert_eq!(body(world.reply()).len(), LARGE_BYTES);
    }
}

#[test]
fn a_service_at_https_has_to_be_who_it_should_be() {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let ca_file = folder.path().join("ca.pem");
    fs::write(&ca_file, cert.pem()).expect("written");
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            let chain = vec![cert.der().clone()];
            builder.with_no_client_auth().with_single_cert(chain, key)
        });
    let config = Arc::new(config.expect("a configuration"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream: TcpStream = stream.expect("accepted");
            let tls = ServerConnection::new(Arc::clone(&config)).expect("a server");
            let mut stream = StreamOwned::new(tls, stream);
            let script: Script = |stream, _| ok(stream, "secret");
            thread::spawn(move || serve(&mut stream, 0, script, &AtomicUsize::new(0)));
        }
    });
    for (host, outcome) in [
        ("localhost", Ok("secret".to_owned())),
        ("127.0.0.1", Err(CallFailure::Unreachable)),
    ] {
        let config = trust::client_config(Some(&ca_file)).expect("somebody to trust");
        let tls = Some(Arc::new(config.with_no_client_auth()));
        let url = format!("https://{host}:{port}");
        let world = World::at(&url, Arc::default(), tls, patient());
        let text = world
            .call()
            .map(|answer| String::from_utf8(answer.body).expect("text"));
        assert_eq!(text, outcome, "{host}");
    }
}
