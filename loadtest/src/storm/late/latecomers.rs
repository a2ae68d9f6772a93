//! The clients that come late, and what each of them got.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use serde_json::Value;

use super::LateArgs;
use super::feed::Feed;
use crate::clock;
use crate::fault::Fault;
use crate::fleet::{Fleet, Kind, Talk, Target};
use crate::stamp;

/// Pause between two groups of clients.
const GROUP_US: u64 = 10_000;
/// Longest wait until the feed has had the messages that the clients missed.
const MOMENT_US: u64 = 120_000_000;
/// Longest wait until all clients are up to date.
const WHOLE_US: u64 = 60_000_000;
/// Messages that each client gets after all are up to date: they show that nothing is missing between.
const LIVE: u64 = 20;
/// Most texts of evidence.
const EVIDENCE_MAX: usize = 5;
/// The client that was there before, and knows where the others left.
const SCOUT: usize = 0;

/// The result.
#[derive(Debug, Serialize)]
pub(super) struct Story {
    /// From the first connect to the last response, seconds.
    pub(super) answered_s: f64,
    /// From the first connect until the last client was up to date, seconds.
    pub(super) whole_s: f64,
    /// Messages that followed the responses, over all clients.
    pub(super) replayed: u64,
    /// Clients without a response, or with a response that something is missing.
    pub(super) refused: u64,
    /// Clients with a hole, a message twice or in the wrong place, or without newer messages.
    pub(super) wrong: u64,
    /// Connections that ended.
    pub(super) closed: u64,
    /// The first faults.
    pub(super) evidence: Vec<String>,
}

/// The clients.
pub(super) struct Latecomers<'a> {
    a: &'a LateArgs,
    feed: &'a Feed,
    fleet: Fleet,
    heard: Rc<RefCell<Heard>>,
}

/// What all clients heard.
struct Heard {
    feed: Feed,
    last: Option<u64>,
    /// The position at which the clients left, and the number of its message.
    left: Option<(String, u64)>,
    /// Messages until the clients leave, so that the feed alone is measured long enough.
    stay: u64,
    clients: Vec<Client>,
    /// The newest message of the scout.
    newest: u64,
    evidence: Vec<String>,
}

/// What a client heard.
#[derive(Default)]
struct Client {
    /// The newest message of the scout when the client asked.
    asked: u64,
    /// The numbers of the messages, in order of arrival.
    got: Vec<u64>,
    /// Time of the response, if nothing is missing by the response.
    answered_us: Option<u64>,
    /// Time at which the client had the newest message.
    whole_us: Option<u64>,
    /// Messages until then.
    replayed: u64,
    /// The response said that something is missing: nothing is worth waiting for.
    is_refused: bool,
}

