//! Reads what comes before a client's first byte of HTTP: the header of a proxy, and the handshake of TLS. A thread
//! does this, because a handshake costs ten times as much as the rest of a connection's start, and the loop has clients
//! to serve.
//!
//! The loop sends a new socket with its key, and gets the socket back, with its TLS. Meanwhile the session exists in
//! the hub, with its permit and its deadline: the thread drops a socket whose session has ended. A handshake begins
//! once the client's first message is whole, so a client that is silent, or sends the message byte by byte, takes no
//! place. Addresses take turns, and each has a limit of handshakes under way. Further sockets wait without a byte of
//! memory for TLS.
//!
//! The header of the PROXY protocol, in both versions:
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. The bytes after the header stay in the socket.
//!
//! [`may_begin`] decides whether a TLS client's first message is whole, before the client takes a place.

mod worker;

use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};
use mio::Poll;
use mio::net::TcpStream;
use proxy_header::{Error, ParseConfig, Protocol, ProxyHeader};
use worker::{WAKER, Worker};

use super::listeners::Accepted;
use crate::listening::tls::{ServerTlsInForce, TlsSession};
use weirgate_bus::runtime::{Clock, Wake};
use weirgate_core::{CloseReason, Secured, SessionKey};
use weirgate_wire::admission::{Chosen, ClientAddr, Quota};

/// Counts of the thread.
#[derive(Debug, Default)]
pub(crate) struct HandshakeCounts {
    full: AtomicU64,
    /// Handshakes that a ticket has shortened.
    resumed: AtomicU64,
    failed: AtomicU64,
    under_way: AtomicU64,
    waiting: AtomicU64,
}

impl HandshakeCounts {
    /// Completed handshakes by their kind, and failed ones: `full`, `resumed`, `failed`.
    pub(crate) fn outcomes(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("full", self.full.load(Relaxed)),
            ("resumed", self.resumed.load(Relaxed)),
            ("failed", self.failed.load(Relaxed)),
        ]
    }

    /// Handshakes under way, and clients that wait for their turn.
    pub(crate) fn open(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("under_way", self.under_way.load(Relaxed)),
            ("waiting", self.waiting.load(Relaxed)),
        ]
    }
}

/// Work for the thread.
#[derive(Debug)]
pub(super) enum HandshakeJob {
    /// The header of a proxy is to be read.
    ReadHeader(SessionKey, Accepted),
    /// The handshake of a socket is to begin.
    Begin(SessionKey, TcpStream, ClientAddr),
    /// The session of the key has ended: the socket is to be dropped.
    Drop(SessionKey),
}

/// A socket on its way back to the loop.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) key: SessionKey,
    pub(super) outcome: HandshakeOutcome,
}

#[derive(Debug)]
pub(super) enum HandshakeOutcome {
    /// The header was read. If it names a client, that client is the peer from now on.
    Header(Accepted),
    /// The handshake is over.
    Handshake(TcpStream, Box<TlsSession>, Secured),
    /// The socket is closed: the reason, and a text for the log line.
    Failed(CloseReason, Option<&'static str>),
}

/// The facts about a client that its session knows. Reads the client's certificate, if the client has shown one.
pub(super) fn secured(tls: &TlsSession) -> Secured {
    Secured {
        version: tls.version(),
        user: tls.client_name().map(String::into_boxed_str),
    }
}

/// The loop's side of the thread. The thread ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Handshakes {
    /// `None` only while being dropped.
    jobs: Option<Sender<HandshakeJob>>,
    wake: Wake,
    entered: Receiver<Entered>,
}

impl Handshakes {
    /// Starts the thread. If `tls` is `None`, it only reads headers of proxies. A handshake takes one of `places` once
    /// the client's first message is whole, and the bytes of the TLS sessions count in `held`. `wake` wakes the loop.
    ///
    /// # Errors
    /// The system refuses a descriptor or a thread.
    pub(crate) fn start(
        tls: Option<ServerTlsInForce>,
        places: Quota,
        held: &Quota,
        clock: Clock,
        wake: &Wake,
        counts: &Arc<HandshakeCounts>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let own_wake = Wake::new(poll.registry(), WAKER, "the thread of handshakes")?;
        let (jobs, taken_jobs) = unbounded();
        let (finished, entered) = unbounded();
        let worker = Worker {
            poll,
            wake: own_wake.clone(),
            tls,
            jobs: taken_jobs,
            finished,
            the_loop: wake.clone(),
            counts: Arc::clone(counts),
            clock,
            held: held.clone(),
            chosen: Chosen::new(own_wake.waker()),
            sockets: worker::HandshakeSockets::new(places),
        };
        thread::Builder::new()
            .name("handshakes".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self {
            jobs: Some(jobs),
            wake: own_wake,
            entered,
        })
    }

