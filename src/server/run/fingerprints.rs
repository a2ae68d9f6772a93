//! The changes of files, seen by fingerprints of their metadata: so a file is read again only after a change, or if it could
//! not be read.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The fingerprint of a file: inode, length, and the times of the last modification and of the last change of the
/// inode. A replaced file has another inode, a written file another length or modification time, and a file with other
/// rights another change time. `None` for a missing file.
type Fingerprint = Option<(u64, u64, (i64, i64), (i64, i64))>;

/// The fingerprints of files whose content is in force.
#[derive(Clone, Debug)]
pub struct Fingerprints {
    paths: Vec<PathBuf>,
    /// From before the content was last read.
    at_read: Vec<Fingerprint>,
    /// From the last check.
    at_check: Vec<Fingerprint>,
    /// Present after a read that the system refused: the content is not known, though its fingerprint is.
    retry: Option<Retry>,
}

/// When the files are read again without a change.
#[derive(Clone, Copy, Debug)]
struct Retry {
    /// Checks from one attempt to the next. Doubles with each, so that a refusal that lasts is not logged each second, and a
    /// read is late by at most the time that it was refused.
    checks: u32,
    checks_left: u32,
}

impl Retry {
    /// A minute, with a check a second.
    const CHECKS_MAX: u32 = 60;

    fn after(last: Option<Self>) -> Self {
        let checks = last.map_or(1, |last| (2 * last.checks).min(Self::CHECKS_MAX));
        Self {
            checks,
            checks_left: checks,
        }
    }

    /// Counts a check. Returns true if the next attempt is due.
    fn poll(&mut self) -> bool {
        self.checks_left = self.checks_left.saturating_sub(1);
        self.checks_left == 0
    }
}

/// One attempt to read the files.
#[derive(Debug, Default)]
pub struct Attempt {
    is_refused: bool,
}

impl Attempt {
    /// Passes on what the system says to the read of a file, and records an error that the metadata of the file does not
    /// explain, such as too many open files or a fault of the disk. A later repair of such an error changes no metadata.
    ///
    /// # Errors
    /// The same as `read`.
    pub fn file<T>(&mut self, read: io::Result<T>) -> io::Result<T> {
        self.is_refused |= read.as_ref().is_err_and(is_refusal);
        read
    }
}

/// Whether the system could not read a file for a reason that its metadata does not show.
fn is_refusal(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        // The first five show in the metadata. The last is of the content.
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::InvalidInput
            | ErrorKind::InvalidData
    )
}

impl Fingerprints {
    /// Takes the fingerprints of the files; must be called before their content is read.
    pub fn take(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let paths: Vec<PathBuf> = paths.into_iter().collect();
        let present = fingerprints(&paths);
        Self {
            paths,
            at_check: present.clone(),
            at_read: present,
            retry: None,
        }
    }

    /// Checks the files again; called once a second. Returns true if one has changed since the last read, and none since
    /// the last check. A file that is written in place may have only a part of its content until the writer is done, and
    /// that part may be valid. Also returns true at times after the system has refused to read a file.
    pub fn poll_change(&mut self) -> bool {
        let present = fingerprints(&self.paths);
        let is_settled = present == self.at_check;
        self.at_check = present;
        let retries = self.retry.as_mut().is_some_and(Retry::poll);
        is_settled && (self.at_check != self.at_read || retries)
    }

    /// Reads the files again with `read`, which passes the outcome for each file to an `Attempt`. Returns `None` if a
    /// file changed meanwhile; a later check finds the change.
    ///
    /// # Errors
    /// Those of `read`. If the system has refused a file, later checks ask for another read.
    pub fn read<T, E>(
        &mut self,
        read: impl FnOnce(&mut Attempt) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        // Before the content, so that the next check finds later writes.
        self.at_read = fingerprints(&self.paths);
        let mut attempt = Attempt::default();
        let content = read(&mut attempt);
        self.retry = attempt.is_refused.then(|| Retry::after(self.retry));
        let has_changed = fingerprints(&self.paths) != self.at_read;
        content.map(|content| (!has_changed).then_some(content))
    }
}

/// The fingerprints of the files as they are now; `None` for a file that is not there.
fn fingerprints(paths: &[PathBuf]) -> Vec<Fingerprint> {
    let fingerprint = |path: &PathBuf| {
        let found = fs::metadata(path).ok()?;
        let written = (found.mtime(), found.mtime_nsec());
        let changed = (found.ctime(), found.ctime_nsec());
        Some((found.ino(), found.len(), written, changed))
    };
    paths.iter().map(fingerprint).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A check comes after a read that failed; the repair changes only the rights, and writes nothing.
    #[test]
    fn a_file_with_other_rights_has_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        fs::write(&path, "text").expect("written");
        let mut watched = Fingerprints::take([path.clone()]);
        assert!(!watched.poll_change());
        // The times of files advance in the steps of the kernel's clock.
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("other rights");
        assert!(!watched.poll_change() && watched.poll_change());
        assert_eq!(watched.read(|_| Ok::<_, ()>(1)), Ok(Some(1)));
        assert!(!watched.poll_change() && !watched.poll_change());
    }

    /// Nothing changes at the file when it can be read again.
    #[test]
    fn a_file_that_the_system_refuses_is_read_again_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        fs::write(&path, "text").expect("written");
        let mut watched = Fingerprints::take([path]);
        let read = |watched: &mut Fingerprints, error: io::Error| {
            let failed = watched.read(|attempt| attempt.file(Err::<(), _>(error)));
            failed.expect_err("refused");
        };
        let checks = |watched: &mut Fingerprints| {
            let is_quiet = |_: &usize| !watched.poll_change();
            (0..100).take_while(is_quiet).count() + 1
        };
        let too_many_files = || io::Error::from_raw_os_error(libc::EMFILE);
        for until_next in [1, 2, 4, 8, 16, 32, 60, 60] {
            read(&mut watched, too_many_files());
            assert_eq!(checks(&mut watched), until_next);
        }
        for kind in [ErrorKind::InvalidData, ErrorKind::NotFound] {
            read(&mut watched, kind.into());
            assert_eq!(checks(&mut watched), 101, "{kind}");
        }
        read(&mut watched, too_many_files());
        let broken = watched.read(|attempt| {
            let text = attempt.file(Ok("text"));
            text.map_err(|_| ()).and(Err::<(), ()>(()))
        });
        assert_eq!(broken, Err(()));
        assert_eq!(checks(&mut watched), 101, "broken content");
    }
}
