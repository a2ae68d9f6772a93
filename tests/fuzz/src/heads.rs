//! Request heads and bodies: the end and the content of a request, by weirgate and by hyper.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::http::request::Parts;
use hyper::rt::ReadBufCursor;
use hyper::server::conn::http1;
use hyper::{Response, Version, service};
use weirgate_wire::{BodyScanner, HeadError, HeadScanner, RequestHead};

use super::{choices, outcome};

/// The defaults of the gateways.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 100;

/// A request as seen by a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    method: String,
    path: String,
    query: Option<String>,
    minor_version: u8,
    /// By name, in lower case; headers of the same name in their order.
    headers: Vec<(String, Vec<u8>)>,
    /// `None` if the body did not end well.
    body: Option<Vec<u8>>,
}

impl Seen {
    pub(crate) fn of_hyper(parts: &Parts, body: Option<Bytes>) -> Self {
        let headers = parts.headers.iter();
        Self {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().map(str::to_owned),
            minor_version: u8::from(parts.version == Version::HTTP_11),
            headers: by_name(headers.map(|(name, value)| (name.as_str(), value.as_bytes()))),
            body: body.map(Vec::from),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&[u8]> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_slice())
    }

    /// Whether the body did not end well.
    pub(crate) fn is_broken(&self) -> bool {
        self.body.is_none()
    }

    /// Whether the target has characters outside of URIs (RFC 3986 §2): hyper refuses some of them, and
    /// weirgate leaves them to hyper and, for an upgrade, to the gateway.
    fn is_no_uri(&self) -> bool {
        let query = self.query.as_deref().unwrap_or_default();
        let good = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&b);
        !self.path.bytes().chain(query.bytes()).all(good)
    }

    /// Whether the request is a CORS preflight, which gets its response before any handler.
    pub(crate) fn is_preflight(&self) -> bool {
        self.method == "OPTIONS"
            && self.header("origin").is_some()
            && self.header("access-control-request-method").is_some()
    }

    /// Whether hyper may end the connection behind the request.
    pub(crate) fn may_close(&self) -> bool {
        self.minor_version == 0 || self.method == "CONNECT" || {
            let lines = self.headers.iter().filter(|(name, _)| name == "connection");
            let text: Vec<u8> = lines.flat_map(|(_, value)| value.clone()).collect();
            String::from_utf8_lossy(&text)
                .to_ascii_lowercase()
                .contains("close")
        }
    }
}

fn by_name<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Vec<(String, Vec<u8>)> {
    let mut headers: Vec<_> = headers
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec()))
        .collect();
    headers.sort_by(|one, other| one.0.cmp(&other.0));
    // Equal lengths are allowed (RFC 9112 §6.3); hyper keeps one.
    headers.dedup_by(|one, other| one.0 == "content-length" && other.0 == "content-length");
    headers
}

/// The end of weirgate's reading of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    /// The stream, between requests or within one.
    Stream,
    /// A head refused with this status.
    Refused(u16),
    /// A request for a WebSocket, from this byte on.
    Upgrade(usize),
    /// A body without a clear end.
    Body,
}

/// Returns the requests of a stream by weirgate's rules, their positions, and the end of the reading.
/// `decided`: the first head may request a WebSocket and is plain HTTP nevertheless.
pub(crate) fn split(stream: &[u8], mut decided: bool) -> (Vec<(Seen, Range<usize>)>, End) {
    let (mut requests, mut at) = (Vec::new(), 0);
    loop {
        let rest = &stream[at..];
        let end = match HeadScanner::default().end(rest) {
            None if rest.len() <= HEAD_BYTES_MAX => return (requests, End::Stream),
            Some(end) if end <= HEAD_BYTES_MAX => end,
            _ => {
                let error = HeadError::too_large(&rest[..HEAD_BYTES_MAX]);
                return (requests, End::Refused(error.status()));
            }
        };
        let head = match RequestHead::parse(&rest[..end], HEADERS_MAX) {
            Ok(head) => head,
            Err(error) => return (requests, End::Refused(error.status())),
        };
        if head.asks_upgrade() && !std::mem::take(&mut decided) {
            return (requests, End::Upgrade(at));
        }
        decided = false;
        let mut body = Vec::new();
        let mut body_bytes = 0;
        if let Some(mut scanner) = BodyScanner::announced(&head) {
            match scanner.take(&rest[end..]) {
                Ok(taken) if scanner.is_end() => body_bytes = taken,
                Ok(_) => return (requests, End::Stream),
                Err(_) => return (requests, End::Body),
            }
            body = rest[end..end + body_bytes].to_vec();
            if head.content_length().is_none() {
                body = unchunked(&body);
            }
        }
        let seen = Seen {
            method: head.method().to_owned(),
            path: head.path().to_owned(),
            query: head.query().map(str::to_owned),
            minor_version: head.minor_version(),
            headers: by_name(head.headers()),
            body: Some(body),
        };
        requests.push((seen, at..at + end + body_bytes));
        at += end + body_bytes;
    }
}

