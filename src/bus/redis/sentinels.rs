//! The sentinels: the server that each names as the master, which of them is right, and the watch whether the master has
//! moved. A sentinel that is cut off from the others repeats an old answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use super::connection::Connection;
use super::error::RedisError;
use super::resp::Value;
use super::role::bulk_field;
use super::servers::{OpenConnection, RedisServers, addresses, waiter};
use super::settings::RedisEndpoint;
use crate::socket::Waiter;
use weirgate_runtime::{Lookup, detached};

/// While a connection exists, a sentinel is asked at this interval, the next one each time.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// A sentinel's answer.
#[derive(Clone)]
pub(super) struct NamedMaster {
    /// The index of the sentinel in the settings.
    sentinel: usize,
    /// The server, with the user, password, TLS and TLS name from the settings.
    pub(super) server: RedisEndpoint,
    /// The number of the failover that the sentinel knows as the last one. `None` if it does not say.
    config_epoch: Option<u64>,
}

impl NamedMaster {
    /// Whether this answer is newer than the one that the connection relies on: the sentinel knows a later failover, or
    /// has named another server before. A sentinel that is cut off satisfies neither.
    fn is_newer_than(&self, other: &Self) -> bool {
        // After `SENTINEL MONITOR`, the epochs begin anew.
        self.sentinel == other.sentinel
            || (other.config_epoch.is_some() && self.config_epoch > other.config_epoch)
    }
}

impl RedisServers {
    pub(super) fn has_sentinels(&self) -> bool {
        !self.settings.sentinels.is_empty()
    }

    /// The indices of the sentinels, beginning with `first`.
    fn in_turn(&self, first: usize) -> impl Iterator<Item = usize> + use<> {
        let all = self.settings.sentinels.len();
        (0..all).map(move |n| (first + n) % all)
    }

    /// Asks the sentinels in turn until one names a server that is a master, and connects to it. Tries each server once.
    pub(super) fn open_master(
        &mut self,
        waiter: &mut Waiter,
    ) -> Result<(RedisEndpoint, OpenConnection), RedisError> {
        let mut wrong: Vec<(NamedMaster, RedisError)> = Vec::new();
        let mut no_answer = None;
        for index in self.in_turn(self.first_sentinel.load(Relaxed)) {
            let named = match self.ask_sentinel(waiter, index) {
                Ok(named) => named,
                Err(error) => {
                    no_answer = Some(error);
                    continue;
                }
            };
            let lookup = &self.settings.lookup;
            let is_tried = |(tried, _): &(NamedMaster, _)| {
                name_same_server(&tried.server, &named.server, lookup)
            };
            if wrong.iter().any(is_tried) {
                continue;
            }
            match self.open(waiter, &named.server) {
                Ok(opened) => {
                    for (stale, error) in &wrong {
                        self.warn_of(stale, error);
                    }
                    self.first_sentinel.store(index, Relaxed);
                    let server = named.server.clone();
                    self.named = Some(named);
                    return Ok((server, opened));
                }
                Err(error) => wrong.push((named, error)),
            }
        }
        let newest = wrong
            .into_iter()
            .max_by_key(|(named, _)| named.config_epoch);
        Err(newest.map_or_else(|| self.no_master(no_answer), |(_, error)| error))
    }

