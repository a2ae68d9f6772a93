//! The keys of tokens, from settings and files, which are read again when they change.
//!
//! Reading is this module's, what a key is good for [`crate::auth`]'s. Used by `run` and by
//! `weirgate token`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::auth::{KeyError, KeyRing, KeySet};
use crate::settings::AuthSettings;

/// How often is looked whether a file has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Larger files hold something else than keys.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why there are no keys. The operator's fault; holds nothing of a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read.
    #[error("keys: {}: {error}", path.display())]
    Read {
        /// The file, as the settings name it.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file holds no keys.
    #[error("keys: {}: {error}", path.display())]
    Keys {
        /// The file, as the settings name it.
        path: PathBuf,
        /// What is wrong with it.
        error: KeyError,
    },
    /// The secret cannot be added.
    #[error("keys: {0}")]
    Secret(KeyError),
}

/// What tells a file from what it was: who replaces it changes its number, who writes into it its
/// time or length. `None` while it is not there.
type Print = Option<(u64, u64, Option<SystemTime>)>;

/// Where keys come from.
#[derive(Clone, Debug)]
pub struct KeyFiles(AuthSettings);

impl KeyFiles {
    /// Those of these settings.
    pub fn new(settings: &AuthSettings) -> Self {
        Self(settings.clone())
    }

    /// Reads everything.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(&self) -> Result<KeySet, KeyFileError> {
        let mut keys = KeySet::default();
        if let Some(secret) = &self.0.jwt_secret {
            let added = keys.add_secret(secret.expose().as_bytes());
            added.map_err(KeyFileError::Secret)?;
        }
        for path in &self.0.public_key_files {
            let text = text_of(path)?;
            let added = keys.add_pem(&String::from_utf8_lossy(&text));
            added.map_err(|error| wrong(path, error))?;
        }
        if let Some(path) = &self.0.jwks_file {
            let added = keys.add_jwks(&text_of(path)?);
            added.map_err(|error| wrong(path, error))?;
        }
        Ok(keys)
    }

    /// Looks after the files for as long as the process lives, from a thread of its own, and puts
    /// what they hold in force. A broken file changes nothing and is logged, once.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn watch(self, ring: KeyRing) -> io::Result<()> {
        if self.paths().next().is_none() {
            return Ok(());
        }
        let mut seen = self.prints();
        let look = move || {
            loop {
                thread::sleep(LOOK_EVERY);
                let now = self.prints();
                if now != seen {
                    self.read_again(&ring);
                    seen = now;
                }
            }
        };
        thread::Builder::new().name("keys".into()).spawn(look)?;
        Ok(())
    }

    fn read_again(&self, ring: &KeyRing) {
        match self.read() {
            Ok(keys) => {
                tracing::info!(keys = keys.len(), "the keys of tokens have changed");
                ring.replace(keys);
            }
            Err(error) => tracing::warn!("{error}; the keys stay as they were"),
        }
    }

    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.public_key_files.iter().chain(&self.0.jwks_file)
    }

    fn prints(&self) -> Vec<Print> {
        let print = |path: &PathBuf| {
            let found = fs::metadata(path).ok()?;
            Some((found.ino(), found.len(), found.modified().ok()))
        };
        self.paths().map(print).collect()
    }
}

fn text_of(path: &Path) -> Result<Vec<u8>, KeyFileError> {
    let read = || {
        if fs::metadata(path)?.len() > FILE_BYTES_MAX {
            let what = format!("over {FILE_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        fs::read(path)
    };
    read().map_err(|error| KeyFileError::Read {
        path: path.to_owned(),
        error,
    })
}

fn wrong(path: &Path, error: KeyError) -> KeyFileError {
    KeyFileError::Keys {
        path: path.to_owned(),
        error,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::auth::ClaimRules;
    use crate::settings::SecretText;

    const JWKS: &str = include_str!("../tests/vectors/tokens/jwks.json");
    const RSA: &str = include_str!("../tests/vectors/tokens/rsa.pem");

    fn settings(pem: &[&Path], jwks: Option<&Path>) -> AuthSettings {
        AuthSettings {
            required: true,
            api_key: None,
            jwt_secret: Some(SecretText::new("secret")),
            public_key_files: pem.iter().map(|&path| path.to_owned()).collect(),
            jwks_file: jwks.map(Path::to_owned),
            rules: ClaimRules::default(),
        }
    }

    #[test]
    fn a_set_that_changes_is_read_again_and_a_broken_one_is_not_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let (set, next) = (folder.path().join("set"), folder.path().join("next"));
        fs::write(&set, JWKS).expect("written");
        let files = KeyFiles::new(&settings(&[], Some(&set)));
        let ring = KeyRing::new(files.read().expect("keys"));
        assert_eq!(ring.current().len(), 4);
        files.watch(ring.clone()).expect("a thread");
        let wait_for = |keys: usize| {
            let begun = Instant::now();
            while ring.current().len() != keys {
                assert!(begun.elapsed() < Duration::from_secs(60), "{keys} keys");
                thread::sleep(Duration::from_millis(20));
            }
        };
        // Replaced, as a mounted secret is; then written into; then gone, which changes nothing.
        fs::write(&next, JWKS.replacen("\"sig\"", "\"enc\"", 1)).expect("written");
        fs::rename(&next, &set).expect("renamed");
        wait_for(3);
        fs::write(&set, "{").expect("written");
        thread::sleep(2 * LOOK_EVERY);
        assert_eq!(ring.current().len(), 3);
        fs::write(&set, JWKS).expect("written");
        wait_for(4);
    }

    #[test]
    fn errors_name_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
        fs::write(&good, RSA).expect("written");
        fs::write(&bad, "nothing").expect("written");
        let read = |pem: &[&Path]| KeyFiles::new(&settings(pem, None)).read();
        assert_eq!(read(&[&good]).expect("keys").len(), 2);
        for (pem, says) in [
            (vec![good.as_path(), &bad], "bad: no PEM public key"),
            (vec![&folder.path().join("none")], "none: No such file"),
        ] {
            let error = read(&pem).expect_err(says).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
