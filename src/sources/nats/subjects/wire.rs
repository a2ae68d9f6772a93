//! A connection: from the address to the first PONG, then bytes in and out. Never blocks for longer
//! than the timeouts.

use std::io::{self, ErrorKind, Read};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use sonic_rs::{JsonValueMutTrait, JsonValueTrait};

use super::super::access::Login;
use super::super::error::NatsError;
use super::super::servers::Servers;
use super::super::settings::{CLIENT_NAME, Endpoint, NatsSettings};
use super::super::tls;
use super::protocol::{self, Op, Reader};
use crate::sources::socket::{Buffered, Stream, Waiter, ended};

/// The most bytes of a single read, and so between two looks at other work.
const READ_BYTES: usize = 64 * 1024;

/// How long a server may take for a new connection.
#[derive(Clone, Copy)]
pub(in crate::sources::nats) struct Patience {
    /// To accept a TCP connection.
    pub(in crate::sources::nats) connect: Duration,
    /// For the first line, TLS and the log-in together.
    pub(in crate::sources::nats) handshake: Duration,
}

impl Patience {
    /// The limits for a connection in normal use.
    const USUAL: Self = Self {
        connect: Duration::from_secs(1),
        handshake: Duration::from_secs(2),
    };
}

/// A connection to a server, logged in.
pub(in crate::sources::nats) struct Wire {
    io: Buffered,
    /// Without user and password.
    pub(super) url: String,
    /// The other servers of the cluster, announced by this server.
    neighbours: Vec<Endpoint>,
    /// The server is part of a cluster, or may become so.
    pub(super) is_clustered: bool,
    /// The largest message that the server takes, bytes.
    pub(super) max_payload: usize,
    reader: Reader,
}

impl Wire {
    /// Connects to the first server that accepts, each tried once. Returns the server too.
    pub(super) fn to_first(
        servers: &mut Servers,
        waiter: &mut Waiter,
        settings: &NatsSettings,
        payload_bytes_max: usize,
    ) -> Result<(Self, Endpoint), NatsError> {
        servers.connect(settings, |endpoint| {
            let bytes_max = payload_bytes_max;
            let mut wire = Self::open(waiter, endpoint, settings, bytes_max, Patience::USUAL)?;
            let told = mem::take(&mut wire.neighbours);
            Ok((wire, told))
        })
    }

    /// Connects and logs in.
    pub(in crate::sources::nats) fn open(
        waiter: &mut Waiter,
        endpoint: &Endpoint,
        settings: &NatsSettings,
        payload_bytes_max: usize,
        patience: Patience,
    ) -> Result<Self, NatsError> {
        let wrong_file = |source| NatsError::File { source };
        let login = Login::read(&endpoint.auth, &settings.credentials).map_err(wrong_file)?;
        let unreachable = |source| NatsError::Unreachable {
            url: endpoint.url(),
            setting: settings.urls_from.clone(),
            source,
        };
        let tcp = waiter.connect(&endpoint.host, endpoint.port, patience.connect);
        let mut tcp = tcp.map_err(unreachable)?;
        let until = Instant::now() + patience.handshake;
        let info = match greeting(waiter, &mut tcp, until) {
            Ok(info) => info,
            Err(error) => {
                waiter.leave(&mut tcp);
                return Err(unreachable(error));
            }
        };
        let is_tls = endpoint.tls || settings.tls.is_demanded() || tls::is_wanted(&info);
        let stream = if is_tls {
            let config = Arc::new(tls::config(&settings.tls).map_err(wrong_file)?);
            Stream::tls(tcp, &endpoint.tls_name, &config).map_err(unreachable)?
        } else {
            Stream::Plain(tcp)
        };
        let told = tls::neighbours(&info);
        let neighbours = told
            .iter()
            .filter_map(|address| endpoint.neighbour(address, is_tls));
        let mut io = Buffered::new(stream, READ_BYTES);
        io.out().extend(connect_line(&info, &login));
        let mut wire = Self {
            io,
            url: endpoint.url(),
            neighbours: neighbours.collect(),
            is_clustered: tls::names_cluster(&info),
            max_payload: tls::max_payload(&info),
            reader: Reader::new(payload_bytes_max),
        };
        match wire.log_in(waiter, until) {
            Ok(()) => Ok(wire),
            Err(error) => {
                wire.leave(waiter);
                Err(error)
            }
        }
    }

