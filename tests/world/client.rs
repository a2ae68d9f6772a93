//! An independent client: separate head and frame parsers, separate inflate, no code of the crate.

use std::collections::VecDeque;

use weirgate_test_support::{DeflateSender, KeptInflater, client_frame};

use super::inflate::inflate;

/// In place of a number of bits: the largest window, without context takeover.
pub(crate) const NO_TAKEOVER: u8 = 0;

/// An upgrade request; `deflate`: the requested bits of the window.
pub(crate) fn request(target: &str, deflate: Option<u8>) -> Vec<u8> {
    let offer = deflate.map(|bits| match bits {
        NO_TAKEOVER => "permessage-deflate; server_no_context_takeover".to_owned(),
        bits => format!("permessage-deflate; server_max_window_bits={bits}"),
    });
    request_with(target, offer.as_deref())
}

/// An upgrade request with this offer of extensions.
pub(crate) fn request_with(target: &str, offer: Option<&str>) -> Vec<u8> {
    let mut request = format!(
        "GET {target} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    );
    if let Some(offer) = offer {
        request += &format!("Sec-WebSocket-Extensions: {offer}\r\n");
    }
    request += "\r\n";
    request.into_bytes()
}

/// A masked client frame.
pub(crate) fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    client_frame(first_byte, [0x11, 0xa2, 0x3c, 0x94], payload)
}

/// A ping sent by the client, and the most messages before the pong; `None` if the server did not
/// read the ping immediately.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) payload: Vec<u8>,
    pub(crate) messages_max: Option<usize>,
}

/// Everything received by a client so far.
#[derive(Debug, Default)]
pub(crate) struct Client {
    /// Received bytes of an incomplete frame.
    bytes: Vec<u8>,
    head: Option<String>,
    window_bits: Option<u8>,
    /// The window for context takeover, if agreed.
    kept: Option<KeptInflater>,
    /// The compressor of the client's own messages, with context takeover if agreed.
    compressor: Compressor,
    pub(crate) texts: Vec<String>,
    pub(crate) binaries: Vec<Vec<u8>>,
    /// Messages so far, including those already taken.
    pub(crate) messages: usize,
    pub(crate) deflated: usize,
    /// Pings without a pong so far.
    pub(crate) asked: VecDeque<Asked>,
    pub(crate) pings: usize,
    pub(crate) pongs: Vec<Vec<u8>>,
    pub(crate) close: Option<(u16, String)>,
    /// Answers a close frame, and half-closes after the server.
    pub(crate) is_polite: bool,
}

impl Client {
    pub(crate) fn is_open(&self) -> bool {
        self.head
            .as_deref()
            .is_some_and(|h| h.starts_with("HTTP/1.1 101 "))
    }

    /// Whether context takeover from the server was agreed.
    pub(crate) fn keeps_window(&self) -> bool {
        self.kept.is_some()
    }

    /// The complete head of the response.
    pub(crate) fn head(&self) -> Option<&str> {
        self.head.as_deref()
    }

    pub(crate) fn status(&self) -> Option<u16> {
        self.head.as_deref()?.get(9..12)?.parse().ok()
    }

    /// Notes a ping, read by the server immediately or only later.
    pub(crate) fn asks(&mut self, payload: &[u8], at_once: bool) {
        let messages_max = self.messages + usize::from(self.has_begun());
        self.asked.push_back(Asked {
            payload: payload.to_vec(),
            messages_max: at_once.then_some(messages_max),
        });
    }

    /// Whether a part of a message has been received.
    pub(crate) fn has_begun(&self) -> bool {
        self.is_open() && self.bytes.first().is_some_and(|first| first & 0x08 == 0)
    }

