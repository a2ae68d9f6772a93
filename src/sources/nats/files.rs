//! The files that settings name, read before a start as they are read for each connection.

use std::io;

use super::access::{Credentials, Login, Tls};
use super::settings::NatsSettings;
use super::tls;

impl NatsSettings {
    /// Reads every file that a connection reads. `prefix` is what the flags begin with: `nats` for
    /// `--nats-creds`.
    ///
    /// # Errors
    /// The flag, the file, and what is wrong with the file; nothing of its text.
    pub fn check_files(&self, prefix: &str) -> Result<(), String> {
        let wrong = |setting: &str, error: io::Error| format!("--{prefix}-{setting}: {error}");
        let mut has_tls = self.tls.is_demanded();
        for endpoint in self.endpoints() {
            let endpoint = endpoint.map_err(|error| error.to_string())?;
            has_tls |= endpoint.tls;
            let login = Login::read(&endpoint.auth, &self.credentials);
            login.map_err(|error| wrong(setting_of(&self.credentials), error))?;
        }
        if !has_tls {
            return Ok(());
        }
        let trusting = Tls {
            ca: self.tls.ca.clone(),
            client: None,
        };
        tls::config(&trusting).map_err(|error| wrong("ca", error))?;
        let both = format!("cert and --{prefix}-key");
        tls::config(&self.tls).map_err(|error| wrong(&both, error))?;
        Ok(())
    }
}

/// The setting that names the file of these credentials.
fn setting_of(credentials: &Credentials) -> &'static str {
    match credentials {
        Credentials::CredsFile(_) => "creds",
        Credentials::NkeyFile(_) => "nkey",
        Credentials::None | Credentials::Token(_) => "token",
        Credentials::UserPassword(..) => "user",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_broken_file_is_named_with_its_setting_and_not_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "s3cret").expect("written");
        let none = folder.path().join("none");
        let with = |credentials, ca, client| {
            let tls = Tls { ca, client };
            let settings = NatsSettings::plain("nats://h", credentials, tls);
            settings.check_files("nats")
        };
        let creds = |path: &std::path::Path| Credentials::CredsFile(path.to_owned());
        let nkey = Credentials::NkeyFile(file.clone());
        let client = Some((file.clone(), none.clone()));
        for (result, says) in [
            (with(creds(&none), None, None), "--nats-creds: "),
            (with(creds(&none), None, None), "none: No such file"),
            (with(creds(&file), None, None), "not hold a credentials"),
            (with(nkey, None, None), "--nats-nkey: "),
            (with(Credentials::None, Some(none), None), "--nats-ca: "),
            (
                with(Credentials::None, None, client),
                "--nats-cert and --nats-key: ",
            ),
        ] {
            let error = result.expect_err(says);
            assert!(error.contains(says) && !error.contains("s3cret"), "{error}");
        }
        let unused = NatsSettings::plain("nats://token@h", creds(&file), Tls::default());
        assert_eq!(unused.check_files("nats"), Ok(()), "the URL has a token");
    }
}
