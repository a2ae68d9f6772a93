//! Asking sentinels where the master is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::connection::{Connection, Waiter};
use super::error::RedisError;
use super::handshake::{log_in, shown};
use super::resp::Value;
use super::settings::{Endpoint, RedisSettings};

/// The first answer of a sentinel, as an endpoint with the user, password and TLS of
/// `settings.server`. `first` is asked first, and becomes the one that answered.
pub(super) fn find_master(
    waiter: &mut Waiter,
    settings: &RedisSettings,
    tls: Option<&Arc<ClientConfig>>,
    first: &mut usize,
) -> Result<Endpoint, RedisError> {
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

fn ask(
    waiter: &mut Waiter,
    sentinel: &Endpoint,
    settings: &RedisSettings,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Endpoint, RedisError> {
    let timeout = Duration::from_millis(settings.connect_timeout_ms);
    let mut connection = Connection::open(waiter, sentinel, tls, timeout)?;
    let until = Instant::now() + timeout;
    log_in(&mut connection, sentinel, until)?;
    let question = ["SENTINEL", "get-master-addr-by-name", &settings.master_name];
    let answers = connection.ask(&[&question], until)?;
    let reason = match answers.into_iter().next() {
        Some(Value::Array(items)) => match address(&items) {
            Some((host, port)) => {
                return Ok(Endpoint {
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
