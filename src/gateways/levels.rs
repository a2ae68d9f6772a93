//! `weirgate levels` towards clients: a topic for each path, whose retained frame is the first message.
//! Messages from clients are ignored.

use std::convert::Infallible;

use crate::auth::Origins;
use crate::hub::{
    Accepted, Admission, ByClient, Core, Entrance, Gateway, MaxRate, SessionKey, TopicName,
};
use crate::wire::head::RequestHead;

/// A path, and the topic of the path's clients.
#[derive(Clone, Debug)]
pub struct LevelsPath {
    /// Compared with the path of the request without decoding.
    pub path: String,
    /// The topic of the feed for this path.
    pub topic: TopicName,
}

/// The client side of the levels contract (`GET /ws/stream`, and further endpoints).
#[derive(Debug)]
pub struct LevelsGateway {
    paths: Vec<LevelsPath>,
    origins: Origins,
}

impl LevelsGateway {
    /// The path for clients of the whole document.
    pub const PATH: &'static str = "/ws/stream";

    /// Accepts clients on `paths` only.
    pub fn new(paths: Vec<LevelsPath>, origins: Origins) -> Self {
        Self { paths, origins }
    }

    fn topic(&self, path: &str) -> Option<&TopicName> {
        let path = self.paths.iter().find(|p| p.path == path);
        path.map(|path| &path.topic)
    }
}

impl Gateway for LevelsGateway {
    /// The topic of the client's path.
    type Client = Option<TopicName>;
    type In = Infallible;
    type Out = Infallible;

    fn entrance(&self, path: &str) -> Entrance<'_> {
        match self.topic(path) {
            Some(_) => Entrance::Clients(&self.origins),
            None => Entrance::None,
        }
    }

    fn admit(
        &mut self,
        _: &mut Core,
        _: SessionKey,
        head: &RequestHead<'_>,
    ) -> Admission<Self::Client> {
        match MaxRate::of(head) {
            Ok(max_rate) => {
                let accepted = Accepted {
                    max_rate,
                    ..Accepted::default()
                };
                Admission::Accept(accepted, self.topic(head.path()).cloned())
            }
            Err(refusal) => Admission::Refuse(refusal),
        }
    }

    fn handle_opened(&mut self, core: &mut Core, key: SessionKey, topic: &mut Self::Client) {
        if let Some(topic) = topic {
            core.join(key, topic);
        }
    }

    fn handle_input(&mut self, _: &mut Core, _: &mut ByClient<Self::Client>, never: Infallible) {
        match never {}
    }
}
