//! Toy gateways on the real traits, each with the difficult part of a contract: numbered leads over
//! overlapping topics, ten thousand topics, calls with pushes. (The fourth, a state under conflation,
//! is in [`super::state`].) Every call of the core is also reported to the ledger.

use super::ledger::{Note, Shared};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use weirgate_core::{
    Accepted, Admission, BusNotice, ByClient, CloseCode, CloseReason, Closed, Closing, Core,
    Entrance, Frame, Gateway, Incoming, Joined, Left, MaxRate, NameRefusal, Prefix, Publication,
    Retain, SessionKey, TopicName,
};
use weirgate_wire::RequestHead;
use weirgate_wire::auth::Origins;

/// The inputs of the toys.
pub(crate) enum In {
    /// A message for the members of a topic.
    Publish(String, String),
    /// The result of a call.
    Reply(u64, String),
}

/// The outputs of the toys.
#[derive(Debug)]
pub(crate) enum Out {
    /// A request to a service.
    Call(Call),
    /// A topic has members, or has no members any more.
    Interest(TopicName, bool),
}

/// A request to a service.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) id: u64,
    pub(crate) body: String,
}

impl Call {
    /// The service responds with the same body.
    pub(crate) fn echo(self) -> In {
        In::Reply(self.id, self.body)
    }

    /// The service does not respond.
    pub(crate) fn time_out(self) -> In {
        In::Reply(self.id, "Timeout".to_owned())
    }
}

/// The paths with WebSockets.
pub(crate) fn entrance(path: &str) -> Entrance<'static> {
    match path {
        "/ws" | "/slow" | "/secret" => Entrance::Clients(Origins::any()),
        _ => Entrance::None,
    }
}

pub(crate) fn admit<C>(
    core: &Core,
    ledger: &Shared,
    key: SessionKey,
    head: &RequestHead<'_>,
    client: C,
) -> Admission<C> {
    let rate = (head.path() == "/slow").then_some(5);
    ledger.borrow_mut().admitted(core.now(), key, rate);
    if head.path() == "/secret" {
        let code = CloseCode::new(1008, "Authentication failed");
        return Admission::AcceptThenClose(Accepted::default(), code);
    }
    let max_rate = match MaxRate::of(head) {
        Ok(max_rate) => max_rate,
        Err(refusal) => return Admission::Refuse(refusal),
    };
    let accepted = Accepted {
        outbound_per_second: rate,
        max_rate,
        ..Accepted::default()
    };
    Admission::Accept(accepted, client)
}

/// The reports of a toy: to the ledger immediately, to other threads as outputs.
#[derive(Debug, Default)]
pub(crate) struct KeptEvent {
    pub(crate) ledger: Shared,
    pub(crate) outputs: VecDeque<Out>,
    /// Topics with members.
    topics: BTreeSet<TopicName>,
}

impl KeptEvent {
    /// Adds a member; returns false if the client was a member already.
    pub(crate) fn join(&mut self, core: &mut Core, key: SessionKey, topic: &str) -> bool {
        let name = TopicName::from(topic.to_owned());
        let joined = core.join(key, &name);
        let is_new = matches!(joined, Joined::First | Joined::Another);
        let expected = self.ledger.borrow_mut().join(core.now(), key, topic);
        assert_eq!(is_new, expected, "join {topic}");
        if joined == Joined::First && self.topics.insert(name.clone()) {
            self.outputs.push_back(Out::Interest(name, true));
        }
        is_new
    }

    pub(crate) fn leave(&mut self, core: &mut Core, key: SessionKey, topic: &str) {
        let name = TopicName::from(topic.to_owned());
        let left = core.leave(key, &name);
        let expected = self.ledger.borrow_mut().leave(key, topic);
        assert_eq!(left != Left::NoMember, expected, "leave {topic}");
        if left == Left::Last {
            self.topics.remove(&name);
            self.outputs.push_back(Out::Interest(name, false));
        }
    }

    /// Ends the interest in the topics whose last members have ended.
    pub(crate) fn closed(&mut self, core: &Core) {
        let all = std::mem::take(&mut self.topics);
        let is_held = |topic: &TopicName| core.member_count(topic) > 0;
        let (held, gone) = all.into_iter().partition::<BTreeSet<_>, _>(is_held);
        self.topics = held;
        let ends = gone.into_iter().map(|topic| Out::Interest(topic, false));
        self.outputs.extend(ends);
    }
}

/// Whether the messages of a topic may refer to others when they are compressed.
pub(crate) fn is_common(topic: &str) -> bool {
    !topic.ends_with(['3', 'b'])
}

/// Publishes an unkeyed frame to the members of `topic`, here and in the ledger.
fn publish(core: &mut Core, ledger: &Shared, topic: String, body: &str) {
    let frame = Frame::text(core.frame_bytes())
        .common(is_common(&topic))
        .received(core.now())
        .body(body.as_bytes())
        .finish();
    let mut ledger = ledger.borrow_mut();
    ledger.publish(
        core.now(),
        &topic,
        &Note::data(body, &frame),
        true,
        Retain::Keep,
    );
    core.publish(&Publication::new(TopicName::from(topic), frame));
}

