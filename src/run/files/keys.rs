//! The keys of tokens, from settings, files and a URL. Changed files are read again.
//!
//! This module reads keys; [`crate::auth`] decides how a key may be used. Used by `kinds` and by `weirgate token`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Prints;
use crate::auth::{KeyError, KeyRing, KeySet};
use crate::base::tls_roots::{self, TrustError};
use crate::http::{Fetch, FetchError, FetchLimits};
use crate::settings::{AuthSettings, KeySetUrl};

/// Why there are no keys: an error of the operator. The text contains nothing of a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read.
    #[error("--{flag} {}: {error}", path.display())]
    Read {
        /// The setting that names the file.
        flag: &'static str,
        /// The file, with the name in the settings.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// The file has no valid keys.
    #[error("--{flag} {}: {error}", path.display())]
    Keys {
        /// The setting that names the file.
        flag: &'static str,
        /// The file, with the name in the settings.
        path: PathBuf,
        /// The error in the file.
        error: KeyError,
    },
    /// The set cannot be fetched.
    #[error("--jwt-jwks-url {url}: {error}")]
    Fetch {
        /// The URL without its query.
        url: String,
        /// The reason.
        error: FetchError,
    },
    /// The fetched set has no valid keys.
    #[error("--jwt-jwks-url {url}: {error}")]
    Fetched {
        /// The URL without its query.
        url: String,
        /// The error in the set.
        error: KeyError,
    },
    /// The authorities for the URL's certificate cannot be read.
    #[error("--jwt-jwks-ca-file: {0}")]
    Authorities(TrustError),
    /// The secret cannot be added.
    #[error("JWT_SECRET: {0}")]
    Secret(KeyError),
}

/// The setting for files with one key each.
const PEM_FILES: &str = "jwt-public-key-files";

type ReadFile = fn(&Path) -> io::Result<Vec<u8>>;

/// The sources of keys.
#[derive(Clone, Debug)]
pub struct KeyFiles(AuthSettings);

impl KeyFiles {
    /// The key files of these settings.
    pub fn new(settings: &AuthSettings) -> Self {
        Self(settings.clone())
    }

    /// Reads all keys, and fetches the set at the URL.
    ///
    /// # Errors
    /// The first error.
    pub fn read(&self) -> Result<KeySet, KeyFileError> {
        let texts = self.texts(super::read)?;
        let Some(url) = KeyUrl::of(&self.0)? else {
            return self.keys(&texts, None);
        };
        let fetched = url.fetch().map_err(|error| KeyFileError::Fetch {
            url: url.shown(),
            error,
        })?;
        self.keys(&texts, Some(&fetched))
    }

    /// Reads the keys in files, and keeps texts and fingerprints for later comparisons. Returns the keys in force, and
    /// the watch that reads the files again. The keys at the URL are not fetched here, but a fetch is due from now on.
    ///
    /// # Errors
    /// The first error.
    pub fn in_force(self) -> Result<(KeysInForce, KeyWatch), KeyFileError> {
        let prints = Prints::now(self.paths().cloned());
        let texts = self.texts(super::read)?;
        let ring = KeyRing::new(self.keys(&texts, None)?);
        let url = KeyUrl::of(&self.0)?;
        if url.is_some() {
            ring.expect_newer();
        }
        let watch = KeyWatch {
            files: self.clone(),
            prints,
        };
        let in_force = KeysInForce {
            files: self,
            ring,
            texts,
            url,
            fetched: None,
            is_requested: false,
        };
        Ok((in_force, watch))
    }

    /// The text of each file.
    fn texts(&self, read: ReadFile) -> Result<Vec<Vec<u8>>, KeyFileError> {
        let read = |(number, path): (usize, &PathBuf)| {
            read(path).map_err(|error| KeyFileError::Read {
                flag: self.flag(number),
                path: path.clone(),
                error,
            })
        };
        self.paths().enumerate().map(read).collect()
    }

    /// The secrets, and the keys in the texts of the files and of the URL.
    fn keys(&self, texts: &[Vec<u8>], fetched: Option<&[u8]>) -> Result<KeySet, KeyFileError> {
        let mut keys = KeySet::default();
        for secret in self.0.jwt_secret.iter().chain(&self.0.jwt_secret_before) {
            let added = keys.add_secret(secret.expose().as_bytes());
            added.map_err(KeyFileError::Secret)?;
        }
        for (number, (path, text)) in self.paths().zip(texts).enumerate() {
            let flag = self.flag(number);
            let added = match flag {
                PEM_FILES => keys.add_pem(&String::from_utf8_lossy(text)),
                _ => keys.add_jwks(text),
            };
            added.map_err(|error| KeyFileError::Keys {
                flag,
                path: path.clone(),
                error,
            })?;
        }
        if let (Some(url), Some(fetched)) = (&self.0.jwks_url, fetched) {
            let added = keys.add_foreign_jwks(fetched);
            added.map_err(|error| KeyFileError::Fetched {
                url: url.to_string(),
                error,
            })?;
        }
        Ok(keys)
    }

    /// The setting of the file with this number.
    fn flag(&self, number: usize) -> &'static str {
        match number < self.0.public_key_files.len() {
            true => PEM_FILES,
            false => "jwt-jwks-file",
        }
    }

    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.public_key_files.iter().chain(&self.0.jwks_file)
    }
}

/// The time for a whole fetch, from the name lookup to the last byte.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The most bytes of a fetched key set: a larger response is not a key set.
const KEY_SET_BYTES_MAX: usize = 1024 * 1024;

