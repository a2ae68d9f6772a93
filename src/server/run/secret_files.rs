//! Secrets in files: read again after a change, and at SIGHUP. Everybody who uses such a secret reads it at each use, so a
//! new text counts from then on: for tokens and requests at once, for a bus at the next connection.

use super::files;
use super::fingerprints::{Attempt, Fingerprints};
use super::reload::{Reload, Reloaded};
use crate::settings::SecretFile;
use crate::settings::secret_text;

/// The files of all secrets of a gateway.
pub(super) struct SecretFiles {
    files: Vec<SecretFile>,
    fingerprints: Fingerprints,
}

impl SecretFiles {
    /// Watches the files; `None` if no secret is in a file.
    pub(super) fn new(files: Vec<SecretFile>) -> Option<Self> {
        let fingerprints = Fingerprints::take(files.iter().map(|file| file.path.clone()));
        (!files.is_empty()).then_some(Self {
            files,
            fingerprints,
        })
    }
}

impl Reload for SecretFiles {
    fn what(&self) -> &'static str {
        "secrets"
    }

    fn poll_change(&mut self) -> bool {
        self.fingerprints.poll_change()
    }

    /// All files are read before the first secret changes: two of them may belong together.
    fn reload(&mut self) -> Result<Reloaded, String> {
        let files = self.files.iter();
        let read = |attempt: &mut Attempt| files.map(|file| read(file, attempt)).collect();
        let texts: Result<Option<Vec<String>>, String> = self.fingerprints.read(read);
        let texts = texts.map_err(|error| format!("{error}; the secrets stay as they were"))?;
        // `None`: a file has changed meanwhile. A later check finds that.
        let Some(texts) = texts else {
            return Ok(Reloaded::Unchanged);
        };
        let both = self.files.iter().zip(&texts);
        let changed: Vec<_> = both
            .filter(|(file, text)| file.secret.replace(text))
            .collect();
        if changed.is_empty() {
            return Ok(Reloaded::Unchanged);
        }
        let settings: Vec<&str> = changed.iter().map(|(file, _)| file.name.as_str()).collect();
        tracing::info!(?settings, "secrets have changed");
        for weakness in (changed.iter()).filter_map(|(file, text)| file.setting.weakness(text)) {
            tracing::warn!("{weakness}");
        }
        Ok(Reloaded::Changed)
    }
}

/// The text of a file, if it is a value of its setting. The error has nothing of the text.
fn read(file: &SecretFile, attempt: &mut Attempt) -> Result<String, String> {
    let wrong = |error: &str| format!("{} {}: {error}", file.name, file.path.display());
    let text = attempt.file(files::read_again(&file.path));
    let text = secret_text(text).map_err(|error| wrong(&error))?;
    let value = file.setting.kind.parse(&text);
    let secret = value.as_ref().and_then(|value| value.secret());
    match secret {
        Some(secret) => Ok(secret.expose().to_string()),
        None => Err(wrong(&format!("allowed: {}", file.setting.kind.allowed()))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::settings::{Rows, TablePart};
    use weirgate_wire::base::Secret;

    /// A file with the value of a row of the table.
    fn file(folder: &Path, flag: &str, name: &str, text: &str) -> SecretFile {
        let rows = Rows::gateway(&[TablePart::Tokens, TablePart::JetStream]);
        let mut rows = rows.settings().into_iter();
        let path = folder.join(name);
        fs::write(&path, text).expect("written");
        SecretFile {
            name: name.to_owned(),
            path,
            setting: rows.find(|row| row.flag == flag).expect("a row"),
            secret: Secret::new(text),
        }
    }

    /// A reload warns as a start does: a secret that can be guessed counts from then on.
    #[test]
    fn a_changed_secret_that_can_be_guessed_is_warned_of() {
        let folder = tempfile::tempdir().expect("a folder");
        let (short, long) = (
            "0123456789abcdef0123456789abcde",
            "0123456789abcdef0123456789abcdef",
        );
        let secret = file(folder.path(), "jwt-secret", "JWT_SECRET_FILE", long);
        let mut files = SecretFiles::new(vec![secret.clone()]).expect("files");
        let mut log_of = |text: &str| {
            fs::write(&secret.path, text).expect("written");
            let lines = tempfile::NamedTempFile::new().expect("a file");
            let writer = Arc::new(lines.reopen().expect("the file"));
            let subscriber = tracing_subscriber::fmt().with_writer(writer).finish();
            let reload = || files.reload().expect("good files");
            tracing::subscriber::with_default(subscriber, reload);
            fs::read_to_string(lines.path()).expect("text")
        };
        let warning = "JWT_SECRET has less than 32 bytes and can be guessed";
        let log = log_of(short);
        assert!(log.contains(warning) && !log.contains(short), "{log}");
        assert_eq!(log_of(short), "", "it is the same");
        assert!(!log_of(long).contains(warning));
    }

    #[test]
    fn changed_files_count_together_and_broken_ones_change_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let token = file(folder.path(), "jwt-secret", "TOKEN_FILE", "one");
        let url = file(folder.path(), "nats-url", "URL_FILE", "nats://u:one@h");
        let mut files = SecretFiles::new(vec![token.clone(), url.clone()]).expect("files");
        assert_eq!(files.reload(), Ok(Reloaded::Unchanged));
        let texts = || [&token, &url].map(|file| file.secret.expose().to_string());

        fs::write(&token.path, "two\n").expect("written");
        for (wrong, says) in [("", "nothing in it"), ("http://s3cret@h", "allowed: ")] {
            fs::write(&url.path, wrong).expect("written");
            let error = files.reload().expect_err("a broken file");
            assert!(
                error.contains("URL_FILE /") && error.contains(says),
                "{error}"
            );
            assert!(!error.contains("s3cret"), "{error}");
            assert_eq!(texts(), ["one", "nats://u:one@h"]);
        }
        fs::write(&url.path, "nats://u:two@h\n").expect("written");
        assert_eq!(files.reload(), Ok(Reloaded::Changed));
        assert_eq!(texts(), ["two", "nats://u:two@h"]);
    }
}
