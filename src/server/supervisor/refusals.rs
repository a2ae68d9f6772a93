//! Whom an operator has cut off, as each process gets it before it listens for clients. The admin address refuses by the same
//! list.
//!
//! The supervisor has the list of [`Revoked`], as each process does, so that conditions, ends and a refusal that is taken
//! back mean the same everywhere. A refusal is added to the list before the processes are asked. A process gets the list,
//! and is asked from then on: so it does not miss a refusal that comes while it starts.

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use rustix::fs::{MemfdFlags, memfd_create};

use super::channel::{Channel, ToSupervisor};
use weirgate_core::{Cut, Revoked, RevokedFull};

/// The list of the supervisor.
#[derive(Debug)]
pub(super) struct Refusals(Revoked);

impl Refusals {
    /// The list by which the supervisor refuses.
    pub(super) fn new(list: Revoked) -> Self {
        Self(list)
    }

    /// Adds what is refused after a cut.
    ///
    /// # Errors
    /// There is no room in the list.
    pub(super) fn add(&mut self, refused: &Cut, now_unix_ms: i64) -> Result<(), RevokedFull> {
        self.0.add(refused, now_unix_ms).map(drop)
    }

    /// Takes a refusal with exactly these conditions back.
    pub(super) fn lift(&mut self, cut: &Cut, now_unix_ms: i64) {
        self.0.lift(cut, now_unix_ms);
    }

    /// Gives the list to a process that begins, and lets the process be asked from now on. Exclusive (`&mut`), so that
    /// no refusal can come between the two.
    ///
    /// # Errors
    /// The process has ended, or the system refuses the memory.
    pub(super) fn give(&mut self, channel: &Channel) -> io::Result<()> {
        channel.open(&self.written()?)
    }

    /// The list as a file without a name: a line for each entry, as a process takes it at `POST /operator/disconnect`.
    pub(super) fn written(&self) -> io::Result<File> {
        let mut file = File::from(memfd_create("refused", MemfdFlags::CLOEXEC)?);
        for entry in self.0.of_calls() {
            let mut line = sonic_rs::to_string(&entry).map_err(io::Error::other)?;
            line.push('\n');
            file.write_all(line.as_bytes())?;
        }
        file.rewind()?;
        Ok(file)
    }
}

/// Gets the entries of the supervisor's list into `list`, which is of this process. The process must not serve the
/// supervisor's connections yet: a request to lift a refusal could come before the refusal.
///
/// # Errors
/// There is no list, or a line is wrong, with words for the operator.
pub(crate) fn take_refusals(
    supervisor: &ToSupervisor,
    list: &Revoked,
    now_unix_ms: i64,
) -> Result<(), String> {
    let file = supervisor.begin().map_err(|error| error.to_string());
    let read = file.and_then(|file| read_refusals(file, list, now_unix_ms));
    read.map_err(|error| format!("the list of refused users and tokens of the supervisor: {error}"))
}

/// Adds the entries of a file to `list`.
pub(super) fn read_refusals(
    mut file: File,
    list: &Revoked,
    now_unix_ms: i64,
) -> Result<(), String> {
    let mut text = Vec::new();
    let read = file.read_to_end(&mut text);
    read.map_err(|error| error.to_string())?;
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let entries: Result<Vec<Cut>, String> = lines.map(Cut::read).collect();
    let left_out = list.add_all(now_unix_ms, entries?);
    if left_out > 0 {
        tracing::error!(
            left_out,
            "the list of refused users and tokens is full: clients that an operator has cut off may come back"
        );
    }
    Ok(())
}
