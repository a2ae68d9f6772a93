//! Asks the server two questions, again and again, on separate threads.
//!
//! Whether the connection for requests is well: an empty message to an inbox of this process comes back over this
//! connection. JetStream has no part in the exchange, so the election of a consumer's leader is not mistaken for a dead
//! link. The session pings the connection for messages itself.
//!
//! Whether the consumers are well: without messages, a deleted consumer looks the same as a silence of JetStream. Each
//! subscription has a thread, so a hanging question delays no other. [`Health`] judges the answers and the silences for
//! the session, and is pure: callers pass the time.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{
    Receiver, RecvTimeoutError, Sender, TrySendError, bounded, never, select, unbounded,
};
use nats::jetstream::ConsumerInfo;

use super::api::{Api, ApiError, JetStream};
use super::consumers::{Durable, Target, find_stream, look_up};
use super::settings::SubscriptionSpec;
use crate::runtime::{Wake, detached};
use crate::status::Stall;

/// The limit on reports waiting while the session waits for the loop. More are dropped; the next round repeats them.
const REPORTS_MAX: usize = 64;

/// How long a consumer must be missing before the report. The server says "not found" while still deleting, and a
/// stream made in that moment can lose its files and its subjects to the deletion (seen with 2.9.10).
const MISSING_FOR: Duration = Duration::from_millis(300);

/// The part of a subscription that its thread watches.
pub(super) enum Watched {
    /// A consumer in use.
    Consumer(WatchedConsumer),
    /// A subject without a consumer, perhaps without a stream.
    Subject(SubscriptionSpec),
    /// A subject that is not watched.
    Nothing,
}

/// A consumer to watch.
pub(super) struct WatchedConsumer {
    pub(super) target: Target,
    /// The name of the consumer in use.
    pub(super) consumer: String,
    /// The consumer's deliver subject. A consumer of the same name with another deliver subject is another consumer.
    pub(super) deliver_subject: String,
    /// Whether to look for the durable consumer of `target` too.
    pub(super) awaits_durable: bool,
}

/// A report to the session.
pub(super) enum Report {
    /// The connection for requests is well.
    Alive,
    /// JetStream answered about the subscription of this index.
    About(usize, Answer),
}

/// An answer of JetStream about a subscription.
pub(super) enum Answer {
    /// An error of JetStream: it works, and nothing else is known.
    Other,
    /// The consumer of this name exists.
    Pending(String, Counts),
    /// The consumer of this name, or its stream, is gone.
    Gone(String),
    /// The consumer of this name delivers nothing until a time (`pause_until`).
    Paused(String),
    /// The durable consumer is free, or missing.
    Free,
    /// Whether the stream of a waiting subject exists.
    Stream(bool),
}

/// The session's handle of the watchdog. Dropping the handle ends the threads after their current questions.
pub(super) struct Watchdog {
    /// A channel for each subscription.
    watch: Vec<Sender<Watched>>,
    pub(super) reports: Receiver<Report>,
}

impl Watchdog {
    /// A watchdog without threads.
    pub(super) fn idle() -> Self {
        Self {
            watch: Vec::new(),
            reports: never(),
        }
    }

    /// Starts the threads: one for the link, and one for each subscription.
    ///
    /// # Errors
    /// The system has no thread left, or the connection is gone.
    pub(super) fn start(
        api: &Api,
        wake: &Wake,
        interval: Duration,
        subscriptions: usize,
    ) -> io::Result<Self> {
        let (reports, taken) = bounded(REPORTS_MAX);
        let sender = Reporter {
            reports,
            wake: wake.clone(),
        };
        let (link, told) = (api.clone(), sender.clone());
        detached("nats-link", move || {
            // If the connection takes nothing more, the session notices the silence.
            if let Err(error) = watch_link(&link, interval, &told) {
                tracing::debug!(%error, "the link with NATS is not watched any more");
            }
        })?;
        let mut watch = Vec::new();
        for index in 0..subscriptions {
            let (orders, ordered) = unbounded();
            let (api, told) = (api.clone(), sender.clone());
            let tell = move |answer| told.send(Report::About(index, answer));
            let work = move || watch_subscription(&api, interval, &ordered, tell);
            detached("nats-watchdog", work)?;
            watch.push(orders);
        }
        Ok(Self {
            watch,
            reports: taken,
        })
    }

