//! The values of a gateway's settings: each value is allowed, and all of them fit together ([`super::contradictions`]).

use std::num::NonZeroU32;
use std::path::PathBuf;

use super::env::{Env, file_env};
use super::error::SettingsError;
use super::field::{Group, Groups};
use super::kind::{RefusedValue, Value};
use super::memory_share::share;
use super::processes;
use super::setting::Setting;
use super::table::Rows;
use super::typed::{Source, Typed, collect};
use weirgate_wire::base::Secret;

/// `flag!("name")` is the name of a row of the shared table. A name that no row has does not compile.
#[macro_export]
macro_rules! flag {
    ($name:literal) => {
        const { $crate::settings::Rows::shared_flag($name) }
    };
}

/// A secret that is in a file, which may change while the process runs.
#[derive(Clone, Debug)]
pub struct SecretFile {
    /// The name in the environment that has the path, such as `JWT_SECRET_FILE`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// The row of the table: which values are allowed, and which can be guessed.
    pub setting: Setting,
    /// The secret, shared by everybody who uses the setting.
    pub secret: Secret,
}

/// A gateway's own check of several values together. It returns an error for each contradiction.
pub type Check = fn(&Checked) -> Vec<SettingsError>;

/// The values of one gateway, or of another command. Each value is allowed, and all of them fit together.
#[derive(Debug)]
pub struct Checked {
    values: Vec<CheckedValue>,
    groups: Groups,
    warnings: Vec<String>,
    /// If this process starts others: their number, and the settings of each of them.
    each_process: Option<(NonZeroU32, Box<Self>)>,
}

/// The value of a setting, and where it comes from.
#[derive(Debug)]
pub struct CheckedValue {
    /// The row of the table.
    pub setting: Setting,
    /// The value; shown without secrets.
    pub value: Value,
    /// The flag, the env name or the default that gave the value.
    pub source: Source,
}

impl CheckedValue {
    /// The flag, and where its value comes from: `--port (env GATEWAY_PORT)`.
    pub(super) fn named(&self) -> String {
        self.setting.named(&self.source)
    }

    /// Whether the value is meant for weirgate: the flag or the name with the prefix `WEIRGATE_` has it, and not a name of
    /// the replaced gateway, which may be in the environment for another program.
    pub fn is_meant(&self) -> bool {
        let ours = self.setting.weirgate_env();
        match &self.source {
            Source::Flag => true,
            Source::Env(name) => *name == ours,
            Source::File(name, _) => *name == file_env(&ours),
            _ => false,
        }
    }
}

impl Checked {
    /// Finds the text of each row, parses all texts and checks the values against each other. `flag` returns what was
    /// given for a flag; `warnings` are kept for the log; `check` is the gateway's own check.
    ///
    /// # Errors
    /// All values that are not UTF-8, and all settings that weirgate no longer has. If there are none: all values that are
    /// not allowed. If each value is allowed: all contradictions. If there are none: those of one of several processes.
    pub fn read(
        rows: impl IntoIterator<Item = Setting>,
        flag: impl Fn(&str) -> Vec<String>,
        env: &Env,
        mut warnings: Vec<String>,
        check: Check,
    ) -> Result<Self, Vec<SettingsError>> {
        let mut typed = collect(rows, flag, env, &mut warnings)?;
        // Before `share`: the parts of each process follow from the texts as typed.
        let each = processes::of_each(&typed, env.cores());
        share(&mut typed, env.memory_limit_bytes());
        let checked = Self::parse(typed, warnings, check)?;
        match each {
            Some((count, mut each)) => {
                share(&mut each, env.memory_limit_bytes());
                checked.with_each_process(count, each, check)
            }
            None => Ok(checked),
        }
    }

    /// Adds the settings of each of the processes that this one starts, and judges them.
    fn with_each_process(
        mut self,
        count: NonZeroU32,
        typed: Vec<Typed>,
        check: Check,
    ) -> Result<Self, Vec<SettingsError>> {
        if let Some(error) = self.memory_of_each_error(count) {
            return Err(vec![error]);
        }
        let of_each = |error| SettingsError::new(format!("in each of {count} processes: {error}"));
        // Without warnings: those about flags and the environment are in `self`.
        let each = Self::parse(typed, Vec::new(), check);
        let each = each.map_err(|errors| {
            errors
                .into_iter()
                .map(of_each)
                .collect::<Vec<SettingsError>>()
        })?;
        let warning = self.memory_of_each_warning(count);
        self.warnings.extend(warning);
        self.each_process = Some((count, Box::new(each)));
        Ok(self)
    }

