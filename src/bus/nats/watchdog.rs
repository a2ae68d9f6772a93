//! Asks the server again and again whether the consumers are well: without messages, a deleted consumer looks the same as
//! a silence of JetStream. The questions of each subscription are a round of their own, so a question without an answer
//! delays no other. Pure: callers pass the time, and send the questions.

use std::time::{Duration, Instant};

use nats::jetstream::ConsumerInfo;

use super::api::{
    ANSWER_TIMEOUT, ApiError, ApiRequest, ConsumerState, answer_of, first_stream, message,
    stream_of,
};
use super::consumers::{Durable, DurableTarget, durable_of};
use super::cursor::Reached;
use super::health::Counts;
use super::needs::Action;
use super::protocol::Delivery;
use super::settings::SubscriptionSpec;
use super::stream_info::StreamInfo;
use weirgate_wire::json::Json;

/// How long a fault must last before it is reported. The server says "not found" of a consumer while still deleting, and
/// a stream made in that moment can lose its files and its subjects to the deletion (seen with 2.9.10). A server that
/// has just become the leader of a stream may not count the newest messages yet.
const DOUBT: Duration = Duration::from_millis(300);

/// The part of a subscription that is watched.
pub(super) enum Watched {
    /// A consumer in use.
    Consumer(WatchedConsumer),
    /// A subject without a consumer, perhaps without a stream.
    Subject(SubscriptionSpec),
    /// A subject that is not watched.
    Nothing,
}

/// A consumer to watch.
pub(super) struct WatchedConsumer {
    pub(super) target: DurableTarget,
    /// The name of the consumer in use.
    pub(super) consumer: String,
    /// The consumer's deliver subject. A consumer of the same name with another deliver subject is another consumer.
    pub(super) deliver_subject: String,
    /// Whether to look for the durable consumer of `target` too.
    pub(super) awaits_durable: bool,
}

/// An answer of JetStream about a subscription.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WatchdogAnswer {
    /// An error of JetStream: it works, and nothing else is known.
    Other,
    /// The consumer of this name exists, with these counts.
    Counted(String, Counts),
    /// The consumer of this name, or its stream, is gone.
    Gone(String),
    /// The consumer of this name delivers nothing until a time (`pause_until`).
    Paused(String),
    /// The stream of the consumer of this name lacks messages that were handed over: it went back in time.
    WentBack(String),
    /// The durable consumer is free (it is suitable, and no client listens), or missing.
    Free,
    /// Whether the stream of a waiting subject exists.
    StreamExists(bool),
    /// The leader's word about the stream of a consumer.
    State(Box<StreamInfo>),
    /// No server leads the stream of a consumer.
    NoLeader,
    /// Nothing is known of the consumer in use, but the leader of its stream answers.
    StreamAnswers,
    /// The server says why JetStream does not answer, or that this user may not ask. Nothing is known of JetStream.
    Refused(ApiError),
}

/// What the watchdog needs of the session.
pub(super) trait AskServer {
    /// Sends a request. Returns the number of the answer.
    fn ask(&mut self, subject: &str, body: &[u8]) -> u64;
    /// The last message that the subscription of this index has handed over.
    fn reached(&self, index: usize) -> Option<Reached>;
}

/// The questions about all subscriptions of a connection.
pub(super) struct Watchdog {
    /// The pause between two rounds of questions about a subscription.
    interval: Duration,
    rounds: Vec<Round>,
}

/// The questions about a subscription.
struct Round {
    watched: Watched,
    /// Whether JetStream was away for a moment: it may have come back with another message under a known number.
    is_unsure: bool,
    step: RoundStep,
}

enum RoundStep {
    /// The next round begins then.
    Pause(Instant),
    /// An answer reported a fault. Asks a second time then.
    Doubt(Instant),
    Asked {
        question: InfoRequest,
        subject: String,
        /// The number of the answer.
        number: u64,
        since: Instant,
        look: Look,
    },
}

/// Which look at a subscription a question belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    First,
    /// After a fault was found and [`DOUBT`] has passed: what is found again is reported.
    Second,
}

/// What a question is about.
#[derive(Clone, Copy)]
enum InfoRequest {
    /// About the consumer in use.
    Consumer,
    /// About the stream of the consumer with these counts, when `reached` was handed over.
    Stream {
        counts: Counts,
        reached: Option<Reached>,
    },
    /// About the message that was stored at this time, in the stream with this last sequence.
    Message {
        counts: Counts,
        stored_unix_ns: u64,
        last_sequence: u64,
    },
    /// About the stream of the consumer in use, of which nothing is known.
    StreamOfUnknown,
    /// About the durable consumer. The last sequence of the stream; `None`: not known.
    Durable(Option<u64>),
    /// Which stream holds the subject.
    WhichStream,
    /// About the stream that holds the subject.
    SubjectStream,
}

