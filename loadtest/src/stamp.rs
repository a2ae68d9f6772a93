//! The stamp inside a payload: `"stamp_us":<digits>,"n":<digits>`, anywhere in the first
//! [`HEAD_BYTES`] of the frame, also with spaces or inside an escaped JSON string.

/// Length of the search for the stamp, from the start of a message.
pub(crate) const HEAD_BYTES: usize = 1024;

/// The due time of a message and the number in the publisher's sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The intended time, microseconds of [`crate::clock::now_us`].
    pub(crate) us: u64,
    /// Sequence number, rising by 1 with each message of a publisher.
    pub(crate) n: u64,
}

/// Finds the stamp; returns `None` if these bytes have no stamp.
pub(crate) fn find(head: &[u8]) -> Option<Stamp> {
    const KEY: &[u8] = b"stamp_us";
    // The key is near the start, so a plain search is faster than setting up a searcher.
    let at = head.windows(KEY.len()).position(|w| w == KEY)?;
    let (us, rest) = number(head.get(at + KEY.len()..)?, |skipped| {
        skipped.contains(&b':')
    })?;
    let (n, _) = number(rest, |skipped| skipped.contains(&b'n'))?;
    Some(Stamp { us, n })
}

/// The digits after at most 10 other bytes accepted by `fits`, and the bytes after the digits.
fn number(bytes: &[u8], fits: impl Fn(&[u8]) -> bool) -> Option<(u64, &[u8])> {
    let start = bytes.iter().take(11).position(u8::is_ascii_digit)?;
    let (skipped, digits) = bytes.split_at(start);
    if !fits(skipped) {
        return None;
    }
    let end = digits.iter().position(|b| !b.is_ascii_digit())?;
    let (digits, rest) = digits.split_at(end);
    let value = digits.iter().try_fold(0u64, |v, d| {
        v.checked_mul(10)?.checked_add(u64::from(d - b'0'))
    })?;
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_plain_spaced_and_escaped() {
        let want = Some(Stamp { us: 123, n: 45 });
        for text in [
            r#"{"flow":{"stamp_us":123,"n":45,"pad":"x"}}"#,
            r#"{"flow": {"stamp_us": 123, "n": 45, "pad": "x"}}"#,
            r#"{"data":"{\"stamp_us\":123,\"n\":45}"}"#,
            r#"{"data":"{\"stamp_us\": 123, \"n\": 45}"}"#,
        ] {
            assert_eq!(find(text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn absent_cut_or_absurd_is_none() {
        for text in [
            "",
            "{}",
            r#"{"stamp_us":"#,
            r#"{"stamp_us":12"#,
            r#"{"stamp_us":12,"#,
            r#"{"stamp_us":12,"n":4"#,
            r#"{"stamp_us":12,"x":4}"#,
            r#"{"stamp_us":99999999999999999999999,"n":4}"#,
        ] {
            assert_eq!(find(text.as_bytes()), None, "{text}");
        }
    }
}
