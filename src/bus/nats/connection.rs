//! A connection to a NATS server: connecting, TLS, the log-in up to the first PONG, then operations in and commands
//! out, and pings of a silent server. No client library is between: this file calls the reader of [`super::protocol`].
//! Never blocks for longer than the timeouts.

use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use sonic_rs::JsonValueMutTrait;

use super::endpoint::Endpoint;
use super::error::NatsError;
use super::login::{Info, Login, tls_config};
use super::protocol::{LINE_BYTES_MAX, Op, OpReader, PING, PONG, PayloadLimits, ProtocolError};
use super::refusals::violation_in;
use super::settings::{CLIENT_NAME, NatsSettings};
use crate::LinkTimes;
use crate::relay::Relay;
use crate::server_words::shown;
use crate::socket::{Buffered, MaybeTlsStream, Waiter, ended};

/// The most bytes of a single read; between two reads other work gets its turn.
const READ_BYTES: usize = 64 * 1024;

/// How long a server may take for a new connection.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// To accept a TCP connection.
    pub(super) connect: Duration,
    /// From then on, until the first line.
    pub(super) greeting: Duration,
    /// From then on, until the end of TLS and the log-in. Longer than a server allows itself (`authorization.timeout`, 2 s
    /// by default, or more with an auth callout): then the server's own words say what is wrong.
    pub(super) login: Duration,
}

impl Patience {
    /// The limits for a connection in normal use.
    pub(super) const USUAL: Self = Self {
        connect: Duration::from_secs(1),
        // A server that hangs says nothing at all, so the next one is tried soon.
        greeting: Duration::from_secs(2),
        login: Duration::from_secs(6),
    };
}

/// The reason if the log-in has not ended in time.
pub(super) const LATE: &str = "it did not finish the handshake in time";

/// When the last bytes of messages arrived. Answers to pings do not count: they say nothing about JetStream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrivals {
    /// Of any message, whole or not.
    pub(super) any_at: Instant,
    /// Of a message that was not whole yet: until it is, nothing behind it arrives.
    pub(super) partial_at: Instant,
}

impl Arrivals {
    /// The arrival of bytes of a message that is not whole yet.
    pub(super) const fn at(at: Instant) -> Self {
        Self {
            any_at: at,
            partial_at: at,
        }
    }
}

/// A connection to a server, logged in. Its owner has the [`Waiter`] that waits for the socket, and calls in turns:
/// flush, read, all operations, wait.
pub(super) struct Connection {
    io: Buffered,
    pub(super) endpoint: Endpoint,
    /// The first line, and what newer INFO lines say of addresses, of lame duck mode and of the largest message.
    pub(super) info: Info,
    /// The address of the server.
    pub(super) peer: SocketAddr,
    reader: OpReader,
    /// When the connection was made.
    pub(super) opened: Instant,
    pub(super) arrivals: Arrivals,
    /// The numbers of the last PING and of the last PONG.
    pings: u64,
    pongs: u64,
    /// The part that was outside of the protocol.
    malformed: Option<ProtocolError>,
    /// The last error without a subject: perhaps the reason for the end of the connection.
    last_words: Option<String>,
}

