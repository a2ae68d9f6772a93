//! `weirgate levels` towards clients: a topic for each path, whose retained frame is the first
//! message. What clients say is ignored.

use crate::auth::Origins;
use crate::hub::{
    Accepted, Admission, CloseReason, Core, Gateway, Incoming, SessionKey, TopicName,
};
use crate::wire::head::RequestHead;

/// A path, and the topic whose members its clients become.
#[derive(Clone, Debug)]
pub struct LevelsPath {
    /// Compared with that of the request as it is: nothing is decoded.
    pub path: String,
    /// Where the feed publishes what this path sends.
    pub topic: TopicName,
}

/// The client side of the levels contract (`GET /ws/stream`, and further endpoints).
#[derive(Debug)]
pub struct LevelsGateway {
    paths: Vec<LevelsPath>,
    origins: Origins,
    /// The path of the client that was admitted last, by its index: the core says `opened` of it
    /// next, or never.
    admitted: usize,
}

impl LevelsGateway {
    /// Where clients connect that want everything.
    pub const PATH: &'static str = "/ws/stream";

    /// Takes clients on `paths`, and on no other.
    pub fn new(paths: Vec<LevelsPath>, origins: Origins) -> Self {
        Self {
            paths,
            origins,
            admitted: 0,
        }
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
        let Some(index) = self.paths.iter().position(|p| p.path == head.path()) else {
            return refuse("No WebSocket here");
        };
        if !self.origins.allow(head.header("Origin")) {
            return refuse("Origin not allowed");
        }
        self.admitted = index;
        Admission::Accept(Accepted::default())
    }

    fn opened(&mut self, core: &mut Core, key: SessionKey) {
        core.join(key, &self.paths[self.admitted].topic);
    }

    fn message(&mut self, _: &mut Core, _: SessionKey, _: Incoming<'_>) {}

    fn command(&mut self, _: &mut Core, (): Self::Command) {}

    fn closed(&mut self, _: &mut Core, _: SessionKey, _: CloseReason) {}
}
