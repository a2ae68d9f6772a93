//! The part of HTTP/1.1 for measurements: a plain GET, and the end of a message.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

use crate::wire::handshake;

/// The whole response, head included; empty if the server closes without a response.
pub(crate) fn get(addr: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The range of the body of the request or response at the start of `bytes`, once complete. The
/// length must be announced in `Content-Length`; otherwise the body is empty.
pub(crate) fn body(bytes: &[u8]) -> Option<Range<usize>> {
    let start = handshake::head_length(bytes)?;
    let head = String::from_utf8_lossy(&bytes[..start]);
    let length = handshake::header(&head, "content-length");
    let end = start + length.and_then(|text| text.parse().ok()).unwrap_or(0);
    (end <= bytes.len()).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_there_when_all_of_it_is() {
        let message = b"POST / HTTP/1.1\r\ncontent-LENGTH: 3\r\n\r\nabcHTTP";
        let head = message.len() - "abcHTTP".len();
        assert_eq!(body(message), Some(head..head + 3));
        assert_eq!(body(&message[..head + 2]), None);
        assert_eq!(body(&message[..head - 1]), None);
        assert_eq!(body(b"HTTP/1.1 204 x\r\n\r\n"), Some(18..18));
    }
}
