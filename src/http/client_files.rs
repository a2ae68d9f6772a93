//! The browser clients, each served by the gateway that the client is for: the very files of
//! `clients/js`, with their types.

use super::files::{self, File};
use super::site::Route;

/// The client of one gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientModule {
    /// `/weirgate.js`, which is also a part of the others.
    Levels,
    /// `/trades.js`.
    Trades,
    /// `/channels.js`.
    Channels,
    /// `/events.js`.
    Events,
}

/// For people and compilers; no browser runs such a file.
const TYPES: &str = "text/plain; charset=utf-8";

const fn types(path: &'static str, text: &'static str) -> File {
    File {
        path,
        content_type: TYPES,
        text,
    }
}

// Each with its types.
static CORE: [File; 2] = [
    File::script("/weirgate.js", include_str!("../../clients/js/weirgate.js")),
    types(
        "/weirgate.d.ts",
        include_str!("../../clients/js/weirgate.d.ts"),
    ),
];
static SESSION: [File; 2] = [
    File::script("/session.js", include_str!("../../clients/js/session.js")),
    types(
        "/session.d.ts",
        include_str!("../../clients/js/session.d.ts"),
    ),
];
static TRADES: [File; 2] = [
    File::script("/trades.js", include_str!("../../clients/js/trades.js")),
    types("/trades.d.ts", include_str!("../../clients/js/trades.d.ts")),
];
static CHANNELS: [File; 2] = [
    File::script("/channels.js", include_str!("../../clients/js/channels.js")),
    types(
        "/channels.d.ts",
        include_str!("../../clients/js/channels.d.ts"),
    ),
];
static EVENTS: [File; 2] = [
    File::script("/events.js", include_str!("../../clients/js/events.js")),
    types("/events.d.ts", include_str!("../../clients/js/events.d.ts")),
];

static EVENT_STREAM: [File; 2] = [
    File::script(
        "/event-stream.js",
        include_str!("../../clients/js/event-stream.js"),
    ),
    types(
        "/event-stream.d.ts",
        include_str!("../../clients/js/event-stream.d.ts"),
    ),
];

/// The files of a client: its module and those that the module imports, and the event stream that any
/// client may use in place of a WebSocket.
fn files(client: ClientModule) -> impl Iterator<Item = &'static File> {
    let own = match client {
        ClientModule::Levels => None,
        ClientModule::Trades => Some(&TRADES),
        ClientModule::Channels => Some(&CHANNELS),
        ClientModule::Events => Some(&EVENTS),
    };
    let session = own.map(|_| &SESSION);
    let all = [Some(&CORE), session, own, Some(&EVENT_STREAM)];
    all.into_iter().flatten().flatten()
}

/// A route for each file of a client.
pub fn routes(client: ClientModule) -> Vec<Route> {
    files(client).map(files::route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_imports_is_served_beside_it() {
        for client in [
            ClientModule::Levels,
            ClientModule::Trades,
            ClientModule::Channels,
            ClientModule::Events,
        ] {
            let paths: Vec<_> = files(client).map(|file| file.path).collect();
            for file in files(client) {
                for from in file.text.split(" from \"./").skip(1) {
                    let name = from.split('"').next().expect("a name");
                    let path = format!("/{name}");
                    assert!(paths.contains(&&*path), "{} imports {path}", file.path);
                    let typed = path.replace(".js", ".d.ts");
                    assert!(paths.contains(&&*typed), "{path} without types");
                }
            }
        }
    }
}
