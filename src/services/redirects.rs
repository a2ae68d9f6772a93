//! Redirects of services. The gateway follows none (protocol-events.md, "Redirects"), so the log names the target, and
//! the operator has to set the new address.

use std::cell::RefCell;
use std::collections::HashSet;

use hyper::StatusCode;
use hyper::header::{HeaderMap, LOCATION};
use url::Url;

use weirgate_wire::base::escaped;

/// The most redirect targets of a service that get a log line.
const TARGETS_MAX: usize = 16;
/// The most characters of a redirect target in a log line.
const SHOWN_MAX: usize = 200;

/// The target of a redirect for people: shortened, and without parts that may be secret (the user, the query). Empty if
/// the head has no `Location`.
pub(super) fn redirect_target(headers: &HeaderMap) -> String {
    let location = headers
        .get(LOCATION)
        .map_or(&[][..], |value| value.as_bytes());
    let location = String::from_utf8_lossy(location);
    let target = location.split(['?', '#']).next().unwrap_or_default();
    let absolute = Url::parse(target).ok().filter(Url::has_host);
    let shown = absolute.map_or_else(
        || target.to_owned(),
        |mut url| {
            // Neither can fail for a URL with a host.
            let _ = (url.set_username(""), url.set_password(None));
            url.into()
        },
    );
    let short: String = shown.chars().take(SHOWN_MAX).collect();
    escaped(&short, &[]).into_owned()
}

/// The targets of redirects that were logged.
#[derive(Debug, Default)]
pub(crate) struct Redirects(RefCell<HashSet<String>>);

impl Redirects {
    /// Logs a redirect of `service`, once for each target.
    pub(crate) fn log(&self, service: &str, status: StatusCode, headers: &HeaderMap) {
        let (target, mut logged) = (redirect_target(headers), self.0.borrow_mut());
        if logged.len() < TARGETS_MAX && !logged.contains(&target) {
            tracing::warn!(
                service,
                status = status.as_u16(),
                place = target,
                "a service answers calls with a redirect, which is not followed"
            );
            logged.insert(target);
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn head(location: &[u8]) -> HeaderMap {
        let value = HeaderValue::from_bytes(location).unwrap();
        HeaderMap::from_iter([(LOCATION, value)])
    }

    #[test]
    fn a_target_is_shown_without_secrets_and_short() {
        for (location, shown) in [
            ("/a/b?token=s3cret", "/a/b"),
            ("https://u:s3cret@h:8/a#x", "https://h:8/a"),
            ("//h/a", "//h/a"),
            ("mailto:a", "mailto:a"),
            ("", ""),
        ] {
            assert_eq!(redirect_target(&head(location.as_bytes())), shown);
        }
        assert_eq!(redirect_target(&HeaderMap::new()), "");
        assert_eq!(redirect_target(&head("/\u{202e}".as_bytes())), "/\\u202e");
        assert_eq!(redirect_target(&head(&[b'x'; 5_000])).len(), SHOWN_MAX);
    }

    #[test]
    fn logged_targets_are_bounded() {
        let redirects = Redirects::default();
        for n in 0..100 {
            let head = head(format!("/{}", n / 2).as_bytes());
            redirects.log("lobby", StatusCode::FOUND, &head);
        }
        assert_eq!(redirects.0.borrow().len(), TARGETS_MAX);
    }
}
