//! Asks the server about the consumers, again and again, on a thread of its own.
//!
//! A push consumer that is gone, and a server that is silent, look the same to who waits for
//! messages: nothing comes. The questions go over the connection that the messages come by, so an
//! answer proves that very connection. Whether answers come at all is judged by the session, since
//! a question may wait for five seconds inside the crate.

use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, unbounded};

use super::api::Api;
use super::consumers::{Durable, Target, find_stream, look_up};
use super::settings::SubscriptionSpec;

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
    /// The consumer stands; messages that it has still to deliver.
    Pending {
        index: usize,
        consumer: String,
        pending: u64,
    },
    /// The consumer or its stream is gone.
    Gone { index: usize, consumer: String },
    /// The durable can be had, or made.
    Free { index: usize },
    /// Whether the stream that a subject waits for is there.
    Stream { index: usize, is_there: bool },
}

/// The session's end of the watchdog. Dropping it ends the thread after its current question.
pub(super) struct Watchdog {
    watch: Sender<Vec<Watched>>,
    /// What the server said.
    pub(super) reports: Receiver<Report>,
}

impl Watchdog {
    /// Starts the thread.
    pub(super) fn start(api: Api, interval: Duration) -> std::io::Result<Self> {
        let (watch, orders) = unbounded();
        let (sender, reports) = bounded(REPORTS_MAX);
        thread::Builder::new()
            .name("nats-watchdog".into())
            .spawn(move || run(&api, interval, &orders, &sender))?;
        Ok(Self { watch, reports })
    }

    /// From now on looks after these, and no others.
    pub(super) fn watch(&self, all: Vec<Watched>) {
        // The thread is gone only if it could not go on; the silence is then noticed.
        let _ = self.watch.send(all);
    }
}

fn run(api: &Api, interval: Duration, orders: &Receiver<Vec<Watched>>, reports: &Sender<Report>) {
    let mut watched = Vec::new();
    loop {
        match orders.recv_timeout(interval) {
            Ok(order) => watched = order,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        for one in &watched {
            for report in ask(api, one) {
                if let Err(TrySendError::Disconnected(_)) = reports.try_send(report) {
                    return;
                }
            }
        }
    }
}

/// Empty when the server did not answer, or not to the point.
fn ask(api: &Api, watched: &Watched) -> Vec<Report> {
    match watched {
        Watched::Consumer(index, watched) => ask_of_consumer(api, *index, watched),
        Watched::Subject(index, spec) => {
            let found = find_stream(api, spec);
            let report = found.map(|found| Report::Stream {
                index: *index,
                is_there: found.is_some(),
            });
            report.into_iter().collect()
        }
    }
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
            pending: info.num_pending,
        }),
        Err(error) if error.consumer_is_missing() => Some(Report::Gone { index, consumer }),
        Err(error) => {
            tracing::debug!(%error, consumer, "no answer about a consumer");
            None
        }
    }
}
