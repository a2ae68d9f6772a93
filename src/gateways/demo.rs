//! `weirgate demo` towards clients: the levels gateway, whose page may slow its connection and ask for the
//! connection's numbers.
//!
//! A tab names its connection, and may set a pace: `{"tab":"NAME","bytes_per_second":2000}`; `null` removes
//! the pace. Every client that knows the name may ask for the connection's numbers. Other client messages are
//! ignored, as by `weirgate levels`.

use std::collections::HashMap;
use std::fmt;

use foldhash::quality::RandomState;

use super::LevelsGateway;
use crate::hub::{
    Admission, ByClient, ClientLook, CloseReason, Core, Entrance, Gateway, Incoming, SessionKey,
    TopicName,
};
use crate::wire::head::RequestHead;
use crate::wire::json::object_entries;

/// Bytes of a tab's name; a longer name is ignored.
const NAME_BYTES_MAX: usize = 64;

/// At a slower pace, a ping and its pong would not be in time.
const BYTES_PER_SECOND_MIN: u32 = 100;

/// Levels of nesting in a message of a tab.
const DEPTH_MAX: usize = 4;

/// The client side of the demo.
#[derive(Debug)]
pub struct DemoGateway {
    levels: LevelsGateway,
    /// Connections by the names from their tabs.
    tabs: HashMap<Box<str>, SessionKey, RandomState>,
}

/// The gateway's state of a client.
#[derive(Debug, Default)]
pub struct DemoClient {
    topic: Option<TopicName>,
    name: Option<Box<str>>,
}

/// Asks for the numbers of the connection with this name.
pub struct TabQuestion {
    /// The name from the tab.
    pub name: String,
    /// Takes the numbers; `None` if there is no such connection.
    pub answer: Box<dyn FnOnce(Option<ClientLook>) + Send>,
}

impl fmt::Debug for TabQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TabQuestion({})", self.name)
    }
}

/// The message of a tab about its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    name: Box<str>,
    bytes_per_second: Option<u32>,
}

impl Said {
    /// Returns `None` for any other message.
    fn parse(text: &str) -> Option<Self> {
        let (mut name, mut bytes_per_second) = (None, None);
        for entry in object_entries(text.as_bytes(), DEPTH_MAX).ok()? {
            let (key, value) = entry.ok()?;
            let value = value.as_raw_str();
            match &*key {
                "tab" => name = sonic_rs::from_str::<String>(value).ok(),
                "bytes_per_second" => bytes_per_second = sonic_rs::from_str(value).ok()?,
                _ => {}
            }
        }
        let name = name.filter(|name| (1..=NAME_BYTES_MAX).contains(&name.len()))?;
        Some(Self {
            name: name.into(),
            bytes_per_second: bytes_per_second.map(|rate: u32| rate.max(BYTES_PER_SECOND_MIN)),
        })
    }
}

impl DemoGateway {
    /// Wraps this gateway for the demo.
    pub fn new(levels: LevelsGateway) -> Self {
        Self {
            levels,
            tabs: HashMap::default(),
        }
    }

    /// Names the connection, in place of an earlier name. A name of another connection stays with the other
    /// connection.
    fn name(&mut self, key: SessionKey, client: &mut DemoClient, name: Box<str>) {
        if self.tabs.contains_key(&name) {
            return;
        }
        if let Some(before) = client.name.replace(name.clone()) {
            self.tabs.remove(&before);
        }
        self.tabs.insert(name, key);
    }
}

impl Gateway for DemoGateway {
    type Client = DemoClient;
    type In = TabQuestion;
    type Out = std::convert::Infallible;

    fn entrance(&self, path: &str) -> Entrance<'_> {
        self.levels.entrance(path)
    }

    fn streams_at(&self, path: &str) -> bool {
        self.levels.streams_at(path)
    }

    fn admit(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        head: &RequestHead<'_>,
    ) -> Admission<Self::Client> {
        let client = |topic| DemoClient { topic, name: None };
        match self.levels.admit(core, key, head) {
            Admission::Accept(accepted, topic) => Admission::Accept(accepted, client(topic)),
            Admission::AcceptThenClose(accepted, code) => {
                Admission::AcceptThenClose(accepted, code)
            }
        }
    }

    fn handle_opened(&mut self, core: &mut Core, key: SessionKey, client: &mut Self::Client) {
        self.levels.handle_opened(core, key, &mut client.topic);
    }

    fn handle_message(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Self::Client,
        message: Incoming<'_>,
    ) {
        let Incoming::Text(text) = message else {
            return;
        };
        if let Some(said) = Said::parse(text) {
            self.name(key, client, said.name);
            core.pace(key, said.bytes_per_second);
        }
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
        question: TabQuestion,
    ) {
        let key = self.tabs.get(question.name.as_str());
        (question.answer)(key.and_then(|key| core.look_at(*key)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str, bytes_per_second: Option<u32>) -> Option<Said> {
        Some(Said {
            name: name.into(),
            bytes_per_second,
        })
    }

    #[test]
    fn a_tab_says_its_name_and_its_pace_and_nothing_else_is_heard() {
        let long = "n".repeat(NAME_BYTES_MAX);
        let cases = [
            (
                r#"{"tab":"a","bytes_per_second":2000}"#.to_owned(),
                said("a", Some(2000)),
            ),
            (
                r#"{"tab":"a","bytes_per_second":null}"#.to_owned(),
                said("a", None),
            ),
            (r#"{"tab":"a","more":[1]}"#.to_owned(), said("a", None)),
            (
                r#"{"tab":"a","bytes_per_second":0}"#.to_owned(),
                said("a", Some(100)),
            ),
            (format!(r#"{{"tab":"{long}"}}"#), said(&long, None)),
            (format!(r#"{{"tab":"{long}n"}}"#), None),
            (r#"{"tab":"a","bytes_per_second":-1}"#.to_owned(), None),
            (r#"{"tab":"a","bytes_per_second":"1"}"#.to_owned(), None),
            (r#"{"tab":""}"#.to_owned(), None),
            (r#"{"tab":1}"#.to_owned(), None),
            (r#"{"tab":"a"#.to_owned(), None),
            ("[]".to_owned(), None),
            ("".to_owned(), None),
        ];
        for (text, want) in cases {
            assert_eq!(Said::parse(&text), want, "{text}");
        }
    }
}
