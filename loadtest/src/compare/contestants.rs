//! The contestants: the limits and the servers, each on a bus of its own. A message therefore
//! wakes only the measured server; the others are up but idle, or, with `--solo`, not started.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use rustls::ClientConfig;
use serde::Serialize;

use super::relayed::Relayed;
use super::{CompareArgs, Limits};
use crate::fault::Fault;
use crate::launch::Program;
use crate::publish::Publisher;
use crate::tls;
use crate::wire::deflate::Window;

/// The part of a contestant in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Role {
    /// A send for each client and message.
    Limit,
    /// A send for each client and turn, with all frames of the turn.
    CoalescingLimit,
    /// One thread for the bus and the clients; sends all frames of a turn at once.
    RawLimit,
    /// The coalescing limit, beside the raw limit.
    Floor,
    /// A second instance of the reference limit.
    LimitAgain,
    /// A server under test.
    Server,
}

/// A program that is measured.
pub(super) struct Contestant {
    pub(super) name: String,
    pub(super) role: Role,
    /// The command line; empty for a limit.
    pub(super) command: String,
    /// The programs; `None` while another contestant is alone.
    pub(super) running: Option<Running>,
    /// The compression offer of the clients.
    pub(super) deflate: Option<Window>,
    /// The TLS of the clients; `None` for plain clients.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// What a client sends once open, of `--send`.
    pub(super) first_text: Option<String>,
    /// The path of its WebSocket, of `--path-of`.
    pub(super) path: Option<String>,
    /// Number of the next message; the numbers continue from part to part.
    pub(super) next_n: u64,
}

/// The programs of a contestant. Dropped in this order.
pub(super) struct Running {
    pub(super) publisher: Publisher,
    pub(super) program: Program,
    pub(super) bus: Program,
}

impl Contestant {
    fn new(args: &CompareArgs, role: Role, name: String, command: &str) -> Result<Self, Fault> {
        let (is_tls, flag) = match role {
            Role::Server => (args.tls.contains(&name), "--tls"),
            _ => (args.limit_tls, "--limit-tls"),
        };
        Ok(Self {
            role,
            command: command.to_owned(),
            running: None,
            deflate: args.deflate.deflate.filter(|_| !args.plain.contains(&name)),
            tls: tls::wanted(is_tls, flag, args.ca_file.as_deref())?,
            first_text: ServerText::of(&args.send, &name),
            path: ServerText::of(&args.path_of, &name),
            name,
            next_n: 1,
        })
    }

    /// The programs, started if not running.
    pub(super) fn running(
        &mut self,
        args: &CompareArgs,
        relayed: &Relayed,
    ) -> Result<&mut Running, Fault> {
        let running = match self.running.take() {
            Some(running) => running,
            None => self.start(args, relayed)?,
        };
        Ok(self.running.insert(running))
    }

    /// The publisher of a running contestant.
    pub(super) fn publisher(&mut self) -> Result<&mut Publisher, Fault> {
        let running = self.running.as_mut();
        let publisher = running.map(|running| &mut running.publisher);
        publisher.ok_or_else(|| Fault::Server(format!("{} does not run", self.name)))
    }

    /// The address for the clients of a running contestant.
    pub(super) fn addr(&self) -> Result<SocketAddr, Fault> {
        let addr = self.running.as_ref().map(|running| running.program.addr);
        addr.ok_or_else(|| Fault::Server(format!("{} does not run", self.name)))
    }

