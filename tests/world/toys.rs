//! Toy gateways on the real traits, each with what makes one of the contracts hard: numbered
//! leads over overlapping topics, ten thousand topics, calls with pushes. (The fourth, a state
//! under conflation, is in [`super::state`].) What they ask of the core they also tell the ledger.

use std::collections::{BTreeMap, HashMap, VecDeque};

use weirgate::hub::{
    Accepted, Admission, Call, CloseCode, CloseReason, Closing, Core, Frame, FrameBytes, Gateway,
    Incoming, Lead, Publication, Reader, Reply, Retain, SessionKey, TopicName,
};
use weirgate::wire::head::RequestHead;
use weirgate::wire::traceparent::Trace;

use super::ledger::{Note, Shared};

pub(crate) fn admit(
    core: &Core,
    ledger: &Shared,
    key: SessionKey,
    head: &RequestHead<'_>,
) -> Admission {
    if !head.asks_upgrade() {
        return Admission::ToHttp;
    }
    let rate = (head.path() == "/slow").then_some(5);
    // What is wrong with an upgrade is the core's to say, so the gateway may be asked in vain.
    if head.upgrade().is_ok() && ["/ws", "/slow", "/secret"].contains(&head.path()) {
        ledger.borrow_mut().admitted(core.now(), key, rate);
    }
    match head.path() {
        "/ws" | "/slow" => Admission::Accept(Accepted {
            outbound_per_second: rate,
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

pub(crate) fn join(core: &mut Core, ledger: &Shared, key: SessionKey, topic: &str) -> bool {
    let joined = core.join(key, &TopicName::from(topic.to_owned()));
    let expected = ledger.borrow_mut().join(core.now(), key, topic);
    assert_eq!(joined, expected, "join {topic}");
    joined
}

pub(crate) fn leave(core: &mut Core, ledger: &Shared, key: SessionKey, topic: &str) {
    let left = core.leave(key, &TopicName::from(topic.to_owned()));
    let expected = ledger.borrow_mut().leave(key, topic);
    assert_eq!(left, expected, "leave {topic}");
}

/// One unkeyed frame for the members of `topic`, here and in the ledger.
fn publish(core: &mut Core, ledger: &Shared, topic: String, body: &str) {
    let frame = Frame::text(core.frame_bytes())
        .received(core.now())
        .body(body.as_bytes())
        .finish();
    let mut ledger = ledger.borrow_mut();
    ledger.publish(core.now(), &topic, &Note::data(body), true, Retain::Keep);
    core.publish(&Publication {
        topic: TopicName::from(topic),
        frame,
        deliver: true,
        retain: Retain::Keep,
    });
}

/// Says a last word, which the close waits for.
pub(crate) fn bye(core: &mut Core, ledger: &Shared, key: SessionKey) {
    let (code, reason) = (CloseCode::bare(1000), CloseReason::Policy);
    core.close(key, code, reason, Closing::Graceful);
    ledger.borrow_mut().closing(key);
}

const LEAD: Lead = Lead::Seq("{\"seq\":");

/// Numbered messages: `join NAME`, `leave NAME`; a publication to `NAME` reaches its members, and
/// those of every pattern `PREFIX*` that matches.
#[derive(Debug, Default)]
pub(crate) struct Numbered {
    pub(crate) closed: Vec<(SessionKey, CloseReason)>,
    pub(crate) ledger: Shared,
    /// Patterns that somebody asked for.
    patterns: BTreeMap<String, u32>,
}

impl Numbered {
    fn publish(&self, core: &mut Core, topic: &str, source: &str, body: &str) {
        let body = format!(",\"topic\":\"{source}\",\"body\":\"{body}\"}}");
        let frame = Frame::text(core.frame_bytes())
            .lead(LEAD)
            .received(core.now())
            .body(body.as_bytes())
            .finish();
        core.publish(&Publication {
            topic: TopicName::from(topic.to_owned()),
            frame,
            deliver: true,
            retain: Retain::Keep,
        });
        let note = Note::data(&body).numbered();
        let mut ledger = self.ledger.borrow_mut();
        ledger.publish(core.now(), topic, &note, true, Retain::Keep);
    }

    fn answer(&self, core: &mut Core, key: SessionKey, text: &str) {
        let body = format!(",\"answer\":\"{text}\"}}");
        let frame = Frame::text(core.frame_bytes())
            .answer()
            .lead(LEAD)
            .body(body.as_bytes())
            .finish();
        core.send(key, &frame);
        let note = Note::data(&body).numbered().answer();
        self.ledger.borrow_mut().send(core.now(), key, &note);
    }
}

impl Gateway for Numbered {
    type Command = (String, String);

    fn upgrade(&mut self, core: &mut Core, key: SessionKey, head: &RequestHead<'_>) -> Admission {
        admit(core, &self.ledger, key, head)
    }

    fn opened(&mut self, core: &mut Core, key: SessionKey) {
        self.ledger.borrow_mut().opened(key);
        self.answer(core, key, "hello");
    }

    fn message(&mut self, core: &mut Core, key: SessionKey, message: Incoming<'_>) {
        let Incoming::Text(text) = message else {
            return;
        };
        match text.split_once(' ') {
            Some(("join", name)) => {
                if join(core, &self.ledger, key, name) && name.ends_with('*') {
                    *self.patterns.entry(name.to_owned()).or_default() += 1;
                }
                self.answer(core, key, name);
            }
            Some(("leave", name)) => {
                leave(core, &self.ledger, key, name);
                self.answer(core, key, name);
            }
            Some(("bye", _)) => {
                self.answer(core, key, "bye");
                bye(core, &self.ledger, key);
            }
            _ => self.answer(core, key, "what?"),
        }
    }

    fn command(&mut self, core: &mut Core, (topic, body): Self::Command) {
        self.publish(core, &topic, &topic, &body);
        let matching = self
            .patterns
            .keys()
            .filter(|p| topic.starts_with(p.trim_end_matches('*')));
        for pattern in matching {
            self.publish(core, pattern, pattern, &body);
        }
    }

    fn closed(&mut self, _: &mut Core, key: SessionKey, reason: CloseReason) {
        self.ledger.borrow_mut().closed(key, reason);
        self.closed.push((key, reason));
    }
}

/// A topic per symbol: `sub A,B`, `unsub A,B`.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    pub(crate) closed: Vec<(SessionKey, CloseReason)>,
    pub(crate) ledger: Shared,
}

impl Gateway for Symbols {
    type Command = (String, String);

    fn upgrade(&mut self, core: &mut Core, key: SessionKey, head: &RequestHead<'_>) -> Admission {
        admit(core, &self.ledger, key, head)
    }

    fn opened(&mut self, _: &mut Core, key: SessionKey) {
        self.ledger.borrow_mut().opened(key);
    }

    fn message(&mut self, core: &mut Core, key: SessionKey, message: Incoming<'_>) {
        let Incoming::Text(text) = message else {
            return;
        };
        let Some((verb, symbols)) = text.split_once(' ') else {
            return;
        };
        for symbol in symbols.split(',') {
            match verb {
                "sub" => drop(join(core, &self.ledger, key, symbol)),
                "unsub" => leave(core, &self.ledger, key, symbol),
                _ => {}
            }
        }
    }

    fn command(&mut self, core: &mut Core, (symbol, body): Self::Command) {
        publish(core, &self.ledger, symbol, &body);
    }

    fn closed(&mut self, _: &mut Core, key: SessionKey, reason: CloseReason) {
        self.ledger.borrow_mut().closed(key, reason);
        self.closed.push((key, reason));
    }
}

/// Devices: every message becomes a call, one at a time per connection; pushes go in between.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    pub(crate) closed: Vec<(SessionKey, CloseReason)>,
    pub(crate) ledger: Shared,
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
        let next = waiting.pop_front();
        core.set_owed(key, next.is_some());
        if let Some(body) = next {
            self.next_call += 1;
            self.in_flight.insert(self.next_call, key);
            core.call(Call {
                id: self.next_call,
                service: 0,
                body: body.into_bytes(),
                trace: Trace::default(),
                reader: reader(core.frame_bytes().clone()),
            });
        }
    }
}

/// The body of an answer as it is, or why there is none.
fn reader(alive: FrameBytes) -> Reader {
    let frame = move |body: &[u8]| Frame::text(&alive).answer().body(body).finish();
    Reader::new(move |outcome| match outcome {
        Ok(answer) => Ok(frame(&answer.body)),
        Err(failure) => Err(frame(format!("{failure:?}").as_bytes())),
    })
}

impl Gateway for Devices {
    type Command = (String, String);

    fn upgrade(&mut self, core: &mut Core, key: SessionKey, head: &RequestHead<'_>) -> Admission {
        admit(core, &self.ledger, key, head)
    }

    fn opened(&mut self, core: &mut Core, key: SessionKey) {
        self.ledger.borrow_mut().opened(key);
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
            join(core, &self.ledger, key, device);
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
        let frame = reply.frame.unwrap_or_else(|error| error);
        core.send(key, &frame);
        let note = Note::data(&String::from_utf8_lossy(frame.body())).answer();
        self.ledger.borrow_mut().send(core.now(), key, &note);
        self.call_next(core, key);
    }

    fn command(&mut self, core: &mut Core, (device, body): Self::Command) {
        publish(core, &self.ledger, device, &body);
    }

    fn deadline(&mut self, core: &mut Core, key: SessionKey) {
        let code = CloseCode {
            code: 1008,
            text: "identify first",
        };
        core.close(key, code, CloseReason::Policy, Closing::Now);
        self.ledger.borrow_mut().closing(key);
    }

    fn closed(&mut self, _: &mut Core, key: SessionKey, reason: CloseReason) {
        self.waiting.remove(&key);
        self.ledger.borrow_mut().closed(key, reason);
        self.closed.push((key, reason));
    }
}
