//! The file of a unix socket: made at the start with its mode and its owner, and removed at the end.
//!
//! A killed process leaves its file behind, and an existing file makes a bind fail. So a socket file without a listener
//! is replaced. A socket with a listener, or a file of any other type, stays.

use std::fmt;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use super::ListenOptions;

/// How long a start waits for another start in the same directory. Other programs may hold the directory's lock for any
/// time, and waiting for these would be useless.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// The file of a listening socket of this process. Dropping this value removes the file, unless another process has
/// replaced it meanwhile. Must be dropped before the socket: as long as the socket is open, no other file can have the
/// same inode number.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Returns the path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn is(&self, found: &Metadata) -> bool {
        (found.dev(), found.ino()) == (self.device, self.inode)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| self.is(&found))
            && let Err(error) = fs::remove_file(&self.path)
        {
            // The next start finds no listener there, and replaces the file.
            tracing::warn!(path = %self.path.display(), %error, "a unix socket could not be removed");
        }
    }
}

/// Listens at `path`. No client can connect before the mode and the owner are set.
pub(super) fn bind(path: &Path, options: &ListenOptions) -> io::Result<(UnixListener, SocketFile)> {
    let owner = options.unix_owner.ids()?;
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    let directory = File::open(directory)
        .map_err(|error| io::Error::new(error.kind(), format!("its directory: {error}")))?;
    // Without the lock, two starts at the same time could both find no listener, and the second would remove the file
    // of the first.
    lock(&directory);
    remove_if_nobody_listens(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let made = fs::symlink_metadata(path)?;
    let file = SocketFile {
        path: path.to_owned(),
        device: made.dev(),
        inode: made.ino(),
    };
    if owner.user.is_some() || owner.group.is_some() {
        chown(path, owner.user, owner.group).map_err(|error| {
            let text = format!("its owner cannot be {}: {error}", options.unix_owner);
            io::Error::new(error.kind(), text)
        })?;
    }
    fs::set_permissions(path, Permissions::from_mode(options.unix_mode))?;
    socket.listen(options.backlog)?;
    socket.set_nonblocking(true)?;
    Ok((socket.into(), file))
}

/// Locks the directory. If another start holds the lock, waits for up to [`LOCK_WAIT`], then goes on without it. Closing
/// the file ends the lock.
fn lock(directory: &File) {
    let until = Instant::now() + LOCK_WAIT;
    let lock = || flock(directory, FlockOperation::NonBlockingLockExclusive);
    while lock() == Err(Errno::WOULDBLOCK) && Instant::now() < until {
        thread::sleep(Duration::from_millis(10));
    }
}

/// Removes a socket file without a listener at `path`.
fn remove_if_nobody_listens(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        let text = "a file that is not a socket is there; it stays as it is";
        return Err(io::Error::new(ErrorKind::AlreadyExists, text));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        // "Would block": there is a listener, and its backlog is full.
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        _ => {
            let text = "another process listens there";
            Err(io::Error::new(ErrorKind::AddrInUse, text))
        }
    }
}

/// The owner of a unix socket: a user, a group, or both, as names of the system or as numbers. For an unset part the
/// system decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    user: Option<String>,
    group: Option<String>,
}

/// The error for a text other than `USER`, `USER:GROUP` and `:GROUP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither USER nor USER:GROUP nor :GROUP")]
pub struct NoOwner;

impl FromStr for Owner {
    type Err = NoOwner;

    fn from_str(text: &str) -> Result<Self, NoOwner> {
        let name = |text: &str| match text {
            "" => Ok(None),
            name if name.contains([':', '/']) || name.contains(char::is_whitespace) => Err(NoOwner),
            name => Ok(Some(name.to_owned())),
        };
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        Ok(Self {
            user: name(user)?,
            group: name(group)?,
        })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.user.as_deref().unwrap_or_default())?;
        match &self.group {
            Some(group) => write!(f, ":{group}"),
            None => Ok(()),
        }
    }
}

/// The numbers of an [`Owner`]; `None` leaves the user or the group of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OwnerIds {
    pub(super) user: Option<u32>,
    pub(super) group: Option<u32>,
}

impl Owner {
    /// Returns the numbers of user and group, read from `/etc/passwd` and `/etc/group`.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`]: the name is unknown.
    pub(super) fn ids(&self) -> io::Result<OwnerIds> {
        let user = self.user.as_deref().map(|name| id(name, "/etc/passwd"));
        let group = self.group.as_deref().map(|name| id(name, "/etc/group"));
        Ok(OwnerIds {
            user: user.transpose()?,
            group: group.transpose()?,
        })
    }
}

/// Returns a number as it is, or the third field of the line of a name (passwd(5), group(5)).
fn id(name: &str, file: &'static str) -> io::Result<u32> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let lines = fs::read_to_string(file).unwrap_or_default();
    find(name, &lines).ok_or_else(|| {
        let text = format!("its owner: no {name:?} in {file}; a number is allowed too");
        io::Error::new(ErrorKind::InvalidInput, text)
    })
}