impl Watchdog {
    /// A watchdog that asks about these subscriptions at once, and again after each `interval`.
    pub(super) fn new(interval: Duration, all: Vec<Watched>, now: Instant) -> Self {
        let rounds = Vec::new();
        let mut watchdog = Self { interval, rounds };
        watchdog.watch(all, now);
        watchdog
    }

    /// Watches these from now on: one for each subscription, in the same order.
    pub(super) fn watch(&mut self, all: Vec<Watched>, now: Instant) {
        let before: Vec<bool> = self.rounds.iter().map(|round| round.is_unsure).collect();
        let round = |(index, watched)| Round {
            watched,
            is_unsure: before.get(index).is_some_and(|is_unsure| *is_unsure),
            step: RoundStep::Pause(now),
        };
        self.rounds = all.into_iter().enumerate().map(round).collect();
    }

    /// The time of the next [`Self::tick`].
    pub(super) fn due(&self) -> Option<Instant> {
        self.rounds.iter().filter_map(Round::due).min()
    }

    /// Sends the questions that are due, and gives up those without an answer.
    pub(super) fn tick(&mut self, now: Instant, server: &mut impl AskServer) {
        for (index, round) in self.rounds.iter_mut().enumerate() {
            if round.due().is_some_and(|due| now >= due) {
                match round.step {
                    RoundStep::Pause(_) => round.begin(Look::First, now, server),
                    RoundStep::Doubt(_) => round.begin(Look::Second, now, server),
                    RoundStep::Asked { question, look, .. } => {
                        tracing::debug!(index, "no answer about a subscription");
                        round.is_unsure = true;
                        match round.after_silence(question) {
                            Some((question, request)) => {
                                round.send(question, request, look, now, server);
                            }
                            None => round.step = RoundStep::Pause(now + self.interval),
                        }
                    }
                }
            }
        }
    }

    /// Begins to wait for the answers now: nobody has read them until now.
    pub(super) fn wait_longer(&mut self, now: Instant) {
        for round in &mut self.rounds {
            if let RoundStep::Asked { since, .. } = &mut round.step {
                *since = now;
            }
        }
    }

    /// Takes an answer. Returns what it says, and the index of the subscription.
    pub(super) fn take(
        &mut self,
        message: Delivery,
        now: Instant,
        server: &mut impl AskServer,
    ) -> Option<(usize, Vec<WatchdogAnswer>)> {
        let number = message.request()?;
        self.answered(|_, asked| asked == number, answer_of(message), now, server)
    }

    /// Takes the refusal of a request: as an answer, if it was a question of the watchdog.
    pub(super) fn refused(
        &mut self,
        subject: &str,
        now: Instant,
        server: &mut impl AskServer,
    ) -> Option<(usize, Vec<WatchdogAnswer>)> {
        let refused = Err(ApiError::NotPermitted(format!("publish to {subject}")));
        self.answered(|asked, _| asked == subject, refused, now, server)
    }

    /// Takes the answer to the open question for which `is_it` returns true, given the subject and the number of its
    /// request. Returns the index of the subscription and what the answer says; `None` if the answer belongs to no open
    /// question.
    fn answered(
        &mut self,
        is_it: impl Fn(&str, u64) -> bool,
        answer: Result<Vec<u8>, ApiError>,
        now: Instant,
        server: &mut impl AskServer,
    ) -> Option<(usize, Vec<WatchdogAnswer>)> {
        let is_asked = |round: &Round| match &round.step {
            RoundStep::Asked {
                subject, number, ..
            } => is_it(subject, *number),
            RoundStep::Pause(_) | RoundStep::Doubt(_) => false,
        };
        let index = self.rounds.iter().position(is_asked)?;
        let round = &mut self.rounds[index];
        let pause = RoundStep::Pause(now + self.interval);
        let RoundStep::Asked { question, look, .. } = std::mem::replace(&mut round.step, pause)
        else {
            return None;
        };
        let verdict = round.judge(question, answer, look, server.reached(index));
        match verdict.next {
            AfterAnswer::Pause => {}
            AfterAnswer::Doubt => round.step = RoundStep::Doubt(now + DOUBT),
            AfterAnswer::Ask(question, request) => round.send(question, request, look, now, server),
        }
        Some((index, verdict.answers))
    }
}

/// What an answer of the server says, and what follows.
struct Verdict {
    answers: Vec<WatchdogAnswer>,
    next: AfterAnswer,
}

