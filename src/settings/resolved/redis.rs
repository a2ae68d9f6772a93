//! Where Redis is, whichever gateway asks.

use std::path::PathBuf;

use super::super::error::SettingsError;
use super::super::kind::Value;
use super::super::secret::SecretUrl;
use super::Checked;

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
    /// Where Redis is. [`Self::no_redis`] saw to it that a gateway without host and port has a URL or
    /// sentinels.
    pub(super) fn redis(&self) -> RedisSettings {
        let urls = self.some_url("redis-sentinels");
        let host = self.find("redis-host").map(|_| self.text("redis-host"));
        let port = self.find("redis-port").map(|_| self.number("redis-port"));
        RedisSettings {
            url: self.some_url("redis-url"),
            host: host.unwrap_or_default(),
            port: port.unwrap_or_default(),
            sentinels: urls.map(|urls| SentinelSettings {
                urls,
                master: self.text("redis-sentinel-master"),
            }),
            ca_file: self.path("redis-ca-file"),
        }
    }

    /// Nothing says where Redis is, on a gateway that takes no host and port with defaults.
    pub(super) fn no_redis(&self) -> Option<SettingsError> {
        let url = self.find("redis-url")?;
        let has_default = self.find("redis-host").is_some();
        let is_set = ["redis-url", "redis-sentinels"].map(|flag| self.some_url(flag).is_some());
        let known = has_default || is_set.contains(&true);
        (!known).then(|| SettingsError::Missing {
            flag: url.setting.flag,
            env: url.setting.env_names().swap_remove(0),
        })
    }

    fn some_url(&self, flag: &str) -> Option<SecretUrl> {
        match self.value(flag) {
            Value::Urls(url) if !url.expose().is_empty() => Some(url.clone()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Invocation, parse};

    fn run(gateway: &str, env: &[(&str, &str)]) -> Result<RedisSettings, String> {
        match parse(["weirgate", gateway], env.iter().copied()) {
            Ok(Invocation::Trades(settings)) => Ok(settings.redis),
            Ok(Invocation::Channels(settings)) => Ok(settings.redis),
            Ok(other) => panic!("{other:?}"),
            Err(exit) => Err(exit.text),
        }
    }

    #[test]
    fn trades_has_no_default_redis() {
        let missing = run("trades", &[]).unwrap_err();
        assert!(missing.contains("--redis-url (env REDIS_URL) is needed"));
        assert_eq!(run("trades", &[("REDIS_URL", " ")]).unwrap_err(), missing);
        let wrong = run("trades", &[("REDIS_URL", "localhost:6379")]).unwrap_err();
        assert!(wrong.contains("REDIS_URL is "), "{wrong}");
        let url = run("trades", &[("REDIS_URL", "redis://u:s3cret@h/2")]).expect("good settings");
        assert!(!format!("{url:?}").contains("s3cret"), "{url:?}");
        let default = run("channels", &[]).expect("good settings");
        assert_eq!((default.host.as_str(), default.port), ("localhost", 6379));
    }

    #[test]
    fn sentinels_stand_in_for_a_url_and_need_a_name() {
        let env = [
            ("REDIS_SENTINELS", "a:1, rediss://u:s3cret@b:2"),
            ("REDIS_SENTINEL_MASTER", "main"),
        ];
        for gateway in ["trades", "channels"] {
            let redis = run(gateway, &env).expect("good settings");
            assert!(!format!("{redis:?}").contains("s3cret"), "{redis:?}");
            let sentinels = redis.sentinels.expect("sentinels");
            assert_eq!(sentinels.master, "main");
            for (half, other) in [(&env[..1], "master"), (&env[1..], "sentinels")] {
                let alone = run(gateway, half).unwrap_err();
                assert!(
                    alone.contains("is set without") && alone.contains(other),
                    "{alone}"
                );
                assert!(!alone.contains("s3cret"), "{alone}");
            }
        }
    }
}
