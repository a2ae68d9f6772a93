//! The handle with which others say what they want from a bus while its source runs.
//!
//! A change that the source has not taken is kept once for each name, and a name that was wanted and
//! given up in between leaves nothing. So at most two changes wait for each name that may be wanted
//! at once, however fast minds change, and for however long the source takes nothing. A question for
//! last values is kept in the same way: one for each name, and none once nobody waits for the answer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ledger::Ledger;
use super::{LoopGone, SourceLink};
use crate::base::Wake;
use crate::feeds::{BusEvent, Subscription};

/// The most changes that the source takes at once. The loop may wait for that long, and the source
/// reads and writes in between.
const TAKEN_MAX: usize = 256;

/// Room for names that is kept when nothing waits.
const ROOM_KEPT: usize = 1_024;

/// Says what is wanted. Never waits for the bus, so the loop may use it; clones say it to the same
/// source.
///
/// Each name is wanted or not; saying the same twice changes nothing. See the sources for what comes
/// back.
#[derive(Clone)]
pub struct BusInterest {
    shared: Arc<Shared>,
    wake: Wake,
}

/// A name that is wanted from now on, or no longer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) subscription: Subscription,
    pub(super) wanted: bool,
    /// Comes back with the answer.
    pub(super) number: u64,
}

/// A question for the last value of a channel, or the last values of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) subscription: Subscription,
    /// Comes back with the answer.
    pub(super) number: u64,
}

/// Questions for last values, by how far they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnansweredQuestions {
    /// The source has not taken them.
    pub waiting: u64,
    /// The bus was asked and has not answered.
    pub asked: u64,
}

/// Changes of what is wanted that the bus has not answered, by how far they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnansweredChanges {
    /// The source has not taken them.
    pub waiting: u64,
    /// The bus was not asked.
    pub queued: u64,
    /// The bus was asked and has not answered.
    pub asked: u64,
    /// The bus has answered, and servers further away may not know of it yet.
    pub settling: u64,
}

/// The source's end.
pub(super) struct Wishes {
    shared: Arc<Shared>,
    wake: Wake,
}

#[derive(Debug, Default)]
struct Shared {
    changes: Mutex<Changes>,
    /// The numbers of questions.
    questions: Mutex<Line<u64>>,
    queued: AtomicU64,
    asked: AtomicU64,
    questions_asked: AtomicU64,
    settling: AtomicU64,
}

/// What the source has not taken.
#[derive(Debug, Default)]
struct Changes {
    /// The names that have changed.
    line: Line<Change>,
    /// The names that the source was told to want.
    told: HashSet<Subscription>,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    wanted: bool,
    number: u64,
}

/// One entry for each name, in the order in which the names came.
#[derive(Debug)]
struct Line<T> {
    names: BTreeMap<u64, Subscription>,
    /// With the place of the name.
    by_name: HashMap<Subscription, (u64, T)>,
    next_place: u64,
}

/// A handle, and where its wishes come out.
pub(super) fn interest(wake: Wake) -> (BusInterest, Wishes) {
    let shared = Arc::new(Shared::default());
    let handle = BusInterest {
        shared: Arc::clone(&shared),
        wake: wake.clone(),
    };
    (handle, Wishes { shared, wake })
}

impl BusInterest {
    /// Wants a channel, or the channels of a pattern. For callers that want each name once.
    pub fn subscribe(&self, subscription: Subscription) {
        self.subscribe_numbered(subscription, 0);
    }

    /// Wants a channel, or the channels of a pattern. The answer brings the number back.
    pub fn subscribe_numbered(&self, subscription: Subscription, number: u64) {
        self.say(Wish {
            subscription,
            wanted: true,
            number,
        });
    }

    /// Wants it no longer.
    pub fn unsubscribe(&self, subscription: Subscription) {
        self.say(Wish {
            subscription,
            wanted: false,
            number: 0,
        });
    }

    /// The changes that the bus has not answered.
    pub fn unanswered(&self) -> UnansweredChanges {
        UnansweredChanges {
            waiting: self.shared.changes().line.names.len() as u64,
            queued: self.shared.queued.load(Relaxed),
            asked: self.shared.asked.load(Relaxed),
            settling: self.shared.settling.load(Relaxed),
        }
    }

    /// Asks for the last value of a channel, or of each channel of a pattern, which has to be wanted.
    /// The answer is [`BusEvent::LastValue`], any number of them, and then [`BusEvent::RetainedEnd`],
    /// each with this number. There is none if the connection is lost, or if the same name is asked for
    /// again before the source has taken the question. Of the sources, those of NATS have last values.
    pub fn ask_retained(&self, subscription: Subscription, number: u64) {
        if self.shared.questions().put(subscription, number) {
            self.wake.wake();
        }
    }

