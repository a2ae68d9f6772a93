//! What is kept, what is forgotten, and what a position finds.

mod streams;

use std::cell::Cell;
use std::sync::Arc;

use super::forgetting::{EXCESS_SHARE, FORGOTTEN_AT_ONCE};
use super::missed::CopyPlace;
use super::missing::NEW_NAMES_MAX;
use super::numbers::{IDS_MAX, MARKS_MAX};
use super::*;
use crate::frame_bytes::Keeper;
use crate::message::payload_alone;
use crate::turn::Turn;
use crate::{
    Content, CopyFor, CopyRank, Frame, Mark, Message, NotRecovered, RetainedCut, ShortHistory,
};
use weirgate_wire::auth::NamePatterns;

const SECOND: u64 = 1_000_000;

thread_local! {
    /// Copies made by [`render`].
    static MADE: Cell<usize> = const { Cell::new(0) };
    /// Messages that were looked at for copies to drop.
    pub(super) static LOOKED_AT: Cell<usize> = const { Cell::new(0) };
    /// What the steps of searches have passed over, in topics of the list.
    pub(super) static PASSED_OVER: Cell<usize> = const { Cell::new(0) };
}

/// The payload for the own name; for a pattern a copy that says so.
fn render(copy: &CopyFor<'_>, alive: &FrameBytes) -> Arc<Frame> {
    let Some(pattern) = copy.pattern else {
        return payload_alone(copy, alive);
    };
    MADE.set(MADE.get() + 1);
    let text = format!("-{}-{}", copy.name, pattern.as_str());
    let frame = Frame::text(alive).body(copy.message.payload());
    frame.body(text.as_bytes()).finish()
}

fn text_frames(bytes_max: usize) -> FrameBudget {
    FrameBudget {
        content: Content::Text,
        bytes_max,
        has_positions: true,
    }
}

fn mark(counter: u64) -> Mark {
    Mark { nonce: 7, counter }
}

fn position(counter: u64, count: u64) -> Position {
    Position::counted(1, mark(counter), count)
}

fn at(us: u64) -> Now {
    Now {
        mono_us: us,
        unix_us: us as i64,
    }
}

fn note_mark(history: &mut History, mark: Mark, count: u64) {
    let notice = FeedNotice::Mark {
        feed_hash: 1,
        mark,
        count,
    };
    history.note(Now::default(), notice);
}

/// A history with the mark 0, and frames of some bytes; or messages, of which copies are made.
struct Bench {
    history: History,
    has_messages: bool,
    alive: FrameBytes,
    count: u64,
    mark: u64,
    now_us: u64,
}

impl Bench {
    fn new(bytes_max: usize) -> Self {
        let limits = HistoryLimits {
            keep_us: 60 * SECOND,
            bytes_max,
        };
        let alive = FrameBytes::default();
        let mut history = History::new(limits, None, &alive).expect("a history");
        note_mark(&mut history, mark(0), 0);
        history.set_render(render);
        Self {
            history,
            has_messages: false,
            alive,
            count: 0,
            mark: 0,
            now_us: 0,
        }
    }

    fn mark(&mut self, counter: u64) {
        note_mark(&mut self.history, mark(counter), self.count);
        (self.mark, self.count) = (counter, 0);
    }

    fn of_messages(bytes_max: usize) -> Self {
        Self {
            has_messages: true,
            ..Self::new(bytes_max)
        }
    }

    fn body(&self, body: &str) -> Body {
        let now = at(self.now_us);
        if self.has_messages {
            return Message::new(body.into(), now, &self.alive).into();
        }
        let frame = Frame::text(&self.alive).received(now);
        frame.body(body.as_bytes()).finish().into()
    }

    fn keep(&mut self, topic: &str, body: &str) -> Position {
        self.count += 1;
        let position = position(self.mark, self.count);
        let topic = TopicName::from(topic.to_owned());
        let body = self.body(body);
        self.history
            .keep(at(self.now_us), position, &topic, Some(&body));
        position
    }

