//! The addresses of a gateway that listens: their URLs for people, and the first line of the log.

use super::common::CommonSettings;
use super::process::files_max;
use crate::build_info::BuildInfo;
use crate::listening::ListenAddr;
use crate::reactor::Reactor;
use crate::telemetry::Telemetry;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use weirgate_core::{Feed, Gateway};

/// A gateway that listens.
#[derive(Clone, Debug)]
pub struct Listening {
    /// The addresses for clients, in the order of the settings.
    pub addrs: Vec<ListenAddr>,
    /// The addresses for clients with TLS, in the order of the settings.
    pub tls_addrs: Vec<ListenAddr>,
    /// The address of the operators' pages; `None` for the public port, or if a supervisor has the address.
    pub admin_addr: Option<ListenAddr>,
    /// The telemetry of the process.
    pub telemetry: Arc<Telemetry>,
}

impl Listening {
    /// The addresses of a loop, and the one of the operators' pages.
    pub(super) fn of<G: Gateway, F: Feed>(
        reactor: &Reactor<G, F>,
        admin_addr: Option<ListenAddr>,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        Self {
            addrs: reactor.local_addrs().to_vec(),
            tls_addrs: reactor.local_tls_addrs().to_vec(),
            admin_addr,
            telemetry,
        }
    }

    /// Returns the URL for a program on this machine: with the TCP port, or with the unix socket in the syntax of
    /// Node's `ws`. An unspecified or loopback address is shown as `localhost`. The scheme gets an `s` if the gateway
    /// listens for TLS alone.
    pub fn url(&self, scheme: &str, path: &str) -> String {
        let mut addrs = self.addrs.iter();
        let tcp = addrs.find(|addr| matches!(addr, ListenAddr::Tcp(_)));
        let plain = tcp.or_else(|| self.addrs.first());
        match (plain, self.tls_addrs.first()) {
            (Some(addr), _) => url(addr, scheme, path),
            (None, Some(addr)) => url(addr, &format!("{scheme}s"), path),
            (None, None) => String::new(),
        }
    }

    /// Returns the lines of a [`banner`](Self::banner) about the pages for people: `/health`, and with an admin listener the
    /// operators' page.
    pub fn pages(&self) -> impl Iterator<Item = (&'static str, String)> {
        let health = self.url("http", "/health");
        let operator = self.admin_addr.as_ref();
        let operator = operator.map(|addr| ("Operator", url(addr, "http", "/operator")));
        [("Health", health)].into_iter().chain(operator)
    }

    /// Returns the text that a gateway prints at its start: the title, and a line for each name and its value. The values
    /// begin below each other.
    pub fn banner(title: &str, lines: &[(&str, String)]) -> String {
        let longest = lines.iter().map(|(name, _)| name.len()).max();
        let width = longest.map_or(0, |name| name + ": ".len());
        let mut text = title.to_owned();
        for (name, value) in lines {
            text += &format!("\n  {:<width$}{value}", format!("{name}:"));
        }
        text
    }
}

fn url(addr: &ListenAddr, scheme: &str, path: &str) -> String {
    let addr = match addr {
        ListenAddr::Tcp(addr) => addr,
        ListenAddr::Unix(_) => return format!("{scheme}+{addr}:{path}"),
    };
    let ip = addr.ip();
    let is_localhost = ip.is_unspecified()
        || ip == IpAddr::V4(Ipv4Addr::LOCALHOST)
        || ip == IpAddr::V6(Ipv6Addr::LOCALHOST);
    match is_localhost {
        true => format!("{scheme}://localhost:{}{path}", addr.port()),
        false => format!("{scheme}://{addr}{path}"),
    }
}

/// Logs the gateway, its addresses and the limits on connections and memory. A process that waits for its supervisor before
/// it listens logs another line then.
pub(super) fn log_start(gateway: &str, listening: &Listening, common: &CommonSettings) {
    let joined = |addrs: &[ListenAddr]| {
        let addrs: Vec<_> = addrs.iter().map(ListenAddr::to_string).collect();
        Some(addrs.join(",")).filter(|addrs| !addrs.is_empty())
    };
    let [listen, tls] = [&listening.addrs, &listening.tls_addrs].map(|addrs| joined(addrs));
    let admin = listening.admin_addr.as_ref().map(tracing::field::display);
    tracing::info!(
        gateway,
        version = BuildInfo::THIS.version,
        commit = BuildInfo::THIS.commit,
        listen = listen.as_ref().map(tracing::field::display),
        tls = tls.as_ref().map(tracing::field::display),
        admin,
        connections_max = common.limits.connections_max,
        files_max = files_max(),
        memory_max = Some(common.memory_max).filter(|bytes| *bytes > 0),
        "{}",
        match common.reactor.listen.gate.is_open() {
            true => "weirgate is listening",
            false => "weirgate has started",
        }
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_a_banner_begin_below_each_other() {
        let lines = [("Bus", "a".to_owned()), ("WebSocket", "b".to_owned())];
        let text = "title\n  Bus:       a\n  WebSocket: b";
        assert_eq!(Listening::banner("title", &lines), text);
        assert_eq!(Listening::banner("title", &[]), "title");
    }
}