/// Closes a client after the queued messages.
pub(crate) fn bye(core: &mut Core, ledger: &Shared, key: SessionKey) {
    let (code, reason) = (CloseCode::bare(1000), CloseReason::Policy);
    core.close(key, code, reason, Closing::Graceful);
    ledger.borrow_mut().closing(key);
}

const PREFIX: Prefix = Prefix::Seq("{\"seq\":");

/// Numbered messages: `join NAME`, `leave NAME`; a publication to `NAME` reaches the members of `NAME`
/// and of every matching pattern `PREFIX*`.
#[derive(Debug, Default)]
pub(crate) struct Numbered {
    pub(crate) closed: Vec<(SessionKey, CloseReason)>,
    pub(crate) told: KeptEvent,
    /// Patterns with requests.
    patterns: BTreeMap<String, u32>,
}

impl Numbered {
    fn publish(&self, core: &mut Core, topic: &str, source: &str, body: &str) {
        let body = format!(",\"topic\":\"{source}\",\"body\":\"{body}\"}}");
        let frame = Frame::text(core.frame_bytes())
            .prefix(PREFIX)
            .common(is_common(source))
            .received(core.now())
            .body(body.as_bytes())
            .finish();
        let note = Note::data(&body, &frame).numbered();
        core.publish(&Publication::new(topic.to_owned().into(), frame));
        let mut ledger = self.told.ledger.borrow_mut();
        ledger.publish(core.now(), topic, &note, true, Retain::Keep);
    }

    fn answer(&self, core: &mut Core, key: SessionKey, text: &str) {
        let body = format!(",\"answer\":\"{text}\"}}");
        let frame = Frame::text(core.frame_bytes())
            .answer()
            .prefix(PREFIX)
            .body(body.as_bytes())
            .finish();
        core.send(key, &frame);
        let note = Note::data(&body, &frame).numbered().answer();
        self.told.ledger.borrow_mut().send(core.now(), key, &note);
    }
}

impl Gateway for Numbered {
    type Client = ();
    type In = In;
    type Out = Out;

    fn entrance(&self, path: &str) -> Entrance<'_> {
        entrance(path)
    }

    fn admit(&mut self, core: &mut Core, key: SessionKey, head: &RequestHead<'_>) -> Admission<()> {
        admit(core, &self.told.ledger, key, head, ())
    }

    fn handle_opened(&mut self, core: &mut Core, key: SessionKey, (): &mut ()) {
        self.told.ledger.borrow_mut().opened(key);
        self.answer(core, key, "hello");
    }

    fn handle_message(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        (): &mut (),
        message: Incoming<'_>,
    ) {
        let Incoming::Text(text) = message else {
            return;
        };
        match text.split_once(' ') {
            Some(("join", name)) => {
                if self.told.join(core, key, name) && name.ends_with('*') {
                    *self.patterns.entry(name.to_owned()).or_default() += 1;
                }
                self.answer(core, key, name);
            }
            Some(("leave", name)) => {
                self.told.leave(core, key, name);
                self.answer(core, key, name);
            }
            Some(("bye", _)) => {
                self.answer(core, key, "bye");
                bye(core, &self.told.ledger, key);
            }
            _ => self.answer(core, key, "what?"),
        }
    }

    fn handle_input(&mut self, core: &mut Core, _: &mut ByClient<()>, input: In) {
        let In::Publish(topic, body) = input else {
            return;
        };
        self.publish(core, &topic, &topic, &body);
        let matching = self
            .patterns
            .keys()
            .filter(|p| topic.starts_with(p.trim_end_matches('*')));
        for pattern in matching {
            self.publish(core, pattern, pattern, &body);
        }
    }

    /// Skips a number for every member of any topic.
    fn handle_notice(&mut self, core: &mut Core, clients: &mut ByClient<()>, notice: &BusNotice) {
        assert_eq!(*notice, BusNotice::Gap);
        for (key, ()) in clients.iter_mut() {
            if core.joined(key).next().is_some() {
                core.skip_number(key);
            }
        }
    }

    fn handle_closed(&mut self, core: &mut Core, key: SessionKey, closed: Closed<()>) {
        let reason = closed.reason();
        self.told.closed(core);
        self.told.ledger.borrow_mut().closed(key, reason);
        self.closed.push((key, reason));
    }

    fn poll_output(&mut self) -> Option<Out> {
        self.told.outputs.pop_front()
    }
}

/// A topic per symbol: `sub A,B`, `unsub A,B`, and `refuse A,B` for what the client does not get.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    pub(crate) closed: Vec<(SessionKey, CloseReason)>,
    pub(crate) told: KeptEvent,
}

impl Gateway for Symbols {
    type Client = ();
    type In = In;
    type Out = Out;

