//! As whom to go to the servers, and what to trust: credentials and certificates.
//!
//! Files are read again for every connection, so one that was replaced counts from the next on.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use nats::Options;
use nkeys::KeyPair;

use super::settings::Auth;

/// What a server is shown whose URL has neither user nor token. Has no `Debug`, for it may hold a
/// password.
#[derive(Clone, Default)]
pub enum Credentials {
    /// Connect without credentials.
    #[default]
    None,
    /// User and password.
    UserPassword(String, String),
    /// A token.
    Token(String),
    /// A credentials file: the user's JWT and the seed of its key, as `nsc` writes it.
    CredsFile(PathBuf),
    /// A file with the seed of a user's key (`SU…`).
    NkeyFile(PathBuf),
}

/// What TLS needs beside a `tls://` URL. Either part being set makes every connection use TLS,
/// whatever the URL and the server say.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// A PEM file with the certificates that may sign the server's; the system's when `None`.
    pub ca: Option<PathBuf>,
    /// PEM files: our certificate with its chain, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// Whether TLS is used even where neither URL nor server ask for it.
    pub(super) fn is_demanded(&self) -> bool {
        self.ca.is_some() || self.client.is_some()
    }
}

/// Options of the crate that show `auth`, or else `credentials`, to the server.
///
/// # Errors
/// A file cannot be read or is not what it should be. The text names it and holds nothing of it.
pub(super) fn options(auth: &Auth, credentials: &Credentials) -> io::Result<Options> {
    Ok(match (auth, credentials) {
        (Auth::Token(token), _) | (Auth::None, Credentials::Token(token)) => {
            Options::with_token(token)
        }
        (Auth::UserPassword(user, password), _)
        | (Auth::None, Credentials::UserPassword(user, password)) => {
            Options::with_user_pass(user, password)
        }
        (Auth::None, Credentials::None) => Options::new(),
        (Auth::None, Credentials::CredsFile(path)) => {
            let text = read(path)?;
            Options::with_static_credentials(&text).map_err(|_| not(path, "a credentials file"))?
        }
        (Auth::None, Credentials::NkeyFile(path)) => with_nkey(path)?,
    })
}

fn with_nkey(path: &Path) -> io::Result<Options> {
    let text = read(path)?;
    // Tools write the seed alone, or with comments around it.
    let seed = text.lines().map(str::trim).find(|l| l.starts_with("SU"));
    let pair = seed.and_then(|seed| KeyPair::from_seed(seed).ok());
    let pair = pair.ok_or_else(|| not(path, "the seed of a user's nkey (SU…)"))?;
    let public = pair.public_key();
    // The crate takes no error here; without a signature the server refuses.
    let sign = move |nonce: &[u8]| pair.sign(nonce).unwrap_or_default();
    Ok(Options::with_nkey(&public, sign))
}

fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map_err(|error| unreadable(path, &error))
}

pub(super) fn unreadable(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

pub(super) fn not(path: &Path, what: &str) -> io::Error {
    let text = format!("{} does not hold {what}", path.display());
    io::Error::new(ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(auth: &Auth, credentials: &Credentials) -> Option<String> {
        let made = options(auth, credentials);
        made.err().map(|error| error.to_string())
    }

    #[test]
    fn files_that_are_wrong_are_named_and_not_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret.txt");
        fs::write(&path, "s3cret\nSUs3cret\n").expect("written");
        for wrong in [
            Credentials::CredsFile(path.clone()),
            Credentials::NkeyFile(path.clone()),
            Credentials::NkeyFile(folder.path().join("nothing.txt")),
        ] {
            let error = refused(&Auth::None, &wrong).expect("an error");
            assert!(
                error.contains(".txt") && !error.contains("s3cret"),
                "{error}"
            );
            // What the URL says comes first, and then the file does not matter.
            assert_eq!(refused(&Auth::Token("t".into()), &wrong), None);
        }
    }

    #[test]
    fn a_seed_may_have_comments_around_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("user.nk");
        let seed = KeyPair::new_user().seed().expect("a seed");
        fs::write(&path, format!("# the gateway\n{seed}\r\n")).expect("written");
        assert_eq!(refused(&Auth::None, &Credentials::NkeyFile(path)), None);
    }
}
