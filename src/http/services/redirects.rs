//! Redirects of a service. Nothing follows them (contract events): the operator has to set the other address.

use std::cell::RefCell;
use std::collections::HashSet;

use hyper::StatusCode;
use hyper::header::{HeaderMap, LOCATION};
use url::Url;

use crate::base::escaped;

/// Places of a service with a log line; later places have none.
const PLACES_MAX: usize = 16;
/// The most characters shown of a place.
const SHOWN_MAX: usize = 200;

/// The place of a redirect for people: without what may be secret (a user, a query), and short. Empty if the head
/// names none.
pub(in crate::http) fn place(headers: &HeaderMap) -> String {
    let place = headers
        .get(LOCATION)
        .map_or(&[][..], |value| value.as_bytes());
    let place = String::from_utf8_lossy(place);
    let place = place.split(['?', '#']).next().unwrap_or_default();
    let absolute = Url::parse(place).ok().filter(Url::has_host);
    let place = absolute.map_or_else(
        || place.to_owned(),
        |mut url| {
            // Neither can fail for a URL with a host.
            let _ = (url.set_username(""), url.set_password(None));
            url.into()
        },
    );
    let short: String = place.chars().take(SHOWN_MAX).collect();
    escaped(&short, &[]).into_owned()
}

/// The redirects that were logged, by place.
#[derive(Debug, Default)]
pub(in crate::http) struct Redirects(RefCell<HashSet<String>>);

impl Redirects {
    /// Logs a redirect of `service`, once for each place.
    pub(in crate::http) fn log(&self, service: &str, status: StatusCode, headers: &HeaderMap) {
        let (place, mut places) = (place(headers), self.0.borrow_mut());
        if places.len() < PLACES_MAX && !places.contains(&place) {
            tracing::warn!(
                service,
                status = status.as_u16(),
                place,
                "a service answers calls with a redirect, which is not followed"
            );
            places.insert(place);
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
    fn a_place_is_shown_without_secrets_and_short() {
        for (location, shown) in [
            ("/a/b?token=s3cret", "/a/b"),
            ("https://u:s3cret@h:8/a#x", "https://h:8/a"),
            ("//h/a", "//h/a"),
            ("mailto:a", "mailto:a"),
            ("", ""),
        ] {
            assert_eq!(place(&head(location.as_bytes())), shown);
        }
        assert_eq!(place(&HeaderMap::new()), "");
        assert_eq!(place(&head("/\u{202e}".as_bytes())), "/\\u202e");
        assert_eq!(place(&head(&[b'x'; 5_000])).len(), SHOWN_MAX);
    }

    #[test]
    fn places_are_bounded() {
        let redirects = Redirects::default();
        for n in 0..100 {
            let head = head(format!("/{}", n / 2).as_bytes());
            redirects.log("lobby", StatusCode::FOUND, &head);
        }
        assert_eq!(redirects.0.borrow().len(), PLACES_MAX);
    }
}
