//! The number of processes (`--processes`), each of which gets its part of the limits over all clients.
//!
//! A supervisor starts each process with `--processes NUMBER/COUNT`. So a process knows its part. `--check` and the
//! supervisor also read the settings of one of the processes ([`Checked::each_process`]) and judge both, because a part may
//! be too small where the whole limit is not.

use std::fmt;
use std::num::NonZeroU32;

use super::checked::Checked;
use super::contradictions::ORDERS;
use super::error::SettingsError;
use super::field::With;
use super::groups::ProcessSettings;
use super::kind::{Form, Kind, RefusedValue, Unit};
use super::listen::{Listen, ListenSettings};
use super::memory_share::MEMORY_BYTES_MIN;
use super::setting::Counts;
use super::typed::{Source, Typed};
use crate::flag;

/// The most processes.
const PROCESSES_MAX: u32 = 64;

/// Each process gets this much more than its part of a limit by address, up to the whole limit: the system spreads the
/// connections of an address at random, so a process may get several of few.
const BY_ADDRESS_MORE: u64 = 4;

const FLAG: &str = flag!("processes");
const MEMORY: &str = flag!("memory-max");

const ALLOWED: &str = "a number from 1 to 64, or auto";

/// How many processes serve the clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Processes {
    /// This process does.
    #[default]
    Alone,
    /// This process starts this many.
    Several(NonZeroU32),
    /// This process starts one for each core.
    Auto,
    /// This process is one of several, which a supervisor has started.
    One {
        /// The number of this process; up to twice the count, because new processes start beside old ones.
        number: u32,
        /// How many share the clients.
        count: NonZeroU32,
    },
}

impl Processes {
    /// Parses a count, `auto`, or `NUMBER/COUNT`, with which a supervisor starts a process.
    fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| {
            let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit());
            let number: NonZeroU32 = text.parse().ok().filter(|_| is_decimal)?;
            (number.get() <= 2 * PROCESSES_MAX).then_some(number)
        };
        let count = |text| number(text).filter(|count| count.get() <= PROCESSES_MAX);
        match text.split_once('/') {
            Some((one, all)) => {
                let (number, count) = (number(one)?.get(), count(all)?);
                (number <= 2 * count.get()).then_some(Self::One { number, count })
            }
            None if text == "auto" => Some(Self::Auto),
            None => match count(text)? {
                // 1 is this process.
                NonZeroU32::MIN => Some(Self::Alone),
                several => Some(Self::Several(several)),
            },
        }
    }

    /// Whether this process starts others, and serves no client itself.
    pub fn is_supervisor(self) -> bool {
        matches!(self, Self::Several(_) | Self::Auto)
    }

    /// How many processes this process starts on a machine with this many `cores`; `None` if it is no supervisor.
    fn started(self, cores: u32) -> Option<NonZeroU32> {
        match self {
            Self::Several(count) => Some(count),
            Self::Auto => NonZeroU32::new(cores.clamp(1, PROCESSES_MAX)),
            Self::Alone | Self::One { .. } => None,
        }
    }

    /// The number of this process, if it is one of several.
    pub fn number(self) -> Option<u32> {
        match self {
            Self::One { number, .. } => Some(number),
            _ => None,
        }
    }

    /// The number of processes that share a limit over all processes, this one included.
    fn shares(self) -> u64 {
        match self {
            Self::One { count, .. } => count.get().into(),
            _ => 1,
        }
    }
}

/// As it is typed.
impl fmt::Display for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alone => f.write_str("1"),
            Self::Several(count) => count.fmt(f),
            Self::Auto => f.write_str("auto"),
            Self::One { number, count } => write!(f, "{number}/{count}"),
        }
    }
}

/// The form of `--processes`.
pub(super) static PROCESSES: Form =
    Form::new("N|auto", ALLOWED, |text| match Processes::parse(text) {
        Some(processes) => Ok(processes.to_string()),
        None => Err(RefusedValue::new(text, ALLOWED)),
    });

/// The field of `--processes`.
pub(super) static PROCESSES_FIELD: With<ProcessSettings, String> = With {
    set: |process, text| process.processes = Processes::parse(&text).unwrap_or_default(),
    get: |process| process.processes.to_string(),
};

/// The value of `--processes`; the default if it is not allowed.
fn typed(all: &[Typed]) -> Processes {
    let found = all.iter().find(|typed| typed.setting.flag == FLAG);
    let value = found.and_then(|typed| typed.read().ok());
    let processes = value.and_then(|value| Processes::parse(&value.to_string()));
    processes.unwrap_or_default()
}

