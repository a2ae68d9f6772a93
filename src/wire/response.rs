//! Responses to a request head, as bytes: the 101 (RFC 6455 §4.2.2) and refusals.

use super::deflate::Agreed;
use super::object_writer::quoted;
use super::upgrade::is_token;

/// Appends the response that makes the connection a WebSocket. `accept` is
/// [`Upgrade::accept_key`](super::upgrade::Upgrade::accept_key). `protocol`, an offered subprotocol, is left
/// out if not a token.
pub fn switching_protocols(
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
pub fn refusal(out: &mut Vec<u8>, status: u16, extra_headers: &[(&str, &str)], json_detail: &str) {
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

/// Writes a header. Control characters become spaces: a value can end neither its line nor the head.
fn header(out: &mut Vec<u8>, name: &str, value: &str) {
    let visible = |b: u8| if b.is_ascii_control() { b' ' } else { b };
    out.extend(name.bytes().map(visible));
    out.extend_from_slice(b": ");
    out.extend(value.bytes().map(visible));
    out.extend_from_slice(b"\r\n");
}

/// Returns the reason phrase (RFC 9110 §15); for other statuses, a phrase that fits any error.
fn phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Refused",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::deflate::negotiate;

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
        let mut own = 0;
        for status in 400..600 {
            let line = text(|out| refusal(out, status, &[], ""));
            let line = line.lines().next().expect("a line");
            let standard = hyper::StatusCode::from_u16(status).expect("a status");
            let phrase = match phrase(status) {
                "Refused" => "Refused",
                // The name since RFC 9110.
                "Content Too Large" => "Content Too Large",
                _ => standard.canonical_reason().expect("a phrase"),
            };
            assert_eq!(line, format!("HTTP/1.1 {status} {phrase}"));
            own += usize::from(phrase != "Refused");
        }
        assert_eq!(own, 17, "every status that weirgate sends has its phrase");
    }

    #[test]
    fn a_refusal_carries_its_length_and_its_headers() {
        let answer =
            text(|out| refusal(out, 426, &[("Sec-WebSocket-Version", "13")], "say \"13\""));
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
            let answer = text(|out| refusal(out, 400, &[("X-A", &value)], &detail));
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
