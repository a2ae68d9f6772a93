//! `weirgate completions` and `weirgate man`. Both are made from the command line, so they cannot name a flag that does
//! not exist.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use clap::builder::PossibleValuesParser;
use clap::{Arg, Command, ValueHint};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::args::{For, value};
use super::command;
use crate::commands::Program;
use weirgate_server::build_info::BuildInfo;

/// Shells with completions.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// The signals of gateways.
const SIGNALS: &[(&str, &str)] = &[
    (
        "SIGTERM, SIGINT",
        "Stop: close all clients as --drain-delay-ms, --drain-ms and --stop-timeout-ms say, then exit. \
         A second signal ends the process immediately.",
    ),
    (
        "SIGHUP",
        "Read again the files that the settings name: keys of tokens, the table of roles, the log \
         filter. No client is closed.",
    ),
];

const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "Help, a good check, or the end after a signal."),
    (
        "1",
        "A failure: the address is in use, or the health check failed.",
    ),
    ("2", "Wrong settings or wrong use."),
];

const ENVIRONMENT: &[(&str, &str)] = &[
    ("WEIRGATE_GATEWAY", "The command if none is given."),
    (
        "WEIRGATE_*",
        "Every setting: --log-format is WEIRGATE_LOG_FORMAT. Some settings have other names too, \
         shown as [env: ...]. Precedence, highest first: flag, [env: ...], WEIRGATE_*, default. An \
         empty value is unset.",
    ),
    (
        "NO_COLOR",
        "If set and not empty: no colours in a terminal.",
    ),
];

/// The subcommand `completions`.
pub(super) fn completions_command() -> Command {
    let shells = SHELLS.map(|shell| shell.to_string());
    let shell = Arg::new("shell")
        .value_name("SHELL")
        .help("The shell")
        .required(true);
    Command::new("completions")
        .about("Write completions for a shell to standard output: bash, zsh or fish")
        .arg(shell.value_parser(PossibleValuesParser::new(shells)))
}

/// The subcommand `man`.
pub(super) fn man_command(program: &Program) -> Command {
    let name = program.name;
    let help = format!("{name}, or a command: levels is {name}-levels(1)");
    let page = Arg::new("page").value_name("PAGE").default_value(name);
    let dir = "Write all pages into this directory, and make the directory if missing";
    Command::new("man")
        .about("Write manual pages: one to standard output, or all into a directory")
        .arg(page.help(help))
        .arg(
            value("dir", "DIR", dir)
                .value_hint(ValueHint::DirPath)
                .conflicts_with("page"),
        )
}

/// A manual page.
struct ManualPage {
    /// A name such as `weirgate-levels`.
    name: String,
    command: Command,
    is_gateway: bool,
}

/// Files to write, for `weirgate man --dir`.
#[derive(Debug)]
pub(crate) struct PageFiles {
    dir: PathBuf,
    /// Names and texts.
    files: Vec<(String, Vec<u8>)>,
}

impl PageFiles {
    /// Writes all files. Makes the directory if it is missing.
    ///
    /// # Errors
    /// The first error of the system, in words.
    pub(crate) fn write(&self) -> Result<(), String> {
        let refused = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
        fs::create_dir_all(&self.dir).map_err(|error| refused(&self.dir, error))?;
        for (name, text) in &self.files {
            let path = self.dir.join(name);
            fs::write(&path, text).map_err(|error| refused(&path, error))?;
        }
        Ok(())
    }
}