    /// Nobody waits for the answer to the question any more. One that the bus was asked may be answered
    /// all the same.
    pub fn forget_retained(&self, subscription: &Subscription) {
        self.shared.questions().remove(subscription);
    }

    /// The questions for last values that are not answered.
    pub fn unanswered_questions(&self) -> UnansweredQuestions {
        UnansweredQuestions {
            waiting: self.shared.questions().names.len() as u64,
            asked: self.shared.questions_asked.load(Relaxed),
        }
    }

    fn say(&self, wish: Wish) {
        if self.shared.changes().put(wish) {
            self.wake.wake();
        }
    }
}

impl fmt::Debug for BusInterest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusInterest").finish_non_exhaustive()
    }
}

impl Wishes {
    /// Some of what was said until now: [`TAKEN_MAX`] at most, oldest first. If there is more, the
    /// next wait of the source ends at once. What is said from here on wakes the source again.
    pub(super) fn take(&self) -> Vec<Wish> {
        self.wake.awake();
        let (taken, has_more) = self.shared.changes().take();
        if has_more {
            self.wake.wake();
        }
        taken
    }

    /// The oldest question for a last value.
    pub(super) fn next_question(&self) -> Option<Question> {
        let (subscription, number) = self.shared.questions().pop_first()?;
        Some(Question {
            subscription,
            number,
        })
    }

    /// Says how many questions the bus was asked and has not answered.
    pub(super) fn show_asked_questions(&self, asked: usize) {
        self.shared.questions_asked.store(asked as u64, Relaxed);
    }

    /// Puts what was said in the ledger while there is no connection: as many changes as wait at the
    /// call, at least.
    pub(super) fn take_into(&self, ledger: &mut Ledger) {
        let mut left = self.waiting();
        loop {
            let taken = self.take();
            for wish in &taken {
                match wish.wanted {
                    true => drop(ledger.want(&wish.subscription, wish.number)),
                    false => ledger.unwant(&wish.subscription),
                }
            }
            left = left.saturating_sub(taken.len());
            if left == 0 || taken.is_empty() {
                return;
            }
        }
    }

    /// Puts some of what was said in the ledger of a connection. What stands already is answered.
    ///
    /// # Errors
    /// The loop is gone.
    pub(super) fn take_and_answer(
        &self,
        ledger: &mut Ledger,
        link: &SourceLink,
    ) -> Result<(), LoopGone> {
        for wish in self.take() {
            if !wish.wanted {
                ledger.unwant(&wish.subscription);
            } else if ledger.want(&wish.subscription, wish.number) {
                link.send(BusEvent::Subscribed {
                    subscription: wish.subscription,
                    number: wish.number,
                })?;
            }
        }
        Ok(())
    }

    /// The connection is gone. If a wanted name stood on it, messages may be lost.
    ///
    /// # Errors
    /// The loop is gone.
    pub(super) fn lost(
        &self,
        ledger: &mut Ledger,
        all_stood: bool,
        link: &SourceLink,
    ) -> Result<(), LoopGone> {
        let has_carried = ledger.lost();
        self.show(ledger.unanswered());
        self.shared.questions_asked.store(0, Relaxed);
        // The loss of a connection on which everything stood is told with the outage.
        if has_carried && !all_stood {
            link.send(BusEvent::Gap { lost: None })?;
        }
        Ok(())
    }

    /// How many changes wait.
    fn waiting(&self) -> usize {
        self.shared.changes().line.names.len()
    }

    /// Shows what [`Ledger::unanswered`] says.
    pub(super) fn show(&self, [queued, asked, settling]: [usize; 3]) {
        self.shared.queued.store(queued as u64, Relaxed);
        self.shared.asked.store(asked as u64, Relaxed);
        self.shared.settling.store(settling as u64, Relaxed);
    }
}

impl Shared {
    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn questions(&self) -> MutexGuard<'_, Line<u64>> {
        self.questions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Changes {
    /// `true`: there is something for the source to take.
    fn put(&mut self, wish: Wish) -> bool {
        let Wish {
            subscription,
            wanted,
            number,
        } = wish;
        if !wanted && !self.told.contains(&subscription) {
            // The source never heard of it.
            self.line.remove(&subscription);
            return false;
        }
        self.line.put(subscription, Change { wanted, number })
    }

    /// The oldest changes, and whether there are more.
    fn take(&mut self) -> (Vec<Wish>, bool) {
        let mut taken = Vec::with_capacity(self.line.names.len().min(TAKEN_MAX));
        while taken.len() < TAKEN_MAX
            && let Some((subscription, Change { wanted, number })) = self.line.pop_first()
        {
            match wanted {
                true => self.told.insert(subscription.clone()),
                false => self.told.remove(&subscription),
            };
            taken.push(Wish {
                subscription,
                wanted,
                number,
            });
        }
        (taken, !self.line.names.is_empty())
    }
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self {
            names: BTreeMap::new(),
            by_name: HashMap::new(),
            next_place: 0,
        }
    }
}

