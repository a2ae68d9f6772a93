//! The programs of a deploy with clients that resume.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::deploy::roll::nginx_conf;
use crate::deploy::{DeployArgs, Gateway};
use crate::fault::Fault;
use crate::fleet::Target;
use crate::launch::{self, BusKind, Program};

/// Instances that run at the same time, apart from a replacement.
const INSTANCES: usize = 2;

/// Redis, nginx and the instances.
pub(super) struct Stage {
    /// The oldest instance first.
    pub(super) instances: VecDeque<Program>,
    /// The address for the next instance of a roll.
    pub(super) free: SocketAddr,
    pub(super) redis_url: String,
    nginx: Program,
    /// Last, so dropped last: Redis ends after the other programs.
    _redis: Program,
}

impl Stage {
    pub(super) fn set(a: &DeployArgs) -> Result<Self, Fault> {
        let (redis, redis_url) = BusKind::Redis.start()?;
        let instances = (0..INSTANCES)
            .map(|_| launch::server_on(&a.server, BusKind::Redis, &redis_url))
            .collect::<Result<VecDeque<_>, _>>()?;
        let (free, front) = (launch::free_address()?, launch::free_address()?);
        let addrs: Vec<_> = instances.iter().map(|i| i.addr).chain([free]).collect();
        let nginx = launch::nginx(&nginx_conf(front, &addrs), front)?;
        Ok(Self {
            instances,
            free,
            redis_url,
            nginx,
            _redis: redis,
        })
    }

    /// The destination of the clients.
    pub(super) fn target(&self, a: &DeployArgs) -> Target {
        let path = match a.gateway {
            Gateway::Channels => "/ws",
            _ => "/",
        };
        Target {
            tls: None,
            addr: self.nginx.addr,
            path: a.path.clone().unwrap_or_else(|| path.to_owned()),
            deflate: None,
            send: None,
            throttle_kbit: 0,
        }
    }

    /// Takes the oldest instance.
    pub(super) fn oldest(&mut self) -> Result<Program, Fault> {
        let oldest = self.instances.pop_front();
        oldest.ok_or_else(|| Fault::Server("there is no instance to replace".into()))
    }

    /// A call that starts an instance at an address.
    pub(super) fn starter(
        &self,
        command: &str,
        addr: SocketAddr,
    ) -> impl FnOnce() -> Result<Program, Fault> + Send + use<> {
        let (command, url) = (command.to_owned(), self.redis_url.clone());
        move || launch::server_on_at(&command, BusKind::Redis, &url, addr)
    }
}