/// The number of processes that share the limits, this one included.
pub(super) fn shares(all: &[Typed]) -> u64 {
    typed(all).shares()
}

/// Returns how many processes a supervisor with these settings starts on a machine with this many `cores`, and the
/// settings of the first of them. `None` if this is no supervisor.
pub(super) fn of_each(all: &[Typed], cores: u32) -> Option<(NonZeroU32, Vec<Typed>)> {
    let count = typed(all).started(cores)?;
    let mut each = all.to_vec();
    let processes = each.iter_mut().find(|typed| typed.setting.flag == FLAG)?;
    let first = Processes::One { number: 1, count };
    processes.replace(first, processes.source.clone());
    Some((count, each))
}

/// Gives this process its part of each limit that applies to all processes together. Limits of bytes that are a part of
/// `--memory-max` already stay, because the memory was divided before.
pub(super) fn divide(all: &mut [Typed], shares: u64) {
    if shares == 1 {
        return;
    }
    for n in 0..all.len() {
        let is_divided = !matches!(all[n].source, Source::PartOf(_));
        if let Some(part) = part(all, &all[n], shares).filter(|_| is_divided) {
            let source = all[n].source.clone();
            all[n].replace(part, source);
        }
    }
}

/// The part of a limit that one of several processes gets; `None` if each process has the limit whole, or there is no
/// limit.
fn part(all: &[Typed], typed: &Typed, shares: u64) -> Option<u64> {
    let Kind::Number { min, unit, .. } = typed.setting.kind else {
        return None;
    };
    let limit = typed.number().filter(|limit| *limit > 0)?;
    let part = match (typed.setting.counts(), unit) {
        (Counts::Each, _) => return None,
        // Rounded down, because a limit of bytes may be a fraction of another, which a part rounded up would exceed.
        (Counts::All, Unit::Bytes) => limit / shares,
        (Counts::All, _) => limit.div_ceil(shares),
        (Counts::Address, _) => by_address(limit, shares),
    };
    let least = least_part(all, typed.setting.flag).max(min);
    Some(part.max(least).min(limit))
}

/// The largest value that must fit into the part of this limit, such as the size of one message. Each process has such
/// a value whole.
fn least_part(all: &[Typed], flag: &str) -> u64 {
    let fits = |typed: &&Typed| {
        let low = typed.setting.flag;
        ORDERS.contains(&(low, flag)) || typed.setting.fits_into.contains(&flag)
    };
    let fitting = all.iter().filter(fits);
    fitting.filter_map(Typed::number).max().unwrap_or(0)
}

/// The least memory of `count` processes together, bytes.
fn least_of(count: NonZeroU32) -> u64 {
    MEMORY_BYTES_MIN * u64::from(count.get())
}

/// The limit of an address in one of several processes. With twice its part the address is hardly ever refused for the
/// process that the system has chosen, and over all processes it has at most twice the limit, and four for each process.
fn by_address(limit: u64, shares: u64) -> u64 {
    let part = limit.saturating_mul(2).div_ceil(shares);
    part.saturating_add(BY_ADDRESS_MORE).min(limit)
}

impl Checked {
    /// How many processes serve the clients.
    pub fn processes(&self) -> Processes {
        self.get::<ProcessSettings>().processes
    }

    /// How many processes this process starts; 1 if it is no supervisor.
    pub fn processes_to_start(&self) -> u32 {
        self.each_process().map_or(1, |(count, _)| count.get())
    }

    /// The error of a `--memory-max` that gives each of `count` processes less than it needs.
    pub(super) fn memory_of_each_error(&self, count: NonZeroU32) -> Option<SettingsError> {
        let memory = self.if_set(MEMORY)?;
        let (bytes, least) = (self.get::<ProcessSettings>().memory_max, least_of(count));
        (1..least).contains(&bytes).then(|| {
            let allowed = format!("0, or at least {least}: 64 MiB for each of {count} processes");
            self.refused_whole(memory.setting.flag, allowed)
        })
    }

    /// The warning about a memory limit of the system that leaves each of `count` processes less than it takes.
    pub(super) fn memory_of_each_warning(&self, count: NonZeroU32) -> Option<String> {
        let memory = self.find(MEMORY)?;
        let (bytes, least) = (self.get::<ProcessSettings>().memory_max, least_of(count));
        (memory.source == Source::MemoryLimit && bytes < least).then(|| {
            format!(
                "the limits of {count} processes are made for {least} bytes of memory, 64 MiB for each; three quarters of the \
                 memory limit are {bytes}: raise the memory limit, or lower --processes"
            )
        })
    }

