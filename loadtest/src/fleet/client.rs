//! A connection of the fleet: handshake, reads, replies.

use std::io::{self, Read, Write};

use super::link::Link;
use super::returning::Comeback;
use super::talk::{Talk, say};
use super::tally::{Seen, Tally};
use crate::clock;
use crate::stamp;
use crate::stamp::HEAD_BYTES;
use crate::wire::deflate::{Inflater, Window};
use crate::wire::handshake::{self, Answer};
use crate::wire::parser::{FrameParser, Received, client_frame, opcode};

/// The reading behaviour of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Reads everything immediately.
    Reader,
    /// Reads nothing after the handshake, behind a small receive buffer.
    Stuck,
    /// Reads at a fixed rate, behind a small receive buffer.
    Throttled,
}

/// The state of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for the rest of the response to the upgrade request.
    Handshake(Vec<u8>),
    /// Frames flow.
    Open,
    /// Over; the socket is dropped.
    Ended,
    /// The handshake failed, with the reason.
    Refused(String),
}

/// A connection of the fleet.
pub(super) struct Client {
    /// The number in the order of opening.
    index: usize,
    pub(super) stream: Option<Link>,
    pub(super) kind: Kind,
    pub(super) phase: Phase,
    pub(super) seen: Seen,
    /// The agreed compression.
    pub(super) deflate: Option<Window>,
    /// The messages that the next message may refer to.
    window: Option<Box<Inflater>>,
    pub(super) comeback: Comeback,
    parser: FrameParser,
    /// Bytes that the kernel has not taken yet.
    out: Vec<u8>,
}

/// The common state of all clients during a read.
pub(super) struct Shared<'a> {
    pub(super) scratch: &'a mut [u8],
    /// The offered compression.
    pub(super) offered: Option<Window>,
    /// For messages compressed without context takeover.
    pub(super) inflater: &'a mut Inflater,
    pub(super) tally: &'a mut Tally,
    pub(super) talk: Option<&'a mut (dyn Talk + 'static)>,
}

impl Client {
    pub(super) fn new(index: usize, stream: Link, kind: Kind, request: Vec<u8>) -> Self {
        Self {
            index,
            stream: Some(stream),
            kind,
            phase: Phase::Handshake(Vec::new()),
            seen: Seen::default(),
            deflate: None,
            window: None,
            comeback: Comeback::default(),
            parser: FrameParser::default(),
            out: request,
        }
    }

    /// Queues bytes and writes as much as possible.
    pub(super) fn send(&mut self, bytes: &[u8], tally: &mut Tally) {
        self.out.extend_from_slice(bytes);
        self.write(tally);
    }