    fn start(&self, args: &CompareArgs, relayed: &Relayed) -> Result<Running, Fault> {
        let (bus, url) = relayed.start_bus()?;
        let limit = |threads, batched| relayed.limit(&url, threads, batched, args.limit_tls);
        let program = match self.role {
            Role::Server => relayed.server(&self.command, &url)?,
            Role::Limit => limit(2, false)?,
            Role::CoalescingLimit | Role::Floor => limit(2, true)?,
            Role::RawLimit => limit(1, true)?,
            Role::LimitAgain => match args.base() {
                Some(Role::RawLimit) => limit(1, true)?,
                base => limit(2, base == Some(Role::CoalescingLimit))?,
            },
        };
        if args.pin {
            program.family()?.pin(0)?;
            bus.family()?.pin(1)?;
        }
        let bytes = args.bytes.first().copied().unwrap_or_default();
        Ok(Running {
            publisher: relayed
                .publisher(&url, bytes)?
                .changing(args.changed)
                .waking_up(args.wake_up_us),
            program,
            bus,
        })
    }
}

impl CompareArgs {
    /// The reference limit of the table's ratios; `None` without limits.
    pub(super) fn base(&self) -> Option<Role> {
        match self.limits {
            Limits::None => None,
            Limits::Coalescing => Some(Role::CoalescingLimit),
            Limits::Both if self.limit_batched => Some(Role::CoalescingLimit),
            Limits::Both | Limits::Raw => Some(Role::Limit),
            Limits::Threads => Some(Role::RawLimit),
        }
    }

    fn limits(&self) -> &'static [Role] {
        match self.limits {
            Limits::Both => &[Role::Limit, Role::CoalescingLimit],
            Limits::Raw => &[Role::Limit],
            Limits::Coalescing => &[Role::CoalescingLimit],
            Limits::Threads => &[Role::RawLimit, Role::Floor],
            Limits::None => &[],
        }
    }

    /// The name of a limit. A limit over TLS says so: figures of the two kinds are not a pair.
    fn limit_name(&self, role: Role) -> String {
        let limit = if self.limit_tls { "TLS limit" } else { "limit" };
        match role {
            Role::CoalescingLimit => format!("coalescing {limit}"),
            Role::LimitAgain => format!("{limit} again"),
            Role::RawLimit => format!("raw {limit}"),
            Role::Floor if self.limit_tls => "TLS floor".into(),
            Role::Floor => "floor".into(),
            Role::Limit | Role::Server => limit.into(),
        }
    }
}

/// All contestants, without programs: the limits first, then the servers in the given order.
pub(super) fn all(args: &CompareArgs) -> Result<Vec<Contestant>, Fault> {
    if matches!(args.limits, Limits::Raw | Limits::Threads) && args.limit_batched {
        return Err(Fault::Usage(
            "--limit-batched needs the coalescing limit: --limits both".into(),
        ));
    }
    if (args.aa || args.limit_tls) && args.base().is_none() {
        return Err(Fault::Usage("--aa and --limit-tls need a limit".into()));
    }
    if args.limit_tls {
        tls::server_files()?;
    }
    let mut all: Vec<(Role, String, &str)> = Vec::new();
    for role in args.limits() {
        all.push((*role, args.limit_name(*role), ""));
    }
    if args.aa {
        all.push((Role::LimitAgain, args.limit_name(Role::LimitAgain), ""));
    }
    let taken = all.iter().map(|(_, name, _)| name.clone()).collect();
    let names = names(&args.server, taken)?;
    let named = |texts: &[ServerText]| texts.iter().map(|text| text.name.clone()).collect();
    let (sends, paths) = (named(&args.send), named(&args.path_of));
    for (flag, wanted) in [
        ("plain", &args.plain),
        ("tls", &args.tls),
        ("send", &sends),
        ("path-of", &paths),
    ] {
        if let Some(unknown) = wanted.iter().find(|name| !names.contains(name)) {
            return Err(Fault::Usage(format!(
                "--{flag} {unknown}: no server is called so"
            )));
        }
    }
    let servers = names.into_iter().zip(&args.server);
    all.extend(servers.map(|(name, server)| (Role::Server, name, server.command.as_str())));
    let new = |(role, name, command)| Contestant::new(args, role, name, command);
    all.into_iter().map(new).collect()
}

/// `NAME=TEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerText {
    name: String,
    text: String,
}

