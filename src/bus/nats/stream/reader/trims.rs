//! Whether a mirror's first messages were removed before they were read. The numbers that are missing then look like those
//! that a mirror leaves out. But what its limits or a purge remove are its first messages: if an older one is still there after
//! the next one was read, nothing between the two was removed. Pure.

use std::time::Duration;

use crate::nats::stream_info::StreamInfo;

/// The longest message that a nats-server accepts by default, bytes.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;

/// The missing numbers that are not known to be left out.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trims {
    /// Whether messages may have waited on the server behind the last one that was read: what waits can be removed unseen.
    may_wait: bool,
    /// The newest message that was read when the server last had to wait for a response to its flow control, until it surely
    /// has the response.
    controlled_at: Option<u64>,
    doubt: Option<Doubt>,
}

#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// The message before the first of these numbers: nothing is lost while the stream has it, or an older one.
    before: u64,
    /// The message behind the last of them.
    until: u64,
}

impl Trims {
    /// Notes how many messages waited behind the one that was just read when the server sent it. `may_stop`: the server
    /// may have sent no more after it, however many came.
    pub(super) const fn read(&mut self, waiting: u64, may_stop: bool) {
        self.may_wait = waiting > 0 || may_stop || self.controlled_at.is_some();
    }

    /// Notes that the server may send no more until it has the response to its flow control. The message `read` was read.
    pub(super) const fn flow_is_controlled(&mut self, read: u64) {
        (self.controlled_at, self.may_wait) = (Some(read), true);
    }

    /// Notes a new consumer: what came since the last one was left may be gone.
    pub(super) const fn consumer_is_new(&mut self) {
        (self.controlled_at, self.may_wait) = (None, true);
    }

    /// Notes that the numbers between these two messages are missing, if they may be those of messages that were removed.
    /// `unseen_max`: nothing was unread at most this long ago; `None`: that may be longer ago. `waiting`: so many
    /// messages wait behind the second one.
    pub(super) fn missing(
        &mut self,
        (before, until): (u64, u64),
        info: &StreamInfo,
        waiting: u64,
        unseen_max: Option<Duration>,
    ) {
        // A purge is possible with every message that waits, and nobody knows for how long one has waited.
        let may_be_purged = !info.denies_purge && self.may_wait;
        let unseen_max = unseen_max.filter(|_| !self.may_wait);
        if may_be_purged || Self::may_be_trimmed(info, waiting, unseen_max) {
            let before = self.doubt.map_or(before, |doubt| doubt.before);
            self.doubt = Some(Doubt { before, until });
        }
    }

    /// Whether the limits may have removed messages that were not read: a full stream has its other messages behind the one
    /// that comes after those.
    fn may_be_trimmed(info: &StreamInfo, waiting: u64, unseen_max: Option<Duration>) -> bool {
        let limits = &info.limits;
        let trims = |max: Option<u64>| max.filter(|_| !limits.refuses_new);
        let bytes_max = limits.message_bytes_max.unwrap_or(MESSAGE_BYTES_MAX);
        let has_expired = |age_max: Duration| unseen_max.is_none_or(|unseen| age_max < 2 * unseen);
        // The server counts those that wait a little late.
        trims(limits.messages_max).is_some_and(|max| 2 * (waiting + 1) >= max)
            || trims(limits.bytes_max)
                .is_some_and(|max| (waiting + 2).saturating_mul(bytes_max) >= max)
            || limits.age_max.is_some_and(has_expired)
    }

    /// Whether the leader is to be asked which message is the first one.
    pub(super) const fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    /// Takes the number of the stream's first message. When the leader was asked for it, the message `read` had been read.
    /// Returns the message up to which some were removed, if that is so.
    pub(super) fn judge(&mut self, first: u64, read: u64) -> Option<u64> {
        // A message came between the response to flow control and the question, so the server has the response.
        self.controlled_at = self.controlled_at.filter(|at| read <= *at);
        let doubt = self.doubt?;
        // The stream begins behind the first of the missing numbers.
        let is_lost = first > doubt.before + 1;
        // What came after the question is in doubt until the next answer.
        let later = Doubt {
            before: read,
            ..doubt
        };
        self.doubt = Some(later).filter(|_| doubt.until > read && !is_lost);
        is_lost.then_some(doubt.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another message waited behind the last one, and the stream has neither by the time that the leader is asked.
    #[test]
    fn a_purge_of_what_waits_is_a_loss_unless_that_cannot_be() {
        for (denies_purge, (waiting, may_stop), lost) in [
            (false, (1, false), Some(9)),
            (false, (0, true), Some(9)),
            (false, (0, false), None),
            (true, (1, true), None),
        ] {
            let answer = format!(
                r#"{{"config":{{"mirror":{{}},"deny_purge":{denies_purge}}},"state":{{"last_seq":9}}}}"#
            );
            let info = StreamInfo::read(answer.as_bytes()).expect("good");
            let mut trims = Trims::default();
            trims.read(waiting, may_stop);
            trims.missing((3, 9), &info, 0, None);
            assert_eq!(trims.is_in_doubt(), lost.is_some());
            assert_eq!(trims.judge(9, 9), lost);
        }
    }

    /// Messages that expire while they wait, for longer than was seen.
    #[test]
    fn what_may_have_waited_may_have_expired() {
        let answer = br#"{"config":{"mirror":{},"deny_purge":true,"max_age":9000000000},"state":{"last_seq":9}}"#;
        let info = StreamInfo::read(answer).expect("good");
        for waiting in [0, 1] {
            let mut trims = Trims::default();
            trims.read(waiting, false);
            trims.missing((3, 9), &info, 0, Some(Duration::from_secs(1)));
            assert_eq!(trims.is_in_doubt(), waiting > 0);
        }
    }

    /// Until a question after the response is answered, each message may be the last before a stop.
    #[test]
    fn a_purge_is_possible_while_the_server_may_lack_a_response_to_flow_control() {
        let info = br#"{"config":{"mirror":{}},"state":{"last_seq":9}}"#;
        let info = StreamInfo::read(info).expect("good");
        let mut trims = Trims::default();
        trims.read(0, false);
        trims.flow_is_controlled(3);
        for (before, asked_at, is_in_doubt) in [(3, 3, true), (5, 7, true), (7, 9, false)] {
            trims.missing((before, before + 2), &info, 0, None);
            assert_eq!(trims.is_in_doubt(), is_in_doubt, "{before}");
            trims.judge(1, asked_at);
            trims.read(0, false);
        }
    }

    #[test]
    fn what_came_after_the_question_is_in_doubt_until_the_next_answer() {
        let info = br#"{"config":{"mirror":{},"max_msgs":2},"state":{"last_seq":9}}"#;
        let info = StreamInfo::read(info).expect("good");
        let mut trims = Trims::default();
        trims.missing((3, 5), &info, 1, None);
        trims.missing((6, 8), &info, 1, None);
        assert_eq!((trims.judge(3, 5), trims.is_in_doubt()), (None, true));
        assert_eq!(trims.judge(8, 8), Some(8));
        assert!(!trims.is_in_doubt());
    }
}
