//! Parse, run one subcommand, exit code: 0 after a signal, 1 after a failure, 2 for settings.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use weirgate::run::{self, RunError};
use weirgate::settings::{Invocation, parse};
use weirgate::telemetry::logging;

fn main() -> ExitCode {
    match parse(std::env::args_os(), std::env::vars_os()) {
        Ok(Invocation::Levels(settings)) => ran(run::levels(*settings)),
        Ok(Invocation::Trades(settings)) => ran(run::trades(*settings)),
        Ok(Invocation::Channels(settings)) => ran(run::channels(*settings)),
        Ok(Invocation::Events(settings)) => ran(run::events(*settings)),
        Ok(Invocation::Demo(settings)) => ran(run::demo(*settings)),
        Ok(Invocation::PrintAcl(file)) => {
            ran(run::acl_text(file.as_deref()).map(|text| show(text.trim_end())))
        }
        Ok(Invocation::Health(check)) => ended(check.run()),
        Ok(Invocation::Token(command)) => ended(command.run().map(|text| show(&text))),
        Ok(Invocation::Check(text) | Invocation::Version(text)) => {
            show(text.trim_end());
            ExitCode::SUCCESS
        }
        Err(exit) => {
            let text = exit.text.trim_end();
            match exit.status {
                0 => show(text),
                _ => complain(text),
            }
            ExitCode::from(exit.status)
        }
    }
}

fn ran(result: Result<(), RunError>) -> ExitCode {
    // The last lines say how it ended.
    logging::flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error}"));
            ExitCode::from(error.exit_status())
        }
    }
}

fn ended<E: Display>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// A reader that has gone away (`weirgate --help | head -1`) is no failure, and no panic.
fn show(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
