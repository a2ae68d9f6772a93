//! Pages: the next messages for a client that gets all that are kept.

use super::History;
use super::cursor::KeptCursor;
use super::found::{At, FoundCopies};
use super::missed::KeptPage;
use super::wanted::{After, FrameBudget, MATCH_STEPS_MAX, Matching, Unwanted, Wanted, WantedNames};
use crate::{CopyRank, NotRecovered};

/// The messages of a page, before their frames are made.
struct FoundPage<'n> {
    /// Where each message is, and the wanted name that its copy is for.
    copies: Vec<(At, &'n Wanted)>,
    end: PageEnd,
}

/// Where a page ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageEnd {
    /// At the end of the list.
    Last,
    /// Before the message with this number: the time for the walk was over.
    Before(u64),
    /// After the last copy: the page is full, or the search for more took too many steps of matching.
    Full,
}

impl History {
    /// The next messages of the wanted names after a cursor, oldest first: as many as fit, and as a step of a search finds.
    /// `may_skip`: messages after the cursor may be missing.
    ///
    /// # Errors
    /// Messages after the cursor are missing and may not be, or the search is too long.
    pub(crate) fn page(
        &mut self,
        cursor: &KeptCursor,
        wanted: &[Wanted],
        may_skip: bool,
        budget: FrameBudget,
    ) -> Result<KeptPage, NotRecovered> {
        let (missing, known) = (&self.missing, &self.known_topics);
        let since = self.find_cursor(cursor, may_skip)?;
        if !may_skip {
            let judge = |wanted: &Wanted| missing.judge(since.number_for(wanted), wanted, known);
            wanted.iter().try_for_each(judge)?;
        }
        let is_skipped =
            |wanted: &Wanted| since.number_for(wanted) < missing.forgotten_of(wanted, known);
        let names = WantedNames::new(wanted.iter());
        let mut unwanted = Unwanted::new(&names, known);
        let matching = Matching::new(&names, &mut unwanted, known, MATCH_STEPS_MAX);
        let found = self.find_page(matching, since, budget)?;
        let mut page = KeptPage {
            reached: self.end_of(&found),
            is_last: found.end == PageEnd::Last,
            has_skipped: wanted.iter().any(is_skipped),
            was_lost_meanwhile: self.was_lost_meanwhile(cursor),
            counts: vec![0; wanted.len()],
            ..KeptPage::default()
        };
        // The page was limited before its frames are made.
        let unlimited = FrameBudget {
            bytes_max: usize::MAX,
            has_positions: budget.has_positions && !page.was_lost_meanwhile,
            ..budget
        };
        let before = self.memory();
        for (at, name) in found.copies {
            self.make(at, name.pattern(), &mut page.messages, unlimited)?;
            let is_it = |wanted: &Wanted| wanted.name == name.name;
            if let Some(at) = wanted.iter().position(is_it) {
                page.counts[at] += 1;
            }
        }
        self.forget_made(before);
        Ok(page)
    }

    /// Finds the messages of a page after a position.
    ///
    /// # Errors
    /// The search is too long.
    fn find_page<'n>(
        &self,
        mut matching: Matching<'n>,
        since: After,
        budget: FrameBudget,
    ) -> Result<FoundPage<'n>, NotRecovered> {
        let mut found = FoundCopies::new(budget);
        let (from, until) = (since.whole() + 1, self.numbers.head);
        let rest = self.walk(from..=until, since, &mut matching, |at, entry, name| {
            found.push(At::Entry(at), entry.body_for(budget.content), name)
        });
        let mut copies = found.copies;
        // The last copy is too much for this page; a single one goes out whatever its size.
        if found.bytes > budget.bytes_max && copies.len() > 1 {
            copies.pop();
        }
        let end = match rest {
            Ok(None) => PageEnd::Last,
            Ok(Some(number)) => PageEnd::Before(number),
            Err(why) if copies.is_empty() => return Err(why),
            Err(_) => PageEnd::Full,
        };
        Ok(FoundPage { copies, end })
    }

    /// From where the next page goes on: if the time of the walk was over, from where it stopped; otherwise from the last
    /// copy.
    fn end_of(&self, page: &FoundPage<'_>) -> Option<KeptCursor> {
        let looked_at = match page.end {
            PageEnd::Before(number) => self.cursor_before(number),
            PageEnd::Last | PageEnd::Full => None,
        };
        let after_last = || match page.copies.last()? {
            (At::Entry(at), name) => Some(self.cursor_after(&self.list.entries[*at], name.rank())),
            // A page is of the list alone.
            (At::NewestOnly(_), _) => None,
        };
        looked_at.or_else(after_last)
    }

    /// The cursor after the message before the one with this number.
    fn cursor_before(&self, number: u64) -> Option<KeptCursor> {
        let before = self.list.first_entry(number).checked_sub(1)?;
        let before = self.list.entries.get(before)?;
        Some(self.cursor_after(before, CopyRank::LAST))
    }
}
