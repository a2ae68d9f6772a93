//! A gateway with one topic, for benchmarks of what goes to everybody.

use weirgate::hub::{
    Accepted, Admission, CloseReason, Core, Gateway, Incoming, SessionKey, TopicName,
};
use weirgate::wire::head::RequestHead;

pub(crate) const TOPIC: TopicName = TopicName::fixed("all");

/// Everybody gets everything.
pub(crate) struct Everybody;

impl Gateway for Everybody {
    type Command = ();

    fn upgrade(&mut self, _: &mut Core, _: SessionKey, _: &RequestHead<'_>) -> Admission {
        Admission::Accept(Accepted::default())
    }

    fn opened(&mut self, core: &mut Core, key: SessionKey) {
        core.join(key, &TOPIC);
    }

    fn message(&mut self, _: &mut Core, _: SessionKey, _: Incoming<'_>) {}

    fn command(&mut self, _: &mut Core, (): ()) {}

    fn closed(&mut self, _: &mut Core, key: SessionKey, reason: CloseReason) {
        panic!("nobody is to be dropped here, but {key:?} was: {reason:?}");
    }
}
