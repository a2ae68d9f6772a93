//! `--memory-max`: one number, of which each limit of bytes over all clients has a fixed part.

use super::kind::Kind;
use super::typed::{Source, Typed};

/// The flag that is shared.
const FLAG: &str = "memory-max";

/// The least memory that is shared: below, the parts are smaller than single messages.
pub(super) const MEMORY_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// Gives each limit that nobody has set its part of the memory. Without `--memory-max` the memory is three quarters
/// of `limit_bytes`, the memory that the system allows the process, and defaults are only lowered: a large machine
/// is no reason to hold more.
pub(super) fn share(all: &mut [Typed], limit_bytes: Option<u64>) {
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
    for typed in all {
        let (Some(thousandths), Source::Default) = (typed.setting.memory_part, &typed.source)
        else {
            continue;
        };
        let Kind::Number { min, max, .. } = typed.setting.kind else {
            continue;
        };
        let part = (bytes / 1000 * u64::from(thousandths)).clamp(min, max);
        if is_chosen || typed.number().is_some_and(|default| part < default) {
            typed.replace(part, Source::PartOf(FLAG));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Rows;
    use super::*;
    use crate::settings::typed::{Env, collect};

    const MIB: u64 = 1024 * 1024;

    /// The text and the source of `flag`.
    fn shared(flags: &[(&str, &str)], limit_bytes: Option<u64>, flag: &str) -> (u64, Source) {
        let given = |name: &str| {
            let found = flags.iter().find(|(flag, _)| *flag == name);
            found.map(|(_, text)| (*text).to_owned())
        };
        let env = Env::default().with_memory_limit(limit_bytes);
        let all = collect(Rows::EVERY.settings(), given, &env, &mut Vec::new());
        let all = all.expect("settings");
        let typed = all.iter().find(|typed| typed.setting.flag == flag);
        let typed = typed.expect("a row");
        (typed.number().expect("a number"), typed.source.clone())
    }

    #[test]
    fn a_limit_that_nobody_has_set_has_its_part() {
        let part = |mib: u64| (mib * MIB / 1000 * 300, Source::PartOf(FLAG));
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
