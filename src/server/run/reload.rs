//! Files that are read again while the process runs: at SIGHUP, and key files after every change. If the log filter is
//! in a file, every gateway reads it again.
//!
//! Each part has its own thread, so a slow disk never blocks the loop, and a file that does not answer does not keep
//! others from being read. A broken file changes nothing. No client is closed, and no connection of the process is
//! affected.

use std::io::{self, ErrorKind, IsTerminal, Read, stdin};
use std::iter::zip;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, unbounded};
use signal_hook::consts::{SIGHUP, SIGTERM};
use signal_hook::low_level;

use super::common::CommonSettings;
use super::early_signals::roll_has_come;
use super::log_filter_file::LogFilterFile;
use super::secret_files::SecretFiles;
use crate::telemetry::{GatewayMetric, MetricName};
use weirgate_runtime::detached;

/// How often the threads check for signals and for files that have changed.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Has a byte for each SIGHUP that is not handled yet. Set when SIGHUP is first expected.
static HANG_UPS: OnceLock<HangUps> = OnceLock::new();

/// A part of the settings that can be read again while clients are connected.
pub trait Reload: Send {
    /// The label of the metric.
    fn what(&self) -> &'static str;

    /// Checks whether the part should be read again without a signal. Called once a second.
    fn poll_change(&mut self) -> bool {
        false
    }

    /// Reads the part again, applies the new values and logs the changes.
    ///
    /// # Errors
    /// The part is broken, and nothing has changed. The error is the text of a log line.
    fn reload(&mut self) -> Result<Reloaded, String>;
}

/// The outcome of a successful reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// The part has other values.
    Changed,
    /// The part is unchanged.
    Unchanged,
}

/// The outcome of an attempt to read a part again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReloadOutcome {
    Changed,
    Unchanged,
    /// A file is broken, or does not answer.
    Failed,
}

impl ReloadOutcome {
    /// Metric labels, in the order of the variants.
    const LABELS: [&str; 3] = ["changed", "unchanged", "failed"];
}

/// A file that has not answered for this time counts as failed.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// What the thread of a part does at present.
#[derive(Clone, Copy, Debug)]
enum Doing {
    Nothing,
    /// It has read since this moment.
    Reads(Instant),
    /// It waits for files that do not answer, and the log has said so.
    Hangs,
}

/// The reads of a part, for metrics and for the thread that handles signals.
struct ReloadProgress {
    what: &'static str,
    /// How often each [`ReloadOutcome`] was reached.
    outcomes: [AtomicU64; ReloadOutcome::LABELS.len()],
    /// Whether the last read failed, or still waits for its files.
    is_failing: AtomicBool,
    doing: Mutex<Doing>,
}

/// All parts of one process.
pub(super) struct Reloads {
    parts: Vec<Box<dyn Reload>>,
    progress: Arc<Vec<Arc<ReloadProgress>>>,
}

/// Whose files are read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReloadsOf {
    /// A gateway without a supervisor.
    Gateway,
    /// A gateway that a supervisor has started.
    Process,
    /// A supervisor: it passes SIGHUP on to the processes, which log how many files were read.
    Supervisor,
}

impl ReloadsOf {
    /// A gateway with these settings.
    pub(super) fn gateway(common: &CommonSettings) -> Self {
        match common.has_supervisor {
            true => Self::Process,
            false => Self::Gateway,
        }
    }
}

/// The parts of gateways and supervisors. The log filter is last, so that the old filter applies to the log lines about
/// the other parts.
pub(super) fn common_parts(common: &CommonSettings) -> Vec<Box<dyn Reload>> {
    let mut parts = Vec::<Box<dyn Reload>>::new();
    if let Some(secrets) = SecretFiles::new(common.secret_files.clone()) {
        parts.push(Box::new(secrets));
    }
    if let Some(path) = &common.log_filter_file {
        parts.push(Box::new(LogFilterFile(path.clone())));
    }
    parts
}

/// Has the files of a supervisor read again, at SIGHUP and after changes; `revoked` is `--revoked-file`. Also has the
/// supervisor end with its terminal.
///
/// # Errors
/// The system refuses a thread or the handler of a signal.
pub(crate) fn start_reloads_of_supervisor(
    common: &CommonSettings,
    revoked: Option<Box<dyn Reload>>,
) -> io::Result<()> {
    let parts = revoked.into_iter().chain(common_parts(common));
    Reloads::new(parts.collect()).start(ReloadsOf::Supervisor)
}

