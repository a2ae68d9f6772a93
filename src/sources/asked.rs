//! The names in the questions of a check before a start, and the findings from the answers of the bus.

use std::collections::BTreeMap;

use crate::base::Finding;

/// The most names in the questions; a warning gives the number of the others.
const NAMES_MAX: usize = 1_000;
/// The most names in a line; a longer list is shown as a number.
const NAMES_SHOWN_MAX: usize = 20;

/// The names to ask for: the needs of the gateway, and the requests of clients, each with whether the name is a
/// request.
pub(super) fn to_ask<'a, T>(
    needed: &'a [T],
    requests: &'a [T],
) -> impl Iterator<Item = (&'a T, bool)> {
    let needed = needed.iter().map(|name| (name, false));
    let requests = requests.iter().map(|name| (name, true));
    needed.chain(requests).take(NAMES_MAX)
}

/// The answers of a bus.
#[derive(Debug, Default)]
pub(super) struct Answers {
    granted: Vec<String>,
    /// The names, by whether they are requests and by the words of the refusal.
    refused: BTreeMap<(bool, String), Vec<String>>,
}

impl Answers {
    /// Handles the answer to a name: granted, or the words of the refusal.
    pub(super) fn take(&mut self, name: String, is_request: bool, answer: Result<(), String>) {
        let alike = match answer {
            Ok(()) => &mut self.granted,
            Err(words) => self.refused.entry((is_request, words)).or_default(),
        };
        alike.push(name);
    }

    /// Adds findings for the answers of `bus`: a refused request concerns only the clients with this request.
    /// `needed` and `requests` are the numbers of all names, also of names without a question.
    pub(super) fn report(
        self,
        bus: &str,
        needed: usize,
        requests: usize,
        found: &mut Vec<Finding>,
    ) {
        for ((is_request, words), names) in self.refused {
            let text = format!("may not subscribe to {}: {words}", list(&names));
            found.push(match is_request {
                true => Finding::Warning(text),
                false => Finding::Error(text),
            });
        }
        if !self.granted.is_empty() {
            let names = list(&self.granted);
            found.push(Finding::Good(format!("may subscribe to {names}")));
        } else if needed == 0 && requests > 0 {
            let text =
                format!("{bus} lets this user subscribe to nothing that clients may ask for");
            found.push(Finding::Error(text));
        }
        let more = (needed + requests).saturating_sub(NAMES_MAX);
        if more > 0 {
            let text = format!("{more} more names were not asked for");
            found.push(Finding::Warning(text));
        }
    }
}

fn list(names: &[String]) -> String {
    match names.len() {
        0..=NAMES_SHOWN_MAX => names.join(", "),
        number => format!("{number} names"),
    }
}
