//! The number of processes (`--processes`), each of which gets its part of the limits over all clients.
//!
//! A supervisor starts each process with `--processes NUMBER/COUNT`. So a process knows its part, and `--check` and the
//! supervisor show the limits of all processes together.

use std::fmt;
use std::num::NonZeroU32;

use super::checked::Checked;
use super::error::SettingsError;
use super::field::With;
use super::groups::ProcessSettings;
use super::kind::{Form, Kind, RefusedValue};
use super::listen::{Listen, ListenSettings};
use super::setting::Counts;
use super::typed::{Source, Typed};
use crate::flag;

/// The most processes.
pub(crate) const PROCESSES_MAX: u32 = 64;

/// A limit by address is at least this in each process, unless the whole limit is lower: the system spreads the
/// connections of an address at random, so a process may get several of few.
const BY_ADDRESS_MORE: u64 = 4;

const ALLOWED: &str = "a number from 1 to 64, or auto";

/// How many processes serve the clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Processes {
    /// This process does.
    #[default]
    Alone,
    /// This process starts so many.
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
                NonZeroU32::MIN => Some(Self::Alone),
                several => Some(Self::Several(several)),
            },
        }
    }

    /// Whether this process starts others, and serves no client itself.
    pub fn is_supervisor(self) -> bool {
        matches!(self, Self::Several(_) | Self::Auto)
    }

    /// The number of this process, if it is one of several.
    pub fn number(self) -> Option<u32> {
        match self {
            Self::One { number, .. } => Some(number),
            _ => None,
        }
    }

    /// Of a limit over all processes, the number of processes that share it with this one.
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

/// The number of processes that share the limits with this one.
pub(super) fn shares(all: &[Typed]) -> u64 {
    let mut found = all
        .iter()
        .filter(|typed| typed.setting.flag == flag!("processes"));
    let processes = found.next().and_then(|typed| typed.read().ok());
    let processes = processes.and_then(|value| Processes::parse(&value.to_string()));
    processes.unwrap_or_default().shares()
}

/// Gives this process its part of each limit that applies to all processes together. Limits of bytes that are a part of
/// `--memory-max` already stay, because the memory was divided before.
pub(super) fn divide(all: &mut [Typed], shares: u64) {
    let is_divided = |typed: &&mut Typed| shares > 1 && !matches!(typed.source, Source::PartOf(_));
    for typed in all.iter_mut().filter(is_divided) {
        let Kind::Number { min, .. } = typed.setting.kind else {
            continue;
        };
        let Some(limit) = typed.number().filter(|limit| *limit > 0) else {
            continue;
        };
        let part = match typed.setting.counts() {
            Counts::Each => continue,
            Counts::All => limit.div_ceil(shares),
            Counts::Address => by_address(limit, shares),
        };
        typed.replace(part.max(min), typed.source.clone());
    }
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
    use crate::settings::Rows;
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
