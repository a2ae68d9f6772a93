//! Last values: questions to JetStream about exact subjects, over the connection of the messages, so
//! that an answer stands in its order among the messages. Pure: the session writes and reads.
//!
//! For each subject two questions: which stream holds the subject, and its last message. A question
//! without an answer ends after [`ANSWER_TIMEOUT`] with no value.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sonic_rs::JsonValueTrait;

use super::protocol::{self, Delivery};
use crate::sources::interest::Question;

/// Questions on their way at once; the others wait.
const ASKED_MAX: usize = 64;
/// How long both answers may take together.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// The questions of one connection.
#[derive(Debug)]
pub(super) struct Retained {
    /// Answers come to this subject with the number of the question behind it.
    inbox: String,
    /// Of the subscription to the inbox; `None` while nothing was asked.
    sid: Option<u64>,
    asked: HashMap<u64, Asked>,
    /// In the order of their ends.
    line: VecDeque<u64>,
    last: u64,
}

#[derive(Debug)]
struct Asked {
    question: Question,
    /// The answer that is missing is the message; `false`: the name of the stream.
    stream_is_known: bool,
    due: Instant,
}

/// A question that is answered: with a value, or with none.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) question: Question,
    pub(super) payload: Option<Vec<u8>>,
}

impl Retained {
    pub(super) fn new() -> Self {
        // Nobody else can guess it: the keys of the hasher are random.
        let [one, other] = [0, 1].map(|n| RandomState::new().hash_one(n));
        Self {
            inbox: format!("_INBOX.{one:016x}{other:016x}"),
            sid: None,
            asked: HashMap::new(),
            line: VecDeque::new(),
            last: 0,
        }
    }

    /// Another question may be asked.
    pub(super) fn has_room(&self) -> bool {
        self.asked.len() < ASKED_MAX
    }

    /// The number of the subscription to the answers.
    pub(super) fn sid(&self) -> Option<u64> {
        self.sid
    }

    /// Asks which stream holds the subject. `sid` is for the subscription to the answers, if there is
    /// none.
    pub(super) fn ask(
        &mut self,
        question: Question,
        now: Instant,
        out: &mut Vec<u8>,
        sid: impl FnOnce() -> u64,
    ) {
        if self.sid.is_none() {
            let sid = sid();
            self.sid = Some(sid);
            protocol::subscribe(out, &format!("{}.*", self.inbox), sid);
        }
        self.last += 1;
        let body = sonic_rs::json!({ "subject": &*question.subscription.name }).to_string();
        let reply = self.reply(self.last);
        protocol::publish(out, "$JS.API.STREAM.NAMES", &reply, body.as_bytes());
        let asked = Asked {
            question,
            stream_is_known: false,
            due: now + ANSWER_TIMEOUT,
        };
        self.asked.insert(self.last, asked);
        self.line.push_back(self.last);
    }

    /// An answer has come. `None`: it belongs to no question, or another question follows from it.
    pub(super) fn take(&mut self, delivery: &Delivery, out: &mut Vec<u8>) -> Option<Answered> {
        let number = delivery.subject.rsplit_once('.')?.1.parse().ok()?;
        let asked = self.asked.get_mut(&number)?;
        if asked.stream_is_known {
            let payload = last_message(&delivery.payload);
            return self.end(number, payload);
        }
        let stream = first_stream(&delivery.payload).filter(|_| delivery.status.is_none());
        let Some(stream) = stream else {
            return self.end(number, None);
        };
        asked.stream_is_known = true;
        let name = &*asked.question.subscription.name;
        let body = sonic_rs::json!({ "last_by_subj": name }).to_string();
        let subject = format!("$JS.API.STREAM.MSG.GET.{stream}");
        protocol::publish(out, &subject, &self.reply(number), body.as_bytes());
        None
    }

    /// The next question whose time is over.
    pub(super) fn next_late(&mut self, now: Instant) -> Option<Answered> {
        while let Some(number) = self.line.front().copied() {
            match self.asked.get(&number) {
                Some(asked) if asked.due > now => return None,
                Some(_) => return self.end(number, None),
                None => drop(self.line.pop_front()),
            }
        }
        None
    }

