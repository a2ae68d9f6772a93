//! The check before a start for the sources that read plain subjects or a stream whole: one connection of their own kind,
//! with the requests that they send ([`NatsNeeds`]). Changes nothing in NATS: a request has a body that JetStream refuses,
//! and an acknowledgement has a word that it ignores.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use super::api::{ApiError, refusal};
use super::ask::{Asks, Room, on_a_server, permission};
use super::consumers::asked;
use super::error::{INBOXES, NatsError, refused};
use super::login::Info;
use super::needs::{Action, NatsNeeds, Need};
use super::protocol::{self, Op, inbox};
use super::servers::waiter;
use super::settings::{Endpoint, NatsSettings};
use super::wire::{Patience, Wire};
use crate::socket::Waiter;
use crate::{Answers, to_ask};
use weirgate_wire::base::Finding;
use weirgate_wire::json;

/// The longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes kept of an answer: a long list of streams is cut, and cannot be read.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The most streams whose last values are tried.
const STREAMS_MAX: usize = 16;
/// The most names for which streams are looked up.
const NAMES_MAX: usize = 100;
/// The consumer in the requests of the check; no consumer has this name.
const CONSUMER: &str = "weirgate-check";
/// The subscription to the answers.
const ANSWERS_SID: u64 = 1;

/// Checks plain subjects: whether this user has the permissions of `needs`, and whether the server takes messages of
/// the largest size.
pub fn ask_plain(settings: &NatsSettings, needs: &NatsNeeds) -> Vec<Finding> {
    let open = |server: &Endpoint| Asking::open(server, settings);
    on_a_server(settings, open, |link, found| {
        let (bytes_max, bytes) = (link.info().max_payload(), needs.payload_bytes_max);
        if bytes_max < bytes {
            found.push(Finding::Error(format!(
                "NATS takes messages of {bytes_max} bytes (max_payload), and messages have up to {bytes}"
            )));
        }
        if needs.has_positions && link.info().is_clustered() {
            found.push(Finding::Warning(
                "NATS names a cluster, whatever --bus-settle-ms 0 says: messages have no position, and nobody resumes \
                 (`off`)"
                    .to_owned(),
            ));
        }
        for subject in &needs.published {
            let may = link.may_publish(subject, b"")?;
            found.push(permission(&format!("publish to {subject}"), may));
        }
        if let Some((stream, needs)) = &needs.jetstream.stream {
            whole_stream(link, (stream, needs), found)?;
        }
        subscriptions(link, needs, found)?;
        if !needs.jetstream.last_values.is_empty() {
            last_values(link, needs, found)?;
        }
        Ok(())
    })
}

/// Checks the subjects of the gateway and of its clients, by subscribing to each.
fn subscriptions(
    link: &Asking,
    needs: &NatsNeeds,
    found: &mut Vec<Finding>,
) -> Result<(), NatsError> {
    let mut answers = Answers::default();
    for (subject, is_request) in to_ask(&needs.subscriptions, &needs.requests) {
        let answer = match link.may_subscribe(subject)? {
            true => Ok(()),
            false => Err("NATS does not permit it".to_owned()),
        };
        answers.take(subject.clone(), is_request, answer);
    }
    let (needed, requests) = (needs.subscriptions.len(), needs.requests.len());
    answers.report("NATS", needed, requests, found);
    Ok(())
}

/// Checks a stream that is read whole.
fn whole_stream(
    link: &Asking,
    (stream, needs): (&str, &[Need]),
    found: &mut Vec<Finding>,
) -> Result<(), NatsError> {
    let failed = |error| asked(format!("read the stream {stream}"), error);
    let mut room = Room::ask(link).map_err(failed)?;
    let look = match Room::stream(link, stream) {
        Err(error) if error.stream_is_missing() => {
            return Err(NatsError::NoSuchStream(stream.to_owned()));
        }
        look => look.map_err(failed)?,
    };
    if look.config.retention == "workqueue" {
        return Err(NatsError::WorkQueue(stream.to_owned()));
    }
    if look.config.retention == "interest" {
        found.push(Finding::Warning(format!(
            "the stream {stream} keeps no message after all consumers have it (retention: interest): what is \
             published while weirgate is away is lost, and a restart has no history"
        )));
    }
    let lack = room.lack_of_consumer(stream, &look);
    found.extend(lack.map(Finding::Error));
    let action = format!("read the stream {stream}");
    let lacks = lacking(link, needs, Some(stream), &action)?;
    if lacks.iter().all(|lack| matches!(lack, Finding::Warning(_))) {
        found.push(Finding::Good(format!("may read the stream {stream}")));
    }
    found.extend(lacks);
    Ok(())
}