    /// Watches these from now on: one for each subscription, in the same order.
    pub(super) fn watch(&self, all: Vec<Watched>) {
        for (orders, watched) in self.watch.iter().zip(all) {
            // The thread is gone only after a failure; the session notices the silence.
            let _ = orders.send(watched);
        }
    }
}

/// The way of reports to the session.
#[derive(Clone)]
struct Reporter {
    reports: Sender<Report>,
    wake: Wake,
}

impl Reporter {
    /// Sends a report. Returns false if the session has ended.
    fn send(&self, report: Report) -> bool {
        let sent = self.reports.try_send(report);
        self.wake.wake();
        !matches!(sent, Err(TrySendError::Disconnected(_)))
    }
}

fn watch_link(api: &Api, interval: Duration, reports: &Reporter) -> io::Result<()> {
    let inbox = api.connection.new_inbox();
    let echoes = api.connection.subscribe(&inbox)?;
    loop {
        let next = Instant::now() + interval;
        api.connection.publish(&inbox, b"")?;
        loop {
            select! {
                recv(echoes.receiver()) -> echo => if echo.is_err() || !reports.send(Report::Alive) {
                    return Ok(());
                },
                recv(api.lost) -> _ => {
                    reports.wake.wake();
                    return Ok(());
                }
                default(next.saturating_duration_since(Instant::now())) => break,
            }
        }
    }
}

/// Asks until `tell` returns false: the session has ended.
fn watch_subscription(
    api: &Api,
    interval: Duration,
    orders: &Receiver<Watched>,
    tell: impl Fn(Answer) -> bool,
) {
    let mut watched = Watched::Nothing;
    loop {
        match orders.recv_timeout(interval) {
            Ok(order) => watched = order,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if !ask(api, &watched).into_iter().all(&tell) {
            return;
        }
    }
}

/// Returns no answers if the server did not answer.
fn ask(api: &Api, watched: &Watched) -> Vec<Answer> {
    match watched {
        Watched::Consumer(watched) => ask_of_consumer(api, watched),
        Watched::Nothing => Vec::new(),
        Watched::Subject(spec) => {
            let answer = match find_stream(api, spec) {
                Ok(found) => Some(Answer::Stream(found.is_some())),
                Err(error) => other(&error),
            };
            Vec::from_iter(answer)
        }
    }
}

/// An answer of JetStream, even an error, shows that it works.
fn other(error: &ApiError) -> Option<Answer> {
    error.is_an_answer().then_some(Answer::Other)
}

fn ask_of_consumer(api: &Api, watched: &WatchedConsumer) -> Vec<Answer> {
    let mut answer = ask_consumer(api, watched);
    if let Some(Answer::Gone(_)) = answer {
        thread::sleep(MISSING_FOR);
        answer = ask_consumer(api, watched);
    }
    // A server that is cut off from its cluster still answers about the consumer, but the consumer gets no messages.
    if let Some(Answer::Pending(..)) = answer
        && let Err(error) = api.stream_info(&watched.target.stream)
        && !error.is_an_answer()
        && !matches!(error, ApiError::NotPermitted(_))
    {
        return Vec::new();
    }
    let mut answers = Vec::from_iter(answer);
    if watched.awaits_durable
        && let Ok(Durable::Free(_) | Durable::Missing) = look_up(api, &watched.target)
    {
        answers.push(Answer::Free);
    }
    answers
}

fn ask_consumer(api: &Api, watched: &WatchedConsumer) -> Option<Answer> {
    let consumer = watched.consumer.clone();
    match api.consumer_and_pause(&watched.target.stream, &consumer) {
        Ok((info, _)) if info.config.deliver_subject.as_ref() != Some(&watched.deliver_subject) => {
            Some(Answer::Gone(consumer))
        }
        Ok((_, true)) => Some(Answer::Paused(consumer)),
        Ok((info, false)) => {
            let counts = Counts {
                pending: info.num_pending,
                ack_pending: info.num_ack_pending as u64,
                is_full: is_full(&info),
            };
            Some(Answer::Pending(consumer, counts))
        }
        Err(error) if error.consumer_is_missing() => Some(Answer::Gone(consumer)),
        Err(error) => {
            tracing::debug!(%error, consumer, "no answer about a consumer");
            other(&error)
        }
    }
}

/// Whether the server delivers no more until something is acknowledged.
fn is_full(info: &ConsumerInfo) -> bool {
    let allowed = usize::try_from(info.config.max_ack_pending).unwrap_or(0);
    allowed > 0 && info.num_ack_pending >= allowed
}

/// A consumer is stalled if the server has held messages for this long and none was handed over.
const STALLED_AFTER: Duration = Duration::from_secs(5);

/// The health of a subscription on a connection.
#[derive(Debug)]
pub(super) struct Health {
    /// The time of the last answer of JetStream.
    pub(super) heard: Instant,
    /// The time of the last attempt to attach, successful or not.
    pub(super) attached: Instant,
    /// The time of the last new message that was handed over.
    pub(super) handed: Instant,
    /// Since when the server reports pending messages.
    holds_since: Option<Instant>,
    /// The time of the last refused acknowledgement.
    pub(super) acks_refused: Option<Instant>,
    is_silent: bool,
    stall: Option<Stall>,
}

/// The server's counts for a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    /// Messages not delivered yet.
    pub(super) pending: u64,
    /// Messages delivered and not acknowledged.
    pub(super) ack_pending: u64,
    /// The consumer delivers no more until a message is acknowledged.
    pub(super) is_full: bool,
}

