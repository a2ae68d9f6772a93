//! The lookup of a host name, which blocks in the system's library for as long as the name servers say nothing.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};

use crate::detached;

/// How often a lookup with a limit checks whether the user has stopped the command.
const STOP_INTERVAL: Duration = Duration::from_millis(100);

/// How long the lookups of names may take. The default is as long as the system takes: a gateway waits for its bus in any
/// case, and tries again.
#[derive(Clone, Debug, Default)]
pub struct Lookup(Option<Limit>);

#[derive(Clone, Debug)]
struct Limit {
    timeout: Duration,
    /// Ends the lookup early once it is set.
    is_stopped: Arc<AtomicBool>,
}

impl Lookup {
    /// Each lookup may take so long.
    pub fn within(timeout: Duration) -> Self {
        Self::until_stop(timeout, Arc::default())
    }

    /// As [`Self::within`]; soon after `is_stopped` is set, a lookup ends, too.
    pub fn until_stop(timeout: Duration, is_stopped: Arc<AtomicBool>) -> Self {
        let limit = Limit {
            timeout,
            is_stopped,
        };
        Self(Some(limit))
    }

    /// The addresses of a host name or an IP address. With a limit, the system looks the name up on a thread of its own,
    /// which is left to itself at the limit.
    ///
    /// # Errors
    /// The name is not known; or the limit is reached ([`ErrorKind::TimedOut`]), or the user has stopped the command.
    pub fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let of_system = move |host: &str| Ok((host, port).to_socket_addrs()?.collect());
        let Self(Some(limit)) = self else {
            return of_system(host);
        };
        let host = host.to_owned();
        limit.wait(move || of_system(&host))
    }
}

impl Limit {
    /// Runs `look_up` on a thread of its own, and waits for what it finds.
    fn wait(
        &self,
        look_up: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
    ) -> io::Result<Vec<SocketAddr>> {
        let until = Instant::now() + self.timeout;
        let (tell, found) = bounded(1);
        detached("lookup", move || {
            // Nobody waits any longer after the limit.
            let _ = tell.send(look_up());
        })?;
        loop {
            let next = until.min(Instant::now() + STOP_INTERVAL);
            match found.recv_deadline(next) {
                Ok(found) => return found,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(io::Error::other("the thread of the lookup has failed"));
                }
                Err(RecvTimeoutError::Timeout) if self.is_stopped.load(Relaxed) => {
                    return Err(ErrorKind::Interrupted.into());
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until => {
                    let why = "the lookup of the name took too long";
                    return Err(io::Error::new(ErrorKind::TimedOut, why));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_looked_up_with_and_without_a_limit() {
        for lookup in [Lookup::default(), Lookup::within(Duration::from_secs(60))] {
            let found = lookup.addresses("localhost", 7).expect("addresses");
            assert!(
                found
                    .iter()
                    .all(|at| at.ip().is_loopback() && at.port() == 7)
            );
            let found = lookup.addresses("::1", 7).expect("an address");
            assert_eq!(found, [SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 7))]);
        }
    }

    #[test]
    fn a_lookup_that_hangs_ends_at_its_limit_or_with_the_command() {
        let hangs = || {
            std::thread::sleep(Duration::from_secs(60));
            Ok(Vec::new())
        };
        for (timeout, is_stopped, kind) in [
            (Duration::from_millis(10), false, ErrorKind::TimedOut),
            (Duration::from_secs(60), true, ErrorKind::Interrupted),
        ] {
            let begun = Instant::now();
            let limit = Limit {
                timeout,
                is_stopped: Arc::new(is_stopped.into()),
            };
            let error = limit.wait(hangs).expect_err("no addresses");
            assert_eq!(error.kind(), kind);
            assert!(begun.elapsed() < Duration::from_secs(30));
        }
    }
}
