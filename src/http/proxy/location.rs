//! Addresses of a service in its own answers, made addresses of the gateway. Pure.

use hyper::header::{CONTENT_LOCATION, HeaderMap, HeaderValue, LOCATION, REFRESH};

use crate::http::services::Upstream;

/// Changes addresses of the service in its answer to addresses of the gateway: the service is asked by its own
/// name, and knows no other. The new address is relative, so the client keeps its scheme and host. `cut` is the
/// prefix that the gateway removes from paths.
pub(super) fn own_addresses(headers: &mut HeaderMap, service: &Upstream, cut: &str) {
    for name in [LOCATION, CONTENT_LOCATION, REFRESH] {
        let Some(text) = headers.get(&name).and_then(|value| value.to_str().ok()) else {
            continue;
        };
        // `Refresh: 5; url=http://…`
        let at = match name == REFRESH {
            true => text
                .to_ascii_lowercase()
                .find("url=")
                .map(|at| at + "url=".len()),
            false => Some(0),
        };
        let relative = at.and_then(|at| {
            let path = service.path_of(text[at..].trim_matches(['"', '\'', ' ']))?;
            let path = format!("{cut}{path}");
            // Two slashes at the beginning would name a host.
            (!path.starts_with("//")).then(|| format!("{}{path}", &text[..at]))
        });
        if let Some(value) = relative.and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderName;

    use super::*;

    #[test]
    fn addresses_of_the_service_itself_lead_to_the_gateway() {
        let changed = |url: &str, cut: &str, name: &str, text: &str| {
            let name = HeaderName::try_from(name).unwrap();
            let value = HeaderValue::try_from(text).unwrap();
            let mut headers = HeaderMap::from_iter([(name.clone(), value)]);
            own_addresses(&mut headers, &Upstream::parse(url).unwrap(), cut);
            headers[&name].to_str().unwrap().to_owned()
        };
        let own = "http://service:8001";
        for (url, cut, text, expected) in [
            (
                own,
                "",
                "http://service:8001/v1/jobs/7/?a=b#c",
                "/v1/jobs/7/?a=b#c",
            ),
            (own, "", "HTTP://SERVICE:8001/v1/x", "/v1/x"),
            (own, "", "//service:8001/v1/x", "/v1/x"),
            (
                own,
                "/v1/simulation",
                "http://service:8001/items/",
                "/v1/simulation/items/",
            ),
            (own, "", "http://service:8001", "/"),
            (
                "http://service/base",
                "/cut",
                "http://service:80/base/x",
                "/cut/x",
            ),
            (
                "http://service/base",
                "/cut",
                "http://service/base",
                "/cut/",
            ),
            (
                "http://service/base",
                "/cut",
                "http://service/based/x",
                "http://service/based/x",
            ),
            ("http://[::1]:9", "", "http://[::1]:9/x", "/x"),
            ("https://service", "", "http://service/x", "/x"),
            (own, "", "http://service:8002/x", "http://service:8002/x"),
            (
                own,
                "",
                "http://service:8001//evil.example/",
                "http://service:8001//evil.example/",
            ),
            (
                own,
                "",
                "https://login.example/?next=x",
                "https://login.example/?next=x",
            ),
            (own, "", "../other", "../other"),
            (own, "/cut", "/v1/x", "/v1/x"),
            (own, "", "ftp://service:8001/x", "ftp://service:8001/x"),
        ] {
            for name in ["location", "content-location"] {
                assert_eq!(changed(url, cut, name, text), expected, "{text}");
            }
        }
        let refresh = |text| changed(own, "", "refresh", text);
        assert_eq!(refresh("5; URL=http://service:8001/x"), "5; URL=/x");
        assert_eq!(refresh("0;url='http://service:8001/x'"), "0;url=/x");
        assert_eq!(refresh("5"), "5");
    }
}
