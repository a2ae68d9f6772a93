use proptest::prelude::*;

use super::*;
use crate::hub::{Lead, Now, Retain};

const NAMES: [&str; 3] = ["a", "b", "c*"];
const LIMITS: HistoryLimits = HistoryLimits {
    messages: 5,
    bytes_max: 12 * 400,
    names_max: 3,
    keep_us: 1_000_000,
};

fn publication(name: &'static str, text: &str) -> Publication {
    let mut frame = Frame::text(&FrameBytes::default()).lead(Lead::Seq("{\"seq\":"));
    frame
        .payload()
        .extend_from_slice(format!(",\"data\":{text}}}").as_bytes());
    Publication {
        topic: TopicName::fixed(name),
        frame: frame.received(Now::default()).finish(),
        deliver: true,
        retain: Retain::Keep,
    }
}

fn text(frame: &Frame) -> String {
    String::from_utf8(frame.body().to_vec()).expect("UTF-8")
}

#[derive(Clone, Debug)]
enum Step {
    Publish(usize, usize),
    /// A remembered position: how far back, and in which past epoch.
    Resume(usize, u64, usize),
    Begin(usize),
    End(usize),
    Lost,
    Leave(usize),
    Return(usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3usize, 1..300usize).prop_map(|(at, bytes)| Step::Publish(at, bytes)),
        6 => (0..3usize, 0..9u64, 0..2usize).prop_map(|(at, back, old)| Step::Resume(at, back, old)),
        2 => (0..3usize).prop_map(Step::Begin),
        1 => (0..3usize).prop_map(Step::End),
        1 => Just(Step::Lost),
        1 => (0..3usize).prop_map(Step::Leave),
        1 => (0..3usize).prop_map(Step::Return),
        2 => (0..700_000u64).prop_map(Step::Pass),
    ]
}

/// Every message of a topic in each of its epochs, kept for ever.
#[derive(Default)]
struct Model {
    epochs: Vec<(Epoch, Vec<String>)>,
    stands: bool,
}

#[derive(Default)]
struct Run {
    history: History,
    models: [Model; 3],
    alive: FrameBytes,
    now_us: u64,
    epochs: u64,
    recovered: usize,
}

impl Run {
    fn step(&mut self, step: &Step) {
        match *step {
            Step::Publish(at, bytes) => self.publish(at, bytes),
            Step::Resume(at, back, old) => self.resume(at, back, old),
            Step::Begin(at) => {
                self.epochs += 1;
                let epoch = Epoch::new(self.epochs);
                let name = TopicName::fixed(NAMES[at]);
                self.history.begin(&name, NAMES[at].contains('*'), epoch);
                self.models[at].epochs.push((epoch, Vec::new()));
                self.models[at].stands = true;
            }
            Step::End(at) => {
                self.history.end(&TopicName::fixed(NAMES[at]));
                self.models[at].stands = false;
            }
            Step::Lost => {
                self.history.end_all();
                self.models.iter_mut().for_each(|m| m.stands = false);
            }
            Step::Leave(at) => {
                let name = TopicName::fixed(NAMES[at]);
                let lingers = self.history.linger(&name, self.now_us);
                assert_eq!(lingers, self.models[at].stands);
            }
            Step::Return(at) => self.history.hold(&TopicName::fixed(NAMES[at])),
            Step::Pass(us) => {
                self.now_us += us;
                self.history.forget(self.now_us, 1_000);
                while let Some(name) = self.history.lapsed(self.now_us) {
                    let at = NAMES.iter().position(|known| *known == name.as_str());
                    self.step(&Step::End(at.expect("a name")));
                }
            }
        }
        self.check();
    }

    fn publish(&mut self, at: usize, bytes: usize) {
        let publication = publication(NAMES[at], &format!("\"{}\"", "x".repeat(bytes)));
        let numbered = self.history.number(&publication, &self.alive, self.now_us);
        let model = &mut self.models[at];
        assert_eq!(numbered.is_some(), model.stands);
        let (Some(numbered), Some((_, messages))) = (numbered, model.epochs.last_mut()) else {
            return;
        };
        let text = text(&numbered.frame);
        assert_eq!(text.contains("\"epoch\""), messages.is_empty());
        messages.push(text);
    }

