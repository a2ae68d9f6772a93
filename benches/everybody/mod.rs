//! A gateway with one topic, for benchmarks of what goes to everybody.

use std::convert::Infallible;

use weirgate_core::{
    Accepted, Admission, ByClient, CloseReason, Closed, Core, Gateway, SessionKey, TopicName,
};
use weirgate_wire::RequestHead;

pub(crate) const TOPIC: TopicName = TopicName::fixed("all");

/// Everybody gets everything.
pub(crate) struct Everybody;

impl Gateway for Everybody {
    type Client = ();
    type In = Infallible;
    type Out = Infallible;

    fn admit(&mut self, _: &mut Core, _: SessionKey, _: &RequestHead<'_>) -> Admission<()> {
        Admission::Accept(Accepted::default(), ())
    }

    fn handle_opened(&mut self, core: &mut Core, key: SessionKey, (): &mut ()) {
        core.join(key, &TOPIC);
    }

    fn handle_input(&mut self, _: &mut Core, _: &mut ByClient<()>, never: Infallible) {
        match never {}
    }

    fn handle_closed(&mut self, _: &mut Core, key: SessionKey, closed: Closed<()>) {
        let went = matches!(closed, Closed::Ended((), CloseReason::PeerGone));
        assert!(
            went,
            "nobody is to be dropped here, but {key:?} was: {closed:?}"
        );
    }
}
