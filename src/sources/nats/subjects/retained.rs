//! Last values: questions to JetStream over the connection of the messages, so the order of answers
//! and messages is defined. Pure: the session writes and reads.
//!
//! An exact subject takes two requests: the name of the stream, and the last message. For a pattern see
//! [`super::last_values`]. A question ends after [`ANSWER_TIMEOUT`], with the values received until then.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::api::{self, first_stream, message, refusal};
use super::super::protocol::{self, Delivery};
use super::inbox;
use super::last_values::{LastValues, Next};
use crate::sources::interest::Question;
use crate::sources::outage::shown;
use crate::wire::json::{Json, JsonError};

/// Questions on their way at once; the others wait.
const ASKED_MAX: usize = 64;
/// How long the answers to a question may take together. Longer than the wait for a silent server,
/// so a question on a dead link is asked again on the next link.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The first number for subscriptions of questions; requested names have smaller numbers.
const FIRST_SID: u64 = 1 << 62;

/// The questions of one connection.
#[derive(Debug)]
pub(super) struct Retained {
    /// The subject for answers, before the number of the question.
    inbox: String,
    /// The limit on values of a pattern.
    values_max: usize,
    asked: HashMap<u64, Asked>,
    /// The numbers of the questions, in the order of their deadlines.
    line: VecDeque<u64>,
    last: u64,
    told: Vec<Told>,
}

#[derive(Debug)]
struct Asked {
    question: Question,
    step: Step,
    due: Instant,
}

/// The missing answer.
#[derive(Debug)]
enum Step {
    /// The streams that hold the subjects.
    Streams,
    /// The last message.
    Message,
    /// The values of a pattern.
    Values(LastValues),
}

/// A value, or the end of a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    Value {
        /// The question.
        of: Question,
        subject: Arc<str>,
        payload: Vec<u8>,
    },
    /// The question is answered.
    End {
        question: Question,
        /// The reason why values may be missing.
        lack: Option<Lack>,
    },
}

/// Why the values of a question may be missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lack {
    #[error("a pattern has more last values than are sent")]
    Cut,
    #[error("JetStream gives no last values: {0}")]
    Refused(String),
    #[error("an answer about last values cannot be read: {0}")]
    Unreadable(#[from] JsonError),
}

impl Retained {
    /// Makes an empty list; `values_max` is the limit on values sent for a pattern.
    pub(super) fn new(values_max: usize) -> Self {
        Self {
            inbox: inbox(),
            values_max,
            asked: HashMap::new(),
            line: VecDeque::new(),
            last: 0,
            told: Vec::new(),
        }
    }

    /// The number of questions on their way.
    pub(super) fn asked(&self) -> usize {
        self.asked.len()
    }

    /// Whether another question may be asked.
    pub(super) fn has_room(&self) -> bool {
        self.asked.len() < ASKED_MAX
    }

    /// Whether the subscription of this number belongs to a question.
    pub(super) fn is_of(sid: u64) -> bool {
        sid >= FIRST_SID
    }

    /// The values and ends since the last call.
    pub(super) fn take_told(&mut self) -> Vec<Told> {
        mem::take(&mut self.told)
    }

    /// Asks which streams hold the subjects.
    pub(super) fn ask(&mut self, question: Question, now: Instant, out: &mut Vec<u8>) {
        if self.last == 0 {
            protocol::subscribe(out, &format!("{}.*", self.inbox), None, FIRST_SID);
        }
        self.last += 1;
        let verb = match question.subscription.is_pattern {
            true => "LIST",
            false => "NAMES",
        };
        let body = sonic_rs::json!({ "subject": &*question.subscription.name }).to_string();
        let subject = format!("$JS.API.STREAM.{verb}");
        protocol::publish(out, &subject, &self.reply(self.last), body.as_bytes());
        let asked = Asked {
            question,
            step: Step::Streams,
            due: now + ANSWER_TIMEOUT,
        };
        self.asked.insert(self.last, asked);
        self.line.push_back(self.last);
    }

    /// Takes a message of a question's subscription.
    pub(super) fn take(&mut self, delivery: Delivery, out: &mut Vec<u8>) {
        if delivery.sid == FIRST_SID {
            let number = delivery.subject.rsplit_once('.');
            if let Some(number) = number.and_then(|(_, number)| number.parse().ok()) {
                self.answered(number, &delivery, out);
            }
        } else {
            self.delivered(delivery.sid - FIRST_SID, delivery, out);
        }
    }

