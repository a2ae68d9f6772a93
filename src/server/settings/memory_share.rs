//! Shares out `--memory-max`: each limit of bytes over all clients gets a fixed part.

use super::kind::Kind;
use super::processes;
use super::typed::{Source, Typed};

/// The flag that is shared.
const FLAG: &str = "memory-max";

/// The least memory that is shared out. Parts of less memory would be smaller than single messages.
pub(super) const MEMORY_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// Memory of the program without clients, which is not shared out: code, tables, stacks and buffers of its threads.
const PROGRAM_BYTES: u64 = 24 * 1024 * 1024;

/// A message that is not JSON is in memory twice: its payload, and the text for clients.
const MESSAGE_COPIES: u64 = 2;

/// Gives each limit that nobody has set its part of the memory, from which [`PROGRAM_BYTES`] are subtracted first.
/// Without `--memory-max` the memory is three quarters of `limit_bytes`, the memory limit of the process. Defaults are
/// then only lowered, because a large machine is no reason to hold more. If this is one of several processes, it has
/// its part of the memory, and of all other limits over all clients.
pub(super) fn share(all: &mut [Typed], limit_bytes: Option<u64>) {
    let processes = processes::shares(all);
    match memory(all, limit_bytes, processes) {
        // The memory is that of this process, so its parts are not divided again: only the other limits are.
        Some(memory) if memory.is_chosen => {
            give_parts(all, memory);
            processes::divide(all, processes);
        }
        // First each process gets its part of the defaults. Then a default is lowered only if this part is too large.
        Some(memory) => {
            processes::divide(all, processes);
            give_parts(all, memory);
        }
        None => processes::divide(all, processes),
    }
    lower_default(
        all,
        "bus-message-bytes-max",
        "frame-bytes-max",
        MESSAGE_COPIES,
    );
}

/// The memory of this process.
struct Memory {
    bytes: u64,
    /// Whether an operator has set `--memory-max`.
    is_chosen: bool,
}

/// Finds the memory of this process, one of `processes`, and shows it as `--memory-max`; `None` without a limit.
fn memory(all: &mut [Typed], limit_bytes: Option<u64>, processes: u64) -> Option<Memory> {
    let memory = all.iter_mut().find(|typed| typed.setting.flag == FLAG)?;
    let is_chosen = memory.source != Source::Default && memory.number() != Some(0);
    if !is_chosen && let Some(limit_bytes) = limit_bytes {
        let bytes = (limit_bytes / 4 * 3).max(MEMORY_BYTES_MIN);
        memory.replace(bytes, Source::MemoryLimit);
    }
    let bytes = memory.number().filter(|bytes| *bytes > 0)?;
    let bytes = match processes {
        1 => bytes,
        _ => (bytes / processes).max(MEMORY_BYTES_MIN),
    };
    memory.replace(bytes, memory.source.clone());
    Some(Memory { bytes, is_chosen })
}

/// Gives each limit that nobody has set its part of the memory.
fn give_parts(all: &mut [Typed], memory: Memory) {
    let Memory { bytes, is_chosen } = memory;
    for typed in all {
        let (Some(thousandths), Source::Default) =
            (typed.setting.memory_thousandths, &typed.source)
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

/// Lowers the default of `flag`, so that `count` such values fit in the limit `bound`. Does nothing if an operator has
/// set either, or if `bound` has no part of the memory.
fn lower_default(all: &mut [Typed], flag: &str, bound: &str, count: u64) {
    let mut found = all.iter().filter(|typed| typed.setting.flag == bound);
    let part = found.find(|typed| matches!(typed.source, Source::PartOf(_)));
    let Some(part) = part.and_then(Typed::number).map(|part| part / count) else {
        return;
    };
    let mut lowered = all.iter_mut().filter(|typed| typed.setting.flag == flag);
    if let Some(typed) = lowered.find(|typed| typed.source == Source::Default)
        && typed.number().is_some_and(|default| default > part)
    {
        typed.replace(part, Source::PartOf(FLAG));
    }
}

#[cfg(test)]
mod tests {
    use super::super::env::Env;
    use super::super::typed::collect;
    use super::*;
    use crate::settings::{Rows, TablePart};

    const MIB: u64 = 1024 * 1024;

    /// The text and the source of `flag`.
    fn shared(flags: &[(&str, &str)], limit_bytes: Option<u64>, flag: &str) -> (u64, Source) {
        let given = |name: &str| {
            let found = flags.iter().filter(|(flag, _)| *flag == name);
            found.map(|(_, text)| (*text).to_owned()).collect()
        };
        let env = Env::default();
        let rows = Rows::gateway(&[TablePart::BusMessages]);
        let all = collect(rows.settings(), given, &env, &mut Vec::new());
        let mut all = all.expect("settings");
        share(&mut all, limit_bytes);
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
        let (frames_of_64, source) = part(64);
        let half = (frames_of_64 / 2, source);
        assert_eq!(shared(&[], Some(MIB), messages), half, "half of the frames");
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
