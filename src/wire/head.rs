//! The request head (RFC 9112 §2, §3, §5): its end, its parts and its rules. `trace` has the headers `traceparent` and
//! `tracestate`.
//!
//! Strict wherever two readers of the same bytes could disagree: refuses bare CR or LF, a space before a colon, folded
//! lines, and unclear lengths of the body. The HTTP side applies the same rules to the heads of plain requests.

mod trace;

use std::borrow::Cow;
use std::net::Ipv6Addr;

use httparse::{EMPTY_HEADER, Header, Request, Status};
use url::form_urlencoded;

pub use self::trace::Trace;
use super::space;

/// Finds the end of an HTTP request head that arrives in pieces; looks at each byte once.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScanner {
    scanned: u32,
}

impl HeadScanner {
    /// Returns the end of the head, after its empty line. `buf` is all input so far, from the first byte on.
    pub fn end(&mut self, buf: &[u8]) -> Option<usize> {
        // The last three bytes may be the start of the empty line.
        let from = (self.scanned as usize).saturating_sub(3).min(buf.len());
        let found = buf[from..].windows(4).position(|w| w == b"\r\n\r\n");
        self.scanned = u32::try_from(buf.len()).unwrap_or(u32::MAX);
        found.map(|at| from + at + 4)
    }
}

/// The reason why a head is refused: always the client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.reason())]
pub enum HeadError {
    /// Not HTTP/1 (RFC 9112 §2.1).
    Syntax(&'static str),
    /// The bytes are a TLS handshake (RFC 8446 §5.1), sent to a port without TLS.
    Tls,
    /// The bytes are the preface of HTTP/2 in clear text (RFC 9113 §3.4).
    Http2,
    /// An HTTP version that is neither 1.0 nor 1.1.
    Version,
    /// The request target does not make a URL (§3.2).
    Target,
    /// No `Host`, several, or a malformed value (§3.2).
    Host(&'static str),
    /// The length of the body is unclear (§6).
    Body(&'static str),
    /// The request line alone is over the limit for heads.
    TargetTooLong,
    /// The head is over the limit for heads.
    TooLarge,
    /// More header lines than allowed.
    TooManyHeaders,
}

/// The request line of the preface of HTTP/2, with which no request of HTTP/1.1 begins.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// The first bytes of a TLS handshake. No request begins with them.
const TLS_HANDSHAKE: &[u8] = &[0x16, 3];

impl HeadError {
    /// Returns the error for `received`, the first bytes of a connection, if they are no request but a TLS handshake.
    pub fn of_tls(received: &[u8]) -> Option<Self> {
        received.starts_with(TLS_HANDSHAKE).then_some(Self::Tls)
    }

    /// Returns the error for `received`, which has reached the limit of a head without an end.
    pub fn too_large(received: &[u8]) -> Self {
        if received.contains(&b'\n') {
            Self::TooLarge
        } else {
            Self::TargetTooLong
        }
    }

    /// Returns the status of the response.
    pub fn status(self) -> u16 {
        match self {
            Self::Syntax(_) | Self::Tls | Self::Target | Self::Host(_) | Self::Body(_) => 400,
            Self::TargetTooLong => 414,
            Self::TooLarge | Self::TooManyHeaders => 431,
            Self::Http2 | Self::Version => 505,
        }
    }

    /// Returns the name of another protocol, if the bytes are the beginning of one.
    pub fn other_protocol(self) -> Option<&'static str> {
        match self {
            Self::Tls => Some("tls"),
            Self::Http2 => Some("http2"),
            _ => None,
        }
    }

    /// Returns the reason, for the client to read.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Syntax(what) | Self::Host(what) | Self::Body(what) => what,
            Self::Tls => "this port is not for TLS",
            Self::Http2 | Self::Version => "HTTP version must be 1.1 or 1.0",
            Self::Target => "request target makes no URL",
            Self::TargetTooLong => "request target is too long",
            Self::TooLarge => "request head is too large",
            Self::TooManyHeaders => "too many request headers",
        }
    }
}