    /// A message of the feed that was counted and relayed by nobody.
    fn pass(&mut self) {
        self.count += 1;
    }

    fn missed(&mut self, topics: &[&str], since: Position) -> Result<Vec<String>, NotRecovered> {
        let topics: Vec<_> = topics
            .iter()
            .map(|t| TopicName::from((*t).to_owned()))
            .collect();
        let wanted: Vec<_> = topics.iter().map(Wanted::exact).collect();
        let since = since.to_string();
        let budget = text_frames(1 << 20);
        let (missed, outcomes) = self.all_missed(&since, &wanted, budget);
        outcomes.into_iter().collect::<Outcome>()?;
        let text = |(_, frame): &(CopyPlace, Arc<Frame>)| {
            String::from_utf8_lossy(frame.body()).into_owned()
        };
        Ok(missed.frames().map(text).collect())
    }

    /// All steps of a search for missed messages.
    fn all_missed(
        &mut self,
        since: &str,
        wanted: &[Wanted],
        budget: FrameBudget,
    ) -> (Missed, Vec<Outcome>) {
        let (missed, mut outcomes) = self.history.missed(since, wanted, budget);
        let (missed, made) = self.made(missed, budget);
        for outcome in &mut outcomes {
            *outcome = outcome.and(made);
        }
        (missed, outcomes)
    }

    /// All steps of a search for newest messages.
    fn all_newest(
        &mut self,
        wanted: &[Wanted],
        count: usize,
        budget: FrameBudget,
    ) -> (Missed, Outcome) {
        let (newest, found) = self.history.newest(wanted, count, budget);
        let (newest, made) = self.made(newest, budget);
        (newest, found.and(made))
    }

    /// The newest messages of each topic that a name matches, and why they are not whole.
    fn newest_of(&mut self, name: &str, count: usize) -> (Vec<String>, Option<RetainedCut>) {
        let is_pattern = name.contains('*');
        let patterns = NamePatterns::new(Default::default(), &[name.to_owned()]).unwrap();
        let name = TopicName::from(name.to_owned());
        let wanted = Wanted {
            name: name.clone(),
            patterns: is_pattern.then(|| Arc::new(patterns)),
        };
        let (mut found, outcome) = self.all_newest(&[wanted], count, text_frames(1 << 20));
        assert_eq!(outcome, Ok(()));
        let mut cuts = found.take_cuts();
        let cut = cuts.remove(&name);
        assert!(cuts.is_empty(), "{cuts:?}");
        let text = |(_, frame): &(CopyPlace, Arc<Frame>)| {
            String::from_utf8_lossy(frame.body()).into_owned()
        };
        (found.frames().map(text).collect(), cut)
    }

    /// A loss, and the first mark of the next connection.
    fn lose(&mut self) {
        self.history.lose(at(self.now_us));
        self.mark(self.mark + 1);
    }

    /// Takes what is left of a search, and makes all frames.
    fn made(&mut self, mut missed: Missed, budget: FrameBudget) -> (Missed, Outcome) {
        while missed.has_unmade() {
            if let Err(why) = self.history.make_next(&mut missed, budget) {
                return (Missed::default(), Err(why));
            }
        }
        (missed, Ok(()))
    }

    fn advance(&mut self, us: u64) {
        self.now_us += us;
        while self.history.due_us().is_some_and(|due| due <= self.now_us) {
            self.history
                .handle_timeout(self.now_us, &mut Turn::default());
        }
        self.history
            .handle_timeout(self.now_us, &mut Turn::default());
    }
}

