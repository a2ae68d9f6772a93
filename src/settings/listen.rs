//! The listen addresses of the settings: IP addresses, combined with `--port`, and paths of unix sockets.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::checked::Checked;
use super::error::{SettingsError, Warning};
use super::kind::{Form, Refused, parse_addr};
use crate::admission::{ClientAddr, TrustedProxies};
use crate::listening::{ListenAddr, ListenOptions, Owner, PATH_BYTES_MAX};

/// The prefix of the path of a unix socket.
const UNIX: &str = "unix:";

/// The most addresses: the loop polls a socket for each.
const ADDRS_MAX: usize = 8;

const ADDR_ALLOWED: &str = "an IP address such as 0.0.0.0 or [::], or localhost, without a port (that is \
     --port), or unix:/PATH with at most 107 bytes of path";

/// The form of `--listen`.
pub(super) static LISTEN: Form = Form {
    placeholder: "ADDR|unix:PATH",
    allowed: ADDR_ALLOWED,
    repeats: true,
    is_url: false,
    read: |text| parse_listen(text).map(|all| shown(&all)),
};

const ADMIN_ALLOWED: &str = "an IP address or localhost with a port, such as 127.0.0.1:9100 or \
     [::1]:9100, or unix:/PATH with at most 107 bytes of path";

/// The form of `--admin-addr`; empty for none.
pub(super) static ADMIN: Form = Form {
    placeholder: "ADDR:PORT|unix:PATH",
    allowed: ADMIN_ALLOWED,
    repeats: false,
    is_url: false,
    read: |text| {
        let addr = parse_admin(text).ok_or_else(|| Refused::new(text, ADMIN_ALLOWED))?;
        Ok(addr.map_or_else(String::new, |addr| addr.to_string()))
    },
};

const MODE_ALLOWED: &str = "a mode in octal digits from 0000 to 0777, such as 0660";

/// The form of `--unix-socket-mode`.
pub(super) static MODE: Form = Form {
    placeholder: "MODE",
    allowed: MODE_ALLOWED,
    repeats: false,
    is_url: false,
    read: |text| match parse_mode(text) {
        Some(mode) => Ok(format!("{mode:04o}")),
        None => Err(Refused::new(text, MODE_ALLOWED)),
    },
};

const OWNER_ALLOWED: &str = "USER, USER:GROUP or :GROUP, each a name or a number";

/// The form of `--unix-socket-owner`.
pub(super) static OWNER: Form = Form {
    placeholder: "USER:GROUP",
    allowed: OWNER_ALLOWED,
    repeats: false,
    is_url: false,
    read: |text| match text.parse::<Owner>() {
        Ok(owner) => Ok(owner.to_string()),
        Err(_) => Err(Refused::new(text, OWNER_ALLOWED)),
    },
};

/// One address of `--listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Listen {
    Ip(IpAddr),
    Unix(PathBuf),
}

/// Whether `c` separates addresses.
fn is_between(c: char) -> bool {
    c == ',' || c.is_whitespace()
}

fn parse_listen(text: &str) -> Result<Vec<Listen>, Refused> {
    let mut all = Vec::new();
    for one in text.split(is_between).filter(|one| !one.is_empty()) {
        let parsed = match one.strip_prefix(UNIX) {
            Some(path) => parse_path(path).map(Listen::Unix),
            None => parse_addr(one).map(Listen::Ip),
        };
        let parsed = parsed.ok_or_else(|| Refused::new(one, ADDR_ALLOWED))?;
        if all.contains(&parsed) {
            return Err(Refused::new(one, "each address once"));
        }
        all.push(parsed);
    }
    match all.len() {
        0 => Err(Refused::new(text, ADDR_ALLOWED)),
        1..=ADDRS_MAX => Ok(all),
        _ => Err(Refused::new(text, format!("at most {ADDRS_MAX} addresses"))),
    }
}

fn shown(all: &[Listen]) -> String {
    let one = |one: &Listen| match one {
        Listen::Ip(ip) => ip.to_string(),
        Listen::Unix(path) => format!("{UNIX}{}", path.display()),
    };
    all.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Parses an absolute path: a relative path would depend on the working directory. Space and comma separate
/// addresses, so the path has neither.
fn parse_path(path: &str) -> Option<PathBuf> {
    let has_separator = path.contains(is_between) || path.contains('\0');
    let good = path.starts_with('/') && !path.ends_with('/') && path.len() <= PATH_BYTES_MAX;
    (good && !has_separator).then(|| PathBuf::from(path))
}

fn parse_admin(text: &str) -> Option<Option<ListenAddr>> {
    if text.is_empty() {
        return Some(None);
    }
    if let Some(path) = text.strip_prefix(UNIX) {
        return Some(Some(ListenAddr::Unix(parse_path(path)?)));
    }
    let (addr, port) = text.rsplit_once(':')?;
    // Brackets separate an IPv6 address from its port.
    let bare_v6 = addr.contains(':') && !addr.starts_with('[');
    let addr = parse_addr(addr).filter(|_| !bare_v6)?;
    Some(Some(SocketAddr::new(addr, port.parse().ok()?).into()))
}

fn parse_mode(text: &str) -> Option<u32> {
    let is_octal = !text.is_empty() && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| is_octal)?;
    (mode <= 0o777).then_some(mode)
}