    fn log_in(&mut self, waiter: &mut Waiter, until: Instant) -> Result<(), NatsError> {
        let refused = |url: &str, reason: String| NatsError::Refused {
            url: url.to_owned(),
            reason,
        };
        loop {
            self.flush(waiter)
                .map_err(|e| refused(&self.url, e.to_string()))?;
            match self.read(waiter) {
                Ok(true) => {}
                Ok(false) if Instant::now() < until => {
                    // TLS may have queued bytes to send during the read.
                    let waited = self.flush(waiter).and_then(|()| waiter.wait(until));
                    waited.map_err(|e| refused(&self.url, e.to_string()))?;
                }
                Ok(false) => {
                    let late = "it did not finish the handshake in time";
                    return Err(refused(&self.url, late.to_owned()));
                }
                Err(error) => {
                    let tls = if self.io.stream().is_handshaking() {
                        "TLS: "
                    } else {
                        ""
                    };
                    return Err(refused(&self.url, format!("{tls}{error}")));
                }
            }
            // Operations behind the PONG are taken too: a server of a cluster announces the other
            // servers there.
            let mut is_in = false;
            while let Some(op) = self.next_op()? {
                match op {
                    Op::Pong => is_in = true,
                    Op::Error(words) => return Err(refused(&self.url, words)),
                    Op::Ping => protocol::pong(self.io.out()),
                    Op::Message(_) | Op::Other => {}
                }
            }
            if is_in {
                return Ok(());
            }
        }
    }

    /// The buffer for commands; [`Self::flush`] sends the buffer.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        self.io.out()
    }

    /// The number of bytes waiting to be written.
    pub(super) fn queued_bytes(&self) -> usize {
        self.io.queued_bytes()
    }

    /// Writes as much as the socket takes.
    pub(super) fn flush(&mut self, waiter: &mut Waiter) -> io::Result<()> {
        self.io.flush(waiter)
    }

    /// Reads once. Returns false if there was nothing to read. The operations come from
    /// [`Self::next_op`], and all have to be taken before the next read.
    pub(super) fn read(&mut self, waiter: &mut Waiter) -> io::Result<bool> {
        self.io.read(waiter)
    }

    /// The next complete operation.
    pub(super) fn next_op(&mut self) -> Result<Option<Op>, NatsError> {
        let op = self.io.take(|input| self.reader.next(input));
        op.map_err(|malformed| NatsError::Refused {
            url: self.url.clone(),
            reason: malformed.to_string(),
        })
    }

    /// Ends the connection.
    pub(in crate::sources::nats) fn leave(mut self, waiter: &Waiter) {
        waiter.leave(self.io.stream_mut().tcp_mut());
    }
}

/// Reads the server's first line, sent before TLS. The server sends no more until the client
/// answers.
fn greeting(waiter: &mut Waiter, tcp: &mut TcpStream, until: Instant) -> io::Result<String> {
    let mut line = Vec::new();
    let mut chunk = [0; 4096];
    while !protocol::is_greeting_over(&line) {
        match tcp.read(&mut chunk) {
            Ok(0) => return Err(ended()),
            Ok(bytes) => line.extend_from_slice(&chunk[..bytes]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                waiter.readable = false;
                if Instant::now() >= until {
                    return Err(protocol::no_greeting());
                }
                waiter.wait(until)?;
            }
            Err(error) => return Err(error),
        }
    }
    protocol::greeting(line)
}

/// `CONNECT` with the log-in, and a `PING`. The answer shows that the server accepts the log-in.
fn connect_line(info: &str, login: &Login) -> Vec<u8> {
    let json = info.trim_start_matches("INFO ");
    let nonce = sonic_rs::get(json, ["nonce"]).ok();
    let nonce = nonce.and_then(|nonce| nonce.as_str().map(str::to_owned));
    let mut connect = sonic_rs::json!({
        "verbose": false,
        "pedantic": false,
        "tls_required": false,
        "name": CLIENT_NAME,
        "lang": "rust",
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": 1,
        "echo": true,
        "headers": true,
        "no_responders": true,
    });
    if let Some(connect) = connect.as_object_mut() {
        for (field, value) in login.fields(&nonce.unwrap_or_default()) {
            connect.insert(field, value.as_str());
        }
    }
    let mut out = format!("CONNECT {connect}\r\n").into_bytes();
    protocol::ping(&mut out);
    out
}