/// The data of good chunks.
fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let line = body
            .windows(2)
            .position(|two| two == b"\r\n")
            .expect("a size line");
        let digits: Vec<u8> = body[..line]
            .iter()
            .copied()
            .take_while(u8::is_ascii_hexdigit)
            .collect();
        let digits = String::from_utf8(digits).expect("ASCII");
        let size = usize::from_str_radix(&digits, 16).expect("a size");
        if size == 0 {
            return data;
        }
        body = &body[line + 2..];
        data.extend_from_slice(&body[..size]);
        body = &body[size + 2..];
    }
}

/// A client's bytes, in pieces; writes are discarded.
struct Memory<'a> {
    input: &'a [u8],
    piece: usize,
}

impl hyper::rt::Read for Memory<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let bytes = self.input.len().min(self.piece).min(buf.remaining());
        let (piece, rest) = self.input.split_at(bytes);
        buf.put_slice(piece);
        self.input = rest;
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Memory<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Returns the requests that hyper sees in a stream, and whether hyper refused any.
fn by_hyper(stream: &[u8], piece: usize) -> (Vec<Seen>, bool) {
    let seen = RefCell::new(Vec::new());
    let service = service::service_fn(|request: hyper::Request<Incoming>| {
        let seen = &seen;
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.ok().map(|body| body.to_bytes());
            seen.borrow_mut().push(Seen::of_hyper(&parts, body));
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let memory = Memory {
        input: stream,
        piece,
    };
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_header_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .half_close(true)
        .serve_connection(memory, service);
    let mut connection = pin!(connection);
    let mut cx = Context::from_waker(Waker::noop());
    let ended = (0..100_000).find_map(|_| match connection.as_mut().poll(&mut cx) {
        Poll::Ready(ended) => Some(ended),
        Poll::Pending => None,
    });
    let ended = ended.expect("hyper comes to an end");
    (seen.take(), ended.is_err())
}

/// Checks that hyper sees the same requests in the bytes from weirgate.
pub(crate) fn compare(ours: &[Seen], theirs: &[Seen], refused: bool) {
    for (one, other) in ours.iter().zip(theirs) {
        assert_eq!(one, other, "two readers of one request");
    }
    assert!(
        theirs.len() <= ours.len(),
        "hyper sees more: {:?}",
        theirs.last()
    );
    if theirs.len() < ours.len() {
        let closed = theirs.last().is_some_and(Seen::may_close);
        assert!(
            closed || refused,
            "hyper does not see {:?}",
            ours[theirs.len()]
        );
    }
}

pub(crate) fn run(data: &[u8]) -> u64 {
    let ([piece], stream) = choices(data);
    let (requests, end) = split(stream, false);
    // The end is the same for any pieces.
    if let Some((_, first)) = requests.first() {
        let mut scanner = HeadScanner::default();
        let found = (1..=first.end).find_map(|n| scanner.end(&stream[..n]));
        assert_eq!(found, HeadScanner::default().end(stream));
    }
    let passed = requests.last().map_or(0, |(_, place)| place.end);
    let ours: Vec<Seen> = requests.into_iter().map(|(seen, _)| seen).collect();
    let (theirs, refused) = by_hyper(&stream[..passed], usize::from(piece) + 1);
    let next = ours.get(theirs.len());
    assert!(
        !refused || next.is_some_and(Seen::is_no_uri),
        "hyper refuses {next:?}"
    );
    compare(&ours, &theirs, refused);
    let shapes: Vec<_> = theirs
        .iter()
        .map(|seen| {
            (
                seen.minor_version,
                seen.headers.len().min(4),
                seen.body.as_ref().map(Vec::is_empty),
            )
        })
        .take(4)
        .collect();
    let end = match end {
        End::Upgrade(_) => End::Upgrade(0),
        end => end,
    };
    outcome((shapes, end, reason(&stream[passed..])))
}

/// Returns the reason for refusing the head after the last request.
fn reason(rest: &[u8]) -> &'static str {
    let end = HeadScanner::default().end(rest).unwrap_or(0);
    match RequestHead::parse(&rest[..end], HEADERS_MAX) {
        Ok(_) => "",
        Err(error) => error.reason(),
    }
}
