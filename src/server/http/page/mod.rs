//! The pages for browsers: inside the binary, without anything from other hosts.
//!
//! The page at `/` of the levels gateway uses `/weirgate.js`, the same client as for users ([`ClientModule::Levels`]).
//! At the other gateways, a browser that opens `/` or the path of the WebSocket gets a short page ([`FrontPage`]): what
//! the gateway is, and what to do next. Other clients get the response of the contract at these paths.

mod front;

pub use front::FrontPage;

use super::client_modules::ClientModule;
use super::files::{self, File};
use super::site::Route;

const INDEX: File = File::new("/", include_str!("index.html"));

const FILES: [File; 9] = [
    File::new("/page/page.css", include_str!("page.css")),
    File::new("/page/main.js", include_str!("main.js")),
    File::new("/page/values.js", include_str!("values.js")),
    File::new("/page/ladder.js", include_str!("ladder.js")),
    File::new("/page/flow.js", include_str!("flow.js")),
    File::new("/page/predictions.js", include_str!("predictions.js")),
    File::new("/page/relays.js", include_str!("relays.js")),
    File::new("/page/server.js", include_str!("server.js")),
    File::new("/page/slow.js", include_str!("slow.js")),
];

/// What the page of levels shows and offers beside the feed.
#[derive(Clone, Copy, Debug)]
pub struct PageParts {
    /// `/ready`, `/stats` and `/metrics` are at the same address, so the page links to them.
    pub has_status: bool,
    /// The demo's slow line is there, so the page has the card that slows its own connection.
    pub has_slow_line: bool,
}

impl PageParts {
    /// Returns a route for each file, the client included.
    pub fn routes(self) -> Vec<Route> {
        let mut routes = files::routes([index(self)]);
        routes.extend(files::routes(FILES));
        routes.extend(ClientModule::Levels.routes());
        routes
    }
}

/// Returns the page without the parts for which this gateway has nothing.
fn index(parts: PageParts) -> File {
    let mut text = INDEX.text;
    if !parts.has_status {
        text = without(&text, r#"<span id="operators">"#, "</span>").into();
    }
    if !parts.has_slow_line {
        text = without(&text, r#"<section class="card" id="slow""#, "</section>").into();
    }
    File { text, ..INDEX }
}

/// Returns the text without its first part from `begin` to the next `end`.
fn without(text: &str, begin: &str, end: &str) -> String {
    let (before, rest) = text.split_once(begin).unwrap_or((text, ""));
    let after = rest.split_once(end).map_or("", |(_, after)| after);
    [before, after].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::files::tests::ask;
    use hyper::header;

    #[test]
    fn the_page_may_load_and_reach_its_own_origin_only() {
        let answer = ask(&INDEX, &[]);
        let policy = answer.headers[header::CONTENT_SECURITY_POLICY].to_str();
        assert!(!policy.unwrap().contains("unsafe"));
        for file in FILES.iter().chain(&[INDEX]) {
            for elsewhere in ["http://", "https://", "<style", "style=\"", "innerHTML"] {
                let svg = file.text.replace("http://www.w3.org/2000/svg", "");
                assert!(!svg.contains(elsewhere), "{} has {elsewhere}", file.path);
            }
        }
    }

    #[test]
    fn the_page_has_no_link_to_what_its_address_has_not() {
        let page = |has| {
            let parts = PageParts {
                has_status: has,
                has_slow_line: has,
            };
            index(parts).text
        };
        let (all, some) = (page(true), page(false));
        assert!(all.contains("id=\"slow\"") && !some.contains("slow-"));
        for status in ["ready", "stats", "metrics"] {
            let link = format!("<a href=\"{status}\">");
            assert!(all.contains(&link) && !some.contains(&link), "{status}");
        }
        let footer =
            r#"<a href="health">health</a> · <a href="weirgate.js">weirgate.js</a></footer>"#;
        assert!(some.contains(footer) && some.ends_with("</html>\n"));
    }
}
