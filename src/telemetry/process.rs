//! The kernel's numbers of this process, read from `/proc` for each page. Without `/proc` the values are
//! absent.

use std::fs;

/// The kernel's present numbers of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessStats {
    /// User and system CPU time, seconds.
    pub cpu_seconds: Option<f64>,
    /// Resident memory, bytes.
    pub resident_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// Most file descriptors that may be open (the soft limit).
    pub max_fds: Option<u64>,
    /// Start of the process, Unix seconds.
    pub start_time_seconds: Option<f64>,
}

impl ProcessStats {
    /// Reads `/proc`.
    pub fn read() -> Self {
        let ticks_per_second = fs::read("/proc/self/auxv")
            .ok()
            .and_then(|auxv| clock_ticks(&auxv))
            .unwrap_or(100);
        let seconds = |ticks: u64| ticks as f64 / ticks_per_second as f64;
        let stat = text("/proc/self/stat").and_then(|stat| stat_ticks(&stat));
        let booted = text("/proc/stat").and_then(|stat| number_after(&stat, "btime "));
        Self {
            cpu_seconds: stat.map(|stat| seconds(stat.cpu)),
            resident_bytes: text("/proc/self/status")
                .and_then(|status| number_after(&status, "VmRSS:"))
                .map(|kib| kib * 1024),
            open_fds: open_fds(),
            max_fds: text("/proc/self/limits")
                .and_then(|limits| number_after(&limits, "Max open files")),
            start_time_seconds: booted
                .zip(stat)
                .map(|(booted, stat)| booted as f64 + seconds(stat.started)),
        }
    }
}

/// Returns the number of open descriptors. Linux 6.2 and later report the number as the directory's size;
/// listing tens of thousands of entries would take milliseconds.
fn open_fds() -> Option<u64> {
    let told = fs::metadata("/proc/self/fd").ok()?.len();
    if told > 0 {
        return Some(told);
    }
    let entries = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    // The listing itself holds a descriptor.
    Some(entries.saturating_sub(1))
}

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// Returns the number after `key` at the start of a line.
fn number_after(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct StatTicks {
    cpu: u64,
    started: u64,
}

/// The times in `/proc/self/stat` (proc_pid_stat(5)), in clock ticks. The second field is the
/// program's name in brackets and may hold anything, brackets too.
fn stat_ticks(stat: &str) -> Option<StatTicks> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    // Fields are counted from 1 and the first after the name is the third.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(StatTicks {
        cpu: field(14)? + field(15)?,
        started: field(22)?,
    })
}

/// `AT_CLKTCK` of the auxiliary vector (getauxval(3)): clock ticks per second, without a call
/// into libc.
fn clock_ticks(auxv: &[u8]) -> Option<u64> {
    const AT_CLKTCK: usize = 17;
    const WORD: usize = size_of::<usize>();
    let word = |bytes: &[u8]| bytes.try_into().ok().map(usize::from_ne_bytes);
    auxv.chunks_exact(2 * WORD)
        .find(|pair| word(&pair[..WORD]) == Some(AT_CLKTCK))
        .and_then(|pair| word(&pair[WORD..]))
        .and_then(|ticks| u64::try_from(ticks).ok())
        .filter(|&ticks| ticks > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_brackets_and_blanks_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 9 0 0 0 250 50 0 0 20 0 3 0 8100 1 1";
        let ticks = StatTicks {
            cpu: 300,
            started: 8100,
        };
        assert_eq!(stat_ticks(stat), Some(ticks));
        assert_eq!(stat_ticks("7 (a) S 1"), None);
        assert_eq!(stat_ticks(""), None);
    }

    #[test]
    fn numbers_are_found_by_the_start_of_their_line() {
        let status = "VmPeak:  9 kB\nVmRSS:\t  2804 kB\n";
        assert_eq!(number_after(status, "VmRSS:"), Some(2804));
        assert_eq!(number_after(status, "VmSwap:"), None);
        let limits = "Max open files            1024                 524288               files\n";
        assert_eq!(number_after(limits, "Max open files"), Some(1024));
        assert_eq!(
            number_after("Max open files unlimited", "Max open files"),
            None
        );
    }

    #[test]
    fn clock_ticks_are_read_from_the_auxiliary_vector() {
        let words = |words: &[usize]| -> Vec<u8> {
            words.iter().flat_map(|word| word.to_ne_bytes()).collect()
        };
        assert_eq!(clock_ticks(&words(&[6, 4096, 17, 250, 0, 0])), Some(250));
        assert_eq!(clock_ticks(&words(&[6, 4096, 0, 0])), None);
        assert_eq!(clock_ticks(&words(&[17])), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_plausible_numbers() {
        let stats = ProcessStats::read();
        assert!(stats.resident_bytes > Some(100_000));
        assert!(stats.open_fds >= Some(3));
        assert!(stats.max_fds >= stats.open_fds);
        let now = crate::base::Clock::start().now().unix_ms();
        let age = now as f64 / 1e3 - stats.start_time_seconds.unwrap();
        assert!((-2.0..86_400.0).contains(&age), "{age}");
    }
}