/// Returns the completions of this shell, or `None` for an unsupported shell.
pub(super) fn completions(program: &Program, shell: &str) -> Option<String> {
    let shell = SHELLS.into_iter().find(|one| one.to_string() == shell)?;
    let mut text = Vec::new();
    let mut line = command(program, For::Completions);
    clap_complete::generate(shell, &mut line, program.name, &mut text);
    // All words of the command line are text.
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// Returns a manual page; the program's name in front of `name` may be left out.
///
/// # Errors
/// No page has the name; the text lists all names.
pub(super) fn page(program: &Program, name: &str) -> Result<String, String> {
    let pages = pages(program);
    let full = format!("{}-{name}", program.name);
    match pages
        .iter()
        .find(|page| page.name == name || page.name == full)
    {
        Some(page) => Ok(String::from_utf8_lossy(&page.text(program)).into_owned()),
        None => {
            let names: Vec<_> = pages.iter().map(|page| page.name.as_str()).collect();
            Err(format!("no page {name:?}; allowed: {}", names.join(", ")))
        }
    }
}

/// Returns all manual pages as files of this directory.
pub(super) fn files(program: &Program, dir: &OsStr) -> PageFiles {
    let pages = pages(program);
    let file = |page: &ManualPage| (format!("{}.1", page.name), page.text(program));
    PageFiles {
        dir: dir.into(),
        files: pages.iter().map(file).collect(),
    }
}

/// Makes a page for the program and for each command.
fn pages(program: &Program) -> Vec<ManualPage> {
    let mut root = command(program, For::Arguments).disable_help_subcommand(true);
    root.build();
    let mut pages = Vec::new();
    add_pages(program, &root, &mut pages);
    pages
}

/// Adds the page of a command, and the pages of its subcommands.
fn add_pages(program: &Program, command: &Command, pages: &mut Vec<ManualPage>) {
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name());
    let is_gateway = program.gateway(command.get_name()).is_some();
    pages.push(ManualPage {
        name: name.to_owned(),
        command: command.clone(),
        is_gateway,
    });
    for inner in command.get_subcommands() {
        add_pages(program, inner, pages);
    }
}

impl ManualPage {
    /// Returns the page in roff. Its date is blank.
    fn text(&self, program: &Program) -> Vec<u8> {
        let words = self.command.get_bin_name().unwrap_or(program.name);
        // Sixty flags would make the synopsis unreadable.
        let command = match self.is_gateway {
            true => self
                .command
                .clone()
                .override_usage(format!("{words} [OPTIONS]")),
            false => self.command.clone(),
        };
        let has_commands = command.has_subcommands();
        let manual = format!("{} manual", program.name);
        let man = Man::new(command)
            // An empty date would be left out, and the next argument would become the date.
            .date(" ")
            .source(format!("{} {}", program.name, BuildInfo::THIS.version))
            .manual(manual);
        let mut text = Vec::new();
        // Writing into a `Vec` cannot fail.
        let _ = man.render_title(&mut text);
        let _ = man.render_name_section(&mut text);
        let _ = man.render_synopsis_section(&mut text);
        let _ = man.render_description_section(&mut text);
        let _ = man.render_options_section(&mut text);
        if has_commands {
            let _ = man.render_subcommands_section(&mut text);
        }
        let _ = self.sections(program).to_writer(&mut text);
        text
    }

    /// The sections beside the command line.
    fn sections(&self, program: &Program) -> Roff {
        let mut roff = Roff::new();
        if self.is_gateway {
            section(&mut roff, "SIGNALS", SIGNALS);
        }
        section(&mut roff, "ENVIRONMENT", ENVIRONMENT);
        section(&mut roff, "EXIT STATUS", EXIT_STATUS);
        if self.name == program.name {
            roff.control("SH", ["EXAMPLES"]);
            roff.control("nf", []);
            // The examples come first in this text, up to an empty line.
            let lines = program.start_with.lines();
            for line in lines.take_while(|line| !line.is_empty()) {
                roff.text([roman(line)]);
            }
            roff.control("fi", []);
        } else {
            roff.control("SH", ["SEE ALSO"]);
            roff.text([roman(format!("{}(1)", program.name))]);
        }
        roff
    }
}

fn section(roff: &mut Roff, title: &str, entries: &[(&str, &str)]) {
    roff.control("SH", [title]);
    for (name, text) in entries {
        roff.control("TP", []);
        roff.text([roman(*name)]);
        roff.text([roman(*text)]);
    }
}