    /// Ends the questions whose time is over.
    pub(super) fn end_late(&mut self, now: Instant, out: &mut Vec<u8>) {
        while let Some(number) = self.line.front().copied() {
            match self.asked.get(&number) {
                Some(asked) if asked.due > now => return,
                Some(_) => self.refuse(number, "no answer", out),
                None => drop(self.line.pop_front()),
            }
        }
    }

    /// When the first question ends without an answer.
    pub(super) fn due(&self) -> Option<Instant> {
        let first = self.line.iter().find_map(|number| self.asked.get(number))?;
        Some(first.due)
    }

    /// Handles the answer to a request.
    fn answered(&mut self, number: u64, delivery: &Delivery, out: &mut Vec<u8>) {
        let values_max = self.values_max;
        let reply = self.reply(number);
        let Some(asked) = self.asked.get_mut(&number) else {
            return;
        };
        let answer = match api::read(&delivery.payload) {
            Ok(answer) => answer,
            Err(error) => return self.end(number, Some(error.into()), out),
        };
        let subscription = &asked.question.subscription;
        let name = &subscription.name;
        let refused = refusal(answer).filter(|error| !error.message_is_missing());
        match (&mut asked.step, refused) {
            _ if delivery.status.is_some() => self.refuse(number, "nobody answers", out),
            (Step::Streams | Step::Message, Some(error)) => {
                self.refuse(number, &error.to_string(), out);
            }
            (Step::Streams, None) if subscription.is_pattern => {
                let values = LastValues::new(name, answer, values_max);
                asked.step = Step::Values(values);
                self.next_stream(number, out);
            }
            (Step::Streams, None) => match first_stream(answer).ok().flatten() {
                Some(stream) => {
                    let body = sonic_rs::json!({ "last_by_subj": &**name }).to_string();
                    let subject = format!("$JS.API.STREAM.MSG.GET.{stream}");
                    asked.step = Step::Message;
                    protocol::publish(out, &subject, &reply, body.as_bytes());
                }
                None => self.end(number, None, out),
            },
            (Step::Message, None) => {
                let value = last_message(answer).map(|payload| Told::Value {
                    of: asked.question.clone(),
                    subject: Arc::clone(name),
                    payload,
                });
                self.told.extend(value);
                self.end(number, None, out);
            }
            (Step::Values(values), _) => {
                if values.created(answer) == Next::Stream {
                    self.next_stream(number, out);
                }
            }
        }
    }

    /// Handles a value delivered by a consumer.
    fn delivered(&mut self, number: u64, delivery: Delivery, out: &mut Vec<u8>) {
        let Some(asked) = self.asked.get_mut(&number) else {
            return;
        };
        let Step::Values(values) = &mut asked.step else {
            return;
        };
        let (is_good, next) = values.delivered(&delivery);
        if is_good && (delivery.is_deletion || !delivery.payload.is_empty()) {
            self.told.push(Told::Value {
                of: asked.question.clone(),
                subject: delivery.subject.into(),
                payload: delivery.payload,
            });
        }
        if next == Next::Stream {
            self.next_stream(number, out);
        }
    }

    /// Leaves the consumer of a pattern, and requests a consumer of the next stream.
    fn next_stream(&mut self, number: u64, out: &mut Vec<u8>) {
        let (inbox, reply) = (format!("{}.v.{number}", self.inbox), self.reply(number));
        self.leave_consumer(number, out);
        let Some(Asked {
            step: Step::Values(values),
            ..
        }) = self.asked.get_mut(&number)
        else {
            return;
        };
        match values.next_consumer(&inbox) {
            Some((subject, body)) => {
                protocol::subscribe(out, &inbox, None, FIRST_SID + number);
                protocol::publish(out, &subject, &reply, body.as_bytes());
            }
            None => self.end(number, None, out),
        }
    }

    fn leave_consumer(&mut self, number: u64, out: &mut Vec<u8>) {
        let nobody = self.reply(0);
        if let Some(asked) = self.asked.get_mut(&number)
            && let Step::Values(values) = &mut asked.step
        {
            protocol::unsubscribe(out, FIRST_SID + number);
            if let Some(subject) = values.delete() {
                protocol::publish(out, &subject, &nobody, b"");
            }
        }
    }