impl Connection {
    /// Connects and logs in.
    pub(super) fn open(
        waiter: &mut Waiter,
        endpoint: &Endpoint,
        settings: &NatsSettings,
        limits: PayloadLimits,
        patience: Patience,
    ) -> Result<Self, NatsError> {
        let login = Login::read(&endpoint.auth, &settings.credentials).map_err(NatsError::File)?;
        let unreachable = |source| endpoint.unreachable(settings, source);
        let greeted = Greeted::connect(waiter, endpoint, patience);
        let Greeted {
            mut tcp,
            peer,
            connected,
            info,
            rest,
        } = greeted.map_err(unreachable)?;
        let until = connected + patience.login;
        let is_tls = endpoint.is_tls(settings, &info);
        let stream = if is_tls {
            if let Some(reason) = words_before_tls(&rest, limits) {
                waiter.deregister(&mut tcp);
                let url = endpoint.url();
                return Err(NatsError::Refused { url, reason });
            }
            let config = tls_config(&settings.tls).map_err(NatsError::File)?;
            MaybeTlsStream::tls(tcp, &endpoint.tls_name, &config).map_err(unreachable)?
        } else {
            MaybeTlsStream::plain(tcp)
        };
        let mut io = Buffered::new(stream, READ_BYTES);
        if !is_tls {
            io.put_unread(&rest);
        }
        io.out().extend(connect_line(&info, &login));
        let mut connection = Self {
            io,
            endpoint: endpoint.clone(),
            info,
            peer,
            reader: OpReader::new(limits),
            opened: Instant::now(),
            arrivals: Arrivals::at(Instant::now()),
            // The ping of the log-in.
            pings: 1,
            pongs: 0,
            malformed: None,
            last_words: None,
        };
        match connection.log_in(waiter, until) {
            Ok(()) => Ok(connection),
            Err(error) => {
                connection.close(waiter);
                Err(error)
            }
        }
    }

    /// Sends what is queued, which ends with a ping, and reads until the pong: the server sends it only after a good
    /// log-in. Gives up at `until`.
    fn log_in(&mut self, waiter: &mut Waiter, until: Instant) -> Result<(), NatsError> {
        loop {
            // The first bytes may have come with the server's first line. Operations after the PONG are taken too: a
            // server of a cluster sends another INFO there.
            let mut is_in = false;
            while let Some(op) = self.next_op()? {
                match op {
                    Op::Pong => is_in = true,
                    Op::Error(words) => return Err(self.refused(shown(&words))),
                    Op::Info(_) | Op::Ok | Op::Ping | Op::Message(_) => {}
                }
            }
            if is_in {
                return Ok(());
            }
            let flushed = self.io.flush(waiter);
            flushed.map_err(|error| self.login_error(&error))?;
            match self.io.read(waiter) {
                Ok(true) => {}
                Ok(false) if Instant::now() < until => {
                    // TLS may have queued bytes to send during the read.
                    let waited = self.io.flush(waiter).and_then(|()| waiter.wait(until));
                    waited.map_err(|error| self.login_error(&error))?;
                }
                Ok(false) => return Err(self.refused(LATE.to_owned())),
                Err(error) => return Err(self.login_error(&error)),
            }
        }
    }

    /// When the last bytes arrived.
    pub(super) fn last_received(&self) -> Instant {
        self.io.last_received
    }

    /// When the last ping was sent to a silent server; `None` if bytes have arrived since.
    pub(super) fn pinged(&self) -> Option<Instant> {
        self.io.pinged
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
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn flush(&mut self, waiter: &mut Waiter) -> Result<(), NatsError> {
        self.io.flush(waiter).map_err(|error| self.lost(&error))
    }

    /// Reads once. Returns false if there was nothing to read. The caller takes all operations with [`Self::next_op`]
    /// before the next read.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn read(&mut self, waiter: &mut Waiter) -> Result<bool, NatsError> {
        self.io.read(waiter).map_err(|error| self.lost(&error))
    }

    /// The subscription of a message of which the first bytes have come.
    pub(super) fn sid_of_partial(&self) -> Option<u64> {
        self.reader.sid_of_partial()
    }

