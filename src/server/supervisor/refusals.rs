//! Whom an operator has cut off, in a file that each process reads before it listens for clients.
//!
//! The supervisor has the list of [`Revoked`], as each process does, so that conditions, ends and a refusal that is taken
//! back mean the same everywhere. The file has a line for each entry, as a process takes it at `POST
//! /operator/disconnect`. A refusal is written before the processes are asked. A process binds its admin socket before
//! it reads: so what it does not find in the file it is asked.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use weirgate_core::{Cut, Full, Revoked};

/// The name of the file, beside the admin sockets of the processes.
const NAME: &str = "refused";

/// The file is written anew if it has more lines than this for each entry, and a few more.
const LINES_PER_ENTRY: usize = 2;
const LINES_MORE: usize = 64;

/// Why a refusal does not reach processes that start later.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotKept {
    /// There is no room.
    #[error(transparent)]
    Full(#[from] Full),
    /// The system refuses the file, as on a full disk.
    #[error("the file for processes that start later: {0}")]
    File(#[from] io::Error),
}

/// The list of the supervisor, and its file.
#[derive(Debug)]
pub(super) struct RefusalFile {
    list: Revoked,
    path: PathBuf,
    lines: usize,
    /// With so many lines, the file is written anew.
    lines_max: usize,
    /// Whether the file has all entries and ends with a whole line.
    is_whole: bool,
}

impl RefusalFile {
    /// An empty list for at most `max` entries, with its file in `folder`, which is for this user only.
    ///
    /// # Errors
    /// The system refuses the file.
    pub(super) fn new(folder: &Path, max: usize) -> io::Result<Self> {
        let mut file = Self {
            list: Revoked::new(max),
            path: folder.join(NAME),
            lines: 0,
            lines_max: 0,
            is_whole: false,
        };
        file.write_anew(0)?;
        Ok(file)
    }

    /// Adds what is refused after a cut.
    ///
    /// # Errors
    /// There is no room in the list or for the file.
    pub(super) fn add(&mut self, refused: &Cut, now_unix_ms: i64) -> Result<(), NotKept> {
        let entry = self.list.add(refused, now_unix_ms)?;
        let has_room = self.is_whole && self.lines < self.lines_max;
        if !has_room || self.append(&entry).is_err() {
            self.write_anew(now_unix_ms)?;
        }
        Ok(())
    }

    /// Adds a line. A file that is gone is not made: it would lack the other entries.
    fn append(&mut self, entry: &Cut) -> io::Result<()> {
        self.is_whole = false;
        let mut file = OpenOptions::new().append(true).open(&self.path)?;
        file.write_all(line_of(entry).as_bytes())?;
        self.lines += 1;
        self.is_whole = true;
        Ok(())
    }

    /// Writes the file anew if it is gone, as after a cleaning of `/tmp`, or is not whole. Called before a process starts,
    /// which does not serve without it.
    ///
    /// # Errors
    /// The system refuses the file.
    pub(super) fn keep(&mut self, now_unix_ms: i64) -> io::Result<()> {
        match self.is_whole && self.path.is_file() {
            true => Ok(()),
            false => self.write_anew(now_unix_ms),
        }
    }

    /// Takes a refusal with exactly these conditions back.
    ///
    /// # Errors
    /// The system refuses the file.
    pub(super) fn lift(&mut self, cut: &Cut, now_unix_ms: i64) -> io::Result<()> {
        let is_gone = self.list.lift(cut, now_unix_ms).was_refused;
        match is_gone || !self.is_whole {
            true => self.write_anew(now_unix_ms),
            false => Ok(()),
        }
    }

    /// Replaces the file at once: a reader has all lines of the old one or of the new one.
    fn write_anew(&mut self, now_unix_ms: i64) -> io::Result<()> {
        self.is_whole = false;
        let entries = self.list.of_calls(now_unix_ms);
        let text: String = entries.iter().map(line_of).collect();
        let new = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file: File = options.open(&new)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(&new, &self.path)?;
        self.lines = entries.len();
        self.lines_max = LINES_PER_ENTRY * self.lines + LINES_MORE;
        self.is_whole = true;
        Ok(())
    }
}

fn line_of(entry: &Cut) -> String {
    let json = sonic_rs::to_string(entry).unwrap_or_default();
    format!("{json}\n")
}

/// Adds the entries of the supervisor's file to `list`, which is of the process with this admin socket. The list is locked
/// meanwhile: a request to lift a refusal waits, so it cannot come before the refusal is added.
///
/// # Errors
/// The file cannot be read, or a line is wrong, with words for the operator.
pub(crate) fn read_refusals(socket: &Path, list: &Revoked, now_unix_ms: i64) -> Result<(), String> {
    let path = socket.with_file_name(NAME);
    let left_out = list.add_all(now_unix_ms, || entries_of(&path));
    let left_out = left_out.map_err(|error| {
        format!(
            "the refusals of the supervisor, {}: {error}",
            path.display()
        )
    })?;
    if left_out > 0 {
        tracing::error!(
            left_out,
            "the list of refused users and tokens is full: clients that an operator has cut off may come back"
        );
    }
    Ok(())
}

/// The entries of the file. A last line without an end is of a refusal of which the process will be asked.
fn entries_of(path: &Path) -> Result<Vec<Cut>, String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    let whole = text.split_inclusive(|byte| *byte == b'\n');
    let whole = whole.filter_map(|line| line.strip_suffix(b"\n"));
    whole.map(Cut::read).collect()
}
