//! The keys of tokens, from settings, files and a URL. Changed files are read again.
//!
//! This module reads keys; [`crate::auth`] decides how a key may be used. Used by
//! the gateways with tokens and by `weirgate token inspect`.
//!
//! | file | has |
//! | --- | --- |
//! | `fetches` | when to fetch the set at the URL, and the thread that fetches it |

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod fetches;

pub(crate) use self::fetches::{KeyFetchStats, KeyFetches};
use crate::auth::{KeyRing, KeySet};
use crate::services::fetch::{Fetch, FetchError, FetchLimits};
use weirgate_runtime::tls_roots;
use weirgate_server::run::{Fingerprints, files};
use weirgate_server::settings::{AuthSettings, KeySetUrl};

/// Why there are no keys: an error of the operator. The text contains nothing of a key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyFileError {
    /// The set at the URL cannot be fetched.
    #[error("--jwt-jwks-url {url}: {error}")]
    Fetch {
        /// The URL without its query.
        url: String,
        /// The reason.
        error: FetchError,
    },
    /// A secret, a file or the fetched set has no valid keys: the setting, and the reason.
    #[error("{0}")]
    Wrong(String),
}

/// The setting for files with one key each.
const PEM_FILES: &str = "jwt-public-key-files";

/// The sources of keys.
#[derive(Clone, Debug)]
pub(crate) struct KeyFiles(AuthSettings);

impl KeyFiles {
    /// The key files of these settings.
    pub(crate) fn new(settings: &AuthSettings) -> Self {
        Self(settings.clone())
    }

    /// Reads all keys, and fetches the set at the URL.
    ///
    /// # Errors
    /// The first error.
    pub(crate) fn read(&self) -> Result<KeySet, KeyFileError> {
        let texts = self.texts(files::read)?;
        let Some(url) = KeyUrl::of(&self.0)? else {
            return self.keys(&texts, None);
        };
        let fetched = url.fetch().map_err(|error| url.failed(error))?;
        self.keys(&texts, Some(&fetched))
    }