/// After this call a SIGHUP no longer ends the process. [`Reloads::start`] handles signals that arrived before it.
pub(super) fn expect_signals() {
    // After an error, [`Reloads::start`] tries again.
    let _ = HangUps::of_process();
}

impl Reloads {
    pub(super) fn new(parts: Vec<Box<dyn Reload>>) -> Self {
        let progress = parts
            .iter()
            .map(|part| Arc::new(ReloadProgress::new(part.what())));
        Self {
            progress: Arc::new(progress.collect()),
            parts,
        }
    }

    /// The metrics of reloads.
    pub(super) fn metrics(&self) -> [GatewayMetric; 2] {
        let progress = Arc::clone(&self.progress);
        let numbers = move || {
            let of_part = |part: &Arc<ReloadProgress>| {
                let what = part.what;
                let counts = part.outcomes.each_ref().map(|count| count.load(Relaxed));
                let each = zip(ReloadOutcome::LABELS, counts);
                each.map(move |(outcome, count)| ([what, outcome], count))
            };
            progress.iter().flat_map(of_part).collect()
        };
        let failing = |all: &Vec<Arc<ReloadProgress>>| {
            let one =
                |part: &Arc<ReloadProgress>| (part.what, part.is_failing.load(Relaxed).into());
            all.iter().map(one).collect()
        };
        [
            GatewayMetric::ByTwoLabels(&MetricName::RELOADS, Box::new(numbers)),
            GatewayMetric::by_label(&MetricName::RELOADS_FAILING, &self.progress, failing),
        ]
    }

    /// Starts the threads, which wait for signals and changes, and end with the process.
    pub(super) fn start(self, of: ReloadsOf) -> io::Result<()> {
        let hang_ups = HangUps::of_process()?;
        let had_terminal = stdin().is_terminal();
        let readers = zip(self.parts, self.progress.iter());
        let readers = readers.map(|(part, progress)| Reader::start(part, progress));
        let readers = readers.collect::<io::Result<Vec<Reader>>>()?;
        detached("reload", move || {
            loop {
                if roll_has_come() && of == ReloadsOf::Gateway {
                    tracing::warn!(
                        "SIGUSR2 has no effect without --processes: there are no processes to replace"
                    );
                }
                if !hang_ups.wait() {
                    readers
                        .iter()
                        .for_each(|reader| reader.progress.note_hang());
                } else if had_terminal && !stdin().is_terminal() {
                    stop_without_terminal();
                } else {
                    let counts = reload_all(&readers);
                    if of != ReloadsOf::Supervisor {
                        log_counts(counts);
                    }
                }
            }
        })
    }
}

/// Reads all parts again. Returns how many had each outcome.
fn reload_all(readers: &[Reader]) -> [u64; ReloadOutcome::LABELS.len()] {
    let (done, outcomes) = unbounded();
    for reader in readers {
        // The thread ends with the process.
        let _ = reader.requests.send(done.clone());
    }
    // So that `outcomes` ends with the last outcome.
    drop(done);
    let mut counts = [0; ReloadOutcome::LABELS.len()];
    let end = Instant::now() + READ_TIMEOUT;
    while let Ok(outcome) = outcomes.recv_deadline(end) {
        counts[outcome as usize] += 1;
    }
    readers
        .iter()
        .for_each(|reader| reader.progress.note_hang());
    let late = readers.len() as u64 - counts.iter().sum::<u64>();
    counts[ReloadOutcome::Failed as usize] += late;
    counts
}

fn log_counts([changed, unchanged, failed]: [u64; ReloadOutcome::LABELS.len()]) {
    if changed + unchanged + failed == 0 {
        tracing::info!("SIGHUP: no setting of this gateway is in a file that is read again");
    } else {
        tracing::info!(changed, unchanged, failed, "SIGHUP: files read again");
    }
}

/// The thread of a part, as the other threads see it.
struct Reader {
    progress: Arc<ReloadProgress>,
    /// Each request carries the sender for the outcome of the read.
    requests: Sender<Sender<ReloadOutcome>>,
}