    /// Waits until there may be something to do, without sleeping while the last messages are young.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn wait(
        &self,
        waiter: &mut Waiter,
        relay: &mut Relay<NatsError>,
        until: Instant,
    ) -> Result<(), NatsError> {
        let waited = waiter.wait_or_spin(relay, until);
        waited.map_err(|error| self.lost(&error))
    }

    /// The next complete operation. A PING is answered here.
    ///
    /// # Errors
    /// The server does not speak the protocol.
    pub(super) fn next_op(&mut self) -> Result<Option<Op>, NatsError> {
        loop {
            let op = match self.malformed {
                Some(malformed) => Err(malformed),
                None => self.io.take(|input| self.reader.next(input)),
            };
            let op = op.map_err(|malformed| self.wrong(malformed))?;
            match &op {
                Some(Op::Message(_)) => self.arrivals.any_at = self.io.last_received,
                None if self.sid_of_partial().is_some() => {
                    self.arrivals = Arrivals::at(self.io.last_received)
                }
                Some(Op::Ping) => {
                    self.io.out().extend_from_slice(PONG);
                    continue;
                }
                Some(Op::Pong) if self.pongs == self.pings => {
                    return Err(self.wrong(ProtocolError("a PONG without a PING")));
                }
                Some(Op::Pong) => self.pongs += 1,
                Some(Op::Info(line)) => {
                    let Ok(newer) = Info::read(line) else {
                        return Err(self.wrong(ProtocolError("an INFO that cannot be read")));
                    };
                    if !newer.connect_urls.is_empty() {
                        self.info.connect_urls = newer.connect_urls;
                    }
                    self.info.ldm |= newer.ldm;
                    self.info.max_payload = newer.max_payload.or(self.info.max_payload);
                }
                Some(Op::Error(words)) if violation_in(words).is_none() => {
                    self.last_words = Some(shown(words));
                }
                _ => {}
            }
            return Ok(op);
        }
    }

    /// Bytes after a malformed operation may be anything, so none of them is read.
    fn wrong(&mut self, malformed: ProtocolError) -> NatsError {
        self.malformed = Some(malformed);
        self.refused(malformed.to_string())
    }

    /// The error that this server cannot be used, with the reason.
    pub(super) fn refused(&self, reason: String) -> NatsError {
        let url = self.endpoint.url();
        NatsError::Refused { url, reason }
    }

    /// The error of a log-in. After the handshake, TLS brings the refusal of the client's certificate (RFC 8446 §4.4.2.4).
    fn login_error(&self, error: &io::Error) -> NatsError {
        let is_of_tls = error
            .get_ref()
            .is_some_and(|inner| inner.is::<rustls::Error>());
        let reason = error.to_string();
        match is_of_tls || self.io.stream.is_handshaking() {
            true => NatsError::Tls {
                url: self.endpoint.url(),
                reason,
            },
            false => self.refused(reason),
        }
    }

    /// The servers of the cluster that this server has announced last.
    pub(super) fn neighbours(&self) -> impl Iterator<Item = Endpoint> {
        let is_tls = self.io.stream.is_tls();
        let urls = self.info.connect_urls.iter();
        urls.filter_map(move |address| self.endpoint.neighbour(address, is_tls))
    }

    /// Queues a PING after the commands. Returns the number of the ping: [`Self::is_answered`].
    pub(super) fn ping(&mut self) -> u64 {
        self.io.out().extend_from_slice(PING);
        self.pings += 1;
        self.pings
    }

    /// Whether the server has answered this ping, and so has handled every command before it.
    pub(super) fn is_answered(&self, ping: u64) -> bool {
        self.pongs >= ping
    }

    /// As [`Buffered::watch`].
    pub(super) fn watch(&mut self, times: &LinkTimes, is_silent: bool) -> Option<Instant> {
        self.io.watch(times, is_silent, |out| {
            out.extend_from_slice(PING);
            self.pings += 1;
        })
    }

    /// Whether bytes have arrived since the last read.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn has_news(&self, waiter: &mut Waiter) -> Result<bool, NatsError> {
        waiter.check().map_err(|error| self.lost(&error))?;
        Ok(waiter.readable)
    }

    /// The error for a server that has answered no ping.
    pub(super) fn silent(&self) -> NatsError {
        let silent_ms = self.io.last_received.elapsed().as_millis() as u64;
        NatsError::Silent(silent_ms)
    }

    /// The error for the end of the connection; the server's last words may tell the reason.
    pub(super) fn lost(&self, error: &io::Error) -> NatsError {
        let reason = match &self.last_words {
            Some(words) => format!("{error}: {words}"),
            None => error.to_string(),
        };
        NatsError::Ended(reason)
    }

    /// Waits at a stop until the server has taken everything, which the answer to a last ping says, at most for `timeout`.
    /// Messages that arrive meanwhile are dropped.
    pub(super) fn wait_until_taken(&mut self, waiter: &mut Waiter, timeout: Duration) {
        let (ping, until) = (self.ping(), Instant::now() + timeout);
        let mut step = || -> Result<bool, NatsError> {
            while self.next_op()?.is_some() {}
            self.flush(waiter)?;
            if !self.read(waiter)? {
                waiter.wait(until).map_err(|error| self.lost(&error))?;
            }
            Ok(!self.is_answered(ping) && Instant::now() < until)
        };
        // There is nobody to report an error to.
        while let Ok(true) = step() {}
    }

    /// Keeps the connection open beside another one; `waiter` no longer waits for it.
    pub(super) fn set_aside(&mut self, waiter: &Waiter) {
        waiter.deregister(&mut self.io.stream.tcp);
    }

    /// Ends the connection.
    pub(super) fn close(mut self, waiter: &Waiter) {
        self.set_aside(waiter);
    }
}

