//! The memory that the system allows this process: the limit of its control group (cgroups(7)).

use std::fs;
use std::path::Path;

/// Where control groups are mounted, the file with the limit, and the name of the controller in
/// `/proc/self/cgroup`: of version 2, and of version 1.
const VERSIONS: [(&str, &str, &str); 2] = [
    ("/sys/fs/cgroup", "memory.max", ""),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory"),
];

/// Version 1 writes "no limit" as the largest number of whole pages.
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// The lowest limit of the control group and its parents; `None` without a limit.
pub fn bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    least(&groups, |path| fs::read_to_string(path).ok())
}

/// The lowest memory limit on the paths of `groups`, which has lines of `ID:CONTROLLERS:PATH`. In a container, a path
/// may be the path outside of the container, so the limit of the mounted root counts too.
fn least(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let of = |(mount, file, controller): (&str, &str, &str)| {
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
    VERSIONS.into_iter().filter_map(of).min()
}

#[cfg(test)]
mod tests {
    use super::*;

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