impl Reader {
    /// Starts the thread, which reads the files of the part upon request, and otherwise when they have changed. It ends
    /// when the `Reader` is dropped.
    fn start(mut part: Box<dyn Reload>, progress: &Arc<ReloadProgress>) -> io::Result<Self> {
        let (requests, queue) = unbounded::<Sender<ReloadOutcome>>();
        let own = Arc::clone(progress);
        detached("reload-part", move || {
            loop {
                match queue.recv_timeout(CHECK_INTERVAL) {
                    Ok(done) => {
                        let outcome = own.read(&mut *part);
                        // The read also answers the requests that arrived during it.
                        for done in std::iter::once(done).chain(queue.try_iter()) {
                            // Fails if nobody waits any longer ([`READ_TIMEOUT`]).
                            let _ = done.send(outcome);
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => own.read_if_due(&mut *part),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        Ok(Self {
            progress: Arc::clone(progress),
            requests,
        })
    }
}

impl ReloadProgress {
    fn new(what: &'static str) -> Self {
        Self {
            what,
            outcomes: Default::default(),
            is_failing: AtomicBool::new(false),
            doing: Mutex::new(Doing::Nothing),
        }
    }

    /// Locks the state of the thread.
    fn doing(&self) -> MutexGuard<'_, Doing> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the part if it is due without a signal.
    fn read_if_due(&self, part: &mut dyn Reload) {
        // The check for changes asks for the metadata of the files, and may hang too.
        *self.doing() = Doing::Reads(Instant::now());
        let is_due = part.poll_change();
        // After files did not answer, only a read shows whether they are good.
        if is_due || matches!(*self.doing(), Doing::Hangs) {
            self.read(part);
        }
        *self.doing() = Doing::Nothing;
    }

    /// Reads the part, and counts the outcome.
    fn read(&self, part: &mut dyn Reload) -> ReloadOutcome {
        *self.doing() = Doing::Reads(Instant::now());
        let outcome = match part.reload() {
            Ok(Reloaded::Changed) => ReloadOutcome::Changed,
            Ok(Reloaded::Unchanged) => ReloadOutcome::Unchanged,
            Err(error) => {
                tracing::warn!("{error}");
                ReloadOutcome::Failed
            }
        };
        *self.doing() = Doing::Nothing;
        self.count(outcome);
        outcome
    }

    /// If a part's files do not answer, counts and logs this once.
    fn note_hang(&self) {
        let mut doing = self.doing();
        if matches!(*doing, Doing::Reads(since) if since.elapsed() >= READ_TIMEOUT) {
            *doing = Doing::Hangs;
            drop(doing);
            self.count(ReloadOutcome::Failed);
            let what = self.what;
            tracing::warn!(
                "{what}: a file does not answer; the values stay as they were until it does"
            );
        }
    }

    fn count(&self, outcome: ReloadOutcome) {
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
        self.is_failing
            .store(outcome == ReloadOutcome::Failed, Relaxed);
    }
}

/// When a terminal is closed, the shell sends SIGHUP. A gateway that was started by hand then ends with its terminal,
/// as at Ctrl-C.
fn stop_without_terminal() {
    tracing::info!("SIGHUP: the terminal was closed");
    if let Err(error) = low_level::raise(SIGTERM) {
        tracing::error!(%error, "cannot stop");
    }
}

/// The reading end of a pair of sockets; the handler of SIGHUP writes a byte for each signal.
pub(super) struct HangUps(UnixStream);

impl HangUps {
    /// The reading end of this process; the first call sets the handler.
    ///
    /// # Errors
    /// The system refuses a pair of sockets, or the handler.
    pub(super) fn of_process() -> io::Result<&'static Self> {
        if let Some(known) = HANG_UPS.get() {
            return Ok(known);
        }
        let (signals, handler) = UnixStream::pair()?;
        signals.set_read_timeout(Some(CHECK_INTERVAL))?;
        low_level::pipe::register(SIGHUP, handler)?;
        Ok(HANG_UPS.get_or_init(|| Self(signals)))
    }

    /// Returns true at once after a signal, or false after at most [`CHECK_INTERVAL`]. Several signals at once count as one.
    fn wait(&self) -> bool {
        match (&self.0).read(&mut [0; 64]) {
            Ok(signals) => signals > 0,
            Err(error) => {
                let expected = [
                    ErrorKind::WouldBlock,
                    ErrorKind::TimedOut,
                    ErrorKind::Interrupted,
                ];
                if !expected.contains(&error.kind()) {
                    // Avoids a busy loop; the byte of the signal is read later.
                    thread::sleep(CHECK_INTERVAL);
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Returns outcomes in order; due once without a signal.
    struct Played(VecDeque<Result<Reloaded, String>>, bool);

    impl Reload for Played {
        fn what(&self) -> &'static str {
            "acl"
        }

        fn poll_change(&mut self) -> bool {
            std::mem::take(&mut self.1)
        }

        fn reload(&mut self) -> Result<Reloaded, String> {
            self.0.pop_front().expect("an outcome")
        }
    }

    #[test]
    fn each_outcome_is_counted_and_what_asks_is_read_without_a_signal() {
        let reloads = Reloads::new(vec![Box::new(Played(VecDeque::new(), false))]);
        let counts = || match &reloads.metrics() {
            [
                GatewayMetric::ByTwoLabels(_, numbers),
                GatewayMetric::ByLabel(_, failing),
            ] => {
                let numbers = numbers().into_iter().map(|(_, count)| count);
                (numbers.collect::<Vec<u64>>(), failing())
            }
            other => panic!("{other:?}"),
        };
        let mut part = Played(
            [
                Ok(Reloaded::Changed),
                Err("broken".to_owned()),
                Ok(Reloaded::Unchanged),
            ]
            .into(),
            true,
        );
        let progress = &reloads.progress[0];
        progress.read_if_due(&mut part);
        progress.read_if_due(&mut part);
        assert_eq!(counts(), (vec![1, 0, 0], vec![("acl", 0)]), "asked once");
        progress.read(&mut part);
        assert_eq!(counts(), (vec![1, 0, 1], vec![("acl", 1)]));
        progress.read(&mut part);
        assert_eq!(counts(), (vec![1, 1, 1], vec![("acl", 0)]));
        // Files that do not answer are counted once.
        for since in [READ_TIMEOUT / 2, READ_TIMEOUT] {
            progress.note_hang();
            let since = Instant::now().checked_sub(since);
            *progress.doing() = Doing::Reads(since.expect("an uptime"));
        }
        assert_eq!(counts(), (vec![1, 1, 1], vec![("acl", 0)]));
        progress.note_hang();
        progress.note_hang();
        assert_eq!(counts(), (vec![1, 1, 2], vec![("acl", 1)]));
    }

    /// A part hangs: the other parts are still read, and the operator is notified.
    #[test]
    fn a_part_whose_files_do_not_answer_keeps_no_other_from_being_read() {
        struct Hangs(crossbeam_channel::Receiver<()>);
        impl Reload for Hangs {
            fn what(&self) -> &'static str {
                "tls"
            }

            fn poll_change(&mut self) -> bool {
                let _ = self.0.recv();
                false
            }

            fn reload(&mut self) -> Result<Reloaded, String> {
                Ok(Reloaded::Unchanged)
            }
        }
        let (answer, hangs) = unbounded();
        let outcomes = [Ok(Reloaded::Changed)].into();
        let parts: Vec<Box<dyn Reload>> =
            vec![Box::new(Hangs(hangs)), Box::new(Played(outcomes, true))];
        let reloads = Reloads::new(parts);
        let readers = zip(reloads.parts, reloads.progress.iter());
        let readers = readers.map(|(part, progress)| Reader::start(part, progress));
        let readers: Vec<Reader> = readers.collect::<io::Result<_>>().expect("threads");
        let [stuck, other] = [0, 1].map(|at: usize| &readers[at].progress);
        let is_read = || other.outcomes[0].load(Relaxed) > 0;
        while !(is_read() && matches!(*stuck.doing(), Doing::Reads(_))) {
            thread::sleep(Duration::from_millis(10));
        }
        let (done, outcomes) = unbounded();
        readers[0].requests.send(done).expect("a thread");
        answer.send(()).expect("a thread");
        assert_eq!(
            outcomes.recv(),
            Ok(ReloadOutcome::Unchanged),
            "the signal meanwhile is not lost"
        );
    }
}