/// What follows an answer.
enum AfterAnswer {
    /// The pause before the next round.
    Pause,
    /// A second look at what may be a fault.
    Doubt,
    /// The next question of this round.
    Ask(InfoRequest, ApiRequest),
}

impl Verdict {
    /// The round ends with this, if the answer says anything.
    fn done(answers: impl IntoIterator<Item = WatchdogAnswer>) -> Self {
        Self {
            answers: Vec::from_iter(answers),
            next: AfterAnswer::Pause,
        }
    }

    /// There may be a fault.
    const fn doubt() -> Self {
        Self {
            answers: Vec::new(),
            next: AfterAnswer::Doubt,
        }
    }

    /// The answer alone decides nothing: the next question follows.
    const fn ask_next(question: InfoRequest, request: ApiRequest) -> Self {
        Self {
            answers: Vec::new(),
            next: AfterAnswer::Ask(question, request),
        }
    }
}

impl Round {
    fn due(&self) -> Option<Instant> {
        match (&self.watched, &self.step) {
            (Watched::Nothing, _) => None,
            (_, RoundStep::Pause(at) | RoundStep::Doubt(at)) => Some(*at),
            (_, RoundStep::Asked { since, .. }) => Some(*since + ANSWER_TIMEOUT),
        }
    }

    /// Sends the first question of a round: about the consumer, or about the stream of the subject, or, if the stream
    /// has no name in the settings, which stream has the subject. Sends nothing if nothing is watched.
    fn begin(&mut self, look: Look, now: Instant, server: &mut impl AskServer) {
        let (question, request) = match &self.watched {
            Watched::Nothing => return,
            Watched::Consumer(watched) => {
                let request = consumer_info(&watched.target.stream, &watched.consumer);
                (InfoRequest::Consumer, request)
            }
            Watched::Subject(spec) => match &spec.stream {
                Some(stream) => (InfoRequest::SubjectStream, stream_info(stream)),
                None => {
                    let subject = Action::StreamNames.subject_without_stream();
                    let body = sonic_rs::json!({ "subject": &spec.subject }).to_string();
                    (InfoRequest::WhichStream, ApiRequest { subject, body })
                }
            },
        };
        self.send(question, request, look, now, server);
    }

    /// The question that follows one without an answer, if any does.
    fn after_silence(&self, question: InfoRequest) -> Option<(InfoRequest, ApiRequest)> {
        match (&self.watched, question) {
            (Watched::Consumer(watched), InfoRequest::Consumer) => {
                Some(watched.question_for_unknown())
            }
            _ => None,
        }
    }

    /// Asks a question by this request.
    fn send(
        &mut self,
        question: InfoRequest,
        request: ApiRequest,
        look: Look,
        now: Instant,
        server: &mut impl AskServer,
    ) {
        self.step = RoundStep::Asked {
            number: server.ask(&request.subject, request.body.as_bytes()),
            question,
            subject: request.subject,
            since: now,
            look,
        };
    }

    /// Judges the answer to a question.
    fn judge(
        &mut self,
        question: InfoRequest,
        answer: Result<Vec<u8>, ApiError>,
        look: Look,
        reached: Option<Reached>,
    ) -> Verdict {
        self.is_unsure |= answer.as_ref().is_err_and(is_away);
        match (&self.watched, question) {
            (Watched::Consumer(watched), InfoRequest::Consumer) => {
                watched.judge_consumer(answer, look, reached)
            }
            (Watched::Consumer(watched), InfoRequest::Stream { counts, reached }) => {
                watched.judge_stream(answer, look, counts, reached, self.is_unsure)
            }
            (
                Watched::Consumer(watched),
                InfoRequest::Message {
                    counts,
                    stored_unix_ns,
                    last_sequence,
                },
            ) => match answer.and_then(|answer| message(Json::read(&answer)?)) {
                Ok(found) if found.stored_unix_ns.is_some_and(|at| at != stored_unix_ns) => {
                    watched.went_back(look)
                }
                // Nothing is known of the message; the next round asks again.
                Err(error) if is_away(&error) => Verdict::done(None),
                // A message that is gone proves nothing.
                Ok(_) | Err(_) => {
                    self.is_unsure = false;
                    watched.is_well(counts, Some(last_sequence))
                }
            },
            (Watched::Consumer(watched), InfoRequest::StreamOfUnknown) => {
                watched.judge_stream_of_unknown(answer)
            }
            (Watched::Consumer(watched), InfoRequest::Durable(last)) => {
                watched.judge_durable(answer, last)
            }
            (Watched::Subject(_), InfoRequest::WhichStream) => judge_which_stream(answer),
            (Watched::Subject(_), InfoRequest::SubjectStream) => judge_subject_stream(answer),
            // A question about something else than what is watched.
            _ => Verdict::done(None),
        }
    }
}

