//! The browser clients: the script and the types of each gateway's client. `scripts/serve_clients.mjs` makes a script of the
//! modules of `clients/js`.

use std::borrow::Cow;

use super::files::{File, routes};
use super::site::Route;

/// The browser client of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientModule {
    /// `/weirgate.js`.
    Levels,
    /// `/trades.js`.
    Trades,
    /// `/channels.js`.
    Channels,
    /// `/events.js`.
    Events,
}

/// Script and types of a client: the script as `make served` has made it, and the declarations of its modules. A module
/// comes after those that it imports.
macro_rules! client {
    ($name:literal $(, $before:literal)*) => {
        [
            File::new(
                concat!("/", $name, ".js"),
                include_str!(concat!("../../../clients/js/served/", $name, ".js")),
            ),
            File {
                path: concat!("/", $name, ".d.ts"),
                text: joined(concat!(
                    $(include_str!(concat!("../../../clients/js/", $before, ".d.ts")),)*
                    include_str!(concat!("../../../clients/js/", $name, ".d.ts")),
                )),
            },
        ]
    };
}

/// The files of a gateway's client, and of the event stream, which any client can use in place of a WebSocket.
fn files_of(client: ClientModule) -> Vec<File> {
    let own = match client {
        ClientModule::Levels => client!("weirgate"),
        ClientModule::Trades => client!("trades", "weirgate", "session", "subscriber"),
        ClientModule::Channels => client!("channels", "weirgate", "session", "subscriber"),
        ClientModule::Events => client!("events", "weirgate", "session"),
    };
    own.into_iter().chain(client!("event-stream")).collect()
}

/// Declarations of several modules as those of one: without imports and re-exports, because the modules before declare
/// these names. An import is a single line, and no two modules declare the same name at the top level.
fn joined(declarations: &str) -> Cow<'static, str> {
    let lines = declarations.split_inclusive('\n');
    let is_gone = |line: &&str| line.starts_with("import ") || line.starts_with("export { ");
    Cow::Owned(lines.filter(|line| !is_gone(line)).collect())
}

impl ClientModule {
    /// Returns a route for each file of the client.
    pub fn routes(self) -> Vec<Route> {
        routes(files_of(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_one_file_with_its_types() {
        for (client, name) in [
            (ClientModule::Levels, "Levels"),
            (ClientModule::Trades, "Trades"),
            (ClientModule::Channels, "Channels"),
            (ClientModule::Events, "Devices"),
        ] {
            let files = files_of(client);
            assert_eq!(files.len(), 4);
            for file in &files[..2] {
                let class = format!("export class {name}");
                assert_eq!(file.text.matches(&class).count(), 1, "{}", file.path);
            }
            for file in files {
                assert!(!file.text.contains(" from \"./"), "{}", file.path);
                assert_eq!(file.text.contains("/**"), file.path.ends_with(".d.ts"));
            }
        }
    }
}