/// Limits by address.
const BY_ADDRESS: [&str; 2] = ["connections-per-ip-max", "connection-rate-per-ip"];

impl Checked {
    /// Warns of addresses with an unexpected effect.
    pub(super) fn listen_warnings(&self) -> Vec<Warning> {
        if !self.has("listen") || !self.has("reuse-port") {
            return Vec::new();
        }
        let all = self.listen();
        let has_unix = all.iter().any(|addr| addr.port().is_none());
        let has_tcp = all.iter().any(|addr| addr.port().is_some());
        let mut warnings = Vec::new();
        if has_unix && !self.networks("trusted-proxies").trusts(ClientAddr::Unix) {
            let limits = BY_ADDRESS.into_iter();
            let set = limits.filter(|flag| self.number::<u64>(flag) > 0);
            warnings.extend(set.map(|flag| Warning::TogetherOverUnix { flag }));
        }
        if !has_tcp && self.switch("reuse-port") {
            warnings.push(Warning::NoPortToShare);
        }
        warnings
    }

    /// The listen addresses: IP addresses with the port, and unix sockets.
    pub fn listen(&self) -> Vec<ListenAddr> {
        self.listen_at("port")
    }

    fn listen_at(&self, port_flag: &str) -> Vec<ListenAddr> {
        let port = self.port(port_flag);
        let addr = |one| match one {
            Listen::Ip(ip) => Some(ListenAddr::Tcp(SocketAddr::new(ip, port?))),
            Listen::Unix(path) => Some(ListenAddr::Unix(path)),
        };
        let all = self.formed("listen", |text| parse_listen(text).ok());
        all.into_iter().filter_map(addr).collect()
    }

    /// The addresses for TLS: the IP addresses of `--listen` with the port of TLS.
    pub fn listen_tls(&self) -> Vec<ListenAddr> {
        let mut all = self.listen_at("tls-port");
        all.retain(|addr| addr.port().is_some());
        all
    }

    /// The proxies whose connections begin with a header of the PROXY protocol.
    pub fn headers_from(&self) -> TrustedProxies {
        match self.has_headers() {
            true => self.networks("trusted-proxies"),
            false => TrustedProxies::None,
        }
    }

    /// Whether a program of this machine that connects to `addr` begins with a header of the PROXY protocol.
    pub fn begins_with_header(&self, addr: &ListenAddr) -> bool {
        let own = match addr {
            ListenAddr::Tcp(addr) => addr.ip().into(),
            ListenAddr::Unix(_) => ClientAddr::Unix,
        };
        self.headers_from().trusts(own)
    }

    /// Headers of the PROXY protocol without a proxy.
    pub(super) fn headers_from_nobody(&self) -> Option<SettingsError> {
        let nobody = self.has_headers() && self.headers_from() == TrustedProxies::None;
        let allowed = "false, unless --trusted-proxies names the proxies";
        nobody.then(|| self.refused("proxy-protocol", &Refused::new("true", allowed)))
    }

    fn has_headers(&self) -> bool {
        self.has("proxy-protocol") && self.switch("proxy-protocol")
    }

    /// The port of `flag`; `None` for off.
    fn port(&self, flag: &str) -> Option<u16> {
        (!self.is_off(flag)).then(|| self.number(flag))
    }

    /// The options of the listening sockets.
    pub fn listen_options(&self) -> ListenOptions {
        ListenOptions {
            backlog: self.number("listen-backlog"),
            notsent_lowat_bytes: self.number("tcp-notsent-lowat-bytes"),
            // Later than the loop, because the loop logs a reason; and at least a minute, to survive a lost
            // network.
            user_timeout_ms: 60_000.max(2 * self.number::<u32>("send-queue-stall-ms")),
            reuse_port: self.switch("reuse-port"),
            unix_mode: self.formed("unix-socket-mode", parse_mode),
            unix_owner: self.formed("unix-socket-owner", |text| text.parse().ok()),
        }
    }

