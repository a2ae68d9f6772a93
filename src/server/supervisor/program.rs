//! The file of the program that the processes run, and of the one that a roll tries.
//!
//! The files are held open: what is at the path may be replaced, broken or removed at any time, and only a roll, which keeps
//! the old processes if the new ones fail, may try what is there. A process that has ended is started from the file that the
//! others run.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{Mode, OFlags};

use super::core::Program;

/// The program of the processes, and of a roll.
pub(super) struct Programs {
    /// The path by which this program was started: a new program at this path is what a roll starts.
    path: PathBuf,
    in_force: File,
    /// Only during a roll.
    new: Option<File>,
}

impl Programs {
    /// This program itself.
    pub(super) fn own() -> io::Result<Self> {
        Ok(Self::at(own_path()?, hold(Path::new("/proc/self/exe"))?))
    }

    fn at(path: PathBuf, in_force: File) -> Self {
        Self {
            path,
            in_force,
            new: None,
        }
    }

    /// The command that starts a program. All processes of a roll run the same file: the one that is at the path when the
    /// first of them starts.
    ///
    /// # Errors
    /// There is no new program.
    pub(super) fn command(&mut self, program: Program) -> io::Result<Command> {
        let file = match program {
            Program::InForce => &self.in_force,
            Program::New => match &mut self.new {
                Some(file) => file,
                none => none.insert(hold(&self.path)?),
            },
        };
        let mut command = match is_at(file, &self.path) {
            // Lists of processes name a process by its path, and a script finds itself there.
            true => Command::new(&self.path),
            false => Command::new(format!("/proc/self/fd/{}", file.as_raw_fd())),
        };
        command.arg0(&self.path);
        Ok(command)
    }

    /// From here on, the new program is the one in force.
    pub(super) fn adopt_new(&mut self) {
        if let Some(new) = self.new.take() {
            self.in_force = new;
        }
    }

    /// Forgets the new program: the next roll looks again what is at the path.
    pub(super) fn drop_new(&mut self) {
        self.new = None;
    }
}

/// Holds a program without reading it: one that nobody may read can be started all the same.
fn hold(path: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// Whether the file is at this path.
fn is_at(file: &File, path: &Path) -> bool {
    let ids = [file.metadata(), fs::metadata(path)].map(|of| of.map(|of| (of.dev(), of.ino())));
    matches!(ids, [Ok(one), Ok(other)] if one == other)
}

/// The path by which this program was started, with its symbolic links: they may lead to another file later. If that path
/// is unknown, the path of the file itself.
fn own_path() -> io::Result<PathBuf> {
    let file = std::env::current_exe()?;
    let own = hold(Path::new("/proc/self/exe"))?;
    let is_own = |path: &PathBuf| is_at(&own, path);
    let name = PathBuf::from(std::env::args_os().next().unwrap_or_default());
    // Without a slash, the shell has looked in PATH.
    let found = match name.components().count() {
        1 => {
            let folders = std::env::var_os("PATH").unwrap_or_default();
            let mut paths = std::env::split_paths(&folders).map(|folder| folder.join(&name));
            paths.find(is_own)
        }
        _ => Some(name),
    };
    let found = found.and_then(|path| std::path::absolute(path).ok());
    Ok(found.filter(is_own).unwrap_or(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a started program says.
    fn said(programs: &mut Programs, program: Program) -> io::Result<String> {
        let output = programs.command(program)?.arg("one").output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    #[test]
    fn only_a_roll_starts_what_is_at_the_path_and_it_counts_once_it_is_adopted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        let put = |of: &str| {
            fs::copy(of, folder.path().join("next")).unwrap();
            fs::rename(folder.path().join("next"), &path).unwrap();
        };
        put("/bin/echo");
        let mut programs = Programs::at(path.clone(), hold(&path).unwrap());
        assert_eq!(said(&mut programs, Program::InForce).unwrap(), "one\n");
        put("/bin/false");
        assert_eq!(said(&mut programs, Program::InForce).unwrap(), "one\n");
        assert_eq!(said(&mut programs, Program::New).unwrap(), "");
        put("/bin/echo");
        assert_eq!(
            said(&mut programs, Program::New).unwrap(),
            "",
            "one for all of a roll"
        );
        programs.drop_new();
        assert_eq!(said(&mut programs, Program::New).unwrap(), "one\n");
        programs.adopt_new();
        fs::remove_file(&path).unwrap();
        assert_eq!(said(&mut programs, Program::InForce).unwrap(), "one\n");
        let error = said(&mut programs, Program::New).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
