//! Streams that stand still: what the leader's answers about a stream, and the answer about the account, say of the
//! cause. The questions about streams are those that the readers ask anyway; the account is asked about only while a
//! stream stands still. Pure: callers pass the time, and send the question.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::account::{Account, limit};
use super::api::ApiError;
use super::error::NatsError;
use super::needs::{Action, Need};
use super::stream_info::{StreamInfo, read_answer};
use super::stream_state::{AccountAnswer, StreamState};
use weirgate_core::{Gaps, StoredId};
use weirgate_runtime::BusStatus;

/// After so long without a new message a stream stands still.
const STILL_AFTER: Duration = Duration::from_secs(5);
/// How often the account is asked about meanwhile.
const ACCOUNT_INTERVAL: Duration = Duration::from_secs(60);

/// The streams of a source.
#[derive(Debug, Default)]
pub(super) struct Standstills {
    streams: BTreeMap<String, Standstill>,
    answer: AccountAnswer,
    /// The account while the answer is [`AccountAnswer::Room`]; otherwise without limits.
    account: Account,
    /// When the account was last asked about on this connection.
    asked: Option<Instant>,
}

/// A stream of which the leader has told something.
#[derive(Debug)]
struct Standstill {
    /// The newest message that was ever stored; `None`: none so far, or not known.
    head: Option<StoredId>,
    /// When the newest message was first seen.
    since: Instant,
    /// The times between its messages, which tell a longer silence than usual.
    gaps: Gaps,
    /// `None`: not known yet, or not any more.
    state: Option<StreamState>,
    /// Whether [`Standstills::show`] has not shown the state yet.
    is_news: bool,
    /// Whether this standstill is in the log.
    is_logged: bool,
    /// Whether the silence is longer than usual for this stream. Only then is [`StreamState::Quiet`] logged.
    is_quiet: bool,
    /// Whether the last word was that no server leads the stream.
    lacks_leader: bool,
}

/// The state of a stream whose storage in the account has no room for one more message; `None`: there is room.
fn account_full(account: &Account, info: &StreamInfo) -> Option<StreamState> {
    let account = account.of_copies(info.limits.replicas);
    let limits = account.limits();
    let (storage, bytes, bytes_max) = match info.limits.is_in_memory {
        true => ("memory", account.memory, limits.max_memory),
        // 0: no limit.
        false => ("file", account.storage, limits.max_storage.unwrap_or(0)),
    };
    let bytes_max = limit(bytes_max)?;
    has_no_room(bytes, info.message_bytes(), bytes_max).then_some(StreamState::AccountFull {
        storage,
        bytes,
        bytes_max,
    })
}

/// Whether one more message does not fit. A server refuses the message that would go over the limit.
const fn has_no_room(now: u64, more: u64, max: u64) -> bool {
    now.saturating_add(more) > max
}

impl Standstills {
    /// What the question about the account needs.
    pub(super) const fn need() -> Need {
        let without =
            "a stream without messages is not known from an account whose storage is full";
        Need::may(Action::AccountInfo, without)
    }

    /// Forgets what was said: on a new connection, or while a stream cannot be read. A stream without a leader has none on
    /// any connection, and may be why the last one was left.
    pub(super) fn forget(&mut self) {
        self.asked = None;
        // The answer is unknown again, and so are the limits.
        (self.answer, self.account) = Default::default();
        for one in self.streams.values_mut().filter(|one| !one.lacks_leader) {
            one.set(None);
        }
    }

    /// Forgets the streams that are not among these. If `some_wait`, a subject has no stream yet, and streams stay that
    /// cannot be read because nobody leads them: one may be the stream of the subject.
    pub(super) fn keep_only(&mut self, streams: &[&str], some_wait: bool, status: &BusStatus) {
        self.streams.retain(|name, one| {
            let is_read = streams.contains(&name.as_str()) || some_wait && one.lacks_leader;
            if !is_read {
                // It is no longer shown.
                status.set_stream(name, None);
            }
            is_read
        });
    }

