//! Searches the last good message of a subject, for a start after bad messages. A stream is read
//! forwards only, so the message before a sequence has to be searched for.

use super::api::{Api, ApiError, Fetched};
use super::consumers::Target;
use super::settings::LookBack;

/// The result of the search.
pub(super) enum LookedBack {
    /// The newest message is good.
    NewestIsGood,
    /// The last good message, and the number of bad messages after it.
    Good(Box<Fetched>, u64),
    /// All messages are bad; the number of them.
    NoneIsGood(u64),
    /// The limit was reached; the number of bad messages seen.
    Limited(u64),
    /// JetStream did not answer to the point; the number of bad messages seen before.
    Failed(ApiError, u64),
}

impl LookedBack {
    /// Logs the effect of a bad newest message on clients.
    pub(super) fn log(&self, subject: &str) {
        match self {
            Self::NewestIsGood => {}
            Self::Good(good, bad) => tracing::warn!(
                subject,
                bad,
                sequence = good.sequence,
                "the newest messages of a subject are bad; clients get the last good one"
            ),
            Self::NoneIsGood(bad) => {
                tracing::warn!(subject, bad, "no message of a subject is good");
            }
            Self::Limited(bad) => tracing::warn!(
                subject,
                bad,
                "no good message of a subject was found among as many as are looked at"
            ),
            Self::Failed(error, bad) => tracing::warn!(
                %error,
                subject,
                bad,
                "the last good message of a subject cannot be searched for"
            ),
        }
    }
}

/// Searches the messages of the subject from `newest` backwards for the first good message.
/// Messages up to `floor` were handed over before and are left out.
pub(super) fn look_back(
    api: &Api,
    target: &Target,
    newest: &Fetched,
    floor: u64,
    limits: &LookBack,
) -> LookedBack {
    let is_good = |message: &Fetched| {
        message.is_deletion || (limits.is_good)(&target.subject, &message.payload)
    };
    if limits.messages_max == 0 || is_good(newest) {
        return LookedBack::NewestIsGood;
    }
    let sequence_of = |message: &Fetched| message.sequence;
    let mut fetched = 0;
    let mut fetch = |from| {
        fetched += 1;
        match fetched > limits.messages_max {
            true => Err(None),
            false => api
                .first_from(&target.stream, &target.subject, from)
                .map_err(Some),
        }
    };
    let (mut before, mut bad) = (newest.sequence, 1);
    loop {
        match newest_between(floor, before, sequence_of, &mut fetch) {
            Ok(Some(message)) if is_good(&message) => {
                return LookedBack::Good(Box::new(message), bad);
            }
            Ok(Some(message)) => (before, bad) = (message.sequence, bad + 1),
            Ok(None) => return LookedBack::NoneIsGood(bad),
            Err(None) => return LookedBack::Limited(bad),
            Err(Some(error)) => return LookedBack::Failed(error, bad),
        }
    }
}

/// The newest message after `floor` and before `before`. `fetch` returns the first message from a
/// sequence on. A window that grows fourfold backwards finds some message, and halving the window
/// finds the newest, so the number of fetches grows with the logarithm of the distance.
fn newest_between<M, E>(
    floor: u64,
    before: u64,
    sequence_of: impl Fn(&M) -> u64,
    mut fetch: impl FnMut(u64) -> Result<Option<M>, E>,
) -> Result<Option<M>, E> {
    let (mut window, mut end) = (1, before);
    let mut newest = loop {
        let start = before.saturating_sub(window).max(floor + 1);
        if start >= end {
            return Ok(None);
        }
        match fetch(start)?.filter(|message| sequence_of(message) < end) {
            Some(message) => break message,
            // There is none from `start` on.
            None => (end, window) = (start, window.saturating_mul(4)),
        }
    };
    while sequence_of(&newest) + 1 < end {
        let next = sequence_of(&newest) + 1;
        let middle = next + (end - next) / 2;
        match fetch(middle)?.filter(|message| sequence_of(message) < end) {
            Some(message) => newest = message,
            None => end = middle,
        }
    }
    Ok(Some(newest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The result, and the number of fetches.
    fn search(stream: &[u64], floor: u64, before: u64) -> (Option<u64>, u32) {
        let mut fetches = 0;
        let found = newest_between(
            floor,
            before,
            |&sequence| sequence,
            |from| {
                fetches += 1;
                Ok::<_, ()>(stream.iter().copied().find(|&sequence| sequence >= from))
            },
        );
        (found.expect("no fetch fails"), fetches)
    }

    #[test]
    fn the_message_right_before_takes_one_fetch() {
        assert_eq!(search(&[1, 2, 3], 0, 3), (Some(2), 1));
        assert_eq!(search(&[1, 2, 3], 0, 1).0, None);
        assert_eq!(search(&[1, 2, 3], 2, 3), (None, 0));
        assert_eq!(search(&[], 0, u64::MAX).0, None);
    }

    proptest! {
        #[test]
        fn the_newest_before_is_found_in_few_fetches(
            mut stream in prop::collection::btree_set(1..1_000_000u64, 0..60),
            floor in 0..1_000u64,
            before in 1..1_000_000u64,
        ) {
            stream.insert(before);
            let stream: Vec<u64> = stream.into_iter().collect();
            let want = stream.iter().rev().copied().find(|&s| s < before && s > floor);
            let (found, fetches) = search(&stream, floor, before);
            prop_assert_eq!(found, want);
            prop_assert!(fetches <= 33, "{} fetches", fetches);
        }
    }
}
