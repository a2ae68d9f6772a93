//! The first stage: the text of each setting and where it comes from. Also the errors in settings, in words for the
//! operator.
//!
//! The text and its source are found from the table, the flags and the environment. This stage interprets one kind of
//! value: a port that Kubernetes has injected counts as unset, so the next source applies. And it shares out
//! `--memory-max`: each limit of bytes over all clients gets a fixed part.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::kind::{Kind, Refused, Value};
use super::processes;
use super::setting::Setting;

/// The env name that replaces the subcommand.
pub const GATEWAY_ENV: &str = "WEIRGATE_GATEWAY";
const PREFIX: &str = "WEIRGATE_";

/// The shortest environment name that is compared with misspelled names. Shorter names may be similar by accident.
const NEAR_LENGTH_MIN: usize = 8;

/// The end of the names that name files with secrets.
const FILE_SUFFIX: &str = "_FILE";

/// The name in the environment for the path of the file with the value of `name`.
pub fn file_env(name: &str) -> String {
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

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment, under this name.
    Env(String),
    /// The file that the environment names under this name, such as `JWT_SECRET_FILE`.
    File(String, PathBuf),
    /// The table.
    Default,
    /// A fixed part of another flag.
    PartOf(&'static str),
    /// Three quarters of the memory that the system allows the process.
    MemoryLimit,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Env(name) => write!(f, "env {name}"),
            Self::File(name, path) => write!(f, "file {}, env {name}", path.display()),
            Self::Default => f.write_str("default"),
            Self::PartOf(flag) => write!(f, "share of --{flag}"),
            Self::MemoryLimit => f.write_str("3/4 of the memory limit"),
        }
    }
}

/// The environment, passed in by the caller. Names that are not UTF-8 are left out, because no setting has such a name.
#[derive(Debug)]
pub struct Env {
    values: BTreeMap<String, OsString>,
    memory_limit_bytes: Option<u64>,
    read_file: ReadFile,
}

/// Reads a file whole.
pub type ReadFile = fn(&Path) -> io::Result<Vec<u8>>;

/// Nothing is set, and no file can be read.
impl Default for Env {
    fn default() -> Self {
        Self {
            values: BTreeMap::new(),
            memory_limit_bytes: None,
            read_file: |_| Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Env {
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

    /// Lets `NAME_FILE` name the file with a secret.
    pub fn with_files(self, read_file: ReadFile) -> Self {
        Self { read_file, ..self }
    }

    /// Returns the secret in the file that `NAME_FILE` names, and where it is from; `None` if that is unset.
    ///
    /// # Errors
    /// `NAME` is set too, or the file cannot be read, or has no text in it. Nothing of the text is shown.
    fn secret_of_file(
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
                // The secret where its path belongs.
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
            *name != GATEWAY_ENV
                && !is_service_link(name)
                && !self.is_service_address(name)
                && gone(name).is_none()
                && !is_known(name)
        });
        unknown
            .map(|name| ignored(name, nearest(name, known).as_deref()))
            .collect()
    }

    /// The errors for names of settings that were removed.
    fn gone_names(&self) -> impl Iterator<Item = SettingsError> {
        let ours = self.values.keys().filter(|name| name.starts_with(PREFIX));
        ours.filter_map(|name| {
            let instead = gone(name)?;
            Some(SettingsError::new(format!("{name} is gone: {instead}")))
        })
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
            let meant = unset
                .iter()
                .find(|meant| strsim::damerau_levenshtein(meant, name) == 1)?;
            Some(ignored(name, Some(meant)))
        };
        unknown.filter_map(near).collect()
    }

