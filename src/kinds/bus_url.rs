//! Settings that name a bus by URLs, of Redis or of NATS servers.

use crate::settings::SecretUrl;

/// What such a setting takes.
pub(super) const SCHEMES: &[&str] = &["redis", "rediss", "nats", "tls"];

/// Those of Redis; the second with TLS.
const REDIS_SCHEMES: [&str; 2] = ["redis", "rediss"];

/// What URLs of a bus have to be.
pub(super) const ALLOWED: &str = "one URL of Redis, or URLs of NATS servers, with their scheme";

/// The URLs are of Redis; `false`: of NATS, or there are none.
pub(super) fn is_redis(urls: &SecretUrl) -> bool {
    schemes(urls).any(|scheme| REDIS_SCHEMES.contains(&scheme))
}

/// The URLs are of no single bus.
pub(super) fn is_wrong(urls: &SecretUrl) -> bool {
    let is_set = !urls.expose().is_empty();
    is_set && (schemes(urls).any(str::is_empty) || is_redis(urls) && schemes(urls).count() > 1)
}

fn schemes(urls: &SecretUrl) -> impl Iterator<Item = &str> {
    urls.expose().split(',').map(|url| {
        url.split_once("://")
            .map_or("", |(scheme, _)| scheme.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_of_one_bus() {
        for (urls, redis, wrong) in [
            ("", false, false),
            ("redis://a", true, false),
            ("rediss://u:p@a:1/2", true, false),
            ("nats://a", false, false),
            ("nats://a, tls://b:1", false, false),
            ("nats://a,b", false, true),
            ("redis://a,redis://b", true, true),
            ("redis://a,nats://b", true, true),
            ("localhost", false, true),
        ] {
            let urls = SecretUrl::new(urls);
            assert_eq!((is_redis(&urls), is_wrong(&urls)), (redis, wrong), "{urls}");
        }
    }
}
