//! A client that follows the rules of the protocol, and the model of what has to come to it.
//!
//! The model knows no position's meaning. It knows which messages were published, and by name which of
//! them the client has seen or was told that it lost.

use std::collections::{BTreeMap, VecDeque};

use weirgate_core::{CopyPosition, Point, SessionKey};

use super::contract::{Contract, KeptEvent, Outcomes, What};
use super::instance::Tag;
use super::redis::Redis;

/// What the client knows of a name.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Track {
    /// Messages below have come, or are from before the subscription.
    from: usize,
    /// The client was told that messages below may be lost.
    excused: usize,
    /// Missed messages that follow the answer, all of them: from here, and up to there.
    replay: (usize, usize),
    /// The instance had the messages below when the request came. What it skips behind them it does not know yet, so it says
    /// later that they are lost, as to any client; no position is given until then.
    asked: usize,
    /// Messages below were not recovered, and must not come on this connection.
    floor: usize,
    /// Whether the name has a place in the feed on this instance.
    is_promised: bool,
    /// Messages below have come, or were told lost, by the client's position: others come again after it.
    placed: usize,
    /// What a stream has lost below may come, perhaps again: the position may have gone back to what is left
    /// of the stream, and another instance may not know of the loss.
    may_repeat: usize,
}

/// A position with what had come by then: a client that was copied, or has restored a page.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    pos: String,
    tracks: BTreeMap<String, Track>,
}

/// A request without an answer.
#[derive(Debug)]
struct Asked {
    names: Vec<String>,
    has_since: bool,
    tag: Tag,
}

/// What a client has met.
#[derive(Debug, Default)]
pub(crate) struct Met {
    pub(crate) recovered: u64,
    pub(crate) replayed: u64,
    pub(crate) live: u64,
    pub(crate) why: BTreeMap<String, u64>,
    pub(crate) losses_told: u64,
}

/// A connection of a client.
#[derive(Debug)]
pub(crate) struct At {
    pub(crate) instance: usize,
    pub(crate) key: SessionKey,
    pub(crate) is_slow: bool,
    /// What has come to the client's kernel and was not looked at.
    inbox: VecDeque<(String, Tag)>,
    asked: VecDeque<Asked>,
    seq: u64,
    /// The client was told of a loss, and has no position from behind the loss.
    has_lost: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) at: Option<At>,
    /// Granted names.
    pub(crate) tracks: BTreeMap<String, Track>,
    pub(crate) pos: Option<String>,
    pub(crate) saved: Option<Saved>,
    pub(crate) met: Met,
}

impl Client {
    pub(crate) fn connected(&mut self, instance: usize, key: SessionKey, is_slow: bool) {
        self.at = Some(At {
            instance,
            key,
            is_slow,
            inbox: VecDeque::new(),
            asked: VecDeque::new(),
            seq: 0,
            has_lost: false,
        });
        for track in self.tracks.values_mut() {
            (track.floor, track.is_promised) = (0, false);
            track.from = track.placed;
        }
    }

    /// Keeps the position and what had come by then.
    pub(crate) fn save(&mut self) {
        let is_settled = self.at.as_ref().is_none_or(|at| at.asked.is_empty());
        if let Some(pos) = self.pos.clone().filter(|_| is_settled) {
            let tracks = self.tracks.clone();
            self.saved = Some(Saved { pos, tracks });
        }
    }

    /// Goes back to the saved position.
    pub(crate) fn restore(&mut self) {
        if let Some(saved) = self.saved.take() {
            self.pos = Some(saved.pos);
            self.tracks = saved.tracks;
        }
    }

    /// Notes a request. Without `since` the names are live from now on, and nothing from before is due.
    pub(crate) fn asks(&mut self, names: &[String], has_since: bool, tag: Tag) {
        for name in names.iter().filter(|_| !has_since) {
            if let Some(track) = self.tracks.get_mut(name) {
                track.from = track.from.min(tag.end);
                track.placed = track.placed.min(tag.end);
                track.excused = track.excused.max(tag.end);
            }
        }
        let at = self.at.as_mut().expect("a connection");
        at.asked.push_back(Asked {
            names: names.to_vec(),
            has_since,
            tag,
        });
    }

    /// Whether a request of this connection has no answer.
    pub(crate) fn waits(&self) -> bool {
        self.at.as_ref().is_some_and(|at| !at.asked.is_empty())
    }