    /// The position in the stream of the client's last byte; `rest` is the data behind this byte.
    pub(crate) fn place(&self, rest: &[u8]) -> Place {
        if !self.is_open() {
            return Place::Head;
        }
        let got = self.bytes.len();
        let view = [&self.bytes[..got.min(64)], &rest[..rest.len().min(64)]].concat();
        let [first, second, ..] = view[..] else {
            return Place::FrameBorder;
        };
        if got == 0 {
            return Place::FrameBorder;
        }
        if first & 0x08 != 0 {
            return Place::Control;
        }
        let header = match second {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        let deflated = first & 0x40 != 0;
        let text = &view[view.len().min(header + if deflated { 5 } else { 0 })..];
        let prefix = text.strip_prefix(b"{\"seq\":").map_or(0, |number| {
            let digits = number.iter().take_while(|b| b.is_ascii_digit()).count();
            view.len() - number.len() + digits
        });
        let spot = match got {
            n if n < header => Spot::Header,
            n if n == header => Spot::HeaderEnd,
            n if n < prefix => Spot::Prefix,
            n if n == prefix => Spot::LeadEnd,
            _ => Spot::Body,
        };
        Place::Data {
            deflated,
            prefix: prefix > 0,
            spot,
        }
    }

    /// Takes received bytes; panics on anything forbidden to a server.
    pub(crate) fn received(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        if self.head.is_none() {
            let Some(end) = self.bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
                return;
            };
            let head = String::from_utf8(self.bytes.drain(..end + 4).collect()).expect("a head");
            if head.contains("permessage-deflate") {
                let value = head.split("server_max_window_bits=").nth(1);
                let digits = value.and_then(|v| v.split(|c: char| !c.is_ascii_digit()).next());
                let bits = digits.map_or(15, |d| d.parse().expect("bits"));
                self.window_bits = Some(bits);
                if bits == 15 && !head.contains("server_no_context_takeover") {
                    self.kept = Some(KeptInflater::new(15));
                }
                self.compressor.stays = !head.contains("client_no_context_takeover");
            }
            self.head = Some(head);
        }
        if self.is_open() {
            while self.take_frame() {}
        }
    }

    /// Takes what was received behind the head of a response other than 101.
    pub(crate) fn take_rest(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.bytes)).expect("text")
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
            (opcode @ (1 | 2), deflated) => {
                assert!(
                    deflated || self.window_bits.is_none(),
                    "a message without compression, which some clients cannot take"
                );
                self.messages += 1;
                let bytes = payload.len();
                let message = if deflated {
                    self.inflate(payload)
                } else {
                    payload
                };
                self.deflated += usize::from(bytes < message.len());
                match opcode {
                    1 => self.texts.push(String::from_utf8(message).expect("text")),
                    _ => self.binaries.push(message),
                }
            }
            (8, false) if payload.is_empty() => self.close = Some((1005, String::new())),
            (8, false) => {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                let reason = String::from_utf8(payload[2..].to_vec()).expect("a reason");
                self.close = Some((code, reason));
            }
            (9, false) => self.pings += 1,
            (10, false) => {
                if let Some(asked) = self.asked.pop_front() {
                    assert_eq!(payload, asked.payload, "the pong of another ping");
                    let messages = asked.messages_max.unwrap_or(usize::MAX);
                    assert!(self.messages <= messages, "a pong behind data");
                }
                self.pongs.push(payload);
            }
            other => panic!("frame {other:?}"),
        }
    }

    /// The client's next message, compressed (RFC 7692 §7.2.1).
    pub(crate) fn compress(&mut self, text: &[u8]) -> Vec<u8> {
        self.compressor.message(text)
    }

    /// Inflates a message with exactly the agreed window.
    fn inflate(&mut self, mut payload: Vec<u8>) -> Vec<u8> {
        let bits = self.window_bits.expect("deflate was agreed on");
        if bits < 12 {
            payload.extend([0, 0, 0xff, 0xff]);
            return inflate(&payload, bits);
        }
        match &mut self.kept {
            Some(kept) => kept.message(&payload),
            None => KeptInflater::new(bits).message(&payload),
        }
    }
}

/// Compresses messages in turn.
#[derive(Debug, Default)]
pub(crate) struct Compressor {
    sender: Option<DeflateSender>,
    /// Messages may refer to earlier messages.
    pub(crate) stays: bool,
}

impl Compressor {
    pub(crate) fn message(&mut self, text: &[u8]) -> Vec<u8> {
        let sender = self.sender.take();
        let mut sender = sender.unwrap_or_else(|| DeflateSender::new(15));
        let out = sender.message(text);
        self.sender = Some(sender).filter(|_| self.stays);
        out
    }
}

/// The point at which a write stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// In the response to the handshake.
    Head,
    /// Inside a ping, a pong or a close.
    Control,
    /// Between two frames.
    FrameBorder,
    /// Inside a message.
    Data {
        deflated: bool,
        /// With a number in front of the body.
        prefix: bool,
        spot: Spot,
    },
}

/// The point inside a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Spot {
    Header,
    HeaderEnd,
    Prefix,
    LeadEnd,
    Body,
}

impl Place {
    /// All places.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![Self::Head, Self::Control, Self::FrameBorder];
        for (deflated, prefix) in [(false, false), (false, true), (true, false), (true, true)] {
            let spots = [
                Spot::Header,
                Spot::HeaderEnd,
                Spot::Prefix,
                Spot::LeadEnd,
                Spot::Body,
            ];
            let spots = spots.into_iter().filter(|spot| match spot {
                Spot::Prefix | Spot::LeadEnd => prefix,
                _ => true,
            });
            all.extend(spots.map(|spot| Self::Data {
                deflated,
                prefix,
                spot,
            }));
        }
        all
    }
}