    /// A successful resume has exactly the messages published since, each once and in order.
    fn resume(&mut self, at: usize, back: u64, old: usize) {
        let model = &self.models[at];
        let Some((epoch, messages)) = model.epochs.iter().rev().nth(old) else {
            return;
        };
        let offset = (messages.len() as u64).saturating_sub(back);
        let since = Position {
            epoch: *epoch,
            offset,
        };
        let name = TopicName::fixed(NAMES[at]);
        let missed = self.history.missed(&name, since);
        let missed = missed.map(|m| m.map(|(_, frame)| text(frame)).collect::<Vec<_>>());
        if old > 0 || !model.stands {
            return assert_eq!(missed, Err(NotRecovered::Epoch));
        }
        match missed {
            Ok(missed) => {
                assert_eq!(missed, messages[offset as usize..]);
                let ends = missed.iter().zip(offset + 1..);
                ends.for_each(|(text, n)| assert!(text.contains(&format!(",\"offset\":{n}"))));
                self.recovered += missed.len();
            }
            Err(why) => {
                assert_eq!(why, NotRecovered::Window);
                assert!(
                    offset < messages.len() as u64,
                    "who missed nothing is told so"
                );
            }
        }
    }

    fn check(&self) {
        let kept = &self.history.kept;
        assert!(kept.bytes() <= LIMITS.bytes_max && self.history.topics.len() <= 3);
        let entries: usize = self
            .history
            .topics
            .iter()
            .map(|(_, t)| t.window.len())
            .sum();
        assert!(entries <= kept.len());
        let mut oldest_first = Vec::new();
        for (_, topic) in &self.history.topics {
            assert!(topic.window.len() <= LIMITS.messages);
            let numbers = topic
                .window
                .iter()
                .map(|key| kept.get(*key).expect("kept").number);
            assert!(numbers.clone().is_sorted());
            oldest_first.extend(numbers.take(1));
        }
        // No message is forgotten by its topic alone and kept for ever.
        let due = kept.oldest().map(|(_, oldest)| oldest.number);
        assert!(oldest_first.iter().all(|number| Some(*number) >= due));
        assert_eq!(due.is_none(), kept.len() == 0 && kept.bytes() == 0);
    }
}

proptest! {
    #[test]
    fn as_a_list_that_keeps_everything(steps in proptest::collection::vec(step(), 1..120)) {
        let mut run = Run { history: History::new(LIMITS), ..Run::default() };
        (0..3).for_each(|at| run.step(&Step::Begin(at)));
        steps.iter().for_each(|step| run.step(step));
        run.now_us += 2 * LIMITS.keep_us;
        run.history.forget(run.now_us, 1_000);
        assert_eq!((run.history.kept.len(), run.history.kept.bytes()), (0, 0));
    }
}

/// The property above means nothing if no resume ever succeeds.
#[test]
fn what_was_just_published_is_recovered() {
    let mut run = Run {
        history: History::new(LIMITS),
        ..Run::default()
    };
    for step in [
        Step::Begin(0),
        Step::Publish(0, 5),
        Step::Publish(0, 5),
        Step::Publish(0, 5),
        Step::Resume(0, 2, 0),
    ] {
        run.step(&step);
    }
    assert_eq!(run.recovered, 2);
}

/// A message that needs the room of many does not remove all of them in a call.
#[test]
fn a_large_message_makes_room_bit_by_bit() {
    let limits = HistoryLimits {
        messages: 1_000,
        bytes_max: 400 * 300,
        ..LIMITS
    };
    let mut history = History::new(limits);
    let name = TopicName::fixed("a");
    history.begin(&name, false, Epoch::new(1));
    for _ in 0..300 {
        history.number(&publication("a", "1"), &FrameBytes::default(), 0);
    }
    let large = format!("\"{}\"", "x".repeat(300 * 300));
    history.number(&publication("a", &large), &FrameBytes::default(), 0);
    assert_eq!(history.kept.len(), 301 - GIVEN_UP_PER_MESSAGE_MAX);
    assert_eq!(history.due_us(), Some(0), "the rest goes next");
    history.forget(0, 1_000);
    assert!(history.kept.bytes() <= limits.bytes_max);
}
