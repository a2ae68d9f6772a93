//! The file with refused users and tokens (`--revoked-file`): each line is JSON as `POST /operator/disconnect` takes
//! it. The file is read at the start and at SIGHUP; clients that it refuses are closed.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use crossbeam_channel::{Receiver, unbounded};

use super::RunError;
use super::common::CommonSettings;
use super::files;
use super::reload::{Reload, Reloaded};
use crate::base::Clock;
use crate::http::operator::Cutter;
use crate::hub::{Cut, CutRequest};

/// The file, and what it held at the last reading.
pub(super) struct RevokedFile {
    path: PathBuf,
    in_force: Vec<Cut>,
    cutter: Cutter,
}

/// What cutting clients off needs: the sender to the loop, the loop's receiver, and the file.
pub(super) struct Cuts(Cutter, Receiver<CutRequest>, Option<RevokedFile>);

impl Cuts {
    /// Reads the file, if there is a file.
    ///
    /// # Errors
    /// The file cannot be read, or a line is wrong.
    pub(super) fn new(common: &CommonSettings, clock: Clock) -> Result<Self, RunError> {
        let (requests, receiver) = unbounded();
        let cutter = Cutter::new(common.limits.revoked.clone(), requests, clock);
        let file = common.revoked_file.clone();
        let file = file.map(|path| RevokedFile::read(path, cutter.clone()));
        let file = file.transpose().map_err(RunError::Settings)?;
        Ok(Self(cutter, receiver, file))
    }

    /// Takes the parts apart.
    pub(super) fn into_parts(self) -> (Cutter, Receiver<CutRequest>, Option<Box<dyn Reload>>) {
        let file = self.2.map(|file| Box::new(file) as Box<dyn Reload>);
        (self.0, self.1, file)
    }
}

/// Reads the lines of the file. Empty lines, and lines that begin with `#`, are left out.
fn lines(path: &Path, text: io::Result<Vec<u8>>, now_unix_ms: i64) -> Result<Vec<Cut>, String> {
    let wrong = |error: &dyn Display| format!("--revoked-file {}: {error}", path.display());
    let text = text.map_err(|error| wrong(&error))?;
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    let lines = lines.map(|(at, line)| (at, line.trim_ascii()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#"));
    let read = lines.map(|(at, line)| {
        let cut = Cut::read(line).and_then(|cut| {
            cut.check_times(now_unix_ms)?;
            let no_refusal = "a role or a session alone cannot be refused";
            cut.refused().ok_or_else(|| no_refusal.to_owned())
        });
        cut.map_err(|error| wrong(&format!("line {}: {error}", at + 1)))
    });
    read.collect()
}

impl RevokedFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// The file cannot be read, or a line is wrong.
    pub(super) fn read(path: PathBuf, cutter: Cutter) -> Result<Self, String> {
        let mut file = Self {
            path,
            in_force: Vec::new(),
            cutter,
        };
        let text = files::read(&file.path);
        file.take(text)?;
        Ok(file)
    }

    fn take(&mut self, text: io::Result<Vec<u8>>) -> Result<bool, String> {
        let Cutter { revoked, clock, .. } = &self.cutter;
        let now = clock.now().unix_ms();
        let cuts = lines(&self.path, text, now)?;
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
        let has_changed = self.take(text).map_err(|error| {
            format!("{error}; the list of refused users and tokens stays as it was")
        })?;
        if !has_changed {
            return Ok(Reloaded::Unchanged);
        }
        let entries = self.in_force.len();
        self.cutter.close(None, move |done| {
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
