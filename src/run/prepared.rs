//! A gateway that is put together, up to the moment where it listens; and what can be asked of the
//! world around it before a start (`--check --connect`).

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use super::{RunError, notices};
use crate::base::{Finding, detached};
use crate::listening::{Bound, ListenAddr, ListenOptions};
use crate::reactor::{BindError, ListenError, ListenSettings};

/// The flag with the time that a [`Question`] may take.
pub const TIMEOUT_FLAG: &str = "connect-timeout-ms";

/// A gateway whose settings were read, with every file that they name. What is left is to listen and
/// to connect.
pub struct Prepared {
    pub(super) listen: ListenSettings,
    pub(super) admin_addr: Option<ListenAddr>,
    pub(super) questions: Vec<Question>,
    pub(super) run: Box<dyn FnOnce() -> Result<(), RunError>>,
}

/// Something to ask a broker or a service before a start. Changes nothing there.
pub struct Question {
    asked: String,
    ask: Box<dyn FnOnce() -> Vec<Finding> + Send>,
}

impl Prepared {
    /// Listens, connects, and runs until a signal.
    ///
    /// # Errors
    /// It could not listen, the loop failed, or the bus was away for longer than was allowed.
    pub fn run(self) -> Result<(), RunError> {
        (self.run)()
    }

    /// Has `end` called after the run, however the run ended.
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

    /// Binds every address and closes it again, and asks each question, which may take `limit`.
    pub fn ask(self, limit: Duration) -> Vec<Finding> {
        let mut found = self.bind();
        for question in self.questions {
            found.extend(question.ask(limit));
        }
        found
    }

    /// In the order of a start, and all at once, so that two of them cannot have the same port.
    fn bind(&self) -> Vec<Finding> {
        let admin_options = alone(&self.listen.options);
        let admin = self.admin_addr.iter().map(|addr| (addr, &admin_options));
        let public = self.listen.addrs.iter();
        let public = public.map(|addr| (addr, &self.listen.options));
        let mut bound: Vec<Bound> = Vec::new();
        let mut found = Vec::new();
        for (addr, options) in admin.chain(public) {
            found.push(match addr.bind(options) {
                Ok(one) => {
                    bound.push(one);
                    Finding::Good(format!("can listen on {addr}"))
                }
                Err(error) => {
                    let addr = addr.clone();
                    let error = RunError::from(BindError::Listen(ListenError { addr, error }));
                    Finding::Error(error.to_string())
                }
            });
        }
        found
    }
}

/// Of the operators' pages: each process has pages of its own, and nobody shares their port.
pub(super) fn alone(options: &ListenOptions) -> ListenOptions {
    ListenOptions {
        reuse_port: false,
        ..options.clone()
    }
}

impl Question {
    /// `asked` names who is asked, in case that nothing comes back. `ask` runs on a thread of its
    /// own, and may block for as long as it likes.
    pub fn new(
        asked: impl Into<String>,
        ask: impl FnOnce() -> Vec<Finding> + Send + 'static,
    ) -> Self {
        Self {
            asked: asked.into(),
            ask: Box::new(ask),
        }
    }

    fn ask(self, limit: Duration) -> Vec<Finding> {
        let Self { asked, ask } = self;
        let (sender, findings) = sync_channel(1);
        let work = move || {
            let (found, notices) = notices::of(ask);
            // Nobody waits any more when this comes late.
            let _ = sender.send(notices.into_iter().chain(found).collect());
        };
        if let Err(error) = detached("question", work) {
            return vec![Finding::Error(format!("cannot ask {asked}: {error}"))];
        }
        findings.recv_timeout(limit).unwrap_or_else(|error| {
            let why = match error {
                RecvTimeoutError::Timeout => {
                    format!(
                        "no answer within {} ms (--{TIMEOUT_FLAG})",
                        limit.as_millis()
                    )
                }
                RecvTimeoutError::Disconnected => "the question ended in a panic".to_owned(),
            };
            vec![Finding::Error(format!("{asked}: {why}"))]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_without_an_answer_ends_with_its_time() {
        let question = Question::new("NATS", || {
            loop {
                std::thread::park();
            }
        });
        let found = question.ask(Duration::from_millis(10));
        let want = "NATS: no answer within 10 ms (--connect-timeout-ms)";
        assert_eq!(found, [Finding::Error(want.to_owned())]);
        let question = Question::new("NATS", || {
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