/// Whether an error shows that JetStream was away.
fn is_away(error: &ApiError) -> bool {
    !error.is_an_answer() && !matches!(error, ApiError::NotPermitted(_))
}

/// Judges which stream holds a subject.
fn judge_which_stream(answer: Result<Vec<u8>, ApiError>) -> Verdict {
    match answer.and_then(|answer| first_stream(Json::read(&answer)?)) {
        Ok(Some(stream)) => Verdict::ask_next(InfoRequest::SubjectStream, stream_info(&stream)),
        Ok(None) => Verdict::done([WatchdogAnswer::StreamExists(false)]),
        Err(error) => Verdict::done([said_by(error)]),
    }
}

/// Judges the answer about the stream that holds a subject: whether it is still there.
fn judge_subject_stream(answer: Result<Vec<u8>, ApiError>) -> Verdict {
    let found = match answer.and_then(|answer| stream_of(&answer)) {
        Ok(_) => WatchdogAnswer::StreamExists(true),
        Err(error) if error.stream_is_missing() => WatchdogAnswer::StreamExists(false),
        Err(error) => said_by(error),
    };
    Verdict::done([found])
}

impl WatchedConsumer {
    /// Judges the answer about the consumer in use.
    fn judge_consumer(
        &self,
        answer: Result<Vec<u8>, ApiError>,
        look: Look,
        reached: Option<Reached>,
    ) -> Verdict {
        match self.state_found(answer.and_then(|answer| ConsumerState::read(&answer))) {
            WatchdogAnswer::Gone(_) if look == Look::First => Verdict::doubt(),
            // A server that is cut off from its cluster still answers about the consumer, but the consumer gets
            // no messages. So the leader of the stream is asked too.
            WatchdogAnswer::Counted(_, counts) => {
                let question = InfoRequest::Stream { counts, reached };
                Verdict::ask_next(question, stream_info(&self.target.stream))
            }
            found @ WatchdogAnswer::Refused(_) => {
                let (question, request) = self.question_for_unknown();
                let mut verdict = Verdict::ask_next(question, request);
                verdict.answers.push(found);
                verdict
            }
            // `None`: the last sequence of the stream was not asked for.
            found => self.verdict(found, None),
        }
    }

    /// The question that follows if nothing is known of the consumer: another one is of use only if its stream is well.
    fn question_for_unknown(&self) -> (InfoRequest, ApiRequest) {
        let request = stream_info(&self.target.stream);
        (InfoRequest::StreamOfUnknown, request)
    }

    /// Judges the answer about the stream of a consumer of which nothing is known.
    fn judge_stream_of_unknown(&self, answer: Result<Vec<u8>, ApiError>) -> Verdict {
        match answer.and_then(|answer| StreamInfo::read(&answer)) {
            Ok(info) => self.verdict(WatchdogAnswer::StreamAnswers, Some(info.head_number())),
            Err(ApiError::NoLeader(_) | ApiError::Unavailable { .. }) => {
                Verdict::done([WatchdogAnswer::NoLeader])
            }
            // A user that may not ask finds out by an attempt.
            Err(error) if error.is_an_answer() || matches!(error, ApiError::NotPermitted(_)) => {
                self.verdict(WatchdogAnswer::StreamAnswers, None)
            }
            Err(error) => Verdict::done([said_by(error)]),
        }
    }

    /// Judges the answer about the stream of the consumer: whether the stream has lost messages that were handed over. If
    /// JetStream was away (`is_unsure`), the last of these messages is compared too.
    fn judge_stream(
        &self,
        answer: Result<Vec<u8>, ApiError>,
        look: Look,
        counts: Counts,
        reached: Option<Reached>,
        is_unsure: bool,
    ) -> Verdict {
        let info = match answer.and_then(|answer| StreamInfo::read(&answer)) {
            Ok(info) => Some(info),
            Err(error) if error.is_an_answer() => None,
            Err(ApiError::NotPermitted(_)) => None,
            Err(ApiError::NoLeader(_) | ApiError::Unavailable { .. }) => {
                return Verdict::done([WatchdogAnswer::NoLeader]);
            }
            // Nothing is known.
            Err(error) => return Verdict::done([said_by(error)]),
        };
        let last = info.as_ref().map(StreamInfo::head_number);
        let stored = reached.and_then(|reached| reached.stored_unix_ns);
        let mut verdict = match (last, reached, stored) {
            (Some(last), Some(reached), _) if last < reached.sequence => self.went_back(look),
            (Some(last), Some(reached), Some(stored)) if is_unsure => {
                let question = InfoRequest::Message {
                    counts,
                    stored_unix_ns: stored,
                    last_sequence: last,
                };
                let subject = Action::GetMessage.subject_about(&self.target.stream);
                let body = sonic_rs::json!({ "seq": reached.sequence }).to_string();
                Verdict::ask_next(question, ApiRequest { subject, body })
            }
            _ => self.is_well(counts, last),
        };
        let state = info.map(|info| WatchdogAnswer::State(Box::new(info)));
        verdict.answers.extend(state);
        verdict
    }

