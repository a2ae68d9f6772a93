//! Connects to the server of the settings or to the master of the sentinels, at one of its addresses; makes the second
//! connection while the first is silent.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::connection::Connection;
use super::error::{RedisError, Stop};
use super::resp::RespReader;
use super::sentinels::NamedMaster;
use super::settings::{RedisEndpoint, RedisSettings};
use crate::probe::ProbeResult;
use crate::socket::{Buffered, Waiter};
use weirgate_runtime::{FailedAddresses, Lookup, Wake, tls_roots};

/// The longest silence during the TLS handshake and the log-in, if nobody has more [patience](RedisServers::with_patience).
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest time for making the second connection, and the longest silence during its log-in. Meanwhile the thread
/// neither reads the silent connection nor looks whether the master has moved.
const SECOND_TIMEOUT: Duration = Duration::from_millis(250);

/// Used as the address of a server at a unix socket, which has none.
const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A poll for a thread, and its waker.
pub(super) fn waiter(sleeper: &'static str) -> Result<(Waiter, Wake), RedisError> {
    Waiter::new(sleeper).map_err(RedisError::System)
}

/// An open connection, as parts, and the address of its server.
pub(super) type OpenConnection = (SocketAddr, (Buffered, RespReader));

/// Finds and reaches the server, over all connections of a source.
#[derive(Clone)]
pub(super) struct RedisServers {
    pub(super) settings: RedisSettings,
    /// `None` if neither the server nor a sentinel has TLS.
    tls: Option<Arc<ClientConfig>>,
    /// The index of the sentinel to ask first: the last one that named the master. Shared with the clones, because the
    /// watch knows it before the next connection.
    pub(super) first_sentinel: Arc<AtomicUsize>,
    /// The answer of the sentinel that named the server in use.
    pub(super) named: Option<NamedMaster>,
    /// The longest silence of all addresses together.
    patience: Duration,
    /// The addresses that failed.
    failed: FailedAddresses,
    /// The address of the connection in use, and since when.
    used: Option<(SocketAddr, Instant)>,
}

impl RedisServers {
    /// Reads the files of TLS, so that a start without them fails. Does not connect.
    ///
    /// # Errors
    /// A file of TLS is no good, or an attacker could name the master ([`RedisSettings::check_tls_name`]).
    pub(super) fn new(settings: RedisSettings) -> Result<Self, RedisError> {
        settings.check_tls_name()?;
        Ok(Self {
            tls: read_tls(&settings)?,
            settings,
            first_sentinel: Arc::default(),
            named: None,
            patience: HANDSHAKE_TIMEOUT,
            failed: FailedAddresses::default(),
            used: None,
        })
    }

    /// The addresses of the server may take so long together for their answers, and each at least as long as otherwise.
    pub(super) fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Connects to the server of the settings, or to the master that a sentinel names, with the certificates that the
    /// files have now.
    pub(super) fn connect<'w>(
        &mut self,
        waiter: &'w mut Waiter,
    ) -> Result<Connection<'w>, RedisError> {
        self.tls = read_tls(&self.settings)?;
        let (endpoint, (address, parts)) = match self.has_sentinels() {
            true => self.open_master(waiter)?,
            false => {
                let server = self.settings.server_now();
                let opened = self.open(waiter, &server)?;
                (server, opened)
            }
        };
        self.used = Some((address, Instant::now()));
        Ok(Connection::from_parts(waiter, parts, &endpoint, address))
    }

    /// Connects to the first address of this server that accepts the log-in. If there are sentinels, the server has to
    /// be a master.
    pub(super) fn open(
        &mut self,
        waiter: &mut Waiter,
        endpoint: &RedisEndpoint,
    ) -> Result<OpenConnection, RedisError> {
        let needs_master = self.has_sentinels();
        self.at_each(waiter, endpoint, |mut connection, patience| {
            connection.log_in(patience)?;
            if needs_master {
                connection.check_role(patience)?;
            }
            Ok(connection.into_parts())
        })
    }

    /// Connects to the server and the address of another connection, with the present login.
    pub(super) fn connect_at<'w>(
        &self,
        waiter: &'w mut Waiter,
        server: Option<&(RedisEndpoint, SocketAddr)>,
    ) -> Result<Connection<'w>, RedisError> {
        // `None`: there was no connection, so there is no server to name.
        let (endpoint, address) = server.ok_or_else(|| self.no_master(None))?;
        let timeout = Duration::from_millis(self.settings.connect_timeout_ms);
        let tls = self.tls.as_ref();
        let endpoint = self.settings.with_login_now(endpoint);
        let mut connection = Connection::open(waiter, &endpoint, *address, tls, timeout)?;
        connection.log_in(HANDSHAKE_TIMEOUT)?;
        Ok(connection)
    }

    /// Connects to each address of the host until `ask` succeeds, to which it also gives the longest silence of an
    /// answer. Addresses that failed before come last. Returns that address and the answer, or the error of the last
    /// address. The name lookup can take long.
    pub(super) fn at_each<T>(
        &mut self,
        waiter: &mut Waiter,
        endpoint: &RedisEndpoint,
        ask: impl Fn(Connection<'_>, Duration) -> Result<T, RedisError>,
    ) -> Result<(SocketAddr, T), RedisError> {
        let unreachable = |source| RedisError::Unreachable {
            server: endpoint.address(),
            source,
        };
        let timeout = Duration::from_millis(self.settings.connect_timeout_ms);
        let found = addresses(endpoint, &self.settings.lookup).map_err(unreachable)?;
        let addresses = self.failed.in_order(found);
        let patience = self.patience / addresses.len().max(1) as u32;
        let patience = patience.max(HANDSHAKE_TIMEOUT);
        let none = io::Error::new(ErrorKind::NotFound, "the name has no address");
        let mut last = unreachable(none);
        for address in addresses {
            let tls = self.tls.as_ref();
            let opened = Connection::open(waiter, endpoint, address, tls, timeout);
            match opened.and_then(|connection| ask(connection, patience)) {
                Ok(answer) => return Ok((address, answer)),
                Err(error) => last = error,
            }
            (self.failed).note_failure(address, Instant::now(), last.to_string());
        }
        Err(last)
    }

    /// Records the end of a connection. The next connection tries this address last, unless the connection had lasted
    /// for a while and was then lost.
    pub(super) fn note_end(&mut self, stop: &Stop) {
        if let (Some((address, since)), Stop::Bus(error)) = (self.used.take(), stop) {
            let (now, why) = (Instant::now(), error.to_string());
            match error {
                RedisError::Lost(_) => self.failed.note_loss(address, [since, now], why),
                _ => self.failed.note_failure(address, now, why),
            }
        }
    }

    /// As [`Self::connect`]. If there are sentinels, a thread asks them whether the master has moved ([`Self::watch`]).
    pub(super) fn connect_and_watch<'w>(
        &mut self,
        waiter: &'w mut Waiter,
    ) -> Result<Connection<'w>, RedisError> {
        let connection = self.connect(waiter)?;
        if let Some(named) = self.named.clone() {
            self.clone()
                .watch(named, Arc::clone(&connection.has_moved))?;
        }
        Ok(connection)
    }

    /// Makes the second connection to the server of a silent connection, and logs in.
    pub(super) fn try_second(
        &self,
        waiter: &mut Waiter,
        (endpoint, address): (&RedisEndpoint, SocketAddr),
    ) -> ProbeResult {
        let tls = self.tls.as_ref();
        let endpoint = self.settings.with_login_now(endpoint);
        let connected = Connection::open(waiter, &endpoint, address, tls, SECOND_TIMEOUT);
        match connected.and_then(|mut connection| connection.log_in(SECOND_TIMEOUT)) {
            Ok(()) => ProbeResult::Answer,
            Err(RedisError::Unreachable { source, .. })
                if source.kind() == ErrorKind::ConnectionRefused =>
            {
                ProbeResult::Nobody
            }
            Err(error) => {
                // Also a refusal: the first connection is the only one that may bring what it has missed.
                tracing::debug!(%error, "a second connection would not work either");
                ProbeResult::Silence
            }
        }
    }
}