    /// Warns of names that people may set in place of a setting.
    fn mistaken_names(&self, all: &[Typed]) -> Vec<String> {
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

/// A setting with text and source.
#[derive(Debug)]
pub struct Typed {
    /// The row of the table.
    pub setting: Setting,
    /// The text as typed. It may be a secret, so only [`Typed::read`] reads it.
    text: String,
    /// Where the text comes from: the flag, a name in the environment, or the default.
    pub source: Source,
}

impl Typed {
    /// Parses the text.
    ///
    /// # Errors
    /// The value is not allowed.
    pub fn read(&self) -> Result<Value, SettingsError> {
        let kind = self.setting.kind;
        kind.parse(&self.text).ok_or_else(|| {
            SettingsError::value(&self.setting, &self.source, &kind.refused(&self.text))
        })
    }

    /// The number in the text; `None` if the text is not allowed, or not a whole number.
    pub(super) fn number(&self) -> Option<u64> {
        match self.read() {
            Ok(Value::Number(number)) => Some(number),
            _ => None,
        }
    }

    /// Takes another number in place of the text.
    pub(super) fn replace(&mut self, number: u64, source: Source) {
        self.text = number.to_string();
        self.source = source;
    }
}

/// Returns what replaced a removed setting. `name` is the flag with its dashes, or the name in the environment.
pub fn gone(name: &str) -> Option<&'static str> {
    let flag = name.trim_start_matches("--").trim_start_matches(PREFIX);
    let flag = flag.to_ascii_lowercase().replace('_', "-");
    let mut all = GONE.lines().filter_map(|line| line.split_once(' '));
    all.find(|(gone, _)| *gone == flag)
        .map(|(_, instead)| instead)
}

/// Finds the text of each row. Precedence, highest first: flag, names in the environment in their order, default.
///
/// # Errors
/// The value that applies is not UTF-8, or a removed setting is set.
pub fn collect(
    rows: impl IntoIterator<Item = Setting>,
    flag: impl Fn(&str) -> Option<String>,
    env: &Env,
    warnings: &mut Vec<String>,
) -> Result<Vec<Typed>, Vec<SettingsError>> {
    let mut all = Vec::new();
    let mut errors: Vec<_> = env.gone_names().collect();
    for setting in rows {
        let typed = setting.is_flag().then(|| flag(setting.flag)).flatten();
        let typed = typed.filter(|text| !text.trim().is_empty());
        let found = match typed {
            Some(text) => Ok(Some((text, Source::Flag))),
            None => from_env(&setting, env, warnings),
        };
        match found {
            Ok(found) => {
                let default = || (setting.default(), Source::Default);
                let (text, source) = found.unwrap_or_else(default);
                all.push(Typed {
                    setting,
                    text,
                    source,
                });
            }
            Err(error) => errors.push(error),
        }
    }
    warnings.extend(env.mistaken_names(&all));
    let processes = processes::shares(&all);
    share(&mut all, env.memory_limit_bytes, processes);
    match errors.is_empty() {
        true => Ok(all),
        false => Err(errors),
    }
}

fn from_env(
    setting: &Setting,
    env: &Env,
    warnings: &mut Vec<String>,
) -> Result<Option<(String, Source)>, SettingsError> {
    for name in setting.env_names() {
        if setting.kind.may_be_secret()
            && let Some(found) = env.secret_of_file(setting, &name)?
        {
            return Ok(Some(found));
        }
        let named = |_| SettingsError::not_text(&setting.named(&Source::Env(name.clone())));
        let Some(value) = env.value(&name).map_err(named)? else {
            continue;
        };
        if matches!(setting.kind, Kind::Port | Kind::PortOrOff) && is_service_address(value) {
            let value = value.trim();
            warnings.push(format!(
                "{name}={value} is ignored: Kubernetes sets it for a service; set a port number, or rename the service"
            ));
            continue;
        }
        return Ok(Some((value.to_owned(), Source::Env(name))));
    }
    Ok(None)
}

/// The warning about a name in the environment that is not a setting. `nearest` is the setting that was probably meant.
fn ignored(name: &str, nearest: Option<&str>) -> String {
    let tip = nearest.map_or_else(String::new, |n| format!("; did you mean {n}?"));
    format!("{name} is not a setting of this gateway and was ignored{tip}")
}

/// Kubernetes sets `NAME_PORT=tcp://HOST:PORT` (also `udp`, `sctp`) in every container, for each service `NAME` of the
/// namespace. So a service called `gateway` sets `GATEWAY_PORT`.
fn is_service_address(value: &str) -> bool {
    let schemes = ["tcp://", "udp://", "sctp://"];
    let rest = schemes.iter().find_map(|s| value.trim().strip_prefix(s));
    let port = rest.and_then(|rest| rest.rsplit_once(':'));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    port.is_some_and(|(host, port)| {
        !host.is_empty() && host.chars().all(plain) && port.parse::<u16>().is_ok()
    })
}

/// The other names that Kubernetes sets for a service called `weirgate…`.
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
        .chain([GATEWAY_ENV.to_owned()])
        .map(|name| (distance(&name), name))
        .filter(|(distance, name)| *distance <= (name.len() - PREFIX.len()).div_ceil(4))
        .min()
        .map(|(_, name)| name)
}

/// The flag that is shared.
const FLAG: &str = "memory-max";

/// The least memory that is shared out. Parts of less memory would be smaller than single messages.
pub(super) const MEMORY_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// Memory of the program without clients, which is not shared out: code, tables, stacks and buffers of its threads.
const PROGRAM_BYTES: u64 = 24 * 1024 * 1024;

/// Gives each limit that nobody has set its part of the memory, without that of the program itself. Without
/// `--memory-max` the memory is three quarters of `limit_bytes`, the memory limit of the process. Defaults are then only
/// lowered, because a large machine is no reason to hold more. If this is one of several `processes`, it has its part of
/// the memory, and of all other limits over all clients.
fn share(all: &mut [Typed], limit_bytes: Option<u64>, processes: u64) {
    share_memory(all, limit_bytes, processes);
    processes::divide(all, processes);
    lower_default(all, "bus-message-bytes-max", "frame-bytes-max");
}