#[test]
fn what_is_too_old_is_forgotten_and_told() {
    let mut bench = Bench::new(1 << 20);
    let first = bench.keep("a", "1");
    bench.keep("b", "2");
    bench.advance(30 * SECOND);
    let third = bench.keep("a", "3");
    assert_eq!(
        bench.missed(&["a", "b"], position(0, 0)).unwrap(),
        ["1", "2", "3"]
    );
    bench.advance(31 * SECOND);
    assert_eq!(bench.history.stats().messages, 1, "two are too old");
    assert_eq!(
        bench.missed(&["a"], position(0, 0)),
        Err(NotRecovered::Window)
    );
    assert_eq!(
        bench.missed(&["a"], first).unwrap(),
        ["3"],
        "the first was not missed"
    );
    assert_eq!(bench.missed(&["b"], first), Err(NotRecovered::Window));
    assert_eq!(
        bench.missed(&["c"], first).unwrap(),
        [""; 0],
        "nothing ever came"
    );
    bench.advance(31 * SECOND);
    assert_eq!(
        (
            bench.history.stats().messages,
            bench.alive.kept(Keeper::History),
            bench.history.renderer.beside
        ),
        (0, 0, 0)
    );
    assert_eq!(
        bench.missed(&["a"], third).unwrap(),
        [""; 0],
        "quiet since, however long ago"
    );
    assert_eq!(bench.history.due_us(), None, "nothing is left to do");
}

/// A push to many devices is one frame.
#[test]
fn a_frame_of_several_entries_counts_once_until_the_last_is_forgotten() {
    let mut bench = Bench::new(1 << 16);
    let frame = bench.body(&"x".repeat(20_000));
    for n in 1..=100 {
        bench.count = n;
        let topic = TopicName::from(format!("d{}", n % 7));
        bench
            .history
            .keep(Now::default(), position(0, n), &topic, Some(&frame));
    }
    let whole = bench.history.stats();
    assert_eq!(whole.messages, 100);
    assert!((20_000..50_000).contains(&whole.bytes), "{}", whole.bytes);
    bench.advance(2 * SECOND);
    assert_eq!(bench.history.stats(), whole, "measured again");
    // Three more frames of this size do not fit beside the first.
    for _ in 0..3 {
        bench.keep("e", &"y".repeat(20_000));
    }
    assert_eq!(bench.history.stats().messages, 3, "all of the first frame");
    assert!(bench.history.memory() <= 1 << 16);
}

#[test]
fn the_oldest_go_first_when_all_need_too_much_memory() {
    let mut bench = Bench::new(1 << 16);
    let body = "x".repeat(1_000);
    let mut last = position(0, 0);
    for _ in 0..200 {
        last = bench.keep("a", &body);
        assert!(bench.history.memory() <= 1 << 16);
    }
    let kept = bench.history.stats().messages;
    assert!((40..64).contains(&kept), "{kept}");
    let oldest = position(0, bench.count - kept);
    assert_eq!(
        bench
            .missed(&["a"], oldest)
            .map(|missed| missed.len() as u64),
        Ok(kept)
    );
    assert_eq!(
        bench.missed(&["a"], position(0, bench.count - kept - 1)),
        Err(NotRecovered::Window)
    );
    // Encodings that are made later count too.
    let newest = bench.history.list.entries.back().unwrap();
    let Some(Body::Frame(frame)) = newest.body.clone() else {
        panic!("a frame");
    };
    frame.deflated_with(|_| Some(vec![0; 20_000]));
    bench.advance(2 * SECOND);
    assert!(bench.history.memory() <= 1 << 16);
    assert!(bench.history.stats().messages < kept);
    // A message over the limit is a hole, and takes the others with it.
    bench.keep("a", &"x".repeat(1 << 17));
    assert_eq!(bench.history.stats().messages, 0);
    assert_eq!(bench.missed(&["a"], last), Err(NotRecovered::Window));
}

