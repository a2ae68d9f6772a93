//! What a server has executed that concerns the entries of any stream, as it counts its commands. If nothing of this can have
//! deleted a stream, or too little to make one with so many entries, the stream is the same as before. Pure.

use super::super::state::Counters;
use super::info::info_line;
use crate::redis::resp::Value;

/// The questions for what the server has executed. Before Redis 7.0, a question has one section.
pub(super) const ASK_EXECUTED: [[&str; 2]; 2] = [["INFO", "commandstats"], ["INFO", "stats"]];
/// While entries come and the last one is there, the shortest time between two questions for what the server has executed,
/// milliseconds.
pub(super) const EXECUTED_ASKED_MS: u64 = 1_000;

/// The commands other than `XADD` that can add entries to a stream, or change its counters: one alone may add any number.
const PLACING: [&str; 8] = [
    "restore",
    "restore-asking",
    "copy",
    "rename",
    "renamenx",
    "move",
    "swapdb",
    "xsetid",
];

/// The commands that can delete a stream, or replace it by another one or by a key of another kind, such as those that store
/// their result.
const REMOVING: [&str; 34] = [
    "del",
    "delex",
    "unlink",
    "flushdb",
    "flushall",
    "expire",
    "pexpire",
    "expireat",
    "pexpireat",
    "set",
    "setex",
    "psetex",
    "mset",
    "msetex",
    "rename",
    "renamenx",
    "move",
    "copy",
    "restore",
    "restore-asking",
    "swapdb",
    "sort",
    "bitop",
    "migrate",
    "sinterstore",
    "sunionstore",
    "sdiffstore",
    "zunionstore",
    "zinterstore",
    "zdiffstore",
    "zrangestore",
    "geosearchstore",
    "georadius",
    "georadiusbymember",
];

/// What removes keys without a command, as `INFO stats` counts it: their time to live, and the limit of the memory.
const REMOVED_KEYS: [&str; 2] = ["expired_keys:", "evicted_keys:"];

/// How often the server has done what concerns which entries a stream has, of any key: the answers to `INFO commandstats` and
/// `INFO stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Executed {
    /// `XADD`, of which each adds at most one entry.
    xadds: u64,
    /// The other commands that can add entries to a stream.
    placings: u64,
    /// What can delete a stream, or replace it: commands, and keys that were removed without one.
    removals: u64,
    /// All commands, of whatever kind.
    all: u64,
}

/// What the server had executed before it gave the other answers of a round, and after them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ExecutedAround {
    pub(super) before: Option<Executed>,
    pub(super) after: Option<Executed>,
}

impl Executed {
    /// Reads the answers; `None` of a refusal, or if an answer is not whole.
    pub(super) fn read(commands: &Value, stats: &Value) -> Option<Self> {
        let (Value::Bulk(commands), Value::Bulk(_)) = (commands, stats) else {
            return None;
        };
        let commands = str::from_utf8(commands).ok()?;
        let mut executed = Self::default();
        for line in commands.lines() {
            if let Some((name, rest)) = line
                .strip_prefix("cmdstat_")
                .and_then(|line| line.split_once(":calls="))
            {
                let number = rest.split(',').next().unwrap_or_default();
                let calls: u64 = number.parse().ok()?;
                let of = |names: &[&str]| if names.contains(&name) { calls } else { 0 };
                executed.xadds = executed.xadds.checked_add(of(&["xadd"]))?;
                executed.placings = executed.placings.checked_add(of(&PLACING))?;
                executed.removals = executed.removals.checked_add(of(&REMOVING))?;
                executed.all = executed.all.checked_add(calls)?;
            }
        }
        for name in REMOVED_KEYS {
            let keys = info_line(stats, name)?.parse().ok()?;
            executed.removals = executed.removals.checked_add(keys)?;
        }
        // Without the heading of the section the server has not counted: then 0 would be wrong.
        commands.starts_with('#').then_some(executed)
    }

    /// What was done since `before`; `None` if the server began to count anew meanwhile (`CONFIG RESETSTAT`). That shows in the
    /// number of all commands: in the seconds between, it does not come back to what it was.
    pub(super) fn since(self, before: Self) -> Option<Self> {
        Some(Self {
            xadds: self.xadds.checked_sub(before.xadds)?,
            placings: self.placings.checked_sub(before.placings)?,
            removals: self.removals.checked_sub(before.removals)?,
            all: self.all.checked_sub(before.all)?,
        })
    }

    /// The commands that can add entries to a stream.
    pub(super) fn additions(self) -> u64 {
        self.xadds.saturating_add(self.placings)
    }

    /// Whether a stream that had these counters before the end of this time was there at its beginning: no stream was deleted,
    /// or this one has had more entries than can have been added since.
    pub(super) fn spared(self, counters: Option<Counters>) -> bool {
        let is_older = counters.is_some_and(|counters| self.xadds < counters.added);
        self.removals == 0 || is_older && self.placings == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(commands: &str, stats: &str) -> Option<Executed> {
        let info = |text: &str| Value::Bulk(text.as_bytes().to_vec());
        Executed::read(&info(commands), &info(stats))
    }

    const STATS: &str = "# Stats\r\nexpired_keys:2\r\nevicted_keys:1\r\n";

    #[test]
    fn commands_are_counted_by_what_they_can_do() {
        let commands = "# Commandstats\r\ncmdstat_ping:calls=9,usec=1\r\ncmdstat_xadd:calls=5,usec=1\r\n\
                        cmdstat_rename:calls=1,usec=1\r\ncmdstat_del:calls=3,usec=1\r\n";
        let executed = read(commands, STATS).expect("whole answers");
        // `RENAME` can add and remove, and keys go without a command, too.
        let expected = Executed {
            xadds: 5,
            placings: 1,
            removals: 1 + 3 + 2 + 1,
            all: 18,
        };
        assert_eq!((executed, executed.additions()), (expected, 6));
    }

    #[test]
    fn an_answer_that_is_not_whole_says_nothing() {
        assert!(read("# Commandstats\r\n", STATS).is_some());
        assert_eq!(read("", STATS), None, "nothing was counted");
        assert_eq!(read("# Commandstats\r\n", "# Stats\r\n"), None);
        let refused = Value::Error("NOPERM".to_owned());
        assert_eq!(Executed::read(&refused, &refused), None);
    }

    #[test]
    fn a_server_that_counts_anew_says_nothing_of_the_time_between() {
        let count = |all, xadds| Executed {
            all,
            xadds,
            ..Executed::default()
        };
        assert_eq!(count(9, 5).since(count(7, 4)), Some(count(2, 1)));
        assert_eq!(count(6, 5).since(count(7, 4)), None);
    }
}
