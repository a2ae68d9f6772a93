//! A gateway on a hub, and a client without a socket: the smallest shell.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use weirgate_wire::admission::Transport;

use weirgate_core::{
    Core, Effect, FrameBytes, Gateway, Hub, Limits, PeerEnd, SessionKey, Transmit, Write,
};
use weirgate_wire::base::Now;

/// The time of every message.
pub(crate) const NOW: Now = Now {
    mono_us: 1_000_000,
    unix_us: 1_700_000_000_123 * 1_000,
};

/// The bytes written to each client.
#[derive(Default)]
struct Written(BTreeMap<SessionKey, Vec<u8>>);

impl Transmit for Written {
    fn send(&mut self, batch: &[Write<'_>], wrote: &mut Vec<io::Result<usize>>) {
        for write in batch {
            let all = self.0.entry(write.key).or_default();
            let before = all.len();
            write
                .slices
                .iter()
                .for_each(|slice| all.extend_from_slice(slice));
            wrote.push(Ok(all.len() - before));
        }
    }
}

/// A gateway and its hub.
pub(crate) struct Bench<G: Gateway> {
    hub: Hub<G>,
    written: Written,
    /// The gateway's requests to other threads.
    pub(crate) outputs: Vec<G::Out>,
}

impl<G: Gateway> Bench<G> {
    pub(crate) fn new(gateway: G) -> Self {
        let limits = Limits {
            ping_interval_us: 0,
            ..Limits::default()
        };
        let core = Core::new(limits, FrameBytes::default(), 1);
        Self {
            hub: Hub::new(core, gateway),
            written: Written::default(),
            outputs: Vec::new(),
        }
    }

    /// Connects a client, sends these messages and ends the client. Returns the texts that the client got for
    /// each message, the texts of the connection first.
    pub(crate) fn talk(&mut self, target: &str, messages: &[&str]) -> Vec<Vec<String>> {
        self.outputs.clear();
        let key = self.hub.handle_accepted(
            NOW,
            SocketAddr::from((Ipv4Addr::LOCALHOST, 4_000)),
            Transport::Plain,
        );
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        let mut answers = vec![self.send(key, request.as_bytes())];
        for message in messages {
            answers.push(self.send(key, &frame(message.as_bytes())));
        }
        self.hub.handle_ended(NOW, key, PeerEnd::Failed);
        self.settle();
        answers
    }

    fn send(&mut self, key: SessionKey, bytes: &[u8]) -> Vec<String> {
        assert!(self.hub.request_read(key), "the client is read");
        self.hub.handle_bytes(NOW, key, bytes);
        self.settle();
        texts(&self.written.0.remove(&key).unwrap_or_default())
    }

    fn settle(&mut self) {
        for turns in 0.. {
            assert!(turns < 1_000, "a loop without an end");
            let mut more = self.hub.flush(NOW, &mut self.written);
            while let Some(effect) = self.hub.poll_effect() {
                more = true;
                match effect {
                    Effect::Release { key, .. } | Effect::ToHttp { key, .. } => {
                        self.hub.handle_released(key)
                    }
                    // All that a client sends is read at once.
                    Effect::ReadLast(key) => self.hub.handle_last_read(NOW, key),
                    Effect::HalfClose(_) | Effect::ReadOn(_) => {}
                }
            }
            while let Some(output) = self.hub.poll_output() {
                self.outputs.push(output);
            }
            self.hub.begin_part(u64::MAX);
            if self.hub.waiting_shares() > 0 {
                self.hub.handle_next_share(NOW);
                continue;
            }
            if !more {
                return;
            }
        }
    }
}

/// A masked text frame.
fn frame(payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x81];
    match payload.len() {
        short @ 0..126 => out.push(0x80 | short as u8),
        long => {
            out.push(0x80 | 127);
            out.extend((long as u64).to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend_from_slice(payload);
    out
}

/// Returns the text messages in the bytes of a server, behind its 101.
fn texts(mut bytes: &[u8]) -> Vec<String> {
    if bytes.starts_with(b"HTTP/1.1 ") {
        let end = bytes
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .expect("a whole head");
        bytes = &bytes[end + 4..];
    }
    let mut texts = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        let (length, at) = match second {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), 2),
            127 => (
                u64::from_be_bytes(rest[..8].try_into().expect("eight bytes")) as usize,
                8,
            ),
            short => (usize::from(*short), 0),
        };
        if *first == 0x81 {
            texts.push(String::from_utf8(rest[at..at + length].to_vec()).expect("text is UTF-8"));
        }
        bytes = &rest[at + length..];
    }
    texts
}
