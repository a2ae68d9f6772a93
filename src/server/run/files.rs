//! Reads the files that settings name: small files, read whole, within a limit on bytes and on time.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use weirgate_runtime::regular_file;
use weirgate_wire::base::without_bom;

/// The most bytes of a file in the settings: a larger file is not what a setting asks for.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The longest time that a start waits for the content of a pipe, such as the output of a program that decrypts.
const PIPE_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads a file at the start of the process; a pipe is a file too.
///
/// # Errors
/// An error of the system, the file has more than 1 MiB, or a pipe has no end within 10 s.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let content = match metadata(path)?.file_type().is_fifo() {
        true => read_pipe(path, PIPE_TIMEOUT),
        false => regular_file(path),
    };
    content.and_then(without_bom)
}

/// Reads a pipe to its end on a thread of its own, so that a pipe to which nobody writes makes the start fail. That
/// thread then stays blocked.
fn read_pipe(path: &Path, timeout: Duration) -> io::Result<Vec<u8>> {
    let (sender, read) = mpsc::channel();
    let pipe = path.to_owned();
    thread::spawn(move || {
        let mut content = Vec::new();
        let open = File::open(pipe).map(|pipe| pipe.take(FILE_BYTES_MAX + 1));
        let read = open.and_then(|mut pipe| pipe.read_to_end(&mut content));
        // Fails if the timeout has passed.
        let _ = sender.send(read.map(|_| content));
    });
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "a pipe without an end");
    let content = read.recv_timeout(timeout).map_err(late)??;
    match content.len() as u64 > FILE_BYTES_MAX {
        true => Err(too_large()),
        false => Ok(content),
    }
}

/// Reads a file again. A pipe is refused: it has no more content, and a read would block forever.
///
/// # Errors
/// The errors of [`read`], and the path is not a regular file any more.
pub fn read_again(path: &Path) -> io::Result<Vec<u8>> {
    metadata(path)?;
    regular_file(path).and_then(without_bom)
}

/// The metadata of a file; an error for a file that is too large.
fn metadata(path: &Path) -> io::Result<fs::Metadata> {
    let metadata = fs::metadata(path)?;
    match metadata.len() > FILE_BYTES_MAX {
        true => Err(too_large()),
        false => Ok(metadata),
    }
}

fn too_large() -> io::Error {
    let what = format!("over {FILE_BYTES_MAX} bytes");
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_mark_of_an_editor_is_no_part_of_the_text() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        fs::write(&path, "\u{feff}{\u{feff}}").expect("written");
        assert_eq!(read(&path).expect("text"), "{\u{feff}}".as_bytes());
        fs::write(&path, b"\xff\xfe{\0}\0").expect("written");
        let error = read_again(&path).expect_err("UTF-16").to_string();
        assert!(error.contains("UTF-16"), "{error}");
    }

    #[test]
    fn a_pipe_is_read_at_the_start_and_has_its_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let [silent, path] = ["silent", "pipe"].map(|name| folder.path().join(name));
        for pipe in [&silent, &path] {
            let made = Command::new("mkfifo").arg(pipe).status().expect("mkfifo");
            assert!(made.success());
        }
        let silent = read_pipe(&silent, Duration::from_millis(50));
        let silent = silent.expect_err("nobody writes").to_string();
        assert_eq!(silent, "a pipe without an end");
        let error = read_again(&path).expect_err("a pipe").to_string();
        assert_eq!(error, "not a regular file");
        let writer = path.clone();
        let writes = thread::spawn(move || fs::write(writer, "\u{feff}text"));
        assert_eq!(read(&path).expect("the text"), b"text");
        writes.join().expect("a thread").expect("written");
        let error = read(Path::new("/dev/zero"))
            .expect_err("no end")
            .to_string();
        assert_eq!(error, "not a regular file");
    }

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