    /// Judges the answer about the durable consumer. Without the stream's last sequence, a consumer that is beyond the
    /// end of the stream counts as free.
    fn judge_durable(
        &self,
        answer: Result<Vec<u8>, ApiError>,
        last_sequence: Option<u64>,
    ) -> Verdict {
        let state = answer.and_then(|answer| ConsumerState::read(&answer));
        let is_free = matches!(
            durable_of(state, &self.target, last_sequence),
            Ok(Durable::Free(_) | Durable::Missing)
        );
        Verdict::done(is_free.then_some(WatchdogAnswer::Free))
    }

    /// The consumer is well, and its stream has this last sequence, if it is known.
    fn is_well(&self, counts: Counts, last_sequence: Option<u64>) -> Verdict {
        let found = WatchdogAnswer::Counted(self.consumer.clone(), counts);
        self.verdict(found, last_sequence)
    }

    fn went_back(&self, look: Look) -> Verdict {
        match look {
            Look::First => Verdict::doubt(),
            Look::Second => Verdict::done([WatchdogAnswer::WentBack(self.consumer.clone())]),
        }
    }

    /// What was found of the consumer in use. The question about the durable consumer follows, if it is awaited.
    fn verdict(&self, found: WatchdogAnswer, last_sequence: Option<u64>) -> Verdict {
        let DurableTarget {
            stream, durable, ..
        } = &self.target;
        let mut verdict = Verdict::done([found]);
        if self.awaits_durable {
            let question = InfoRequest::Durable(last_sequence);
            verdict.next = AfterAnswer::Ask(question, consumer_info(stream, durable));
        }
        verdict
    }

    /// What the server says of the consumer in use: a consumer of its name that delivers elsewhere is another one.
    fn state_found(&self, answer: Result<ConsumerState, ApiError>) -> WatchdogAnswer {
        let consumer = self.consumer.clone();
        match answer {
            Ok(state)
                if state.info.config.deliver_subject.as_ref() != Some(&self.deliver_subject) =>
            {
                WatchdogAnswer::Gone(consumer)
            }
            Ok(state) if state.is_paused => WatchdogAnswer::Paused(consumer),
            Ok(state) => {
                let counts = Counts {
                    pending: state.info.num_pending,
                    ack_pending: state.info.num_ack_pending as u64,
                    is_full: is_full(&state.info),
                };
                WatchdogAnswer::Counted(consumer, counts)
            }
            Err(error) if error.consumer_is_missing() => WatchdogAnswer::Gone(consumer),
            Err(error) => {
                tracing::debug!(%error, consumer, "no answer about a consumer");
                said_by(error)
            }
        }
    }
}

fn consumer_info(stream: &str, consumer: &str) -> ApiRequest {
    ApiRequest::of(Action::ConsumerInfo.subject(stream, consumer))
}

fn stream_info(stream: &str) -> ApiRequest {
    ApiRequest::of(Action::StreamInfo.subject_about(stream))
}

/// What an error says: that JetStream works, if it is an answer of JetStream; or why there is none.
fn said_by(error: ApiError) -> WatchdogAnswer {
    match error.is_an_answer() {
        true => WatchdogAnswer::Other,
        false => WatchdogAnswer::Refused(error),
    }
}