    /// The address of the operators' pages; `None` for the public port.
    pub fn admin_addr(&self) -> Option<ListenAddr> {
        self.formed("admin-addr", parse_admin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Rows;

    fn read(form: &Form, text: &str) -> Result<String, String> {
        let shown = (form.read)(text).map_err(|refused| refused.item)?;
        assert_eq!(
            (form.read)(&shown),
            Ok(shown.clone()),
            "shown as it is read"
        );
        Ok(shown)
    }

    fn longest() -> String {
        format!("unix:/{}", "x".repeat(PATH_BYTES_MAX - 1))
    }

    #[test]
    fn addresses_and_unix_sockets_stand_side_by_side() {
        for (typed, shown) in [
            ("0.0.0.0", "0.0.0.0"),
            ("[::]", "::"),
            ("localhost", "127.0.0.1"),
            ("unix:/run/weirgate/a.sock", "unix:/run/weirgate/a.sock"),
            ("127.0.0.1 unix:/run/a", "127.0.0.1 unix:/run/a"),
            ("unix:/run/a,::1 ,\n10.0.0.1", "unix:/run/a ::1 10.0.0.1"),
            (longest().as_str(), longest().as_str()),
        ] {
            assert_eq!(read(&LISTEN, typed).as_deref(), Ok(shown), "{typed}");
        }
        let too_long = format!("{}x", longest());
        for (typed, refused) in [
            ("unix:", "unix:"),
            ("127.0.0.1 unix:run/a", "unix:run/a"),
            ("unix:/run/", "unix:/run/"),
            ("unix:@name", "unix:@name"),
            ("127.0.0.1:8000", "127.0.0.1:8000"),
            ("/run/a", "/run/a"),
            ("host", "host"),
            (too_long.as_str(), too_long.as_str()),
            ("::1 localhost ::1", "::1"),
            (",", ","),
        ] {
            assert_eq!(read(&LISTEN, typed), Err(refused.to_owned()), "{typed}");
        }
        let nine: Vec<_> = (0..9).map(|n| format!("10.0.0.{n}")).collect();
        assert!(read(&LISTEN, &nine.join(" ")).is_err());
        assert!(read(&LISTEN, &nine[1..].join(" ")).is_ok());
    }

    #[test]
    fn the_admin_address_has_its_port_or_is_a_unix_socket() {
        for (typed, shown) in [
            ("127.0.0.1:9100", "127.0.0.1:9100"),
            ("localhost:0", "127.0.0.1:0"),
            ("[::1]:9100", "[::1]:9100"),
            ("unix:/run/admin", "unix:/run/admin"),
            ("", ""),
        ] {
            assert_eq!(read(&ADMIN, typed).as_deref(), Ok(shown), "{typed}");
        }
        for bad in [
            "9100",
            ":9100",
            "::1:9100",
            "127.0.0.1",
            "h:1",
            "unix:a",
            "1.1.1.1:65536",
        ] {
            assert_eq!(read(&ADMIN, bad), Err(bad.to_owned()), "{bad}");
        }
    }

    #[test]
    fn what_has_another_effect_than_it_may_seem_is_told() {
        let warned = |flags: &[(&str, &str)]| {
            let checked = Checked::of(Rows::EVERY, flags, &[]).expect("good values");
            let texts: Vec<_> = checked.warnings().iter().map(ToString::to_string).collect();
            texts.join(" ")
        };
        let unix = ("listen", "unix:/run/a");
        let limit = ("connections-per-ip-max", "3");
        assert!(warned(&[unix, limit]).contains("--connections-per-ip-max applies to all"));
        assert_eq!(warned(&[unix, limit, ("trusted-proxies", "unix")]), "");
        assert_eq!(warned(&[unix]), "");
        assert_eq!(warned(&[limit]), "");
        let shared = ("reuse-port", "true");
        assert!(warned(&[unix, shared]).contains("--reuse-port has no effect"));
        assert_eq!(warned(&[("listen", "unix:/run/a ::1"), shared]), "");
    }

    #[test]
    fn modes_are_octal_and_owners_have_one_colon() {
        for (typed, shown) in [
            ("0660", "0660"),
            ("666", "0666"),
            ("0", "0000"),
            ("00777", "0777"),
        ] {
            assert_eq!(read(&MODE, typed).as_deref(), Ok(shown));
        }
        for bad in ["", "1000", "888", "0o660", "rw", "-1", "+7"] {
            assert!(read(&MODE, bad).is_err(), "{bad}");
        }
        assert_eq!(read(&OWNER, ":www-data").as_deref(), Ok(":www-data"));
        assert!(read(&OWNER, "a:b:c").is_err());
    }
}