/// The addresses of a server. The name lookup can take as long as `lookup` lets it.
pub(super) fn addresses(endpoint: &RedisEndpoint, lookup: &Lookup) -> io::Result<Vec<SocketAddr>> {
    match endpoint.socket {
        Some(_) => Ok(vec![NO_ADDRESS]),
        None => lookup.addresses(&endpoint.host, endpoint.port),
    }
}

/// The TLS of the client, from its files; `None` if neither the server nor a sentinel has TLS.
fn read_tls(settings: &RedisSettings) -> Result<Option<Arc<ClientConfig>>, RedisError> {
    let sentinels_tls = settings.sentinels.iter().any(|sentinel| sentinel.tls);
    if !settings.server.tls && !sentinels_tls {
        return Ok(None);
    }
    let ca_file = settings.tls_ca_file.as_deref();
    Ok(Some(tls_roots::client(
        ca_file,
        settings.tls_client.as_ref(),
    )?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;
    use std::thread;
    use weirgate_wire::base::Secret;

    /// Accepts a connection, reads the first bytes and answers once.
    fn accept(listener: &TcpListener, answer: &'static [u8]) -> thread::JoinHandle<String> {
        let listener = listener.try_clone().expect("a listener");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut bytes = [0; 1_024];
            let length = stream.read(&mut bytes).expect("commands");
            io::Write::write_all(&mut stream, answer).expect("sent");
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        })
    }

    #[test]
    fn further_connections_to_a_server_have_the_present_login() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let url = |password: &str| format!("redis://w:{password}@{address}");
        let mut settings = RedisSettings::new(RedisEndpoint::parse(&url("old")).expect("a URL"));
        settings.url = Secret::new(&url("old"));
        let before = settings.server_now();
        settings.url.replace(&url("new"));
        let servers = RedisServers::new(settings).expect("servers");
        let (mut waiter, _) = waiter("a test").expect("a poll");
        let good = b"+OK\r\n+PONG\r\n+OK\r\n";
        let sent = accept(&listener, good);
        let server = Some((before.clone(), address));
        servers
            .connect_at(&mut waiter, server.as_ref())
            .expect("a connection");
        assert!(sent.join().expect("commands").contains("new"));
        let sent = accept(&listener, good);
        let result = servers.try_second(&mut waiter, (&before, address));
        assert!(sent.join().expect("commands").contains("new"));
        assert_eq!(result, ProbeResult::Answer);
        // It refuses new connections also while it is paused.
        let sent = accept(&listener, b"-ERR max number of clients reached\r\n");
        let result = servers.try_second(&mut waiter, (&before, address));
        sent.join().expect("commands");
        assert_eq!(result, ProbeResult::Silence);
    }
}
