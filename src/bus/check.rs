//! The check of names before a start: which names to ask the bus for, and the findings from its answers. Pure.

use std::collections::BTreeMap;

use weirgate_wire::base::Finding;

/// The most names that a check asks the bus about; a warning gives the number of the others.
const NAMES_MAX: usize = 1_000;
/// The most names in a line; a longer list is shown as a number.
const NAMES_SHOWN_MAX: usize = 20;

/// For whom a name is subscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NeededBy {
    /// The gateway needs it.
    Gateway,
    /// Clients may request it.
    Clients,
}

/// The names that a check before a start asks the bus about: first those that the gateway needs.
pub(crate) fn names_to_check<'a, T>(
    needed: &'a [T],
    requests: &'a [T],
) -> impl Iterator<Item = (&'a T, NeededBy)> {
    let needed = needed.iter().map(|name| (name, NeededBy::Gateway));
    let requests = requests.iter().map(|name| (name, NeededBy::Clients));
    needed.chain(requests).take(NAMES_MAX)
}

/// The answers of a bus in a check before a start.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// Clients get some of the names from a stream, without a subscription.
    pub(crate) has_stream: bool,
    granted: Vec<String>,
    /// The refused names, by who needs them, and by the words of the refusal.
    refused: BTreeMap<(NeededBy, String), Vec<String>>,
}

impl Answers {
    /// Records the answer for a name: granted, or the words of the refusal.
    pub(crate) fn record(&mut self, name: String, needed_by: NeededBy, answer: Result<(), String>) {
        let alike = match answer {
            Ok(()) => &mut self.granted,
            Err(words) => self.refused.entry((needed_by, words)).or_default(),
        };
        alike.push(name);
    }

    /// Adds the findings from the answers of `bus`. A refused name that clients may request is only a warning, because
    /// only clients that request it are affected. `needed` and `requests` are the numbers of all names, also of those
    /// that were not asked about.
    pub(crate) fn report(
        self,
        bus: &str,
        needed: usize,
        requests: usize,
        found: &mut Vec<Finding>,
    ) {
        for ((needed_by, words), names) in self.refused {
            let text = format!("may not subscribe to {}: {words}", list(&names));
            found.push(match needed_by {
                NeededBy::Clients => Finding::Warning(text),
                NeededBy::Gateway => Finding::Error(text),
            });
        }
        if !self.granted.is_empty() {
            let names = list(&self.granted);
            found.push(Finding::Good(format!("may subscribe to {names}")));
        } else if needed == 0 && requests > 0 && !self.has_stream {
            // A needed name that was refused is an error already, and clients that get names from a stream need no
            // subscription.
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

/// The names for a finding: all, or only their number.
pub(crate) fn list(names: &[String]) -> String {
    match names.len() {
        0..=NAMES_SHOWN_MAX => names.join(", "),
        number => format!("{number} names"),
    }
}