impl<'a> Latecomers<'a> {
    pub(super) fn new(
        a: &'a LateArgs,
        feed: &'a Feed,
        target: Target,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self, Fault> {
        let heard = Heard {
            feed: feed.clone(),
            last: a.last,
            left: None,
            stay: a.quiet_messages().saturating_sub(a.missed),
            clients: (0..=a.clients).map(|_| Client::default()).collect(),
            newest: 0,
            evidence: Vec::new(),
        };
        let heard = Rc::new(RefCell::new(heard));
        let mut fleet = Fleet::new(target, Arc::clone(stop))?;
        fleet.talk(Rc::clone(&heard) as _);
        Ok(Self {
            a,
            feed,
            fleet,
            heard,
        })
    }

    /// Waits until the feed has had as many messages as the clients missed, or for the quiet time.
    pub(super) fn wait_for_the_moment(&mut self) -> Result<(), Fault> {
        self.fleet.open(Kind::Reader, 1)?;
        let missed = match self.a.last {
            Some(_) => self.a.quiet_messages(),
            None => self.a.missed,
        };
        let is_here = |heard: &Heard| {
            let left = heard.left.as_ref();
            left.is_some_and(|(_, n)| heard.newest >= n + missed)
        };
        let heard = Rc::clone(&self.heard);
        if !self.fleet.run(MOMENT_US, |_| is_here(&heard.borrow()))? {
            return Err(Fault::Server(format!(
                "the feed does not come, or has no positions: {:?}",
                heard.borrow().evidence
            )));
        }
        Ok(())
    }

    /// Lets all clients come, and judges what they got.
    pub(super) fn come(mut self) -> Result<Story, Fault> {
        let began_us = clock::now_us();
        let groups = (clock::seconds_us(self.a.within) / GROUP_US).max(1) as usize;
        for group in 0..groups {
            let due_us = began_us + group as u64 * GROUP_US;
            self.fleet.run_until(due_us)?;
            let of = |group: usize| self.a.clients * group / groups;
            self.fleet.open(Kind::Reader, of(group + 1) - of(group))?;
        }
        let heard = Rc::clone(&self.heard);
        self.fleet.run(WHOLE_US, |_| heard.borrow().are_whole())?;
        let live = heard.borrow().newest + LIVE;
        let all_have = |heard: &Heard| heard.late().all(|c| c.got.last() >= Some(&live));
        let wait_us = clock::seconds_us(5.0 + 2.0 * LIVE as f64 / self.a.rate);
        self.fleet.run(wait_us, |_| all_have(&heard.borrow()))?;
        let closed = self.fleet.readers.ends.values().sum();
        self.fleet.close();
        let mut heard = heard.borrow_mut();
        Ok(heard.judged(self.feed, began_us, live, closed))
    }
}

impl Heard {
    /// The late clients, without the scout.
    fn late(&self) -> impl Iterator<Item = &Client> {
        self.clients[SCOUT + 1..].iter()
    }

    fn are_whole(&self) -> bool {
        let mut late = self.late();
        late.all(|client| client.whole_us.is_some() || client.is_refused)
    }

    fn evidence(&mut self, text: String) {
        if self.evidence.len() < EVIDENCE_MAX {
            self.evidence.push(text);
        }
    }

    fn judged(&mut self, feed: &Feed, began_us: u64, live: u64, closed: u64) -> Story {
        let after = |of: fn(&Client) -> Option<u64>| {
            let all: Option<Vec<_>> = self.late().map(of).collect();
            let last = all.into_iter().flatten().max();
            last.map_or(f64::INFINITY, |us| us.saturating_sub(began_us) as f64 / 1e6)
        };
        let (answered_s, whole_s) = (after(|c| c.answered_us), after(|c| c.whole_us));
        let refused = self.late().filter(|c| c.answered_us.is_none()).count() as u64;
        let left = self.left.as_ref().map_or(0, |(_, n)| *n);
        let (mut replayed, mut wrong) = (0, Vec::new());
        for (number, client) in self.late().enumerate() {
            let judged = match self.last {
                None => follows(&client.got, left),
                Some(last) => is_picture(&client.got, last, feed, client.asked, live),
            };
            replayed += client.replayed;
            match judged {
                Ok(()) if client.got.last() >= Some(&live) => {}
                Ok(()) => wrong.push(format!("client {number} has nothing newer than {live}")),
                Err(why) => wrong.push(format!("client {number}: {why}")),
            }
        }
        let count = wrong.len() as u64;
        wrong.into_iter().for_each(|text| self.evidence(text));
        Story {
            answered_s,
            whole_s,
            replayed,
            refused,
            wrong: count,
            closed,
            evidence: std::mem::take(&mut self.evidence),
        }
    }
}

/// Whether the messages are all after message `left`.
fn follows(got: &[u64], left: u64) -> Result<(), String> {
    for (n, wanted) in got.iter().zip(left + 1..) {
        if *n != wanted {
            return Err(format!("message {n} in place of {wanted}"));
        }
    }
    Ok(())
}

/// Whether each name has its newest `last` messages of some moment between `asked` and `live`, and all after
/// it until `live`. The moment is the name's own: a request of many names is answered over several turns.
fn is_picture(got: &[u64], last: u64, feed: &Feed, asked: u64, live: u64) -> Result<(), String> {
    let newest = got.iter().max().map_or(live, |n| live.max(*n));
    let published = feed.by_topic(1..=newest);
    let heard = feed.by_topic(got.iter().copied());
    for (published, heard) in published.iter().zip(&heard) {
        let until = |moment: u64| published.partition_point(|n| *n <= moment);
        let begins = |moment: u64| until(moment).saturating_sub(last as usize);
        let first = heard.first().copied().unwrap_or(0);
        let begin = until(first.saturating_sub(1));
        if !(begins(asked)..=begins(live)).contains(&begin) {
            return Err(format!("message {first} is the first of its name"));
        }
        let mut wanted = published[begin..].iter();
        for n in heard {
            match wanted.next() {
                Some(wanted) if wanted == n => {}
                Some(wanted) => return Err(format!("message {n} in place of {wanted}")),
                None => return Err(format!("message {n} after the newest")),
            }
        }
        if let Some(missing) = wanted.next().filter(|n| **n <= live) {
            return Err(format!("message {missing} is missing"));
        }
    }
    Ok(())
}

impl Talk for Heard {
    fn opened(&mut self, client: usize) -> Option<String> {
        self.clients[client].asked = self.newest;
        let since = self.left.as_ref().map(|(pos, _)| pos.as_str());
        Some(match (client, self.last) {
            (SCOUT, _) => self.feed.request(None, None),
            (_, None) => self.feed.request(since, None),
            (_, last) => self.feed.request(None, last),
        })
    }

