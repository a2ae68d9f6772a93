//! An HTTP client with access to the raw bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A connection to an HTTP server, for raw bytes. Reads time out after five seconds.
pub struct Client {
    /// The socket.
    pub stream: TcpStream,
    /// Bytes read and not yet taken.
    pub buffered: Vec<u8>,
}

/// An HTTP response.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Status line and headers, with the final empty line.
    pub head: String,
    /// `Content-Length` bytes; empty for a reply from [`Client::head`].
    pub body: Vec<u8>,
}

impl Reply {
    /// The first header of this name, case-insensitive.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Client {
    /// Takes a connected socket.
    pub fn new(stream: TcpStream) -> Self {
        let patience = Some(Duration::from_secs(30));
        stream.set_read_timeout(patience).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffered: Vec::new(),
        }
    }

    /// Connects to a server.
    pub fn connect(addr: SocketAddr) -> Self {
        Self::new(TcpStream::connect(addr).unwrap())
    }

    /// Writes all bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    fn more(&mut self) -> usize {
        let mut chunk = [0; 16 * 1024];
        let n = self.stream.read(&mut chunk).unwrap();
        self.buffered.extend_from_slice(&chunk[..n]);
        n
    }

    /// Takes the next `bytes` bytes.
    pub fn take(&mut self, bytes: usize) -> Vec<u8> {
        while self.buffered.len() < bytes {
            assert_ne!(self.more(), 0, "the connection ended too early");
        }
        self.buffered.drain(..bytes).collect()
    }

    /// Takes the next head, of a request or a response.
    pub fn head_text(&mut self) -> String {
        let end = loop {
            if let Some(at) = self.buffered.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            assert_ne!(self.more(), 0, "the connection ended without an answer");
        };
        String::from_utf8(self.take(end)).unwrap()
    }

    /// Takes the head of the next response.
    pub fn head(&mut self) -> Reply {
        let head = self.head_text();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply {
            status,
            head,
            body: Vec::new(),
        }
    }

    /// Takes the next response.
    pub fn reply(&mut self) -> Reply {
        let mut reply = self.head();
        let length = reply.header("content-length").map(str::parse);
        reply.body = self.take(length.transpose().unwrap().unwrap_or(0));
        reply
    }

    /// Sends a request and reads the response.
    pub fn ask(&mut self, request: &str) -> Reply {
        self.send(request);
        self.reply()
    }

    /// Waits for the end of the connection; returns all bytes before the end.
    pub fn end(&mut self) -> Vec<u8> {
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

/// A request without a body.
pub fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n")
}

/// A GET request.
pub fn get(path: &str) -> String {
    request("GET", path)
}
