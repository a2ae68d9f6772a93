//! What gateways request from a running source through [`BusInterest`]: names and last values.
//!
//! Of the changes to a name, only the newest waits for the source. If a name is requested and cancelled before the
//! source looks, nothing waits. So the number of waiting changes is bounded by the number of names, for however long
//! the source takes none. Questions for last values wait in the same way: a question is removed when nobody waits for
//! the answer any more. Once the source has taken it, only the newest request about it waits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ledger::{Ledger, Unanswered};
use super::server_words::shown;
use weirgate_core::{BusEvent, PageCursor, Subscription, TopicName};
use weirgate_runtime::{LoopGone, SourceLink, Wake};
use weirgate_wire::admission::{ClientAddr, FairQueue};
use weirgate_wire::base::{ExtendibleMap, LogBudget};

/// The most changes that the source takes at once: the loop may have to wait for the lock meanwhile, and the source
/// reads and writes between two such batches.
const TAKEN_MAX: usize = 256;

/// The most log lines about names, a second.
const LINES_PER_SECOND: u32 = 5;
/// Refused names are requested again after this time, because the permissions may have changed.
pub(super) const RETRY_REFUSED: Duration = Duration::from_secs(30);

/// Requests and cancels subscriptions. No method waits for the bus, so the loop may call all of them. Clones speak to
/// the same source.
///
/// A name is either requested or not, and a repeated call changes nothing. The sources document the events with which
/// they answer.
#[derive(Clone, Debug)]
pub struct BusInterest {
    shared: Arc<SharedInterest>,
    wake: Wake,
}

/// A question for stored messages of a channel, or of the channels of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) subscription: Subscription,
    /// The wider pattern by which live messages of the name come, if the name itself is not subscribed.
    pub(super) cover: Option<TopicName>,
    /// Returned with the answer.
    pub(super) number: u64,
    /// What was read before, and does not come again.
    pub(super) after: Arc<PageCursor>,
    pub(super) wants: Wants,
    /// With [`Wants::All`]: the channels and patterns that clients wait for; otherwise empty.
    pub(super) names: Arc<[TopicName]>,
    /// The address of the client among whose questions it takes its turn.
    pub(super) client: ClientAddr,
    /// When the loop asked it: by then, the loop may not know of losses that the source of the kept feed has reported later.
    pub(super) asked: Instant,
}

/// Which stored messages a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// The newest of each name, in any stream.
    LastValues,
    /// The newest of each name, in the stream that is the kept feed.
    Newest,
    /// All, in the stream that is the kept feed.
    All,
}

impl Question {
    /// Whether it is about the stream that is the kept feed alone.
    pub(super) fn is_of_stream(&self) -> bool {
        self.wants != Wants::LastValues
    }

    /// Whether the bus has to read messages for it. Of a channel it only takes the newest one.
    pub(super) fn reads(&self) -> bool {
        self.subscription.is_pattern || self.wants == Wants::All
    }
}

/// A request about a question that the source has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageRequest {
    /// The next page is wanted.
    More,
    /// Nobody waits for the answer.
    Forget,
}

/// The unanswered questions for last values, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnansweredQuestions {
    /// Not taken by the source yet.
    pub waiting: u64,
    /// Sent to the bus, without an answer.
    pub asked: u64,
    /// Answered with a page, and clients take it.
    pub paused: u64,
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
    /// Answered by the bus, but other servers of the cluster may not know the subscription yet.
    pub settling: u64,
}

/// The source's end of a [`BusInterest`]: the requested names, and their state on the server.
pub(super) struct Names {
    shared: Arc<SharedInterest>,
    pub(super) wake: Wake,
    pub(super) ledger: Ledger,
    /// For log lines about names.
    pub(super) lines: LogBudget,
    /// When the names that are refused on this connection are requested again.
    retry_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct SharedInterest {
    changes: Mutex<Changes>,
    questions: Mutex<Questions>,
    queued: AtomicU64,
    asked: AtomicU64,
    questions_asked: AtomicU64,
    questions_paused: AtomicU64,
    settling: AtomicU64,
}

/// The questions that the source has not taken, and the requests about others, by the numbers of the questions.
#[derive(Debug, Default)]
struct Questions {
    waiting: BTreeMap<u64, Question>,
    /// The turns of those for which the bus has to [read messages](Question::reads), and of the others.
    reading: FairQueue<u64>,
    taking: FairQueue<u64>,
    page_requests: BTreeMap<u64, PageRequest>,
}

/// The changes that the source has not taken.
#[derive(Debug, Default)]
struct Changes {
    queue: NameQueue<InterestChange>,
    /// The names that the source has taken as wanted.
    reported: ExtendibleMap<Subscription, ()>,
}

/// A request to subscribe to a name, or to end the subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InterestChange {
    wanted: bool,
    /// Returned with the answer.
    number: u64,
}

