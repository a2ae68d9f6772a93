//! A client of the limit: its handshakes, and the frames to its socket, plain or over TLS.

use std::io::{ErrorKind, Read, Write};

use mio::net::TcpStream;

use super::frames::Gateway;
use super::session::{SEALED_BYTES_MAX, SEND_BYTES_MAX, Session};
use crate::wire::handshake;
use crate::wire::parser::opcode;

/// The buffers of all clients, and the greeting and response of the gateway.
pub(super) struct Buffers {
    read: Box<[u8]>,
    sealed: Box<[u8]>,
    plain: Vec<u8>,
    welcome: Option<Vec<u8>>,
    response: Option<Vec<u8>>,
}

impl Buffers {
    pub(super) fn new(gateway: Gateway) -> Self {
        Self {
            welcome: gateway.welcome(),
            response: gateway.response(),
            read: vec![0; 64 * 1024].into_boxed_slice(),
            sealed: vec![0; SEALED_BYTES_MAX].into_boxed_slice(),
            plain: Vec::new(),
        }
    }
}

/// The outcome of a frame.
pub(super) enum Sent {
    Whole,
    /// The client keeps the rest.
    Part,
    /// The socket is full, and nothing is kept.
    Nothing,
    /// A broken socket is removed when its event comes.
    Broken,
}

pub(super) struct Client {
    stream: TcpStream,
    tls: Option<Box<Session>>,
    /// The request head until the response; `None` once open.
    head: Option<Vec<u8>>,
    /// Answers of handshakes, or the rest of a partly sent frame. The rest must follow, or the stream would be broken;
    /// until then, whole frames are skipped.
    tail: Vec<u8>,
}

impl Client {
    pub(super) fn new(stream: TcpStream, tls: Option<Session>) -> Self {
        Self {
            stream,
            tls: tls.map(Box::new),
            head: Some(Vec::new()),
            tail: Vec::new(),
        }
    }

    /// Whether the handshakes are over.
    pub(super) fn is_open(&self) -> bool {
        self.head.is_none()
    }

    /// Whether the rest of a frame waits for the socket.
    pub(super) fn is_behind(&self) -> bool {
        !self.tail.is_empty()
    }

    /// Keeps a frame of which the socket took nothing.
    pub(super) fn keep(&mut self, frame: &[u8]) {
        self.tail.extend_from_slice(frame);
    }

    /// Sends a frame to a client that is not behind.
    pub(super) fn send(&mut self, frame: &[u8], buffers: &mut Buffers) -> Sent {
        if self.tls.is_some() {
            return self.send_sealed(frame, &mut buffers.sealed);
        }
        match self.stream.write(frame) {
            Ok(n) if n == frame.len() => Sent::Whole,
            Ok(n) => {
                self.keep(&frame[n..]);
                Sent::Part
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Sent::Nothing,
            Err(_) => Sent::Broken,
        }
    }

    /// Seals a frame and sends the records. A sealed record cannot be skipped, because its number is used up; so the client
    /// keeps everything that a full socket does not take.
    fn send_sealed(&mut self, frame: &[u8], sealed: &mut [u8]) -> Sent {
        let Some(session) = &mut self.tls else {
            return Sent::Broken;
        };
        for plain in frame.chunks(SEND_BYTES_MAX) {
            let Some(n) = session.seal(plain, sealed) else {
                return Sent::Broken;
            };
            let sent = match self.tail.is_empty() {
                true => self.stream.write(&sealed[..n]),
                false => Ok(0),
            };
            let sent = match sent {
                Ok(sent) => sent,
                Err(e) if e.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => return Sent::Broken,
            };
            self.tail.extend_from_slice(&sealed[sent..n]);
        }
        if self.is_behind() {
            Sent::Part
        } else {
            Sent::Whole
        }
    }

    /// Sends what the client keeps.
    pub(super) fn flush(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        if let Ok(n) = self.stream.write(&self.tail) {
            self.tail.drain(..n);
        }
    }

    /// Reads everything and answers the handshakes. Returns false if the connection has ended.
    pub(super) fn read(&mut self, buffers: &mut Buffers) -> bool {
        loop {
            match self.stream.read(&mut buffers.read) {
                Ok(0) => return false,
                Ok(n) => {
                    if !self.received(n, buffers) {
                        return false;
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return e.kind() == ErrorKind::WouldBlock,
            }
        }
    }

    /// Takes `n` bytes of the network. Once open, a client only sends requests, each in a read of its own.
    fn received(&mut self, n: usize, buffers: &mut Buffers) -> bool {
        let mut bytes = &buffers.read[..n];
        if let Some(session) = &mut self.tls {
            buffers.plain.clear();
            let is_well = session.open(bytes, &mut buffers.plain, &mut self.tail);
            bytes = &buffers.plain;
            if !is_well {
                return false;
            }
            self.flush();
        }
        let Some(head) = &mut self.head else {
            let is_request = bytes.first() == Some(&(0x80 | opcode::TEXT));
            if is_request && let Some(response) = buffers.response.take() {
                let sent = self.send(&response, buffers);
                buffers.response = Some(response);
                return !matches!(sent, Sent::Broken | Sent::Nothing);
            }
            return true;
        };
        head.extend_from_slice(bytes);
        if head.len() > handshake::HEAD_BYTES_MAX {
            return false;
        }
        if let Some(length) = handshake::head_length(head) {
            let Some(mut answer) = handshake::accept(&head[..length]) else {
                return false;
            };
            answer.extend_from_slice(buffers.welcome.as_deref().unwrap_or_default());
            self.head = None;
            if let Sent::Broken | Sent::Nothing = self.send(&answer, buffers) {
                return false;
            }
        }
        true
    }
}
