//! The programs of a deploy, and the replacement of an instance.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::process::Signal;

use super::DeployArgs;
use crate::clock;
use crate::fault::Fault;
use crate::fleet::{Fleet, Target};
use crate::launch::{self, Program};

/// The nginx site recommended to users, and the configuration around the site.
const NGINX_SITE: &str = include_str!("../../../deploy/nginx/weirgate.conf");
const NGINX_CONF: &str = include_str!("nginx.conf");
/// Longest wait for an instance to stop.
const STOP_US: u64 = 120_000_000;

/// NATS, nginx, an instance, and the address of the next instance; no clients yet.
pub(super) struct Stage {
    pub(super) fleet: Fleet,
    pub(super) instance: Option<Program>,
    pub(super) free: SocketAddr,
    pub(super) nats_url: String,
    _nginx: Program,
    /// Last, so dropped last: NATS ends after the other programs.
    _nats: Program,
}

impl Stage {
    pub(super) fn set(a: &DeployArgs, stop: &Arc<AtomicBool>) -> Result<Self, Fault> {
        let nats = launch::nats_server()?;
        let nats_url = launch::nats_url(&nats);
        let (one, other) = (launch::free_address()?, launch::free_address()?);
        let front = launch::free_address()?;
        let instance = launch::server_at(&a.server, &nats_url, one)?;
        let nginx = launch::nginx(&nginx_conf(front, &[one, other]), front)?;
        let target = Target {
            tls: None,
            addr: front,
            path: a.path.clone().unwrap_or_else(|| "/ws/stream".into()),
            deflate: None,
            send: None,
            throttle_kbit: 0,
        };
        Ok(Self {
            fleet: Fleet::new(target, Arc::clone(stop))?,
            instance: Some(instance),
            free: other,
            nats_url,
            _nginx: nginx,
            _nats: nats,
        })
    }
}

/// The recommended configuration, with the given addresses.
pub(super) fn nginx_conf(front: SocketAddr, instances: &[SocketAddr]) -> String {
    let of = |addr| format!("server {addr} ");
    let site = NGINX_SITE.lines().flat_map(|line| {
        if line.contains("server 127.0.0.1:8000 ") {
            let lines = instances
                .iter()
                .map(|addr| line.replace("server 127.0.0.1:8000 ", &of(addr)));
            lines.collect()
        } else {
            vec![line.replace("listen 80;", &format!("listen {front} backlog=4096;"))]
        }
    });
    NGINX_CONF.replace("{site}", &site.collect::<Vec<_>>().join("\n    "))
}

/// The figures of a replacement.
pub(super) struct Rolled {
    /// Address of the old instance, free for the next instance.
    pub(super) left: SocketAddr,
    /// From the start of the new instance until `/ready` succeeds; 0 without a new instance.
    pub(super) ready_us: u64,
    /// From the signal to the end of the old instance.
    pub(super) stopped_us: u64,
    /// Exit status of the old instance, or a text if the instance does not end.
    pub(super) end: String,
}

/// Starts an instance, waits until it is ready and for `up` longer, and ends the old one.
pub(super) fn next_instance(
    start: impl FnOnce() -> Result<Program, Fault>,
    up: Duration,
    old: Option<Program>,
    kill: bool,
) -> Result<(Program, Rolled), Fault> {
    let old = old.ok_or_else(|| Fault::Server("there is no instance to replace".into()))?;
    let started = clock::now_us();
    let next = start()?;
    let ready_us = clock::now_us() - started;
    std::thread::sleep(up);
    let rolled = end_instance(old, kill)?;
    Ok((next, Rolled { ready_us, ..rolled }))
}

/// Ends an instance.
pub(super) fn end_instance(mut old: Program, kill: bool) -> Result<Rolled, Fault> {
    let asked = clock::now_us();
    old.signal(if kill { Signal::KILL } else { Signal::TERM })?;
    let end = match old.wait(STOP_US)? {
        Some(status) => status.to_string(),
        None => "it does not end".into(),
    };
    Ok(Rolled {
        left: old.addr,
        ready_us: 0,
        stopped_us: clock::now_us() - asked,
        end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recommended_configuration_gets_our_addresses() {
        let addr = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let conf = nginx_conf(addr(1001), &[addr(1002), addr(1003)]);
        for wanted in [
            "listen 127.0.0.1:1001 backlog=4096;",
            "server 127.0.0.1:1002 max_fails=0;",
            "server 127.0.0.1:1003 max_fails=0;",
        ] {
            assert_eq!(conf.matches(wanted).count(), 1, "{wanted}\n{conf}");
        }
        assert!(!conf.contains("listen 80;") && !conf.contains("server 127.0.0.1:8000"));
    }
}
