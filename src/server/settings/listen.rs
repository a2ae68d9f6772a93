//! The addresses to listen on: IP addresses, which `--port` completes, and paths of unix sockets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::SecretText;
use super::checked::Checked;
use super::error::SettingsError;
use super::field::With;
use super::groups::AuthSettings;
use super::kind::{Form, RefusedValue, parse_addr};
use crate::listening::{ListenAddr, ListenOptions, Owner, PATH_BYTES_MAX};
use crate::{flag, group};
use weirgate_core::Limits;
use weirgate_wire::admission::{ClientAddr, TrustedProxies};

/// The prefix of the path of a unix socket.
const UNIX: &str = "unix:";

/// The most addresses. The loop polls a socket for each.
const ADDRS_MAX: usize = 8;

const ADDR_ALLOWED: &str = "an IP address such as 0.0.0.0 or [::], or localhost, without a port (that is \
     --port), or unix:/PATH with at most 107 bytes of path";

/// The form of `--listen`.
pub(super) static LISTEN: Form = Form::new("ADDR|unix:PATH", ADDR_ALLOWED, |text| {
    parse_listen(text).map(|all| shown(&all))
})
.repeated();

const ADMIN_ALLOWED: &str = "an IP address or localhost with a port, such as 127.0.0.1:9100 or \
     [::1]:9100, or unix:/PATH with at most 107 bytes of path";

/// The form of `--admin-addr`; empty for none.
pub(super) static ADMIN: Form =
    Form::new(
        "ADDR:PORT|unix:PATH",
        ADMIN_ALLOWED,
        |text| match parse_admin(text) {
            Some(addr) => Ok(addr.to_string()),
            None if text.is_empty() => Ok(String::new()),
            None => Err(RefusedValue::new(text, ADMIN_ALLOWED)),
        },
    );

const MODE_ALLOWED: &str = "a mode in octal digits from 0000 to 0777, such as 0660";

/// The form of `--unix-socket-mode`.
pub(super) static MODE: Form = Form::new("MODE", MODE_ALLOWED, |text| match parse_mode(text) {
    Some(mode) => Ok(format!("{mode:04o}")),
    None => Err(RefusedValue::new(text, MODE_ALLOWED)),
});

const OWNER_ALLOWED: &str = "USER, USER:GROUP or :GROUP, each a name or a number";

/// The form of `--unix-socket-owner`.
pub(super) static OWNER: Form = Form::new("USER:GROUP", OWNER_ALLOWED, |text| {
    match text.parse::<Owner>() {
        Ok(owner) => Ok(owner.to_string()),
        Err(_) => Err(RefusedValue::new(text, OWNER_ALLOWED)),
    }
});