    /// Reads the keys in files, and keeps texts and fingerprints for later comparisons. Returns the keys in force, and
    /// the watch that reads the files again. The keys at the URL are not fetched here, but a fetch is due from now on.
    ///
    /// # Errors
    /// The first error.
    pub(crate) fn load(self) -> Result<(KeysInForce, KeyWatch), KeyFileError> {
        let fingerprints = Fingerprints::take(self.paths().cloned());
        let texts = self.texts(files::read)?;
        // `None`: the set at the URL is fetched later.
        let ring = KeyRing::new(self.keys(&texts, None)?);
        let url = KeyUrl::of(&self.0)?;
        if url.is_some() {
            ring.expect_newer();
        }
        let watch = KeyWatch {
            files: self.clone(),
            fingerprints,
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
    fn texts(
        &self,
        mut read: impl FnMut(&Path) -> io::Result<Vec<u8>>,
    ) -> Result<Vec<Vec<u8>>, KeyFileError> {
        let read = |(number, path): (usize, &PathBuf)| {
            read(path).map_err(|error| self.wrong_file(number, path, &error))
        };
        self.paths().enumerate().map(read).collect()
    }

    /// The secrets, the keys in `texts`, those of the files in the order of [`Self::paths`], and the keys in the set
    /// that was `fetched` from the URL. A broken key is an error in a file, and is left out in a fetched set.
    fn keys(&self, texts: &[Vec<u8>], fetched: Option<&[u8]>) -> Result<KeySet, KeyFileError> {
        let mut keys = KeySet::default();
        for secret in self.0.jwt_secret.iter().chain(&self.0.jwt_secret_before) {
            let added = keys.add_secret(secret.secret());
            added.map_err(|error| KeyFileError::Wrong(format!("JWT_SECRET: {error}")))?;
        }
        for (number, (path, text)) in self.paths().zip(texts).enumerate() {
            let added = match self.flag(number) {
                PEM_FILES => keys.add_pem(&String::from_utf8_lossy(text)),
                _ => keys.add_jwks(text),
            };
            added.map_err(|error| self.wrong_file(number, path, &error))?;
        }
        if let (Some(url), Some(fetched)) = (&self.0.jwks_url, fetched) {
            let added = keys.add_foreign_jwks(fetched);
            let wrong = |error| KeyFileError::Wrong(format!("--jwt-jwks-url {url}: {error}"));
            added.map_err(wrong)?;
        }
        Ok(keys)
    }

    fn wrong_file(&self, number: usize, path: &Path, error: &dyn Display) -> KeyFileError {
        let flag = self.flag(number);
        KeyFileError::Wrong(format!("--{flag} {}: {error}", path.display()))
    }

    /// The setting of the file with this index in [`Self::paths`].
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
pub(crate) struct KeyUrl {
    url: KeySetUrl,
    fetch: Fetch,
}

impl KeyUrl {
    /// The URL in the settings, if any. Reads the file with the authorities.
    ///
    /// # Errors
    /// The authorities cannot be read.
    pub(crate) fn of(settings: &AuthSettings) -> Result<Option<Self>, KeyFileError> {
        let Some(url) = &settings.jwks_url else {
            return Ok(None);
        };
        let authorities = settings.jwks_ca_file.as_deref();
        let tls = url
            .wants_tls()
            // `None`: the provider needs no certificate of weirgate.
            .then(|| tls_roots::client(authorities, None));
        let tls = tls
            .transpose()
            .map_err(|error| KeyFileError::Wrong(format!("--jwt-jwks-ca-file: {error}")))?;
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
    pub(crate) fn shown(&self) -> String {
        self.url.to_string()
    }

    /// Fetches the text of the set. Blocks for five seconds at the most.
    ///
    /// # Errors
    /// There is no response, or it is not a document of at most 1 MiB.
    pub(crate) fn fetch(&self) -> Result<Vec<u8>, FetchError> {
        self.fetch.get()
    }

    /// The error of a [`fetch`](Self::fetch), with its setting.
    pub(super) fn failed(&self, error: FetchError) -> KeyFileError {
        let url = self.shown();
        KeyFileError::Fetch { url, error }
    }
}

/// The effect of changed keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeysChanged {
    /// Keys in force from now on.
    pub keys: usize,
    /// Keys in force before the change.
    pub before: usize,
    /// The files whose text has changed.
    pub files: Vec<PathBuf>,
}

/// The keys in force, and the texts of their files. Contains only public keys, except for the secrets in the settings.
#[derive(Debug)]
pub(crate) struct KeysInForce {
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
pub(crate) struct KeyWatch {
    files: KeyFiles,
    fingerprints: Fingerprints,
}

impl KeyWatch {
    /// Returns true if a file has changed since the last read, and none since the last check.
    pub(crate) fn poll_change(&mut self) -> bool {
        self.fingerprints.poll_change()
    }

    /// Reads all files again, for [`KeysInForce::take_files`]. Returns `None` if a file changed during the read; a
    /// later look finds that file.
    ///
    /// # Errors
    /// The first file that cannot be read.
    pub(crate) fn read_again(&mut self) -> Result<Option<Vec<Vec<u8>>>, KeyFileError> {
        let files = &self.files;
        self.fingerprints
            .read(|attempt| files.texts(|path| attempt.file(files::read_again(path))))
    }
}

impl KeysInForce {
    /// Returns the keys, for the check of tokens.
    pub(crate) fn ring(&self) -> KeyRing {
        self.ring.clone()
    }

    /// Whether the keys may change, because there are files or a URL.
    pub(crate) fn may_change(&self) -> bool {
        self.files.paths().next().is_some() || self.url.is_some()
    }

    /// The URL of keys, if any.
    pub(crate) fn url(&self) -> Option<&KeyUrl> {
        self.url.as_ref()
    }

    /// Requests a fetch at once.
    pub(crate) fn request_fetch(&mut self) {
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
    pub(crate) fn take_fetched(
        &mut self,
        text: Vec<u8>,
    ) -> Result<Option<KeysChanged>, KeyFileError> {
        if self.fetched.as_ref() == Some(&text) {
            return Ok(None);
        }
        let keys = self.files.keys(&self.texts, Some(&text))?;
        self.fetched = Some(text);
        Ok(Some(self.put_in_force(keys, Vec::new())))
    }

    /// Replaces the keys by those of `files`. Returns how many there are, and were.
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
    pub(crate) fn take_files(
        &mut self,
        texts: Vec<Vec<u8>>,
    ) -> Result<Option<KeysChanged>, KeyFileError> {
        if texts == self.texts {
            return Ok(None);
        }
        let keys = self.files.keys(&texts, self.fetched.as_deref())?;
        let both = self.texts.iter().zip(&texts);
        let changed = self.files.paths().zip(both).filter(|(_, (a, b))| a != b);
        let changed = changed.map(|(path, _)| path.clone()).collect();
        let reported = self.put_in_force(keys, changed);
        self.texts = texts;
        Ok(Some(reported))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use weirgate_server::settings::SecretText;

    /// The keys in force, and their files.
    struct Both(KeysInForce, KeyWatch);

    impl Both {
        fn of(files: KeyFiles) -> Self {
            let (keys, watch) = files.load().expect("keys");
            Self(keys, watch)
        }

        fn poll_change(&mut self) -> bool {
            self.1.poll_change()
        }

        fn read_again(&mut self) -> Result<Option<KeysChanged>, KeyFileError> {
            let texts = self.1.read_again()?.expect("no change meanwhile");
            self.0.take_files(texts)
        }

        /// The numbers of keys after and before a fetch of a good set.
        fn fetched(&mut self, text: &str) -> Option<(usize, usize)> {
            let changed = self.0.take_fetched(text.into()).expect("a set")?;
            Some((changed.keys, changed.before))
        }
    }

    const JWKS: &str = include_str!("../../tests/vectors/tokens/jwks.json");
    const RSA: &str = include_str!("../../tests/vectors/tokens/rsa.pem");
    const P256: &str = include_str!("../../tests/vectors/tokens/p256.pem");

    fn settings(pem: &[&Path], jwks: Option<&Path>) -> AuthSettings {
        AuthSettings {
            jwt_secret: Some(SecretText::new("secret")),
            public_key_files: pem.iter().map(|&path| path.to_owned()).collect(),
            jwks_file: jwks.map(Path::to_owned),
            ..AuthSettings::default()
        }
    }

    #[test]
    fn a_set_that_changes_is_read_again_and_a_broken_one_is_not_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let (set, next) = (folder.path().join("set"), folder.path().join("next"));
        fs::write(&set, JWKS).expect("written");
        let files = KeyFiles::new(&settings(&[], Some(&set)));
        let mut keys = Both::of(files);
        let ring = keys.0.ring();
        assert_eq!(ring.current().len(), 4);
        assert!(keys.0.may_change() && !keys.poll_change());
        assert_eq!(keys.read_again().expect("the same"), None);
        let settled = |keys: &mut Both| !keys.poll_change() && keys.poll_change();
        // Replaced, as for a mounted secret; then written in place; then removed, without an effect.
        fs::write(&next, JWKS.replacen("\"sig\"", "\"enc\"", 1)).expect("written");
        fs::rename(&next, &set).expect("renamed");
        assert!(settled(&mut keys), "another file");
        let changed = keys.read_again().expect("a set").expect("another one");
        let files = vec![set.clone()];
        assert_eq!((changed.keys, changed.before, changed.files), (3, 4, files));
        assert_eq!(ring.current().len(), 3);
        fs::write(&set, "{").expect("written");
        assert!(settled(&mut keys), "another length");
        keys.read_again().expect_err("broken");
        assert_eq!(ring.current().len(), 3);
        assert!(!settled(&mut keys), "a broken file is told once");
        fs::remove_file(&set).expect("removed");
        assert!(settled(&mut keys));
        keys.read_again().expect_err("gone");
        assert_eq!(ring.current().len(), 3);
        fs::write(&set, JWKS).expect("written");
        assert!(settled(&mut keys));
        assert_eq!(keys.read_again().expect("a set").expect("new").keys, 4);
    }

    /// The first key is complete long before the last one is written.
    #[test]
    fn a_file_that_is_being_written_is_read_when_its_writer_is_done() {
        let folder = tempfile::tempdir().expect("a folder");
        let pem = folder.path().join("pem");
        let new = format!("{RSA}{P256}");
        fs::write(&pem, RSA).expect("written");
        let mut keys = Both::of(KeyFiles::new(&settings(&[&pem], None)));
        assert_eq!(keys.0.ring().current().len(), 2);
        for written in [RSA.len() - 20, RSA.len() + 20, new.len()] {
            fs::write(&pem, &new[..written]).expect("written");
            assert!(!keys.poll_change(), "{written} bytes");
        }
        assert!(keys.poll_change());
        let changed = keys.read_again().expect("keys").expect("others");
        assert_eq!((changed.keys, changed.before), (3, 2));
        assert!(!keys.poll_change() && !keys.poll_change());
    }

    #[test]
    fn of_two_files_a_broken_one_keeps_both_as_they_were() {
        let folder = tempfile::tempdir().expect("a folder");
        let (pem, set) = (folder.path().join("pem"), folder.path().join("set"));
        fs::write(&pem, RSA).expect("written");
        fs::write(&set, JWKS).expect("written");
        let files = KeyFiles::new(&settings(&[&pem], Some(&set)));
        let mut keys = Both::of(files);
        assert_eq!(keys.0.ring().current().len(), 5);
        fs::write(&set, JWKS.replacen("\"sig\"", "\"enc\"", 1)).expect("written");
        fs::write(&pem, "nothing").expect("written");
        let error = keys.read_again().expect_err("broken").to_string();
        assert!(error.contains("pem: no PEM public key"), "{error}");
        assert_eq!(keys.0.ring().current().len(), 5);
        fs::write(&pem, RSA).expect("written");
        let changed = keys.read_again().expect("keys").expect("another set");
        assert_eq!((changed.keys, changed.before), (4, 5));
        assert_eq!(changed.files, [set]);
    }

    #[test]
    fn a_fetched_set_stands_beside_the_files_and_a_broken_one_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let pem = folder.path().join("pem");
        fs::write(&pem, RSA).expect("written");
        let mut settings = settings(&[&pem], None);
        settings.jwks_url = KeySetUrl::parse("http://127.0.0.1:1/keys");
        let mut keys = Both::of(KeyFiles::new(&settings));
        let ring = keys.0.ring();
        assert_eq!((ring.current().len(), ring.expects_newer()), (2, true));
        assert!(keys.0.may_change() && keys.0.url().is_some());
        assert_eq!(keys.fetched(JWKS), Some((5, 2)));
        assert_eq!(keys.fetched(JWKS), None, "the same");
        for broken in ["", "{", "{\"keys\":[]}", "<html>"] {
            let error = keys.0.take_fetched(broken.into()).expect_err(broken);
            let shown = error.to_string();
            assert!(
                shown.starts_with("--jwt-jwks-url http://127.0.0.1:1/keys: no "),
                "{shown}"
            );
            assert_eq!(ring.current().len(), 5, "{broken}");
        }
        // Both change apart from each other.
        fs::write(&pem, format!("{RSA}{P256}")).expect("written");
        assert!(!keys.poll_change() && keys.poll_change());
        let changed = keys.read_again().expect("keys").expect("others");
        assert_eq!((changed.keys, changed.before), (6, 5));
        let next = JWKS.replacen("\"sig\"", "\"enc\"", 1);
        assert_eq!(keys.fetched(&next), Some((5, 6)));
        keys.0.request_fetch();
        assert!(keys.0.take_request() && !keys.0.take_request());
    }

    #[test]
    fn a_secret_and_the_one_before_are_keys() {
        let mut settings = settings(&[], None);
        let keys = |settings: &AuthSettings| KeyFiles::new(settings).read().expect("keys").len();
        settings.jwt_secret_before = Some(SecretText::new("before"));
        assert_eq!(keys(&settings), 2);
        settings.jwt_secret = None;
        assert_eq!(keys(&settings), 1);
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