/// Checks the questions for last values, at the streams with the subjects that clients may ask for.
fn last_values(
    link: &Asking,
    needs: &NatsNeeds,
    found: &mut Vec<Finding>,
) -> Result<(), NatsError> {
    let action = "give last values";
    let all = needs.jetstream.last_values.iter();
    let (of_streams, general): (Vec<Need>, Vec<Need>) =
        all.partition(|need| need.action.is_of_a_stream());
    let mut lacks = lacking(link, &general, None, action)?;
    let mut streams = BTreeSet::new();
    for name in needs.requests.iter().take(NAMES_MAX) {
        streams.extend(link.streams_of(name));
    }
    for stream in streams.iter().take(STREAMS_MAX) {
        lacks.extend(lacking(link, &of_streams, Some(stream), action)?);
    }
    match (lacks.is_empty(), streams.len()) {
        (true, 0) => found.push(Finding::Warning(
            "no stream holds a subject that clients may ask for: there are no last values"
                .to_owned(),
        )),
        (true, count) => found.push(Finding::Good(format!(
            "may ask for the last values of {count} streams"
        ))),
        (false, _) => found.extend(lacks),
    }
    let more = streams.len().saturating_sub(STREAMS_MAX);
    if more > 0 {
        let text = format!("{more} more streams were not asked for");
        found.push(Finding::Warning(text));
    }
    Ok(())
}

/// The permissions of these needs that this user lacks. The requests have a body that JetStream refuses.
fn lacking(
    link: &Asking,
    needs: &[Need],
    stream: Option<&str>,
    action: &str,
) -> Result<Vec<Finding>, NatsError> {
    let mut lacks = Vec::new();
    for need in needs {
        let subject = need.action.subject(stream.unwrap_or_default(), CONSUMER);
        let may = match need.action {
            Action::Acknowledge | Action::ControlFlow => link.may_publish(&subject, b"check")?,
            _ => match link.request(&subject, b"{") {
                Err(ApiError::NotPermitted(what)) if !what.ends_with(INBOXES) => false,
                Err(error) if !error.is_an_answer() => return Err(asked(action.to_owned(), error)),
                _ => true,
            },
        };
        if !may {
            let what = format!("publish to {}", need.action.permission(stream));
            let Finding::Error(text) = permission(&what, false) else {
                continue;
            };
            lacks.push(match need.without {
                None => Finding::Error(text),
                Some(without) => Finding::Warning(format!("{text}; without that, {without}")),
            });
        }
    }
    Ok(lacks)
}

/// A connection for one request at a time, as the sources make it.
struct Asking {
    info: Info,
    state: RefCell<State>,
}

struct State {
    waiter: Waiter,
    wire: Wire,
    inbox: String,
    /// The number of the last request, or of the last subscription.
    last: u64,
    /// This user may not subscribe to the subject for answers.
    is_deaf: bool,
}

impl Asks for Asking {
    fn info(&self) -> &Info {
        &self.info
    }

    fn ask(&self, verb: &str, body: &[u8]) -> Result<Vec<u8>, ApiError> {
        self.request(&format!("$JS.API.{verb}"), body)
    }

    fn leave(self) {
        let State { waiter, wire, .. } = self.state.into_inner();
        wire.leave(&waiter);
    }
}

impl Asking {
    fn open(server: &Endpoint, settings: &NatsSettings) -> Result<Self, NatsError> {
        let (mut waiter, _) = waiter("the check of NATS")?;
        let patience = Patience::USUAL;
        let mut wire = Wire::open(&mut waiter, server, settings, ANSWER_BYTES_MAX, patience)?;
        let inbox = inbox();
        protocol::subscribe(wire.out(), &format!("{inbox}.*"), None, ANSWERS_SID);
        let info = wire.info.clone();
        let state = RefCell::new(State {
            waiter,
            wire,
            inbox,
            last: ANSWERS_SID,
            is_deaf: false,
        });
        Ok(Self { info, state })
    }