fn share_memory(all: &mut [Typed], limit_bytes: Option<u64>, processes: u64) {
    let Some(memory) = all.iter_mut().find(|typed| typed.setting.flag == FLAG) else {
        return;
    };
    let is_chosen = memory.source != Source::Default && memory.number() != Some(0);
    if !is_chosen && let Some(limit_bytes) = limit_bytes {
        let bytes = (limit_bytes / 4 * 3).max(MEMORY_BYTES_MIN);
        memory.replace(bytes, Source::MemoryLimit);
    }
    let Some(bytes) = memory.number().filter(|bytes| *bytes > 0) else {
        return;
    };
    let bytes = match processes {
        1 => bytes,
        _ => (bytes / processes).max(MEMORY_BYTES_MIN),
    };
    memory.replace(bytes, memory.source.clone());
    for typed in &mut *all {
        let (Some(thousandths), Source::Default) = (typed.setting.memory_part, &typed.source)
        else {
            continue;
        };
        let Kind::Number { min, max, .. } = typed.setting.kind else {
            continue;
        };
        let shared = bytes.saturating_sub(PROGRAM_BYTES);
        let part = (shared / 1000 * u64::from(thousandths)).clamp(min, max);
        if is_chosen || typed.number().is_some_and(|default| part < default) {
            typed.replace(part, Source::PartOf(FLAG));
        }
    }
}

/// Lowers a value that nobody has set to the part of the memory that bounds it, unless somebody has set that part.
fn lower_default(all: &mut [Typed], flag: &str, bound: &str) {
    let mut found = all.iter().filter(|typed| typed.setting.flag == bound);
    let part = found.find(|typed| matches!(typed.source, Source::PartOf(_) | Source::Default));
    let Some(part) = part.and_then(Typed::number) else {
        return;
    };
    let mut lowered = all.iter_mut().filter(|typed| typed.setting.flag == flag);
    if let Some(typed) = lowered.find(|typed| typed.source == Source::Default)
        && typed.number().is_some_and(|default| default > part)
    {
        typed.replace(part, Source::PartOf(FLAG));
    }
}

/// The error of one setting, or of several that contradict each other. The text never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

impl SettingsError {
    /// An error in these words.
    pub fn new(words: impl Into<String>) -> Self {
        Self(words.into())
    }

    /// A value of `setting` that is not allowed.
    pub(super) fn value(setting: &Setting, source: &Source, refused: &Refused) -> Self {
        let name = match source {
            Source::Env(_) | Source::File(..) => setting.named(source),
            _ => setting.name(),
        };
        let value = setting.kind.shown_when_wrong(&refused.item);
        Self(format!("{name} is {value}; allowed: {}", refused.allowed))
    }

    /// A required setting is not set.
    pub fn missing(setting: &Setting, allowed: &str) -> Self {
        let (flag, env) = (setting.flag, setting.env_names().swap_remove(0));
        Self(format!(
            "--{flag} (env {env}) is needed; allowed: {allowed}"
        ))
    }

    /// The env value of this name is not UTF-8.
    fn not_text(name: &str) -> Self {
        Self(format!("{name} is not UTF-8 text"))
    }
}

