//! Asks the server two questions, again and again, on separate threads.
//!
//! Whether the connection for requests is well: an empty message to an inbox of this process comes back over
//! this connection. JetStream has no part in the exchange, so the election of a consumer's leader is not
//! mistaken for a dead link. The session pings the connection for messages itself.
//!
//! Whether the consumers are well: without messages, a deleted consumer looks the same as a silence
//! of JetStream. Each subscription has a thread, so a hanging question delays no other. The session
//! judges the silence.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{
    Receiver, RecvTimeoutError, Sender, TrySendError, bounded, select, unbounded,
};
use nats::jetstream::ConsumerInfo;

use super::api::{Api, ApiError};
use super::consumers::{Durable, Target, find_stream, look_up};
use super::health::Counts;
use super::settings::SubscriptionSpec;
use crate::base::{Wake, detached};

/// The limit on reports waiting while the session waits for the loop. More are dropped; the next
/// round repeats them.
const REPORTS_MAX: usize = 64;

/// How long a consumer must be missing before the report. The server says "not found" while still
/// deleting, and a stream made in that moment can lose its files and its subjects to the deletion
/// (seen with 2.9.10).
const MISSING_FOR: Duration = Duration::from_millis(300);

/// The target of the watch for a subscription.
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
    /// The consumer's deliver subject. A consumer of the same name with another deliver subject is
    /// another consumer.
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
    /// Not to the point.
    Other,
    /// The consumer of this name exists.
    Pending(String, Counts),
    /// The consumer of this name, or its stream, is gone.
    Gone(String),
    /// The durable consumer is free, or missing.
    Free,
    /// Whether the stream of a waiting subject exists.
    Stream(bool),
}

/// The session's handle of the watchdog. Dropping the handle ends the threads after their current
/// questions.
pub(super) struct Watchdog {
    /// A channel for each subscription.
    watch: Vec<Sender<Watched>>,
    pub(super) reports: Receiver<Report>,
}

impl Watchdog {
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

/// Asks until `tell` says that the session has ended.
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

/// Any answer, even an error, shows that JetStream works.
fn other(error: &ApiError) -> Option<Answer> {
    error.is_an_answer().then_some(Answer::Other)
}

fn ask_of_consumer(api: &Api, watched: &WatchedConsumer) -> Vec<Answer> {
    let mut answer = ask_consumer(api, watched);
    if let Some(Answer::Gone(_)) = answer {
        thread::sleep(MISSING_FOR);
        answer = ask_consumer(api, watched);
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
    match api.consumer_info(&watched.target.stream, &consumer) {
        Ok(info) if info.config.deliver_subject.as_ref() != Some(&watched.deliver_subject) => {
            Some(Answer::Gone(consumer))
        }
        Ok(info) => {
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
