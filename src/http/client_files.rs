//! The browser clients that gateways serve: each is one file, joined at the start from the modules of
//! `clients/js`, with its types beside it.

use super::files::{self, File};
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

/// A module of `clients/js`: script and types.
type Module = (&'static str, &'static str);

macro_rules! module {
    ($name:literal) => {
        (
            include_str!(concat!("../../clients/js/", $name, ".js")),
            include_str!(concat!("../../clients/js/", $name, ".d.ts")),
        )
    };
}

const WEIRGATE: Module = module!("weirgate");
const SESSION: Module = module!("session");
const SUBSCRIBER: Module = module!("subscriber");
const TRADES: Module = module!("trades");
const CHANNELS: Module = module!("channels");
const EVENTS: Module = module!("events");
const EVENT_STREAM: Module = module!("event-stream");

/// The paths of a script and its types, and the modules that both are made of: each module after the modules
/// that it imports.
type Client = ([&'static str; 2], &'static [Module]);

/// The files of a gateway: its client, and the event stream, usable by any client in place of a WebSocket.
fn files_of(client: ClientModule) -> Vec<File> {
    let own: Client = match client {
        ClientModule::Levels => (["/weirgate.js", "/weirgate.d.ts"], &[WEIRGATE]),
        ClientModule::Trades => (
            ["/trades.js", "/trades.d.ts"],
            &[WEIRGATE, SESSION, SUBSCRIBER, TRADES],
        ),
        ClientModule::Channels => (
            ["/channels.js", "/channels.d.ts"],
            &[WEIRGATE, SESSION, SUBSCRIBER, CHANNELS],
        ),
        ClientModule::Events => (["/events.js", "/events.d.ts"], &[WEIRGATE, SESSION, EVENTS]),
    };
    let event_stream: Client = (["/event-stream.js", "/event-stream.d.ts"], &[EVENT_STREAM]);
    let files = [own, event_stream].map(|([script, types], modules)| {
        let code = joined(modules.iter().map(|module| module.0));
        let declarations = joined(modules.iter().map(|module| module.1));
        [
            File::joined_script(script, without_comments(&code).into()),
            File::types(types, declarations.into()),
        ]
    });
    files.into_iter().flatten().collect()
}

/// Joins modules to one: what a module imports, or exports again, is in the modules before. All exports stay, so
/// that a page has `RequestError` from the same file. The clients' style makes this enough: an import is a line,
/// and no name of the top level is in two modules. The tests load each joined file.
fn joined(modules: impl Iterator<Item = &'static str>) -> String {
    let lines = modules.flat_map(|module| module.split_inclusive('\n'));
    let is_gone = |line: &&str| line.starts_with("import ") || line.starts_with("export { ");
    lines.filter(|line| !is_gone(line)).collect()
}

/// Leaves out lines that are only a comment: a fifth of the compressed file.
fn without_comments(code: &str) -> String {
    let mut is_in_block = false;
    let is_code = |line: &&str| {
        let text = line.trim();
        let is_comment = is_in_block || text.starts_with("/**") || text.starts_with("//");
        is_in_block = (is_in_block || text.starts_with("/**")) && !text.ends_with("*/");
        !is_comment
    };
    code.split_inclusive('\n').filter(is_code).collect()
}

/// Returns a route for each file of a client.
pub fn client_routes(client: ClientModule) -> Vec<Route> {
    files::routes(files_of(client))
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

    #[test]
    fn only_lines_of_comments_are_left_out() {
        let code =
            "// a\nlet a; // kept\n\n  /** b */\n  /**\n   * c\n   */\n  let url = \"//d\";\n";
        assert_eq!(
            without_comments(code),
            "let a; // kept\n\n  let url = \"//d\";\n"
        );
    }
}
