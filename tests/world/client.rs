//! An independent client: its own head and frame parser, its own inflate, no code of the crate.

use flate2::{Decompress, FlushDecompress};

/// An upgrade request.
pub(crate) fn request(target: &str, deflate: Option<u8>) -> Vec<u8> {
    let mut request = format!(
        "GET {target} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    );
    if let Some(bits) = deflate {
        request += &format!(
            "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits={bits}\r\n"
        );
    }
    request += "\r\n";
    request.into_bytes()
}

/// A masked client frame.
pub(crate) fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x11, 0xa2, 0x3c, 0x94];
    let mut out = vec![first_byte];
    match payload.len() {
        n @ 0..126 => out.push(0x80 | n as u8),
        n @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend((n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend((n as u64).to_be_bytes());
        }
    }
    out.extend(mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    out
}

/// What a client has received so far.
#[derive(Debug, Default)]
pub(crate) struct Client {
    bytes: Vec<u8>,
    head: Option<String>,
    window_bits: Option<u8>,
    pub(crate) texts: Vec<String>,
    pub(crate) deflated: usize,
    pub(crate) pings: usize,
    pub(crate) pongs: Vec<Vec<u8>>,
    pub(crate) close: Option<(u16, String)>,
    /// Ends its side once the server has.
    pub(crate) hangs_up: bool,
}

impl Client {
    pub(crate) fn is_open(&self) -> bool {
        self.head
            .as_deref()
            .is_some_and(|h| h.starts_with("HTTP/1.1 101 "))
    }

    pub(crate) fn status(&self) -> Option<u16> {
        self.head.as_deref()?.get(9..12)?.parse().ok()
    }

    /// Takes bytes off the wire; panics on anything that a server must not send.
    pub(crate) fn received(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        if self.head.is_none() {
            let Some(end) = self.bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
                return;
            };
            let head = String::from_utf8(self.bytes.drain(..end + 4).collect()).expect("a head");
            if let Some(at) = head.find("server_max_window_bits=") {
                let value = &head[at + "server_max_window_bits=".len()..];
                let digits = value.split(|c: char| !c.is_ascii_digit()).next();
                self.window_bits = digits.and_then(|d| d.parse().ok());
            }
            self.head = Some(head);
        }
        if self.is_open() {
            while self.take_frame() {}
        }
    }

    fn take_frame(&mut self) -> bool {
        let [first, second, rest @ ..] = self.bytes.as_slice() else {
            return false;
        };
        assert_eq!(second & 0x80, 0, "a server frame is not masked");
        let (len, at) = match second & 0x7f {
            126 if rest.len() >= 2 => (u16::from_be_bytes([rest[0], rest[1]]) as usize, 4),
            127 if rest.len() >= 8 => {
                let len = u64::from_be_bytes(rest[..8].try_into().expect("eight bytes"));
                (usize::try_from(len).expect("a length"), 10)
            }
            126 | 127 => return false,
            n => (n as usize, 2),
        };
        if self.bytes.len() < at + len {
            return false;
        }
        let first = *first;
        let payload = self.bytes[at..at + len].to_vec();
        self.bytes.drain(..at + len);
        assert!(self.close.is_none(), "a frame after the close frame");
        self.frame(first, payload);
        true
    }

    fn frame(&mut self, first: u8, payload: Vec<u8>) {
        assert_ne!(first & 0x80, 0, "server frames are not fragmented");
        assert_eq!(first & 0x30, 0, "reserved bits");
        match (first & 0x0f, first & 0x40 != 0) {
            (1, false) => self.texts.push(String::from_utf8(payload).expect("text")),
            (1, true) => {
                self.deflated += 1;
                let text = self.inflate(payload);
                self.texts.push(String::from_utf8(text).expect("text"));
            }
            (8, false) if payload.is_empty() => self.close = Some((1005, String::new())),
            (8, false) => {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                let reason = String::from_utf8(payload[2..].to_vec()).expect("a reason");
                self.close = Some((code, reason));
            }
            (9, false) => self.pings += 1,
            (10, false) => self.pongs.push(payload),
            other => panic!("frame {other:?}"),
        }
    }

    /// With exactly the window that was agreed on.
    fn inflate(&self, mut payload: Vec<u8>) -> Vec<u8> {
        let bits = self.window_bits.expect("deflate was agreed on");
        payload.extend([0, 0, 0xff, 0xff]);
        let mut inflate = Decompress::new_with_window_bits(false, bits);
        let mut out = Vec::with_capacity(1 << 20);
        loop {
            let at = inflate.total_in() as usize;
            let before = inflate.total_out();
            inflate
                .decompress_vec(&payload[at..], &mut out, FlushDecompress::Sync)
                .expect("deflate data");
            if inflate.total_in() as usize == payload.len() && inflate.total_out() == before {
                return out;
            }
            if out.len() == out.capacity() {
                out.reserve(1 << 20);
            }
        }
    }
}