/// A key set at a URL, ready to be fetched.
#[derive(Clone, Debug)]
pub struct KeyUrl {
    url: KeySetUrl,
    fetch: Fetch,
}

impl KeyUrl {
    /// The URL in the settings, if any. Reads the file with the authorities.
    ///
    /// # Errors
    /// The authorities cannot be read.
    pub fn of(settings: &AuthSettings) -> Result<Option<Self>, KeyFileError> {
        let Some(url) = &settings.jwks_url else {
            return Ok(None);
        };
        let authorities = settings.jwks_ca_file.as_deref();
        let tls = url.wants_tls().then(|| tls_roots::client(authorities));
        let tls = tls.transpose().map_err(KeyFileError::Authorities)?;
        let limits = FetchLimits {
            whole: FETCH_TIMEOUT,
            bytes_max: KEY_SET_BYTES_MAX,
        };
        // The setting accepts only URLs that can be fetched.
        let fetch = Fetch::new(url.url(), tls, limits);
        Ok(fetch.map(|fetch| Self {
            url: url.clone(),
            fetch,
        }))
    }

    /// The URL without its query, for people.
    pub fn shown(&self) -> String {
        self.url.to_string()
    }

    /// Fetches the text of the set. Blocks for five seconds at the most.
    ///
    /// # Errors
    /// There is no response, or it is not a document of at most 1 MiB.
    pub fn fetch(&self) -> Result<Vec<u8>, FetchError> {
        self.fetch.get()
    }
}

/// The effect of changed keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysChanged {
    /// Keys in force from now on.
    pub keys: usize,
    /// Keys in force before the change.
    pub before: usize,
    /// The files whose text has changed.
    pub files: Vec<PathBuf>,
}

/// The keys in force, and the texts of their files. Contains only public keys, except for the secrets in the settings.
#[derive(Debug)]
pub struct KeysInForce {
    files: KeyFiles,
    ring: KeyRing,
    texts: Vec<Vec<u8>>,
    url: Option<KeyUrl>,
    /// The last good text of the URL.
    fetched: Option<Vec<u8>>,
    /// Whether the operator requested a fetch at once.
    is_requested: bool,
}

/// The key files, read again without locking the keys in force, so that fetches from the URL do not wait for a file.
#[derive(Debug)]
pub struct KeyWatch {
    files: KeyFiles,
    prints: Prints,
}

impl KeyWatch {
    /// Returns true if a file has changed since the last read, and none since the last look.
    pub fn look(&mut self) -> bool {
        self.prints.look()
    }

    /// Reads all files again, for [`KeysInForce::take_files`]. Returns `None` if a file changed during the read; a
    /// later look finds that file.
    ///
    /// # Errors
    /// The first file that cannot be read.
    pub fn read_again(&mut self) -> Result<Option<Vec<Vec<u8>>>, KeyFileError> {
        self.prints.will_read();
        let texts = self.files.texts(super::read_again)?;
        Ok((!self.prints.have_changed()).then_some(texts))
    }
}

impl KeysInForce {
    /// Returns the keys, for the check of tokens.
    pub fn ring(&self) -> KeyRing {
        self.ring.clone()
    }

    /// Whether the keys may change, because there are files or a URL.
    pub fn may_change(&self) -> bool {
        self.files.paths().next().is_some() || self.url.is_some()
    }

    /// The URL of keys, if any.
    pub fn url(&self) -> Option<&KeyUrl> {
        self.url.as_ref()
    }

    /// Requests a fetch at once.
    pub fn request_fetch(&mut self) {
        self.is_requested = true;
    }

    /// Returns whether a fetch at once was requested, and clears the request.
    pub(super) fn take_request(&mut self) -> bool {
        std::mem::take(&mut self.is_requested)
    }

    /// Puts the keys of a fetched set in force, beside the keys of the files. Returns `None` if the text is unchanged.
    /// A broken set changes nothing.
    ///
    /// # Errors
    /// The set is broken.
    pub fn take_fetched(&mut self, text: Vec<u8>) -> Result<Option<KeysChanged>, KeyFileError> {
        if self.fetched.as_ref() == Some(&text) {
            return Ok(None);
        }
        let keys = self.files.keys(&self.texts, Some(&text))?;
        self.fetched = Some(text);
        Ok(Some(self.put_in_force(keys, Vec::new())))
    }

    fn put_in_force(&self, keys: KeySet, files: Vec<PathBuf>) -> KeysChanged {
        let changed = KeysChanged {
            keys: keys.len(),
            before: self.ring.current().len(),
            files,
        };
        self.ring.replace(keys);
        changed
    }

    /// Puts the keys in the files' new texts in force. Returns `None` if every text is unchanged. A broken file changes
    /// nothing.
    ///
    /// # Errors
    /// The first error.
    pub fn take_files(&mut self, texts: Vec<Vec<u8>>) -> Result<Option<KeysChanged>, KeyFileError> {
        if texts == self.texts {
            return Ok(None);
        }
        let keys = self.files.keys(&texts, self.fetched.as_deref())?;
        let both = self.texts.iter().zip(&texts);
        let changed = self.files.paths().zip(both).filter(|(_, (a, b))| a != b);
        let changed = changed.map(|(path, _)| path.clone()).collect();
        let told = self.put_in_force(keys, changed);
        self.texts = texts;
        Ok(Some(told))
    }
}

#[cfg(test)]
mod tests;
