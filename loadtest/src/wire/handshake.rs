//! The opening handshake (RFC 6455 section 4), both ends, as far as necessary for measurements.

use tungstenite::handshake::derive_accept_key;

use super::deflate::Window;

/// Largest head of a request or response, bytes.
pub(crate) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The key of RFC 6455 section 1.3: no need for a random key between a test client and server.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The upgrade request of a client.
pub(crate) fn request(host: &str, path: &str, deflate: Option<Window>) -> Vec<u8> {
    let extension = deflate.map_or("", Window::offer);
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{extension}\r\n"
    )
    .into_bytes()
}

/// A server's response to [`request`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The head is incomplete.
    Partial,
    /// Open: frames start at `head_bytes`.
    Open {
        /// Length of the head.
        head_bytes: usize,
        /// The agreed permessage-deflate, if any.
        deflate: Option<Window>,
    },
    /// Refused, or invalid by RFC 6455 section 4.1, with the reason.
    Refused(String),
}

/// Parses the server's response at the start of `bytes`, after an offer of `offered`.
pub(crate) fn answer(bytes: &[u8], offered: Option<Window>) -> Answer {
    let Some(head_bytes) = head_length(bytes) else {
        return if bytes.len() > HEAD_BYTES_MAX {
            Answer::Refused("the answer's head is over 16 KiB".into())
        } else {
            Answer::Partial
        };
    };
    let head = String::from_utf8_lossy(&bytes[..head_bytes]);
    let status = head.lines().next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 101") {
        return Answer::Refused(format!("the server answered {status:?}"));
    }
    if header(&head, "sec-websocket-accept") != Some(ACCEPT) {
        return Answer::Refused("Sec-WebSocket-Accept is wrong or missing".into());
    }
    let extensions = header(&head, "sec-websocket-extensions").unwrap_or_default();
    let alone = extensions.contains("server_no_context_takeover");
    let agreed = if alone { Window::Alone } else { Window::Kept };
    let deflate = extensions.contains("permessage-deflate").then_some(agreed);
    if deflate == Some(Window::Kept) && offered != Some(Window::Kept) {
        return Answer::Refused("deflate was agreed on without server_no_context_takeover".into());
    }
    Answer::Open {
        head_bytes,
        deflate,
    }
}

/// The server's response to a request head, without extensions; `None` without a WebSocket key.
pub(crate) fn accept(head: &[u8]) -> Option<Vec<u8>> {
    let head = String::from_utf8_lossy(head);
    let key = header(&head, "sec-websocket-key")?;
    Some(
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        )
        .into_bytes(),
    )
}

/// Length of the head with the empty line, if complete.
pub(crate) fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .map(|at| at + 4)
}

/// The value of a header of a request or response, by name.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_opens_against_our_own_server_half() {
        let reply = accept(&request("127.0.0.1:1", "/ws", Some(Window::Kept))).unwrap();
        let open = Answer::Open {
            head_bytes: reply.len(),
            deflate: None,
        };
        let answer = |bytes: &[u8]| answer(bytes, Some(Window::Kept));
        assert_eq!(answer(&reply), open);
        for cut in 0..reply.len() {
            assert_eq!(answer(&reply[..cut]), Answer::Partial);
        }
        let with_frame = [reply.as_slice(), b"\x81\x00"].concat();
        assert_eq!(answer(&with_frame), open);
    }

    #[test]
    fn refusals_say_why() {
        let answer = |bytes: &[u8]| answer(bytes, None);
        assert_eq!(
            answer(b"HTTP/1.1 403 Forbidden\r\n\r\n"),
            Answer::Refused(r#"the server answered "HTTP/1.1 403 Forbidden""#.into())
        );
        let wrong = b"HTTP/1.1 101 x\r\nSec-WebSocket-Accept: abc\r\n\r\n";
        assert!(matches!(answer(wrong), Answer::Refused(_)));
        let endless = vec![b'a'; HEAD_BYTES_MAX + 1];
        assert!(matches!(answer(&endless), Answer::Refused(_)));
        assert_eq!(accept(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), None);
    }

    #[test]
    fn a_window_is_kept_only_if_it_was_offered() {
        let reply = |ext: &str| {
            format!(
                "HTTP/1.1 101 x\r\nSec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Extensions: {ext}\r\n\r\n"
            )
        };
        let agreed = |ext: &str, offered| match answer(reply(ext).as_bytes(), Some(offered)) {
            Answer::Open { deflate, .. } => Some(deflate),
            _ => None,
        };
        let (kept, alone) = (Window::Kept, Window::Alone);
        let no_takeover = "permessage-deflate; server_no_context_takeover";
        assert_eq!(agreed(no_takeover, alone), Some(Some(alone)));
        assert_eq!(agreed(no_takeover, kept), Some(Some(alone)));
        assert_eq!(agreed("permessage-deflate", kept), Some(Some(kept)));
        assert_eq!(agreed("permessage-deflate", alone), None);
        assert_eq!(agreed("", kept), Some(None));
    }
}