impl Health {
    /// The health of a subscription attached now, on a new connection.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heard: now,
            attached: now,
            handed: now,
            holds_since: None,
            acks_refused: None,
            is_silent: false,
            stall: None,
        }
    }

    /// Records any answer of JetStream. Returns whether a silence ends.
    pub(super) fn heard(&mut self, now: Instant) -> bool {
        self.heard = now;
        std::mem::take(&mut self.is_silent)
    }

    /// How long JetStream has been silent.
    pub(super) fn silent_for(&self, now: Instant) -> Duration {
        now.duration_since(self.heard)
    }

    /// Returns the length of JetStream's silence once: at the first call after it has reached `after`.
    pub(super) fn falls_silent(&mut self, now: Instant, after: Duration) -> Option<Duration> {
        let silent = self.silent_for(now);
        (silent >= after && !std::mem::replace(&mut self.is_silent, true)).then_some(silent)
    }

    /// Whether JetStream has said nothing and delivered nothing for `after`.
    pub(super) fn hears_nothing(&self, now: Instant, after: Duration) -> bool {
        self.silent_for(now) >= after && now.duration_since(self.handed) >= after
    }

    /// Whether to attach again: once in each period `every` of silence, or of messages that are held and not delivered.
    pub(super) fn is_to_be_attached(&self, now: Instant, every: Duration) -> bool {
        let over = |since| now.duration_since(since) >= every;
        let is_silent = self.is_silent && over(self.heard);
        let stands_still = self.stall == Some(Stall::NothingDelivered)
            && self.holds_since.is_some_and(over)
            && over(self.handed);
        (is_silent || stands_still) && over(self.attached)
    }

    /// Judges the server's counts for the consumer. Returns `Some` if the stall has changed.
    pub(super) fn judge(&mut self, counts: Counts, now: Instant) -> Option<Option<Stall>> {
        let is_long_ago = |at| now.duration_since(at) >= STALLED_AFTER;
        // The counts may be older than the refusal.
        if counts.ack_pending == 0 && self.acks_refused.is_some_and(is_long_ago) {
            self.acks_refused = None;
        }
        self.holds_since = match counts.pending {
            0 => None,
            _ => Some(self.holds_since.unwrap_or(now)),
        };
        let came = self.handed.max(self.attached);
        let nothing_comes = self.holds_since.is_some_and(is_long_ago) && is_long_ago(came);
        let stall = if self.acks_refused.is_some() || (nothing_comes && counts.is_full) {
            Some(Stall::AcksRefused)
        } else {
            nothing_comes.then_some(Stall::NothingDelivered)
        };
        (std::mem::replace(&mut self.stall, stall) != stall).then_some(stall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_told_once_and_ends_with_any_answer() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let (six, thirty) = (Duration::from_secs(6), Duration::from_secs(30));
        let mut health = Health::new(start);
        assert_eq!(health.falls_silent(at(5), six), None);
        assert_eq!(
            health.falls_silent(at(7), six),
            Some(Duration::from_secs(7))
        );
        assert_eq!(health.falls_silent(at(8), six), None);
        assert!(!health.is_to_be_attached(at(29), thirty));
        assert!(health.is_to_be_attached(at(30), thirty));
        health.attached = at(30);
        assert!(!health.is_to_be_attached(at(59), thirty));
        assert!(health.is_to_be_attached(at(60), thirty));
        assert!(health.heard(at(61)) && !health.heard(at(62)));
        assert!(!health.is_to_be_attached(at(100), thirty));
    }

    #[test]
    fn messages_that_wait_while_none_comes_are_a_stall() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let holds = |pending, is_full| Counts {
            pending,
            ack_pending: 7,
            is_full,
        };
        let mut health = Health::new(start);
        assert_eq!(health.judge(holds(0, true), at(9)), None);
        // The subject was quiet, and this message is on its way.
        assert_eq!(health.judge(holds(1, true), at(9)), None);
        assert_eq!(health.judge(holds(1, true), at(13)), None);
        let full = Some(Some(Stall::AcksRefused));
        assert_eq!(health.judge(holds(1, true), at(14)), full);
        assert_eq!(health.judge(holds(1, true), at(15)), None);
        let other = Some(Some(Stall::NothingDelivered));
        assert_eq!(health.judge(holds(1, false), at(16)), other);
        health.handed = at(17);
        assert_eq!(health.judge(holds(1, false), at(21)), Some(None));
        assert_eq!(health.judge(holds(1, false), at(22)), other);
        assert_eq!(health.judge(holds(0, false), at(23)), Some(None));
        // A consumer that stands still is replaced, once in a while.
        let thirty = Duration::from_secs(30);
        let mut still = Health::new(start);
        for second in 0..36 {
            let _ = still.judge(holds(1, false), at(second));
            assert_eq!(still.is_to_be_attached(at(second), thirty), second >= 30);
        }
        still.attached = at(36);
        assert!(!still.is_to_be_attached(at(65), thirty));
        // While messages arrive there is no stall, however far behind.
        for second in 30..50 {
            health.handed = at(second);
            assert_eq!(health.judge(holds(9, false), at(second)), None);
        }
    }

    #[test]
    fn an_acknowledgement_that_was_refused_counts_until_none_is_owed() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let owed = |ack_pending| Counts {
            pending: 0,
            ack_pending,
            is_full: false,
        };
        let mut health = Health::new(start);
        health.acks_refused = Some(at(1));
        let refused = Some(Some(Stall::AcksRefused));
        // The server sent this count before the refusal.
        assert_eq!(health.judge(owed(0), at(1)), refused);
        assert_eq!(health.judge(owed(1), at(9)), None);
        assert_eq!(health.judge(owed(0), at(10)), Some(None));
    }
}
