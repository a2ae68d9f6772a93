//! The environment: the values of settings, the files that it names, and the warnings about names that no setting has. The
//! environment of the process is never read here: the caller passes it in ([`Env::new`]).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::error::SettingsError;
use super::removed;
use super::setting::Setting;
use super::typed::{Source, Typed};

/// The prefix of the names in the environment of all settings.
pub(super) const PREFIX: &str = "WEIRGATE_";

/// The shortest environment name that is compared with misspelled names. Shorter names may be similar by accident.
const NEAR_LENGTH_MIN: usize = 8;

/// The end of the names that name files with secrets.
const FILE_SUFFIX: &str = "_FILE";

/// The name in the environment for the path of the file with the value of `name`.
pub(super) fn file_env(name: &str) -> String {
    format!("{name}{FILE_SUFFIX}")
}

/// Returns the secret in a file: its text without space around it, so that the end of its last line does not count.
///
/// # Errors
/// The error of reading it, it is not UTF-8, or there is nothing in it.
pub(crate) fn secret_text(read: io::Result<Vec<u8>>) -> Result<String, String> {
    let text = read.map_err(|error| error.to_string())?;
    let text = String::from_utf8(text).map_err(|_| "not UTF-8 text".to_owned())?;
    match text.trim() {
        "" => Err("nothing in it".to_owned()),
        text => Ok(text.to_owned()),
    }
}

/// The environment, passed in by the caller. Names that are not UTF-8 are left out, because no setting has such a name.
#[derive(Debug)]
pub struct Env {
    values: BTreeMap<String, OsString>,
    memory_limit_bytes: Option<u64>,
    cores: u32,
    read_file: ReadFile,
}

/// Reads a file whole.
pub(crate) type ReadFile = fn(&Path) -> io::Result<Vec<u8>>;

