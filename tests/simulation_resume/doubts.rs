//! Messages that an instance does not read, as the first ones of a mirror that are removed before it reads them: other
//! instances have them. Their source finds out some time later, and until then everything behind them is in doubt, as are
//! messages of which none was removed.

use weirgate_core::{BusEvent, FeedNotice};

use crate::world::Random;

/// The most messages in a row that are not read.
const SKIPPED_MAX: u64 = 3;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    is_in_doubt: bool,
    /// So many of the next messages are not read.
    skips: u64,
    /// Messages were skipped that are not said to be lost.
    has_skipped: bool,
    /// The answers since the last message that was skipped. The first may be about an earlier question.
    answers: u32,
}

/// What becomes of the next message.
#[derive(Debug)]
pub(crate) enum Next {
    Skipped,
    /// It is read, behind this event.
    Read(Option<BusEvent>),
}

fn word(is_in_doubt: bool) -> BusEvent {
    BusEvent::Feed(FeedNotice::InDoubt(is_in_doubt))
}

impl Doubts {
    /// A message is about to be read.
    pub(crate) fn next(&mut self, random: &mut Random) -> Next {
        let begins = match self.is_in_doubt {
            // Behind other messages that are in doubt.
            true => !self.has_skipped && random.chance(20),
            false => self.skips == 0 && !self.has_skipped && random.chance(8),
        };
        if begins {
            self.skips = random.below(SKIPPED_MAX + 1);
        }
        if self.skips > 0 {
            self.skips -= 1;
            (self.has_skipped, self.answers) = (true, 0);
            return Next::Skipped;
        }
        let is_news = !self.is_in_doubt && (begins || self.has_skipped);
        self.is_in_doubt |= is_news;
        Next::Read(is_news.then(|| word(true)))
    }

    /// The source may get an answer.
    pub(crate) fn answer(&mut self, random: &mut Random) -> Vec<BusEvent> {
        if !self.is_in_doubt || !random.chance(30) {
            return Vec::new();
        }
        let is_open = self.answers == 0 && random.chance(50);
        self.answers += 1;
        if is_open {
            return vec![word(true)];
        }
        let was_lost = std::mem::take(&mut self.has_skipped);
        (self.is_in_doubt, self.skips) = (false, 0);
        let lost = was_lost.then_some(BusEvent::Gap { lost: None });
        lost.into_iter().chain([word(false)]).collect()
    }
}