    /// The errors of a gateway with several processes.
    pub(super) fn processes_errors(&self) -> Vec<SettingsError> {
        if !self.processes().is_supervisor() {
            return Vec::new();
        }
        let listen = self.get::<ListenSettings>();
        let mut errors = Vec::new();
        if listen.admin_addr.is_none() {
            let allowed = "1, unless --admin-addr is set: the one address of /metrics, /ready and the operator's page";
            errors.push(self.refused_whole(flag!("processes"), allowed));
        }
        if listen
            .listen
            .iter()
            .any(|one| matches!(one, Listen::Unix(_)))
        {
            let allowed = "IP addresses, with --processes: the system spreads connections over the processes of a port only";
            errors.push(self.refused_whole(flag!("listen"), allowed));
        }
        if !self.get::<ProcessSettings>().cpus.is_empty() {
            let allowed = "nothing, with --processes";
            errors.push(self.refused_whole(flag!("cpus"), allowed));
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Env, Rows, TablePart};
    use weirgate_core::Limits;

    #[test]
    fn a_number_or_auto_and_for_a_process_its_own_number() {
        for (text, shown) in [
            ("1", "1"),
            ("4", "4"),
            ("64", "64"),
            ("auto", "auto"),
            ("8/4", "8/4"),
            ("1/1", "1/1"),
        ] {
            assert_eq!((PROCESSES.read)(text).as_deref(), Ok(shown));
        }
        for text in ["0", "65", "-1", "+2", "", "4/", "0/4", "9/4", "1/65", "all"] {
            assert!((PROCESSES.read)(text).is_err(), "{text}");
        }
    }

    fn limits(flags: &[(&str, &str)]) -> Limits {
        let checked = Checked::of(Rows::EVERY, flags, &[]).expect("good settings");
        checked.get()
    }

    #[test]
    fn each_process_has_its_part_of_the_limits_over_all() {
        let max = ("connections-max", "1001");
        let by_ip = ("connections-per-ip-max", "100");
        let whole = limits(&[max, by_ip]);
        assert_eq!(whole.connections_max, 1001);
        let part = limits(&[max, by_ip, ("processes", "3/4")]);
        assert_eq!(part.connections_max, 251);
        assert_eq!(part.per_ip.connections_max, Some(54));
        assert_eq!(part.frame_bytes_max, whole.frame_bytes_max / 4);
        assert_eq!(part.message_bytes_max, whole.message_bytes_max);
        assert_eq!(
            limits(&[("processes", "1/4")]).connections_max,
            usize::MAX,
            "no limit has no part"
        );
        let most = limits(&[("processes", "64/64")]);
        assert!(most.frame_bytes_max >= most.send_queue.hard_bytes as u64);
    }

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn a_part_has_room_for_the_largest_message() {
        let rows = Rows::gateway(&[TablePart::BusMessages, TablePart::History]);
        let limits = |flags: &[(&str, &str)]| -> Limits {
            Checked::of(rows, flags, &[]).expect("good settings").get()
        };
        let most = ("processes", "64/64");
        let message = ("message-bytes-max", "67108864");
        assert_eq!(limits(&[most]).frame_bytes_max, 16 * MIB);
        assert_eq!(limits(&[most, message]).unfinished_bytes_max, 64 * MIB);
        let message = ("bus-message-bytes-max", "33554432");
        assert_eq!(limits(&[most, message]).frame_bytes_max, 32 * MIB);
        let history = [
            ("processes", "1/2"),
            ("history-ms", "60000"),
            ("history-bytes-max", "33554433"),
            ("frame-bytes-max", "67108866"),
        ];
        assert_eq!(limits(&history).history.bytes_max as u64, 16 * MIB);
    }

    const FOUR: [(&str, &str); 2] = [("processes", "4"), ("admin-addr", "127.0.0.1:9100")];

    fn with_env(flags: &[(&str, &str)], env: Env) -> Result<Checked, String> {
        let typed = |name: &str| {
            let flags = flags.iter().filter(|(flag, _)| *flag == name);
            flags.map(|(_, text)| (*text).to_owned()).collect()
        };
        let checked = Checked::read(Rows::EVERY.settings(), typed, &env, Vec::new(), |_| {
            Vec::new()
        });
        checked.map_err(|errors| errors.iter().map(|error| format!("{error}\n")).collect())
    }

    #[test]
    fn a_part_that_is_too_small_is_told_with_the_number_of_processes() {
        let flags = [
            ("memory-max", "402653184"),
            ("message-bytes-max", "16777216"),
        ];
        assert!(with_env(&flags, Env::default()).is_ok(), "one process");
        let error = with_env(&[&flags[..], &FOUR].concat(), Env::default()).expect_err("four");
        let begin = "in each of 4 processes: --message-bytes-max is 16777216 (flag); allowed: at most unfinished-bytes, ";
        assert!(error.starts_with(begin), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }

    #[test]
    fn memory_for_less_than_the_least_of_each_process_is_refused() {
        let of = |bytes| {
            with_env(
                &[&FOUR[..], &[("memory-max", bytes)]].concat(),
                Env::default(),
            )
        };
        let error = of("268435455").expect_err("too little");
        let allowed = "allowed: 0, or at least 268435456: 64 MiB for each of 4 processes\n";
        assert_eq!(error, format!("--memory-max is \"268435455\"; {allowed}"));
        for bytes in ["268435456", "0"] {
            assert!(of(bytes).is_ok(), "{bytes}");
        }
    }

    #[test]
    fn a_memory_limit_that_is_too_low_for_the_processes_is_told() {
        let warnings = |limit: u64| {
            let env = Env::default().with_memory_limit(Some(limit));
            let checked = with_env(&FOUR, env).expect("good settings");
            checked.warnings().to_vec()
        };
        assert_eq!(warnings(1024 * MIB), &[] as &[String]);
        let low = warnings(256 * MIB);
        let begin = "the limits of 4 processes are made for 268435456 bytes of memory";
        assert!(
            matches!(&low[..], [one] if one.starts_with(begin)),
            "{low:?}"
        );
    }

    #[test]
    fn auto_is_a_process_for_each_core() {
        let flags = [("processes", "auto"), FOUR[1]];
        for (cores, count) in [(1, 1), (48, 48), (100, 64)] {
            let checked = with_env(&flags, Env::default().with_cores(cores));
            let checked = checked.expect("good settings");
            let (started, each) = checked.each_process().expect("a supervisor");
            assert_eq!(
                (started.get(), checked.processes_to_start()),
                (count, count)
            );
            assert_eq!(each.processes().shares(), u64::from(count));
        }
    }

    #[test]
    fn a_memory_limit_lowers_parts_of_defaults_and_raises_none() {
        let frames = |limit_mib: u64| {
            let env = Env::default().with_memory_limit(Some(limit_mib * MIB));
            let checked = with_env(&FOUR, env).expect("good settings");
            let (_, each) = checked.each_process().expect("a supervisor");
            each.get::<Limits>().frame_bytes_max
        };
        assert_eq!(frames(8192), 128 * MIB, "a quarter of 512 MiB");
        assert_eq!(frames(1024), (192 - 24) * MIB / 1000 * 250);
    }

    #[test]
    fn the_memory_is_divided_before_it_is_shared_out() {
        let memory = ("memory-max", "4294967296");
        let part = limits(&[memory, ("processes", "2/4")]);
        let alone = limits(&[("memory-max", "1073741824")]);
        assert_eq!(part.frame_bytes_max, alone.frame_bytes_max);
        assert_eq!(part.connection_bytes_max, alone.connection_bytes_max);
    }

    #[test]
    fn an_address_has_at_most_twice_its_limit_and_four_for_each_process() {
        for (limit, shares, part) in [
            (1, 4, 1),
            (8, 4, 8),
            (20, 4, 14),
            (100, 4, 54),
            (100, 64, 8),
        ] {
            assert_eq!(by_address(limit, shares), part, "{limit} {shares}");
            assert!(part * shares <= 2 * limit + (BY_ADDRESS_MORE + 1) * shares);
        }
    }

    #[test]
    fn several_processes_need_one_admin_address_and_ports() {
        let refused = |flags: &[(&str, &str)]| Checked::of(Rows::EVERY, flags, &[]).expect_err("");
        let admin = ("admin-addr", "127.0.0.1:9100");
        let four = ("processes", "4");
        assert!(refused(&[four]).contains("--admin-addr is set"));
        assert!(refused(&[four, admin, ("listen", "unix:/run/a")]).contains("--listen is"));
        assert!(refused(&[four, admin, ("cpus", "0")]).contains("--cpus is"));
        assert!(Checked::of(Rows::EVERY, &[four, admin], &[]).is_ok());
    }
}
