//! Finds the server, from the settings or from the sentinels, and connects to it; watches whether the sentinels name
//! another master; makes the second connection while the first is silent.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::connection::Connection;
use super::error::{RedisError, Stop};
use super::resp::Value;
use super::settings::{RedisEndpoint, RedisSettings};
use crate::probe::ProbeResult;
use crate::socket::Waiter;
use weirgate_runtime::{ConnectionEnd, FailedAddresses, Wake, detached, tls_roots};

/// The longest silence during the TLS handshake, the log-in, and the questions of a check.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// While a connection exists, the sentinels are asked at this interval.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// The longest time for making the second connection, and the longest silence during its log-in. Meanwhile the thread
/// neither reads the silent connection nor looks whether the master has moved.
const SECOND_TIMEOUT: Duration = Duration::from_millis(250);

/// Used as the address of a server at a unix socket, which has none.
const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A poll for a thread, and its waker.
pub(super) fn waiter(sleeper: &'static str) -> Result<(Waiter, Wake), RedisError> {
    Waiter::new(sleeper).map_err(RedisError::System)
}

/// Finds and reaches the server, over all connections of a source.
#[derive(Clone)]
pub(super) struct RedisServers {
    pub(super) settings: RedisSettings,
    /// `None` if neither the server nor a sentinel has TLS.
    tls: Option<Arc<ClientConfig>>,
    /// The index of the sentinel that answered last.
    first_sentinel: usize,
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
            first_sentinel: 0,
            failed: FailedAddresses::default(),
            used: None,
        })
    }

    fn has_sentinels(&self) -> bool {
        !self.settings.sentinels.is_empty()
    }

    /// Connects to the server of the settings, or to the master that a sentinel names, with the certificates that the
    /// files have now.
    pub(super) fn connect<'w>(
        &mut self,
        waiter: &'w mut Waiter,
    ) -> Result<Connection<'w>, RedisError> {
        self.tls = read_tls(&self.settings)?;
        let endpoint = match self.has_sentinels() {
            true => self.find_master(waiter)?,
            false => self.settings.server_now(),
        };
        self.connect_to(waiter, &endpoint)
    }

    /// Connects to the first address of this server that accepts the log-in. If there are sentinels, the server has to
    /// be a master.
    pub(super) fn connect_to<'w>(
        &mut self,
        waiter: &'w mut Waiter,
        endpoint: &RedisEndpoint,
    ) -> Result<Connection<'w>, RedisError> {
        let needs_master = self.has_sentinels();
        let (address, parts) = self.at_each(waiter, endpoint, |mut connection| {
            connection.log_in(HANDSHAKE_TIMEOUT)?;
            if needs_master {
                connection.check_role(HANDSHAKE_TIMEOUT)?;
            }
            Ok((connection.address, connection.into_parts()))
        })?;
        self.used = Some((address, Instant::now()));
        Ok(Connection::from_parts(waiter, parts, endpoint, address))
    }

    /// Connects to the server and the address of another connection.
    pub(super) fn connect_at<'w>(
        &self,
        waiter: &'w mut Waiter,
        server: Option<&(RedisEndpoint, SocketAddr)>,
    ) -> Result<Connection<'w>, RedisError> {
        let (endpoint, address) = server.ok_or_else(|| self.no_master(None))?;
        let timeout = Duration::from_millis(self.settings.connect_timeout_ms);
        let tls = self.tls.as_ref();
        let mut connection = Connection::open(waiter, endpoint, *address, tls, timeout)?;
        connection.log_in(HANDSHAKE_TIMEOUT)?;
        Ok(connection)
    }

    /// Connects to each address of the host until `ask` succeeds; addresses that failed before come last. Returns
    /// the error of the last address. The name lookup can take long.
    fn at_each<T>(
        &mut self,
        waiter: &mut Waiter,
        endpoint: &RedisEndpoint,
        ask: impl Fn(Connection<'_>) -> Result<T, RedisError>,
    ) -> Result<T, RedisError> {
        let unreachable = |source| RedisError::Unreachable {
            server: endpoint.address(),
            source,
        };
        let timeout = Duration::from_millis(self.settings.connect_timeout_ms);
        let found = addresses(endpoint).map_err(unreachable)?;
        let addresses = self.failed.in_order(found);
        let none = io::Error::new(ErrorKind::NotFound, "the name has no address");
        let mut last = unreachable(none);
        for address in addresses {
            let tls = self.tls.as_ref();
            match Connection::open(waiter, endpoint, address, tls, timeout).and_then(&ask) {
                Ok(answer) => return Ok(answer),
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
            let end = match error {
                RedisError::Lost(_) => ConnectionEnd::Lost,
                _ => ConnectionEnd::Useless,
            };
            let times = [since, Instant::now()];
            self.failed.note_end(address, times, end, error.to_string());
        }
    }

    /// As [`Self::connect`]. If there are sentinels, a thread asks them whether the master has moved, until the
    /// connection is dropped. After a requested failover, the sentinels disconnect the subscribers of the old master
    /// only ten seconds later, and meanwhile nothing is published there.
    pub(super) fn connect_and_watch<'w>(
        &mut self,
        waiter: &'w mut Waiter,
    ) -> Result<Connection<'w>, RedisError> {
        let connection = self.connect(waiter)?;
        if self.has_sentinels() {
            self.clone().watch(&connection)?;
        }
        Ok(connection)
    }

    fn watch(mut self, connection: &Connection<'_>) -> Result<(), RedisError> {
        let (mut waiter, _) = waiter("the watch over sentinels")?;
        let server = connection.endpoint.clone();
        let has_moved = Arc::clone(&connection.has_moved);
        let watch = move || {
            // The other reference is dropped with the connection.
            while Arc::strong_count(&has_moved) > 1 {
                thread::sleep(WATCH_INTERVAL);
                // Absent sentinels say nothing about the master.
                let found = self.find_master(&mut waiter);
                if found.is_ok_and(|found| !name_same_server(&found, &server)) {
                    has_moved.store(true, Relaxed);
                    return;
                }
            }
        };
        detached("redis-sentinel", watch).map_err(RedisError::System)
    }

    /// Asks the sentinels in turn, beginning with the one that answered last, and returns the first answer.
    fn find_master(&mut self, waiter: &mut Waiter) -> Result<RedisEndpoint, RedisError> {
        let sentinels = self.settings.sentinels.len();
        let mut reason = None;
        let first = self.first_sentinel;
        for index in (0..sentinels).map(|n| (first + n) % sentinels) {
            let sentinel = self.settings.sentinel_now(index);
            match self.ask_sentinel(waiter, &sentinel) {
                Ok(master) => {
                    self.first_sentinel = index;
                    return Ok(master);
                }
                Err(error) => reason = Some(error),
            }
        }
        Err(self.no_master(reason))
    }

    /// The error for a master that no sentinel names; `last` is the error of the last sentinel.
    pub(super) fn no_master(&self, last: Option<RedisError>) -> RedisError {
        RedisError::NoMaster {
            master: self.settings.master_name.clone(),
            reason: last.map_or_else(
                || "there is none to ask".to_owned(),
                |error| error.to_string(),
            ),
        }
    }

    /// Asks a sentinel for the master. Returns its host and port, with the user, password, TLS and TLS name from the
    /// settings of the server.
    pub(super) fn ask_sentinel(
        &mut self,
        waiter: &mut Waiter,
        sentinel: &RedisEndpoint,
    ) -> Result<RedisEndpoint, RedisError> {
        let timeout = Duration::from_millis(self.settings.connect_timeout_ms);
        let name = self.settings.master_name.clone();
        let server = self.settings.server_now();
        self.at_each(waiter, sentinel, |mut connection| {
            connection.log_in(timeout)?;
            let question = ["SENTINEL", "get-master-addr-by-name", &name];
            match connection.ask_one(&question, timeout)? {
                Value::Array(items) => match address(&items) {
                    Some((host, port)) => Ok(RedisEndpoint {
                        host,
                        port,
                        socket: None,
                        ..server.clone()
                    }),
                    None => Err(connection.wrong("its answer is not an address")),
                },
                Value::Error(words) => Err(connection.wrong(&words)),
                Value::Nil => Err(connection.wrong("it knows no master of this name")),
                _ => Err(connection.wrong("it does not answer like a sentinel")),
            }
        })
    }

    /// Makes the second connection to the server of a silent connection, and logs in.
    pub(super) fn try_second(
        &self,
        waiter: &mut Waiter,
        (endpoint, address): (&RedisEndpoint, SocketAddr),
    ) -> ProbeResult {
        let tls = self.tls.as_ref();
        let connected = Connection::open(waiter, endpoint, address, tls, SECOND_TIMEOUT);
        match connected.and_then(|mut connection| connection.log_in(SECOND_TIMEOUT)) {
            // A refusal is an answer too.
            Ok(()) | Err(RedisError::Refused { .. }) => ProbeResult::Answer,
            Err(RedisError::Unreachable { source, .. })
                if source.kind() == ErrorKind::ConnectionRefused =>
            {
                ProbeResult::Nobody
            }
            Err(error) => {
                tracing::debug!(%error, "a second connection is not answered either");
                ProbeResult::Silence
            }
        }
    }
}

