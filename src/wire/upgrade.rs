//! The request for a WebSocket upgrade (RFC 6455 §4.2.1), and the bytes of the responses: the 101 (§4.2.2) and refusals,
//! whose statuses are in `docs/reference/closes.md` (`bad_request`, `upgrade_lost`).

use tungstenite::handshake::derive_accept_key;
use tungstenite::http::StatusCode;

use super::deflate::{self, Agreed};
use super::head::{RequestHead, is_token, list_items};
use super::json::quoted;

/// Why an upgrade is refused: always the client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.reason())]
pub enum UpgradeError {
    /// The method is not GET.
    Method,
    /// HTTP/1.0 has no upgrade (RFC 9110 §7.8).
    HttpVersion,
    /// `Upgrade` or `Connection` does not request a WebSocket.
    NotAsked,
    /// `Sec-WebSocket-Version` is not 13, or missing.
    Version,
    /// `Sec-WebSocket-Key` is missing, repeated, or not 16 bytes in base64.
    Key,
    /// The head announces a body; its bytes would be taken for frames.
    Body,
}

impl UpgradeError {
    /// Returns the status of the response.
    pub fn status(self) -> u16 {
        match self {
            Self::Method => 405,
            Self::NotAsked | Self::Version => 426,
            Self::HttpVersion | Self::Key | Self::Body => 400,
        }
    }

    /// Returns the reason, for the client to read.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Method => "a WebSocket upgrade is a GET",
            Self::HttpVersion => "a WebSocket upgrade needs HTTP/1.1",
            Self::NotAsked => "a WebSocket upgrade is needed here",
            Self::Version => "Sec-WebSocket-Version must be 13",
            Self::Key => "Sec-WebSocket-Key must be one base64 text of 16 bytes",
            Self::Body => "a WebSocket upgrade has no body",
        }
    }

    /// Returns the additional headers of the response.
    pub fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Method => &[("Allow", "GET")],
            Self::NotAsked => &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
            Self::Version => &[("Sec-WebSocket-Version", "13")],
            Self::HttpVersion | Self::Key | Self::Body => &[],
        }
    }
}

/// An upgrade that may be accepted.
#[derive(Clone, Copy, Debug)]
pub struct Upgrade<'h> {
    head: &'h RequestHead<'h>,
    key: &'h str,
}

impl<'a> RequestHead<'a> {
    /// Whether the client requests a WebSocket, even in a malformed request. If not, the request is plain HTTP.
    pub fn asks_upgrade(&self) -> bool {
        self.has_token("upgrade", "websocket") && self.has_token("connection", "upgrade")
    }

    /// Returns what a proxy has removed from a request for a WebSocket: `Sec-WebSocket-Key` is there, but `Upgrade` or
    /// `Connection: Upgrade` is missing, or the version is 1.0. A proxy that is not configured for WebSockets removes
    /// both headers, and may use HTTP/1.0 itself (RFC 9110 §7.6.1).
    pub fn lost_upgrade(&self) -> Option<&'static str> {
        self.header("sec-websocket-key")?;
        if !self.has_token("upgrade", "websocket") {
            Some("Upgrade")
        } else if !self.asks_upgrade() {
            Some("Connection")
        } else {
            (self.minor_version() == 0).then_some("HTTP/1.1")
        }
    }

    /// Returns the upgrade, if the request is well-formed.
    pub fn upgrade(&self) -> Result<Upgrade<'_>, UpgradeError> {
        if !self.asks_upgrade() {
            return Err(UpgradeError::NotAsked);
        }
        if self.method() != "GET" {
            return Err(UpgradeError::Method);
        }
        if self.minor_version() == 0 {
            return Err(UpgradeError::HttpVersion);
        }
        if self.announces_body() {
            return Err(UpgradeError::Body);
        }
        let only = |name| {
            let mut values = self.header_values(name);
            values.next().filter(|_| values.next().is_none())
        };
        if only("sec-websocket-version") != Some("13") {
            return Err(UpgradeError::Version);
        }
        let key = only("sec-websocket-key").filter(|key| is_key(key.as_bytes()));
        let key = key.ok_or(UpgradeError::Key)?;
        Ok(Upgrade { head: self, key })
    }
}

/// Whether the key is 16 bytes in base64: 22 characters and two of padding.
fn is_key(key: &[u8]) -> bool {
    let digit = |&b: &u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    matches!(key.strip_suffix(b"=="), Some(digits) if digits.len() == 22 && digits.iter().all(digit))
}

