//! The handle through which gateways request subscriptions of a bus while its source runs.
//!
//! Of the changes to a name, only the newest waits for the source. If a name is requested and cancelled
//! before the source looks, nothing waits. At most two changes therefore wait for each name that may be
//! requested at a time, for however long the source takes none. Questions for last values are kept in the
//! same way: at most a single question for each name, and none once nobody waits for the answer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ledger::Ledger;
use super::{LoopGone, SourceLink};
use crate::base::Wake;
use crate::feeds::{BusEvent, Subscription};

/// The most changes that the source takes at once. The loop may wait for the lock meanwhile, and the
/// source reads and writes in between.
const TAKEN_MAX: usize = 256;

/// Room for names that is kept when nothing waits.
const ROOM_KEPT: usize = 1_024;

/// Requests and cancels subscriptions. Never waits for the bus, so the loop may call every method. Clones
/// speak to the same source.
///
/// Each name is requested or not; a repeated call changes nothing. The sources document their events in
/// return.
#[derive(Clone)]
pub struct BusInterest {
    shared: Arc<Shared>,
    wake: Wake,
}

/// A question for the last value of a channel, or the last values of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) subscription: Subscription,
    /// Returned with the answer.
    pub(super) number: u64,
}

/// Unanswered questions for last values, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnansweredQuestions {
    /// Not taken by the source yet.
    pub waiting: u64,
    /// Sent to the bus, without an answer.
    pub asked: u64,
}

/// Changes of subscriptions that the bus has not answered, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnansweredChanges {
    /// Not taken by the source yet.
    pub waiting: u64,
    /// Taken by the source, not sent to the bus.
    pub queued: u64,
    /// Sent to the bus, without an answer.
    pub asked: u64,
    /// Answered by the bus; servers further away may not know the subscription yet.
    pub settling: u64,
}

/// The source's end of a [`BusInterest`].
pub(super) struct Wishes {
    shared: Arc<Shared>,
    wake: Wake,
}

#[derive(Debug, Default)]
struct Shared {
    changes: Mutex<Changes>,
    /// Questions by name, with their numbers.
    questions: Mutex<Line<u64>>,
    queued: AtomicU64,
    asked: AtomicU64,
    questions_asked: AtomicU64,
    settling: AtomicU64,
}

/// The changes that the source has not taken.
#[derive(Debug, Default)]
struct Changes {
    line: Line<Change>,
    /// The names that the source has taken as wanted.
    told: HashSet<Subscription>,
}

/// A request to subscribe to a name, or to end the subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    wanted: bool,
    /// Returned with the answer.
    number: u64,
}

/// A queue with a single entry for each name, in the order in which the names came.
#[derive(Debug)]
struct Line<T> {
    names: BTreeMap<u64, Subscription>,
    /// The place of each name in the queue, and its value.
    by_name: HashMap<Subscription, (u64, T)>,
    next_place: u64,
}

/// Creates a handle and the source's end.
pub(super) fn interest(wake: Wake) -> (BusInterest, Wishes) {
    let shared = Arc::new(Shared::default());
    let handle = BusInterest {
        shared: Arc::clone(&shared),
        wake: wake.clone(),
    };
    (handle, Wishes { shared, wake })
}

impl BusInterest {
    /// Subscribes to a channel, or to the channels of a pattern. For callers that request each name once.
    pub fn subscribe(&self, subscription: Subscription) {
        self.subscribe_numbered(subscription, 0);
    }

    /// Subscribes to a channel, or to the channels of a pattern. The answer returns `number`.
    pub fn subscribe_numbered(&self, subscription: Subscription, number: u64) {
        let wanted = true;
        self.say(subscription, Change { wanted, number });
    }

    /// Ends a subscription.
    pub fn unsubscribe(&self, subscription: Subscription) {
        let (wanted, number) = (false, 0);
        self.say(subscription, Change { wanted, number });
    }

    /// The number of changes that the bus has not answered.
    pub fn unanswered(&self) -> UnansweredChanges {
        UnansweredChanges {
            waiting: self.shared.waiting() as u64,
            queued: self.shared.queued.load(Relaxed),
            asked: self.shared.asked.load(Relaxed),
            settling: self.shared.settling.load(Relaxed),
        }
    }

    /// Asks for the last value of a channel, or of each channel of a pattern; the name must be subscribed.
    /// The answer is any number of [`BusEvent::LastValue`], and then [`BusEvent::RetainedEnd`], each with
    /// `number`. No answer comes if the connection is lost, or if the same name is asked for again before
    /// the source has taken the question. Only the NATS sources have last values.
    pub fn ask_retained(&self, subscription: Subscription, number: u64) {
        if self.shared.questions().put(subscription, number) {
            self.wake.wake();
        }
    }