    /// When the first question ends without an answer.
    pub(super) fn due(&self) -> Option<Instant> {
        let first = self.line.iter().find_map(|number| self.asked.get(number))?;
        Some(first.due)
    }

    /// Questions that nobody will answer on this connection, oldest first.
    pub(super) fn give_up(&mut self) -> Vec<Question> {
        let line = std::mem::take(&mut self.line);
        let asked = line.iter().filter_map(|number| self.asked.remove(number));
        asked.map(|asked| asked.question).collect()
    }

    fn end(&mut self, number: u64, payload: Option<Vec<u8>>) -> Option<Answered> {
        let question = self.asked.remove(&number)?.question;
        if self.line.front() == Some(&number) {
            self.line.pop_front();
        }
        Some(Answered { question, payload })
    }

    fn reply(&self, number: u64) -> String {
        format!("{}.{number}", self.inbox)
    }
}

/// The first name in a list of streams. Of streams whose subjects are their own, one at most holds a
/// subject.
fn first_stream(answer: &[u8]) -> Option<String> {
    let first = sonic_rs::get(answer, sonic_rs::pointer!["streams", 0]).ok()?;
    first.as_str().map(str::to_owned)
}

/// The payload of the message in the answer; `None` for an error, such as that there is none.
fn last_message(answer: &[u8]) -> Option<Vec<u8>> {
    let message = sonic_rs::get(answer, ["message"]).ok()?;
    // An empty payload has no member.
    let data = message.get("data")?;
    STANDARD.decode(data.as_str()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feeds::Subscription;

    fn question(number: u64) -> Question {
        Question {
            subscription: Subscription::channel("a.b"),
            number,
        }
    }

    fn answer(retained: &Retained, number: u64, payload: &str) -> Delivery {
        Delivery {
            subject: retained.reply(number),
            payload: payload.as_bytes().to_vec(),
            ..Delivery::default()
        }
    }

    #[test]
    fn a_value_takes_two_questions_and_a_time() {
        let (mut retained, mut out, now) = (Retained::new(), Vec::new(), Instant::now());
        for number in 1..4 {
            retained.ask(question(number), now, &mut out, || 9);
        }
        let text = String::from_utf8_lossy(&out);
        assert_eq!(text.matches("SUB ").count(), 1);
        assert_eq!(text.matches("$JS.API.STREAM.NAMES").count(), 3);
        out.clear();
        let names = answer(&retained, 1, r#"{"type":"x","streams":["S"]}"#);
        assert!(retained.take(&names, &mut out).is_none());
        let text = String::from_utf8_lossy(&out);
        assert!(text.contains("$JS.API.STREAM.MSG.GET.S _INBOX."), "{text}");
        assert!(text.contains(r#"{"last_by_subj":"a.b"}"#), "{text}");
        let message = answer(&retained, 1, r#"{"message":{"seq":3,"data":"aGk="}}"#);
        let answered = retained.take(&message, &mut out).expect("a value");
        assert_eq!(answered.payload.as_deref(), Some(b"hi".as_slice()));
        assert_eq!(answered.question.number, 1);
        assert!(retained.take(&message, &mut out).is_none(), "late");
        let none = answer(&retained, 2, r#"{"streams":null}"#);
        let answered = retained.take(&none, &mut out).expect("an end");
        assert_eq!((answered.question.number, answered.payload), (2, None));
        assert!(retained.next_late(now).is_none());
        let late = retained.next_late(now + ANSWER_TIMEOUT).expect("an end");
        assert_eq!((late.question.number, late.payload), (3, None));
        assert!(retained.next_late(now + ANSWER_TIMEOUT).is_none() && retained.due().is_none());
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
            assert_eq!(last_message(text.as_bytes()), None, "{text}");
            assert_eq!(first_stream(text.as_bytes()), None, "{text}");
        }
    }
}
