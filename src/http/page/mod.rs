//! The page at `/` and its files: inside the binary, nothing from other hosts.
//!
//! The page uses `/weirgate.js`, the same client as for users ([`ClientModule::Levels`]). Called by `kinds`,
//! for the gateways with a page.

use super::files::{self, ClientModule, File};
use super::site::Route;

static FILES: [File; 10] = [
    File::html("/", include_str!("index.html")),
    File::css("/page/page.css", include_str!("page.css")),
    File::script("/page/main.js", include_str!("main.js")),
    File::script("/page/values.js", include_str!("values.js")),
    File::script("/page/ladder.js", include_str!("ladder.js")),
    File::script("/page/flow.js", include_str!("flow.js")),
    File::script("/page/predictions.js", include_str!("predictions.js")),
    File::script("/page/relays.js", include_str!("relays.js")),
    File::script("/page/server.js", include_str!("server.js")),
    File::script("/page/slow.js", include_str!("slow.js")),
];

/// Returns a route for each file, the client included.
pub fn routes() -> Vec<Route> {
    let mut routes = files::routes(&FILES);
    routes.extend(files::client_routes(ClientModule::Levels));
    routes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::files::tests::ask;
    use crate::http::header;

    #[test]
    fn the_page_may_load_and_reach_its_own_origin_only() {
        let answer = ask(&FILES[0], None);
        let policy = answer.headers[header::CONTENT_SECURITY_POLICY].to_str();
        assert!(!policy.unwrap().contains("unsafe"));
        for file in &FILES {
            for elsewhere in ["http://", "https://", "<style", "style=\"", "innerHTML"] {
                let svg = file.text.replace("http://www.w3.org/2000/svg", "");
                assert!(!svg.contains(elsewhere), "{} has {elsewhere}", file.path);
            }
        }
    }
}
