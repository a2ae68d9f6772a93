//! Changes of files, seen by their fingerprints.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::SystemTime;

/// The fingerprint of a file: inode, length and modification time. A replaced file has another inode, a
/// written file another length or time. `None` for a missing file.
type Print = Option<(u64, u64, Option<SystemTime>)>;

/// The fingerprints of files whose content is in force.
#[derive(Clone, Debug)]
pub(crate) struct Prints {
    paths: Vec<PathBuf>,
    /// Before the content was read.
    read: Vec<Print>,
    /// At the last look.
    looked: Vec<Print>,
}

impl Prints {
    /// The files as they are: to be called before their content is read.
    pub(crate) fn now(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let paths: Vec<PathBuf> = paths.into_iter().collect();
        let read = prints(&paths);
        Self {
            paths,
            looked: read.clone(),
            read,
        }
    }

    /// Returns true if a file has changed since the last read, and no file since the last look. A file that
    /// is written in place may contain only a part, without an error, until the writer is done.
    pub(crate) fn look(&mut self) -> bool {
        let now = prints(&self.paths);
        let is_settled = now == self.looked;
        self.looked = now;
        is_settled && self.looked != self.read
    }

    /// Records the files as they are: to be called before their content is read again, so that the next look
    /// finds later writes.
    pub(crate) fn will_read(&mut self) {
        self.read = prints(&self.paths);
    }

    /// Whether a file has changed since [`will_read`](Self::will_read).
    pub(crate) fn have_changed(&self) -> bool {
        prints(&self.paths) != self.read
    }
}

fn prints(paths: &[PathBuf]) -> Vec<Print> {
    let print = |path: &PathBuf| {
        let found = fs::metadata(path).ok()?;
        Some((found.ino(), found.len(), found.modified().ok()))
    };
    paths.iter().map(print).collect()
}