/// A queue in the order of arrival, with a single entry for each name.
#[derive(Debug)]
struct NameQueue<T> {
    /// The names by their places in the queue.
    names: BTreeMap<u64, Subscription>,
    /// For each name, its place in the queue and its value.
    by_name: ExtendibleMap<Subscription, (u64, T)>,
    next_place: u64,
}

/// Creates a handle and the source's end.
pub(super) fn interest(wake: Wake) -> (BusInterest, Names) {
    let shared = Arc::new(SharedInterest::default());
    let handle = BusInterest {
        shared: Arc::clone(&shared),
        wake: wake.clone(),
    };
    let names = Names {
        shared,
        wake,
        ledger: Ledger::default(),
        lines: LogBudget::new(LINES_PER_SECOND),
        retry_at: None,
    };
    (handle, names)
}

impl BusInterest {
    /// Subscribes to a channel, or to the channels of a pattern. For callers that request each name once, and so need
    /// no number.
    pub fn subscribe(&self, subscription: Subscription) {
        self.subscribe_numbered(subscription, 0);
    }

    /// Subscribes to a channel, or to the channels of a pattern. The answer returns `number`.
    pub fn subscribe_numbered(&self, subscription: Subscription, number: u64) {
        let wanted = true;
        self.queue_change(subscription, InterestChange { wanted, number });
    }

    /// Ends a subscription.
    pub fn unsubscribe(&self, subscription: Subscription) {
        // Nothing is returned for the end of a subscription, so it needs no number.
        let (wanted, number) = (false, 0);
        self.queue_change(subscription, InterestChange { wanted, number });
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

    /// Asks for the last value of a channel, or of each channel of a pattern; the name, or the pattern `cover` in its
    /// place, must be subscribed, and the number greater than those before. Questions wait for their turn: the
    /// addresses of clients take turns. What was read up to `after` does not come again. The answer is any number of
    /// [`BusEvent::LastValue`], each with `number`, and then [`BusEvent::RetainedEnd`], or
    /// [`BusEvent::RetainedPage`]: then [`Self::ask_more_retained`] brings more. If the connection is lost, the page says that
    /// nothing more comes. Only the NATS sources have last values. Of Redis, only the pages of a stream answer
    /// questions, those of [`Self::ask_all`]; a question to another source of Redis stays unanswered.
    pub fn ask_retained(
        &self,
        subscription: Subscription,
        cover: Option<TopicName>,
        (number, client): (u64, ClientAddr),
        after: Arc<PageCursor>,
    ) {
        let (wants, names) = (Wants::LastValues, Arc::default());
        self.ask(Question {
            subscription,
            cover,
            number,
            after,
            wants,
            names,
            client,
            asked: Instant::now(),
        });
    }

    /// Asks in the same way for the newest message of a name, or of each name of a pattern, in the stream that is the kept
    /// feed. The values have a position there.
    pub fn ask_newest(&self, subscription: Subscription, number: u64, client: ClientAddr) {
        // Nothing was read before. The list of names is only for [`Wants::All`].
        let (after, wants, names) = (Arc::default(), Wants::Newest, Arc::default());
        self.ask(Question {
            subscription,
            cover: None,
            number,
            after,
            wants,
            names,
            client,
            asked: Instant::now(),
        });
    }

    /// Asks in the same way for all messages of a name, or of the names of a pattern, in the stream that is the kept feed,
    /// oldest first. Clients wait for those of `names`; messages of other names may be among them.
    pub fn ask_all(
        &self,
        subscription: Subscription,
        (number, client): (u64, ClientAddr),
        (after, names): (Arc<PageCursor>, Arc<[TopicName]>),
    ) {
        let wants = Wants::All;
        self.ask(Question {
            subscription,
            cover: None,
            number,
            after,
            wants,
            names,
            client,
            asked: Instant::now(),
        });
    }

    fn ask(&self, question: Question) {
        self.shared.questions().put(question);
        self.wake.wake();
    }

    /// Lets a question take its turn among those of another client, unless the source has taken it.
    pub fn move_retained(&self, number: u64, client: ClientAddr) {
        self.shared.questions().move_to(number, client);
    }

    /// Asks for the next page of the question of this number.
    pub fn ask_more_retained(&self, number: u64) {
        self.shared
            .questions()
            .page_requests
            .insert(number, PageRequest::More);
        self.wake.wake();
    }

    /// Removes a question, because nobody waits for the answer any more. If the source has taken the question, a part of
    /// the answer may still come.
    pub fn forget_retained(&self, number: u64) {
        let mut questions = self.shared.questions();
        if !questions.withdraw(number) {
            questions.page_requests.insert(number, PageRequest::Forget);
            drop(questions);
            self.wake.wake();
        }
    }

    /// The number of unanswered questions for last values.
    pub fn unanswered_questions(&self) -> UnansweredQuestions {
        UnansweredQuestions {
            waiting: self.shared.questions().waiting.len() as u64,
            asked: self.shared.questions_asked.load(Relaxed),
            paused: self.shared.questions_paused.load(Relaxed),
        }
    }

    fn queue_change(&self, subscription: Subscription, change: InterestChange) {
        if self.shared.changes().put(subscription, change) {
            self.wake.wake();
        }
    }
}

impl Names {
    /// Takes the oldest changes, at most [`TAKEN_MAX`]. If there are more, the source's next wait ends at once. Later
    /// changes wake the source again.
    fn take(&self) -> Vec<(Subscription, InterestChange)> {
        self.wake.arm();
        let (taken, has_more) = self.shared.changes().take();
        if has_more {
            self.wake.wake();
        }
        taken
    }

