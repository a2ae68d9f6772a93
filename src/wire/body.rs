//! Finds the end of a request's body (RFC 9112 §6, §7.1), by its length or by its chunks.
//!
//! Strict like the rules of the head: a body that two readers could end at different places is refused. Looks at the
//! framing only, and keeps no byte of the body.

use super::head::{RequestHead, is_token_byte};

/// The most digits of a chunk's size: a number with more digits does not fit into a `u64`.
const SIZE_DIGITS_MAX: u32 = 16;

/// The most bytes of all chunk extensions of a body, and the most bytes of its trailers: extensions are ignored, and
/// few clients send trailers.
const ANNEX_BYTES_MAX: u32 = 8 * 1024;

/// The reason why a body has no clear end: always the client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not a hexadecimal number, or too many digits.
    #[error("chunk size is not a number")]
    ChunkSize,
    /// A line does not end with CR LF, or a chunk does not end where its size says.
    #[error("chunk or its line has no clear end")]
    LineEnd,
    /// A line of the trailer section is not a field line.
    #[error("trailer line is malformed")]
    Trailer,
    /// Extensions or trailers over the limit.
    #[error("too many chunk extensions or trailers")]
    TooLarge,
}

/// Finds the end of the body of an HTTP request that arrives in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyScanner {
    state: BodyState,
    /// Bytes of all extensions so far, and of white space after sizes.
    extension_bytes: u32,
    trailer_bytes: u32,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyState {
    /// The rest of a body of known length, in bytes.
    Length(u64),
    /// The size of a chunk, from the digits so far.
    Size {
        size: u64,
        digits: u32,
    },
    /// White space after the size: padding of some senders.
    SizeSpace {
        size: u64,
    },
    /// Extensions, up to their CR.
    Extension {
        size: u64,
    },
    /// The LF after a chunk's size line.
    SizeLf {
        size: u64,
    },
    /// The rest of a chunk.
    Data(u64),
    /// CR, then LF after a chunk.
    DataCr,
    DataLf,
    /// A line of the trailer section: its start, the rest of its name, its value, and its LF.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    /// The LF of the empty line that ends the body.
    LastLf,
    /// The whole body has come.
    End,
}

impl BodyScanner {
    /// Starts at the body that a valid `head` announces; `None` if it announces none.
    pub fn announced(head: &RequestHead<'_>) -> Option<Self> {
        let state = match head.content_length() {
            _ if !head.announces_body() => return None,
            Some(length) => BodyState::Length(length),
            // A body without a length is in chunks.
            None => BodyState::Size { size: 0, digits: 0 },
        };
        Some(Self {
            state,
            extension_bytes: 0,
            trailer_bytes: 0,
        })
    }

    /// Whether the body has ended.
    pub fn is_end(&self) -> bool {
        matches!(self.state, BodyState::End | BodyState::Length(0))
    }

    /// Returns how many of the next bytes belong to the body, whatever their values are.
    pub fn certain(&self) -> u64 {
        match self.state {
            BodyState::Length(left) | BodyState::Data(left) => left,
            _ => 0,
        }
    }