/// A connection before TLS and the log-in: the server has sent its first line, and sends no more until the client
/// answers, unless it refuses the connection.
struct Greeted {
    tcp: TcpStream,
    /// The address of the server.
    peer: SocketAddr,
    connected: Instant,
    info: Info,
    /// The bytes that came with the first line.
    rest: Vec<u8>,
}

impl Greeted {
    /// Connects to the address of `endpoint`, and waits for the first line.
    ///
    /// # Errors
    /// Nobody accepts or nothing comes in time, or no NATS server sends this line.
    fn connect(waiter: &mut Waiter, endpoint: &Endpoint, patience: Patience) -> io::Result<Self> {
        let address = endpoint.address.ok_or(ErrorKind::NotFound)?;
        let mut tcp = waiter.connect_to(address, patience.connect)?;
        let (peer, connected) = (tcp.peer_addr()?, Instant::now());
        let greeting = greeting(waiter, &mut tcp, connected + patience.greeting);
        let read = greeting.and_then(|(line, rest)| {
            let info = Info::read(&line).map_err(io::Error::other)?;
            Ok((info, rest))
        });
        match read {
            Ok((info, rest)) => Ok(Self {
                tcp,
                peer,
                connected,
                info,
                rest,
            }),
            Err(error) => {
                waiter.deregister(&mut tcp);
                Err(error)
            }
        }
    }
}

/// Reads the server's first line. Returns the line with its end, and the bytes after it.
fn greeting(
    waiter: &mut Waiter,
    tcp: &mut TcpStream,
    until: Instant,
) -> io::Result<(String, Vec<u8>)> {
    let (mut line, mut chunk) = (Vec::new(), [0; 4096]);
    let is_wrong = |line: &[u8]| line.len() >= 5 && !line.starts_with(b"INFO ");
    let is_over = |line: &[u8]| line.contains(&b'\n') || line.len() > LINE_BYTES_MAX;
    while !is_wrong(&line) && !is_over(&line) {
        match tcp.read(&mut chunk) {
            Ok(0) => return Err(ended()),
            Ok(bytes) => line.extend_from_slice(&chunk[..bytes]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                waiter.readable = false;
                if Instant::now() >= until {
                    let silent = "it accepted the connection and says nothing";
                    return Err(io::Error::new(ErrorKind::TimedOut, silent));
                }
                waiter.wait(until)?;
            }
            Err(error) => return Err(error),
        }
    }
    let end = line.iter().position(|&byte| byte == b'\n');
    let rest = line.split_off(end.map_or(line.len(), |at| at + 1));
    match String::from_utf8(line) {
        Ok(line) if line.starts_with("INFO ") && line.ends_with('\n') => Ok((line, rest)),
        _ => Err(io::Error::new(
            ErrorKind::InvalidData,
            "what answers there is not a NATS server",
        )),
    }
}