    /// Sends a request. Returns the JSON of the answer, or the error in the answer.
    fn request(&self, subject: &str, body: &[u8]) -> Result<Vec<u8>, ApiError> {
        let mut state = self.state.borrow_mut();
        let deaf = || Err(ApiError::NotPermitted(format!("subscribe to {INBOXES}")));
        if state.is_deaf {
            return deaf();
        }
        state.last += 1;
        let (number, reply) = (state.last, format!("{}.{}", state.inbox, state.last));
        protocol::publish(state.wire.out(), subject, &reply, body);
        let refusal_of = |words: &str| refused(words).filter(|refusal| !refusal.1);
        let answer = state.until(|_, op, is_deaf| match op {
            _ if is_deaf => Some(deaf()),
            Op::Message(answer) if answer.request() == Some(number) => {
                Some(match answer.status.is_some() {
                    true => Err(ApiError::NoJetStream),
                    false => Ok(answer.payload),
                })
            }
            Op::Error(words) if refusal_of(&words).is_some_and(|it| it.0 == subject) => {
                let what = format!("publish to {subject}");
                Some(Err(ApiError::NotPermitted(what)))
            }
            _ => None,
        });
        let answer = answer.map_err(|error| ApiError::Connection(io::Error::other(error)))?;
        let answer = answer.unwrap_or(Err(ApiError::NoAnswer(TIMEOUT)))?;
        match refusal(json::read(&answer)?) {
            Some(refusal) => Err(refusal),
            None => Ok(answer),
        }
    }

    /// Whether this user may subscribe to `subject`.
    fn may_subscribe(&self, subject: &str) -> Result<bool, NatsError> {
        let mut state = self.state.borrow_mut();
        state.last += 1;
        let sid = state.last;
        protocol::subscribe(state.wire.out(), subject, None, sid);
        let may = state.is_permitted(subject, true)?;
        protocol::unsubscribe(state.wire.out(), sid);
        Ok(may)
    }

    /// Publishes a message. Returns whether this user may.
    fn may_publish(&self, subject: &str, payload: &[u8]) -> Result<bool, NatsError> {
        let mut state = self.state.borrow_mut();
        protocol::publish(state.wire.out(), subject, "", payload);
        state.is_permitted(subject, false)
    }

    /// The streams that hold a part of these subjects; none without an answer.
    fn streams_of(&self, name: &str) -> Vec<String> {
        let body = sonic_rs::json!({ "subject": name }).to_string();
        let subject = Action::StreamNames.of("");
        let answer = self.request(&subject, body.as_bytes()).unwrap_or_default();
        let names = json::read(&answer).ok().and_then(|answer| {
            let streams = answer.get(&["streams"])?;
            json::value(&streams).ok()
        });
        names.unwrap_or_default()
    }
}

impl State {
    /// Whether the server has not refused `subject` when it answers a ping.
    fn is_permitted(&mut self, subject: &str, is_subscription: bool) -> Result<bool, NatsError> {
        let (ping, mut may) = (self.wire.ping(), true);
        let answered = self.until(|wire, op, _| {
            if let Op::Error(words) = op {
                may &= refused(&words).as_ref() != Some(&(subject.to_owned(), is_subscription));
            }
            wire.is_answered(ping).then_some(())
        })?;
        match answered {
            Some(()) => Ok(may),
            None => Err(self.wire.silent()),
        }
    }

    /// Sends what waits, and reads until `is_end` finds an end; its last argument is [`Self::is_deaf`]. Returns `None` if
    /// there is no end in time.
    fn until<T>(
        &mut self,
        mut is_end: impl FnMut(&Wire, Op, bool) -> Option<T>,
    ) -> Result<Option<T>, NatsError> {
        let until = Instant::now() + TIMEOUT;
        while Instant::now() < until {
            self.wire.flush(&mut self.waiter)?;
            if !self.wire.read(&mut self.waiter)? {
                let waited = self.waiter.wait(until);
                waited.map_err(|error| self.wire.lost(&error))?;
            }
            while let Some(op) = self.wire.next_op()? {
                if let Op::Error(words) = &op
                    && let Some((subject, true)) = refused(words)
                {
                    self.is_deaf |= subject.starts_with(&self.inbox);
                }
                if let Some(end) = is_end(&self.wire, op, self.is_deaf) {
                    return Ok(Some(end));
                }
            }
        }
        Ok(None)
    }
}