    /// Parses the texts, writes the values to their groups, and checks the values against each other.
    fn parse(
        typed: Vec<Typed>,
        warnings: Vec<String>,
        check: Check,
    ) -> Result<Self, Vec<SettingsError>> {
        let mut values = Vec::new();
        let first = typed.first();
        let mut groups = first.map_or_else(Groups::default, |first| first.setting.groups());
        let mut errors = Vec::new();
        for typed in typed {
            match typed.read() {
                Ok(value) => {
                    typed.setting.field.write(&mut groups, &value);
                    values.push(CheckedValue {
                        setting: typed.setting,
                        value,
                        source: typed.source,
                    });
                }
                Err(error) => errors.push(error),
            }
        }
        let mut checked = Self {
            values,
            groups,
            warnings,
            each_process: None,
        };
        if errors.is_empty() {
            errors = checked.contradictions();
            errors.extend(check(&checked));
            errors.extend(checked.no_redis_error());
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        checked.warnings.extend(checked.listen_warnings());
        checked.warnings.extend(checked.weak_secrets());
        Ok(checked)
    }

    /// The settings of every gateway ([`Rows::EVERY`]) with their defaults, for a program that has no such command
    /// line.
    pub fn defaults() -> Self {
        let rows = Rows::EVERY.settings();
        let none = |_: &str| Vec::new();
        match Self::read(rows, none, &Env::default(), Vec::new(), |_| Vec::new()) {
            Ok(checked) => checked,
            Err(errors) => unreachable!("a default is not allowed: {errors:?}"),
        }
    }

    /// Returns the values in the order of the table, for `--check`.
    pub fn values(&self) -> &[CheckedValue] {
        &self.values
    }

    /// If this process starts others: their number, and the settings that each of them has.
    pub fn each_process(&self) -> Option<(NonZeroU32, &Self)> {
        let (count, each) = self.each_process.as_ref()?;
        Some((*count, each))
    }

    /// Returns the warnings for the operator. The caller logs them once the log is set up.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns the flag, and where its value comes from: `--port (env GATEWAY_PORT)`.
    pub fn named(&self, flag: &str) -> String {
        self.found(flag).named()
    }

    /// Returns a group of settings. A group of another gateway has its defaults.
    pub fn get<G: Group>(&self) -> G {
        self.groups.get()
    }

    /// Returns the error for a value of `flag` that a gateway's [`Check`] refuses.
    pub fn refused(&self, flag: &str, refused: &RefusedValue) -> SettingsError {
        let found = self.found(flag);
        SettingsError::value(&found.setting, &found.source, refused)
    }

    /// Returns the error for a value of `flag` that is wrong as a whole, not only in a part.
    pub fn refused_whole(&self, flag: &str, allowed: impl Into<String>) -> SettingsError {
        let shown = match &self.found(flag).value {
            Value::Urls(urls) => urls.expose().to_string(),
            value => value.to_string(),
        };
        self.refused(flag, &RefusedValue::new(&shown, allowed))
    }

    /// Returns the value if a flag or the environment gives it; `None` also without such a setting.
    pub(super) fn if_set(&self, flag: &str) -> Option<&CheckedValue> {
        let is_typed = |v: &&CheckedValue| {
            matches!(v.source, Source::Flag | Source::Env(_) | Source::File(..))
        };
        self.find(flag).filter(is_typed)
    }

    /// The value of a setting, if the gateway has the setting.
    pub(super) fn find(&self, flag: &str) -> Option<&CheckedValue> {
        self.values.iter().find(|v| v.setting.flag == flag)
    }

    /// The value of a setting that the gateway must have.
    fn found(&self, flag: &str) -> &CheckedValue {
        match self.find(flag) {
            Some(found) => found,
            None => unreachable!("this gateway has no row for --{flag}"),
        }
    }

    /// The settings whose value is in a file: each with its name for people.
    pub(crate) fn secret_files(&self) -> Vec<SecretFile> {
        let files = self.values.iter().filter_map(|value| {
            let Source::File(name, path) = &value.source else {
                return None;
            };
            Some(SecretFile {
                name: name.clone(),
                path: path.clone(),
                setting: value.setting,
                secret: value.value.secret()?.clone(),
            })
        });
        files.collect()
    }

    /// Warns of secrets that can be guessed.
    fn weak_secrets(&self) -> Vec<String> {
        let weak = self.values.iter().filter_map(|value| {
            let secret = value.value.secret()?;
            value.setting.weakness(&secret.expose())
        });
        weak.collect()
    }

    /// Whether the gateway has this setting.
    pub fn has(&self, flag: &str) -> bool {
        self.find(flag).is_some()
    }

    /// Whether the value is from a flag or the environment.
    pub fn is_set(&self, flag: &str) -> bool {
        self.if_set(flag).is_some()
    }
}

#[cfg(test)]
impl Checked {
    /// Flags without their dashes override the environment.
    pub fn of(rows: Rows, flags: &[(&str, &str)], env: &[(&str, &str)]) -> Result<Self, String> {
        let typed = |name: &str| {
            let flags = flags.iter().filter(|(flag, _)| *flag == name);
            flags.map(|(_, text)| (*text).to_owned()).collect()
        };
        let env = Env::new(env.iter().copied());
        Self::read(rows.settings(), typed, &env, Vec::new(), |_| Vec::new())
            .map_err(|errors| errors.iter().map(|error| format!("{error}\n")).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::io;
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::settings::env::ReadFile;
    use crate::settings::{ListenSettings, NatsAccess, TablePart};

    const ROWS: Rows = Rows::gateway(&[
        TablePart::Bus,
        TablePart::BusMessages,
        TablePart::JetStream,
        TablePart::Nats,
    ]);

    fn checked(flags: &[(&str, &str)], env: &[(&str, &str)]) -> Checked {
        Checked::of(ROWS, flags, env).expect("good settings")
    }

    fn refused(flags: &[(&str, &str)], env: &[(&str, &str)]) -> String {
        Checked::of(ROWS, flags, env).expect_err("wrong settings")
    }

    fn port(flags: &[(&str, &str)], env: &[(&str, &str)]) -> Option<u16> {
        checked(flags, env).get::<ListenSettings>().port
    }

    #[test]
    fn values_follow_the_sources() {
        let env = [("GATEWAY_PORT", "1"), ("PORT", "2"), ("WEIRGATE_PORT", "3")];
        assert_eq!(port(&[("port", "4")], &env), Some(4));
        assert_eq!(port(&[], &env), Some(1));
        assert_eq!(port(&[], &env[1..]), Some(2));
        assert_eq!(port(&[], &env[2..]), Some(3));
        assert_eq!(port(&[], &[]), Some(8000));
        // An overridden value cannot be wrong.
        assert_eq!(port(&[("port", "4")], &[("GATEWAY_PORT", "x")]), Some(4));
        let env = [("WEIRGATE_EPHEMERAL", "1"), ("NATS_URL", " nats://a ")];
        let nats: NatsAccess = checked(&[("ephemeral", "false")], &env).get();
        assert_eq!((nats.ephemeral, &*nats.urls.expose()), (false, "nats://a"));
    }

    #[test]
    fn each_secret_that_can_be_guessed_is_warned_of_by_its_name() {
        let rows = Rows::gateway(&[TablePart::Tokens, TablePart::Nats]);
        let of = |secret: &str| {
            let names = [
                "JWT_SECRET",
                "JWT_SECRET_BEFORE",
                "GATEWAY_API_KEY",
                // Only the server knows it, and can tell who tries it.
                "NATS_TOKEN",
            ];
            let env: Vec<_> = names.iter().map(|name| (*name, secret)).collect();
            let checked = Checked::of(rows, &[], &env).expect("good settings");
            let warnings = checked.warnings().iter();
            let weak = warnings.filter(|line| line.contains("can be guessed"));
            weak.map(|line| line.split(' ').next().unwrap_or_default().to_owned())
                .collect::<Vec<_>>()
        };
        let told = of("0123456789abcdef0123456789abcde");
        assert_eq!(told, ["GATEWAY_API_KEY", "JWT_SECRET", "JWT_SECRET_BEFORE"]);
        assert_eq!(of("0123456789abcdef0123456789abcdef"), [""; 0]);
    }

    #[test]
    fn a_kubernetes_service_address_is_no_port() {
        for value in [
            "tcp://10.0.0.1:80",
            "udp://10.0.0.1:80",
            "tcp://[fd00::1]:80",
        ] {
            let settings = checked(&[], &[("GATEWAY_PORT", value), ("PORT", "9000")]);
            assert_eq!(settings.get::<ListenSettings>().port, Some(9000));
            let [warning] = settings.warnings() else {
                panic!("{:?}", settings.warnings());
            };
            let begin = format!("GATEWAY_PORT={value} is ignored");
            assert!(warning.starts_with(&begin), "{warning}");
        }
        let address = "tcp://10.0.0.1:80";
        assert_eq!(port(&[], &[("WEIRGATE_PORT", address)]), Some(8000));
        // Wrong: of another form, or typed by a person.
        for value in [
            "tcp://10.0.0.1",
            "http://10.0.0.1:80",
            "tcp://u@h:80",
            "tcp://:80",
        ] {
            refused(&[], &[("GATEWAY_PORT", value)]);
        }
        refused(&[("port", address)], &[]);
    }

    #[test]
    fn values_have_to_fit_together() {
        for (flag, value, low, high) in [
            (
                "send-queue-soft-bytes",
                "2000000",
                "soft-bytes is 2000000 (flag)",
                "hard-bytes, 1048576 (default)",
            ),
            (
                "send-queue-hard-bytes",
                "1000000000",
                "hard-bytes is 1000000000",
                "frame-bytes-max",
            ),
            (
                "frame-bytes-max",
                "2000000",
                "bus-message-bytes-max is 16777216 (default)",
                "frame-bytes-max, 2000000 (flag)",
            ),
            (
                "send-queue-stall-ms",
                "100",
                "conflate-after-ms is 1000",
                "stall-ms, 100",
            ),
        ] {
            let error = refused(&[(flag, value)], &[]);
            assert!(error.contains(low) && error.contains(high), "{error}");
        }
    }

    #[test]
    fn all_wrong_values_are_told_at_once() {
        let flags = [("drain-ms", "-1"), ("port", "x")];
        let error = refused(&flags, &[("WEIRGATE_LOG_FORMAT", "xml")]);
        assert_eq!(error.lines().count(), 3, "{error}");
    }

    /// The settings of these names in the environment, with files of these paths and texts.
    fn with_files(env: &[(&str, &str)], files: ReadFile) -> Result<Checked, String> {
        let env = Env::new(env.iter().copied()).with_files(files);
        let warnings = env.unknown_names(&ROWS.settings());
        Checked::read(
            ROWS.settings(),
            |_| Vec::new(),
            &env,
            warnings,
            |_| Vec::new(),
        )
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_secret_may_be_in_a_file_and_its_new_text_is_everywhere() {
        let env = [
            ("NATS_USER", "ann"),
            ("NATS_PASSWORD_FILE", "/run/secrets/password"),
            ("WEIRGATE_NATS_URL_FILE", "/run/secrets/url"),
        ];
        let checked = with_files(&env, |path| {
            Ok(match path.ends_with("url") {
                true => b"nats://a\n".to_vec(),
                false => b" s3cret \r\n".to_vec(),
            })
        });
        let checked = checked.expect("good settings");
        assert_eq!(checked.warnings(), &[] as &[String]);
        let access: NatsAccess = checked.get();
        let password = access.password.expect("a password");
        assert_eq!(
            (&*password.expose(), &*access.urls.expose()),
            ("s3cret", "nats://a")
        );
        let named = checked.named("nats-password");
        let file = "(file /run/secrets/password, env NATS_PASSWORD_FILE)";
        assert_eq!(named, format!("--nats-password {file}"));
        let files = checked.secret_files();
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["WEIRGATE_NATS_URL_FILE", "NATS_PASSWORD_FILE"]);
        assert!(files[1].secret.replace("next"));
        assert_eq!(&*password.expose(), "next");
    }

    #[test]
    fn a_file_without_a_secret_and_two_places_are_errors_that_show_nothing() {
        type Case = (
            &'static [(&'static str, &'static str)],
            ReadFile,
            &'static str,
        );
        let cases: [Case; 4] = [
            (
                &[("NATS_TOKEN_FILE", "/t")],
                |_| Ok(b"\n".to_vec()),
                "NATS_TOKEN_FILE /t: nothing in it",
            ),
            (
                &[("NATS_TOKEN_FILE", "/t")],
                |_| Ok(vec![0xff]),
                "NATS_TOKEN_FILE /t: not UTF-8 text",
            ),
            (
                &[("NATS_TOKEN_FILE", "/t"), ("NATS_TOKEN", "s3cret")],
                |_| Ok(b"s3cret".to_vec()),
                "NATS_TOKEN and NATS_TOKEN_FILE are both set; allowed: one of them",
            ),
            (
                &[("NATS_URL_FILE", "/u")],
                |_| Ok(b"http://s3cret@h".to_vec()),
                "--nats-url (file /u, env NATS_URL_FILE) is \"http://***\"",
            ),
        ];
        for (env, file, says) in cases {
            let error = with_files(env, file).expect_err("wrong settings");
            assert!(
                error.starts_with(says) && !error.contains("s3cret"),
                "{error}"
            );
        }
        // The secret where the path belongs.
        let error = with_files(&[("NATS_TOKEN_FILE", "s3cret")], |_| {
            Err(io::ErrorKind::NotFound.into())
        });
        let error = error.expect_err("no file");
        assert!(
            error.starts_with("NATS_TOKEN_FILE: ") && !error.contains("s3cret"),
            "{error}"
        );
    }

    #[test]
    fn env_that_is_no_text_is_told_by_name() {
        let bad = || OsString::from_vec(vec![0xff]);
        let env = Env::new([("NATS_URL".into(), bad()), (bad(), "x".into())]);
        let errors = collect(ROWS.settings(), |_| Vec::new(), &env, &mut Vec::new());
        let error: Vec<_> = errors
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(error, ["--nats-url (env NATS_URL) is not UTF-8 text"]);
        assert!(env.unknown_names(&ROWS.settings()).is_empty());
    }
}
