//! An HTTP thread with the pages of the levels gateway, and a client that sees bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use crate::bodies;
use weirgate::clock::Clock;
use weirgate::http::{
    Answer, Handover, HttpHandle, HttpPlane, HttpSettings, ReadyLimits, Route, Site, StatusCode,
    page, pages,
};
use weirgate::hub::Permit;
use weirgate::telemetry::{Build, LoopLabels, Telemetry};

/// Bytes of the answer at `/large`.
pub(crate) const LARGE: usize = 3_000_000;

pub(crate) struct Fixture {
    pub(crate) plane: HttpPlane,
    pub(crate) handle: HttpHandle,
    pub(crate) listener: TcpListener,
    /// The connection limits.
    pub(crate) places: Arc<()>,
    /// Connections on their way back to the reactor.
    pub(crate) returned: Receiver<Handover>,
    pub(crate) telemetry: Arc<Telemetry>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(HttpSettings::default())
    }

    pub(crate) fn with(settings: HttpSettings) -> Self {
        let clock = Clock::start();
        let build = Build {
            version: "1.2.3",
            gateway: "levels",
            features: String::new(),
        };
        let telemetry = Telemetry::new(build, &LoopLabels::default(), None, clock.now());
        let mut routes = pages::status_routes(&telemetry, clock, ReadyLimits::default(), None);
        let url = "nats://nats:4222".to_owned();
        routes.push(pages::levels_health_route(&telemetry, url));
        routes.push(Route::get("/large", |_| {
            Answer::new(StatusCode::OK, "text/plain", vec![b'x'; LARGE])
        }));
        routes.extend(page::routes());
        routes.extend(bodies::routes());
        let site = Site {
            routes,
            ..Site::default()
        };
        let plane = HttpPlane::start(site, None, settings).unwrap();
        let (back, returned) = mpsc::channel();
        let back = move |handover| drop(back.send(handover));
        Self {
            handle: plane.handle(Arc::new(back)),
            returned,
            plane,
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            places: Arc::default(),
            telemetry,
        }
    }

    /// A new connection, of which `read` was read before it is handed over.
    pub(crate) fn connect(&self, read: impl AsRef<[u8]>) -> Client {
        let stream = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let (accepted, peer) = self.listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        // The kernel would take megabytes at once and then nothing for a long while.
        let small = socket2::SockRef::from(&accepted).set_send_buffer_size(64 * 1024);
        small.unwrap();
        self.handle.serve(Handover {
            stream: accepted,
            read: read.as_ref().to_vec(),
            peer,
            permit: Permit::new(&self.places),
        });
        Client::new(stream)
    }

    pub(crate) fn taken(&self) -> usize {
        Permit::taken(&self.places)
    }

    pub(crate) fn wait_for_permits(&self, taken: usize) {
        let end = Instant::now() + Duration::from_secs(5);
        while self.taken() != taken {
            assert!(Instant::now() < end, "{} places taken", self.taken());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    buffered: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Client {
    pub(crate) fn new(stream: TcpStream) -> Self {
        let patience = Some(Duration::from_secs(5));
        stream.set_read_timeout(patience).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffered: Vec::new(),
        }
    }

    pub(crate) fn connect(addr: SocketAddr) -> Self {
        Self::new(TcpStream::connect(addr).unwrap())
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    fn more(&mut self) -> usize {
        let mut chunk = [0; 16 * 1024];
        let n = self.stream.read(&mut chunk).unwrap();
        self.buffered.extend_from_slice(&chunk[..n]);
        n
    }

    pub(crate) fn take(&mut self, bytes: usize) -> Vec<u8> {
        while self.buffered.len() < bytes {
            assert_ne!(self.more(), 0, "the connection ended too early");
        }
        self.buffered.drain(..bytes).collect()
    }

    /// The head of the next answer.
    pub(crate) fn head(&mut self) -> Reply {
        let end = loop {
            if let Some(at) = self.buffered.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            assert_ne!(self.more(), 0, "the connection ended without an answer");
        };
        let head = String::from_utf8(self.take(end)).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply {
            status,
            head,
            body: Vec::new(),
        }
    }

    /// The next answer.
    pub(crate) fn reply(&mut self) -> Reply {
        let mut reply = self.head();
        let length = reply.header("content-length").map(str::parse);
        reply.body = self.take(length.transpose().unwrap().unwrap_or(0));
        reply
    }

    pub(crate) fn ask(&mut self, request: &str) -> Reply {
        self.send(request);
        self.reply()
    }

    /// Waits for the end of the connection; what came before it.
    pub(crate) fn end(&mut self) -> Vec<u8> {
        let mut chunk = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => self.buffered.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("still open: {error}"),
            }
        }
        std::mem::take(&mut self.buffered)
    }
}

pub(crate) fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n")
}

pub(crate) fn get(path: &str) -> String {
    request("GET", path)
}
