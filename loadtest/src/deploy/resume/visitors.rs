//! Clients that keep a position and resume from there, by the rules for clients of the gateways.

use std::sync::Arc;

use super::figures::Figures;
use super::heard::{self, Data, Heard, What};
use super::seen::{Note, Seen};
use super::topics::Topics;
use crate::deploy::Gateway;
use crate::fleet::Talk;

/// Longest position, bytes.
const POS_BYTES_MAX: usize = 64;

/// All clients.
pub(super) struct Visitors {
    gateway: Gateway,
    topics: Arc<Topics>,
    all: Vec<Visitor>,
    /// Counts since the last [`Visitors::take`].
    figures: Figures,
}

/// A client, over all its connections.
struct Visitor {
    entries: Vec<Entry>,
    /// The entries were granted on an earlier connection.
    granted: bool,
    pos: Option<String>,
    /// The request without a response on this connection.
    asked: Option<Asked>,
    /// The highest number of all names.
    newest_all: u64,
    /// The last connection was cut, and the first message after the resume is not here yet.
    away: Option<Away>,
    /// How the connection began, for the evidence of a fault.
    began: String,
}

/// A name or a pattern that the client asks for, with its topics.
struct Entry {
    name: String,
    topics: Vec<(usize, Seen)>,
}

/// The kinds of subscribe request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// For the first time, or again without a position.
    New,
    /// With the position: until the response, the position does not move.
    Since,
}

/// The common state during a message to a client.
struct World<'a> {
    /// The number of the client.
    client: usize,
    topics: &'a Topics,
    figures: &'a mut Figures,
}

/// The time without messages.
#[derive(Clone, Copy, Debug)]
struct Away {
    /// End of the first connection that was cut.
    cut_us: u64,
    /// The response to the resume is here.
    answered: bool,
}

impl Visitors {
    /// `clients` clients, not connected yet.
    pub(super) fn new(gateway: Gateway, topics: Arc<Topics>, clients: usize) -> Self {
        Self {
            gateway,
            all: (0..clients).map(|n| Visitor::new(&topics, n)).collect(),
            topics,
            figures: Figures::default(),
        }
    }

    /// Clients with all entries granted on the current connection, and messages again where messages
    /// are frequent.
    pub(super) fn settled(&self) -> usize {
        let is_settled = |v: &&Visitor| v.granted && v.asked.is_none() && v.away.is_none();
        self.all.iter().filter(is_settled).count()
    }

    /// Whether every client has the newest message of each of its names.
    pub(super) fn are_up_to_date(&self) -> bool {
        let mut all = self.all.iter().flat_map(Visitor::seen);
        all.all(|(topic, seen)| seen.newest() >= self.topics.published(*topic))
    }

    /// Counts messages that have not come by the end of a run.
    pub(super) fn end(&mut self) {
        for (number, visitor) in self.all.iter_mut().enumerate() {
            let entries = visitor.entries.iter_mut();
            for (topic, seen) in entries.flat_map(|entry| &mut entry.topics) {
                let note = seen.end(self.topics.published(*topic));
                if let Some(fault) = fault(&note) {
                    let name = self.topics.name(*topic);
                    let text = || format!("client {number}, {name}, at the end: {fault}");
                    self.figures.evidence(text);
                }
            }
        }
    }

    /// The counts since the last call. Lost messages are those of the whole run.
    pub(super) fn take(&mut self) -> Figures {
        let seen = || self.all.iter().flat_map(Visitor::seen);
        let lost = seen().map(|(_, seen)| seen.lost()).sum();
        let told = seen().map(|(_, seen)| seen.told()).sum();
        Figures {
            lost,
            told,
            ..std::mem::take(&mut self.figures)
        }
    }
}

impl Visitor {
    fn new(topics: &Topics, number: usize) -> Self {
        let entry = |name: String| Entry {
            topics: topics
                .of_entry(&name)
                .into_iter()
                .map(|t| (t, Seen::default()))
                .collect(),
            name,
        };
        Self {
            entries: topics.entries(number).into_iter().map(entry).collect(),
            granted: false,
            pos: None,
            asked: None,
            newest_all: 0,
            away: None,
            began: String::new(),
        }
    }

    fn seen(&self) -> impl Iterator<Item = &(usize, Seen)> {
        self.entries.iter().flat_map(|entry| &entry.topics)
    }

    /// Whether the next message after a resume comes soon.
    fn has_busy_names(&self) -> bool {
        self.seen().any(|(topic, _)| Topics::is_busy(*topic))
    }

    /// Takes a message; returns false for a message that the client did not ask for.
    fn heard(&mut self, heard: Heard, now_us: u64, world: &mut World<'_>) -> bool {
        let Heard { pos, what } = heard;
        if let What::Granted { entries, resumed } = what {
            let was_asked = self.asked.is_some();
            self.granted(&resumed, pos, world);
            self.answered(now_us, world.figures);
            return was_asked && self.entries.iter().all(|e| entries.contains(&e.name));
        }
        if pos.is_some() && self.asked != Some(Asked::Since) {
            self.pos = pos;
        }
        match what {
            What::Data(data) => {
                self.is_back(now_us, world.figures);
                self.data(&data, world)
            }
            What::Status { good } => {
                world.figures.bus_away += u64::from(!good);
                true
            }
            What::Other => true,
            What::Granted { .. } | What::Strange => false,
        }
    }