    /// Removes a question whose answer nobody waits for any more. If the bus has the question already, the
    /// answer may still come.
    pub fn forget_retained(&self, subscription: &Subscription) {
        self.shared.questions().remove(subscription);
    }

    /// The number of unanswered questions for last values.
    pub fn unanswered_questions(&self) -> UnansweredQuestions {
        UnansweredQuestions {
            waiting: self.shared.questions().names.len() as u64,
            asked: self.shared.questions_asked.load(Relaxed),
        }
    }

    fn say(&self, subscription: Subscription, change: Change) {
        if self.shared.changes().put(subscription, change) {
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
    /// Takes the oldest changes, at most [`TAKEN_MAX`]. If more wait, the next wait of the source ends at
    /// once. Later changes wake the source again.
    fn take(&self) -> Vec<(Subscription, Change)> {
        self.wake.arm();
        let (taken, has_more) = self.shared.changes().take();
        if has_more {
            self.wake.wake();
        }
        taken
    }

    /// Takes the oldest question for a last value.
    pub(super) fn next_question(&self) -> Option<Question> {
        let (subscription, number) = self.shared.questions().pop_first()?;
        Some(Question {
            subscription,
            number,
        })
    }

    /// Publishes the number of questions that the bus has not answered.
    pub(super) fn show_asked_questions(&self, asked: usize) {
        self.shared.questions_asked.store(asked as u64, Relaxed);
    }

    /// Applies the waiting changes to the ledger while there is no connection. Changes that arrive meanwhile may be
    /// applied too.
    pub(super) fn take_into(&self, ledger: &mut Ledger) {
        let mut left = self.shared.waiting();
        loop {
            let taken = self.take();
            for (subscription, change) in &taken {
                match change.wanted {
                    true => drop(ledger.want(subscription, change.number)),
                    false => ledger.unwant(subscription),
                }
            }
            left = left.saturating_sub(taken.len());
            if left == 0 || taken.is_empty() {
                return;
            }
        }
    }

    /// Applies some of the changes to the ledger of a connection, and answers for confirmed names at once.
    ///
    /// # Errors
    /// The loop is gone.
    pub(super) fn take_and_answer(
        &self,
        ledger: &mut Ledger,
        link: &SourceLink,
    ) -> Result<(), LoopGone> {
        for (subscription, Change { wanted, number }) in self.take() {
            if !wanted {
                ledger.unwant(&subscription);
            } else if ledger.want(&subscription, number) {
                link.send(BusEvent::Subscribed {
                    subscription,
                    number,
                })?;
            }
        }
        Ok(())
    }

    /// Handles the loss of the connection. If a wanted name was confirmed there, messages may be lost.
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
        // If everything was subscribed, the report of the outage includes the loss.
        if has_carried && !all_stood {
            link.send(BusEvent::Gap { lost: None })?;
        }
        Ok(())
    }

    /// Publishes the numbers of [`Ledger::unanswered`].
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

    fn waiting(&self) -> usize {
        self.changes().line.names.len()
    }

    fn questions(&self) -> MutexGuard<'_, Line<u64>> {
        self.questions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Changes {
    /// Returns whether the source has to be woken.
    fn put(&mut self, subscription: Subscription, change: Change) -> bool {
        let Change { wanted, .. } = change;
        if !wanted && !self.told.contains(&subscription) {
            // The source never took the subscription.
            self.line.remove(&subscription);
            return false;
        }
        self.line.put(subscription, change)
    }

    /// Takes the oldest changes. Returns also whether more wait.
    fn take(&mut self) -> (Vec<(Subscription, Change)>, bool) {
        let mut taken = Vec::with_capacity(self.line.names.len().min(TAKEN_MAX));
        while taken.len() < TAKEN_MAX
            && let Some((subscription, change)) = self.line.pop_first()
        {
            match change.wanted {
                true => self.told.insert(subscription.clone()),
                false => self.told.remove(&subscription),
            };
            taken.push((subscription, change));
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
    /// Appends a name, or gives a queued name another value. Returns whether the name is new.
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

    fn wish(subscription: &Subscription, wanted: bool, number: u64) -> (Subscription, Change) {
        (subscription.clone(), Change { wanted, number })
    }

    /// The source is away while a client keeps changing its names.
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