    /// Takes what the leader says of a stream, or why nobody says it.
    pub(super) fn note_info(
        &mut self,
        stream: &str,
        info: Result<&StreamInfo, &ApiError>,
        now: Instant,
    ) {
        match info {
            Ok(info) => {
                let found = self.streams.entry(stream.to_owned());
                found.or_insert_with(|| Standstill::new(now)).note_info(
                    info,
                    self.answer,
                    &self.account,
                    now,
                );
            }
            Err(ApiError::NoLeader(_) | ApiError::Unavailable { .. }) => {
                self.no_leader(stream, now);
            }
            // JetStream refuses the question, but there is a leader that answers.
            Err(error) if error.is_an_answer() => {
                if let Some(one) = self.streams.get_mut(stream) {
                    one.note_leader();
                }
            }
            // Without an answer of JetStream, nothing is known of the stream.
            Err(_) => {}
        }
    }

    /// Takes the word that no server leads a stream.
    pub(super) fn no_leader(&mut self, stream: &str, now: Instant) {
        let found = self.streams.entry(stream.to_owned());
        let one = found.or_insert_with(|| Standstill::new(now));
        one.lacks_leader = true;
        // An election is shorter.
        if one.still(now) >= STILL_AFTER {
            one.set(Some(StreamState::NoLeader));
        }
    }

    /// Takes the error of an attempt to read a stream.
    pub(super) fn note_failure(&mut self, error: &NatsError, now: Instant) {
        if let NatsError::NoLeader { stream, .. } = error {
            self.no_leader(stream, now);
        }
    }

    /// Takes the question about the account ([`Action::AccountInfo`]), if it is due. Returns whether the caller has to
    /// ask it; the next one is due after [`ACCOUNT_INTERVAL`].
    pub(super) fn take_account_question(&mut self, now: Instant) -> bool {
        let is_still = |one: &Standstill| one.still(now) >= STILL_AFTER;
        let is_due = match self.answer {
            // Asked again, a server would only log another refusal.
            AccountAnswer::NotPermitted => false,
            _ => self.asked.is_none_or(|at| now >= at + ACCOUNT_INTERVAL),
        };
        let is_taken = is_due && self.streams.values().any(is_still);
        if is_taken {
            self.asked = Some(now);
        }
        is_taken
    }

    /// Takes the answer about the account. The next answer about a stream judges it.
    pub(super) fn note_account(&mut self, answer: &[u8]) {
        let account = read_answer(answer).and_then(|answer| Ok(answer.parse::<Account>()?));
        (self.answer, self.account) = match account {
            Ok(account) if account.limits.is_some() => (AccountAnswer::Room, account),
            // An answer that cannot be read, or says nothing of limits, is none.
            _ => Default::default(),
        };
    }

    /// Handles the refusal of the question. Returns whether that is news.
    pub(super) fn not_permitted(&mut self) -> bool {
        let before = std::mem::replace(&mut self.answer, AccountAnswer::NotPermitted);
        before != AccountAnswer::NotPermitted
    }

    /// Shows the operator what is new, and logs once for each standstill.
    pub(super) fn show(&mut self, status: &BusStatus) {
        for (stream, one) in &mut self.streams {
            if !std::mem::take(&mut one.is_news) {
                continue;
            }
            status.set_stream(stream, one.state.as_ref().map(StreamState::report));
            let Some(state) = &one.state else { continue };
            let is_to_log = match state {
                StreamState::Moving { .. } => {
                    if std::mem::take(&mut one.is_logged) {
                        tracing::info!(stream, "the stream gets messages again");
                    }
                    false
                }
                StreamState::Quiet(_) => one.is_quiet,
                _ => true,
            };
            if is_to_log && !std::mem::replace(&mut one.is_logged, true) {
                match state.is_stopped() {
                    true => tracing::warn!(stream, "the stream {state}"),
                    false => tracing::info!(stream, "the stream {state}"),
                }
            }
        }
    }
}

impl Standstill {
    fn new(now: Instant) -> Self {
        Self {
            head: None,
            since: now,
            gaps: Gaps::default(),
            state: None,
            is_news: false,
            is_logged: false,
            is_quiet: false,
            lacks_leader: false,
        }
    }