/// The addresses of a server. The name lookup can take long.
fn addresses(endpoint: &RedisEndpoint) -> io::Result<Vec<SocketAddr>> {
    match endpoint.socket {
        Some(_) => Ok(vec![NO_ADDRESS]),
        None => Ok((endpoint.host.as_str(), endpoint.port)
            .to_socket_addrs()?
            .collect()),
    }
}

/// Whether two sentinels name the same master. One may name it by a host name and the other by an address, and the text
/// of an address is not unique. The name lookup can take long.
pub(super) fn name_same_server(one: &RedisEndpoint, other: &RedisEndpoint) -> bool {
    if one.port != other.port {
        return false;
    }
    // Whatever address the name has by now.
    if one.host.eq_ignore_ascii_case(&other.host) {
        return true;
    }
    let [ours, theirs] = [one, other].map(|endpoint| addresses(endpoint).unwrap_or_default());
    let mut ours = ours.iter().map(|address| address.ip().to_canonical());
    ours.any(|ip| theirs.iter().any(|their| their.ip().to_canonical() == ip))
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

fn address(items: &[Value]) -> Option<(String, u16)> {
    match items {
        [Value::Bulk(host), Value::Bulk(port)] => {
            let host = String::from_utf8(host.clone()).ok()?;
            let port = std::str::from_utf8(port).ok()?.parse().ok()?;
            Some((host, port))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_has_many_names() {
        let same = |[one, other]: [(&str, u16); 2]| {
            let [one, other] = [one, other].map(|(host, port)| RedisEndpoint::new(host, port));
            assert_eq!(
                name_same_server(&one, &other),
                name_same_server(&other, &one)
            );
            name_same_server(&one, &other)
        };
        for hosts in [
            ["127.0.0.1", "127.0.0.1"],
            ["localhost", "127.0.0.1"],
            ["localhost", "LocalHost"],
            ["::1", "0:0:0:0:0:0:0:1"],
            ["::ffff:127.0.0.1", "127.0.0.1"],
            ["nowhere.invalid", "Nowhere.invalid"],
        ] {
            assert!(same(hosts.map(|host| (host, 1))), "{hosts:?}");
            assert!(!same([(hosts[0], 1), (hosts[1], 2)]), "{hosts:?}");
        }
        for hosts in [
            ["127.0.0.1", "127.0.0.2"],
            ["localhost", "127.0.0.2"],
            ["nowhere.invalid", "elsewhere.invalid"],
            ["nowhere.invalid", "127.0.0.1"],
        ] {
            assert!(!same(hosts.map(|host| (host, 1))), "{hosts:?}");
        }
    }
}