    /// Returns the next socket that comes back.
    pub(super) fn next(&self) -> Option<Entered> {
        self.entered.try_recv().ok()
    }

    /// Whether [`next`](Self::next) has something.
    pub(super) fn have_entered(&self) -> bool {
        !self.entered.is_empty()
    }

    /// Sends a job to the thread, and wakes it.
    pub(super) fn send(&self, job: HandshakeJob) {
        // The thread ends only after `jobs` is dropped, so the send cannot fail.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
            self.wake.wake();
        }
    }
}

impl Drop for Handshakes {
    fn drop(&mut self) {
        self.jobs = None;
        self.wake.wake();
    }
}

/// The longest header with its extensions. Load balancers send at most a few hundred bytes.
const HEADER_BYTES_MAX: usize = 4 * 1024;

/// The beginning of a connection.
#[derive(Debug, PartialEq, Eq)]
enum Beginning {
    /// A part of a header: the rest comes later.
    Part,
    /// The address of a client.
    Client(SocketAddr),
    /// A connection of the proxy itself, such as its health check; or its client has no IP address.
    Proxy,
    /// No header.
    Other,
    /// The peer has left before the end of a header.
    Left,
}

/// Takes a header from a socket, and nothing after the header.
///
/// # Errors
/// The socket has failed.
fn take_header(stream: &mut TcpStream) -> io::Result<Beginning> {
    let mut buffer = [0; HEADER_BYTES_MAX];
    let seen = match stream.peek(&mut buffer) {
        Ok(0) => return Ok(Beginning::Left),
        Ok(seen) => seen,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Beginning::Part),
        Err(error) => return Err(error),
    };
    let (beginning, bytes) = read_header(&buffer[..seen]);
    stream.read_exact(&mut buffer[..bytes])?;
    Ok(beginning)
}

/// Reads a header; also returns its length, 0 without a whole header.
fn read_header(bytes: &[u8]) -> (Beginning, usize) {
    let config = ParseConfig {
        include_tlvs: false,
        ..ParseConfig::default()
    };
    match ProxyHeader::parse(bytes, config) {
        Ok((header, len)) => match header.proxied_address() {
            Some(address) if address.protocol == Protocol::Stream => {
                (Beginning::Client(address.source), len)
            }
            Some(_) => (Beginning::Other, 0),
            None => (Beginning::Proxy, len),
        },
        Err(Error::BufferTooShort) if bytes.len() < HEADER_BYTES_MAX => (Beginning::Part, 0),
        Err(_) => (Beginning::Other, 0),
    }
}

/// After this many bytes of a first message the handshake begins in any case: few clients send more than 2,000.
const HELLO_BYTES_MAX: usize = 4096;

/// The type of a record with messages of a handshake (RFC 8446 §5.1), and of the first such message (§4).
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// Whether a handshake may begin with these first bytes of a client: they are a whole ClientHello, in one record or
/// several, or they cannot become a ClientHello, and then the library will refuse them. `seen`: at most
/// [`HELLO_BYTES_MAX`] bytes.
fn may_begin(seen: &[u8]) -> bool {
    let mut message = Vec::with_capacity(seen.len());
    let mut rest = seen;
    while let [kind, _, _, high, low, behind @ ..] = rest {
        if *kind != HANDSHAKE {
            return true;
        }
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        message.extend(behind.iter().take(length));
        rest = behind.get(length..).unwrap_or_default();
    }
    let is_other = |bytes: &[u8], kind| bytes.first().is_some_and(|first| *first != kind);
    if is_other(rest, HANDSHAKE) || is_other(&message, CLIENT_HELLO) {
        return true;
    }
    let whole = match message[..] {
        [_, a, b, c, ref body @ ..] => body.len() >= u32::from_be_bytes([0, a, b, c]) as usize,
        _ => false,
    };
    whole || seen.len() >= HELLO_BYTES_MAX
}