/// One address of `--listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Listen {
    /// An IP address; the ports are separate settings.
    Ip(IpAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

group! {
    /// Where a gateway listens, and to whom.
    #[derive(Clone, Debug)]
    pub struct ListenSettings {
        /// The addresses.
        pub(super) listen: Vec<Listen> = vec![Listen::Ip(Ipv4Addr::UNSPECIFIED.into())],
        /// The port for WebSocket and HTTP; `None` for none.
        pub port: Option<u16> = Some(8000),
        /// The port for the same over TLS.
        pub tls_port: Option<u16> = None,
        /// The address of the operators' pages; `None` for the public port.
        pub admin_addr: Option<ListenAddr> = None,
        /// The token for which the operators' pages there ask; `None`: they ask for none.
        pub admin_token: Option<SecretText> = None,
        /// Whether connections of trusted proxies begin with a PROXY protocol header.
        pub proxy_protocol: bool = false,
        /// The options of the sockets.
        pub options: ListenOptions = ListenOptions {
            notsent_lowat_bytes: 16 * 1024,
            ..ListenOptions::default()
        },
        /// Origins of web pages that may connect; empty for any.
        pub allowed_origins: Vec<String> = Vec::new(),
    }
}

impl ListenSettings {
    /// Listens on this IP address alone, if `--listen` is not set.
    pub fn default_to(&mut self, ip: impl Into<IpAddr>) {
        self.listen = vec![Listen::Ip(ip.into())];
    }

    /// The addresses to listen on: IP addresses with `--port`, and unix sockets.
    pub fn addrs(&self) -> Vec<ListenAddr> {
        self.addrs_on(self.port)
    }

    /// The addresses of `--listen` with this port; without a port only unix sockets.
    fn addrs_on(&self, port: Option<u16>) -> Vec<ListenAddr> {
        let addr = |one: &Listen| match one {
            Listen::Ip(ip) => Some(ListenAddr::Tcp(SocketAddr::new(*ip, port?))),
            Listen::Unix(path) => Some(ListenAddr::Unix(path.clone())),
        };
        self.listen.iter().filter_map(addr).collect()
    }

    /// The addresses for TLS: the IP addresses of `--listen` with `--tls-port`.
    pub fn tls_addrs(&self) -> Vec<ListenAddr> {
        let mut all = self.addrs_on(self.tls_port);
        all.retain(|addr| addr.port().is_some());
        all
    }
}

/// The field of `--listen`. As in the fields below, `set` gets only texts that the form has accepted.
pub(super) static LISTEN_FIELD: With<ListenSettings, String> = With {
    set: |listen, text| listen.listen = parse_listen(&text).unwrap_or_default(),
    get: |listen| shown(&listen.listen),
};

/// The field of `--admin-addr`.
pub(super) static ADMIN_FIELD: With<ListenSettings, String> = With {
    set: |listen, text| listen.admin_addr = parse_admin(&text),
    get: |listen| {
        let addr = listen.admin_addr.as_ref();
        addr.map_or_else(String::new, ListenAddr::to_string)
    },
};

/// The field of `--unix-socket-mode`.
pub(super) static MODE_FIELD: With<ListenSettings, String> = With {
    set: |listen, text| listen.options.unix_mode = parse_mode(&text).unwrap_or_default(),
    get: |listen| format!("{:04o}", listen.options.unix_mode),
};

/// The field of `--unix-socket-owner`.
pub(super) static OWNER_FIELD: With<ListenSettings, String> = With {
    set: |listen, text| listen.options.unix_owner = text.parse().unwrap_or_default(),
    get: |listen| listen.options.unix_owner.to_string(),
};

/// Whether `c` separates addresses.
fn is_between(c: char) -> bool {
    c == ',' || c.is_whitespace()
}

/// Parses the addresses of `--listen`, each of which may be there once.
fn parse_listen(text: &str) -> Result<Vec<Listen>, RefusedValue> {
    let mut all = Vec::new();
    for one in text.split(is_between).filter(|one| !one.is_empty()) {
        let parsed = match one.strip_prefix(UNIX) {
            Some(path) => parse_path(path).map(Listen::Unix),
            None => parse_addr(one).map(Listen::Ip),
        };
        let parsed = parsed.ok_or_else(|| RefusedValue::new(one, ADDR_ALLOWED))?;
        if all.contains(&parsed) {
            return Err(RefusedValue::new(one, "each address once"));
        }
        all.push(parsed);
    }
    match all.len() {
        0 => Err(RefusedValue::new(text, ADDR_ALLOWED)),
        1..=ADDRS_MAX => Ok(all),
        _ => Err(RefusedValue::new(
            text,
            format!("at most {ADDRS_MAX} addresses"),
        )),
    }
}

fn shown(all: &[Listen]) -> String {
    let one = |one: &Listen| match one {
        Listen::Ip(ip) => ip.to_string(),
        Listen::Unix(path) => format!("{UNIX}{}", path.display()),
    };
    all.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Parses an absolute path; a relative path would depend on the working directory. The path contains no space and no
/// comma, because these separate addresses.
fn parse_path(path: &str) -> Option<PathBuf> {
    let has_separator = path.contains(is_between) || path.contains('\0');
    let good = path.starts_with('/') && !path.ends_with('/') && path.len() <= PATH_BYTES_MAX;
    (good && !has_separator).then(|| PathBuf::from(path))
}

/// Parses the one address of `--admin-addr`.
fn parse_admin(text: &str) -> Option<ListenAddr> {
    if let Some(path) = text.strip_prefix(UNIX) {
        return Some(ListenAddr::Unix(parse_path(path)?));
    }
    let (addr, port) = text.rsplit_once(':')?;
    // Brackets separate an IPv6 address from its port.
    let bare_v6 = addr.contains(':') && !addr.starts_with('[');
    let addr = parse_addr(addr).filter(|_| !bare_v6)?;
    Some(SocketAddr::new(addr, port.parse().ok()?).into())
}

fn parse_mode(text: &str) -> Option<u32> {
    let is_octal = !text.is_empty() && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| is_octal)?;
    (mode <= 0o777).then_some(mode)
}

impl Checked {
    /// Warns of addresses with an unexpected effect.
    pub(super) fn listen_warnings(&self) -> Vec<String> {
        let (listen, limits) = (self.get::<ListenSettings>(), self.get::<Limits>());
        let all = listen.addrs();
        let has_unix = all.iter().any(|addr| addr.port().is_none());
        let has_tcp = all.iter().any(|addr| addr.port().is_some());
        let mut warnings = Vec::new();
        if has_unix && !limits.trusted_proxies.trusts(ClientAddr::Unix) {
            let per_ip = limits.per_ip;
            let by_address = [
                (
                    flag!("connections-per-ip-max"),
                    per_ip.connections_max.is_some(),
                ),
                (
                    flag!("connection-rate-per-ip"),
                    per_ip.connections_per_second.is_some(),
                ),
            ];
            let set = by_address.into_iter().filter(|(_, is_set)| *is_set);
            warnings.extend(set.map(|(flag, _)| {
                format!(
                    "--listen has a unix socket and --trusted-proxies does not have unix: --{flag} applies to all clients of the socket together"
                )
            }));
        }
        if !has_tcp && listen.options.reuse_port {
            let words = "--reuse-port has no effect: --listen has no IP address; give each process a unix socket";
            warnings.push(words.to_owned());
        }
        warnings
    }

    /// The proxies whose connections begin with a PROXY protocol header.
    pub(crate) fn headers_from(&self) -> TrustedProxies {
        match self.get::<ListenSettings>().proxy_protocol {
            true => self.get::<Limits>().trusted_proxies,
            false => TrustedProxies::None,
        }
    }

    /// Whether a program of this machine that connects to `addr` must send a PROXY protocol header first.
    pub fn begins_with_header(&self, addr: &ListenAddr) -> bool {
        let own = match addr {
            ListenAddr::Tcp(addr) => addr.ip().into(),
            ListenAddr::Unix(_) => ClientAddr::Unix,
        };
        self.headers_from().trusts(own)
    }

    /// The error of headers of the PROXY protocol without a proxy that may send them.
    pub(super) fn headers_from_nobody_error(&self) -> Option<SettingsError> {
        let has_headers = self.get::<ListenSettings>().proxy_protocol;
        let nobody = has_headers && self.headers_from() == TrustedProxies::None;
        let allowed = "false, unless --trusted-proxies names the proxies";
        nobody.then(|| self.refused(flag!("proxy-protocol"), &RefusedValue::new("true", allowed)))
    }

    /// The error of `--token-cookie`: any page may connect, or no cookie can have this name (RFC 6265 §4.1.1).
    pub(super) fn cookie_of_any_page_error(&self) -> Option<SettingsError> {
        let name = self.get::<AuthSettings>().token_cookie;
        let is_name =
            |byte: u8| byte.is_ascii_graphic() && !br#"()<>@,;:\"/[]?={}"#.contains(&byte);
        let allowed = match self.get::<ListenSettings>().allowed_origins.is_empty() {
            true => {
                "a name only with --allowed-origins, because any page could use the cookie of its visitor"
            }
            false if !name.bytes().all(is_name) => "letters, digits and - _ . without spaces",
            false => return None,
        };
        let refused = || self.refused(flag!("token-cookie"), &RefusedValue::new(&name, allowed));
        (!name.is_empty()).then(refused)
    }

    /// The options of the listening sockets.
    pub(crate) fn listen_options(&self) -> ListenOptions {
        let stall_ms = self.get::<Limits>().send_queue.stall_us / 1000;
        ListenOptions {
            // Later than the loop's own limit, because the loop logs a reason; and at least a minute, to survive a
            // network outage.
            user_timeout_ms: u32::try_from(2 * stall_ms).unwrap_or(u32::MAX).max(60_000),
            ..self.get::<ListenSettings>().options
        }
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