    fn entrance(&self, path: &str) -> Entrance<'_> {
        entrance(path)
    }

    fn admit(&mut self, core: &mut Core, key: SessionKey, head: &RequestHead<'_>) -> Admission<()> {
        admit(core, &self.told.ledger, key, head, ())
    }

    fn handle_opened(&mut self, _: &mut Core, key: SessionKey, (): &mut ()) {
        self.told.ledger.borrow_mut().opened(key);
    }

    fn handle_message(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        (): &mut (),
        message: Incoming<'_>,
    ) {
        let Incoming::Text(text) = message else {
            return;
        };
        let Some((verb, symbols)) = text.split_once(' ') else {
            return;
        };
        for symbol in symbols.split(',') {
            match verb {
                "sub" => drop(self.told.join(core, key, symbol)),
                "unsub" => self.told.leave(core, key, symbol),
                "refuse" => core.note_refused_name(key, symbol, NameRefusal::Denied),
                _ => {}
            }
        }
    }

    fn handle_input(&mut self, core: &mut Core, _: &mut ByClient<()>, input: In) {
        if let In::Publish(symbol, body) = input {
            publish(core, &self.told.ledger, symbol, &body);
        }
    }

    fn handle_closed(&mut self, core: &mut Core, key: SessionKey, closed: Closed<()>) {
        let reason = closed.reason();
        self.told.closed(core);
        self.told.ledger.borrow_mut().closed(key, reason);
        self.closed.push((key, reason));
    }

    fn poll_output(&mut self) -> Option<Out> {
        self.told.outputs.pop_front()
    }
}

/// Devices: every message becomes a call, one at a time per connection; pushes go in between.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    pub(crate) closed: Vec<(SessionKey, CloseReason)>,
    pub(crate) told: KeptEvent,
    in_flight: BTreeMap<u64, SessionKey>,
    next_call: u64,
}

/// The sequence of a connection.
#[derive(Debug, Default)]
pub(crate) struct Device {
    waiting: VecDeque<String>,
    calls: bool,
}

/// Most messages waiting on a connection before reading is paused.
pub(crate) const WAITING_MAX: usize = 4;

impl Devices {
    fn call_next(&mut self, core: &mut Core, key: SessionKey, device: &mut Device) {
        if device.waiting.len() <= WAITING_MAX {
            core.resume_reading(key);
        }
        if device.calls {
            return;
        }
        let next = device.waiting.pop_front();
        device.calls = next.is_some();
        match device.calls {
            true => core.set_busy(key),
            false => core.set_idle(key),
        }
        if let Some(body) = next {
            self.next_call += 1;
            let id = self.next_call;
            self.in_flight.insert(id, key);
            self.told.outputs.push_back(Out::Call(Call { id, body }));
        }
    }
}

impl Gateway for Devices {
    type Client = Device;
    type In = In;
    type Out = Out;

    fn entrance(&self, path: &str) -> Entrance<'_> {
        entrance(path)
    }

    fn admit(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        head: &RequestHead<'_>,
    ) -> Admission<Device> {
        admit(core, &self.told.ledger, key, head, Device::default())
    }

    fn handle_opened(&mut self, core: &mut Core, key: SessionKey, _: &mut Device) {
        self.told.ledger.borrow_mut().opened(key);
        // Identify within ten seconds.
        core.set_deadline(key, Some(core.now().mono_us + 10_000_000));
    }

    fn handle_message(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        device: &mut Device,
        message: Incoming<'_>,
    ) {
        let Incoming::Text(text) = message else {
            return;
        };
        if let Some(name) = text.strip_prefix("device ") {
            core.set_deadline(key, None);
            self.told.join(core, key, name);
            return;
        }
        device.waiting.push_back(text.to_owned());
        if device.waiting.len() > WAITING_MAX {
            core.pause_reading(key);
        }
        self.call_next(core, key, device);
    }

    fn handle_input(&mut self, core: &mut Core, clients: &mut ByClient<Device>, input: In) {
        match input {
            In::Publish(device, body) => publish(core, &self.told.ledger, device, &body),
            In::Reply(id, body) => {
                let key = self.in_flight.remove(&id).expect("a call that was made");
                let Some(device) = clients.get_mut(key) else {
                    return core.set_idle(key);
                };
                let frame = Frame::text(core.frame_bytes()).answer();
                let frame = frame.body(body.as_bytes()).finish();
                core.send(key, &frame);
                let note = Note::data(&body, &frame).answer();
                self.told.ledger.borrow_mut().send(core.now(), key, &note);
                device.calls = false;
                self.call_next(core, key, device);
            }
        }
    }

    fn handle_deadline(&mut self, core: &mut Core, key: SessionKey, _: &mut Device) {
        let code = CloseCode::new(1008, "identify first");
        core.close(key, code, CloseReason::Policy, Closing::Now);
        self.told.ledger.borrow_mut().closing(key);
    }

    fn handle_closed(&mut self, core: &mut Core, key: SessionKey, closed: Closed<Device>) {
        let reason = closed.reason();
        self.told.closed(core);
        self.told.ledger.borrow_mut().closed(key, reason);
        self.closed.push((key, reason));
    }

    fn poll_output(&mut self) -> Option<Out> {
        self.told.outputs.pop_front()
    }
}