    /// Skips `bytes` of the [certain](Self::certain) bytes.
    pub fn pass(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.certain(), "bytes that may be framing");
        self.state = match self.state {
            BodyState::Length(left) => BodyState::Length(left.saturating_sub(bytes)),
            BodyState::Data(left) if left > bytes => BodyState::Data(left - bytes),
            BodyState::Data(_) => BodyState::DataCr,
            state => state,
        };
    }

    /// Reads the next bytes. Returns how many of them belong to the body.
    ///
    /// # Errors
    /// The chunks have no clear end, so nothing after them can be trusted.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, BodyError> {
        let mut taken = 0;
        while taken < bytes.len() && !self.is_end() {
            taken += match self.state {
                BodyState::Length(left) | BodyState::Data(left) => {
                    let there = bytes.len() - taken;
                    let n = usize::try_from(left).map_or(there, |left| left.min(there));
                    self.pass(n as u64);
                    n
                }
                _ => {
                    self.state = self.framing(bytes[taken])?;
                    1
                }
            };
        }
        Ok(taken)
    }

    /// Returns the state after a byte of framing.
    fn framing(&mut self, byte: u8) -> Result<BodyState, BodyError> {
        Ok(match (self.state, byte) {
            (BodyState::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                if digits == SIZE_DIGITS_MAX {
                    return Err(BodyError::ChunkSize);
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                BodyState::Size {
                    size: size << 4 | u64::from(digit),
                    digits: digits + 1,
                }
            }
            (BodyState::Size { digits: 0, .. }, _) => return Err(BodyError::ChunkSize),
            (BodyState::Size { size, .. } | BodyState::SizeSpace { size }, b' ' | b'\t') => {
                grow(&mut self.extension_bytes)?;
                BodyState::SizeSpace { size }
            }
            (BodyState::Size { size, .. } | BodyState::SizeSpace { size }, b';') => {
                BodyState::Extension { size }
            }
            (
                BodyState::Size { size, .. }
                | BodyState::SizeSpace { size }
                | BodyState::Extension { size },
                b'\r',
            ) => BodyState::SizeLf { size },
            (BodyState::Size { .. } | BodyState::SizeSpace { .. }, _) => {
                return Err(BodyError::ChunkSize);
            }
            (BodyState::Extension { size }, _) if byte != b'\n' => {
                grow(&mut self.extension_bytes)?;
                BodyState::Extension { size }
            }
            (BodyState::SizeLf { size: 0 }, b'\n') => BodyState::TrailerStart,
            (BodyState::SizeLf { size }, b'\n') => BodyState::Data(size),
            (BodyState::DataCr, b'\r') => BodyState::DataLf,
            (BodyState::DataLf, b'\n') => BodyState::Size { size: 0, digits: 0 },
            (BodyState::TrailerStart, b'\r') => BodyState::LastLf,
            (BodyState::TrailerStart | BodyState::TrailerName, _) if is_token_byte(byte) => {
                grow(&mut self.trailer_bytes)?;
                BodyState::TrailerName
            }
            (BodyState::TrailerName, b':') => BodyState::TrailerValue,
            (BodyState::TrailerValue, b'\r') => BodyState::TrailerLf,
            (BodyState::TrailerValue, _) if byte == b'\t' || !byte.is_ascii_control() => {
                grow(&mut self.trailer_bytes)?;
                BodyState::TrailerValue
            }
            (BodyState::TrailerLf, b'\n') => BodyState::TrailerStart,
            (BodyState::LastLf, b'\n') => BodyState::End,
            // A bare LF is a wrong end of the line.
            (BodyState::TrailerStart | BodyState::TrailerName | BodyState::TrailerValue, _)
                if byte != b'\n' =>
            {
                return Err(BodyError::Trailer);
            }
            _ => return Err(BodyError::LineEnd),
        })
    }
}

