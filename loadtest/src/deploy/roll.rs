//! The programs of a deploy, and the replacement of one instance.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::Signal;

use super::DeployArgs;
use crate::clock;
use crate::fault::Fault;
use crate::fleet::{Fleet, Target};
use crate::launch::{self, Program};

const NGINX_CONF: &str = include_str!("nginx.conf");
/// An instance that takes longer than this to stop does not stop.
const STOP_US: u64 = 120_000_000;

/// NATS, nginx, one instance, and where the next one will be; no clients yet.
pub(super) struct Stage {
    pub(super) fleet: Fleet,
    pub(super) instance: Option<Program>,
    pub(super) free: SocketAddr,
    pub(super) nats_url: String,
    _nginx: Program,
    /// Last: it ends after the others.
    _nats: Program,
}

impl Stage {
    pub(super) fn set(a: &DeployArgs, stop: &Arc<AtomicBool>) -> Result<Self, Fault> {
        let nats = launch::nats_server()?;
        let nats_url = launch::nats_url(&nats);
        let (one, other) = (launch::free_address()?, launch::free_address()?);
        let front = launch::free_address()?;
        let instance = launch::server_at(&a.server, &nats_url, one)?;
        let config = NGINX_CONF
            .replace("{one}", &one.to_string())
            .replace("{other}", &other.to_string())
            .replace("{front}", &front.to_string());
        let nginx = launch::nginx(&config, front)?;
        let target = Target {
            addr: front,
            path: a.path.clone(),
            deflate: false,
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

/// How a replacement went for the instances.
pub(super) struct Rolled {
    /// Where the old one was: the next one's place.
    pub(super) left: SocketAddr,
    /// From the start of the new one to its `/ready`.
    pub(super) ready_us: u64,
    /// From the signal to the end of the old one.
    pub(super) stopped_us: u64,
    /// How the old one ended: an exit status, or what else.
    pub(super) end: String,
}

/// Starts an instance, waits until it is ready, and ends the old one.
pub(super) fn next_instance(
    command: &str,
    nats: &str,
    addr: SocketAddr,
    old: Option<Program>,
    kill: bool,
) -> Result<(Program, Rolled), Fault> {
    let mut old = old.ok_or_else(|| Fault::Server("there is no instance to replace".into()))?;
    let started = clock::now_us();
    let next = launch::server_at(command, nats, addr)?;
    let ready_us = clock::now_us() - started;
    let asked = clock::now_us();
    old.signal(if kill { Signal::KILL } else { Signal::TERM })?;
    let end = match old.wait(STOP_US)? {
        Some(status) => status.to_string(),
        None => "it does not end".into(),
    };
    let stopped_us = clock::now_us() - asked;
    let left = old.addr;
    Ok((
        next,
        Rolled {
            left,
            ready_us,
            stopped_us,
            end,
        },
    ))
}
