//! The settings of a NATS source, and the check of the files that they name.

use std::io;
use std::sync::Arc;

use super::endpoint::Endpoint;
use super::error::NatsError;
use super::login::{Credentials, Login, Tls, tls_config};
use crate::LinkTimes;
use weirgate_runtime::Lookup;
use weirgate_wire::base::Secret;

/// The name in the server's connection list.
pub(super) const CLIENT_NAME: &str = "weirgate";

/// The settings of a [`super::NatsSource`]. Without `Debug`, because of the passwords.
#[derive(Clone)]
pub struct NatsSettings {
    /// NATS URLs, separated by commas: `nats://[user:password@|token@]host[:port]` or `tls://…`. The servers are tried
    /// in turn, then other servers of the cluster, as announced by a server. Percent signs in user, password and token
    /// are decoded.
    pub urls: Secret,
    /// Where `urls` was set, such as `--nats-url`; shown in errors.
    pub urls_from: String,
    /// The credentials for servers without user or token in the URL.
    pub credentials: Credentials,
    /// Certificates, for `tls://` and for servers requiring TLS.
    pub tls: Tls,
    /// Streams to create if missing, never altered if present. Other streams are never created: their subjects wait for
    /// them.
    pub streams: Vec<StreamSpec>,
    /// As long as none of `streams` exists, make none, and leave their subjects out. Once a stream exists, this has no
    /// effect until the end of the process.
    pub streams_optional: bool,
    /// The subjects to relay, each through a consumer.
    pub subscriptions: Vec<SubscriptionSpec>,
    /// Use ephemeral consumers only, so that several processes each get every message.
    pub ephemeral: bool,
    /// How many processes a start begins with these settings; each has consumers of its own. Only for the check before it.
    pub processes: u32,
    /// The times of the link to each server.
    pub times: LinkTimes,
    /// The time that the lookup of a name may take.
    pub lookup: Lookup,
    /// After this many milliseconds without an answer of JetStream about a consumer, while the link is well, the
    /// subject is read from another consumer.
    pub consumer_silence_max_ms: u64,
    /// A backlog of more messages than this is quiet: the cache is updated, without a broadcast for each message
    /// (only tests have another number than 4).
    pub backlog_quiet_min: u64,
    /// The search for the last good message of a subject when the newest message is bad.
    pub look_back: LookBack,
}

/// Whether a payload (second) on a subject (first) is a good state.
pub(crate) type Judge = dyn Fn(&str, &[u8]) -> bool + Send + Sync;

/// The limit and the test in the search for the last good message of a subject.
#[derive(Clone)]
pub struct LookBack {
    /// The limit on messages fetched of a subject; 0: none.
    pub messages_max: u64,
    /// Whether a message is good.
    pub is_good: Arc<Judge>,
}

/// A stream to create if missing: file storage, limits retention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    /// The stream's name.
    pub name: String,
    /// The subjects to store.
    pub subjects: Vec<String>,
    /// The maximum age of a message, seconds.
    pub max_age_s: u64,
}

/// A subject to relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionSpec {
    /// The stream holding the subject; `None`: the server is asked for the stream.
    pub stream: Option<String>,
    /// The subject, without wildcards: its last message warms the cache.
    pub subject: String,
    /// The name of the durable consumer.
    pub durable: String,
}

impl NatsSettings {
    /// Settings for plain subjects: no streams, no consumers, all other values as by default.
    pub fn plain(urls: &str, credentials: Credentials, tls: Tls) -> Self {
        Self {
            urls: urls.into(),
            urls_from: "the URL".to_owned(),
            credentials,
            tls,
            streams: Vec::new(),
            streams_optional: false,
            subscriptions: Vec::new(),
            ephemeral: true,
            processes: 1,
            times: LinkTimes::default(),
            lookup: Lookup::default(),
            consumer_silence_max_ms: 30_000,
            backlog_quiet_min: 4,
            look_back: LookBack {
                // 0: no search.
                messages_max: 0,
                is_good: Arc::new(|_, _| true),
            },
        }
    }

    /// The servers of `urls`, parsed separately: a bad URL does not hide a good URL.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = Result<Endpoint, NatsError>> {
        let text = self.urls.expose();
        let urls: Vec<&str> = split(&text).collect();
        // Without a URL, the empty one is reported as bad.
        let urls = if urls.is_empty() { vec![""] } else { urls };
        let parsed: Vec<_> = urls.into_iter().map(Endpoint::parse).collect();
        parsed.into_iter()
    }

    /// Reads every file needed for a connection. `prefix` is the beginning of the flags: `nats` for `--nats-creds`.
    ///
    /// # Errors
    /// The flag, the file, and the fault of the file; nothing of the file's text.
    pub fn check_files(&self, prefix: &str) -> Result<(), String> {
        let wrong = |setting: &str, error: io::Error| format!("--{prefix}-{setting}: {error}");
        let mut has_tls = self.tls.is_demanded();
        for endpoint in self.endpoints() {
            let endpoint = endpoint.map_err(|error| error.to_string())?;
            has_tls |= endpoint.tls;
            let login = Login::read(&endpoint.auth, &self.credentials);
            login.map_err(|error| wrong(self.credentials.setting(), error))?;
        }
        if !has_tls {
            return Ok(());
        }
        let trusting = Tls {
            ca: self.tls.ca.clone(),
            client: None,
        };
        tls_config(&trusting).map_err(|error| wrong("ca", error))?;
        let both = format!("cert and --{prefix}-key");
        tls_config(&self.tls).map_err(|error| wrong(&both, error))?;
        Ok(())
    }
}

fn split(urls: &str) -> impl Iterator<Item = &str> {
    urls.split(',').map(str::trim).filter(|url| !url.is_empty())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn several_urls_are_separate() {
        let settings = |urls: &str| NatsSettings::plain(urls, Credentials::None, Tls::default());
        let some = settings("nats://a:1, http://b,,c");
        let good: Vec<bool> = some.endpoints().map(|e| e.is_ok()).collect();
        assert_eq!(good, [true, false, true]);
        assert_eq!(settings(" ").endpoints().filter(Result::is_err).count(), 1);
    }

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
