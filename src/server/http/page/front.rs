//! The short page of a gateway for a browser that opens `/` or the path of the WebSocket.

use std::fmt::Write as _;

use hyper::header::{self, ACCEPT, HOST, HeaderName};
use hyper::{Method, StatusCode};
use mediatype::{MediaTypeList, names};

use crate::http::metrics_format::quality;
use crate::http::site::{Answer, RequestParts};

/// Allows no scripts and nothing from other hosts; the style is in the page.
const POLICY: &str = "default-src 'none'; style-src data:; img-src data:; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

/// Colours are the browser's, light or dark.
const STYLE: &str = "data:text/css,main{max-width:44rem;margin:3rem auto;padding:0 1rem;\
    font:16px/1.6 system-ui,sans-serif}code{font-size:.95em;overflow-wrap:anywhere}li{margin:.5rem 0}";

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The page for a person who opens the address of a gateway in a browser.
#[derive(Clone, Copy, Debug)]
pub struct FrontPage {
    /// The name of the gateway.
    pub gateway: &'static str,
    /// The path of the WebSocket; the page is here and at `/`.
    pub path: &'static str,
    /// The status that the contract has for these paths.
    pub status: StatusCode,
    /// The path of the client file.
    pub client: &'static str,
    /// The arguments of `weirgate tail` after the URL.
    pub tail: &'static str,
    /// The documents of the repository that the page names.
    pub documents: &'static [&'static str],
}

impl FrontPage {
    /// Returns the page if a browser asks for one at these paths.
    pub(in crate::http) fn answer(&self, request: &RequestParts) -> Option<Answer> {
        let is_read = [Method::GET, Method::HEAD].contains(&request.head.method);
        let is_here = ["/", self.path].contains(&request.path());
        if !is_read || !is_here || !asks_html(request) {
            return None;
        }
        let page = self.page(request);
        let answer = Answer::new(self.status, "text/html; charset=utf-8", page);
        Some(answer.no_store().with_all([
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::VARY, "Accept"),
        ]))
    }

    /// Returns the page, with the address by which the browser has reached the gateway, or rather the proxy in front of
    /// it.
    fn page(&self, request: &RequestParts) -> String {
        let Self {
            gateway,
            path,
            client,
            tail,
            ..
        } = self;
        let is_https = request.is_tls || request.header(&X_FORWARDED_PROTO) == Some("https");
        let secure = if is_https { "s" } else { "" };
        let host = escaped(request.header(&HOST).unwrap_or("HOST"));
        let url = format!("ws{secure}://{host}{path}");
        let mut documents = String::new();
        for document in self.documents {
            // Writing to a `String` cannot fail.
            let _ = write!(documents, " <code>{document}</code>");
        }
        format!(
            r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>weirgate {gateway}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{STYLE}">
</head>
<body>
<main>
<h1>weirgate {gateway}</h1>
<p>The gateway is running. Connect a WebSocket to <code>{url}</code></p>
<ul>
<li>In a terminal: <code>weirgate tail {url} {tail}</code></li>
<li>In a web page: the client <a href="{client}">{client}</a></li>
<li>Health check: <a href="/health">/health</a></li>
<li>Documents, in the source and below <code>/usr/share/doc/weirgate</code> of a package:{documents}</li>
</ul>
</main>
</body>
</html>
"#
        )
    }
}

/// Whether `Accept` names `text/html` (RFC 9110 §12.5.1). A wildcard is not enough: `curl` sends one.
fn asks_html(request: &RequestParts) -> bool {
    let values = request.header_values(&ACCEPT);
    let mut ranges = values.flat_map(MediaTypeList::new).flatten();
    ranges.any(|range| range.ty == names::TEXT && range.subty == names::HTML && quality(&range) > 0)
}

/// Escapes text for HTML, for content and for attributes.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    const PAGE: FrontPage = FrontPage {
        gateway: "channels",
        path: "/ws",
        status: StatusCode::NOT_FOUND,
        client: "/channels.js",
        tail: "--subscribe NAME",
        documents: &["docs/a.md", "docs/b.md"],
    };
    const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

    fn front(method: &str, path: &str, headers: &[(&str, &str)]) -> Option<Answer> {
        let request = Request::builder().method(method).uri(path);
        let request = headers.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        let (head, ()) = request.body(()).unwrap().into_parts();
        PAGE.answer(&RequestParts::of_this_machine(head))
    }

    #[test]
    fn a_browser_gets_the_page_and_nobody_else() {
        for (method, path, accept, want) in [
            ("GET", "/", BROWSER, true),
            ("HEAD", "/", BROWSER, true),
            ("GET", "/ws?token=x", "TEXT/HTML", true),
            ("POST", "/", BROWSER, false),
            ("GET", "/other", BROWSER, false),
            ("GET", "/", "*/*", false),
            ("GET", "/", "text/*", false),
            ("GET", "/", "text/html;q=0, */*", false),
            ("GET", "/", "application/json", false),
            ("GET", "/", "nonsense;;,", false),
        ] {
            let got = front(method, path, &[("accept", accept)]).is_some();
            assert_eq!(got, want, "{method} {path} {accept}");
        }
        assert!(front("GET", "/", &[]).is_none());
    }

    #[test]
    fn the_page_names_the_address_and_is_safe_from_the_host() {
        let html = |headers: &[(&str, &str)]| {
            let answer = front("GET", "/", &[&[("accept", BROWSER)], headers].concat());
            let answer = answer.expect("the page");
            assert_eq!(answer.status, StatusCode::NOT_FOUND);
            String::from_utf8(answer.body.to_vec()).expect("UTF-8")
        };
        let page = html(&[("host", "example.com:8889")]);
        assert!(
            page.contains("<code>ws://example.com:8889/ws</code>"),
            "{page}"
        );
        assert!(page.contains("weirgate tail ws://example.com:8889/ws --subscribe NAME"));
        let behind_tls = html(&[("host", "h"), ("x-forwarded-proto", "https")]);
        assert!(
            behind_tls.contains("<code>wss://h/ws</code>"),
            "{behind_tls}"
        );
        let hostile = html(&[("host", "\"><script>&'")]);
        assert!(
            hostile.contains("&quot;&gt;&lt;script&gt;&amp;&#39;"),
            "{hostile}"
        );
        for page in [page, behind_tls, hostile] {
            for elsewhere in ["http:", "https:", "<script", "<style", "style=\""] {
                assert!(!page.contains(elsewhere), "{elsewhere}: {page}");
            }
        }
    }
}
