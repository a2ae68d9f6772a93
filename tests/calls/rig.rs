//! A service whose answers are the test's to say, and a caller of it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, ServerConfig, ServerConnection, StreamOwned};
use socket2::SockRef;
use weirgate::gateways::events::EventsService;
use weirgate::gateways::events::call::{AnswerReader, Call, CallFailure, Reply, ServiceAnswer};
use weirgate::gateways::events::http_calls::{CallLimits, Calls};
use weirgate::services::{Service, Upstream};
use weirgate_core::{Frame, FrameBytes};
use weirgate_runtime::{Clock, tls_roots};
use weirgate_server::telemetry::GatewayMetric;
use weirgate_wire::Trace;
use weirgate_wire::admission::Quota;

pub(crate) const SILENCE: Duration = Duration::from_secs(1);
/// For an answer that has to come; longer than any limit here.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a service does with the `n`th request of its `connection`th connection; the connection
/// ends when it returns `false`.
pub(crate) type Script = fn(&mut dyn ReadWrite, &Asked) -> bool;

pub(crate) trait ReadWrite: Read + Write {
    /// The socket below.
    fn socket(&self) -> &TcpStream;

    /// Says that no more will come.
    fn end(&mut self) {
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

    fn end(&mut self) {
        self.conn.send_close_notify();
        self.flush().expect("connected");
        self.socket().shutdown(Shutdown::Write).expect("connected");
    }
}

/// A certificate for `localhost`: what a server at `https://` needs, and what its clients trust.
pub(crate) fn certified() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let ca_file = folder.path().join("ca.pem");
    fs::write(&ca_file, cert.pem()).expect("written");
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            let chain = vec![cert.der().clone()];
            builder.with_no_client_auth().with_single_cert(chain, key)
        });
    let client = tls_roots::client(Some(&ca_file), None).expect("somebody to trust");
    (Arc::new(config.expect("a configuration")), client)
}

/// A request, and its number among those of the service and of its connection, both from 0.
pub(crate) struct Asked {
    pub(crate) text: String,
    pub(crate) of_connection: usize,
    pub(crate) connection: usize,
}

/// What came of a call.
pub(crate) type Outcome = Result<ServiceAnswer, CallFailure>;

pub(crate) struct World {
    calls: Calls,
    replies: Receiver<Reply>,
    /// What readers were given, in their order.
    outcomes: Receiver<Outcome>,
    tell: Sender<Outcome>,
    requests: Arc<AtomicUsize>,
    /// Open connections of each service.
    open: Vec<Arc<AtomicUsize>>,
}

pub(crate) fn limits() -> CallLimits {
    CallLimits {
        silence: SILENCE,
        whole: 6 * SILENCE,
        answer_bytes_max: 1000,
        answers: Quota::new("answer_bytes", 1_000_000_000),
        connections_max: 100,
        clock: Clock::start(),
    }
}

/// Where nothing should take too long.
pub(crate) fn patient() -> CallLimits {
    CallLimits {
        silence: PATIENCE,
        whole: PATIENCE,
        ..limits()
    }
}

impl World {
    pub(crate) fn new(script: Script) -> Self {
        Self::with(script, "/", limits())
    }