    /// How long there was no new message.
    fn still(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// Notes an answer about the stream: since when it has no new message, and, if that is long, why.
    fn note_info(
        &mut self,
        info: &StreamInfo,
        answer: AccountAnswer,
        account: &Account,
        now: Instant,
    ) {
        self.note_leader();
        let still = self.still(now);
        let before = std::mem::replace(&mut self.head, info.head);
        let has_moved = before != info.head;
        if has_moved {
            self.since = now;
            let more = before.map(|before| info.head_number().saturating_sub(before.major));
            if let Some(more @ 1..) = more {
                // The new messages count as evenly spread over this time.
                self.gaps.record(micros(still) / more);
            }
        }
        self.is_quiet = self.gaps.quiet_us(micros(self.still(now))).is_some();
        let state = if has_moved && before.is_some() {
            Some(info.moving())
        } else if self.still(now) < STILL_AFTER {
            return;
        } else {
            let stopped = info.stopped().or_else(|| account_full(account, info));
            stopped.or(Some(StreamState::Quiet(answer)))
        };
        self.set(state);
    }

    /// Records that a leader has answered about the stream.
    fn note_leader(&mut self) {
        if std::mem::take(&mut self.lacks_leader) {
            self.set(None);
        }
    }

    fn set(&mut self, state: Option<StreamState>) {
        // A silence can become longer than usual, which is to be logged.
        self.is_news |= self.state != state || self.is_quiet && !self.is_logged;
        self.state = state;
    }
}

impl StreamInfo {
    fn moving(&self) -> StreamState {
        StreamState::Moving {
            per_name_max: self.limits.per_name_max,
        }
    }