    fn warn_of(&self, named: &NamedMaster, error: &RedisError) {
        tracing::warn!(
            sentinel = self.settings.sentinels[named.sentinel].address(),
            %error,
            "a sentinel names a server that cannot be used as the master; it may be cut off from the other sentinels"
        );
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

    /// Asks a sentinel for the master, and for the last failover that it knows.
    pub(super) fn ask_sentinel(
        &mut self,
        waiter: &mut Waiter,
        index: usize,
    ) -> Result<NamedMaster, RedisError> {
        // A sentinel has as long for each answer as for the connection.
        let timeout = Duration::from_millis(self.settings.connect_timeout_ms);
        let name = self.settings.master_name.clone();
        let server = self.settings.server_now();
        let sentinel = self.settings.sentinel_now(index);
        let (_, named) = self.at_each(waiter, &sentinel, |mut connection, _| {
            connection.log_in(timeout)?;
            let question = ["SENTINEL", "get-master-addr-by-name", &name];
            let answer = connection.ask_one(&question, timeout)?;
            let (host, port) = named_address(&connection, answer)?;
            // Its user may lack this right; `SENTINEL MASTER` names the old server until the replicas have moved.
            let question = ["SENTINEL", "MASTER", &name];
            let state = connection.ask_one(&question, timeout);
            Ok(NamedMaster {
                sentinel: index,
                server: RedisEndpoint {
                    host,
                    port,
                    socket: None,
                    ..server.clone()
                },
                config_epoch: state.ok().and_then(|state| config_epoch(&state)),
            })
        })?;
        Ok(named)
    }

    /// Starts a thread that asks the sentinels until the connection is dropped, and sets `has_moved` if another server is
    /// the master. After a requested failover, the sentinels disconnect the subscribers of the old master only ten
    /// seconds later, and meanwhile nothing is published there.
    pub(super) fn watch(
        self,
        named: NamedMaster,
        has_moved: Arc<AtomicBool>,
    ) -> Result<(), RedisError> {
        let (mut waiter, _) = waiter("the watch over sentinels")?;
        let mut watch = Watch {
            next_sentinel: named.sentinel,
            servers: self,
            named,
            refuted: None,
        };
        let run = move || {
            // The other reference is dropped with the connection.
            while Arc::strong_count(&has_moved) > 1 {
                thread::sleep(WATCH_INTERVAL);
                if watch.has_moved(&mut waiter) {
                    has_moved.store(true, Relaxed);
                    return;
                }
            }
        };
        detached("redis-sentinel", run).map_err(RedisError::System)
    }
}

/// Watches whether another server becomes the master.
struct Watch {
    servers: RedisServers,
    /// The server of the connection, with the last failover that any sentinel knew.
    named: NamedMaster,
    next_sentinel: usize,
    /// The server of the last newer answer that was wrong.
    refuted: Option<RedisEndpoint>,
}

impl Watch {
    /// Asks the next sentinel that answers. Whether a newer answer than that of the connection names another server, and
    /// that server is a master.
    fn has_moved(&mut self, waiter: &mut Waiter) -> bool {
        let servers = &mut self.servers;
        let mut sentinels = servers.in_turn(self.next_sentinel);
        let answer = sentinels.find_map(|index| servers.ask_sentinel(waiter, index).ok());
        // Absent sentinels say nothing about the master.
        let Some(named) = answer else {
            return false;
        };
        // After the last one, `in_turn` begins anew.
        self.next_sentinel = named.sentinel + 1;
        let lookup = &servers.settings.lookup;
        if name_same_server(&named.server, &self.named.server, lookup) {
            self.named.config_epoch = self.named.config_epoch.max(named.config_epoch);
            return false;
        }
        if !named.is_newer_than(&self.named) {
            return false;
        }
        match servers.open(waiter, &named.server) {
            Ok(_) => {
                // The next connection relies on the same sentinel.
                servers.first_sentinel.store(named.sentinel, Relaxed);
                true
            }
            Err(error) => {
                let lookup = &servers.settings.lookup;
                let is_known =
                    |refuted: &RedisEndpoint| name_same_server(refuted, &named.server, lookup);
                if !self.refuted.as_ref().is_some_and(is_known) {
                    servers.warn_of(&named, &error);
                }
                self.refuted = Some(named.server);
                false
            }
        }
    }
}

/// Whether two sentinels name the same master. One may name it by a host name and the other by an address, and the text
/// of an address is not unique. The lookup of each name can take as long as `lookup` lets it.
pub(super) fn name_same_server(
    one: &RedisEndpoint,
    other: &RedisEndpoint,
    lookup: &Lookup,
) -> bool {
    if one.port != other.port {
        return false;
    }
    // Whatever address the name has by now.
    if one.host.eq_ignore_ascii_case(&other.host) {
        return true;
    }
    // A name without an address is no other server than itself.
    let of = |endpoint| addresses(endpoint, lookup).unwrap_or_default();
    let [ours, theirs] = [one, other].map(of);
    let mut ours = ours.iter().map(|address| address.ip().to_canonical());
    ours.any(|ip| theirs.iter().any(|their| their.ip().to_canonical() == ip))
}

/// The host and port in the answer of a sentinel.
fn named_address(connection: &Connection<'_>, answer: Value) -> Result<(String, u16), RedisError> {
    match answer {
        Value::Array(items) => {
            address(&items).ok_or_else(|| connection.wrong("its answer is not an address"))
        }
        Value::Error(words) => Err(connection.wrong(&words)),
        Value::Nil => Err(connection.wrong("it knows no master of this name")),
        _ => Err(connection.wrong("it does not answer like a sentinel")),
    }
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

/// The number of the last failover in the answer to `SENTINEL MASTER`.
fn config_epoch(state: &Value) -> Option<u64> {
    let epoch = bulk_field(state, b"config-epoch")?;
    std::str::from_utf8(epoch).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_a_later_failover_is_newer() {
        let named = |sentinel, config_epoch| NamedMaster {
            sentinel,
            server: RedisEndpoint::new("h", 1),
            config_epoch,
        };
        for (config_epoch, of_the_connection, is_newer) in [
            (Some(3), Some(2), true),
            (Some(2), Some(2), false),
            (Some(1), Some(2), false),
            (None, Some(2), false),
            (Some(2), None, false),
            (None, None, false),
        ] {
            let answer = named(1, config_epoch);
            let newer = |sentinel| answer.is_newer_than(&named(sentinel, of_the_connection));
            assert_eq!(newer(0), is_newer, "{config_epoch:?} {of_the_connection:?}");
            assert!(newer(1), "a sentinel may change its own answer");
        }
    }

    #[test]
    fn one_server_has_many_names() {
        let lookup = Lookup::default();
        let same = |[one, other]: [(&str, u16); 2]| {
            let [one, other] = [one, other].map(|(host, port)| RedisEndpoint::new(host, port));
            assert_eq!(
                name_same_server(&one, &other, &lookup),
                name_same_server(&other, &one, &lookup)
            );
            name_same_server(&one, &other, &lookup)
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