fn find(name: &str, lines: &str) -> Option<u32> {
    lines.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_it = fields.next() == Some(name);
        fields.nth(1).filter(|_| is_it)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::super::{ListenAddr, PATH_BYTES_MAX};
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    fn listen(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
        bind(path, &ListenOptions::default())
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("a file").mode() & 0o7777
    }

    fn connects(path: &Path) -> bool {
        let addr = ListenAddr::Unix(path.to_owned());
        addr.connect(Duration::from_secs(1)).is_ok()
    }

    #[test]
    fn a_socket_has_its_mode_and_goes_with_its_process() {
        let folder = folder();
        let path = folder.path().join("a.sock");
        let (listener, file) = listen(&path).expect("bound");
        assert_eq!(mode(&path), 0o660);
        assert!(connects(&path));
        drop((listener, file));
        assert!(!path.exists());
        let open = ListenOptions {
            unix_mode: 0o666,
            ..ListenOptions::default()
        };
        let _bound = bind(&path, &open).expect("bound again");
        assert_eq!(mode(&path), 0o666);
    }

    #[test]
    fn what_a_killed_process_left_is_replaced_and_a_living_one_stays() {
        let folder = folder();
        let path = folder.path().join("a.sock");
        let (listener, file) = listen(&path).expect("bound");
        let error = listen(&path).expect_err("somebody listens");
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains("another process"), "{error}");
        assert!(connects(&path), "the first one still listens");
        // A kill closes the socket and leaves the file.
        drop(listener);
        std::mem::forget(file);
        assert!(path.exists() && !connects(&path));
        let _second = listen(&path).expect("nobody listens");
        assert!(connects(&path));
    }

    #[test]
    fn a_file_that_another_process_has_put_there_stays() {
        let folder = folder();
        let path = folder.path().join("a.sock");
        let (listener, file) = listen(&path).expect("bound");
        fs::remove_file(&path).expect("somebody takes it away");
        let _second = listen(&path).expect("nothing is there");
        drop((file, listener));
        assert!(connects(&path), "the first one removes its own file only");
    }

    #[test]
    fn a_listener_without_room_is_alive() {
        let folder = folder();
        let path = folder.path().join("a.sock");
        let options = ListenOptions {
            backlog: 0,
            ..ListenOptions::default()
        };
        let _bound = bind(&path, &options).expect("bound");
        let fill = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
            socket.set_nonblocking(true).expect("nonblocking");
            let connected = socket.connect(&SockAddr::unix(&path).expect("a path"));
            connected.map(|()| socket)
        };
        let mut held = Vec::new();
        while let Ok(socket) = fill() {
            held.push(socket);
        }
        let error = listen(&path).expect_err("it is alive");
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
    }

    #[test]
    fn no_other_file_is_ever_removed() {
        let folder = folder();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "kept").expect("written");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        for path in [&file, &link, &folder.path().to_owned()] {
            let error = listen(path).expect_err("taken");
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
            assert!(error.to_string().contains("is not a socket"), "{error}");
        }
        assert_eq!(fs::read_to_string(&link).expect("both"), "kept");
        let datagrams = folder.path().join("datagrams");
        let _bound = UnixDatagram::bind(&datagrams).expect("bound");
        assert!(listen(&datagrams).is_err() && datagrams.exists());
        let nowhere = listen(&folder.path().join("none/a.sock")).expect_err("no directory");
        assert!(nowhere.to_string().contains("directory"), "{nowhere}");
    }

    #[test]
    fn starts_at_the_same_time_leave_one_listener_that_is_reached() {
        let folder = folder();
        let path = folder.path().join("a.sock");
        for _ in 0..20 {
            // A file without a listener, found by all starts.
            drop(UnixListener::bind(&path).expect("bound"));
            let start = || {
                thread::spawn({
                    let path = path.clone();
                    move || listen(&path).ok()
                })
            };
            let starts: Vec<_> = (0..8).map(|_| start()).collect();
            let bound = starts
                .into_iter()
                .filter_map(|start| start.join().expect("no panic"));
            let bound: Vec<_> = bound.collect();
            assert_eq!(bound.len(), 1);
            assert!(connects(&path), "the one that says so listens there");
        }
    }

    #[test]
    fn the_longest_path_is_bound_and_a_longer_one_is_not() {
        let folder = folder();
        let name = |bytes: usize| {
            let rest = bytes - folder.path().as_os_str().len() - 1;
            folder.path().join("x".repeat(rest))
        };
        assert!(listen(&name(PATH_BYTES_MAX)).is_ok());
        assert!(listen(&name(PATH_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn an_owner_is_set_or_the_start_fails() {
        let folder = folder();
        let path = folder.path().join("a.sock");
        let me = fs::metadata(folder.path()).expect("a folder");
        let options = |owner: &str| ListenOptions {
            unix_owner: owner.parse::<Owner>().expect("an owner"),
            ..ListenOptions::default()
        };
        let mine = format!("{}:{}", me.uid(), me.gid());
        let bound = bind(&path, &options(&mine)).expect("what it is anyway");
        drop(bound);
        let error = bind(&path, &options("nobody-of-this-name")).expect_err("unknown");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(!path.exists());
    }

    fn owner(text: &str) -> Option<Owner> {
        text.parse().ok()
    }

    #[test]
    fn an_owner_is_a_user_a_group_or_both() {
        for text in ["", "www-data", ":www-data", "weirgate:www-data", "0:33"] {
            assert_eq!(owner(text).map(|o| o.to_string()).as_deref(), Some(text));
        }
        assert_eq!(owner("a:").map(|o| o.to_string()).as_deref(), Some("a"));
        for bad in ["a:b:c", "a b", "../a", "a:b/c"] {
            assert_eq!(owner(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_are_looked_up_and_numbers_are_not() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:34::/var/www:/bin/sh\nodd\n";
        assert_eq!(find("www-data", passwd), Some(33));
        assert_eq!(find("www", passwd), None);
        assert_eq!(find("odd", passwd), None);
        let ids = |text: &str| owner(text).expect("an owner").ids();
        let owner = |user, group| OwnerIds { user, group };
        assert_eq!(
            ids("4711:12").expect("numbers"),
            owner(Some(4711), Some(12))
        );
        assert_eq!(ids("root").expect("is everywhere"), owner(Some(0), None));
        let error = ids(":no-such-group").expect_err("unknown");
        assert!(error.to_string().contains("/etc/group"), "{error}");
    }
}