    fn refuse(&mut self, number: u64, words: &str, out: &mut Vec<u8>) {
        self.end(number, Some(Lack::Refused(shown(words))), out);
    }

    fn end(&mut self, number: u64, lack: Option<Lack>, out: &mut Vec<u8>) {
        self.leave_consumer(number, out);
        let Some(asked) = self.asked.remove(&number) else {
            return;
        };
        if self.line.front() == Some(&number) {
            self.line.pop_front();
        }
        let of_values = match asked.step {
            Step::Values(values) => {
                let is_cut = values.is_cut.then_some(Lack::Cut);
                values.refused.map(Lack::Refused).or(is_cut)
            }
            _ => None,
        };
        self.told.push(Told::End {
            question: asked.question,
            lack: lack.or(of_values),
        });
    }

    fn reply(&self, number: u64) -> String {
        format!("{}.{number}", self.inbox)
    }
}

/// The payload of the message in the answer, empty if the value was deleted; `None` for an error, such as a missing
/// message, and for no payload.
fn last_message(answer: Json<'_>) -> Option<Vec<u8>> {
    let message = message(answer).ok()?;
    let is_value = message.is_deletion || !message.payload.is_empty();
    is_value.then_some(message.payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feeds::Subscription;

    fn question(number: u64, name: &str) -> Question {
        let subscription = match name.contains(['*', '>']) {
            true => Subscription::pattern(name),
            false => Subscription::channel(name),
        };
        Question {
            subscription,
            number,
        }
    }

    fn answer(retained: &Retained, number: u64, payload: &str) -> Delivery {
        Delivery {
            subject: retained.reply(number),
            sid: FIRST_SID,
            payload: payload.as_bytes().to_vec(),
            ..Delivery::default()
        }
    }

    fn ended(number: u64, name: &str, lack: Option<Lack>) -> Told {
        let question = question(number, name);
        Told::End { question, lack }
    }

    fn end(number: u64, name: &str) -> Told {
        ended(number, name, None)
    }

    fn refused(number: u64, name: &str, words: &str) -> Told {
        ended(number, name, Some(Lack::Refused(words.to_owned())))
    }

    #[test]
    fn a_refusal_is_told_with_its_words() {
        let list = r#"{"streams":[{"config":{"name":"S","subjects":["a.>"]}}]}"#;
        let used_up = r#"{"error":{"err_code":10026,"description":"maximum consumers"}}"#;
        let none = r#"{"error":{"err_code":10037,"description":"no message found"}}"#;
        let words = "error 10026: maximum consumers";
        for (name, answers, want) in [
            ("a.*", [list, used_up], refused(1, "a.*", words)),
            ("a.b", [used_up, ""], refused(1, "a.b", words)),
            ("a.b", [r#"{"streams":["S"]}"#, none], end(1, "a.b")),
        ] {
            let (mut retained, mut out) = (Retained::new(10), Vec::new());
            retained.ask(question(1, name), Instant::now(), &mut out);
            for text in answers {
                retained.take(answer(&retained, 1, text), &mut out);
            }
            assert_eq!(retained.take_told(), [want]);
        }
    }

    #[test]
    fn a_value_takes_two_requests_and_a_time() {
        let (mut retained, mut out, now) = (Retained::new(10), Vec::new(), Instant::now());
        for number in 1..4 {
            retained.ask(question(number, "a.b"), now, &mut out);
        }
        let text = String::from_utf8_lossy(&out);
        assert_eq!(text.matches("SUB ").count(), 1);
        assert_eq!(text.matches("$JS.API.STREAM.NAMES").count(), 3);
        out.clear();
        let names = answer(&retained, 1, r#"{"type":"x","streams":["S"]}"#);
        retained.take(names, &mut out);
        let text = String::from_utf8_lossy(&out);
        assert!(text.contains("$JS.API.STREAM.MSG.GET.S _INBOX."), "{text}");
        assert!(text.contains(r#"{"last_by_subj":"a.b"}"#), "{text}");
        let message = answer(&retained, 1, r#"{"message":{"seq":3,"data":"aGk="}}"#);
        retained.take(message.clone(), &mut out);
        let value = Told::Value {
            of: question(1, "a.b"),
            subject: "a.b".into(),
            payload: b"hi".to_vec(),
        };
        assert_eq!(retained.take_told(), [value, end(1, "a.b")]);
        retained.take(message, &mut out);
        assert_eq!(retained.take_told(), [], "late");
        let none = answer(&retained, 2, r#"{"streams":null}"#);
        retained.take(none, &mut out);
        assert_eq!(retained.take_told(), [end(2, "a.b")]);
        retained.end_late(now, &mut out);
        assert_eq!(retained.take_told(), []);
        retained.end_late(now + ANSWER_TIMEOUT, &mut out);
        assert_eq!(retained.take_told(), [refused(3, "a.b", "no answer")]);
        assert!(retained.due().is_none() && retained.asked() == 0);
    }

    #[test]
    fn the_consumer_of_a_pattern_is_left_whatever_ends_it() {
        for is_late in [false, true] {
            let (mut retained, mut out, now) = (Retained::new(10), Vec::new(), Instant::now());
            retained.ask(question(1, "a.*"), now, &mut out);
            let list = r#"{"streams":[{"config":{"name":"S","subjects":["a.>"]}}]}"#;
            let list = answer(&retained, 1, list);
            retained.take(list, &mut out);
            let created = answer(&retained, 1, r#"{"name":"c","num_pending":1}"#);
            retained.take(created, &mut out);
            out.clear();
            if is_late {
                retained.end_late(now + ANSWER_TIMEOUT, &mut out);
            } else {
                let value = Delivery {
                    subject: "a.x".to_owned(),
                    sid: FIRST_SID + 1,
                    reply: Some("$JS.ACK.S.c.1.9.1.123.0".to_owned()),
                    payload: b"1".to_vec(),
                    ..Delivery::default()
                };
                retained.take(value, &mut out);
            }
            let told = retained.take_told();
            assert_eq!(told.len(), if is_late { 1 } else { 2 });
            let want = match is_late {
                true => refused(1, "a.*", "no answer"),
                false => end(1, "a.*"),
            };
            assert_eq!(told.last(), Some(&want));
            let text = String::from_utf8_lossy(&out);
            assert!(text.contains("$JS.API.CONSUMER.DELETE.S.c"), "{text}");
            assert!(text.contains(&format!("UNSUB {}", FIRST_SID + 1)), "{text}");
        }
    }

    #[test]
    fn questions_beyond_the_limit_wait() {
        let (mut retained, mut out, now) = (Retained::new(10), Vec::new(), Instant::now());
        for number in 0..ASKED_MAX as u64 {
            assert!(retained.has_room());
            retained.ask(question(number, "a"), now, &mut out);
        }
        assert!(!retained.has_room());
        let none = answer(&retained, 7, "{}");
        retained.take(none, &mut out);
        assert!(retained.has_room());
        assert_eq!(retained.asked(), ASKED_MAX - 1);
    }

    #[test]
    fn errors_are_no_value() {
        for text in [
            "",
            "{}",
            r#"{"error":{"code":404,"err_code":10037}}"#,
            r#"{"message":{"seq":1}}"#,
            r#"{"message":{"seq":1,"data":"?"}}"#,
        ] {
            let text = api::read(text.as_bytes()).expect("no deep JSON");
            assert_eq!(last_message(text), None, "{text:?}");
            assert_eq!(first_stream(text).ok().flatten(), None, "{text:?}");
        }
    }

    #[test]
    fn a_deep_answer_ends_its_question_and_is_named() {
        let names = r#"{"streams":["S"]}"#;
        let list = r#"{"streams":[{"config":{"name":"S","subjects":["a.>"]}}]}"#;
        let deep = format!(r#"{{"name":"c","a":{}"#, "[".repeat(100_000));
        for (name, answers) in [
            ("a.b", vec![]),
            ("a.b", vec![names]),
            ("a.*", vec![]),
            ("a.*", vec![list]),
        ] {
            let (mut retained, mut out) = (Retained::new(10), Vec::new());
            retained.ask(question(1, name), Instant::now(), &mut out);
            for text in answers.into_iter().chain([deep.as_str()]) {
                let answer = answer(&retained, 1, text);
                retained.take(answer, &mut out);
            }
            let told = retained.take_told();
            let [
                Told::End {
                    lack: Some(lack), ..
                },
            ] = told.as_slice()
            else {
                panic!("{told:?}");
            };
            assert!(lack.to_string().contains("deeper than 512"), "{lack}");
        }
    }
}