/// Nothing is set, and no file can be read.
impl Default for Env {
    fn default() -> Self {
        Self {
            values: BTreeMap::new(),
            memory_limit_bytes: None,
            cores: 1,
            read_file: |_| Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Env {
    /// The name that replaces the subcommand.
    pub const GATEWAY: &str = "WEIRGATE_GATEWAY";

    /// Collects pairs, such as `std::env::vars_os()`.
    pub fn new<K: Into<OsString>, V: Into<OsString>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let named = |(name, value): (K, V)| Some((name.into().into_string().ok()?, value.into()));
        Self {
            values: pairs.into_iter().filter_map(named).collect(),
            ..Self::default()
        }
    }

    /// Adds the memory limit of the process, if the system has set one.
    pub fn with_memory_limit(self, memory_limit_bytes: Option<u64>) -> Self {
        Self {
            memory_limit_bytes,
            ..self
        }
    }

    /// Adds the number of cores that the process may use.
    pub fn with_cores(self, cores: usize) -> Self {
        let cores = u32::try_from(cores).unwrap_or(u32::MAX);
        Self { cores, ..self }
    }

    /// The number of cores that the process may use.
    pub(super) fn cores(&self) -> u32 {
        self.cores
    }

    /// The memory limit of the process, if the system has set one.
    pub(super) fn memory_limit_bytes(&self) -> Option<u64> {
        self.memory_limit_bytes
    }

    /// Lets `NAME_FILE` name the file with a secret.
    pub(crate) fn with_files(self, read_file: ReadFile) -> Self {
        Self { read_file, ..self }
    }

    /// Returns the secret in the file that `NAME_FILE` names, and where it is from; `None` if that is unset.
    ///
    /// # Errors
    /// `NAME` is set too, or the file cannot be read, or has no text in it. Nothing of the text is shown.
    pub(super) fn secret_of_file(
        &self,
        setting: &Setting,
        name: &str,
    ) -> Result<Option<(String, Source)>, SettingsError> {
        let file_name = file_env(name);
        let Some(path) = self.value(&file_name)?.map(str::trim) else {
            return Ok(None);
        };
        if self.value(name)?.is_some() {
            let words = format!("{name} and {file_name} are both set; allowed: one of them");
            return Err(SettingsError::new(words));
        }
        let path = PathBuf::from(path);
        let text = secret_text((self.read_file)(&path)).map_err(|error| {
            let name = match setting.kind.may_be_a_path(&path) {
                true => format!("{file_name} {}", path.display()),
                // This may be the secret itself, put where its path belongs, so it is not shown.
                false => file_name.clone(),
            };
            SettingsError::new(format!("{name}: {error}"))
        })?;
        Ok(Some((text, Source::File(file_name, path))))
    }

    /// Returns the value of `name`, or `None` if it is unset, empty or blank.
    ///
    /// # Errors
    /// The value is not UTF-8.
    pub fn value(&self, name: &str) -> Result<Option<&str>, SettingsError> {
        let Some(value) = self.values.get(name) else {
            return Ok(None);
        };
        let text = value.to_str();
        let text = text.ok_or_else(|| SettingsError::not_text(name))?;
        Ok(Some(text).filter(|text| !text.trim().is_empty()))
    }

    /// Warns of names with the prefix `WEIRGATE_` that none of the `known` rows has.
    pub fn unknown_names(&self, known: &[Setting]) -> Vec<String> {
        let ours = self.values.keys().filter(|name| name.starts_with(PREFIX));
        let is_known = |name: &String| {
            let secret = name.strip_suffix(FILE_SUFFIX);
            known.iter().any(|row| {
                let names = row.env_names();
                let of_file = |name| row.kind.may_be_secret() && names.iter().any(|n| n == name);
                names.contains(name) || secret.is_some_and(of_file)
            })
        };
        let unknown = ours.filter(|name| {
            *name != Self::GATEWAY
                && !is_service_link(name)
                && !self.is_service_address(name)
                && removed::replacement_of(name).is_none()
                && !is_known(name)
        });
        unknown
            .map(|name| ignored(name, nearest(name, known).as_deref()))
            .collect()
    }

    /// The errors for names of removed settings.
    pub(super) fn removed_names(&self) -> impl Iterator<Item = SettingsError> {
        let ours = self.values.keys().filter(|name| name.starts_with(PREFIX));
        ours.filter_map(|name| SettingsError::of_removed(name))
    }

    /// Warns of names that differ in one letter from an environment name of `rows` without the prefix `WEIRGATE_`, such
    /// as `NATS_URLS`, if the correct name is not set. The names of other programs are spared: short names are not
    /// compared, nor are the names of `known` rows, which other gateways read.
    pub fn near_names(&self, rows: &[Setting], known: &[Setting]) -> Vec<String> {
        let is_set = |name: &str| self.values.get(name).is_some_and(|value| !value.is_empty());
        let is_known = |name: &str| known.iter().any(|s| s.original_env.contains(&name));
        let originals = rows.iter().flat_map(|row| row.original_env);
        let unset: Vec<_> = originals
            .filter(|name| name.len() >= NEAR_LENGTH_MIN && !is_set(name))
            .collect();
        let unknown = self.values.keys().filter(|name| {
            is_set(name) && !is_known(name) && !name.starts_with(PREFIX) && !is_service_link(name)
        });
        let near = |name: &String| {
            let meant = unset.iter().find(|meant| {
                // A start compares every name of the environment with a hundred: most differ in length alone.
                meant.len().abs_diff(name.len()) <= 1
                    && strsim::damerau_levenshtein(meant, name) == 1
            })?;
            Some(ignored(name, Some(meant)))
        };
        unknown.filter_map(near).collect()
    }

    /// Warns of names that people may set in place of a setting.
    pub(super) fn mistaken_names(&self, all: &[Typed]) -> Vec<String> {
        let is_set = |typed: &Typed| !matches!(typed.source, Source::Default);
        let mistaken = all.iter().filter_map(|typed| {
            let mistaken = typed.setting.mistaken_env?;
            let has_chosen = |other: &Typed| mistaken.unless.contains(&other.setting.flag);
            let is_meant = !is_set(typed) && !all.iter().any(|one| has_chosen(one) && is_set(one));
            (is_meant && self.values.contains_key(mistaken.name))
                .then(|| ignored(mistaken.name, Some(&typed.setting.weirgate_env())))
        });
        mistaken.collect()
    }

    fn is_service_address(&self, name: &str) -> bool {
        let value = self.values.get(name).and_then(|value| value.to_str());
        name.ends_with("_PORT") && value.is_some_and(is_service_address)
    }
}

/// The warning about a name in the environment that is not a setting. `nearest` is the setting that was probably meant.
fn ignored(name: &str, nearest: Option<&str>) -> String {
    let tip = nearest.map_or_else(String::new, |n| format!("; did you mean {n}?"));
    format!("{name} is not a setting of this gateway and was ignored{tip}")
}

/// Whether the value is one that Kubernetes sets: `NAME_PORT=tcp://HOST:PORT` (also `udp`, `sctp`) in every container, for
/// each service `NAME` of the namespace. So a service called `gateway` sets `GATEWAY_PORT`.
pub(super) fn is_service_address(value: &str) -> bool {
    let schemes = ["tcp://", "udp://", "sctp://"];
    let rest = schemes.iter().find_map(|s| value.trim().strip_prefix(s));
    let port = rest.and_then(|rest| rest.rsplit_once(':'));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    port.is_some_and(|(host, port)| {
        !host.is_empty() && host.chars().all(plain) && port.parse::<u16>().is_ok()
    })
}

/// Whether the name is another one that Kubernetes sets for a service called `weirgate…`.
fn is_service_link(name: &str) -> bool {
    let numbered = |(_, rest): (&str, &str)| rest.starts_with(|c: char| c.is_ascii_digit());
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.split_once("_PORT_").is_some_and(numbered)
}

/// Returns the most similar setting: its name differs in a few letters, or continues the unknown name (a missing unit),
/// or is that of a replaced gateway, which was typed with the prefix `WEIRGATE_`.
fn nearest(unknown: &str, known: &[Setting]) -> Option<String> {
    let typed = unknown.strip_prefix(PREFIX)?;
    if typed.is_empty() {
        return None;
    }
    let original = known.iter().find(|s| s.original_env.contains(&typed));
    if original.is_some() {
        return Some(typed.to_owned());
    }
    let flags = known.iter().filter(|row| row.is_flag());
    let names = flags.map(Setting::weirgate_env);
    let distance = |name: &str| {
        let name = name.strip_prefix(PREFIX).unwrap_or(name);
        match name.strip_prefix(typed) {
            Some(rest) if rest.starts_with('_') => 1,
            _ => strsim::damerau_levenshtein(name, typed),
        }
    };
    names
        .chain([Env::GATEWAY.to_owned()])
        .map(|name| (distance(&name), name))
        // A few letters: at most a quarter of the name.
        .filter(|(distance, name)| *distance <= (name.len() - PREFIX.len()).div_ceil(4))
        .min()
        .map(|(_, name)| name)
}