/// Whether the server delivers no more until something is acknowledged.
fn is_full(info: &ConsumerInfo) -> bool {
    // 0 or less: no limit.
    let allowed = usize::try_from(info.config.max_ack_pending).unwrap_or(0);
    allowed > 0 && info.num_ack_pending >= allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);

    /// The requests that were sent, with the last sequence that was handed over.
    #[derive(Default)]
    struct Sent(Vec<String>, Option<Reached>);

    impl AskServer for Sent {
        fn ask(&mut self, subject: &str, _: &[u8]) -> u64 {
            self.0.push(subject.replace("$JS.API.", ""));
            self.0.len() as u64
        }

        fn reached(&self, _: usize) -> Option<Reached> {
            self.1
        }
    }

    fn watched(awaits_durable: bool) -> Vec<Watched> {
        vec![Watched::Consumer(WatchedConsumer {
            target: DurableTarget {
                stream: "S".to_owned(),
                subject: "s".to_owned(),
                durable: "d".to_owned(),
            },
            consumer: "c".to_owned(),
            deliver_subject: "_INBOX.c".to_owned(),
            awaits_durable,
        })]
    }

    fn consumer(name: &str, delivered: u64) -> String {
        let at = |sequence| serde_json::json!({"consumer_seq": sequence, "stream_seq": sequence});
        serde_json::json!({
            "stream_name": "S", "name": name, "created": "2026-01-01T00:00:00Z",
            "config": {"deliver_subject": format!("_INBOX.{name}"), "filter_subject": "s",
                "deliver_policy": "all", "ack_policy": "explicit", "ack_wait": 1, "max_deliver": 1,
                "replay_policy": "instant"},
            "delivered": at(delivered), "ack_floor": at(0),
            "num_ack_pending": 2, "num_redelivered": 0, "num_waiting": 0, "num_pending": 3,
        })
        .to_string()
    }

    fn stream(last_sequence: u64) -> String {
        serde_json::json!({
            "config": {"name": "S", "retention": "limits", "max_consumers": -1, "max_msgs": -1, "max_msgs_per_subject": -1,
                "max_bytes": -1, "max_age": 0, "storage": "file", "num_replicas": 1, "discard": "old",
                "duplicate_window": 0},
            "created": "2026-01-01T00:00:00Z",
            "state": {"messages": 1, "bytes": 1, "first_seq": 1, "last_seq": last_sequence,
                "first_ts": "2026-01-01T00:00:00Z", "last_ts": "2026-01-01T00:00:00Z", "consumer_count": 1},
        })
        .to_string()
    }

    const GONE: &str = r#"{"error":{"code":404,"err_code":10014,"description":"not found"}}"#;

    /// Answers the newest request.
    fn answer(
        watchdog: &mut Watchdog,
        sent: &mut Sent,
        now: Instant,
        text: &str,
    ) -> Vec<WatchdogAnswer> {
        let message = Delivery {
            subject: format!("_INBOX.x.{}", sent.0.len()).into_bytes(),
            payload: text.as_bytes().to_vec(),
            ..Delivery::default()
        };
        let taken = watchdog.take(message, now, sent);
        taken.map_or_else(Vec::new, |(index, answers)| {
            assert_eq!(index, 0);
            let is_of_consumer =
                |answer: &WatchdogAnswer| !matches!(answer, WatchdogAnswer::State(_));
            answers.into_iter().filter(is_of_consumer).collect()
        })
    }

    fn started(awaits_durable: bool) -> (Watchdog, Sent, Instant) {
        let reached = Reached {
            sequence: 7,
            stored_unix_ns: Some(7_000_000_000),
        };
        let (now, mut sent) = (Instant::now(), Sent(Vec::new(), Some(reached)));
        let mut watchdog = Watchdog::new(INTERVAL, watched(awaits_durable), now);
        watchdog.tick(now, &mut sent);
        assert_eq!(sent.0, ["CONSUMER.INFO.S.c"]);
        (watchdog, sent, now)
    }

    #[test]
    fn a_consumer_counts_only_with_an_answer_about_its_stream() {
        let counts = Counts {
            pending: 3,
            ack_pending: 2,
            is_full: false,
        };
        let pending = || vec![WatchdogAnswer::Counted("c".to_owned(), counts)];
        let no_leader = r#"{"cluster":{"name":"n","leader":""},"config":{}}"#;
        for (about_stream, want) in [
            (&stream(7)[..], pending()),
            (no_leader, vec![WatchdogAnswer::NoLeader]),
        ] {
            let (mut watchdog, mut sent, now) = started(false);
            assert!(answer(&mut watchdog, &mut sent, now, &consumer("c", 5)).is_empty());
            assert_eq!(sent.0[1..], ["STREAM.INFO.S"]);
            assert_eq!(answer(&mut watchdog, &mut sent, now, about_stream), want);
            assert_eq!(watchdog.due(), Some(now + INTERVAL));
        }
        // A user that may not ask about the stream.
        let (mut watchdog, mut sent, now) = started(false);
        answer(&mut watchdog, &mut sent, now, &consumer("c", 5));
        assert_eq!(watchdog.refused("other", now, &mut sent), None);
        let refused = watchdog.refused(&stream_info("S").subject, now, &mut sent);
        assert_eq!(refused, Some((0, pending())));
        // A user that may not ask about the consumer.
        let (mut watchdog, mut sent, now) = started(false);
        let subject = consumer_info("S", "c").subject;
        let refused = watchdog.refused(&subject, now, &mut sent);
        let denied = ApiError::NotPermitted(format!("publish to {subject}"));
        assert_eq!(refused, Some((0, vec![WatchdogAnswer::Refused(denied)])));
    }

    #[test]
    fn what_the_server_says_in_place_of_jetstream_is_told() {
        let description = || "no".to_owned();
        let error =
            |code| format!(r#"{{"error":{{"code":503,"err_code":{code},"description":"no"}}}}"#);
        for (code, refusal, of_stream) in [
            (
                10_008,
                ApiError::Unavailable {
                    code: 10_008,
                    description: description(),
                },
                Some(WatchdogAnswer::NoLeader),
            ),
            (
                10_039,
                ApiError::OutOfService {
                    code: 10_039,
                    description: description(),
                },
                None,
            ),
        ] {
            let refused = WatchdogAnswer::Refused(refusal);
            let (mut watchdog, mut sent, now) = started(false);
            let found = answer(&mut watchdog, &mut sent, now, &error(code));
            assert_eq!(found, [refused]);
            let (mut watchdog, mut sent, now) = started(false);
            answer(&mut watchdog, &mut sent, now, &consumer("c", 5));
            let of_consumer = found;
            let found = answer(&mut watchdog, &mut sent, now, &error(code));
            assert_eq!(found, of_stream.map_or(of_consumer, |answer| vec![answer]));
        }
    }

    #[test]
    fn a_fault_is_told_when_it_is_there_twice() {
        for (is_stream, want) in [
            (false, WatchdogAnswer::Gone("c".to_owned())),
            (true, WatchdogAnswer::WentBack("c".to_owned())),
        ] {
            let (mut watchdog, mut sent, now) = started(false);
            let bad = |watchdog: &mut Watchdog, sent: &mut Sent, now| match is_stream {
                true => {
                    assert!(answer(watchdog, sent, now, &consumer("c", 5)).is_empty());
                    answer(watchdog, sent, now, &stream(6))
                }
                false => answer(watchdog, sent, now, GONE),
            };
            assert!(bad(&mut watchdog, &mut sent, now).is_empty());
            let again = now + DOUBT;
            assert_eq!(watchdog.due(), Some(again));
            watchdog.tick(again, &mut sent);
            assert_eq!(bad(&mut watchdog, &mut sent, again), [want]);
        }
        // Not if it was there once.
        let (mut watchdog, mut sent, now) = started(false);
        answer(&mut watchdog, &mut sent, now, GONE);
        watchdog.tick(now + DOUBT, &mut sent);
        answer(&mut watchdog, &mut sent, now, &consumer("c", 5));
        let found = answer(&mut watchdog, &mut sent, now, &stream(8));
        assert!(
            matches!(found[..], [WatchdogAnswer::Counted(..)]),
            "{found:?}"
        );
        // A consumer of the same name that delivers to another place is another one.
        let (mut watchdog, mut sent, now) = started(false);
        let other = consumer("c", 5).replace("_INBOX.c", "_INBOX.other");
        answer(&mut watchdog, &mut sent, now, &other);
        watchdog.tick(now + DOUBT, &mut sent);
        let found = answer(&mut watchdog, &mut sent, now, &other);
        assert_eq!(found, [WatchdogAnswer::Gone("c".to_owned())]);
    }

    #[test]
    fn a_number_is_compared_with_its_time_after_jetstream_was_away() {
        let stored = |s| {
            let time = format!("1970-01-01T00:00:{s:02}Z");
            serde_json::json!({"message": {"subject": "s", "seq": 7, "time": time}}).to_string()
        };
        for (message, is_same) in [(stored(7), true), (stored(9), false)] {
            let (mut watchdog, mut sent, now) = started(false);
            let mut at = now;
            // Without an answer in time, neither about the consumer nor about its stream.
            for step in [ANSWER_TIMEOUT, ANSWER_TIMEOUT, INTERVAL] {
                at += step;
                watchdog.tick(at, &mut sent);
            }
            let mut ask = |watchdog: &mut Watchdog, at| {
                answer(watchdog, &mut sent, at, &consumer("c", 5));
                assert!(answer(watchdog, &mut sent, at, &stream(9)).is_empty());
                assert_eq!(sent.0.last().map(String::as_str), Some("STREAM.MSG.GET.S"));
                let found = answer(watchdog, &mut sent, at, &message);
                watchdog.tick(at + DOUBT, &mut sent);
                found
            };
            let found = ask(&mut watchdog, at);
            match is_same {
                true => assert!(
                    matches!(found[..], [WatchdogAnswer::Counted(..)]),
                    "{found:?}"
                ),
                false => {
                    assert!(found.is_empty());
                    let found = ask(&mut watchdog, at + DOUBT);
                    assert_eq!(found, [WatchdogAnswer::WentBack("c".to_owned())]);
                }
            }
        }
    }

    #[test]
    fn a_durable_is_free_only_within_the_stream() {
        for (delivered, is_free) in [(7, true), (8, false)] {
            let (mut watchdog, mut sent, now) = started(true);
            answer(&mut watchdog, &mut sent, now, &consumer("c", 5));
            answer(&mut watchdog, &mut sent, now, &stream(7));
            assert_eq!(sent.0[2..], ["CONSUMER.INFO.S.d"]);
            let found = answer(&mut watchdog, &mut sent, now, &consumer("d", delivered));
            assert_eq!(found == [WatchdogAnswer::Free], is_free, "{found:?}");
        }
    }

    #[test]
    fn a_question_without_an_answer_is_asked_again() {
        let (mut watchdog, mut sent, now) = started(false);
        assert_eq!(watchdog.due(), Some(now + ANSWER_TIMEOUT));
        // Nobody has read the answers until now.
        let mut later = now + ANSWER_TIMEOUT;
        watchdog.wait_longer(later);
        watchdog.tick(later, &mut sent);
        assert_eq!(sent.0.len(), 1);
        for step in [ANSWER_TIMEOUT, ANSWER_TIMEOUT, INTERVAL] {
            later += step;
            watchdog.tick(later, &mut sent);
        }
        let asked = ["CONSUMER.INFO.S.c", "STREAM.INFO.S", "CONSUMER.INFO.S.c"];
        assert_eq!(sent.0, asked);
        // The first answer comes late.
        let late = Delivery {
            subject: b"_INBOX.x.1".to_vec(),
            payload: GONE.as_bytes().to_vec(),
            ..Delivery::default()
        };
        assert_eq!(watchdog.take(late, later, &mut sent), None);
    }

    #[test]
    fn the_stream_of_a_silent_consumer_is_asked_about() {
        let no_leader = r#"{"cluster":{"name":"n","leader":""},"config":{}}"#;
        for (text, want) in [
            (&stream(7)[..], WatchdogAnswer::StreamAnswers),
            (GONE, WatchdogAnswer::StreamAnswers),
            (no_leader, WatchdogAnswer::NoLeader),
        ] {
            let (mut watchdog, mut sent, now) = started(false);
            let late = now + ANSWER_TIMEOUT;
            watchdog.tick(late, &mut sent);
            assert_eq!(sent.0[1..], ["STREAM.INFO.S"]);
            assert_eq!(answer(&mut watchdog, &mut sent, late, text), [want]);
            assert_eq!(watchdog.due(), Some(late + INTERVAL));
        }
        // A user that may not ask about the consumer, or about neither.
        let (mut watchdog, mut sent, now) = started(true);
        let subject = consumer_info("S", "c").subject;
        watchdog
            .refused(&subject, now, &mut sent)
            .expect("a question");
        assert_eq!(sent.0[1..], ["STREAM.INFO.S"]);
        let subject = stream_info("S").subject;
        let refused = watchdog.refused(&subject, now, &mut sent);
        assert_eq!(refused, Some((0, vec![WatchdogAnswer::StreamAnswers])));
        assert_eq!(sent.0[2..], ["CONSUMER.INFO.S.d"]);
    }

    #[test]
    fn a_subject_without_a_consumer_waits_for_its_stream() {
        let spec = SubscriptionSpec {
            subject: "news".to_owned(),
            durable: "d".to_owned(),
            stream: None,
        };
        let (now, mut sent) = (Instant::now(), Sent::default());
        let mut watchdog = Watchdog::new(
            INTERVAL,
            vec![Watched::Subject(spec), Watched::Nothing],
            now,
        );
        watchdog.tick(now, &mut sent);
        assert_eq!(sent.0, ["STREAM.NAMES"]);
        let none = r#"{"streams":null}"#;
        assert_eq!(
            answer(&mut watchdog, &mut sent, now, none),
            [WatchdogAnswer::StreamExists(false)]
        );
        watchdog.tick(now + INTERVAL, &mut sent);
        assert!(answer(&mut watchdog, &mut sent, now, r#"{"streams":["NEWS"]}"#).is_empty());
        assert_eq!(sent.0[2..], ["STREAM.INFO.NEWS"]);
        let found = answer(&mut watchdog, &mut sent, now, &stream(0));
        assert_eq!(found, [WatchdogAnswer::StreamExists(true)]);
    }
}
