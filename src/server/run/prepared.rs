//! A gateway that is assembled up to listening, and the checks of its surroundings before a start (`--check
//! --connect`).
//!
//! A check of the settings assembles the gateway in the same way as a start, and shows the same warnings and errors as
//! the start's log: the two cannot differ.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};

use super::notices::with_notices;
use super::process::{check_process, start_process};
use super::{RunError, reload};
use crate::listening::{Bound, ListenAddr, ListenOptions};
use crate::reactor::ListenerSettings;
use crate::settings::Checked;
use crate::supervisor;
use crate::telemetry::logging;
use weirgate_runtime::{Clock, detached};
use weirgate_wire::base::Finding;

/// An assembled gateway. The settings and all their files are read; next come listening and connecting.
pub struct Prepared {
    pub(super) listen: ListenerSettings,
    pub(super) admin_addr: Option<ListenAddr>,
    pub(super) questions: Vec<StartQuestion>,
    pub(super) run: Box<dyn FnOnce() -> Result<(), RunError>>,
}

/// A check of a broker or a service before a start, which changes nothing there.
pub struct StartQuestion {
    asked: String,
    ask: Box<dyn FnOnce(Duration) -> Vec<Finding> + Send>,
}

impl Prepared {
    /// Runs the gateway of this name until a signal.
    ///
    /// # Errors
    /// The gateway could not start, the loop failed, or the bus was away for longer than allowed.
    pub fn start(name: &'static str, checked: &Checked, prepare: Prepare) -> Result<(), RunError> {
        reload::expect_signals();
        let clock = start_process(checked)?;
        let ended = match checked.processes().is_supervisor() {
            true => supervisor::run(name, checked, clock),
            false if checked.processes().number().is_some() && !end_with_supervisor() => {
                tracing::info!("the supervisor has ended; this process ends too");
                Ok(())
            }
            false => prepare(checked, clock).and_then(Self::run),
        };
        // The last lines of the log have the reason of the end.
        logging::flush();
        ended.map_err(|error| error.of_settings(checked))
    }

    /// Does the work of a start up to listening and connecting, without a log. Returns the gateway, and the warnings and
    /// errors that the start would log.
    pub fn check(checked: &Checked, prepare: Prepare) -> (Result<Self, RunError>, Vec<Finding>) {
        with_notices(|| {
            let prepared = prepare(checked, check_process(checked)?);
            prepared.map_err(|error| error.of_settings(checked))
        })
    }

    /// Listens, connects, and runs until a signal.
    ///
    /// # Errors
    /// The gateway could not listen, the loop failed, or the bus was away for longer than allowed.
    pub fn run(self) -> Result<(), RunError> {
        (self.run)()
    }

    /// Calls `end` after the run, whatever its outcome.
    #[must_use]
    pub fn ending_with(mut self, end: impl FnOnce() + 'static) -> Self {
        let run = self.run;
        self.run = Box::new(move || {
            let ended = run();
            end();
            ended
        });
        self
    }

    /// Binds and closes every address, and asks each question. Each question may take at most `limit`.
    pub fn ask(self, limit: Duration) -> Vec<Finding> {
        let mut found = self.check_addresses();
        for question in self.questions {
            found.extend(question.ask(limit));
        }
        found
    }

    /// Checks whether the addresses can be listened on. Binds in the order of a start, and keeps all bound until the end, so
    /// that two addresses cannot have the same port.
    fn check_addresses(&self) -> Vec<Finding> {
        let admin_options = alone(&self.listen.options);
        let admin = self.admin_addr.iter().map(|addr| (addr, &admin_options));
        let public = self.listen.addrs.iter().chain(&self.listen.tls_addrs);
        let public = public.map(|addr| (addr, &self.listen.options));
        let mut bound: Vec<Bound> = Vec::new();
        let mut found = Vec::new();
        for (addr, options) in admin.chain(public) {
            found.push(match addr.bind(options) {
                Ok(one) => {
                    bound.push(one);
                    Finding::Good(format!("can listen on {addr}"))
                }
                Err(error) => Finding::Error(RunError::listen(addr, error).to_string()),
            });
        }
        found
    }
}

/// Has the system stop this process when its supervisor is killed: a new supervisor could not watch it, and would share
/// the port with it. Returns false if the supervisor has ended already.
fn end_with_supervisor() -> bool {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
        tracing::warn!(%error, "this process would outlive its supervisor");
    }
    // Only now: the system says nothing of a supervisor that ended before it was asked to.
    !supervisor::supervisor_is_gone()
}

/// The listen options of the admin socket: the same as for clients but without `SO_REUSEPORT`, because each process has
/// its own operators' pages.
pub(crate) fn alone(options: &ListenOptions) -> ListenOptions {
    ListenOptions {
        reuse_port: false,
        ..options.clone()
    }
}

impl StartQuestion {
    /// The flag with the time limit of a question.
    pub const TIMEOUT_FLAG: &str = "connect-timeout-ms";

    /// Makes a question. `asked` names the broker or service, for the error if no response comes. `ask` gets the time limit. It
    /// runs on its own thread, and may block without limit.
    pub fn new(
        asked: impl Into<String>,
        ask: impl FnOnce(Duration) -> Vec<Finding> + Send + 'static,
    ) -> Self {
        Self {
            asked: asked.into(),
            ask: Box::new(ask),
        }
    }

    /// Asks on a thread of its own, which goes on if no answer comes within `limit`.
    fn ask(self, limit: Duration) -> Vec<Finding> {
        let Self { asked, ask } = self;
        let (sender, findings) = sync_channel(1);
        let work = move || {
            let (found, notices) = with_notices(|| ask(limit));
            // Fails if the limit has passed already.
            let _ = sender.send(notices.into_iter().chain(found).collect());
        };
        if let Err(error) = detached("question", work) {
            return vec![Finding::Error(format!("cannot ask {asked}: {error}"))];
        }
        findings.recv_timeout(limit).unwrap_or_else(|error| {
            let why = match error {
                RecvTimeoutError::Timeout => {
                    let (ms, flag) = (limit.as_millis(), Self::TIMEOUT_FLAG);
                    format!("no answer within {ms} ms (--{flag})")
                }
                RecvTimeoutError::Disconnected => "the question ended in a panic".to_owned(),
            };
            vec![Finding::Error(format!("{asked}: {why}"))]
        })
    }
}

/// Assembles a gateway up to listening. It reads every file in the settings, but binds and connects nothing. An ERROR
/// line in the log means that the gateway can never work, and makes a check of the settings fail.
pub type Prepare = fn(&Checked, Clock) -> Result<Prepared, RunError>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_without_an_answer_ends_with_its_time() {
        let question = StartQuestion::new("NATS", |_| {
            loop {
                std::thread::park();
            }
        });
        let found = question.ask(Duration::from_millis(10));
        let want = "NATS: no answer within 10 ms (--connect-timeout-ms)";
        assert_eq!(found, [Finding::Error(want.to_owned())]);
        let question = StartQuestion::new("NATS", |_| {
            tracing::warn!("odd");
            vec![Finding::Good("there".to_owned())]
        });
        let found = question.ask(Duration::from_secs(10));
        let want = [
            Finding::Warning("odd".to_owned()),
            Finding::Good("there".to_owned()),
        ];
        assert_eq!(found, want);
    }
}