impl<'h> Upgrade<'h> {
    /// Appends the response that makes the connection a WebSocket. `protocol` is an offered subprotocol, and is left out
    /// if it is not a token.
    pub fn accept(&self, out: &mut Vec<u8>, extensions: Option<&Agreed>, protocol: Option<&str>) {
        switching_protocols(
            out,
            &derive_accept_key(self.key.as_bytes()),
            extensions,
            protocol,
        );
    }

    /// Returns what is agreed on for permessage-deflate; `None` if no offer is acceptable.
    pub fn negotiate_deflate(&self) -> Option<Agreed> {
        deflate::negotiate(self.head.header_values("sec-websocket-extensions"))
    }

    /// Returns the offered subprotocols of all lines, in the client's order. Leaves out names that are not tokens
    /// (§4.1), because the response could not repeat them.
    pub fn protocols(&self) -> impl Iterator<Item = &'h str> {
        self.head
            .header_values("sec-websocket-protocol")
            .flat_map(list_items)
            .filter(|name| is_token(name))
    }

    /// Returns the origin of the page, if the client is a browser (§10.2).
    pub fn origin(&self) -> Option<&'h str> {
        self.head.header("origin")
    }
}

/// Appends the response that makes the connection a WebSocket. `accept` is the value of `Sec-WebSocket-Accept` (§4.2.2).
fn switching_protocols(
    out: &mut Vec<u8>,
    accept: &str,
    extensions: Option<&Agreed>,
    protocol: Option<&str>,
) {
    // Enough for all but the extensions and the protocol.
    out.reserve(144);
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
    );
    header(out, "Sec-WebSocket-Accept", accept);
    if let Some(agreed) = extensions {
        out.extend_from_slice(b"Sec-WebSocket-Extensions: ");
        agreed.write_header_value(out);
        out.extend_from_slice(b"\r\n");
    }
    if let Some(protocol) = protocol.filter(|protocol| is_token(protocol)) {
        header(out, "Sec-WebSocket-Protocol", protocol);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a response that refuses the request and ends the connection, with the body `{"detail":"…"}`.
pub fn write_refusal(
    out: &mut Vec<u8>,
    status: u16,
    extra_headers: &[(&str, &str)],
    json_detail: &str,
) {
    let body = format!("{{\"detail\":{}}}", quoted(json_detail));
    out.extend_from_slice(format!("HTTP/1.1 {status} {}\r\n", phrase(status)).as_bytes());
    header(out, "Content-Type", "application/json");
    header(out, "Content-Length", &body.len().to_string());
    header(out, "Connection", "close");
    for (name, value) in extra_headers {
        header(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body.as_bytes());
}

/// Writes a header. Control characters become spaces, so that no value can end its line or the head.
fn header(out: &mut Vec<u8>, name: &str, value: &str) {
    let visible = |b: u8| if b.is_ascii_control() { b' ' } else { b };
    out.extend(name.bytes().map(visible));
    out.extend_from_slice(b": ");
    out.extend(value.bytes().map(visible));
    out.extend_from_slice(b"\r\n");
}

/// Returns the reason phrase of a status (RFC 9110 §15), or for an unknown status a phrase that fits any error.
fn phrase(status: u16) -> &'static str {
    match StatusCode::from_u16(status).map(|status| status.canonical_reason()) {
        // The library has the phrase of RFC 7231.
        Ok(Some("Payload Too Large")) => "Content Too Large",
        Ok(Some(phrase)) => phrase,
        _ => "Refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deflate::negotiate;
    use crate::head::RequestHead;
    use proptest::prelude::*;

    /// A good upgrade, with `from` replaced.
    fn request(from: &str, to: &str) -> Vec<u8> {
        let good = "GET /ws?a=b HTTP/1.1\r\nHost: example.com:8000\r\nUpgrade: websocket\r\n\
                    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                    Sec-WebSocket-Version: 13\r\n\r\n";
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1).into_bytes()
    }

    fn with(lines: &str) -> Vec<u8> {
        request("\r\n\r\n", &format!("\r\n{lines}\r\n\r\n"))
    }

    fn outcome(request: &[u8]) -> Result<String, UpgradeError> {
        let head = RequestHead::parse(request, 100).expect("a good head");
        head.upgrade()
            .map(|upgrade| derive_accept_key(upgrade.key.as_bytes()))
    }

    #[test]
    fn the_example_of_rfc_6455_is_accepted() {
        let accept = outcome(&request("", "")).expect("an upgrade");
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn tokens_stand_in_lists_lines_and_any_letter_case() {
        for good in [
            request("Upgrade: websocket", "upgrade: WebSocket"),
            request("Upgrade: websocket", "Upgrade: h2c, websocket"),
            request("Upgrade: websocket", "Upgrade: h2c\r\nUpgrade: websocket"),
            request("Connection: Upgrade", "CONNECTION: keep-alive, uPGRADE"),
            request(
                "Connection: Upgrade",
                "Connection: keep-alive\r\nConnection: ,upgrade ,",
            ),
            request("Sec-WebSocket-Key", "sec-websocket-KEY"),
            with("Content-Length: 0"),
        ] {
            assert!(outcome(&good).is_ok(), "{}", good.escape_ascii());
        }
    }

    #[test]
    fn each_thing_wrong_is_told() {
        use UpgradeError::*;
        let twice = "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==";
        for (bad, error, status) in [
            (request("Upgrade: websocket", "Upgrade: h2c"), NotAsked, 426),
            (
                request("Upgrade: websocket", "Upgrade: websockets"),
                NotAsked,
                426,
            ),
            (
                request("Connection: Upgrade", "Connection: close"),
                NotAsked,
                426,
            ),
            (request("GET", "POST"), Method, 405),
            (request("GET", "get"), Method, 405),
            (request("HTTP/1.1", "HTTP/1.0"), HttpVersion, 400),
            (request("Version: 13", "Version: 8"), Version, 426),
            (request("Version: 13", "Version: 14"), Version, 426),
            (request("Version: 13", "Version: 13x"), Version, 426),
            (request("Version: 13", "Version: "), Version, 426),
            (request("Sec-WebSocket-Version", "X-Version"), Version, 426),
            (with("Sec-WebSocket-Version: 13"), Version, 426),
            (request("Sec-WebSocket-Key", "X-Key"), Key, 400),
            (request("dGhlIHNhbXBsZSBub25jZQ==", ""), Key, 400),
            (request("dGhlIHNhbXBsZSBub25jZQ==", "short"), Key, 400),
            (
                request("dGhlIHNhbXBsZSBub25jZQ==", &"!".repeat(24)),
                Key,
                400,
            ),
            (
                request("dGhlIHNhbXBsZSBub25jZQ==", "eHh4eHh4eHh4eHh4eHh4"),
                Key,
                400,
            ),
            (
                request("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZWE="),
                Key,
                400,
            ),
            (with(twice), Key, 400),
            (with("Content-Length: 5"), Body, 400),
            (with("Transfer-Encoding: chunked"), Body, 400),
        ] {
            assert_eq!(outcome(&bad), Err(error), "{}", bad.escape_ascii());
            assert_eq!(error.status(), status);
            assert!(!error.to_string().is_empty());
        }
        assert!(Version.headers().contains(&("Sec-WebSocket-Version", "13")));
    }

    #[test]
    fn a_key_may_have_every_digit_of_base64() {
        for key in ["++//AQIDBAUGBwgJCgsMDQ==", "azAZ09azAZ09azAZ09azAQ=="] {
            let request = request("dGhlIHNhbXBsZSBub25jZQ==", key);
            assert_eq!(outcome(&request), Ok(derive_accept_key(key.as_bytes())));
        }
        for key in ["--__AQIDBAUGBwgJCgsMDQ==", "AQIDBAUGBwgJCgsMDQ4=Dw=="] {
            let request = request("dGhlIHNhbXBsZSBub25jZQ==", key);
            assert_eq!(outcome(&request), Err(UpgradeError::Key), "{key}");
        }
    }

    #[test]
    fn a_plain_request_asks_for_no_upgrade() {
        let head = request("Upgrade: websocket", "Accept: */*");
        let head = RequestHead::parse(&head, 100).expect("a good head");
        assert!(!head.asks_upgrade());
        assert_eq!(head.lost_upgrade(), Some("Upgrade"));
        for (from, to, lost) in [
            (
                "Connection: Upgrade",
                "Connection: close",
                Some("Connection"),
            ),
            ("Connection: Upgrade\r\n", "", Some("Connection")),
            ("Upgrade: websocket\r\n", "", Some("Upgrade")),
            ("Sec-WebSocket-Key", "X-Key", None),
            ("HTTP/1.1", "HTTP/1.0", Some("HTTP/1.1")),
            ("HTTP/1.1", "HTTP/1.1", None),
        ] {
            let request = request(from, to);
            let head = RequestHead::parse(&request, 100).expect("a good head");
            assert_eq!(head.lost_upgrade(), lost, "{from}");
        }
        let plain = request(
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key",
            "X-Key",
        );
        assert_eq!(
            RequestHead::parse(&plain, 100)
                .expect("a good head")
                .lost_upgrade(),
            None
        );
        let old = request("HTTP/1.1", "HTTP/1.0");
        assert!(
            RequestHead::parse(&old, 100)
                .expect("a good head")
                .asks_upgrade()
        );
    }

    #[test]
    fn protocols_come_in_order_and_only_tokens() {
        let lines = "Sec-WebSocket-Protocol: bearer, aa.bb-c_d ,, two words\r\nOrigin: null\r\n\
                     Sec-WebSocket-Protocol: \"q\",v1";
        let request = with(lines);
        let head = RequestHead::parse(&request, 100).expect("a good head");
        let upgrade = head.upgrade().expect("an upgrade");
        let protocols: Vec<_> = upgrade.protocols().collect();
        assert_eq!(protocols, ["bearer", "aa.bb-c_d", "v1"]);
        assert_eq!(upgrade.origin(), Some("null"));
        assert_eq!(upgrade.negotiate_deflate(), None);
        let spaces = with(&format!("Sec-WebSocket-Protocol: b{}x", " ".repeat(32_000)));
        let head = RequestHead::parse(&spaces, 100).expect("a good head");
        assert_eq!(head.upgrade().expect("an upgrade").protocols().count(), 0);
    }

    #[test]
    fn deflate_is_negotiated_over_all_lines() {
        let request = with(
            "Sec-WebSocket-Extensions: x-a\r\n\
             Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10",
        );
        let head = RequestHead::parse(&request, 100).expect("a good head");
        let agreed = head.upgrade().expect("an upgrade").negotiate_deflate();
        let bits = agreed.map(|agreed| agreed.to_client.server_window_bits());
        assert_eq!(bits, Some(10));
    }

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn the_101_says_what_was_agreed_and_no_more() {
        assert_eq!(
            text(|out| switching_protocols(out, "abc=", None, None)),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: abc=\r\n\r\n"
        );
        let agreed = negotiate(["permessage-deflate"]);
        let answer = text(|out| switching_protocols(out, "abc=", agreed.as_ref(), Some("v1")));
        assert!(answer.ends_with(
            "\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: v1\r\n\r\n"
        ));
        for bad in ["", "a b", "a\r\nX-Injected: yes", "é"] {
            let answer = text(|out| switching_protocols(out, "abc=", None, Some(bad)));
            assert!(!answer.contains("Protocol:"), "{answer}");
        }
    }

    #[test]
    fn the_reason_phrases_are_those_of_the_standard() {
        for (status, phrase) in [
            (404, "Not Found"),
            (413, "Content Too Large"),
            (431, "Request Header Fields Too Large"),
            (599, "Refused"),
        ] {
            let line = text(|out| write_refusal(out, status, &[], ""));
            let line = line.lines().next().expect("a line");
            assert_eq!(line, format!("HTTP/1.1 {status} {phrase}"));
        }
    }

    #[test]
    fn a_refusal_carries_its_length_and_its_headers() {
        let answer =
            text(|out| write_refusal(out, 426, &[("Sec-WebSocket-Version", "13")], "say \"13\""));
        assert_eq!(
            answer,
            "HTTP/1.1 426 Upgrade Required\r\nContent-Type: application/json\r\n\
             Content-Length: 23\r\nConnection: close\r\nSec-WebSocket-Version: 13\r\n\r\n\
             {\"detail\":\"say \\\"13\\\"\"}"
        );
    }

    proptest! {
        #[test]
        fn nothing_breaks_out_of_a_refusal(detail in any::<String>(), value in any::<String>()) {
            let answer = text(|out| write_refusal(out, 400, &[("X-A", &value)], &detail));
            let (head, body) = answer.split_once("\r\n\r\n").expect("an end of the head");
            prop_assert_eq!(head.split("\r\n").count(), 5);
            prop_assert!(!head.replace("\r\n", "").contains(['\r', '\n', '\0']));
            let length = format!("Content-Length: {}\r\n", body.len());
            prop_assert!(head.contains(&length));
            let value: std::collections::BTreeMap<String, String> = sonic_rs::from_str(body).expect("JSON");
            prop_assert_eq!(&value["detail"], &detail);
        }
    }
}