fn grow(bytes: &mut u32) -> Result<(), BodyError> {
    *bytes += 1;
    if *bytes > ANNEX_BYTES_MAX {
        return Err(BodyError::TooLarge);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHUNKED: &str = "Transfer-Encoding: chunked";

    fn scanner(framing: &str) -> Option<BodyScanner> {
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n");
        BodyScanner::announced(&RequestHead::parse(head.as_bytes(), 100).expect("a good head"))
    }

    fn chunked() -> BodyScanner {
        scanner(CHUNKED).expect("a body")
    }

    #[test]
    fn a_head_says_whether_a_body_follows() {
        assert_eq!(scanner("X: y"), None);
        assert_eq!(scanner("Content-Length: 0"), None);
        let mut length = scanner("Content-Length: 5").expect("a body");
        assert_eq!(length.certain(), 5);
        assert_eq!(length.take(b"abc"), Ok(3));
        assert!(!length.is_end());
        assert_eq!(length.take(b"deGET /"), Ok(2));
        assert!(length.is_end());
        assert_eq!(length.take(b"GET /"), Ok(0));
    }

    #[test]
    fn chunks_end_where_their_sizes_say_in_any_pieces() {
        for body in [
            "0\r\n\r\n",
            "000\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "5;a=b;c=\"d\"\r\nhello\r\n0;x\r\n\r\n",
            "5 \t\r\nhello\r\nA\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
            "0\r\nX-Sum: 1\r\nX-More: \t2\r\n\r\n",
        ] {
            let bytes = [body.as_bytes(), b"GET / HTTP/1.1\r\n"].concat();
            for step in 1..=bytes.len() {
                let mut scanner = chunked();
                let taken: usize = bytes
                    .chunks(step)
                    .map(|piece| scanner.take(piece).expect("good chunks"))
                    .sum();
                assert_eq!(taken, body.len(), "{body:?}, {step} at a time");
                assert!(scanner.is_end());
            }
        }
    }

    #[test]
    fn chunks_without_a_clear_end_are_refused() {
        for body in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x5\r\n",
            " 5\r\n",
            ";a\r\n",
            "5 5\r\n",
            "5,\r\n",
            "5_0\r\n",
            "5\n",
            "5;a\n",
            "5\rx",
            "5;a\rx",
            "5\r\nhelloX",
            "5\r\nhello\n",
            "5\r\nhello\rX",
            "0\r\n\n",
            "0\r\nX: y\n",
            "0\r\nX: y\rz",
            "0\r\n\rx",
            "0\r\n0\r\n\r\n",
            "0\r\nno colon\r\n\r\n",
            "0\r\n: y\r\n\r\n",
            "0\r\nX : y\r\n\r\n",
            "0\r\n X: y\r\n\r\n",
            "0\r\nX: \0\r\n\r\n",
            "00000000000000005\r\n",
            "fffffffffffffffff\r\n",
        ] {
            assert!(chunked().take(body.as_bytes()).is_err(), "{body:?}");
        }
        let max = "ffffffffffffffff\r\n";
        let mut scanner = chunked();
        assert_eq!(scanner.take(max.as_bytes()), Ok(max.len()));
        assert_eq!(scanner.certain(), u64::MAX);
    }

    #[test]
    fn extensions_and_trailers_are_bounded_over_the_whole_body() {
        let mut endless = chunked();
        let chunk = format!("1;{}\r\nx\r\n", "e".repeat(1000));
        let refused = (0..100).find_map(|_| endless.take(chunk.as_bytes()).err());
        assert_eq!(refused, Some(BodyError::TooLarge));
        let trailers = format!("0\r\n{}", "X: y\r\n".repeat(4000));
        assert_eq!(
            chunked().take(trailers.as_bytes()),
            Err(BodyError::TooLarge)
        );
        let spaces = format!("1{}", " ".repeat(9000));
        assert_eq!(chunked().take(spaces.as_bytes()), Err(BodyError::TooLarge));
    }

    #[test]
    fn extensions_and_trailers_have_their_8_kib_to_the_last_byte() {
        let spaces = |count| format!("1{}\r\nx\r\n0\r\n\r\n", " ".repeat(count));
        let trailer = |count| format!("0\r\nX:{}\r\n\r\n", "y".repeat(count - 1));
        for body in [spaces, trailer] {
            let most = body(8 * 1024);
            assert_eq!(chunked().take(most.as_bytes()), Ok(most.len()));
            let refused = chunked().take(body(8 * 1024 + 1).as_bytes());
            assert_eq!(refused, Err(BodyError::TooLarge));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_in_chunks_is_found_again(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            extension in "(;[a-z]{0,8})?",
            trailers in prop::collection::vec("[A-Za-z]{1,8}: [ -~]{0,8}", 0..3),
            cuts in prop::collection::vec(1..50_usize, 1..10),
        ) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend(format!("{:x}{extension}\r\n", chunk.len()).bytes());
                body.extend(chunk);
                body.extend(b"\r\n");
            }
            body.extend(b"0\r\n");
            for trailer in &trailers {
                body.extend(format!("{trailer}\r\n").bytes());
            }
            body.extend(b"\r\n");
            let end = body.len();
            body.extend(b"5\r\nnext");
            let (mut scanner, mut at) = (chunked(), 0);
            for cut in cuts.iter().cycle() {
                let next = (at + cut).min(body.len());
                prop_assert!(scanner.certain() <= (end - at) as u64);
                let taken = scanner.take(&body[at..next]);
                prop_assert_eq!(taken, Ok(next.min(end) - at.min(end)));
                if next >= end {
                    break;
                }
                at = next;
            }
            prop_assert!(scanner.is_end());
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), text in "[0-9a-fA-F;\r\n ]{0,60}") {
            let _ = chunked().take(&bytes);
            let _ = chunked().take(text.as_bytes());
        }
    }
}