/// Why TLS cannot begin after a first line with this `rest`: a server that refuses a connection, because it has too many
/// for instance, says so before TLS. `None` if there is no rest.
fn words_before_tls(mut rest: &[u8], limits: PayloadLimits) -> Option<String> {
    if rest.is_empty() {
        return None;
    }
    match OpReader::new(limits).next(&mut rest) {
        Ok(Some(Op::Error(words))) => Some(shown(&words)),
        _ => Some("it does not wait for TLS".to_owned()),
    }
}

/// `CONNECT` with the log-in, and a `PING`. The answer shows that the server accepts the log-in.
fn connect_line(info: &Info, login: &Login) -> Vec<u8> {
    // `protocol` 1: the server may send further INFO lines.
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
        for (field, value) in login.fields(&info.nonce) {
            connect.insert(field, value.as_str());
        }
    }
    format!("CONNECT {connect}\r\nPING\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;
    use crate::nats::login::{Credentials, Tls};
    use crate::nats::servers::waiter;

    /// Logs in at `listener`. Nobody has to accept: the kernel does.
    fn opened(listener: &TcpListener) -> Result<(), NatsError> {
        let url = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        let endpoint = Endpoint::parse(&url).map_err(|e| e.to_string()).unwrap();
        let settings = NatsSettings {
            urls_from: "--bus".to_owned(),
            ..NatsSettings::plain(&url, Credentials::None, Tls::default())
        };
        let servers = endpoint.servers(&settings);
        let endpoint = servers.map_err(|e| e.to_string()).unwrap().remove(0);
        let (mut waiter, _) = waiter("a test").unwrap();
        let patience = Patience {
            greeting: Duration::from_millis(300),
            ..Patience::USUAL
        };
        let limits = PayloadLimits::of_all(1);
        let opened = Connection::open(&mut waiter, &endpoint, &settings, limits, patience);
        opened.map(drop)
    }

    /// Why a log-in at `listener` fails.
    fn failed(listener: &TcpListener) -> String {
        opened(listener).unwrap_err().to_string()
    }

    #[test]
    fn a_silent_server_and_another_protocol_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = failed(&listener);
        assert!(silent.contains("says nothing"), "{silent}");
        assert!(silent.contains("check --bus, "), "{silent}");
        let served = listener.try_clone().unwrap();
        let other = std::thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = served.accept().unwrap();
                let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
            }
        });
        let wrong = failed(&listener);
        assert!(wrong.contains("is not a NATS server"), "{wrong}");
        other.join().unwrap();
    }

    #[test]
    fn a_login_may_take_longer_than_the_first_line() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let served = listener.try_clone().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = served.accept().unwrap();
            stream.write_all(b"INFO {\"server_id\":\"a\"}\r\n").unwrap();
            // As a server that asks an auth callout.
            std::thread::sleep(Duration::from_millis(600));
            let _ = stream.write_all(b"PONG\r\n");
            stream
        });
        let opened = opened(&listener);
        assert!(opened.is_ok(), "{opened:?}");
        server.join().unwrap();
    }

    #[test]
    fn the_reason_may_come_with_the_first_line() {
        for tls in ["false", "true"] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let served = listener.try_clone().unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = served.accept().unwrap();
                let sent = format!(
                    "INFO {{\"server_id\":\"a\",\"tls_required\":{tls}}}\r\n\
                     -ERR 'maximum connections exceeded'\r\n"
                );
                let _ = stream.write_all(sent.as_bytes());
            });
            let refused = failed(&listener);
            assert!(
                refused.contains("maximum connections exceeded"),
                "{refused}"
            );
            assert!(!refused.contains("cannot reach"), "{refused}");
            server.join().unwrap();
        }
    }
}