/// A request head; all parts are slices of the parsed bytes.
#[derive(Clone, Debug)]
pub struct RequestHead<'a> {
    method: &'a str,
    target: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    minor_version: u8,
    headers: Vec<Header<'a>>,
}

/// Checks that all lines end with CR LF, because two readers could otherwise see different headers. Returns the number
/// of lines.
fn check_line_ends(head: &[u8]) -> Result<usize, HeadError> {
    // Both counts have no branches, so that the compiler vectorises the loops.
    let pairs = head.iter().zip(head.get(1..).unwrap_or_default());
    let whole = pairs
        .filter(|&(a, b)| (*a == b'\r') & (*b == b'\n'))
        .count();
    let lines = head.iter().filter(|&&byte| byte == b'\n').count();
    if whole < lines {
        return Err(HeadError::Syntax("line ends without CR"));
    }
    Ok(lines)
}

/// Returns why the head is refused. The library's `Version` also stands for a client of HTTP/2, and for a line that is
/// no request at all.
fn syntax_error(error: httparse::Error, head: &[u8]) -> HeadError {
    use httparse::Error;
    match error {
        Error::TooManyHeaders => HeadError::TooManyHeaders,
        Error::Version if head.starts_with(HTTP2_PREFACE) => HeadError::Http2,
        Error::Version if names_http_version(head) => HeadError::Version,
        Error::Version | Error::Token | Error::NewLine | Error::Status => {
            HeadError::Syntax("request line is malformed")
        }
        Error::HeaderName | Error::HeaderValue => HeadError::Syntax("header line is malformed"),
    }
}

/// Whether the request line names an HTTP version, whichever: the library has refused this one, so it is not supported.
fn names_http_version(head: &[u8]) -> bool {
    // The first line that is not empty: of an empty line, at most the LF remains.
    let line = head.split(|&b| b == b'\r').find(|line| line.len() > 1);
    let mut parts = line.unwrap_or_default().split(|&b| b == b' ').skip(2);
    let (version, more) = (parts.next(), parts.next());
    more.is_none()
        && version
            .and_then(|version| version.strip_prefix(b"HTTP/"))
            .is_some_and(|v| matches!(v, [a, b'.', b] if a.is_ascii_digit() && b.is_ascii_digit()))
}

/// Returns path and query of a target in origin or absolute form (§3.2.1, §3.2.2), or of `OPTIONS *`.
fn path_and_query<'a>(method: &str, target: &'a str) -> Option<(&'a str, Option<&'a str>)> {
    if target == "*" {
        return (method == "OPTIONS").then_some((target, None));
    }
    let local = if target.starts_with('/') {
        target
    } else {
        let (scheme, rest) = target.split_once("://")?;
        if !["http", "https", "ws", "wss"]
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known))
        {
            return None;
        }
        let authority_len = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, local) = rest.split_at(authority_len);
        if !is_host_and_port(authority.as_bytes()) {
            return None;
        }
        local
    };
    // Clients must not send a fragment. If one does, the target is what comes before it.
    let local = local.split('#').next().unwrap_or_default();
    let (path, query) = match local.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (local, None),
    };
    Some((if path.is_empty() { "/" } else { path }, query))
}

/// Whether it is `host [":" port]` (RFC 3986 §3.2.2): a name, an IPv4 address, or an IPv6 address in brackets.
fn is_host_and_port(value: &[u8]) -> bool {
    let (host_is_good, rest) = if let Some(inner) = value.strip_prefix(b"[") {
        let len = inner.iter().position(|&b| b == b']').unwrap_or(inner.len());
        let address = std::str::from_utf8(&inner[..len]).ok();
        let good = address.is_some_and(|a| a.parse::<Ipv6Addr>().is_ok());
        (good, inner.get(len + 1..))
    } else {
        let len = value.iter().position(|&b| b == b':').unwrap_or(value.len());
        (is_registered_name(&value[..len]), value.get(len..))
    };
    host_is_good
        && match rest {
            Some([]) => true,
            Some([b':', port @ ..]) => {
                port.is_empty() || decimal(port).is_some_and(|port| port <= u64::from(u16::MAX))
            }
            _ => false,
        }
}

