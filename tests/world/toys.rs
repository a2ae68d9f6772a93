//! Three toy gateways on the real traits, each with what makes one of the contracts hard: numbered
//! leads over overlapping topics, ten thousand topics, and calls with pushes.

use std::collections::{BTreeMap, HashMap, VecDeque};

use weirgate::hub::{
    Accepted, Admission, Call, CloseCode, CloseReason, Closing, Core, Frame, Gateway, Incoming,
    Lead, Publication, Reply, Retain, SessionKey, TopicName,
};
use weirgate::wire::head::RequestHead;

fn admit(head: &RequestHead<'_>) -> Admission {
    if !head.asks_upgrade() {
        return Admission::ToHttp;
    }
    match head.path() {
        "/ws" => Admission::Accept(Accepted::default()),
        "/slow" => Admission::Accept(Accepted {
            outbound_per_second: Some(5),
            ..Accepted::default()
        }),
        "/secret" => {
            let code = CloseCode {
                code: 1008,
                text: "Authentication failed",
            };
            Admission::AcceptThenClose(Accepted::default(), code)
        }
        _ => Admission::Refuse {
            status: 403,
            detail: "No WebSocket here",
        },
    }
}

const LEAD: Lead = Lead::Seq("{\"seq\":");

/// Numbered messages: `join NAME`, `leave NAME`; a publication to `NAME` reaches its members, and
/// those of every pattern `PREFIX*` that matches.
#[derive(Debug, Default)]
pub(crate) struct Numbered {
    pub(crate) closed: Vec<(SessionKey, CloseReason)>,
    /// Patterns that somebody asked for.
    patterns: BTreeMap<String, u32>,
}

impl Numbered {
    pub(crate) fn publication(core: &Core, topic: &str, body: &str) -> Publication {
        let frame = Frame::text(core.frame_bytes())
            .lead(LEAD)
            .received(core.now())
            .body(format!(",\"topic\":\"{topic}\",\"body\":\"{body}\"}}").as_bytes())
            .finish();
        Publication {
            topic: TopicName::from(topic.to_owned()),
            frame,
            deliver: true,
            retain: Retain::Keep,
        }
    }

    fn answer(core: &mut Core, key: SessionKey, text: &str) {
        let frame = Frame::text(core.frame_bytes())
            .answer()
            .lead(LEAD)
            .body(format!(",\"answer\":\"{text}\"}}").as_bytes())
            .finish();
        core.send(key, &frame);
    }
}

impl Gateway for Numbered {
    type Command = (String, String);

    fn upgrade(&mut self, _: &mut Core, _: SessionKey, head: &RequestHead<'_>) -> Admission {
        admit(head)
    }

    fn opened(&mut self, core: &mut Core, key: SessionKey) {
        Self::answer(core, key, "hello");
    }

    fn message(&mut self, core: &mut Core, key: SessionKey, message: Incoming<'_>) {
        let Incoming::Text(text) = message else {
            return;
        };
        match text.split_once(' ') {
            Some(("join", name)) => {
                if core.join(key, &TopicName::from(name.to_owned())) && name.ends_with('*') {
                    *self.patterns.entry(name.to_owned()).or_default() += 1;
                }
                Self::answer(core, key, name);
            }
            Some(("leave", name)) => {
                core.leave(key, &TopicName::from(name.to_owned()));
                Self::answer(core, key, name);
            }
            Some(("bye", _)) => {
                Self::answer(core, key, "bye");
                core.close(
                    key,
                    CloseCode::bare(1000),
                    CloseReason::Policy,
                    Closing::Graceful,
                );
            }
            _ => Self::answer(core, key, "what?"),
        }
    }

    fn command(&mut self, core: &mut Core, (topic, body): Self::Command) {
        let exact = Self::publication(core, &topic, &body);
        core.publish(&exact);
        let matching = self
            .patterns
            .keys()
            .filter(|p| topic.starts_with(p.trim_end_matches('*')));
        for pattern in matching {
            let mut publication = Self::publication(core, pattern, &body);
            publication.topic = TopicName::from(pattern.clone());
            core.publish(&publication);
        }
    }

    fn closed(&mut self, _: &mut Core, key: SessionKey, reason: CloseReason) {
        self.closed.push((key, reason));
    }
}

/// A topic per symbol: `sub A,B`, `unsub A,B`.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    pub(crate) closed: Vec<(SessionKey, CloseReason)>,
}

impl Gateway for Symbols {
    type Command = (String, String);