    /// Takes the question whose turn is next: one for which the bus has to read only if the source `may_read`.
    pub(super) fn next_question(&self, may_read: impl FnOnce() -> bool) -> Option<Question> {
        self.shared.questions().next(may_read)
    }

    /// Takes a request about a question, with the number of the question.
    pub(super) fn next_page_request(&self) -> Option<(u64, PageRequest)> {
        self.shared.questions().page_requests.pop_first()
    }

    /// Publishes the numbers of questions that the bus has not answered, and of those answered with a page.
    pub(super) fn show_asked_questions(&self, asked: usize, paused: usize) {
        let shared = &self.shared;
        shared.questions_asked.store(asked as u64, Relaxed);
        shared.questions_paused.store(paused as u64, Relaxed);
    }

    /// Applies all waiting changes to the ledger while there is no connection; changes that arrive meanwhile may be
    /// among them.
    pub(super) fn take_all(&mut self) {
        let mut left = self.shared.waiting();
        loop {
            let taken = self.take();
            for (subscription, change) in &taken {
                match change.wanted {
                    // Without a connection no name is confirmed, so there is nothing to answer.
                    true => drop(self.ledger.want(subscription, change.number)),
                    false => self.ledger.unwant(subscription),
                }
            }
            left = left.saturating_sub(taken.len());
            if left == 0 || taken.is_empty() {
                return;
            }
        }
    }

