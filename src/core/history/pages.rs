//! Pages: the next messages for a client that gets all that are kept.

use super::History;
use super::cursor::KeptCursor;
use super::found::{At, FoundCopies};
use super::missed::KeptPage;
use super::wanted::{FrameBudget, MATCH_STEPS_MAX, Matching, Unwanted, Wanted, WantedNames};
use crate::{CopyRank, NotRecovered};

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
        let since = self.find_cursor(cursor, may_skip)?;
        if !may_skip {
            let (missing, known) = (&self.missing, &self.known_topics);
            let judge = |wanted: &Wanted| missing.judge(since.number_for(wanted), wanted, known);
            wanted.iter().try_for_each(judge)?;
        }
        let names = WantedNames::new(wanted.iter());
        let known = &self.known_topics;
        let mut unwanted = Unwanted::new(&names, known);
        let mut matching = Matching::new(&names, &mut unwanted, known, MATCH_STEPS_MAX);
        let mut found = FoundCopies::new(budget);
        let (from, until) = (since.whole() + 1, self.numbers.head);
        // Where the next page begins; `None` at the end of the list; an error if this page is full.
        let rest = self.walk(from..=until, since, &mut matching, |at, entry, name| {
            found.push(At::Entry(at), entry.body_for(budget.content), name)
        });
        let mut copies = found.copies;
        // The last copy is too much for this page; a single one goes out whatever its size.
        if found.bytes > budget.bytes_max && copies.len() > 1 {
            copies.pop();
        }
        if copies.is_empty() {
            rest?;
        }
        let before = self.memory();
        let mut page = KeptPage {
            is_last: rest == Ok(None),
            has_skipped: wanted.iter().any(|wanted| {
                since.number_for(wanted) < self.missing.forgotten_of(wanted, &self.known_topics)
            }),
            was_lost_meanwhile: self.was_lost_meanwhile(cursor),
            counts: vec![0; wanted.len()],
            ..KeptPage::default()
        };
        let next = rest.ok().flatten();
        // If the time of the walk was over, the page reaches up to where it stopped; otherwise up to the last copy.
        let looked_at = next.and_then(|next| self.cursor_before(next));
        let last = copies.last();
        page.reached = looked_at.or_else(|| {
            last.and_then(|&(at, name)| match at {
                At::Entry(at) => Some(self.cursor_after(&self.list.entries[at], name.rank())),
                // The walk above goes over the list alone.
                At::NewestOnly(_) => None,
            })
        });
        let has_positions = budget.has_positions && !page.was_lost_meanwhile;
        for (at, name) in copies {
            // The page was limited above, before the frames were made.
            let unlimited = FrameBudget {
                bytes_max: usize::MAX,
                has_positions,
                ..budget
            };
            self.make(at, name.pattern(), &mut page.messages, unlimited)?;
            let is_it = |wanted: &Wanted| wanted.name == name.name;
            if let Some(at) = wanted.iter().position(is_it) {
                page.counts[at] += 1;
            }
        }
        self.forget_made(before);
        Ok(page)
    }

    /// The cursor after the message before the one with this number.
    fn cursor_before(&self, number: u64) -> Option<KeptCursor> {
        let before = self.list.first_entry(number).checked_sub(1)?;
        let before = self.list.entries.get(before)?;
        Some(self.cursor_after(before, CopyRank::LAST))
    }
}
