//! The address of a JSON Web Key Set (`--jwt-jwks-url`).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

use super::kind::{Form, RefusedValue};

/// The address of a JSON Web Key Set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySetUrl(Url);

impl KeySetUrl {
    /// Parses a URL without a user and without a fragment; `None` for any other text. Plain HTTP is allowed only to a
    /// loopback address: elsewhere anybody on the network path could replace the keys.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let is_safe = match url.scheme() {
            "https" => true,
            "http" => url.host().is_some_and(|host| is_loopback(&host)),
            _ => false,
        };
        let is_plain = url.username().is_empty()
            && url.password().is_none()
            && url.fragment().is_none()
            && url.port() != Some(0);
        (is_safe && is_plain).then_some(Self(url))
    }

    /// The whole URL.
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// Whether the key set is at `https://`.
    pub fn wants_tls(&self) -> bool {
        self.0.scheme() == "https"
    }
}

/// The URL without its query, for people.
impl fmt::Display for KeySetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.0.clone();
        url.set_query(None);
        url.fmt(f)
    }
}

fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(address) => Ipv4Addr::is_loopback(address),
        Host::Ipv6(address) => Ipv6Addr::is_loopback(address),
    }
}

const KEY_SET_ALLOWED: &str =
    "https://HOST:PORT/PATH, or http:// with localhost or a loopback address";

/// The form of `--jwt-jwks-url`; empty for none.
pub(super) static KEY_SET_URL: Form = Form::new("URL", KEY_SET_ALLOWED, |text| {
    match text.is_empty() || KeySetUrl::parse(text).is_some() {
        true => Ok(text.to_owned()),
        false => Err(RefusedValue::new(text, KEY_SET_ALLOWED)),
    }
})
.url();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_this_machine_give_keys() {
        for url in [
            "https://idp.example.com/.well-known/jwks.json",
            "https://idp.example.com:8443/keys?appid=1",
            "http://localhost:8080/realms/a/protocol/openid-connect/certs",
            "http://127.8.0.1/keys",
            "http://[::1]:9/keys",
        ] {
            let parsed = KeySetUrl::parse(url).expect(url);
            let shown = url.split('?').next().unwrap_or_default();
            assert_eq!(parsed.to_string(), shown);
            assert_eq!(parsed.wants_tls(), url.starts_with("https"));
            assert_eq!(parsed.url().as_str(), url);
        }
        for url in [
            "idp.example.com/keys",
            "http://idp.example.com/keys",
            "http://10.0.0.7/keys",
            "http://localhost.example.com/keys",
            "http://0.0.0.0/keys",
            "ftp://localhost/keys",
            "file:///keys",
            "https://user:pass@idp.example.com/keys",
            "https://idp.example.com/keys#a",
            "https://idp.example.com:0/keys",
            "https:///",
        ] {
            assert_eq!(KeySetUrl::parse(url), None, "{url}");
            assert!((KEY_SET_URL.read)(url).is_err(), "{url}");
        }
        assert_eq!((KEY_SET_URL.read)(""), Ok(String::new()));
    }
}
