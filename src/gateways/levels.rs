//! `weirgate levels` towards clients: one topic, whose retained frame is the first message. What
//! clients say is ignored.

use crate::auth::Origins;
use crate::hub::{
    Accepted, Admission, CloseReason, Core, Gateway, Incoming, SessionKey, TopicName,
};
use crate::wire::head::RequestHead;

/// The client side of the levels contract (`GET /ws/stream`).
#[derive(Debug)]
pub struct LevelsGateway {
    topic: TopicName,
    origins: Origins,
}

impl LevelsGateway {
    /// Where clients connect.
    pub const PATH: &'static str = "/ws/stream";

    /// Clients become members of `topic`.
    pub fn new(topic: TopicName, origins: Origins) -> Self {
        Self { topic, origins }
    }
}

impl Gateway for LevelsGateway {
    type Command = ();

    fn upgrade(&mut self, _: &mut Core, _: SessionKey, head: &RequestHead<'_>) -> Admission {
        if !head.asks_upgrade() {
            return Admission::ToHttp;
        }
        let refuse = |detail| Admission::Refuse {
            status: 403,
            detail,
        };
        if head.path() != Self::PATH {
            refuse("No WebSocket here")
        } else if !self.origins.allow(head.header("Origin")) {
            refuse("Origin not allowed")
        } else {
            Admission::Accept(Accepted::default())
        }
    }

    fn opened(&mut self, core: &mut Core, key: SessionKey) {
        core.join(key, &self.topic);
    }

    fn message(&mut self, _: &mut Core, _: SessionKey, _: Incoming<'_>) {}

    fn command(&mut self, _: &mut Core, (): Self::Command) {}

    fn closed(&mut self, _: &mut Core, _: SessionKey, _: CloseReason) {}
}
