//! The commands that were sent together, and their answers. Around the others, a round may ask what the server has executed:
//! what the other answers say was then seen between the two. Pure.

use std::vec;

use super::super::prints::EntryPrint;
use super::executed::{ASK_EXECUTED, Executed, ExecutedAround};
use crate::redis::resp::Value;

/// An answer, with the number of its bytes.
pub(super) type Answer = (Value, usize);

/// The last commands, and those of their answers that have come.
#[derive(Debug, Default)]
pub(super) struct CommandRound {
    /// The entry that the answers are about: the last one that was read when the commands were made, or the last one before a
    /// loss.
    pub(super) asked_about: Option<EntryPrint>,
    /// Whether the round begins and ends with the questions for what the server has executed.
    asks_executed: bool,
    /// The number of missing answers.
    missing: usize,
    answers: Vec<Answer>,
    /// When the last whole round was answered, Unix milliseconds; 0 before the first one.
    answered_ms: u64,
    /// When what the server has executed was last asked for, Unix milliseconds.
    executed_asked_ms: u64,
}

/// The answers of a round.
pub(super) struct RoundAnswers {
    rest: vec::IntoIter<Answer>,
    pub(super) executed: ExecutedAround,
    /// When the answers of the round before had come: what is missing in these may have come at any time since. Unix
    /// milliseconds.
    pub(super) before_ms: u64,
    /// When these have come, Unix milliseconds.
    pub(super) now_ms: u64,
}

impl CommandRound {
    /// Handles a new connection, on which no answer will come to these commands.
    pub(super) fn connected(&mut self) {
        self.missing = 0;
        self.answers.clear();
        self.asks_executed = false;
    }

    /// Begins a round. Returns its commands.
    pub(super) fn begin(
        &mut self,
        mut commands: Vec<Vec<String>>,
        asked_about: Option<EntryPrint>,
        asks_executed: bool,
    ) -> Vec<Vec<String>> {
        (self.asked_about, self.asks_executed) = (asked_about, asks_executed);
        if asks_executed {
            let executed = ASK_EXECUTED.map(words);
            commands.splice(0..0, executed.clone());
            commands.extend(executed);
        }
        self.missing = commands.len();
        commands
    }

    /// Whether answers are missing.
    pub(super) fn waits(&self) -> bool {
        self.missing > 0
    }

    /// Whether no answer has come yet.
    pub(super) fn is_first_next(&self) -> bool {
        self.answers.is_empty()
    }

    /// When the last whole round was answered, Unix milliseconds.
    pub(super) fn answered_ms(&self) -> u64 {
        self.answered_ms
    }

    /// How long before the last answers what the server has executed was asked for, milliseconds.
    pub(super) fn executed_age_ms(&self) -> u64 {
        self.answered_ms.abs_diff(self.executed_asked_ms)
    }

    /// Takes an answer. Returns all of the round with the last one.
    pub(super) fn take(&mut self, answer: Answer, now_ms: u64) -> Option<RoundAnswers> {
        self.answers.push(answer);
        self.missing = self.missing.saturating_sub(1);
        if self.missing > 0 {
            return None;
        }
        let before_ms = std::mem::replace(&mut self.answered_ms, now_ms);
        let mut answers = std::mem::take(&mut self.answers);
        let executed = self.take_executed(&mut answers);
        Some(RoundAnswers {
            rest: answers.into_iter(),
            executed,
            // 0: these are the first answers.
            before_ms: if before_ms == 0 { now_ms } else { before_ms },
            now_ms,
        })
    }

    /// Takes the answers about what the server had executed out of those of the round.
    fn take_executed(&mut self, answers: &mut Vec<Answer>) -> ExecutedAround {
        const ASKED: usize = ASK_EXECUTED.len();
        if !self.asks_executed || answers.len() < 2 * ASKED {
            return ExecutedAround::default();
        }
        self.executed_asked_ms = self.answered_ms;
        let after = answers.split_off(answers.len() - ASKED);
        let before: Vec<_> = answers.drain(..ASKED).collect();
        let read = |info: &[Answer]| Executed::read(&info[0].0, &info[1].0);
        ExecutedAround {
            before: read(&before),
            after: read(&after),
        }
    }
}

impl RoundAnswers {
    /// The next answer, if one is left.
    pub(super) fn next(&mut self) -> Option<Answer> {
        self.rest.next()
    }

    /// The next answer; the nil value if none is left.
    pub(super) fn next_or_nil(&mut self) -> Answer {
        self.next().unwrap_or((Value::Nil, 0))
    }
}

/// A command of these words.
pub(super) fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_together_and_without_what_was_executed() {
        let mut round = CommandRound::default();
        let commands = round.begin(vec![words(["XRANGE"])], None, true);
        assert_eq!(commands.len(), 5);
        assert_eq!(
            (&commands[1], &commands[4]),
            (&words(["INFO", "stats"]), &commands[1])
        );
        for number in 0..4 {
            assert!(round.take((Value::Integer(number), 1), 7).is_none());
        }
        let mut answers = round.take((Value::Integer(4), 1), 7).expect("the last one");
        assert_eq!(
            (answers.before_ms, answers.now_ms),
            (7, 7),
            "the first round"
        );
        assert_eq!(answers.next_or_nil(), (Value::Integer(2), 1));
        assert_eq!(answers.next_or_nil(), (Value::Nil, 0));
        assert!(!round.waits());
    }
}