    /// Writes the queued bytes until the kernel takes no more.
    pub(super) fn write(&mut self, tally: &mut Tally) {
        while let (false, Some(stream)) = (self.out.is_empty(), &mut self.stream) {
            match stream.write(&self.out) {
                Ok(n) => drop(self.out.drain(..n)),
                Err(e) if not_now(&e) => return,
                // The result of connect(2), at the first write.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    return self.end("connection refused, nothing listens there".into(), tally);
                }
                Err(e) => return self.end(format!("write: {}", e.kind()), tally),
            }
        }
        // Nothing waits: an idle client keeps no buffer.
        self.out = Vec::new();
    }

    /// Reads until nothing more is available, or `budget` bytes. With `closed`, the event announced the
    /// peer's end, so a short read is not the last read.
    pub(super) fn read(&mut self, shared: &mut Shared<'_>, budget: usize, closed: bool) {
        self.read_bytes(shared, budget, closed);
        // The request waits for the end of the handshake of TLS.
        if !self.out.is_empty() {
            self.write(shared.tally);
        }
    }

    fn read_bytes(&mut self, shared: &mut Shared<'_>, mut budget: usize, closed: bool) {
        while let (Some(stream), true) = (&mut self.stream, budget > 0) {
            let size = shared.scratch.len().min(budget);
            let is_emptied = stream.is_emptied_by_short_reads();
            match stream.read(&mut shared.scratch[..size]) {
                Ok(0) => return self.end("no close frame".into(), shared.tally),
                Ok(n) => {
                    budget -= n;
                    self.received(n, shared);
                    // A second read without data would cost as much as this read.
                    if n < size && !closed && is_emptied {
                        return;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if not_now(&e) => return,
                Err(e) => return self.end(format!("read: {}", e.kind()), shared.tally),
            }
        }
    }

    fn received(&mut self, n: usize, shared: &mut Shared<'_>) {
        let now_us = clock::now_us();
        let Phase::Handshake(head) = &mut self.phase else {
            return self.frames(0..n, now_us, shared);
        };
        head.extend_from_slice(&shared.scratch[..n]);
        match handshake::answer(head, shared.offered) {
            Answer::Partial => {}
            Answer::Refused(why) => {
                self.stream = None;
                self.phase = Phase::Refused(why);
            }
            Answer::Open {
                head_bytes,
                deflate,
            } => {
                let after_head = n - (head.len() - head_bytes);
                self.deflate = deflate;
                self.phase = Phase::Open;
                self.seen.opened_us = now_us;
                self.seen.freshness.opened();
                if let Some(talk) = &mut shared.talk {
                    say(talk.opened(self.index), &mut self.out);
                }
                self.frames(after_head..n, now_us, shared);
            }
        }
    }

    fn frames(&mut self, at: std::ops::Range<usize>, now_us: u64, shared: &mut Shared<'_>) {
        let Shared {
            scratch,
            inflater,
            tally,
            talk,
            ..
        } = shared;
        let (seen, out) = (&mut self.seen, &mut self.out);
        let (deflate, window) = (self.deflate, &mut self.window);
        let index = self.index;
        let mut hear = |text: &[u8], out: &mut Vec<u8>| {
            if let Some(talk) = talk {
                say(talk.heard(index, text, now_us), out);
            }
        };
        let mut broken = None;
        let mut close = None;
        let fed = self.parser.feed(&scratch[at], |received| match received {
            Received::Message {
                payload,
                bytes,
                deflated: false,
            } => {
                tally.payload_bytes += bytes;
                tally.text_bytes += bytes;
                tally.message(seen, stamp::find(payload), now_us);
                hear(payload, out);
            }
            Received::Message {
                payload,
                bytes,
                deflated: true,
            } => {
                let inflater = if deflate == Some(Window::Kept) {
                    window.get_or_insert_with(|| Box::new(Inflater::new()))
                } else {
                    inflater.forget();
                    &mut **inflater
                };
                let mut head = [0; HEAD_BYTES];
                match inflater.text(payload, &mut head) {
                    Ok(text) => {
                        tally.payload_bytes += bytes;
                        tally.text_bytes += text.bytes;
                        tally.deflated += 1;
                        let head = &head[..text.head_bytes];
                        tally.message(seen, stamp::find(head), now_us);
                        hear(head, out);
                    }
                    Err(why) => broken = Some(why.to_string()),
                }
            }
            Received::Control {
                opcode: opcode::PING,
                payload,
            } => {
                out.extend_from_slice(&client_frame(opcode::PONG, payload));
            }
            Received::Control {
                opcode: opcode::CLOSE,
                payload,
            } => {
                out.extend_from_slice(&client_frame(opcode::CLOSE, payload));
                close = Some(match payload {
                    [a, b, ..] => format!("close {}", u16::from_be_bytes([*a, *b])),
                    _ => "close without a code".into(),
                });
            }
            Received::Control { .. } => {}
        });
        if !self.out.is_empty() {
            self.write(tally);
        }
        if let Some(how) = fed.err().map(|e| e.to_string()).or(broken).or(close) {
            self.end(how, tally);
        }
    }

    fn end(&mut self, how: String, tally: &mut Tally) {
        if self.stream.take().is_none() {
            return;
        }
        if let Phase::Handshake(_) = self.phase {
            self.phase = Phase::Refused(how);
        } else {
            self.phase = Phase::Ended;
            self.comeback.stopped = matches!(how.as_str(), "close 1001" | "close 1012");
            tally.ended(how);
        }
    }
}

fn not_now(e: &io::Error) -> bool {
    // A socket returns ENOTCONN until connect(2) is done.
    matches!(
        e.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected
    )
}
