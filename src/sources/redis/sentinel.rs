//! Questions to the sentinels: where the master is, and whether the master has moved.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::connection::Connection;
use super::error::RedisError;
use super::handshake::{log_in, shown};
use super::resp::Value;
use super::settings::{RedisEndpoint, RedisSettings};
use crate::base::detached;
use crate::sources::socket::Waiter;

/// The interval at which the sentinels are asked while a connection exists.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Asks the sentinels whether the master has moved, on a thread of its own, until dropped. Sentinels
/// disconnect the subscribers of a replaced master only ten seconds after a requested failover, and
/// meanwhile nothing is published there any more.
pub(super) struct Watch {
    has_moved: Arc<AtomicBool>,
}

impl Watch {
    /// Compares with `master`. `first` is the sentinel to ask first.
    pub(super) fn start(
        settings: RedisSettings,
        tls: Option<Arc<ClientConfig>>,
        master: RedisEndpoint,
        mut first: usize,
    ) -> Result<Self, RedisError> {
        let failed = |source| RedisError::System { source };
        let (mut waiter, _) = Waiter::new("the watch over sentinels").map_err(failed)?;
        let has_moved = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&has_moved);
        let watch = move || {
            // The other reference is dropped with the connection.
            while Arc::strong_count(&told) > 1 {
                thread::sleep(WATCH_INTERVAL);
                // Sentinels that are away say nothing about the master.
                let found = find_master(&mut waiter, &settings, tls.as_ref(), &mut first);
                if found.is_ok_and(|found| found.address() != master.address()) {
                    told.store(true, Relaxed);
                    return;
                }
            }
        };
        detached("redis-sentinel", watch).map_err(failed)?;
        Ok(Self { has_moved })
    }

    /// Whether the sentinels name another server.
    pub(super) fn has_moved(&self) -> bool {
        self.has_moved.load(Relaxed)
    }
}

/// The first answer of a sentinel, as an endpoint with the user, password, TLS and TLS name of
/// `settings.server`. Asks sentinel `first` first, and sets `first` to the sentinel that answered.
pub(super) fn find_master(
    waiter: &mut Waiter,
    settings: &RedisSettings,
    tls: Option<&Arc<ClientConfig>>,
    first: &mut usize,
) -> Result<RedisEndpoint, RedisError> {
    let sentinels = settings.sentinels.len();
    let mut reason = String::from("there is none to ask");
    for index in (0..sentinels).map(|n| (*first + n) % sentinels) {
        let Some(sentinel) = settings.sentinels.get(index) else {
            continue;
        };
        match ask(waiter, sentinel, settings, tls) {
            Ok(master) => {
                *first = index;
                return Ok(master);
            }
            Err(error) => reason = error.to_string(),
        }
    }
    Err(RedisError::NoMaster {
        master: settings.master_name.clone(),
        reason,
    })
}

/// Asks a sentinel.
pub(super) fn ask(
    waiter: &mut Waiter,
    sentinel: &RedisEndpoint,
    settings: &RedisSettings,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<RedisEndpoint, RedisError> {
    let timeout = Duration::from_millis(settings.connect_timeout_ms);
    let mut connection = Connection::open(waiter, sentinel, tls, timeout)?;
    let until = Instant::now() + timeout;
    log_in(&mut connection, sentinel, until)?;
    let question = ["SENTINEL", "get-master-addr-by-name", &settings.master_name];
    let answers = connection.ask(&[&question], until)?;
    let reason = match answers.into_iter().next() {
        Some(Value::Array(items)) => match address(&items) {
            Some((host, port)) => {
                return Ok(RedisEndpoint {
                    host,
                    port,
                    ..settings.server.clone()
                });
            }
            None => "its answer is no address".into(),
        },
        Some(Value::Nil) => "it knows no master of this name".into(),
        Some(Value::Error(words)) => shown(&words),
        _ => "it does not answer like a sentinel".into(),
    };
    Err(connection.wrong(reason))
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