    fn heard(&mut self, client: usize, text: &[u8], now_us: u64) -> Option<String> {
        let Some(stamp) = stamp::find(text) else {
            self.answer(client, text, now_us);
            return None;
        };
        if client == SCOUT {
            self.newest = stamp.n;
            if self.left.is_none() && self.stay == 0 {
                self.left = position(text).map(|pos| (pos, stamp.n));
            }
            self.stay = self.stay.saturating_sub(1);
            return None;
        }
        let newest = self.newest;
        let client = &mut self.clients[client];
        client.got.push(stamp.n);
        if client.whole_us.is_none() && client.answered_us.is_some() && stamp.n >= newest {
            client.whole_us = Some(now_us);
            client.replayed = client.got.len() as u64;
        }
        None
    }

    fn cut(&mut self, _client: usize, _now_us: u64) {}
}

impl Heard {
    /// Takes a text without a stamp: the welcome, the response, a status, or an error.
    fn answer(&mut self, client: usize, text: &[u8], now_us: u64) {
        let is_new = self.last.is_some() || client == SCOUT;
        let is_whole = match serde_json::from_slice(text) {
            Ok(message) => is_whole(&message, is_new),
            // The start of a long response: the messages after it say what it says.
            Err(_) => text.starts_with(br#"{"type":"subscribed""#).then_some(true),
        };
        match is_whole {
            Some(true) => self.clients[client].answered_us = Some(now_us),
            Some(false) => {
                self.clients[client].is_refused = true;
                let text = String::from_utf8_lossy(text).into_owned();
                self.evidence(format!("client {client}: {text}"));
            }
            None => {}
        }
    }
}

/// Whether a response grants everything with nothing missing; `None` for other messages.
fn is_whole(message: &Value, is_new: bool) -> Option<bool> {
    let answer = match message["type"].as_str() {
        Some("success") if message["data"]["subscribed"].is_array() => &message["data"],
        Some("subscribed") => message,
        Some("error") => return Some(false),
        _ => return None,
    };
    let is_granted = message["errors"].as_array().is_none_or(Vec::is_empty);
    let recovered = match &answer["recovered"] {
        Value::Object(names) => names.values().all(|value| value == true),
        other => other == true,
    };
    Some(is_granted && (is_new || recovered))
}

/// The position of a message: its last member.
fn position(text: &[u8]) -> Option<String> {
    let message: Value = serde_json::from_slice(text).ok()?;
    message["pos"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_and_a_message_twice_are_seen() {
        assert_eq!(follows(&[5, 6, 7], 4), Ok(()));
        assert_eq!(follows(&[], 4), Ok(()));
        for wrong in [&[6, 7][..], &[5, 7], &[5, 5, 6], &[5, 7, 6], &[4, 5]] {
            assert!(follows(wrong, 4).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_picture_is_the_newest_of_each_name_and_everything_after() {
        // Of 5 names: 6, 8 and 10 are of the names 3, 4 and 0, and 7, 9 and 11 of 3, 4 and 0.
        let feed = Feed::of_trades(1);
        let judged = |got: &[u64], live| is_picture(got, 1, &feed, 11, live);
        let picture = feed.newest(11, 1);
        assert_eq!(judged(&picture, 11), Ok(()));
        let live = [&picture[..], &[12, 13]].concat();
        assert_eq!(judged(&live, 13), Ok(()));
        let hole = [&picture[..], &[13]].concat();
        let twice = [&picture[..], &[11, 12, 13]].concat();
        let old = [&[1, 2, 3, 4][..], &[11, 12, 13]].concat();
        for wrong in [hole, twice, old, picture[1..].to_vec(), vec![]] {
            assert!(judged(&wrong, 13).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_names_of_a_picture_may_have_moments_of_their_own() {
        let feed = Feed::of_trades(1);
        for second in 12..=40 {
            // The first two names are found at message 11, the others later, with messages of the first between.
            let of = |n: &u64, first: bool| (feed.topic(*n) < 2) == first;
            let live = (12..=second).filter(|n| of(n, true));
            let first = feed.newest(11, 1).into_iter().filter(|n| of(n, true));
            let later = feed.newest(second, 1).into_iter().filter(|n| of(n, false));
            let got: Vec<_> = first
                .chain(live)
                .chain(later)
                .chain(second + 1..=45)
                .collect();
            assert_eq!(is_picture(&got, 1, &feed, 11, 45), Ok(()), "{second}");
            for left_out in 0..got.len() {
                let mut hole = got.clone();
                let n = hole.remove(left_out);
                let is_first = !got[..left_out]
                    .iter()
                    .any(|m| feed.topic(*m) == feed.topic(n));
                // Without its first message a name has another moment, which may be as good.
                assert!(
                    is_first || is_picture(&hole, 1, &feed, 11, 45).is_err(),
                    "{n}"
                );
            }
        }
    }

    #[test]
    fn only_a_response_with_all_names_recovered_is_whole() {
        let whole =
            |text: &str, is_new| is_whole(&serde_json::from_str(text).expect("JSON"), is_new);
        let trades =
            |more: &str| format!(r#"{{"type":"success","data":{{"subscribed":["A"]{more}}}}}"#);
        assert_eq!(whole(&trades(""), true), Some(true));
        assert_eq!(whole(&trades(""), false), Some(false));
        assert_eq!(whole(&trades(r#","recovered":true"#), false), Some(true));
        assert_eq!(whole(&trades(r#","recovered":false"#), false), Some(false));
        let channels = |more: &str| format!(r#"{{"type":"subscribed","errors":[]{more}}}"#);
        let both = r#","recovered":{"a":true,"b":true}"#;
        let one = r#","recovered":{"a":true,"b":false}"#;
        assert_eq!(whole(&channels(both), false), Some(true));
        assert_eq!(whole(&channels(one), false), Some(false));
        assert_eq!(
            whole(r#"{"type":"subscribed","errors":["no"]}"#, true),
            Some(false)
        );
        assert_eq!(whole(r#"{"type":"connected"}"#, true), None);
        assert_eq!(whole(r#"{"type":"status","bus":"up"}"#, true), None);
    }
}
