//! Whether all processes together are ready, from their answers; pure.

use std::collections::BTreeSet;

use sonic_rs::{JsonContainerTrait, JsonValueMutTrait, JsonValueTrait, Value};

use super::core::Number;
use super::merge::merged;

/// What each process says of readiness. During a roll it says nothing about all: a new process has not reached the bus yet, and
/// an old one stops.
const OF_READINESS: [&str; 5] = ["ready", "reasons", "status", "behind", "stream_behind"];
/// The same in the member `bus`.
const OF_BUS: [&str; 6] = [
    "connected",
    "subscribed",
    "away_ms",
    "caught_up",
    "stream_behind",
    "stream_behind_ms",
];

/// The processes as the supervisor knows them.
#[derive(Clone, Debug, Default)]
pub(super) struct Roster {
    /// How many share the clients.
    pub(super) count: u32,
    /// Whether all of them stop.
    pub(super) is_stopping: bool,
    /// Those that stop.
    pub(super) stopping: BTreeSet<Number>,
}

/// The readiness of all.
#[derive(Debug, Default)]
pub(super) struct ReadinessOfAll {
    /// How many of the processes that share the clients are ready.
    pub(super) ready: u32,
    /// Whether all of these are ready, and no stop of all is under way.
    pub(super) is_all: bool,
    pub(super) reasons: BTreeSet<String>,
    /// The processes whose words count.
    in_use: BTreeSet<Number>,
}

impl Roster {
    /// Judges the answers. During a roll, a process and its replacement count as one: their numbers differ by `count`.
    /// Of the two, those that are ready count. If none is ready, those that do not stop count. If both stop, both
    /// count.
    pub(super) fn judge(&self, answers: &[(Number, Value)]) -> ReadinessOfAll {
        let mut found = ReadinessOfAll::default();
        for wanted in 1..=self.count {
            let both = answers
                .iter()
                .filter(|(number, _)| [wanted, wanted + self.count].contains(number));
            let ready = |(_, answer): &&(Number, Value)| answer.get("ready").is_true();
            let stays = |(number, _): &&(Number, Value)| !self.stopping.contains(number);
            let mut of_both: Vec<_> = both.clone().filter(ready).collect();
            found.ready += u32::from(!of_both.is_empty());
            for pick in [
                both.clone().filter(stays).collect(),
                both.collect::<Vec<_>>(),
            ] {
                if of_both.is_empty() {
                    of_both = pick;
                }
            }
            found
                .in_use
                .extend(of_both.iter().map(|(number, _)| number));
            let reasons = of_both
                .iter()
                .filter_map(|(_, answer)| answer.get("reasons")?.as_array());
            let words = reasons.flatten().filter_map(|word| word.as_str());
            found.reasons.extend(words.map(str::to_owned));
        }
        found.is_all = found.ready == self.count && !self.is_stopping;
        if !found.is_all && found.reasons.is_empty() {
            let word = match self.is_stopping {
                true => "draining",
                false => "process_missing",
            };
            found.reasons.insert(word.to_owned());
        }
        found
    }
}

impl ReadinessOfAll {
    /// A member of the answers whose words count, joined.
    pub(super) fn joined_member(&self, name: &str, answers: Vec<(Number, Value)>) -> Option<Value> {
        let in_use = answers
            .into_iter()
            .filter(|(number, _)| self.in_use.contains(number));
        merged(in_use.collect()).get(name).cloned()
    }

    /// Takes out of an answer what says nothing about all.
    pub(super) fn leave_out(&self, number: Number, answer: &mut Value) {
        if self.in_use.contains(&number) {
            return;
        }
        remove(answer, &OF_READINESS);
        if let Some(bus) = answer.get_mut("bus") {
            remove(bus, &OF_BUS);
        }
    }

    /// Sets the members about readiness of the joined answer `answer`.
    pub(super) fn complete(&self, count: u32, answer: &mut Value) {
        let Some(answer) = answer.as_object_mut() else {
            return;
        };
        answer.insert("ready", Value::from(self.is_all));
        answer.insert("processes", Value::from(count));
        answer.insert("processes_ready", Value::from(self.ready));
        if answer.get(&"reasons").is_some() {
            let reasons: Vec<&str> = self.reasons.iter().map(String::as_str).collect();
            answer.insert("reasons", Value::from(&reasons[..]));
        }
        if self.ready < count && answer.get(&"status").is_some() {
            let words = format!("Not ready: {} of {count} processes", count - self.ready);
            answer.insert("status", Value::from(words.as_str()));
        }
    }
}

fn remove(object: &mut Value, names: &[&str]) {
    if let Some(object) = object.as_object_mut() {
        for name in names {
            object.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use sonic_rs::json;

    use super::*;

    fn judged(stopping: &[Number], answers: Vec<(Number, Value)>) -> (bool, u32, Vec<String>) {
        let roster = Roster {
            count: 2,
            is_stopping: false,
            stopping: stopping.iter().copied().collect(),
        };
        let found = roster.judge(&answers);
        (
            found.is_all,
            found.ready,
            found.reasons.into_iter().collect(),
        )
    }

    #[test]
    fn during_a_roll_a_process_or_its_replacement_has_to_be_ready() {
        let ready = || json!({"ready": true, "reasons": []});
        let not = |reason: &str| json!({"ready": false, "reasons": [reason]});
        let none = Vec::<String>::new;
        let starting = vec![
            (1, ready()),
            (2, ready()),
            (3, not("starting")),
            (4, ready()),
        ];
        assert_eq!(judged(&[], starting), (true, 2, none()));
        let ending = vec![
            (1, not("draining")),
            (2, not("draining")),
            (3, ready()),
            (4, ready()),
        ];
        assert_eq!(judged(&[1, 2], ending), (true, 2, none()));
        let away = vec![
            (1, not("draining")),
            (2, not("draining")),
            (3, ready()),
            (4, not("bus_away")),
        ];
        let reasons = vec!["bus_away".to_owned()];
        assert_eq!(judged(&[1, 2], away), (false, 1, reasons));
        let reasons = vec!["process_missing".to_owned()];
        assert_eq!(judged(&[], vec![(1, ready())]), (false, 1, reasons));
    }

    #[test]
    fn what_a_process_says_that_is_not_in_use_is_left_out() {
        let roster = Roster {
            count: 1,
            stopping: [1].into(),
            ..Roster::default()
        };
        let page = |ready: bool| json!({"ready": ready, "reasons": [], "clients": 1, "bus": {"connected": ready, "reconnects": 1}});
        let mut answers = vec![(1, page(false)), (2, page(true))];
        let found = roster.judge(&answers);
        for (number, answer) in &mut answers {
            found.leave_out(*number, answer);
        }
        assert_eq!(
            answers[0].1,
            json!({"clients": 1, "bus": {"reconnects": 1}})
        );
        assert_eq!(answers[1].1, page(true));
    }
}
