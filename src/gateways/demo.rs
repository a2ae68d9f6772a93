//! `weirgate demo` towards clients: the levels gateway, whose page may ask for the numbers of its connections.
//!
//! A tab names a connection in the query of the request: `/ws/stream?name=NAME`. Every client that knows the name
//! may ask for the connection's numbers.

use std::collections::HashMap;

use foldhash::quality::RandomState;
use url::form_urlencoded;

use super::LevelsGateway;
use crate::hub::{
    Admission, ByClient, ClientLook, CloseReason, Core, Entrance, Gateway, SessionKey, TopicName,
};
use crate::wire::head::RequestHead;

/// Bytes of a tab's name; a longer name is ignored.
const NAME_BYTES_MAX: usize = 64;

/// The client side of the demo.
#[derive(Debug)]
pub struct DemoGateway {
    levels: LevelsGateway,
    /// Connections by the names from their tabs.
    tabs: HashMap<String, SessionKey, RandomState>,
}

/// The gateway's state of a client.
#[derive(Debug, Default)]
pub struct DemoClient {
    topic: Option<TopicName>,
    name: Option<String>,
}

/// Asks for the numbers of the connection with this name: `None` if there is no such connection.
pub type TabQuestion = (String, Box<dyn FnOnce(Option<ClientLook>) + Send>);

/// Returns the tab's name in a query; `None` without a name, or if the name is too long.
pub fn tab_name(query: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let (_, name) = pairs.find(|(key, _)| key == "name")?;
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
    fits.then(|| name.into_owned())
}

impl DemoGateway {
    /// Requests below this path are for the HTTP side, which makes their connections slow.
    pub const SLOW_PATH: &'static str = "/page/slow/";

    /// Wraps this gateway for the demo.
    pub fn new(levels: LevelsGateway) -> Self {
        Self {
            levels,
            tabs: HashMap::default(),
        }
    }
}

impl Gateway for DemoGateway {
    type Client = DemoClient;
    type In = TabQuestion;
    type Out = std::convert::Infallible;

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
        match self.levels.admit(core, key, head) {
            Admission::Accept(reply, topic) => Admission::Accept(reply, DemoClient { topic, name }),
            Admission::AcceptThenClose(reply, code) => Admission::AcceptThenClose(reply, code),
            Admission::Refuse(refusal) => Admission::Refuse(refusal),
        }
    }

    fn handle_opened(&mut self, core: &mut Core, key: SessionKey, client: &mut Self::Client) {
        // A name stays with the connection that had the name first.
        client.name.take_if(|name| self.tabs.contains_key(name));
        if let Some(name) = &client.name {
            self.tabs.insert(name.clone(), key);
        }
        self.levels.handle_opened(core, key, &mut client.topic);
    }

    fn handle_closed(&mut self, _: &mut Core, _: SessionKey, client: Self::Client, _: CloseReason) {
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
        answer(self.tabs.get(&name).and_then(|key| core.look_at(*key)));
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