/// A line for each removed flag: its name, a space, and what replaces it.
const GONE: &str = "\
admin-tail use weirgate tail
listen-backlog the backlog is 4096, which net.core.somaxconn may lower
upstream-answer-bytes-max a response to a call may have 64 MiB
connection-burst-per-ip a burst is 20 connections, with --connection-rate-per-ip
control-bytes-max 4 KiB of pongs may wait for a client
turn-message-bytes-max the budgets of a turn are constants
turn-all-message-bytes-max the budgets of a turn are constants
turn-publication-bytes-max the budgets of a turn are constants
read-bytes-per-turn-max the budgets of a turn are constants
accepts-per-turn-max the budgets of a turn are constants
write-bytes-max the budgets of a turn are constants
health-timeout-ms weirgate health waits 2 s
head-headers-max a request head may have 100 header lines
json-depth-max JSON may nest 512 levels
event-stream-sends-max a request may have 32 parameters send
deflate-min-bytes messages of 256 bytes to 1 MiB are compressed
deflate-max-bytes messages of 256 bytes to 1 MiB are compressed
deflate-window levels and trades share a window, channels and events do not
close-timeout-ms a closed client has 5 s to end the connection
loop-stall-ms /ready is 503 after 2 s without a turn of the loop
bus-queue-messages-max 1024 messages may wait between the bus and the loop
candle-grace-ms a candle takes late trades for 500 ms
candle-pairs-max there are at most 30000 candles
retained-subjects-max a pattern has at most 1000 last values
channel-name-bytes-max a name may have 512 bytes
all-wildcards-max all clients together may hold 1000 different patterns
wildcards-per-ip-max an address gets a pattern only while it holds fewer than are free of 1000
calls-max 100 calls may be in flight
proxy-connections-per-ip-max an address gets a connection only while it holds fewer than are free of --proxy-connections-max
events-bus-waiting-max 1000 pushes may wait for other instances
events-bus-instances-max 64 instances may be on the bus
look-back-messages-max at most 200 messages of a subject are fetched
unfinished-bytes-max a fixed share of --memory-max; --check shows the shares
inflate-windows-bytes-max a fixed share of --memory-max; --check shows the shares
bus-queue-bytes-max a fixed share of --memory-max; --check shows the shares
broadcast-bytes-max a fixed share of --memory-max; --check shows the shares
all-channel-name-bytes-max a fixed share of --memory-max; --check shows the shares
events-bus-sentinels use --redis-sentinels
events-bus-sentinel-master use --redis-sentinel-master
events-bus-tls-name use --redis-tls-name
events-bus-cert use --nats-cert
events-bus-key use --nats-key
events-bus-creds use --nats-creds
events-bus-nkey use --nats-nkey
events-bus-ca use --redis-ca-file or --nats-ca, for the kind of --events-bus
retained-bytes-max a fixed share of --memory-max; --check shows the shares
waiting-bytes-max a fixed share of --memory-max; --check shows the shares
renewals-per-second-max all clients together may send 500 new tokens a second
orphans-max 10000 messages of devices that have gone may wait
revoked-max 10000 users, tokens and addresses may be refused
tls-handshakes-per-ip-max an address gets a handshake only while it holds fewer than are free of --tls-handshakes-max
redis-host use REDIS_HOST in the environment, or --redis-url
redis-port use REDIS_PORT in the environment, or --redis-url
node-env use NODE_ENV in the environment
internal-auth-token use INTERNAL_AUTH_TOKEN in the environment
rate-limit-rps use RATE_LIMIT_RPS in the environment
rate-limit-burst use RATE_LIMIT_BURST in the environment
wildcards-max use MAX_WILDCARD_SUBSCRIPTIONS in the environment
default-role use DEFAULT_ROLE in the environment
gateway-api-key use GATEWAY_API_KEY in the environment
jwt-secret use JWT_SECRET in the environment
jwt-secret-before use JWT_SECRET_BEFORE in the environment";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Part, Rows};

    const MIB: u64 = 1024 * 1024;

    /// The text and the source of `flag`.
    fn shared(flags: &[(&str, &str)], limit_bytes: Option<u64>, flag: &str) -> (u64, Source) {
        let given = |name: &str| {
            let found = flags.iter().find(|(flag, _)| *flag == name);
            found.map(|(_, text)| (*text).to_owned())
        };
        let env = Env::default().with_memory_limit(limit_bytes);
        let rows = Rows::gateway(&[Part::BusMessages]);
        let all = collect(rows.settings(), given, &env, &mut Vec::new());
        let all = all.expect("settings");
        let typed = all.iter().find(|typed| typed.setting.flag == flag);
        let typed = typed.expect("a row");
        (typed.number().expect("a number"), typed.source.clone())
    }

    #[test]
    fn a_limit_that_nobody_has_set_has_its_part() {
        let part = |mib: u64| ((mib - 24) * MIB / 1000 * 250, Source::PartOf(FLAG));
        let frames = "frame-bytes-max";
        let chosen = [(FLAG, "4294967296")];
        assert_eq!(shared(&chosen, None, frames), part(4096));
        assert_eq!(shared(&chosen, Some(MIB), frames), part(4096));
        assert_eq!(shared(&[], Some(1024 * MIB), frames), part(768));
        assert_eq!(
            shared(&[], Some(1024 * MIB), FLAG),
            (768 * MIB, Source::MemoryLimit)
        );
        assert_eq!(shared(&[], Some(MIB), frames), part(64), "no less");
        let messages = "bus-message-bytes-max";
        assert_eq!(shared(&[], Some(MIB), messages), part(64), "no larger");
        assert_eq!(shared(&chosen, None, messages), (16 * MIB, Source::Default));
        let own = [(FLAG, "67108864"), (frames, "99999999")];
        assert_eq!(shared(&own, None, frames), (99_999_999, Source::Flag));
    }

    #[test]
    fn a_large_machine_or_none_raises_nothing() {
        for limit_bytes in [None, Some(64 * 1024 * MIB)] {
            let unfinished = shared(&[], limit_bytes, "unfinished-bytes");
            assert_eq!(unfinished, (64 * MIB, Source::Default));
        }
    }
}
