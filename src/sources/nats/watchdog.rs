//! Asks the server two things, again and again, on threads of their own.
//!
//! Whether the link is well: an empty message to an inbox of ours comes back over the connection
//! that the messages come by. JetStream has no part in that, so a consumer whose leader is being
//! elected is not taken for a dead link.
//!
//! How the consumers are: one that is gone, and one that JetStream is silent about, look the same
//! to who waits for messages. Each has a thread, so a question that hangs holds up no other. What
//! silence means is judged by the session.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, unbounded};
use nats::jetstream::ConsumerInfo;

use super::api::{Api, ApiError};
use super::consumers::{Durable, Target, find_stream, look_up};
use super::health::Counts;
use super::settings::SubscriptionSpec;
use crate::base::detached;

/// Reports that may wait while the session waits for the loop; more are dropped, for the next
/// round says the same again.
const REPORTS_MAX: usize = 64;

/// How long a consumer must be missing before it is reported. The server says "not found" while it
/// still deletes, and a stream made in that moment can lose its files and its subjects to the
/// deletion (seen with 2.9.10).
const MISSING_FOR: Duration = Duration::from_millis(300);

/// What to look after for a subscription, which is known by its index.
pub(super) enum Watched {
    /// A consumer that is read from.
    Consumer(usize, WatchedConsumer),
    /// A subject whose stream is not there.
    Subject(usize, SubscriptionSpec),
}

/// A consumer to look after.
pub(super) struct WatchedConsumer {
    pub(super) target: Target,
    /// The name of the consumer that is read from.
    pub(super) consumer: String,
    /// Where it delivers to. A consumer of the same name that delivers elsewhere is another one.
    pub(super) deliver_subject: String,
    /// Whether to look for the durable of `target` too.
    pub(super) awaits_durable: bool,
}

/// What the server said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The link is well.
    Alive,
    /// JetStream answered about a subscription, but not to the point.
    Answered { index: usize },
    /// The consumer stands.
    Pending {
        index: usize,
        consumer: String,
        counts: Counts,
    },
    /// The consumer or its stream is gone.
    Gone { index: usize, consumer: String },
    /// The durable can be had, or made.
    Free { index: usize },
    /// Whether the stream that a subject waits for is there.
    Stream { index: usize, is_there: bool },
}

/// The session's end of the watchdog. Dropping it ends the threads after their current questions.
pub(super) struct Watchdog {
    /// One for each subscription.
    watch: Vec<Sender<Watched>>,
    /// What the server said.
    pub(super) reports: Receiver<Report>,
}

impl Watchdog {
    /// Starts the threads: one for the link, and one for each subscription.
    ///
    /// # Errors
    /// The system has no thread left, or the connection is gone.
    pub(super) fn start(api: &Api, interval: Duration, subscriptions: usize) -> io::Result<Self> {
        let (sender, reports) = bounded(REPORTS_MAX);
        let (link, told) = (api.clone(), sender.clone());
        detached("nats-link", move || {
            // A connection that takes nothing more is noticed by its silence.
            if let Err(error) = watch_link(&link, interval, &told) {
                tracing::debug!(%error, "the link with NATS is not watched any more");
            }
        })?;
        let mut watch = Vec::new();
        for _ in 0..subscriptions {
            let (orders, ordered) = unbounded();
            let (api, told) = (api.clone(), sender.clone());
            let work = move || watch_subscription(&api, interval, &ordered, &told);
            detached("nats-watchdog", work)?;
            watch.push(orders);
        }
        Ok(Self { watch, reports })
    }

    /// From now on looks after these: one for each subscription, in their order.
    pub(super) fn watch(&self, all: Vec<Watched>) {
        for (orders, watched) in self.watch.iter().zip(all) {
            // The thread is gone only if it could not go on; the silence is then noticed.
            let _ = orders.send(watched);
        }
    }
}

fn watch_link(api: &Api, interval: Duration, reports: &Sender<Report>) -> io::Result<()> {
    let inbox = api.connection.new_inbox();
    let echoes = api.connection.subscribe(&inbox)?;
    loop {
        let next = Instant::now() + interval;
        api.connection.publish(&inbox, b"")?;
        while let Ok(_echo) = echoes.receiver().recv_deadline(next) {
            if let Err(TrySendError::Disconnected(_)) = reports.try_send(Report::Alive) {
                return Ok(());
            }
        }
        if api.is_lost() {
            return Ok(());
        }
    }
}

fn watch_subscription(
    api: &Api,
    interval: Duration,
    orders: &Receiver<Watched>,
    reports: &Sender<Report>,
) {
    let mut watched = None;
    loop {
        match orders.recv_timeout(interval) {
            Ok(order) => watched = Some(order),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        for report in watched.iter().flat_map(|watched| ask(api, watched)) {
            if let Err(TrySendError::Disconnected(_)) = reports.try_send(report) {
                return;
            }
        }
    }
}

/// Empty when the server did not answer.
fn ask(api: &Api, watched: &Watched) -> Vec<Report> {
    match watched {
        Watched::Consumer(index, watched) => ask_of_consumer(api, *index, watched),
        Watched::Subject(index, spec) => {
            let report = match find_stream(api, spec) {
                Ok(found) => Some(Report::Stream {
                    index: *index,
                    is_there: found.is_some(),
                }),
                Err(error) => answered(&error, *index),
            };
            report.into_iter().collect()
        }
    }
}

/// Whatever the answer was, JetStream is there.
fn answered(error: &ApiError, index: usize) -> Option<Report> {
    error.is_an_answer().then_some(Report::Answered { index })
}

fn ask_of_consumer(api: &Api, index: usize, watched: &WatchedConsumer) -> Vec<Report> {
    let mut reports = Vec::new();
    let mut report = ask_consumer(api, index, watched);
    if let Some(Report::Gone { .. }) = report {
        thread::sleep(MISSING_FOR);
        report = ask_consumer(api, index, watched);
    }
    reports.extend(report);
    if watched.awaits_durable
        && let Ok(Durable::Free(_) | Durable::Missing) = look_up(api, &watched.target)
    {
        reports.push(Report::Free { index });
    }
    reports
}

fn ask_consumer(api: &Api, index: usize, watched: &WatchedConsumer) -> Option<Report> {
    let consumer = watched.consumer.clone();
    match api.consumer_info(&watched.target.stream, &consumer) {
        Ok(info) if info.config.deliver_subject.as_ref() != Some(&watched.deliver_subject) => {
            Some(Report::Gone { index, consumer })
        }
        Ok(info) => Some(Report::Pending {
            index,
            consumer,
            counts: Counts {
                pending: info.num_pending,
                ack_pending: info.num_ack_pending as u64,
                is_full: is_full(&info),
            },
        }),
        Err(error) if error.consumer_is_missing() => Some(Report::Gone { index, consumer }),
        Err(error) => {
            tracing::debug!(%error, consumer, "no answer about a consumer");
            answered(&error, index)
        }
    }
}

/// Whether the server delivers no more until something is acknowledged.
fn is_full(info: &ConsumerInfo) -> bool {
    let allowed = usize::try_from(info.config.max_ack_pending).unwrap_or(0);
    allowed > 0 && info.num_ack_pending >= allowed
}
