//! A connection to Redis: connecting, bytes in and out, questions with answers.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::error::RedisError;
use super::resp::{ReadLimits, Reader, Value, pack};
use super::settings::RedisEndpoint;
use crate::sources::socket::{Buffered, Stream, Waiter};

/// The most bytes of a read, and so the most between two looks at other work.
const READ_BYTES: usize = 64 * 1024;
/// The limits of answers to questions: `ROLE` lists all replicas.
const ANSWER_LIMITS: ReadLimits = ReadLimits {
    bulk_bytes_max: 64 * 1024,
    items_max: 4 * 1024,
};

pub(super) struct Connection<'w> {
    waiter: &'w mut Waiter,
    io: Buffered,
    /// Host and port, for people.
    server: String,
    reader: Reader,
}

impl<'w> Connection<'w> {
    /// Connects to the first of the host's addresses that accepts, each within `timeout`. `timeout` does not
    /// bound the name lookup.
    pub(super) fn open(
        waiter: &'w mut Waiter,
        endpoint: &RedisEndpoint,
        tls: Option<&Arc<ClientConfig>>,
        timeout: Duration,
    ) -> Result<Self, RedisError> {
        let server = endpoint.address();
        let connected = waiter.connect(&endpoint.host, endpoint.port, timeout);
        let opened = connected.and_then(|tcp| match tls {
            Some(config) if endpoint.tls => {
                let name = endpoint.tls_name.as_ref().unwrap_or(&endpoint.host);
                Stream::tls(tcp, name, config)
            }
            _ => Ok(Stream::Plain(tcp)),
        });
        match opened {
            Ok(stream) => Ok(Self {
                waiter,
                io: Buffered::new(stream, READ_BYTES),
                server,
                reader: Reader::new(ANSWER_LIMITS),
            }),
            Err(source) => Err(RedisError::Unreachable { server, source }),
        }
    }

    /// Host and port, for people.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Sets the limits of the values that are read from here on.
    pub(super) fn set_limits(&mut self, limits: ReadLimits) {
        self.reader.set_limits(limits);
    }

    /// Puts a command behind the bytes that wait to be written.
    pub(super) fn queue<T: AsRef<[u8]>>(&mut self, command: impl ExactSizeIterator<Item = T>) {
        pack(self.io.out(), command);
    }

    /// The number of bytes that wait to be written.
    pub(super) fn queued_bytes(&self) -> usize {
        self.io.queued_bytes()
    }

    /// Writes as much as the socket takes.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.io.flush(self.waiter)
    }

    /// Reads once. Returns false if there is nothing to read. The caller has to take all values with
    /// [`Self::next_value`] before the next read.
    pub(super) fn read(&mut self) -> io::Result<bool> {
        self.io.read(self.waiter)
    }

    /// Takes the next complete value.
    pub(super) fn next_value(&mut self) -> Result<Option<Value>, RedisError> {
        let value = self.io.take(|input| self.reader.next(input));
        value.map_err(|malformed| self.wrong(malformed.to_string()))
    }

    /// Whether there may be something to read.
    pub(super) fn has_input(&mut self) -> io::Result<bool> {
        self.waiter.wait(Instant::now())?;
        Ok(self.waiter.readable)
    }

    /// Whether the socket may be read or written, or the waker was used; does not wait.
    pub(super) fn look(&mut self) -> io::Result<bool> {
        self.waiter.look()
    }

    /// Waits until the socket may be read or written, the waker was used, or the time is over.
    pub(super) fn wait(&mut self, until: Instant) -> io::Result<()> {
        self.waiter.wait(until)
    }

    /// Sends commands and waits for an answer to each. Returns fewer answers only if the
    /// server ended the connection after the last answer.
    pub(super) fn ask<T: AsRef<[u8]>>(
        &mut self,
        commands: &[&[T]],
        until: Instant,
    ) -> Result<Vec<Value>, RedisError> {
        self.ask_for(commands, until, |_| true)
    }

    /// Like [`Self::ask`], where other values may come between the answers.
    pub(super) fn ask_for<T: AsRef<[u8]>>(
        &mut self,
        commands: &[&[T]],
        until: Instant,
        is_answer: impl Fn(&Value) -> bool,
    ) -> Result<Vec<Value>, RedisError> {
        for command in commands {
            self.queue(command.iter());
        }
        let mut answers = Vec::with_capacity(commands.len());
        loop {
            self.flush().map_err(|error| self.no_answer(error))?;
            match self.read() {
                Ok(true) => {}
                Ok(false) if Instant::now() < until => {
                    // TLS may have produced bytes to send during the read.
                    self.flush().map_err(|error| self.no_answer(error))?;
                    self.wait(until).map_err(|error| self.no_answer(error))?;
                }
                Ok(false) => {
                    let silent = "it accepted the connection and says nothing";
                    let error = io::Error::new(ErrorKind::TimedOut, silent);
                    return Err(self.no_answer(error));
                }
                Err(_) if !answers.is_empty() => return Ok(answers),
                Err(error) => return Err(self.no_answer(error)),
            }
            while let Some(value) = self.next_value()? {
                if is_answer(&value) {
                    answers.push(value);
                }
            }
            if answers.len() >= commands.len() {
                return Ok(answers);
            }
        }
    }

    /// The error for a value that the server should not have sent.
    pub(super) fn wrong(&self, reason: String) -> RedisError {
        let server = self.server.clone();
        RedisError::Wrong { server, reason }
    }

    fn no_answer(&self, error: io::Error) -> RedisError {
        let server = self.server.clone();
        if self.io.stream().is_handshaking() {
            let reason = error.to_string();
            return RedisError::Tls { server, reason };
        }
        RedisError::Unreachable {
            server,
            source: error,
        }
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.waiter.leave(self.io.stream_mut().tcp_mut());
    }
}