    pub(crate) fn with(script: Script, path: &str, limits: CallLimits) -> Self {
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

    /// A service at `https://HOST`, whose certificate is for `localhost`.
    pub(crate) fn over_tls(script: Script, host: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let (config, client) = certified();
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                let (stream, counted) = (stream.expect("accepted"), Arc::clone(&counted));
                let tls = ServerConnection::new(Arc::clone(&config)).expect("a server");
                let mut stream = StreamOwned::new(tls, stream);
                thread::spawn(move || serve(&mut stream, connection, script, &counted));
            }
        });
        let url = format!("https://{host}:{port}");
        Self::at(&url, requests, Some(client), patient())
    }

    pub(crate) fn at(
        url: &str,
        requests: Arc<AtomicUsize>,
        tls: Option<Arc<ClientConfig>>,
        limits: CallLimits,
    ) -> Self {
        let upstream = Upstream::parse(url).expect("a URL");
        Self::of(vec![Service::new("lobby", upstream, tls)], requests, limits)
    }

    /// Two services, which respond to every call.
    pub(crate) fn of_two(script: Script, limits: CallLimits) -> Self {
        let requests = Arc::new(AtomicUsize::new(0));
        let started = ["lobby", "measurement"].map(|name| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let url = format!("http://{}", listener.local_addr().expect("bound"));
            let (counted, open) = (Arc::clone(&requests), Arc::new(AtomicUsize::new(0)));
            let accepted = Arc::clone(&open);
            thread::spawn(move || {
                for (connection, stream) in listener.incoming().enumerate() {
                    let mut stream = stream.expect("accepted");
                    let (counted, open) = (Arc::clone(&counted), Arc::clone(&accepted));
                    open.fetch_add(1, SeqCst);
                    thread::spawn(move || {
                        serve(&mut stream, connection, script, &counted);
                        open.fetch_sub(1, SeqCst);
                    });
                }
            });
            let upstream = Upstream::parse(&url).expect("a URL");
            (Service::new(name, upstream, None), open)
        });
        let (services, open) = started.into_iter().unzip();
        let mut world = Self::of(services, requests, limits);
        world.open = open;
        world
    }

    fn of(services: Vec<Service>, requests: Arc<AtomicUsize>, limits: CallLimits) -> Self {
        let (reply, replies) = mpsc::channel();
        let replied = Box::new(move |one| reply.send(one).expect("the test waits"));
        let (tell, outcomes) = mpsc::channel();
        Self {
            calls: Calls::start(services, limits, replied).expect("a thread"),
            replies,
            outcomes,
            tell,
            requests,
            open: Vec::new(),
        }
    }

    /// Waits until the services have these numbers of open connections.
    pub(crate) fn wait_for_open(&self, expected: &[usize], within: Duration) {
        let open = || self.open.iter().map(|open| open.load(SeqCst));
        let end = Instant::now() + within;
        while !open().eq(expected.iter().copied()) {
            let open = open().collect::<Vec<_>>();
            assert!(Instant::now() < end, "{open:?} are open");
            thread::sleep(Duration::from_millis(5));
        }
        let held = self.calls.connections().held();
        assert_eq!(held, expected.iter().sum::<usize>() as u64);
    }

    pub(crate) fn make(&self, body: &str) {
        self.make_read(body, || {});
    }

    /// `reading` is called when what came of the call is read.
    pub(crate) fn make_read(&self, body: &str, reading: impl Fn() + Send + Sync + 'static) {
        self.make_to(EventsService::LOBBY, body, reading);
    }

    pub(crate) fn make_to(
        &self,
        service: EventsService,
        body: &str,
        reading: impl Fn() + Send + Sync + 'static,
    ) {
        let tell = self.tell.clone();
        self.calls.make(Call {
            id: 7,
            service,
            body: body.as_bytes().to_vec(),
            trace: Trace {
                parent: "00-1-2-01".to_owned(),
                state: "a=b,c=d".to_owned(),
            },
            reader: AnswerReader::new(move |outcome| {
                reading();
                tell.send(outcome).expect("the test waits");
                Ok(Frame::text(&FrameBytes::default()).body(b"read").finish())
            }),
        });
    }

    pub(crate) fn reply(&self) -> Outcome {
        let reply = self.replies.recv_timeout(PATIENCE).expect("a reply");
        assert_eq!(reply.id, 7);
        assert_eq!(reply.frame.expect("an answer").body(), b"read");
        let outcome = self.outcomes.try_recv().expect("it was read before");
        assert_eq!(reply.failure, outcome.as_ref().err().copied());
        outcome
    }

    /// What came of so many calls at once.
    pub(crate) fn replies(&self, calls: usize) -> Vec<Outcome> {
        for _ in 0..calls {
            self.replies.recv_timeout(PATIENCE).expect("a reply");
        }
        self.outcomes.try_iter().collect()
    }

    pub(crate) fn call(&self) -> Outcome {
        self.make("{}");
        self.reply()
    }

    /// Calls that have ended, by outcome.
    pub(crate) fn ended(&self) -> Vec<([&'static str; 2], u64)> {
        let metrics = self.calls.metrics().into_iter();
        let found = metrics.filter_map(|metric| match metric {
            GatewayMetric::ByTwoLabels(_, numbers) => Some(numbers()),
            _ => None,
        });
        found.flatten().collect()
    }

    /// Calls that have not ended.
    pub(crate) fn in_flight(&self) -> u64 {
        let metrics = self.calls.metrics().into_iter();
        let found = metrics.filter_map(|metric| match metric {
            GatewayMetric::ByLabel(_, numbers) => Some(numbers()),
            _ => None,
        });
        found.flatten().map(|(_, number)| number).sum()
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }
}

pub(crate) fn serve(
    stream: &mut dyn ReadWrite,
    connection: usize,
    script: Script,
    counted: &AtomicUsize,
) {
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

pub(crate) fn say(stream: &mut dyn ReadWrite, text: &str) -> bool {
    stream.write_all(text.as_bytes()).is_ok()
}

pub(crate) fn ok(stream: &mut dyn ReadWrite, body: &str) -> bool {
    let length = body.len();
    say(
        stream,
        &format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"),
    )
}

pub(crate) fn hang(stream: &mut dyn ReadWrite) -> bool {
    // Ends when the gateway gives the connection up.
    let _ = stream.read(&mut [0]);
    false
}

pub(crate) fn body(outcome: Outcome) -> String {
    String::from_utf8(outcome.expect("an answer").body).expect("text")
}
