//! `weirgate levels` towards clients: each path has a topic, whose retained frame is the first message. Messages from
//! clients are ignored, except a request for the client's own rate.
//!
//! `weirgate demo` works the same, and its page can ask for the figures of its connections. A tab names its connection
//! in the query of the request: `/ws/stream?name=NAME`. Every client that knows the name may ask for the connection's
//! figures. A tab on the *slow line* gets its bytes slowly, at a pace that it chooses (`slow_line.rs`).

use crate::gateways::shared::members::{max_hz, members, read_max_rate, text_of};
use std::convert::Infallible;
use url::form_urlencoded;
use weirgate_core::{
    Accepted, Admission, ByClient, ClientSnapshot, Closed, Core, Entrance, Frame, Gateway,
    Incoming, MaxRate, NameSource, OnBus, SessionKey, TopicName,
};
use weirgate_wire::RequestHead;
use weirgate_wire::auth::Origins;
use weirgate_wire::base::ExtendibleMap;
use weirgate_wire::json::ObjectWriter;

/// The most bytes of a request for a rate; longer messages are ignored.
const RATE_BYTES_MAX: usize = 256;

/// The most bytes of a tab's name; a longer name is ignored.
const NAME_BYTES_MAX: usize = 64;

/// A path, and the topic of the path's clients.
#[derive(Clone, Debug)]
pub struct LevelsPath {
    /// Compared with the path of the request without decoding.
    pub path: String,
    /// The topic of the feed for this path.
    pub topic: TopicName,
    /// The subjects whose messages the topic shows; `None`: all.
    pub subjects: Option<Vec<String>>,
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
    /// The topic of the client's path. `None` does not occur, because `entrance` lets no client in at another path.
    type Client = Option<TopicName>;
    type In = Infallible;
    type Out = Infallible;

    fn source_of(&self, _: &TopicName) -> (NameSource, OnBus) {
        (NameSource::Stream, OnBus::Confirmed)
    }

    fn subjects_of(&self, name: &TopicName) -> Option<&[String]> {
        let path = self.paths.iter().find(|path| path.topic == *name);
        path?.subjects.as_deref()
    }

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

    /// Handles a request for a rate; every other message of a client is ignored.
    fn handle_message(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        _: &mut Self::Client,
        message: Incoming<'_>,
    ) {
        let Incoming::Text(text) = message else {
            return;
        };
        if text.len() > RATE_BYTES_MAX {
            return;
        }
        let Ok([action, rate]) = members(text.as_bytes(), ["action", "max_hz"]) else {
            return;
        };
        if action.as_ref().and_then(text_of).as_deref() != Some("rate") {
            return;
        }
        let mut answer = ObjectWriter::new();
        match read_max_rate(rate.as_ref()) {
            Ok(rate) => {
                core.set_max_rate(key, rate);
                answer.string("type", "rate");
                answer.raw("max_hz", &max_hz(rate));
            }
            Err(error) => {
                answer.string("type", "error");
                answer.string("error", error);
            }
        }
        let frame = Frame::text(core.frame_bytes())
            .answer()
            .received(core.now());
        core.send(key, &frame.body(answer.finish().as_bytes()).finish());
    }

    fn handle_input(&mut self, _: &mut Core, _: &mut ByClient<Self::Client>, never: Infallible) {
        match never {}
    }
}

/// The client side of the demo.
#[derive(Debug)]
pub(crate) struct DemoGateway {
    levels: LevelsGateway,
    /// Connections by the names from their tabs.
    tabs: ExtendibleMap<String, SessionKey>,
}

/// The gateway's state of a client.
#[derive(Debug, Default)]
pub(crate) struct DemoClient {
    topic: Option<TopicName>,
    /// The name of the tab. `None`: it has given none, or another connection has the name.
    name: Option<String>,
    /// The tab is on the slow line.
    is_paced: bool,
}

/// The name of a tab, and a callback for the figures of its connection. The callback gets `None` if no connection has
/// the name.
pub(crate) type TabQuestion = (String, Box<dyn FnOnce(Option<ClientSnapshot>) + Send>);

/// Returns the tab's name in a query; `None` without a name, or if the name is too long.
pub(crate) fn tab_name(query: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let (_, name) = pairs.find(|(key, _)| key == "name")?;
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
    fits.then(|| name.into_owned())
}

/// Returns the bytes a second in the query of a tab on the slow line; `None` for any other tab.
pub(crate) fn pace(query: &str) -> Option<u32> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let (_, rate) = pairs.find(|(key, _)| key == "bytes_per_second")?;
    rate.parse().ok()
}

impl DemoGateway {
    /// Requests below this path go to the HTTP side, which slows their connections down.
    pub(crate) const SLOW_PATH: &'static str = "/page/slow/";

    /// Wraps this gateway for the demo.
    pub(crate) fn new(levels: LevelsGateway) -> Self {
        Self {
            levels,
            tabs: ExtendibleMap::default(),
        }
    }
}

impl Gateway for DemoGateway {
    type Client = DemoClient;
    type In = TabQuestion;
    type Out = Infallible;

    fn entrance(&self, path: &str) -> Entrance<'_> {
        match path.starts_with(Self::SLOW_PATH) {
            true => Entrance::Http,
            false => self.levels.entrance(path),
        }
    }

    fn admit(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        head: &RequestHead<'_>,
    ) -> Admission<Self::Client> {
        let name = head.query().and_then(tab_name);
        let is_paced = head.query().is_some_and(|query| pace(query).is_some());
        match self.levels.admit(core, key, head) {
            Admission::Accept(reply, topic) => {
                let client = DemoClient {
                    topic,
                    name,
                    is_paced,
                };
                Admission::Accept(reply, client)
            }
            Admission::AcceptThenClose(reply, code) => Admission::AcceptThenClose(reply, code),
            Admission::Refuse(refusal) => Admission::Refuse(refusal),
        }
    }

    fn handle_opened(&mut self, core: &mut Core, key: SessionKey, client: &mut Self::Client) {
        // A name stays with the connection that had it first.
        client.name.take_if(|name| self.tabs.contains_key(name));
        if let Some(name) = &client.name {
            self.tabs.insert(name.clone(), key);
        }
        if client.is_paced {
            core.set_paced(key);
        }
        self.levels.handle_opened(core, key, &mut client.topic);
    }

    fn handle_message(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Self::Client,
        message: Incoming<'_>,
    ) {
        self.levels
            .handle_message(core, key, &mut client.topic, message);
    }

    fn handle_closed(&mut self, _: &mut Core, _: SessionKey, closed: Closed<Self::Client>) {
        let (Closed::Ended(client, _) | Closed::Cut(client)) = closed;
        if let Some(name) = client.name {
            self.tabs.remove(&name);
        }
    }

    fn handle_input(
        &mut self,
        core: &mut Core,
        _: &mut ByClient<Self::Client>,
        (name, answer): TabQuestion,
    ) {
        answer(self.tabs.get(&name).and_then(|key| core.snapshot_of(*key)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_in_the_query_and_short() {
        let long = "n".repeat(NAME_BYTES_MAX);
        let cases = [
            ("name=a", Some("a")),
            ("more=1&name=one%20tab&name=b", Some("one tab")),
            (&format!("name={long}"), Some(&*long)),
            (&format!("name={long}n"), None),
            ("name=", None),
            ("", None),
        ];
        for (query, want) in cases {
            assert_eq!(tab_name(query).as_deref(), want, "{query}");
        }
    }
}