/// Returns whether this is a `reg-name` (RFC 3986 §3.2.2) that is not empty.
fn is_registered_name(name: &[u8]) -> bool {
    let mut rest = name;
    while let Some((&byte, after)) = rest.split_first() {
        rest = match (byte, after) {
            (b'%', [a, b, after @ ..]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => after,
            (b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')', _) => after,
            (b'*' | b'+' | b',' | b';' | b'=', _) => after,
            (byte, _) if byte.is_ascii_alphanumeric() => after,
            _ => return false,
        };
    }
    !name.is_empty()
}

/// Parses digits only, without a sign; `None` for numbers over 64 bits.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

impl<'a> RequestHead<'a> {
    /// Parses `head`, which ends at [`HeadScanner::end`], with at most `headers_max` lines.
    ///
    /// # Errors
    /// The head breaks a rule, has more lines, or leaves the host or the length of the body unclear.
    pub fn parse(head: &'a [u8], headers_max: usize) -> Result<Self, HeadError> {
        let lines = check_line_ends(head)?;
        // No larger than the number of lines, because each connection in its handshake allocates this.
        let mut headers = vec![EMPTY_HEADER; headers_max.min(lines)];
        let mut request = Request::new(&mut headers);
        let parsed = request.parse(head).map_err(|e| syntax_error(e, head))?;
        if parsed != Status::Complete(head.len()) {
            return Err(HeadError::Syntax("request head has no end"));
        }
        let (Some(method), Some(target), Some(minor_version)) =
            (request.method, request.path, request.version)
        else {
            return Err(HeadError::Syntax("request line is malformed"));
        };
        let count = request.headers.len();
        headers.truncate(count);
        let (path, query) = path_and_query(method, target).ok_or(HeadError::Target)?;
        let head = Self {
            method,
            target,
            path,
            query,
            minor_version,
            headers,
        };
        head.check_host()?;
        head.check_body_length()?;
        Ok(head)
    }

    /// The head of a plain request whose parts another reader has found and checked. It counts as HTTP/1.1. `None` if
    /// the target makes no URL.
    pub fn of_parts(
        method: &'a str,
        target: &'a str,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Option<Self> {
        let (path, query) = path_and_query(method, target)?;
        Some(Self {
            method,
            target,
            path,
            query,
            minor_version: 1,
            headers: headers
                .map(|(name, value)| Header { name, value })
                .collect(),
        })
    }

    /// The method, in the client's letter case.
    pub fn method(&self) -> &'a str {
        self.method
    }

    /// The request target as it was sent.
    pub fn target(&self) -> &'a str {
        self.target
    }

    /// The target's path, not decoded; `/` if an absolute target has no path.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// The target's query without its `?`, not decoded. It must not be logged, because queries contain tokens.
    pub fn query(&self) -> Option<&'a str> {
        self.query
    }

    /// The values of the query's parameters with this name, as in [`Self::all_parameters`].
    pub fn parameters(&self, name: &str) -> impl Iterator<Item = Cow<'a, str>> {
        let own = self.all_parameters().filter(move |(own, _)| own == name);
        own.map(|(_, value)| value)
    }

    /// The names and values of the query's parameters, decoded as a form (URL Standard §5.1).
    pub fn all_parameters(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        form_urlencoded::parse(self.query.unwrap_or_default().as_bytes())
    }

    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub fn minor_version(&self) -> u8 {
        self.minor_version
    }

    /// Returns the first header of this name, in any letter case. A value that is not UTF-8 becomes U+FFFD, so that it
    /// neither counts as missing nor equals a real value.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.header_values(name).next()
    }

    /// Returns all headers of this name in their order; values as in [`Self::header`].
    pub fn header_values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'a str> + 'h {
        self.raw_values(name)
            .map(|value| std::str::from_utf8(value).unwrap_or("\u{fffd}"))
    }

    /// All headers in their order: names in the client's letter case, values without the white
    /// space around them.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + '_ {
        self.headers
            .iter()
            .map(|header| (header.name, header.value))
    }

    /// Whether a comma-separated header (RFC 9110 §5.6.1) has `token`, over all its lines, in any
    /// letter case.
    pub(crate) fn has_token(&self, name: &str, token: &str) -> bool {
        // Most values are the token alone.
        self.header_values(name).any(|value| {
            value.eq_ignore_ascii_case(token)
                || list_items(value).any(|item| item.eq_ignore_ascii_case(token))
        })
    }

    /// Whether a body follows. The body's bytes are never another head.
    pub fn announces_body(&self) -> bool {
        self.header("transfer-encoding").is_some() || self.content_length().unwrap_or(0) > 0
    }

    /// Returns the length of the body in bytes, if the head has a length.
    pub fn content_length(&self) -> Option<u64> {
        // The first is enough: `parse` has checked that all of them are equal.
        self.raw_values("content-length").next().and_then(decimal)
    }

    /// Returns all headers of this name in their order, as bytes.
    pub fn raw_values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'a [u8]> + 'h {
        self.headers()
            .filter(move |(candidate, _)| candidate.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Checks that the request has one `Host`, with a host and maybe a port. Only HTTP/1.0 may do without.
    fn check_host(&self) -> Result<(), HeadError> {
        let mut hosts = self.raw_values("host");
        match (hosts.next(), hosts.next()) {
            (None, _) if self.minor_version == 0 => Ok(()),
            (None, _) => Err(HeadError::Host("no Host header")),
            (Some(_), Some(_)) => Err(HeadError::Host("more than one Host header")),
            (Some(host), None) if is_host_and_port(host) => Ok(()),
            (Some(_), None) => Err(HeadError::Host("Host header names no host")),
        }
    }

    /// Refuses a head in which the length of the body can be read in two ways (§6.1, §6.3): a request could hide in the
    /// body.
    fn check_body_length(&self) -> Result<(), HeadError> {
        let mut length = None;
        for value in self.raw_values("content-length") {
            let value = decimal(value).ok_or(HeadError::Body("Content-Length is not a number"))?;
            if length.is_some_and(|length| length != value) {
                return Err(HeadError::Body("Content-Length headers differ"));
            }
            length = Some(value);
        }
        let mut codings = self.raw_values("transfer-encoding");
        let (Some(coding), second) = (codings.next(), codings.next()) else {
            return Ok(());
        };
        if length.is_some() {
            return Err(HeadError::Body("Content-Length with Transfer-Encoding"));
        }
        if self.minor_version == 0 {
            return Err(HeadError::Body("Transfer-Encoding in HTTP/1.0"));
        }
        // hyper cannot read such a coding, so it would assume a body without chunks.
        if !coding.is_ascii() {
            return Err(HeadError::Body("Transfer-Encoding is not ASCII"));
        }
        if second.is_some() {
            return Err(HeadError::Body("more than one Transfer-Encoding header"));
        }
        let is_chunked = |coding: &[u8]| space::trim_bytes(coding).eq_ignore_ascii_case(b"chunked");
        let mut items = coding.rsplit(|&b| b == b',');
        if !items.next().is_some_and(is_chunked) {
            return Err(HeadError::Body(
                "Transfer-Encoding does not end with chunked",
            ));
        }
        // A sender must not repeat `chunked` (§6.1), because a reader may decode twice.
        if items.any(is_chunked) {
            return Err(HeadError::Body("Transfer-Encoding says chunked twice"));
        }
        Ok(())
    }
}

/// Whether the text is a token: visible ASCII without separators (RFC 9110 §5.6.2).
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// Whether the byte may be in a token.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Returns the items of a comma-separated value, without surrounding white space; empty items are skipped.
pub(super) fn list_items(value: &str) -> impl Iterator<Item = &str> {
    value
        .split(',')
        .map(space::trim)
        .filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests;