    /// Takes the response to the request of this connection.
    fn granted(
        &mut self,
        resumed: &[(String, Option<String>)],
        pos: Option<String>,
        world: &mut World<'_>,
    ) {
        let asked = self.asked.take();
        if !std::mem::replace(&mut self.granted, true) {
            self.pos = pos;
            return;
        }
        self.began = format!("{}, answered {resumed:?}", self.began);
        let of = |name: &str| resumed.iter().find(|(entry, _)| entry == name);
        let whys: Vec<_> = self
            .entries
            .iter()
            .map(|entry| match (asked, of(&entry.name)) {
                (Some(Asked::Since), Some((_, why))) => why.as_deref(),
                (Some(Asked::Since), None) => Some("no response to since"),
                _ => Some("no position"),
            })
            .collect();
        for (entry, _) in self
            .entries
            .iter_mut()
            .zip(&whys)
            .filter(|(_, why)| why.is_some())
        {
            entry.tell(world.topics);
        }
        // A recovered name continues from the old position. Otherwise the response decides.
        if pos.is_some() || whys.iter().all(Option::is_some) {
            self.pos = pos;
        }
        world.figures.resumed(whys.into_iter().flatten());
    }

    /// Counts a published message; returns false if the client did not ask for this message.
    fn data(&mut self, data: &Data, world: &mut World<'_>) -> bool {
        let entry = self.entries.iter_mut().find(|e| e.name == data.entry);
        let topic = world.topics.find(&data.name);
        let seen = entry.and_then(|e| e.topics.iter_mut().find(|(of, _)| Some(*of) == topic));
        let Some((_, seen)) = seen else { return false };
        let note = seen.message(data.n);
        let is_old = data.all < self.newest_all;
        self.newest_all = self.newest_all.max(data.all);
        let fault = match note {
            Note::Next if is_old => Some("behind newer messages of other names".into()),
            _ => fault(&note),
        };
        world.figures.double += u64::from(note == Note::Double);
        world.figures.disordered += u64::from(is_old && note != Note::Double);
        if let Some(fault) = fault {
            let (client, began) = (world.client, &self.began);
            let text = || format!("client {client}, {data:?}: {fault}; the connection: {began}");
            world.figures.evidence(text);
        }
        true
    }

    /// Notes the response: clients of quiet names alone wait for no message.
    fn answered(&mut self, now_us: u64, figures: &mut Figures) {
        if let Some(away) = &mut self.away {
            away.answered = true;
        }
        if !self.has_busy_names() {
            self.is_back(now_us, figures);
        }
    }

    /// Notes that messages come again.
    fn is_back(&mut self, now_us: u64, figures: &mut Figures) {
        if let Some(away) = self.away.take_if(|away| away.answered) {
            figures.gaps_us.push(now_us.saturating_sub(away.cut_us));
        }
    }
}

impl Entry {
    /// Notes that the server told of a possible loss.
    fn tell(&mut self, topics: &Topics) {
        for (topic, seen) in &mut self.topics {
            seen.tell(topics.published(*topic));
        }
    }
}

impl Talk for Visitors {
    fn opened(&mut self, client: usize) -> Option<String> {
        let visitor = &mut self.all[client];
        let since = visitor.pos.as_deref().filter(|_| visitor.granted);
        visitor.asked = Some(since.map_or(Asked::New, |_| Asked::Since));
        visitor.began = format!("since {since:?}");
        let names: Vec<_> = visitor.entries.iter().map(|e| e.name.clone()).collect();
        Some(heard::subscribe(self.gateway, &names, since))
    }

    fn heard(&mut self, client: usize, text: &[u8], now_us: u64) -> Option<String> {
        let heard = heard::read(self.gateway, text);
        let is_good = heard.pos.as_deref().is_none_or(is_position);
        let mut world = World {
            client,
            topics: &self.topics,
            figures: &mut self.figures,
        };
        let is_expected = self.all[client].heard(heard, now_us, &mut world);
        if !(is_good && is_expected) {
            self.figures.strange += 1;
            let text = String::from_utf8_lossy(text);
            let text = || format!("client {client} did not expect: {text}");
            self.figures.evidence(text);
        }
        None
    }

    fn cut(&mut self, client: usize, now_us: u64) {
        let visitor = &mut self.all[client];
        let cut_us = visitor.away.map_or(now_us, |away| away.cut_us);
        visitor.away = Some(Away {
            cut_us,
            answered: false,
        });
        visitor.asked = None;
        visitor.began.clear();
        self.figures.cuts += 1;
    }
}

/// The fault that a message shows, if any.
fn fault(note: &Note) -> Option<String> {
    match *note {
        Note::Next | Note::Skips { lost: 0, .. } => None,
        Note::Skips { from, to, .. } => Some(format!("{from} to {to} missing")),
        Note::Late => Some("behind newer messages".into()),
        Note::Double => Some("double".into()),
    }
}

/// Whether a text is a position in the form of the protocol.
fn is_position(pos: &str) -> bool {
    let is_part = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'z' | b'.');
    (1..=POS_BYTES_MAX).contains(&pos.len()) && pos.bytes().all(is_part)
}

#[cfg(test)]
mod tests;