impl ServerText {
    /// The text of the server with this name.
    fn of(texts: &[Self], name: &str) -> Option<String> {
        let of_this = texts.iter().find(|text| text.name == name);
        of_this.map(|text| text.text.clone())
    }
}

impl FromStr for ServerText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, text) = text.split_once('=').ok_or("expected NAME=TEXT")?;
        Ok(Self {
            name: name.to_owned(),
            text: text.replace("\\r", "\r").replace("\\n", "\n"),
        })
    }
}

/// `[NAME=]COMMAND`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerCommand {
    name: Option<String>,
    pub(crate) command: String,
}

impl FromStr for ServerCommand {
    type Err = String;

    /// Parses a server. A name has no space, slash or quote, so an `=` inside a command ends no name.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let in_name = |c: char| c.is_alphanumeric() || "._-+".contains(c);
        let named = text
            .split_once('=')
            .filter(|(name, _)| name.chars().all(in_name));
        let (name, command) = named.map_or((None, text), |(name, command)| (Some(name), command));
        if name == Some("") || command.trim().is_empty() {
            return Err("expected COMMAND or NAME=COMMAND".into());
        }
        Ok(Self {
            name: name.map(Into::into),
            command: command.trim().to_owned(),
        })
    }
}

impl ServerCommand {
    /// The file name of the program.
    fn program(&self) -> String {
        let word = self.command.split_whitespace().next().unwrap_or_default();
        let name = Path::new(word).file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

/// Names all servers. A server without a name gets the name of the program, numbered if taken.
fn names(servers: &[ServerCommand], mut taken: BTreeSet<String>) -> Result<Vec<String>, Fault> {
    for name in servers.iter().filter_map(|server| server.name.as_ref()) {
        if !taken.insert(name.clone()) {
            return Err(Fault::Usage(format!("two servers are called {name}")));
        }
    }
    let name = |server: &ServerCommand| {
        if let Some(name) = &server.name {
            return name.clone();
        }
        let program = server.program();
        let numbered = (2..).map(|number| format!("{program} {number}"));
        let mut free = std::iter::once(program.clone()).chain(numbered);
        // The numbers have no end, so a free name is always found.
        free.find(|name| taken.insert(name.clone()))
            .unwrap_or_default()
    };
    Ok(servers.iter().map(name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(texts: &[&str]) -> Result<Vec<String>, Fault> {
        let servers: Vec<ServerCommand> = texts.iter().map(|text| text.parse().unwrap()).collect();
        names(&servers, BTreeSet::from(["limit".into()]))
    }

    #[test]
    fn a_name_is_told_from_the_equals_sign_of_a_command() {
        let parsed = |text: &str| text.parse::<ServerCommand>().map(|s| (s.name, s.command));
        let is = |name: Option<&str>, command: &str| Ok((name.map(Into::into), command.into()));
        assert_eq!(
            parsed("new=target/release/weirgate levels --seed=7"),
            is(Some("new"), "target/release/weirgate levels --seed=7")
        );
        for unnamed in ["weirgate levels --seed=7", "env A=b ./x", "./a=b", "'q'=x"] {
            assert_eq!(parsed(unnamed), is(None, unnamed), "{unnamed}");
        }
        for wrong in ["", "  ", "=x", "new=", "new= "] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn servers_without_a_name_are_told_apart() {
        let levels = "target/release/weirgate levels";
        assert_eq!(
            named(&[levels, "old=x y", levels, "./weirgate"]).unwrap(),
            ["weirgate", "old", "weirgate 2", "weirgate 3"]
        );
        assert_eq!(
            named(&[levels, "weirgate=x"]).unwrap(),
            ["weirgate 2", "weirgate"]
        );
        for wrong in [&["a=x", "a=y"][..], &["limit=x"]] {
            assert!(matches!(named(wrong), Err(Fault::Usage(_))), "{wrong:?}");
        }
    }
}
