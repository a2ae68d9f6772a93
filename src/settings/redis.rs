//! Where Redis is, whichever gateway asks.

use std::path::PathBuf;

use rustls::pki_types::ServerName;

use super::Checked;
use super::error::SettingsError;
use super::kind::{Form, Refused};
use super::secret::SecretUrl;

/// A name that certificates may have.
pub static TLS_NAME: Form = Form {
    placeholder: "NAME",
    allowed: TLS_NAME_ALLOWED,
    repeats: false,
    is_url: false,
    read: |text| match text.is_empty() || ServerName::try_from(text).is_ok() {
        true => Ok(text.to_owned()),
        false => Err(Refused::new(text, TLS_NAME_ALLOWED)),
    },
};

const TLS_NAME_ALLOWED: &str = "a DNS name or an IP address";

/// Where Redis is.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisSettings {
    /// Goes over host and port; shown without the password.
    pub url: Option<SecretUrl>,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// They go over all of these; shown without passwords.
    pub sentinels: Option<SentinelSettings>,
    /// Certificates to trust, for TLS.
    pub ca_file: Option<PathBuf>,
    /// The name that the certificate of the server has to have; `None`: its host.
    pub tls_name: Option<String>,
}

/// Who knows where Redis is.
#[derive(Clone, Debug, PartialEq)]
pub struct SentinelSettings {
    /// With commas between them.
    pub urls: SecretUrl,
    /// The name under which they know it.
    pub master: String,
}

impl Checked {
    /// Where Redis is. [`Checked::new`] saw to it that a gateway without host and port has a URL or
    /// sentinels.
    pub fn redis(&self) -> RedisSettings {
        let urls = self.some_url("redis-sentinels");
        let master = self.text("redis-sentinel-master");
        let host = self.has("redis-host").then(|| self.text("redis-host"));
        let port = self.has("redis-port").then(|| self.number("redis-port"));
        RedisSettings {
            url: self.some_url("redis-url"),
            host: host.unwrap_or_default(),
            port: port.unwrap_or_default(),
            sentinels: urls.map(|urls| SentinelSettings { urls, master }),
            ca_file: self.path("redis-ca-file"),
            tls_name: self.some_text("redis-tls-name"),
        }
    }

    /// Nothing says where Redis is, on a gateway that takes no host and port with defaults.
    pub(super) fn no_redis(&self) -> Option<SettingsError> {
        let url = self.find("redis-url")?;
        let has_default = self.has("redis-host");
        let is_set = ["redis-url", "redis-sentinels"].map(|flag| self.some_url(flag).is_some());
        let known = has_default || is_set.contains(&true);
        (!known).then(|| SettingsError::Missing {
            flag: url.setting.flag,
            env: url.setting.env_names().swap_remove(0),
            allowed: url.setting.kind.allowed(),
        })
    }

    fn some_url(&self, flag: &str) -> Option<SecretUrl> {
        Some(self.url(flag)).filter(|url| !url.expose().is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Part, Rows};

    const NAMED: Rows = Rows::gateway(&[Part::Redis]);
    const WITH_HOST: Rows = Rows::gateway(&[Part::Redis, Part::RedisHost]);

    fn run(rows: Rows, env: &[(&str, &str)]) -> Result<RedisSettings, String> {
        Checked::of(rows, &[], env).map(|checked| checked.redis())
    }

    #[test]
    fn without_a_default_host_redis_has_to_be_named() {
        let missing = run(NAMED, &[]).unwrap_err();
        assert!(missing.contains("--redis-url (env REDIS_URL) is needed"));
        assert_eq!(run(NAMED, &[("REDIS_URL", " ")]).unwrap_err(), missing);
        let wrong = run(NAMED, &[("REDIS_URL", "localhost:6379")]).unwrap_err();
        assert!(wrong.contains("--redis-url (env REDIS_URL) is "), "{wrong}");
        let url = run(NAMED, &[("REDIS_URL", "redis://u:s3cret@h/2")]).expect("good settings");
        assert!(!format!("{url:?}").contains("s3cret"), "{url:?}");
        let default = run(WITH_HOST, &[]).expect("good settings");
        assert_eq!((default.host.as_str(), default.port), ("localhost", 6379));
    }

    #[test]
    fn sentinels_stand_in_for_a_url_and_need_a_name() {
        let env = [
            ("REDIS_SENTINELS", "a:1, rediss://u:s3cret@b:2"),
            ("REDIS_SENTINEL_MASTER", "main"),
        ];
        for rows in [NAMED, WITH_HOST] {
            let redis = run(rows, &env).expect("good settings");
            assert!(!format!("{redis:?}").contains("s3cret"), "{redis:?}");
            let sentinels = redis.sentinels.expect("sentinels");
            assert_eq!(sentinels.master, "main");
            for (half, other) in [(&env[..1], "master"), (&env[1..], "sentinels")] {
                let alone = run(rows, half).unwrap_err();
                assert!(
                    alone.contains("is set without") && alone.contains(other),
                    "{alone}"
                );
                assert!(!alone.contains("s3cret"), "{alone}");
            }
        }
    }
}