    /// Messages have come to the client's kernel.
    pub(crate) fn came(&mut self, texts: Vec<String>, tag: Tag) {
        let at = self.at.as_mut().expect("a connection");
        at.inbox.extend(texts.into_iter().map(|text| (text, tag)));
    }

    /// Reads up to `count` messages.
    pub(crate) fn read<C: Contract>(&mut self, redis: &Redis, count: usize) {
        for _ in 0..count {
            let inbox = self.at.as_mut().map(|at| &mut at.inbox);
            let Some((text, tag)) = inbox.and_then(VecDeque::pop_front) else {
                return;
            };
            self.reads(redis, C::read(&text), tag);
        }
    }

    fn reads(&mut self, redis: &Redis, told: KeptEvent, tag: Tag) {
        let at = self.at.as_mut().expect("a connection");
        if let Some(seq) = told.seq {
            assert!(seq > at.seq, "the number {seq} behind {}", at.seq);
            at.has_lost |= seq != at.seq + 1;
            at.seq = seq;
        }
        let mut end = tag.end;
        let was_waiting = at.asked.iter().any(|asked| asked.has_since);
        match told.what {
            What::Welcome => {}
            What::Status { is_up, has_lost } => {
                self.met.losses_told += u64::from(has_lost);
                // A stream keeps what comes meanwhile.
                at.has_lost |= has_lost || !is_up && tag.process.is_none();
            }
            What::Data { mut name, number } => {
                if name.is_empty() {
                    name.clone_from(&redis.items[number].channel);
                }
                self.gets(redis, &name, number, tag);
                end = number + 1;
            }
            What::Answer(outcomes) => {
                let asked = at.asked.pop_front().expect("a question");
                // A request may wait for the word of the source, so the answer to a slow client was made some time between.
                let (latest, end) = match at.is_slow {
                    true => (end, asked.tag.end),
                    false => (end, end),
                };
                let placed = told.pos.as_deref().map(|pos| reach_of(redis, pos, end));
                self.is_answered(&asked, outcomes, placed, (end, latest));
                if let Some(pos) = told.pos {
                    self.moves(redis, pos, end, tag);
                }
                return;
            }
        }
        if let Some(pos) = told.pos.filter(|_| !was_waiting) {
            self.moves(redis, pos, end, tag);
        }
    }

    /// A message by a name.
    fn gets(&mut self, redis: &Redis, name: &str, number: usize, tag: Tag) {
        let has_lost = self.at.as_ref().is_some_and(|at| at.has_lost);
        let Some(track) = self.tracks.get_mut(name) else {
            panic!("a message of {name}, which was not granted");
        };
        let of_name = redis.of_name(name, number, number + 1);
        assert_eq!(of_name, [number], "{number} is none of {name}");
        assert!(
            number >= track.floor,
            "{number} of {name}: {track:?} was told lost, and comes"
        );
        if redis.items[number].is_gone && number < track.from.min(track.may_repeat) {
            return;
        }
        assert!(
            number >= track.from,
            "{number} of {name} comes again: {track:?}"
        );
        let before = redis.of_name(name, track.from, number);
        let missing = before
            .iter()
            .find(|n| is_due(redis, track, **n, tag, has_lost));
        assert!(
            missing.is_none(),
            "{missing:?} of {name} is missing before {number}: {track:?} {:?}",
            missing.map(|n| &redis.items[*n])
        );
        match number < track.replay.1 {
            true => self.met.replayed += 1,
            false => self.met.live += 1,
        }
        track.from = number + 1;
    }

    /// The answer to a request, made when the hub had the messages before `end` and none behind `latest`. `placed`: its
    /// position is before this message.
    fn is_answered(
        &mut self,
        asked: &Asked,
        outcomes: Outcomes,
        placed: Option<usize>,
        (end, latest): (usize, usize),
    ) {
        let has_pos = placed.is_some();
        let placed = placed.unwrap_or(end).min(end);
        let each: BTreeMap<String, Option<String>> = match outcomes {
            Outcomes::Nothing => {
                assert!(!asked.has_since, "a since is answered");
                self.joins(&asked.names, has_pos, placed, end);
                return;
            }
            Outcomes::All(why) => {
                let names = asked.names.iter().cloned();
                names.map(|name| (name, why.clone())).collect()
            }
            Outcomes::Each(each) => each.into_iter().collect(),
        };
        assert!(
            asked.has_since && each.len() == asked.names.len(),
            "{each:?}"
        );
        let has_recovered = each.values().any(Option::is_none);
        assert!(
            !(has_recovered && has_pos),
            "a position before what was missed"
        );
        for (name, why) in each {
            let track = self.tracks.get_mut(&name).expect("a granted name");
            match why {
                None => {
                    self.met.recovered += 1;
                    track.replay = (track.from.max(track.excused), end);
                    track.asked = asked.tag.end;
                    track.is_promised = true;
                }
                Some(why) => {
                    track.is_promised = why != "off";
                    *self.met.why.entry(why).or_default() += 1;
                    *track = Track {
                        from: track.from.min(end),
                        excused: track.excused.max(latest),
                        floor: end,
                        replay: (end, end),
                        asked: end,
                        placed: track.from.min(placed),
                        may_repeat: track.excused.max(latest),
                        ..*track
                    };
                }
            }
        }
        if !has_recovered && !has_pos {
            self.forgets();
        }
    }

