//! The depth guard: how deep a text nests, found without recursion.
//!
//! It runs before anything recursive sees the text: the JSON library skips values by calling
//! itself, and 20 KB of `[` would end the process.

use thiserror::Error;

/// The text nests deeper than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("nested deeper than {depth_max} levels")]
pub struct TooDeep {
    /// The limit that was passed.
    pub depth_max: usize,
}

/// Checks that no more than `depth_max` objects and arrays are open at once. The text need not be
/// JSON; brackets within strings do not count.
///
/// # Errors
/// It nests deeper.
pub fn check_depth(text: &[u8], depth_max: usize) -> Result<(), TooDeep> {
    // A text without more opening brackets than that cannot nest deeper; counting is many times
    // faster than following strings, and settles nearly all messages.
    if opening_brackets(text) <= depth_max {
        return Ok(());
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for &byte in text {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' if depth == depth_max => return Err(TooDeep { depth_max }),
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

fn opening_brackets(text: &[u8]) -> usize {
    // `[` and `{` differ in one bit. Sums of at most 255 fit a byte, which keeps the loop in SIMD.
    let in_chunk = |chunk: &[u8]| chunk.iter().map(|b| u8::from(b | 0x20 == b'{')).sum::<u8>();
    text.chunks(255).map(|chunk| in_chunk(chunk) as usize).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_itself_is_allowed() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            for (depth, fits) in [(511, true), (512, true), (513, false), (100_000, false)] {
                let text = open.repeat(depth) + "0" + &close.repeat(depth);
                assert_eq!(check_depth(text.as_bytes(), 512).is_ok(), fits, "{depth}");
            }
        }
    }

    #[test]
    fn wide_is_not_deep_and_strings_do_not_nest() {
        let wide = format!("[{}]", vec!["[{}]"; 10_000].join(","));
        assert!(check_depth(wide.as_bytes(), 3).is_ok());
        assert!(check_depth(wide.as_bytes(), 2).is_err());
        let quoted = format!("[\"{}\"]", "[{\\\"".repeat(10_000));
        assert!(check_depth(quoted.as_bytes(), 1).is_ok());
        let after_backslash = format!("[\"\\\\\",{}", "[".repeat(10));
        assert!(check_depth(after_backslash.as_bytes(), 10).is_err());
    }

    #[test]
    fn any_bytes_are_taken() {
        assert!(check_depth(b"]]]]}}}}\"\\", 1).is_ok());
        assert!(check_depth(b"", 0).is_ok());
        assert!(check_depth(b"[", 0).is_err());
    }
}
