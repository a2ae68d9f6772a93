//! What a gateway is told of topics that become empty.

use std::convert::Infallible;

use weirgate_core::{
    Accepted, Admission, BusNotice, ByClient, CloseCode, CloseReason, Closed, Closing, Core,
    Gateway, Joined, Left, Limits, SessionKey, TopicName,
};
use weirgate_wire::RequestHead;

use crate::world::World;
use crate::world::toys::Numbered;

const TOPIC: TopicName = TopicName::fixed("a");

/// Does as it is told, and notes what the core says of the topic.
#[derive(Debug, Default)]
struct KeptEvent {
    joined: Vec<Joined>,
    left: Vec<Left>,
    /// Members that ended and left nobody.
    empty: usize,
}

enum In {
    Join(SessionKey),
    Leave(SessionKey),
    /// The first is closed, then the second joins.
    Replace(SessionKey, SessionKey),
}

impl Gateway for KeptEvent {
    type Client = ();
    type In = In;
    type Out = Infallible;

    fn admit(&mut self, _: &mut Core, _: SessionKey, _: &RequestHead<'_>) -> Admission<()> {
        Admission::Accept(Accepted::default(), ())
    }

    fn handle_input(&mut self, core: &mut Core, _: &mut ByClient<()>, input: In) {
        match input {
            In::Join(key) => self.joined.push(core.join(key, &TOPIC)),
            In::Leave(key) => self.left.push(core.leave(key, &TOPIC)),
            In::Replace(gone, new) => {
                let (code, reason) = (CloseCode::bare(1000), CloseReason::Policy);
                core.close(gone, code, reason, Closing::Now);
                self.joined.push(core.join(new, &TOPIC));
            }
        }
    }

    fn handle_closed(&mut self, core: &mut Core, _: SessionKey, _: Closed<()>) {
        self.empty += usize::from(core.member_count(&TOPIC) == 0);
    }
}

#[test]
fn joins_and_leaves_say_who_is_the_first_and_the_last() {
    let mut world = World::new(Limits::default(), KeptEvent::default(), 1);
    let [a, b] = [(); 2].map(|()| world.connect("/", None));
    for input in [In::Join(a), In::Join(a), In::Join(b)] {
        world.hub.handle_input(world.now, input);
    }
    for input in [In::Leave(a), In::Leave(a), In::Leave(b)] {
        world.hub.handle_input(world.now, input);
    }
    world.end(a, false);
    world.hub.handle_input(world.now, In::Join(a));
    let told = world.hub.gateway();
    use Joined::{Already, Another, First, NotOpen};
    assert_eq!(told.joined, [First, Already, Another, NotOpen]);
    assert_eq!(told.left, [Left::Others, Left::NoMember, Left::Last]);
}

#[test]
fn a_topic_is_empty_when_its_last_member_has_ended_and_nobody_has_joined_since() {
    let mut world = World::new(Limits::default(), KeptEvent::default(), 1);
    let [a, b, c] = [(); 3].map(|()| world.connect("/", None));
    world.hub.handle_input(world.now, In::Join(a));
    world.hub.handle_input(world.now, In::Join(b));
    world.end(a, true);
    world.hub.handle_input(world.now, In::Replace(b, c));
    assert_eq!(world.hub.gateway().empty, 0);
    world.end(c, false);
    let told = world.hub.gateway();
    assert_eq!(told.joined, [Joined::First, Joined::Another, Joined::First]);
    assert_eq!(told.empty, 1);
}

/// A number that the core was told to skip is given to no message, and the next message has the next
/// one.
#[test]
fn a_loss_is_one_missing_number_for_the_members() {
    let mut world = World::new(Limits::default(), Numbered::default(), 1);
    let [member, left, never] = [(); 3].map(|()| world.connect("/ws", None));
    for key in [member, left] {
        world.text(key, "join A");
        world.text(key, "join B");
    }
    world.text(left, "leave A");
    world.text(left, "leave B");
    world.hub.handle_notice(world.now, &BusNotice::Gap);
    for key in [member, left, never] {
        world.texts(key);
        world.text(key, "ping");
    }
    for (key, seq) in [(member, 5), (left, 6), (never, 2)] {
        let want = format!("{{\"seq\":{seq},\"answer\":\"what?\"}}");
        assert_eq!(world.texts(key), [want]);
    }
}
