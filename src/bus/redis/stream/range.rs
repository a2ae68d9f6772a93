//! How many entries the next answer may have. Pure.
//!
//! Redis has the whole answer in memory before it sends it, whatever its entries have: a large answer makes Redis evict keys, or
//! end the connection ([`client-output-buffer-limit`](https://redis.io/docs/latest/develop/reference/clients/)). What
//! follows may be far larger than what came before. So each connection begins with one entry, and the number doubles only after
//! answers that were full and small. From [`PLAIN_MAX`] entries on, a script stops at the size that is aimed at. It costs Redis several
//! times the CPU time of `XRANGE`, so it reads only a backlog.

/// The size of an answer that is aimed at if nothing else is said, bytes.
pub(super) const ANSWER_BYTES: usize = 1024 * 1024;
/// The most new entries of an answer.
pub(super) const ENTRIES_MAX: usize = 512;
/// The most new entries that are asked for without a limit on their bytes, if the server accepts [`SCRIPT`].
const PLAIN_MAX: usize = 32;
/// The same, if it does not.
const WITHOUT_SCRIPT_MAX: usize = 128;
/// `XRANGE` of at most `ARGV[2]` entries that ends after the part in which they reach `ARGV[3]` bytes. A part has four entries:
/// with fewer, small entries cost more.
pub(super) const SCRIPT: &str = "\
    local r,n,b,from,max={},0,0,ARGV[1],tonumber(ARGV[2]) \
    while n<max and b<tonumber(ARGV[3]) do local c=math.min(4,max-n) \
    local p=redis.call('XRANGE',KEYS[1],from,'+','COUNT',c) \
    for i=1,#p do n=n+1 r[n]=p[i] for j=1,#p[i][2] do b=b+#p[i][2][j] end end \
    if #p<c then break end from='('..p[c][1] end return r";

/// The size of the answers of a connection.
#[derive(Debug)]
pub(super) struct RangeSize {
    /// The size of an answer that is aimed at, bytes.
    answer_bytes: usize,
    /// The number of new entries of the next answer.
    entries: usize,
    /// Whether the server accepts [`SCRIPT`], as far as is known.
    pub(super) may_script: bool,
    /// How many entries the last command asks for, with the known one.
    asked: usize,
    /// Whether the last command is the script.
    is_script: bool,
    /// The entries of its answer that have arrived, and their bytes.
    arrived: usize,
    bytes: usize,
}

impl Default for RangeSize {
    fn default() -> Self {
        Self {
            answer_bytes: ANSWER_BYTES,
            entries: 1,
            may_script: true,
            asked: 0,
            is_script: false,
            arrived: 0,
            bytes: 0,
        }
    }
}

impl RangeSize {
    /// The size of the answers of a new connection.
    pub(super) fn aiming_at(answer_bytes: usize) -> Self {
        Self {
            answer_bytes,
            ..Self::default()
        }
    }

    /// The command for the next entries, from this id on. `is_known`: the entry with this id comes again.
    pub(super) fn command(&mut self, (key, from): (&str, &str), is_known: bool) -> Vec<String> {
        if !self.may_script {
            self.entries = self.entries.min(WITHOUT_SCRIPT_MAX);
        }
        self.asked = self.entries + usize::from(is_known);
        self.is_script = self.may_script && self.entries > PLAIN_MAX;
        (self.arrived, self.bytes) = (0, 0);
        let (count, bytes) = (self.asked.to_string(), self.answer_bytes.to_string());
        let words = match self.is_script {
            true => vec!["EVAL_RO", SCRIPT, "1", key, from, &count, &bytes],
            false => vec!["XRANGE", key, from, "+", "COUNT", &count],
        };
        words.into_iter().map(str::to_owned).collect()
    }

    /// After a refusal of the last command: whether it was the script, so that another command is the next to try.
    pub(super) fn is_script_refused(&mut self) -> bool {
        self.may_script &= !self.is_script;
        std::mem::take(&mut self.is_script)
    }

    /// Counts an entry of the answer. Returns whether it is the first one.
    pub(super) fn arrived(&mut self, bytes: usize) -> bool {
        self.arrived += 1;
        self.bytes += bytes;
        self.arrived == 1
    }

    /// Ends the answer. Returns whether more entries may follow.
    pub(super) fn end(&mut self) -> bool {
        let is_full = self.arrived >= self.asked;
        // The script counts only names and values, so at least as many bytes have arrived as it counted.
        let may_follow = is_full || self.is_script && self.bytes >= self.answer_bytes;
        if self.bytes >= self.answer_bytes {
            let fitting = self.arrived * self.answer_bytes / self.bytes;
            self.entries = fitting.min(self.entries / 2).max(1);
        } else if !may_follow {
            // The end of the stream is reached: so few entries need no script.
            self.entries = self.entries.min(PLAIN_MAX);
        } else if self.bytes <= self.answer_bytes / 2 {
            self.entries = (self.entries * 2).min(ENTRIES_MAX);
        }
        may_follow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks once; so many entries, of so many bytes, are there. Returns how many were asked for, and whether more may follow.
    fn ask(size: &mut RangeSize, (left, bytes): (usize, usize)) -> (usize, bool) {
        let command = size.command(("t", "1-0"), true);
        assert_eq!(command[0] == "EVAL_RO", size.is_script);
        let (asked, limit) = match size.is_script {
            true => (
                &command[5],
                ANSWER_BYTES.div_ceil(bytes).next_multiple_of(4),
            ),
            false => (&command[5], usize::MAX),
        };
        let asked = asked.parse().expect("a number");
        for _ in 0..left.min(asked).min(limit) {
            size.arrived(bytes);
        }
        (asked, size.end())
    }

    #[test]
    fn a_connection_begins_with_one_entry_and_asks_for_more_while_answers_are_small() {
        for (may_script, most) in [(true, ENTRIES_MAX), (false, WITHOUT_SCRIPT_MAX)] {
            let mut size = RangeSize {
                may_script,
                ..RangeSize::default()
            };
            for entries in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 512] {
                let (asked, may_follow) = ask(&mut size, (1_000, 100));
                assert_eq!((asked, may_follow), (entries.min(most) + 1, true));
                assert_eq!(size.is_script, may_script && entries > PLAIN_MAX);
            }
            // A backlog is over; what comes from now on is read by the cheaper command.
            assert!(!ask(&mut size, (9, 100)).1);
            assert_eq!(ask(&mut size, (9, 100)).0, PLAIN_MAX + 1);
        }
    }

    #[test]
    fn large_entries_after_small_ones_make_no_answer_much_larger_than_a_part() {
        for (bytes, plain) in [(256 * 1024, 4), (2 * 1024 * 1024, 1)] {
            let mut size = RangeSize::default();
            for _ in 0..20 {
                ask(&mut size, (1_000, 100));
            }
            assert!(ask(&mut size, (240, bytes)).1, "more follow");
            assert!(size.bytes <= ANSWER_BYTES.max(4 * bytes));
            for _ in 0..20 {
                let (asked, _) = ask(&mut size, (240, bytes));
                assert!(!size.is_script && asked <= plain + 1, "{asked}");
            }
        }
    }
}
