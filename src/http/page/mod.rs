//! The page at `/` and its files: inside the binary, nothing from other hosts.
//!
//! The page uses `/weirgate.js`, the same client as for users ([`ClientModule::Levels`]). Called by `kinds`,
//! for the gateways with a page.

use std::borrow::Cow;

use super::files::{self, ClientModule, File, client_routes};
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

/// Returns a route for each file, the client included. `has_status`: the address has `/ready`, `/stats` and
/// `/metrics`, to which the page then has links.
pub fn routes(has_status: bool) -> Vec<Route> {
    let mut routes = files::routes([index(has_status)]);
    routes.extend(files::routes(FILES));
    routes.extend(client_routes(ClientModule::Levels));
    routes
}

fn index(has_status: bool) -> File {
    match INDEX.text.split_once(r#"<span id="operators">"#) {
        Some((before, links)) if !has_status => {
            let after = links.split_once("</span>").map_or("", |(_, after)| after);
            let text = Cow::Owned([before, after].concat());
            File { text, ..INDEX }
        }
        _ => INDEX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::files::tests::ask;
    use crate::http::header;

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
        let (all, some) = (index(true).text, index(false).text);
        for status in ["ready", "stats", "metrics"] {
            let link = format!("<a href=\"{status}\">");
            assert!(all.contains(&link) && !some.contains(&link), "{status}");
        }
        let footer =
            r#"<a href="health">health</a> · <a href="weirgate.js">weirgate.js</a></footer>"#;
        assert!(some.contains(footer) && some.ends_with("</html>\n"));
    }
}