    fn upgrade(&mut self, _: &mut Core, _: SessionKey, head: &RequestHead<'_>) -> Admission {
        admit(head)
    }

    fn opened(&mut self, _: &mut Core, _: SessionKey) {}

    fn message(&mut self, core: &mut Core, key: SessionKey, message: Incoming<'_>) {
        let Incoming::Text(text) = message else {
            return;
        };
        let Some((verb, symbols)) = text.split_once(' ') else {
            return;
        };
        for symbol in symbols.split(',') {
            let topic = TopicName::from(symbol.to_owned());
            match verb {
                "sub" => core.join(key, &topic),
                _ => core.leave(key, &topic),
            };
        }
    }

    fn command(&mut self, core: &mut Core, (symbol, body): Self::Command) {
        let frame = Frame::text(core.frame_bytes())
            .received(core.now())
            .body(body.as_bytes())
            .finish();
        core.publish(&Publication {
            topic: TopicName::from(symbol),
            frame,
            deliver: true,
            retain: Retain::Keep,
        });
    }

    fn closed(&mut self, _: &mut Core, key: SessionKey, reason: CloseReason) {
        self.closed.push((key, reason));
    }
}

/// Devices: every message becomes a call, one at a time per connection; pushes go in between.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    pub(crate) closed: Vec<(SessionKey, CloseReason)>,
    waiting: HashMap<SessionKey, VecDeque<String>>,
    in_flight: BTreeMap<u64, SessionKey>,
    next_call: u64,
}

/// Messages that may wait on one connection before it is not read.
pub(crate) const WAITING_MAX: usize = 4;

impl Devices {
    fn call_next(&mut self, core: &mut Core, key: SessionKey) {
        let Some(waiting) = self.waiting.get_mut(&key) else {
            return;
        };
        if waiting.len() <= WAITING_MAX {
            core.resume_reading(key);
        }
        if self.in_flight.values().any(|k| *k == key) {
            return;
        }
        let Some(waiting) = self.waiting.get_mut(&key) else {
            return;
        };
        if let Some(body) = waiting.pop_front() {
            self.next_call += 1;
            self.in_flight.insert(self.next_call, key);
            core.call(Call {
                id: self.next_call,
                service: 0,
                body: body.into_bytes(),
            });
        }
    }
}

impl Gateway for Devices {
    type Command = (String, String);

    fn upgrade(&mut self, _: &mut Core, _: SessionKey, head: &RequestHead<'_>) -> Admission {
        admit(head)
    }

    fn opened(&mut self, core: &mut Core, key: SessionKey) {
        self.waiting.insert(key, VecDeque::new());
        // Identify within ten seconds.
        core.set_deadline(key, Some(core.now().mono_us + 10_000_000));
    }

    fn message(&mut self, core: &mut Core, key: SessionKey, message: Incoming<'_>) {
        let Incoming::Text(text) = message else {
            return;
        };
        if let Some(device) = text.strip_prefix("device ") {
            core.set_deadline(key, None);
            core.join(key, &TopicName::from(device.to_owned()));
            return;
        }
        let Some(waiting) = self.waiting.get_mut(&key) else {
            return;
        };
        waiting.push_back(text.to_owned());
        if waiting.len() > WAITING_MAX {
            core.pause_reading(key);
        }
        self.call_next(core, key);
    }

    fn reply(&mut self, core: &mut Core, reply: Reply) {
        let Some(key) = self.in_flight.remove(&reply.id) else {
            return;
        };
        let body = match reply.outcome {
            Ok(answer) => answer.body,
            Err(failure) => format!("{failure:?}").into_bytes(),
        };
        let frame = Frame::text(core.frame_bytes())
            .answer()
            .body(&body)
            .finish();
        core.send(key, &frame);
        self.call_next(core, key);
    }

    fn command(&mut self, core: &mut Core, (device, body): Self::Command) {
        let frame = Frame::text(core.frame_bytes())
            .received(core.now())
            .body(body.as_bytes())
            .finish();
        core.publish(&Publication {
            topic: TopicName::from(device),
            frame,
            deliver: true,
            retain: Retain::Keep,
        });
    }

    fn deadline(&mut self, core: &mut Core, key: SessionKey) {
        let code = CloseCode {
            code: 1008,
            text: "identify first",
        };
        core.close(key, code, CloseReason::Policy, Closing::Now);
    }

    fn closed(&mut self, _: &mut Core, key: SessionKey, reason: CloseReason) {
        self.waiting.remove(&key);
        self.closed.push((key, reason));
    }
}
