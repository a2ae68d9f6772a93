//! `weirgate disconnect`: `POST /operator/disconnect` at the admin addresses of running gateways.
//!
//! In a process of its own; no gateway uses this module. Called by `commands`.

use clap::{ArgMatches, Command};

use super::admin::{self, Admins, refused};
use super::program::{Exit, For, flag, show, value};
use crate::base::escaped;
use crate::run::Program;
use crate::settings::typed::Env;
use crate::wire::object_writer::ObjectWriter;

/// The path of the request.
const PATH: &str = "/operator/disconnect";

/// The conditions that choose connections, with their help.
const CONDITIONS: [(&str, &str, &str); 6] = [
    ("user", "USER", "The user, as the operator's page shows it"),
    ("jti", "ID", "The id of the token (jti)"),
    ("address", "IP", "The client's address"),
    ("role", "ROLE", "A role; alone, its clients may come back"),
    (
        "session",
        "SESSION",
        "One connection, as the operator's page shows it",
    ),
    (
        "token",
        "DIGEST",
        "A token, as an answer of this command shows it",
    ),
];

const AFTER: &str = "\
All conditions that are given have to hold. Until their tokens end, or until --until, those who were
cut off are refused: user, token or address, also at gateways where they have no connection.
Exit status: 0; 1 if a gateway has refused the request or did not answer; 2 without an address.";

/// `weirgate disconnect`, ready to run.
#[derive(Clone, Debug)]
pub struct DisconnectCommand {
    /// The gateways.
    at: Admins,
    /// The JSON object of the request.
    body: String,
}

/// The subcommand.
pub(super) fn command(program: &Program, made_for: For) -> Command {
    let name = program.name;
    let examples = format!(
        "Examples:\n  {name} disconnect --user ann 127.0.0.1:9100\n  {name} disconnect --role guest \
         http://a:9100 http://b:9100"
    );
    let until = value("until", "SECONDS", "Unix time at which the refusal ends");
    Command::new("disconnect")
        .about("Cut clients of running gateways off, and refuse them from then on")
        .after_help(format!("{examples}\n\n{AFTER}"))
        .args_override_self(true)
        .args(CONDITIONS.map(|(name, placeholder, help)| value(name, placeholder, help)))
        .arg(until.value_parser(clap::value_parser!(i64)))
        .args(admin::args(made_for))
}

/// `weirgate disconnect`, from its arguments.
///
/// # Errors
/// The error in the arguments, for the user.
pub(super) fn read(
    program: &Program,
    matches: &ArgMatches,
    env: &Env,
) -> Result<DisconnectCommand, Exit> {
    let at = Admins::read(program, matches, env, "disconnect --user ann", PATH)?;
    let mut body = ObjectWriter::new();
    let mut given = 0;
    for (name, _, _) in CONDITIONS {
        if let Some(text) = flag(matches, name) {
            body.string(name, &text);
            given += 1;
        }
    }
    if given == 0 {
        let names = CONDITIONS
            .map(|(name, _, _)| format!("--{name}"))
            .join(", ");
        return Err(Exit::wrong_use(&format!("nobody is chosen: use {names}")));
    }
    if let Some(until) = matches.get_one::<i64>("until") {
        body.raw("until", &until.to_string());
    }
    Ok(DisconnectCommand {
        at,
        body: body.finish(),
    })
}

impl DisconnectCommand {
    /// Asks each gateway, and prints a line for each.
    ///
    /// # Errors
    /// A gateway has refused the request, or did not answer.
    pub fn run(&self) -> Result<(), String> {
        let mut failed = 0;
        for target in &self.at.targets {
            let said = match self.at.ask(target, "POST", &self.body) {
                Ok((status @ (200 | 400 | 507), body)) => {
                    failed += usize::from(status != 200);
                    String::from_utf8_lossy(&body).into_owned()
                }
                other => {
                    failed += 1;
                    other.map_or_else(|error| error, |(status, _)| refused(PATH, status))
                }
            };
            show(&format!("{target}: {}", escaped(&said, &[])));
        }
        match failed {
            0 => Ok(()),
            _ => Err(format!(
                "{failed} of {} gateways did not take the request",
                self.at.targets.len()
            )),
        }
    }
}