impl<T> Line<T> {
    /// Puts a name at the end, or gives the name that is there another value. Returns whether the name
    /// is new.
    fn put(&mut self, name: Subscription, value: T) -> bool {
        if let Some((_, old)) = self.by_name.get_mut(&name) {
            *old = value;
            return false;
        }
        let place = self.next_place;
        self.next_place += 1;
        self.names.insert(place, name.clone());
        self.by_name.insert(name, (place, value));
        true
    }

    fn remove(&mut self, name: &Subscription) {
        if let Some((place, _)) = self.by_name.remove(name) {
            self.names.remove(&place);
            self.rest_if_empty();
        }
    }

    fn pop_first(&mut self) -> Option<(Subscription, T)> {
        let (_, name) = self.names.pop_first()?;
        let (_, value) = self.by_name.remove(&name)?;
        self.rest_if_empty();
        Some((name, value))
    }

    fn rest_if_empty(&mut self) {
        if self.names.is_empty() && self.by_name.capacity() > 4 * ROOM_KEPT {
            self.by_name.shrink_to(ROOM_KEPT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::socket::Waiter;

    fn wish(subscription: &Subscription, wanted: bool, number: u64) -> Wish {
        Wish {
            subscription: subscription.clone(),
            wanted,
            number,
        }
    }

    /// A source that is away, and a client that wants other names all the time.
    #[test]
    fn changes_that_nobody_takes_are_no_more_than_the_names() {
        let (_waiter, wake) = Waiter::new("a test").expect("a waiter");
        let (interest, wishes) = interest(wake);
        let kept = Subscription::channel("kept");
        interest.subscribe(kept.clone());
        assert_eq!(wishes.take(), [wish(&kept, true, 0)]);
        for n in 0..10_000 {
            let name = Subscription::pattern(format!("{n}*"));
            interest.subscribe(name.clone());
            interest.unsubscribe(kept.clone());
            interest.unsubscribe(name);
            interest.subscribe_numbered(kept.clone(), n);
        }
        assert_eq!(interest.unanswered().waiting, 1);
        assert_eq!(wishes.take(), [wish(&kept, true, 9_999)]);
        interest.unsubscribe(kept.clone());
        interest.unsubscribe(Subscription::channel("never"));
        assert_eq!(wishes.take(), [wish(&kept, false, 0)]);
        assert_eq!(wishes.take(), []);
    }

    #[test]
    fn many_changes_are_taken_in_parts_and_in_their_order() {
        let (_waiter, wake) = Waiter::new("a test").expect("a waiter");
        let (interest, wishes) = interest(wake);
        let names: Vec<_> = (0..20 * TAKEN_MAX)
            .map(|n| Subscription::channel(n.to_string()))
            .collect();
        names
            .iter()
            .for_each(|name| interest.subscribe(name.clone()));
        for part in names.chunks(TAKEN_MAX) {
            let want: Vec<_> = part.iter().map(|name| wish(name, true, 0)).collect();
            assert_eq!(wishes.take(), want);
        }
        assert_eq!(wishes.take(), []);
        assert!(wishes.shared.changes().line.by_name.capacity() <= 4 * ROOM_KEPT);
    }

    #[test]
    fn questions_are_one_for_each_name_and_go_with_those_who_wait() {
        let (_waiter, wake) = Waiter::new("a test").expect("a waiter");
        let (interest, wishes) = interest(wake);
        let [kept, other] = ["kept", "other"].map(Subscription::channel);
        interest.ask_retained(kept.clone(), 0);
        for n in 1..10_000 {
            let name = Subscription::pattern(format!("{n}*"));
            interest.ask_retained(name.clone(), n);
            interest.forget_retained(&name);
            interest.ask_retained(kept.clone(), n);
        }
        interest.ask_retained(other.clone(), 1);
        assert_eq!(interest.unanswered_questions().waiting, 2);
        let question = |subscription, number| {
            Some(Question {
                subscription,
                number,
            })
        };
        assert_eq!(wishes.next_question(), question(kept, 9_999));
        interest.forget_retained(&other);
        assert_eq!(wishes.next_question(), None);
    }
}