/// A turn with time for so many steps: its clock advances by a microsecond each time that it is read.
fn turn_of(steps: u64) -> Turn {
    let mut turn = Turn::default();
    let clock = std::sync::atomic::AtomicU64::new(0);
    turn.set_clock(move || clock.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    turn.begin(steps);
    turn
}

#[test]
fn for_a_large_message_small_ones_are_forgotten_over_several_turns() {
    const MAX: usize = 16 << 20;
    let mut bench = Bench::new(MAX);
    for n in 0..60_000 {
        bench.keep(&format!("row:{}", n % 100), "y");
    }
    let small = bench.history.stats().messages;
    assert!(small > 20_000, "{small}");
    assert!(!bench.history.is_over());
    let large = "x".repeat(MAX / 8);
    bench.keep("large", &large);
    let is_excess = |bench: &Bench| bench.history.memory() > MAX;
    assert!(is_excess(&bench) && bench.history.is_over());
    let at_once = small + 1 - bench.history.stats().messages;
    assert_eq!(at_once as usize, FORGOTTEN_AT_ONCE);
    // What clients make meanwhile adds nothing to the excess, and does not pay for it.
    let before = (bench.history.memory(), bench.history.stats().messages);
    assert_eq!(
        bench.missed(&["row:99"], position(0, 59_990)).unwrap(),
        ["y"]
    );
    assert!(bench.history.memory() <= before.0);
    assert_eq!(bench.history.stats().messages, before.1);
    // The rest goes in rounds, which are due at once.
    let mut rounds = 0;
    while bench.history.is_over() {
        assert!(
            bench
                .history
                .due_us()
                .is_some_and(|due| due <= bench.now_us)
        );
        let before = bench.history.stats().messages;
        bench
            .history
            .handle_timeout(bench.now_us, &mut turn_of(100));
        assert!(before - bench.history.stats().messages <= 101);
        rounds += 1;
    }
    assert!(rounds > 20, "{rounds}");
    assert!(!is_excess(&bench));
    assert!(bench.history.due_us().is_some_and(|due| due > bench.now_us));
    assert!(bench.history.has_messages(&TopicName::fixed("large")));
    // Messages that come without time for rounds exceed the limit by no more than a part.
    for n in 0..60_000 {
        bench.keep(&format!("row:{}", n % 100), "y");
    }
    let large = "x".repeat(MAX / 16);
    for _ in 0..20 {
        bench.keep("large", &large);
        assert!(bench.history.memory() <= MAX + MAX / EXCESS_SHARE);
    }
    // One over the limit takes all others with it, though not all at once.
    bench.keep("large", &"x".repeat(2 * MAX));
    bench.advance(0);
    assert_eq!(bench.history.stats().messages, 0);
    assert!(!bench.history.is_over());
    assert_eq!(bench.history.due_us(), None);
}

#[test]
fn messages_that_nobody_gets_use_up_their_numbers() {
    let mut bench = Bench::new(1 << 20);
    bench.keep("a", "1");
    bench.pass();
    bench.pass();
    bench.mark(1);
    bench.pass();
    bench.keep("a", "2");
    // A position of an instance to which the three messages were good.
    assert_eq!(bench.missed(&["a"], position(0, 3)).unwrap(), ["2"]);
    assert_eq!(bench.missed(&["a"], position(0, 4)).unwrap(), ["2"]);
    assert_eq!(bench.missed(&["a"], position(0, 5)).unwrap(), [""; 0]);
    assert_eq!(
        bench.missed(&["a"], position(0, 6)),
        Err(NotRecovered::Ahead)
    );
    assert_eq!(bench.missed(&["a"], position(1, 2)).unwrap(), [""; 0]);
    assert_eq!(bench.history.position(), Some(position(1, 2)));
}

#[test]
fn a_loss_ends_every_position_before_it() {
    let mut bench = Bench::new(1 << 20);
    let before = bench.keep("a", "1");
    bench.history.note(Now::default(), FeedNotice::Hole);
    assert_eq!(bench.history.position(), None);
    assert_eq!(bench.missed(&["a"], before), Err(NotRecovered::Gap));
    // Without a mark nothing has a place.
    bench.keep("a", "lost");
    assert_eq!(bench.history.stats().messages, 1);
    bench.mark(1);
    assert_eq!(bench.missed(&["a"], before), Err(NotRecovered::Gap));
    assert_eq!(bench.missed(&["a"], position(1, 0)).unwrap(), [""; 0]);
    bench.keep("a", "2");
    assert_eq!(bench.missed(&["a"], position(1, 0)).unwrap(), ["2"]);
    assert_eq!(
        bench.missed(&["a"], position(2, 0)),
        Err(NotRecovered::Epoch)
    );
}

/// Of a name, of a pattern, several of each topic, those that the list has forgotten, and from before two losses.
#[test]
fn newest_messages_from_before_a_loss_come_and_may_be_outdated() {
    let mut bench = Bench::new(1 << 18);
    let lost = Some(RetainedCut::Lost);
    bench.keep("a", "1");
    bench.keep("b", "2");
    assert_eq!(bench.newest_of("*", 1).1, None);
    bench.lose();
    let expect = |bench: &mut Bench, name, count, texts: &[&str], cut| {
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(bench.newest_of(name, count), (texts, cut), "{name} {count}");
    };
    for count in [1, 2] {
        expect(&mut bench, "a", count, &["1"], lost);
        expect(&mut bench, "*", count, &["1", "2"], lost);
        expect(&mut bench, "c", count, &[], None);
    }
    bench.keep("a", "3");
    bench.keep("c", "4");
    expect(&mut bench, "a", 1, &["3"], None);
    expect(&mut bench, "a", 2, &["1", "3"], lost);
    expect(&mut bench, "c", 2, &["4"], None);
    expect(&mut bench, "*", 1, &["2", "3", "4"], lost);
    bench.keep("b", "5");
    expect(&mut bench, "*", 1, &["3", "4", "5"], None);
    // The list forgets them all.
    for _ in 0..2_000 {
        bench.keep("busy", &"x".repeat(200));
    }
    assert_eq!(bench.history.newest_only.count(), 3);
    expect(&mut bench, "a", 2, &["3"], None);
    bench.lose();
    bench.lose();
    expect(&mut bench, "a", 1, &["3"], lost);
    assert_eq!(bench.newest_of("*", 1).1, lost);
    let a = TopicName::fixed("a");
    assert!(
        bench.history.has_messages(&a),
        "it is the best that is known"
    );
    bench.keep("a", "6");
    expect(&mut bench, "a", 1, &["6"], None);
    // What is too old does not come: then nothing is known of the name, as after a start.
    bench.advance(61 * SECOND);
    bench.lose();
    bench.keep("c", "7");
    expect(&mut bench, "a", 1, &[], None);
    expect(&mut bench, "*", 1, &["7"], None);
}

#[test]
fn a_hundred_thousand_messages_are_found_from_the_oldest_to_the_newest() {
    let mut bench = Bench::new(1 << 30);
    for n in 0..100_000 {
        bench.keep(["a", "b", "c"][n % 3], "1");
    }
    let topics = ["b"];
    let (oldest, newest) = (position(0, 99_980), position(0, 99_999));
    assert_eq!(bench.missed(&topics, oldest).unwrap().len(), 6);
    assert_eq!(bench.missed(&topics, newest).unwrap().len(), 0);
    assert_eq!(bench.missed(&["a"], newest).unwrap().len(), 1);
    let all = bench.missed(&["c"], position(0, 0)).unwrap();
    assert_eq!(all.len(), 33_333);
    bench.mark(1);
    assert_eq!(bench.missed(&["c"], position(0, 0)).unwrap().len(), 33_333);
}

#[test]
fn too_much_is_refused_whole() {
    let mut bench = Bench::new(1 << 24);
    for _ in 0..20 {
        bench.keep("a", &"x".repeat(100_000));
    }
    assert_eq!(
        bench.missed(&["a"], position(0, 0)),
        Err(NotRecovered::Large)
    );
    assert_eq!(
        bench
            .missed(&["a"], position(0, 10))
            .map(|missed| missed.len()),
        Ok(10)
    );
}

/// What a search has found is in memory until the frames are made, so the number of messages is bounded, however short they
/// are.
#[test]
fn very_many_short_messages_are_too_much() {
    for (messages, outcome) in [(20_000, Ok(())), (60_000, Err(NotRecovered::Large))] {
        let mut bench = Bench::of_messages(1 << 30);
        let first = bench.keep("a", "0");
        for _ in 0..messages {
            bench.keep("a", "1");
        }
        let name = TopicName::fixed("*");
        let patterns = NamePatterns::new(Default::default(), &["*".to_owned()]).unwrap();
        let wanted = [Wanted {
            name: name.clone(),
            patterns: Some(Arc::new(patterns)),
        }];
        let since = first.to_string();
        let (missed, outcomes) = bench.all_missed(&since, &wanted, text_frames(4 << 20));
        assert_eq!(outcomes, [outcome], "{messages}");
        assert_eq!(missed.is_empty(), outcome.is_err());
    }
}

#[test]
fn names_are_remembered_up_to_their_limits() {
    let mut bench = Bench::new(1 << 20);
    let since = position(0, 0);
    for n in 0..100_000 {
        bench.keep(&format!("name-{n}"), "1");
        assert!(bench.history.memory() <= 5 << 18, "{n}");
        bench.advance(0);
        assert!(bench.history.memory() <= 1 << 20, "{n}");
    }
    assert_eq!(bench.missed(&["name-5"], since), Err(NotRecovered::Window));
    assert_eq!(
        bench.missed(&["name-never"], since),
        Err(NotRecovered::Window),
        "nobody can know"
    );
    let newest = bench.history.position().unwrap();
    assert_eq!(
        bench.missed(&["name-5", "name-never"], newest).unwrap(),
        [""; 0]
    );
}

#[test]
fn a_topic_that_speaks_now_and_then_is_remembered_once() {
    let mut bench = Bench::new(1 << 20);
    bench.keep("quiet", "1");
    for _ in 0..1_000 {
        bench.keep("a", "1");
        bench.advance(62 * SECOND);
    }
    assert!(bench.history.known_topics.slots() < 100);
    let since = position(0, 1);
    assert_eq!(bench.missed(&["quiet"], since).unwrap(), [""; 0]);
    assert_eq!(bench.missed(&["a"], since), Err(NotRecovered::Window));
}

#[test]
fn the_oldest_marks_are_forgotten() {
    let mut bench = Bench::new(1 << 20);
    for n in 1..=MARKS_MAX as u64 {
        bench.mark(n);
    }
    assert_eq!(
        bench.missed(&["a"], position(0, 0)),
        Err(NotRecovered::Epoch)
    );
    assert_eq!(bench.missed(&["a"], position(1, 0)).unwrap(), [""; 0]);
    assert_eq!(
        bench.history.numbers.remembered(),
        (MARKS_MAX, MARKS_MAX, 0)
    );
}

#[test]
fn frames_for_clients_of_patterns_go_before_messages() {
    let mut bench = Bench::of_messages(1 << 17);
    let since = position(0, 0).to_string();
    for n in 0..40 {
        bench.keep(&format!("a:{n}"), &"x".repeat(1_000));
    }
    // One client in a loop, each time with another spelling of the pattern; with `last`, and live.
    for stars in 1..60 {
        let spelling = format!("a:{}", "*".repeat(stars));
        let patterns = NamePatterns::new(Default::default(), &["a:*".to_owned()]).unwrap();
        let name = TopicName::from(spelling);
        let wanted = [Wanted {
            name: name.clone(),
            patterns: Some(Arc::new(patterns)),
        }];
        match stars % 3 {
            0 => {
                let (missed, outcomes) =
                    bench.history.missed(&since, &wanted, text_frames(1 << 20));
                assert_eq!((outcomes, missed.frames().count()), (vec![Ok(())], 40));
            }
            1 => {
                let (newest, _) = bench.history.newest(&wanted, 1, text_frames(1 << 20));
                assert_eq!(newest.frames().count(), 40);
            }
            _ => {
                let newest = position(0, 40);
                assert!(
                    bench
                        .history
                        .copy_of_newest(newest, Some(&name), Content::Text)
                        .is_some()
                );
            }
        }
        assert!(bench.history.memory() <= 1 << 17);
        assert_eq!(bench.history.stats().messages, 40, "after {stars} patterns");
    }
    // Without these frames as much memory is needed as before.
    while bench.history.drop_copies() {}
    let alive = bench.alive.alive();
    assert_eq!(bench.alive.kept(Keeper::History), alive);
    let renderer = &bench.history.renderer;
    assert_eq!((renderer.beside, renderer.copies_memory()), (0, 0));
    assert!(
        bench
            .history
            .list
            .entries
            .iter()
            .all(|entry| entry.copies.is_empty())
    );
}

#[test]
fn a_pattern_gets_its_own_frames_and_doubts_what_was_left_out() {
    let mut bench = Bench::of_messages(1 << 20);
    bench.keep("a:1", "1");
    bench.keep("b:1", "2");
    bench.keep("a:2", "3");
    let patterns = NamePatterns::new(Default::default(), &["a:*".to_owned()]).unwrap();
    let name = TopicName::fixed("a:*");
    let exact = TopicName::fixed("a:2");
    let wanted = [
        Wanted {
            name: name.clone(),
            patterns: Some(Arc::new(patterns)),
        },
        Wanted::exact(&exact),
    ];
    let since = position(0, 0).to_string();
    for _ in 0..2 {
        let (missed, outcomes) = bench.history.missed(&since, &wanted, text_frames(1 << 20));
        assert_eq!(outcomes, [Ok(()), Ok(())]);
        let texts: Vec<_> = missed
            .frames()
            .map(|(_, f)| String::from_utf8_lossy(f.body()))
            .collect();
        assert_eq!(texts, ["1-a:1-a:*", "3-a:2-a:*", "3"]);
    }
    assert_eq!(
        MADE.get(),
        2,
        "the second client shares the frames of the first"
    );
    bench.pass();
    let left_out = position(0, bench.count);
    bench
        .history
        .keep(Now::default(), left_out, &TopicName::fixed("z"), None);
    let (missed, outcomes) = bench.history.missed(&since, &wanted, text_frames(1 << 20));
    assert_eq!(
        (outcomes, missed.frames().count()),
        (vec![Err(NotRecovered::Window), Ok(())], 1)
    );
    let after = left_out.to_string();
    let (_, outcomes) = bench.history.missed(&after, &wanted, text_frames(1 << 20));
    assert_eq!(outcomes, [Ok(()), Ok(())]);
}

/// The reach goes back to the beginning, then to what the limit on bytes or on time has left; a loss begins anew.
#[test]
fn how_far_back_it_reaches_is_known() {
    let mut bench = Bench::new(200_000);
    let reach = |bench: &Bench| {
        let reach = bench.history.stats().reach(bench.now_us as i64);
        reach.map(|reach| (reach.us / SECOND, reach.short))
    };
    bench.advance(10 * SECOND);
    bench.keep("a", "1");
    assert_eq!(reach(&bench), Some((10, Some(ShortHistory::Start))));
    bench.advance(51 * SECOND);
    bench.keep("a", "2");
    assert_eq!(
        reach(&bench),
        Some((61, None)),
        "nothing of it was forgotten"
    );
    assert_eq!(bench.history.newest_unix_us(&TopicName::fixed("b")), None);
    for _ in 0..200 {
        bench.advance(SECOND / 10);
        bench.keep("a", &"x".repeat(2_000));
    }
    let (seconds, short) = reach(&bench).expect("a reach");
    assert!((1..20).contains(&seconds) && short == Some(ShortHistory::Bytes));
    bench.history.note(at(bench.now_us), FeedNotice::Hole);
    assert_eq!(reach(&bench), Some((0, Some(ShortHistory::Start))));
}

#[test]
fn nothing_reaches_over_a_message_that_was_left_out() {
    let mut bench = Bench::new(1 << 20);
    let (a, b) = (TopicName::fixed("a"), TopicName::fixed("b"));
    let reach = |bench: &Bench, name| {
        let reach = bench.history.reach(name, bench.now_us as i64);
        reach.map(|reach| (reach.us / SECOND, reach.short))
    };
    bench.keep("b", "1");
    bench.advance(2 * SECOND);
    bench.pass();
    let left_out = position(0, bench.count);
    bench.history.keep(at(bench.now_us), left_out, &a, None);
    bench.advance(SECOND);
    bench.keep("a", "2");
    assert_eq!(reach(&bench, &a), Some((1, Some(ShortHistory::LeftOut))));
    assert_eq!(reach(&bench, &b), Some((3, Some(ShortHistory::Start))));
    // It may be a pattern.
    let any = TopicName::fixed("*");
    assert_eq!(reach(&bench, &any), Some((1, Some(ShortHistory::LeftOut))));
}

/// Three messages of `a:*`, and as they are found for a pattern.
fn found_of_pattern(bench: &mut Bench, since: &str) -> Vec<Arc<Frame>> {
    let patterns = NamePatterns::new(Default::default(), &["a:*".to_owned()]).unwrap();
    let wanted = [Wanted {
        name: TopicName::from("a:*".to_owned()),
        patterns: Some(Arc::new(patterns)),
    }];
    let (missed, outcomes) = bench.history.missed(since, &wanted, text_frames(1 << 20));
    assert_eq!(outcomes, [Ok(())]);
    let frames = missed.frames().map(|(_, frame)| Arc::clone(frame));
    frames.collect()
}

/// While a client has the frame of a message, dropping the copy frees nothing: another client gets the same frame, with its
/// encodings.
#[test]
fn a_copy_that_a_client_still_has_is_not_made_again() {
    for quiet in [false, true] {
        let mut bench = Bench::of_messages(1 << 17);
        let since = position(0, 0).to_string();
        for n in 0..3 {
            bench.keep(&format!("a:{n}"), "1");
        }
        if quiet {
            // They stay alone of their topics.
            while bench.history.forget_oldest(ShortHistory::Bytes) {}
            bench.history.missing.forget(0);
        }
        let find = |bench: &mut Bench| match quiet {
            false => found_of_pattern(bench, &since),
            true => {
                let wanted = ["a:0", "a:1", "a:2"].map(|name| TopicName::from(name.to_owned()));
                let wanted: Vec<_> = wanted.iter().map(Wanted::exact).collect();
                let (newest, _) = bench.history.newest(&wanted, 1, text_frames(1 << 20));
                newest
                    .frames()
                    .map(|(_, frame)| Arc::clone(frame))
                    .collect()
            }
        };
        let first = find(&mut bench);
        assert_eq!(first.len(), 3);
        let before = bench.history.memory();
        while bench.history.lend_oldest() {}
        assert_eq!(bench.alive.kept(Keeper::Copies), 0);
        assert!(bench.history.memory() < before);
        let second = find(&mut bench);
        let pairs = first.iter().zip(&second);
        assert!(pairs.clone().all(|(a, b)| Arc::ptr_eq(a, b)), "{quiet}");
        assert_eq!(bench.alive.kept(Keeper::Copies), 0, "lent as before");
        drop((first, second));
        let alive = bench.alive.alive();
        assert_eq!(alive, bench.alive.kept(Keeper::History), "nobody has them");
        assert_eq!(find(&mut bench).len(), 3, "made again");
        assert!(bench.alive.kept(Keeper::Copies) > 0);
        while bench.history.drop_copies() {}
        assert_eq!(bench.history.renderer.copies_memory(), 0);
    }
}

/// Clients with compression need further memory for each copy.
#[test]
fn encodings_of_copies_go_before_messages() {
    let mut bench = Bench::of_messages(1 << 17);
    let since = position(0, 0).to_string();
    for n in 0..40 {
        bench.keep(&format!("a:{n}"), &"x".repeat(1_000));
    }
    for round in 0..3 {
        for frame in found_of_pattern(&mut bench, &since) {
            frame.deflated_with(|body| Some(vec![0; body.len() - 1]));
        }
        bench.history.forget_made(0);
        assert!(bench.history.memory() <= 1 << 17);
        assert_eq!(bench.history.stats().messages, 40, "{round}");
    }
}
