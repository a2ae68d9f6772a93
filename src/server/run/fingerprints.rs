//! The changes of files, seen by fingerprints of their metadata: so a file is read again only after a change.

use std::fs;
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
        }
    }

    /// Checks the files again. Returns true if one has changed since the last read, and none since the last check. A
    /// file that is written in place may have only a part of its content until the writer is done, and that part may be
    /// valid.
    pub fn poll_change(&mut self) -> bool {
        let present = fingerprints(&self.paths);
        let is_settled = present == self.at_check;
        self.at_check = present;
        is_settled && self.at_check != self.at_read
    }

    /// Takes the fingerprints again; must be called before the content is read again, so that the next check finds later
    /// writes.
    pub fn will_read(&mut self) {
        self.at_read = fingerprints(&self.paths);
    }

    /// Whether a file has changed since [`will_read`](Self::will_read).
    pub fn have_changed(&self) -> bool {
        fingerprints(&self.paths) != self.at_read
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
        watched.will_read();
        assert!(!watched.poll_change() && !watched.poll_change());
    }
}