    /// Why the stream takes no message, as far as its own state says.
    fn stopped(&self) -> Option<StreamState> {
        let limits = &self.limits;
        if limits.is_sealed {
            return Some(StreamState::Sealed);
        }
        if let Some(copy) = self.copied.iter().find(|copy| copy.is_away()) {
            return Some(StreamState::CopyAway {
                origin: copy.shown_name(),
                silent_ms: copy.silent_ms(),
            });
        }
        // Certain only if every name has its most: nothing says how many messages a single name has.
        let of_names = limits
            .per_name_max
            .map(|max| max.saturating_mul(self.names.max(1)));
        let new_bytes = self.message_bytes();
        // What one more message needs of each limit.
        let full = |limit, now, needs, max: Option<u64>| {
            let max = max.filter(|max| limits.refuses_new && has_no_room(now, needs, *max))?;
            Some(StreamState::Full { limit, now, max })
        };
        full("max_msgs", self.messages, 1, limits.messages_max)
            .or_else(|| full("max_bytes", self.bytes, new_bytes, limits.bytes_max))
            .or_else(|| full("max_msgs_per_subject", self.messages, 1, of_names))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The leader's answer about a stream with `state` and `config` of these members.
    fn info(config: &str, state: &str, rest: &str) -> StreamInfo {
        let answer = format!(r#"{{"config":{{{config}}},"state":{{{state}}}{rest}}}"#);
        StreamInfo::read(answer.as_bytes()).expect("an answer")
    }

    fn of_10(config: &str) -> StreamInfo {
        let state = r#""messages":10,"bytes":1000,"num_subjects":2,"first_seq":1,"last_seq":10"#;
        info(config, state, "")
    }

    /// What is said of a stream that stands still for 10 s, with this answer about the account.
    fn said(info: &StreamInfo, account: &str) -> String {
        let (start, mut all) = (Instant::now(), Standstills::default());
        all.note_account(account.as_bytes());
        for seconds in [0, 10] {
            all.note_info("S", Ok(info), start + Duration::from_secs(seconds));
        }
        let state = all.streams["S"].state.as_ref();
        state.map(ToString::to_string).unwrap_or_default()
    }

    #[test]
    fn the_cause_is_in_the_settings_and_the_state_of_the_stream() {
        let new = r#""discard":"new""#;
        let quiet = "takes messages: its publishers are quiet";
        for (config, want) in [
            (
                format!(r#"{new},"max_bytes":1099"#),
                "1000 of 1099 bytes (max_bytes)",
            ),
            (format!(r#"{new},"max_bytes":1100"#), quiet),
            (
                format!(r#"{new},"max_msgs":10"#),
                "10 of 10 messages (max_msgs)",
            ),
            (format!(r#"{new},"max_msgs":-1,"max_bytes":-1"#), quiet),
            (
                r#""discard":"old","max_msgs":10,"max_bytes":1000"#.to_owned(),
                quiet,
            ),
            (
                format!(r#"{new},"max_msgs_per_subject":5,"discard_new_per_subject":true"#),
                "10 of 10 messages of its names (max_msgs_per_subject)",
            ),
            (format!(r#"{new},"max_msgs_per_subject":5"#), quiet),
            (r#""sealed":true"#.to_owned(), "is sealed"),
        ] {
            let said = said(&of_10(&config), r#"{"limits":{"max_storage":-1}}"#);
            assert!(said.contains(want), "{config}: {said}");
            assert!(!said.contains("unless"), "{said}");
        }
        let state = r#""messages":10,"last_seq":10"#;
        for (rest, want) in [
            (
                r#","mirror":{"name":"FAR","active":12000000000}"#,
                "copies FAR, of which its server has heard nothing for 12 s",
            ),
            (
                r#","sources":[{"name":"A","active":5},{"name":"B","active":-1}]"#,
                "copies B, of which its server has heard nothing so far",
            ),
            (r#","mirror":{"name":"FAR","active":900000000}"#, quiet),
        ] {
            let said = said(&info("", state, rest), "{}");
            assert!(said.starts_with(want), "{said}");
        }
    }

    #[test]
    fn the_storage_of_the_account_is_that_of_the_stream_and_its_copies() {
        let full = r#"{"storage":1000,"memory":5,"limits":{"max_storage":1050,"max_memory":500}}"#;
        let tiers = r#"{"storage":0,"limits":{},"tiers":{"R3":{"storage":50,"limits":{"max_storage":100}}}}"#;
        let file = "the file storage of the account is full, 1000 of 1050 bytes";
        for (config, account, want) in [
            (r#""storage":"file""#, full, file),
            (r#""storage":"memory""#, full, "publishers are quiet"),
            (r#""num_replicas":3"#, tiers, "full, 50 of 100 bytes"),
            (r#""num_replicas":1"#, tiers, "publishers are quiet"),
            ("", "", "which is unknown"),
            ("", r#"{"error":{"code":503}}"#, "which is unknown"),
        ] {
            let said = said(&of_10(config), account);
            assert!(said.contains(want), "{config} {account}: {said}");
        }
    }

    #[test]
    fn the_account_is_asked_about_once_a_minute_while_a_stream_stands_still() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut all = Standstills::default();
        let mut asked = Vec::new();
        for second in 0..200 {
            // Messages come in the seconds 100 to 120.
            let number = second.clamp(100, 120);
            let state = format!(r#""messages":1,"bytes":1,"last_seq":{number}"#);
            all.note_info("S", Ok(&info("", &state, "")), at(second));
            if all.take_account_question(at(second)) {
                asked.push(second);
            }
        }
        assert_eq!(asked, [5, 65, 125, 185]);
        assert!(all.not_permitted() && !all.not_permitted());
        assert!(
            !all.take_account_question(at(300)),
            "a refusal holds on this connection"
        );
        all.note_info("S", Ok(&info("", r#""last_seq":120"#, "")), at(300));
        let state = all.streams["S"].state.as_ref().map(ToString::to_string);
        assert!(state.is_some_and(|state| state.contains("this user may not ask")));
        all.forget();
        assert!(all.take_account_question(at(301)));
    }

    #[test]
    fn that_nobody_leads_a_stream_stays_known_until_a_server_answers_about_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let status = BusStatus::new(&[], 0);
        let shown = |all: &mut Standstills| {
            all.show(&status);
            let states = status.streams();
            states.first().map(|(_, state)| state.label)
        };
        let error = NatsError::NoLeader {
            action: "read it".to_owned(),
            stream: "S".to_owned(),
        };
        let missing = ApiError::Refused {
            code: 10_059,
            description: "stream not found".to_owned(),
        };
        let mut all = Standstills::default();
        for is_missing in [false, true] {
            all.note_failure(&error, at(0));
            assert_eq!(shown(&mut all), None, "perhaps an election");
            all.note_failure(&NatsError::Lost, at(5));
            assert_eq!(shown(&mut all), None);
            all.note_failure(&error, at(5));
            assert_eq!(shown(&mut all), Some("no_leader"));
            // The server is left, another one is asked, and no subject can be attached.
            status.set_down(0);
            all.forget();
            all.keep_only(&[], true, &status);
            all.note_info("S", Err(&ApiError::Lost), at(6));
            assert_eq!(shown(&mut all), Some("no_leader"));
            // Whatever a leader says: too short for a silence, or that there is no stream.
            match is_missing {
                true => all.note_info("S", Err(&missing), at(7)),
                false => all.note_info("S", Ok(&of_10("")), at(7)),
            }
            assert_eq!(shown(&mut all), None);
            all.keep_only(&[], true, &status);
            assert!(all.streams.is_empty());
            // The subject has moved to another stream.
            all.note_failure(&error, at(8));
            all.note_failure(&error, at(13));
            assert_eq!(shown(&mut all), Some("no_leader"));
            all.keep_only(&["T"], false, &status);
            assert_eq!(shown(&mut all), None);
        }
    }

    #[test]
    fn a_stream_of_an_account_without_jetstream_is_not_one_without_a_leader() {
        let start = Instant::now();
        let description = String::new;
        for (error, want) in [
            (
                ApiError::Unavailable {
                    code: 10_008,
                    description: description(),
                },
                Some(StreamState::NoLeader),
            ),
            (
                ApiError::OutOfService {
                    code: 10_039,
                    description: description(),
                },
                None,
            ),
        ] {
            let mut all = Standstills::default();
            all.note_info("S", Ok(&of_10("")), start);
            all.note_info("S", Err(&error), start + STILL_AFTER);
            assert_eq!(all.streams["S"].state, want, "{error}");
        }
    }

    #[test]
    fn a_stream_that_moves_again_is_said_so() {
        let start = Instant::now();
        let status = BusStatus::new(&[], 0);
        let mut all = Standstills::default();
        let mut look = |number: u64, second| {
            let state = format!(r#""messages":9,"last_seq":{number}"#);
            let full = info(r#""discard":"new","max_msgs":9"#, &state, "");
            all.note_info("S", Ok(&full), start + Duration::from_secs(second));
            all.show(&status);
            let states = status.streams();
            states.first().map_or("", |(_, state)| state.label)
        };
        assert_eq!(look(9, 0), "", "not known yet");
        assert_eq!(look(9, 4), "");
        assert_eq!(look(9, 5), "full");
        assert_eq!(look(10, 6), "moving");
        assert_eq!(look(10, 10), "moving");
        assert_eq!(look(10, 11), "full");
        assert_eq!(look(11, 12), "moving");
        for (after, want) in [(14, "moving"), (20, "no_leader")] {
            let at = start + Duration::from_secs(after);
            all.no_leader("S", at);
            all.show(&status);
            assert_eq!(status.streams()[0].1.label, want);
        }
        let later = start + Duration::from_secs(21);
        let full = info(
            r#""discard":"new","max_msgs":9"#,
            r#""messages":9,"last_seq":11"#,
            "",
        );
        all.note_info("S", Ok(&full), later);
        all.show(&status);
        assert_eq!(status.streams()[0].1.label, "full");
        all.forget();
        all.show(&status);
        assert!(status.streams().is_empty(), "nothing is known now");
        all.note_info("S", Ok(&full), later);
        all.show(&status);
        all.keep_only(&["T"], true, &status);
        assert!(status.streams().is_empty(), "another stream is read");
        status.set_stream("S", Some(StreamState::Sealed.report()));
        status.set_down(0);
        assert!(
            status.streams().is_empty(),
            "of a bus that is away nothing is known"
        );
    }
}
