//! The refused users and tokens, some of which may be in a file that is read at the start and again at SIGHUP
//! (`--revoked-file`). Each line is JSON as `POST /operator/disconnect` takes it. Clients that a changed file refuses are
//! closed.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use crossbeam_channel::{Receiver, unbounded};

use super::reload::{Reload, Reloaded};
use super::{RunError, files};
use crate::http::operator::Cutter;
use weirgate_core::{Cut, CutRequest, Revoked, Whom};
use weirgate_runtime::Clock;

/// What cutting clients off needs: the cutter for HTTP requests, and its other ends.
pub(crate) struct Cuts {
    pub(crate) cutter: Cutter,
    /// The loop's end of the cutter's requests; a supervisor has no use for it.
    pub(super) requests: Receiver<CutRequest>,
    /// `--revoked-file`, to be read again.
    pub(crate) file: Option<Box<dyn Reload>>,
}

impl Cuts {
    /// Reads the file, if there is a file.
    ///
    /// # Errors
    /// The file cannot be read, or a line is wrong.
    pub(crate) fn new(
        revoked: Revoked,
        file: Option<PathBuf>,
        clock: Clock,
    ) -> Result<Self, RunError> {
        let (sender, requests) = unbounded();
        let cutter = Cutter::new(revoked, sender, clock);
        let file = file.map(|path| RevokedFile::read(path, cutter.clone()));
        let file = file.transpose().map_err(RunError::Settings)?;
        Ok(Self {
            cutter,
            requests,
            file: file.map(|file| Box::new(file) as Box<dyn Reload>),
        })
    }
}

/// Parses the lines of the file. Empty lines, and lines that begin with `#`, are left out.
fn parse(path: &Path, text: io::Result<Vec<u8>>, now_unix_ms: i64) -> Result<Vec<Cut>, String> {
    let wrong = |error: &dyn Display| format!("--revoked-file {}: {error}", path.display());
    let text = text.map_err(|error| wrong(&error))?;
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    let lines = lines.map(|(at, line)| (at, line.trim_ascii()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#"));
    let refusals = lines.map(|(at, line)| {
        let refusal = Cut::read(line).and_then(|cut| {
            cut.check_times(now_unix_ms)?;
            let no_refusal = "a role or a session alone cannot be refused";
            cut.refused().ok_or_else(|| no_refusal.to_owned())
        });
        refusal.map_err(|error| wrong(&format!("line {}: {error}", at + 1)))
    });
    refusals.collect()
}

/// The file with refused users and tokens, and what it held at the last reading.
struct RevokedFile {
    path: PathBuf,
    in_force: Vec<Cut>,
    cutter: Cutter,
}

impl RevokedFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// The file cannot be read, or a line is wrong.
    fn read(path: PathBuf, cutter: Cutter) -> Result<Self, String> {
        let mut file = Self {
            path,
            in_force: Vec::new(),
            cutter,
        };
        let text = files::read(&file.path);
        file.apply(text)?;
        Ok(file)
    }

    /// Puts the text in force. Returns whether it differs from the text before.
    fn apply(&mut self, text: io::Result<Vec<u8>>) -> Result<bool, String> {
        let Cutter { revoked, clock, .. } = &self.cutter;
        let now = clock.now().unix_ms();
        let cuts = parse(&self.path, text, now)?;
        let replaced = revoked.replace_file(&cuts, now);
        replaced.map_err(|full| format!("--revoked-file {}: {full}", self.path.display()))?;
        let has_changed = self.in_force != cuts;
        self.in_force = cuts;
        Ok(has_changed)
    }
}

impl Reload for RevokedFile {
    fn what(&self) -> &'static str {
        "revoked"
    }

    fn reload(&mut self) -> Result<Reloaded, String> {
        let text = files::read_again(&self.path);
        let has_changed = self.apply(text).map_err(|error| {
            format!("{error}; the list of refused users and tokens stays as it was")
        })?;
        if !has_changed {
            return Ok(Reloaded::Unchanged);
        }
        let entries = self.in_force.len();
        self.cutter.close(Whom::Refused, move |done| {
            let clients = done.clients;
            tracing::info!(
                entries,
                clients,
                "the list of refused users and tokens has changed"
            );
        });
        Ok(Reloaded::Changed)
    }
}
