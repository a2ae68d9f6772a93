//! Small files in settings: keys, the table of roles, the log filter.

use std::fs;
use std::io;
use std::path::Path;

/// Larger files have other content.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Reads a file at the start of the process; a pipe is a file too.
///
/// # Errors
/// An error of the system, or the file has more than 1 MiB.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > FILE_BYTES_MAX {
        let what = format!("over {FILE_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    fs::read(path)
}

/// Reads a file again. A pipe has no more content, and a read would wait forever.
///
/// # Errors
/// As [`read`], or the path names no regular file any more.
pub(crate) fn read_again(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        let what = "not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    read(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_too_large_or_no_file_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let text = vec![b'x'; FILE_BYTES_MAX as usize];
        fs::write(&path, &text).expect("written");
        assert_eq!(read_again(&path).expect("the file"), text);
        fs::write(&path, [&text[..], b"x"].concat()).expect("written");
        let error = read(&path).expect_err("too large").to_string();
        assert_eq!(error, "over 1048576 bytes");
        let error = read_again(folder.path()).expect_err("a folder").to_string();
        assert_eq!(error, "not a regular file");
    }
}
