//! The origins whose pages may connect (RFC 6454). Whole origins are compared, never parts.

use crate::head::RequestHead;

/// The allowed origins, as browsers write them in `Origin`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    /// If empty, all origins are allowed.
    allowed: Vec<String>,
}

impl Origins {
    /// Allows all origins.
    pub fn any() -> &'static Self {
        static ANY: Origins = Origins {
            allowed: Vec::new(),
        };
        &ANY
    }

    /// Allows these origins (`https://example.com`, without a path); an empty list allows all.
    pub fn new(allowed: impl IntoIterator<Item = String>) -> Self {
        let tidy = |origin: String| origin.trim_end_matches('/').to_ascii_lowercase();
        Self {
            allowed: allowed.into_iter().map(tidy).collect(),
        }
    }

    /// Whether the request comes from a page of an allowed origin, or from a program other than a browser: these may
    /// always connect.
    pub fn allow(&self, head: &RequestHead<'_>) -> bool {
        match head.header("Origin") {
            _ if self.allowed.is_empty() => true,
            Some(origin) => self.has(origin),
            // Browsers send `Origin` with every upgrade (RFC 6455 §4.1).
            None => head.asks_upgrade() || self.allow_without_origin(head),
        }
    }

    /// Whether a request without `Origin` may be from an allowed page, or from no page. Browsers leave the header out
    /// of a `GET` to the page's own origin, and out of a `GET` whose response the page will not read (Fetch standard,
    /// "append a request `Origin` header"). A page of another origin can use the latter only for a side effect, so it
    /// is refused.
    fn allow_without_origin(&self, head: &RequestHead<'_>) -> bool {
        if head.header("Sec-Fetch-Mode") == Some("no-cors") {
            return false;
        }
        match (head.header("Sec-Fetch-Site"), head.header("Referer")) {
            // Browsers send this header only over `https:` and to their own machine, where a page cannot reach the
            // server by another name (DNS rebinding). So the page's own origin is allowed.
            (Some(site), _) => ["same-origin", "none"].contains(&site),
            // Plain `http:` to another machine, or an old browser.
            (None, Some(referer)) => self.has(origin_of(referer)),
            // A page can make its browser leave out `Referer`, but it cannot change `User-Agent`.
            (None, None) => !is_browser(head.header("User-Agent").unwrap_or_default()),
        }
    }

    fn has(&self, origin: &str) -> bool {
        self.allowed
            .iter()
            .any(|allowed| allowed.eq_ignore_ascii_case(origin))
    }
}

/// Scheme, host and port of a URL.
fn origin_of(url: &str) -> &str {
    let host_at = url.find("://").map_or(0, |at| at + "://".len());
    let host_len = url[host_at..].find(['/', '?', '#']);
    host_len.map_or(url, |len| &url[..host_at + len])
}

/// Whether the program is a browser: for historical reasons, all browsers begin with this word.
fn is_browser(user_agent: &str) -> bool {
    user_agent.starts_with("Mozilla/")
}

#[cfg(test)]
mod tests {
    use super::Origins;
    use crate::head::RequestHead;

    const GET: &str = "Accept: text/event-stream\r\n";
    const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    const BROWSER: &str = "User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n";

    fn listed() -> Origins {
        Origins::new([
            "https://good.example".to_owned(),
            "http://a:8080/".to_owned(),
        ])
    }

    fn allows(origins: &Origins, lines: &str) -> bool {
        let request = format!("GET /ws HTTP/1.1\r\nHost: a:8080\r\n{lines}\r\n");
        origins.allow(&RequestHead::parse(request.as_bytes(), 100).expect("a good head"))
    }

    #[test]
    fn only_the_whole_origin_counts() {
        let allows = |origin: &str, more: &str| {
            let lines = format!("Origin: {origin}\r\n{more}");
            allows(&listed(), &lines)
        };
        for more in [GET, UPGRADE] {
            assert!(allows("https://GOOD.example", more));
            assert!(allows("http://a:8080", more));
            for bad in [
                "http://good.example",
                "https://good.example.evil",
                "https://xgood.example",
                "null",
                "",
            ] {
                assert!(!allows(bad, more), "{bad}");
            }
        }
        // Other headers of the browser change nothing.
        assert!(!allows(
            "https://evil.example",
            "Sec-Fetch-Site: same-origin\r\n"
        ));
        assert!(allows(
            "https://good.example",
            "Sec-Fetch-Site: cross-site\r\n"
        ));
    }

    #[test]
    fn a_program_needs_no_origin() {
        for lines in [
            "",
            GET,
            "User-Agent: curl/8.5.0\r\n",
            // Node's fetch.
            "User-Agent: node\r\nSec-Fetch-Mode: cors\r\n",
        ] {
            assert!(allows(&listed(), lines), "{lines}");
        }
        assert!(allows(&listed(), &format!("{UPGRADE}{BROWSER}")));
    }

    #[test]
    fn a_get_without_origin_may_come_from_the_same_origin_and_no_other() {
        let allows = |lines: &str| allows(&listed(), &format!("{BROWSER}{lines}"));
        assert!(allows(
            "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\n"
        ));
        assert!(allows("Sec-Fetch-Site: none\r\n"));
        for site in ["cross-site", "same-site", "", "Same-Origin, cross-site"] {
            for more in [
                "",
                "Sec-Fetch-Mode: no-cors\r\n",
                "Referer: http://a:8080/\r\n",
            ] {
                let lines = format!("Sec-Fetch-Site: {site}\r\n{more}");
                assert!(!allows(&lines), "{lines}");
            }
        }
        for mode in [
            "Sec-Fetch-Site: same-origin\r\n",
            "Referer: http://a:8080/\r\n",
            "",
        ] {
            assert!(
                !allows(&format!("Sec-Fetch-Mode: no-cors\r\n{mode}")),
                "{mode}"
            );
        }
    }

    #[test]
    fn where_browsers_name_no_site_the_referer_does() {
        let allows = |referer: &str| {
            let lines = format!("{BROWSER}Referer: {referer}\r\n");
            allows(&listed(), &lines)
        };
        for good in [
            "http://a:8080/",
            "http://A:8080/page?x=http://b/#c",
            "https://good.example",
            "https://good.example?x",
        ] {
            assert!(allows(good), "{good}");
        }
        // After DNS rebinding, `Host` also has the attacker's name.
        for bad in [
            "http://evil.example/?http://a:8080/",
            "http://evil.example/http://a:8080",
            "http://a/",
            "http://a:8080.evil.example/",
            "http://a:8080@evil.example/",
            "about:client",
            "",
        ] {
            assert!(!allows(bad), "{bad}");
        }
    }

    #[test]
    fn a_page_that_hides_its_name_is_refused() {
        assert!(!allows(&listed(), BROWSER));
        assert!(!allows(
            &listed(),
            &format!("{BROWSER}{GET}Cookie: a=b\r\n")
        ));
    }

    #[test]
    fn without_a_list_everyone_may_come() {
        let any = Origins::default();
        assert!(allows(&any, "Origin: http://anything\r\n"));
        let hidden = format!("{BROWSER}Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n");
        assert!(allows(&any, &hidden));
    }
}