/// Whether bytes that are not a record of TLS begin a request of plain HTTP.
fn is_request(bytes: &[u8]) -> bool {
    let methods = [
        b"GET ", b"HEAD", b"POST", b"PUT ", b"OPTI", b"DELE", b"PATC",
    ];
    methods.iter().any(|method| bytes.starts_with(*method))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of the PROXY protocol, version 2. `rest` is what follows the length: addresses and extensions, if any.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        header.extend([0x20 | command, family]);
        header.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        header.extend(rest);
        header
    }

    fn client(addr: &str) -> Beginning {
        Beginning::Client(addr.parse().unwrap())
    }

    const V4: [u8; 12] = [198, 51, 100, 7, 10, 0, 0, 1, 0x12, 0x67, 0x01, 0xbb];

    fn headers() -> Vec<(Vec<u8>, Beginning)> {
        let v1 = |text: &str| format!("{text}\r\n").into_bytes();
        let mut v6 = Vec::from([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        v6.extend([0; 16]);
        v6.extend([0x12, 0x67, 0x01, 0xbb]);
        let extended = [&V4[..], &[0x04, 0x00, 0x03, 1, 2, 3]].concat();
        vec![
            (
                v1("PROXY TCP4 198.51.100.7 10.0.0.1 4711 443"),
                client("198.51.100.7:4711"),
            ),
            (
                v1("PROXY TCP6 2001:db8::7 ::1 4711 443"),
                client("[2001:db8::7]:4711"),
            ),
            (v1("PROXY UNKNOWN"), Beginning::Proxy),
            (v1("PROXY UNKNOWN ffff::1 ffff::2 1 2"), Beginning::Proxy),
            (v2(1, 0x11, &V4), client("198.51.100.7:4711")),
            (v2(1, 0x11, &extended), client("198.51.100.7:4711")),
            (v2(1, 0x21, &v6), client("[2001:db8::7]:4711")),
            (v2(0, 0x00, &[]), Beginning::Proxy),
            (v2(0, 0x11, &V4), Beginning::Proxy),
            (v2(1, 0x31, &[0; 216]), Beginning::Proxy),
        ]
    }

    #[test]
    fn headers_of_both_versions_are_read_and_their_parts_are_awaited() {
        for (header, expected) in headers() {
            let text = String::from_utf8_lossy(&header).into_owned();
            for cut in 1..header.len() {
                let (part, bytes) = read_header(&header[..cut]);
                assert_eq!((part, bytes), (Beginning::Part, 0), "{cut} of {text}");
            }
            let with_rest = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(read_header(&with_rest), (expected, header.len()), "{text}");
        }
    }

    #[test]
    fn anything_else_is_no_header() {
        let datagrams = v2(1, 0x12, &V4);
        let version_3 = [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[0x31, 0x11, 0, 12], &V4].concat();
        let endless = [
            &v2(1, 0x11, &V4)[..14],
            &[0xff, 0xff],
            &[0; HEADER_BYTES_MAX],
        ]
        .concat();
        let others: [&[u8]; 9] = [
            b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\0\0\0\0\0\0",
            b"PROXY TCP4 198.51.100.7 10.0.0.1 4711 99999\r\n",
            b"PROXY TCP4 2001:db8::7 ::1 4711 443\r\n",
            b"PROXY TCP9 198.51.100.7 10.0.0.1 4711 443\r\n",
            b"PROXY TCP4 198.51.100.7 10.0.0.1 4711 443\rX",
            &datagrams,
            &version_3,
            &endless[..HEADER_BYTES_MAX],
        ];
        for other in others {
            let text = String::from_utf8_lossy(&other[..other.len().min(60)]);
            assert_eq!(read_header(other), (Beginning::Other, 0), "{text}");
        }
        let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 120]].concat();
        assert_eq!(read_header(&long), (Beginning::Other, 0));
    }

    /// A ClientHello of `bytes` bytes, in records of at most `record_max` bytes.
    fn hello(bytes: usize, record_max: usize) -> Vec<u8> {
        let length = (bytes - 4) as u32;
        let message = [&[CLIENT_HELLO][..], &length.to_be_bytes()[1..]].concat();
        let message = [message, vec![b'a'; bytes - 4]].concat();
        let record = |part: &[u8]| {
            let length = (part.len() as u16).to_be_bytes();
            [&[HANDSHAKE, 3, 1][..], &length, part].concat()
        };
        message.chunks(record_max).flat_map(record).collect()
    }

    #[test]
    fn a_handshake_begins_with_the_last_byte_of_the_first_message_however_it_is_cut() {
        for record_max in [1, 3, 5, 100, 512] {
            let whole = hello(512, record_max);
            for seen in 0..whole.len() {
                assert!(!may_begin(&whole[..seen]), "{seen} with {record_max}");
            }
            assert!(may_begin(&whole));
            assert!(may_begin(&[&whole[..], b"more"].concat()));
        }
    }

    #[test]
    fn what_is_no_first_message_or_too_large_is_for_the_library() {
        for other in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"G",
            b"\x15\x03\x01",
            b"\x16\x03\x01\x00\x01\x02",
        ] {
            assert!(may_begin(other), "{other:?}");
        }
        let large = hello(9000, 16_000);
        assert!(!may_begin(&large[..HELLO_BYTES_MAX - 1]));
        assert!(may_begin(&large[..HELLO_BYTES_MAX]));
        // Empty records are not an end.
        let empty = [HANDSHAKE, 3, 1, 0, 0].repeat(HELLO_BYTES_MAX / 5 + 1);
        assert!(!may_begin(&empty[..100]));
        assert!(may_begin(&empty[..HELLO_BYTES_MAX]));
    }
}
