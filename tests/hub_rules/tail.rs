//! Messages for the operator's page: nothing is copied while nobody looks, and what is copied is
//! bounded and ends by itself.

use weirgate::hub::{
    TAIL_LINE_BYTES_MAX, TAIL_LINES_MAX, TAIL_LINES_PER_SECOND, TAILS_MAX, TailLook,
};

use crate::world::World;
use crate::world::toys::{In, Symbols};
use crate::{SECOND, small_queue, symbols};

impl World<Symbols> {
    fn say(&mut self, topic: &str, text: &str) {
        let message = In::Publish(topic.to_owned(), text.to_owned());
        self.hub.handle_input(self.now, message);
        self.settle();
    }

    fn want(&mut self, topic: &str, seconds: u64) {
        let until_us = self.now.mono_us + seconds * SECOND;
        self.hub.want_tail(self.now, topic, until_us);
    }

    fn tail(&mut self, topic: &str) -> Option<TailLook> {
        let looks = self.hub.look_at_tails(self.now).unwrap_or_default();
        looks.into_iter().find(|look| &*look.topic == topic)
    }
}

#[test]
fn nothing_is_copied_while_nobody_looks() {
    let mut world = symbols(small_queue());
    world.say("A", "before");
    assert!(!world.hub.has_tails());
    assert_eq!(world.hub.look_at_tails(world.now), None);
    world.want("A", 10);
    world.say("A", "meanwhile");
    world.say("B", "of another topic");
    let look = world.tail("A").expect("somebody looks");
    let texts: Vec<&str> = look.lines.iter().map(|line| &*line.text).collect();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(texts[0].contains("meanwhile"), "{texts:?}");
    assert_eq!((look.messages, look.left_out), (1, 0));
    assert_eq!(world.hub.tail_messages(), 1);
    assert_eq!(world.hub.look_at_tails(world.now), None, "nothing is new");
}

#[test]
fn a_tail_ends_by_itself_unless_somebody_asks_again() {
    let mut world = symbols(small_queue());
    world.want("A", 10);
    world.advance(9 * SECOND);
    world.want("A", 10);
    world.advance(9 * SECOND);
    world.say("A", "x");
    assert_eq!(world.tail("A").map(|look| look.messages), Some(1));
    world.advance(2 * SECOND);
    assert_eq!(world.tail("A"), None);
    assert!(!world.hub.has_tails());
    world.say("A", "y");
    assert_eq!(world.hub.tail_messages(), 1, "nobody looks any more");
}

#[test]
fn few_topics_have_a_tail_at_once() {
    let mut world = symbols(small_queue());
    for n in 0..=TAILS_MAX {
        world.want(&format!("T{n}"), 10);
    }
    let looks = world.hub.look_at_tails(world.now).expect("tails");
    assert_eq!(looks.len(), TAILS_MAX);
    assert!(looks.iter().all(|look| &*look.topic != "T4"));
}

#[test]
fn so_many_messages_a_second_are_copied_and_the_others_counted() {
    let mut world = symbols(small_queue());
    world.want("A", 3_600);
    let per_second = u64::from(TAIL_LINES_PER_SECOND);
    for n in 0..1_000 {
        world.say("A", &format!("{n}"));
    }
    let look = world.tail("A").expect("a tail");
    assert_eq!((look.messages, look.left_out), (1_000, 1_000 - per_second));
    for _ in 0..10 {
        world.advance(SECOND);
        for n in 0..100 {
            world.say("A", &format!("{n}"));
        }
    }
    let look = world.tail("A").expect("a tail");
    assert_eq!(look.lines.len(), TAIL_LINES_MAX);
    assert_eq!(look.messages - look.left_out, 11 * per_second);
    assert!(look.lines.is_sorted_by_key(|line| line.number));
}

#[test]
fn a_large_message_is_cut() {
    let mut world = symbols(small_queue());
    world.want("A", 10);
    world.say("A", &"é".repeat(TAIL_LINE_BYTES_MAX));
    let look = world.tail("A").expect("a tail");
    let line = &look.lines[0];
    assert!(line.is_cut && line.text.len() <= TAIL_LINE_BYTES_MAX);
    assert!(!line.text.contains('\u{fffd}'), "no half character");
    assert!(line.bytes >= 2 * TAIL_LINE_BYTES_MAX);
}
