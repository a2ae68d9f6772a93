//! The header that a proxy sends before the bytes of a client: the PROXY protocol, in both versions
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>). The bytes after the header stay in the socket.

use std::io::{self, Read};
use std::net::SocketAddr;

use mio::net::TcpStream;
use proxy_header::{Error, ParseConfig, Protocol, ProxyHeader};

/// The longest header with its extensions. Load balancers send at most a few hundred bytes.
const HEADER_BYTES_MAX: usize = 4 * 1024;

/// The beginning of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// A part of a header: the rest comes later.
    Part,
    /// A header with the address of a client.
    Client(SocketAddr),
    /// A header without an address: the connection is the proxy's own, such as its health check, or its client has no
    /// IP address.
    Proxy,
    /// No header, or one that is too long or not of a TCP connection.
    Other,
    /// No whole header: the peer has left.
    Left,
}

/// Takes a header from a socket, and nothing after the header.
///
/// # Errors
/// The socket has failed.
pub(super) fn take_header(stream: &mut TcpStream) -> io::Result<Beginning> {
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
        // The extensions of a header are not used.
        include_tlvs: false,
        ..ParseConfig::default()
    };
    match ProxyHeader::parse(bytes, config) {
        Ok((header, len)) => match header.proxied_address() {
            Some(address) if address.protocol == Protocol::Stream => {
                (Beginning::Client(address.source), len)
            }
            // The address of datagrams.
            Some(_) => (Beginning::Other, 0),
            None => (Beginning::Proxy, len),
        },
        Err(Error::BufferTooShort) if bytes.len() < HEADER_BYTES_MAX => (Beginning::Part, 0),
        Err(_) => (Beginning::Other, 0),
    }
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
}