    /// Applies some of the waiting changes to the ledger, and answers requests for names that are confirmed already.
    ///
    /// # Errors
    /// The loop is gone.
    pub(super) fn take_and_answer(&mut self, link: &SourceLink) -> Result<(), LoopGone> {
        for (subscription, InterestChange { wanted, number }) in self.take() {
            if !wanted {
                self.ledger.unwant(&subscription);
            } else if self.ledger.want(&subscription, number) {
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
    pub(super) fn lost(&mut self, was_restored: bool, link: &SourceLink) -> Result<(), LoopGone> {
        let had_confirmed = self.ledger.end_connection();
        self.show();
        self.show_asked_questions(0, 0);
        // If all names were subscribed, the report of the outage includes the loss.
        if had_confirmed && !was_restored {
            link.send(BusEvent::Gap { lost: None })?;
        }
        Ok(())
    }

    /// Begins a connection: queues a subscription for every wanted name.
    pub(super) fn begin_connection(&mut self) {
        self.ledger.begin_connection();
        self.retry_at = None;
    }

    /// Requests refused names again, [`RETRY_REFUSED`] after the first of them was refused. Called in every turn; the
    /// clock is read only if a name was refused.
    pub(super) fn retry_refused(&mut self) {
        if !self.ledger.has_refused() {
            return;
        }
        let now = Instant::now();
        if now >= *self.retry_at.get_or_insert(now + RETRY_REFUSED) {
            self.retry_at = None;
            self.ledger.retry_refused();
        }
    }

    /// Logs a subscription that the bus refused, and reports it to the loop; `is_loss` as in [`BusEvent::Refused`].
    ///
    /// # Errors
    /// The loop is gone.
    pub(super) fn report_refused(
        &mut self,
        bus: &str,
        link: &SourceLink,
        subscription: Subscription,
        number: u64,
        reason: String,
        is_loss: bool,
    ) -> Result<(), LoopGone> {
        if let Some(lines_left_out) = self.lines.line(link.now()) {
            tracing::warn!(
                name = shown(&subscription.name),
                is_pattern = subscription.is_pattern,
                reason,
                messages_lost = is_loss.then_some(true),
                lines_left_out,
                "{bus} refused a subscription; asking again every 30 s"
            );
        }
        link.send(BusEvent::Refused {
            subscription,
            number,
            fault: reason,
            is_loss,
        })
    }

    /// Publishes the numbers of [`Ledger::unanswered`].
    pub(super) fn show(&self) {
        let Unanswered {
            queued,
            asked,
            settling,
        } = self.ledger.unanswered();
        self.shared.queued.store(queued as u64, Relaxed);
        self.shared.asked.store(asked as u64, Relaxed);
        self.shared.settling.store(settling as u64, Relaxed);
    }
}

impl SharedInterest {
    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> usize {
        self.changes().queue.names.len()
    }

    fn questions(&self) -> MutexGuard<'_, Questions> {
        self.questions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Questions {
    /// Queues a question. Those for which the bus has to read messages have turns of their own.
    fn put(&mut self, question: Question) {
        let turns = match question.reads() {
            true => &mut self.reading,
            false => &mut self.taking,
        };
        turns.push(question.client, question.number);
        self.waiting.insert(question.number, question);
    }

    /// Takes a question that the source has not taken out of its line.
    fn take_out(&mut self, number: u64) -> Option<Question> {
        // It is in one of the two lines, or in neither if the source has taken it.
        let _ = self.reading.remove(&number) || self.taking.remove(&number);
        self.waiting.remove(&number)
    }

    /// Removes a question that nobody waits for. Returns whether it was here.
    fn withdraw(&mut self, number: u64) -> bool {
        self.take_out(number).is_some()
    }

    fn move_to(&mut self, number: u64, client: ClientAddr) {
        if let Some(question) = self.take_out(number) {
            self.put(Question { client, ..question });
        }
    }

    /// Removes and returns the next question. Those for which the bus has to read go first: the source takes few at once.
    fn next(&mut self, may_read: impl FnOnce() -> bool) -> Option<Question> {
        // A source asks after each message, so the usual case must cost little.
        if self.waiting.is_empty() {
            return None;
        }
        let reading = may_read().then(|| self.reading.pop()).flatten();
        let number = reading.or_else(|| self.taking.pop())?;
        self.waiting.remove(&number)
    }
}

impl Changes {
    /// Queues a change. Returns whether the source has to be woken for it.
    fn put(&mut self, subscription: Subscription, change: InterestChange) -> bool {
        let InterestChange { wanted, .. } = change;
        if !wanted && !self.reported.contains_key(&subscription) {
            // The source has not taken the request for this name, so it need not learn of either.
            self.queue.remove(&subscription);
            return false;
        }
        self.queue.put(subscription, change)
    }

    /// Takes the oldest changes. Returns also whether more wait.
    fn take(&mut self) -> (Vec<(Subscription, InterestChange)>, bool) {
        let mut taken = Vec::with_capacity(self.queue.names.len().min(TAKEN_MAX));
        while taken.len() < TAKEN_MAX
            && let Some((subscription, change)) = self.queue.pop_first()
        {
            match change.wanted {
                true => self.reported.insert(subscription.clone(), ()),
                false => self.reported.remove(&subscription),
            };
            taken.push((subscription, change));
        }
        (taken, !self.queue.names.is_empty())
    }
}

impl<T> Default for NameQueue<T> {
    fn default() -> Self {
        Self {
            names: BTreeMap::new(),
            by_name: ExtendibleMap::default(),
            next_place: 0,
        }
    }
}

impl<T> NameQueue<T> {
    /// Appends a name, or replaces the value of a queued name. Returns whether the name was appended.
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
        }
    }

    fn pop_first(&mut self) -> Option<(Subscription, T)> {
        let (_, name) = self.names.pop_first()?;
        let (_, value) = self.by_name.remove(&name)?;
        Some((name, value))
    }
}

#[cfg(test)]
mod tests;
