//! The trace of a request, in the headers `traceparent` and `tracestate`, by which services find the requests that
//! belong together (W3C Trace Context, version 00).

use crate::space;

/// The most characters of a `tracestate`; a longer one is not passed on. This is the least that the specification
/// requires (§3.3.1.5), because each call repeats it.
const STATE_CHARS_MAX: usize = 512;

/// The trace that a request belongs to, as in its headers (W3C Trace Context).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// `traceparent`.
    pub parent: String,
    /// `tracestate`; empty if the request has none.
    pub state: String,
}

impl Trace {
    /// Returns the client's trace as version 00, if `parent` is well-formed; a later version is read as version 00.
    /// `states` are the `tracestate` lines in their order.
    pub fn given<'a>(parent: &str, states: impl Iterator<Item = &'a str>) -> Option<Self> {
        let [version, trace, id, flags] = trace_parts(parent)?;
        // The specification forbids the version `ff`.
        let is_good = is_hex(version, 2)
            && version != "ff"
            && is_id(trace, 32)
            && is_id(id, 16)
            && is_hex(flags, 2);
        is_good.then(|| Self {
            parent: format!("00-{trace}-{id}-{flags}"),
            state: tracestate(states),
        })
    }

    /// Begins a new trace. Sets the sampled flag, because a service that leaves sampling to its caller would otherwise
    /// record nothing.
    pub fn made(mut random: impl FnMut() -> u64) -> Self {
        // No part may be all zeros.
        let trace = u128::from(random()) << 64 | u128::from(random()) | 1;
        let id = random() | 1;
        Self {
            parent: format!("00-{trace:032x}-{id:016x}-01"),
            state: String::new(),
        }
    }
}

/// Joins the lines to one list (RFC 9110 §5.3). Returns an empty text if the list is too long or has forbidden
/// characters.
fn tracestate<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let lines = lines.map(space::trim).filter(|line| !line.is_empty());
    let state = lines.collect::<Vec<_>>().join(",");
    let is_good = |byte| matches!(byte, b' '..=b'~' | b'\t');
    if state.len() > STATE_CHARS_MAX || !state.bytes().all(is_good) {
        return String::new();
    }
    state
}

fn trace_parts(value: &str) -> Option<[&str; 4]> {
    let mut parts = space::trim(value).split('-');
    let four = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    // Only later versions may have more parts.
    (four[0] != "00" || parts.next().is_none()).then_some(four)
}

fn is_id(text: &str, digits: usize) -> bool {
    is_hex(text, digits) && text.bytes().any(|digit| digit != b'0')
}

fn is_hex(text: &str, digits: usize) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.len() == digits && text.bytes().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(parent: &str) -> Option<String> {
        Trace::given(parent, std::iter::empty()).map(|trace| trace.parent)
    }

    #[test]
    fn a_good_trace_is_passed_on_and_others_are_not() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        assert_eq!(given(good).as_deref(), Some(good));
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-more";
        assert_eq!(given(later).as_deref(), Some(good));
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
        ] {
            assert_eq!(given(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_made_trace_is_good_whatever_the_numbers_are() {
        for random in [0, 1, u64::MAX] {
            let made = Trace::made(|| random).parent;
            assert_eq!(given(&made), Some(made));
        }
    }

    fn state_of(lines: &[&str]) -> String {
        let parent = Trace::made(|| 7).parent;
        let trace = Trace::given(&parent, lines.iter().copied());
        trace.unwrap().state
    }

    #[test]
    fn a_state_goes_with_its_parent_only() {
        assert_eq!(Trace::given("00", ["a=b"].into_iter()), None);
        assert_eq!(Trace::made(|| 7).state, "");
        assert_eq!(state_of(&[]), "");
        assert_eq!(state_of(&["a=b, c@d=e f"]), "a=b, c@d=e f");
        assert_eq!(state_of(&[" a=b", "", "c=d\t"]), "a=b,c=d");
    }

    #[test]
    fn a_state_that_is_too_long_or_odd_is_left_out_whole() {
        let longest = "a=".to_owned() + &"x".repeat(STATE_CHARS_MAX - 2);
        assert_eq!(state_of(&[&longest]), longest);
        assert_eq!(state_of(&[&(longest.clone() + "x")]), "");
        let (one, other) = longest.split_at(300);
        assert_eq!(state_of(&[one, &other[1..]]).len(), STATE_CHARS_MAX);
        assert_eq!(state_of(&[one, other]), "");
        for odd in ["a=\u{e9}", "a=\u{7f}", "a=\r\nx: y", "a=\0"] {
            assert_eq!(state_of(&["a=b", odd]), "", "{odd:?}");
        }
    }
}