    /// Names are live from here on.
    fn joins(&mut self, names: &[String], has_pos: bool, placed: usize, end: usize) {
        for name in names {
            let track = Track {
                from: end,
                excused: end,
                replay: (end, end),
                asked: end,
                floor: end,
                is_promised: true,
                placed,
                may_repeat: end,
            };
            self.tracks.insert(name.clone(), track);
        }
        if !has_pos {
            self.forgets();
        }
    }

    /// The server has no position now, and promises nothing up to the next.
    fn forgets(&mut self) {
        self.pos = None;
        self.at.as_mut().expect("a connection").has_lost = true;
    }

    /// The position moves: everything before is here or was told lost.
    fn moves(&mut self, redis: &Redis, pos: String, end: usize, tag: Tag) {
        let reach = reach_of(redis, &pos, end);
        self.pos = Some(pos);
        let at = self.at.as_mut().expect("a connection");
        let has_lost = std::mem::take(&mut at.has_lost);
        for (name, track) in &mut self.tracks {
            let placed = track.placed.max(track.from.min(reach));
            let before = std::mem::replace(&mut track.placed, placed);
            if has_lost {
                track.excused = track.excused.max(end);
                track.may_repeat = track.excused;
                continue;
            }
            let passed = redis.of_name(name, before.max(track.excused), reach).iter();
            let mut skipped = passed.filter(|n| redis.items[**n].is_skipped(tag));
            assert_eq!(
                skipped.next(),
                None,
                "the position {reach} of {name} is behind a message that nobody said was lost: {track:?}"
            );
            // Live, this instance leaves out what is too large for it, and what is history to it.
            let since = track.from.max(track.excused).max(track.replay.1);
            let left_out = redis.of_name(name, since, reach).iter().rev();
            let mut left_out = left_out
                .filter(|n| redis.items[**n].comes_to(tag) && !redis.items[**n].is_live(tag));
            if let Some(number) = left_out.next() {
                track.excused = number + 1;
            }
        }
    }

    /// Everything that had to come up to now must be there: the client has read all, and is not slow.
    pub(crate) fn check_whole(&self, redis: &Redis, tag: Tag) {
        let Some(at) = &self.at else { return };
        if at.is_slow || !at.inbox.is_empty() || !at.asked.is_empty() {
            return;
        }
        for (name, track) in self.tracks.iter().filter(|(_, track)| track.is_promised) {
            let after = redis.of_name(name, track.from, tag.end);
            let missing = after
                .iter()
                .find(|n| is_due(redis, track, **n, tag, at.has_lost));
            assert!(
                missing.is_none(),
                "{missing:?} of {name} has not come: {track:?} {:?}",
                missing.map(|n| &redis.items[*n])
            );
        }
    }
}

/// The number behind the message of a position; `end` where positions do not say that.
fn reach_of(redis: &Redis, pos: &str, end: usize) -> usize {
    let point = CopyPosition::parse(pos).map(|at| at.position.point);
    match (point, &redis.stream) {
        (Some(Point::Stored { id, .. }), Some(stream)) => stream.number_of(id) + 1,
        _ => end,
    }
}

/// Whether a message had to come.
fn is_due(redis: &Redis, track: &Track, number: usize, tag: Tag, has_lost: bool) -> bool {
    let item = &redis.items[number];
    if !track.is_promised || !item.comes_to(tag) || item.is_junk {
        return false;
    }
    let (first, end) = track.replay;
    match number < end {
        true => number >= first && (number < track.asked || !item.is_skipped(tag)),
        false => number >= track.excused && !has_lost && item.is_live(tag),
    }
}
