//! The search for the last good message of a subject, for a start after bad messages. JetStream reads a stream only
//! forwards, so the message before a sequence has to be searched for.

use super::api::{ApiError, Fetched, JetStream};
use super::consumers::DurableTarget;
use super::settings::LookBack;

/// Why a search has ended without an answer.
pub(super) enum LookBackError {
    /// As many messages were looked at as the settings permit.
    Limited,
    /// JetStream gave no usable answer.
    JetStream(ApiError),
}

impl From<ApiError> for LookBackError {
    fn from(error: ApiError) -> Self {
        Self::JetStream(error)
    }
}

/// Searches the messages of the subject from `newest` backwards for the first good message, and logs what was found.
/// Messages up to `floor` were handed over before and are left out. Returns `None` if the newest message is good, or no
/// message is.
///
/// # Errors
/// Whether there is a good message stays open.
pub(super) fn look_back(
    api: &mut impl JetStream,
    target: &DurableTarget,
    newest: &Fetched,
    floor: u64,
    limits: &LookBack,
) -> Result<Option<Fetched>, LookBackError> {
    let (stream, subject) = (&target.stream, &target.subject);
    let is_good = |one: &Fetched| one.is_deletion || (limits.is_good)(subject, &one.payload);
    // 0: no search is wanted.
    if limits.messages_max == 0 || is_good(newest) {
        return Ok(None);
    }
    let (mut before, mut bad, mut fetched) = (newest.sequence, 1, 0);
    let mut fetch = |from| {
        fetched += 1;
        match fetched > limits.messages_max {
            true => Err(LookBackError::Limited),
            false => Ok(api.first_from(stream, subject, from)?),
        }
    };
    let found = loop {
        match newest_between(floor, before, |one: &Fetched| one.sequence, &mut fetch) {
            Ok(Some(message)) if !is_good(&message) => {
                (before, bad) = (message.sequence, bad + 1);
            }
            found => break found,
        }
    };
    match &found {
        Ok(Some(good)) => tracing::warn!(
            subject,
            bad,
            sequence = good.sequence,
            "the newest messages of a subject are bad; clients get the last good one"
        ),
        Ok(None) => tracing::warn!(subject, bad, "no message of a subject is good"),
        Err(LookBackError::Limited) => tracing::warn!(
            subject,
            bad,
            "no good message of a subject was found among as many as are looked at"
        ),
        Err(LookBackError::JetStream(error)) => tracing::warn!(
            %error,
            subject,
            bad,
            "the last good message of a subject cannot be searched for"
        ),
    }
    found
}

/// The newest message after `floor` and before `before`. `fetch` returns the first message from a sequence on. A window
/// that grows fourfold backwards finds some message, and halving the window finds the newest, so the number of fetches
/// grows with the logarithm of the distance.
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
