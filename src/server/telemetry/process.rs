//! What the kernel says about this process: its use of resources, read from `/proc` for each page, and the limit on its
//! memory, read at the start. Without `/proc` the values are absent.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

/// For control groups of version 2 and of version 1: where they are mounted, the file with the limit, and the name of
/// the controller in `/proc/self/cgroup`, which is empty in version 2.
const CGROUP_VERSIONS: [(&str, &str, &str); 2] = [
    ("/sys/fs/cgroup", "memory.max", ""),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory"),
];

/// From here on a limit means "no limit": version 1 writes the largest number of whole pages.
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// The kernel's present numbers of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ProcessStats {
    /// User and system CPU time, seconds.
    pub cpu_seconds: Option<f64>,
    /// Resident memory, bytes.
    pub resident_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// The most file descriptors that may be open (the soft limit).
    pub max_fds: Option<u64>,
    /// Start of the process, Unix seconds.
    pub start_time_seconds: Option<f64>,
}

impl ProcessStats {
    /// Reads `/proc`.
    pub(crate) fn read() -> Self {
        let ticks_per_second = fs::read("/proc/self/auxv")
            .ok()
            .and_then(|auxv| clock_ticks(&auxv))
            // The usual value.
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

/// Returns the number of open descriptors. Linux 6.2 and later report it as the size of the directory; listing tens of
/// thousands of entries would take milliseconds.
fn open_fds() -> Option<u64> {
    let reported = fs::metadata("/proc/self/fd").ok()?.len();
    if reported > 0 {
        return Some(reported);
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

/// Returns the times in `/proc/self/stat` (proc_pid_stat(5)), in clock ticks. The second field is the program's name in
/// brackets, and may itself have brackets and blanks.
fn stat_ticks(stat: &str) -> Option<StatTicks> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    // Fields are counted from 1, and the first after the name is the third.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(StatTicks {
        cpu: field(14)? + field(15)?,
        started: field(22)?,
    })
}

/// Returns the clock ticks per second: `AT_CLKTCK` of the auxiliary vector (getauxval(3)), without a call into libc.
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

/// The memory that the system allows this process: the lowest limit of its control group and the parents (cgroups(7)),
/// of its address space and of its data (getrlimit(2)); `None` without a limit.
pub(crate) fn memory_limit_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let of_groups = least(&groups, |path| fs::read_to_string(path).ok());
    let of_process = [Resource::As, Resource::Data].map(|limit| getrlimit(limit).current);
    of_groups
        .into_iter()
        .chain(of_process.into_iter().flatten())
        .min()
}

/// The lowest memory limit on the paths of `groups`, which has lines of `ID:CONTROLLERS:PATH`. In a container, a path
/// may be the one outside of the container, so the limit of the mounted root counts too.
fn least(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let least_of = |(mount, file, controller): (&str, &str, &str)| {
        let mut fields = groups.lines().map(|line| line.splitn(3, ':').skip(1));
        let path = fields.find_map(|mut line| {
            let is_it = line.next()?.split(',').any(|name| name == controller);
            is_it.then(|| line.next())?
        })?;
        let path = Path::new(mount).join(path.trim_start_matches('/'));
        let up = path.ancestors().take_while(|at| at.starts_with(mount));
        let limits = up.filter_map(|at| read(&at.join(file))?.trim().parse().ok());
        limits.filter(|bytes| *bytes < NO_LIMIT_BYTES).min()
    };
    CGROUP_VERSIONS.into_iter().filter_map(least_of).min()
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
        let now = weirgate_runtime::Clock::start().now().unix_ms();
        let age = now as f64 / 1e3 - stats.start_time_seconds.unwrap();
        assert!((-2.0..86_400.0).contains(&age), "{age}");
    }

    fn least_of(groups: &str, files: &[(&str, &str)]) -> Option<u64> {
        let read = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path)?;
            Some(found.1.to_owned())
        };
        least(groups, read)
    }

    #[test]
    fn the_least_limit_up_to_the_root_counts() {
        let files = [
            ("/sys/fs/cgroup/pod/memory.max", "1000\n"),
            ("/sys/fs/cgroup/pod/container/memory.max", "max\n"),
            ("/sys/fs/cgroup/memory.max", "5000\n"),
        ];
        assert_eq!(least_of("0::/pod/container\n", &files), Some(1000));
        assert_eq!(least_of("0::/\n", &files), Some(5000), "a container");
        assert_eq!(least_of("0::/elsewhere\n", &files[..2]), None);
        assert_eq!(least_of("", &files), None);
    }

    #[test]
    fn version_1_has_a_group_for_memory_and_a_number_for_no_limit() {
        let groups = "9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n";
        let file = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
        assert_eq!(least_of(groups, &[(file, "2000\n")]), Some(2000));
        let none = "9223372036854771712\n";
        assert_eq!(least_of(groups, &[(file, none)]), None);
    }
}
