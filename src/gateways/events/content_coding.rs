//! Takes the content coding off the answer of a service (RFC 9110 §8.4), in steps: a few bytes may become a thousand times
//! as many, so the caller charges each step, and may go on with the rest on another thread. Pure.

use std::io::{self, Cursor, ErrorKind, Read};

use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use hyper::header::{CONTENT_ENCODING, HeaderMap};
use weirgate_wire::space;

/// The most bytes that a step adds.
const STEP_BYTES: usize = 64 * 1024;

/// The content codings of a body, in lower case; several are separated by commas (RFC 9110 §8.4).
pub(super) fn coding(headers: &HeaderMap) -> String {
    let lines = headers.get_all(CONTENT_ENCODING).iter();
    let lines = lines.map(|line| String::from_utf8_lossy(line.as_bytes()));
    let all: Vec<String> = lines
        .map(|line| space::trim(&line).to_ascii_lowercase())
        .collect();
    all.join(", ")
}

/// The codings that a [`Decoding`] takes off, and no coding.
const KNOWN_CODINGS: [&str; 5] = ["gzip", "x-gzip", "deflate", "identity", ""];

/// Whether a body with this coding can be read, after its [`Decoding`] if it has one.
pub(super) fn is_known(coding: &str) -> bool {
    KNOWN_CODINGS.contains(&coding)
}

/// A body has more bytes without its coding than permitted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

/// A body that is being decoded.
pub(super) struct Decoding {
    coded: Coded,
    plain: Vec<u8>,
    bytes_max: usize,
    /// The body does not have the coding that its head names.
    is_wrong: bool,
}

enum Coded {
    Gzip(MultiGzDecoder<Cursor<Vec<u8>>>),
    Deflate(ZlibDecoder<Cursor<Vec<u8>>>),
}

impl Decoding {
    /// Begins to decode a body to at most `bytes_max` bytes.
    ///
    /// # Errors
    /// Returns the body if it has no coding, or one that is not known.
    pub(super) fn begin(coding: &str, body: Vec<u8>, bytes_max: usize) -> Result<Self, Vec<u8>> {
        let coded = match coding {
            "gzip" | "x-gzip" => Coded::Gzip(MultiGzDecoder::new(Cursor::new(body))),
            "deflate" => Coded::Deflate(ZlibDecoder::new(Cursor::new(body))),
            _ => return Err(body),
        };
        Ok(Self {
            coded,
            plain: Vec::new(),
            bytes_max,
            is_wrong: false,
        })
    }

    /// Decodes some more. Returns true at the end of the body.
    ///
    /// # Errors
    /// The body is too large.
    pub(super) fn step(&mut self) -> Result<bool, TooLarge> {
        let from = self.plain.len();
        // A byte more than permitted shows that there is too much.
        let step = STEP_BYTES.min(self.bytes_max + 1 - from);
        self.grow(from + step);
        self.plain.resize(from + step, 0);
        let read = self.coded.fill(&mut self.plain[from..]);
        // Decoding ends at an error: `finish` then returns the body as it came.
        self.is_wrong = read.is_err();
        let read = read.unwrap_or_default();
        self.plain.truncate(from + read);
        match self.plain.len() > self.bytes_max {
            true => Err(TooLarge),
            // At the end of the body, or at an error, fewer bytes come than there is room for.
            false => Ok(read < step),
        }
    }

    /// Goes back to the beginning of the body, and frees what was decoded.
    pub(super) fn rewound(self) -> Self {
        Self {
            coded: self.coded.rewound(),
            plain: Vec::new(),
            ..self
        }
    }

    /// Makes room for `bytes`: doubles it, up to what is permitted.
    fn grow(&mut self, bytes: usize) {
        if bytes > self.plain.capacity() {
            let most = (self.bytes_max + 1).max(bytes);
            let room = (2 * bytes).min(most);
            self.plain.reserve_exact(room - self.plain.len());
        }
    }

    /// Bytes that were decoded so far.
    pub(super) fn plain_bytes(&self) -> usize {
        self.plain.len()
    }

    /// Bytes that the body takes, with and without its coding.
    pub(super) fn held_bytes(&self) -> usize {
        self.coded.body().capacity() + self.plain.capacity()
    }

    /// The body without its coding; as it came, if it does not have the coding. The gateway decides what to do with it.
    pub(super) fn finish(self) -> Vec<u8> {
        match self.is_wrong {
            true => self.coded.into_body(),
            false => self.plain,
        }
    }
}

impl Coded {
    /// Decodes until `plain` is full or the body ends. Returns the decoded bytes.
    fn fill(&mut self, plain: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < plain.len() {
            let rest = &mut plain[filled..];
            let read = match self {
                Self::Gzip(decoder) => decoder.read(rest),
                Self::Deflate(decoder) => decoder.read(rest),
            };
            match read {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn rewound(self) -> Self {
        match self {
            Self::Gzip(decoder) => {
                let body = decoder.into_inner().into_inner();
                Self::Gzip(MultiGzDecoder::new(Cursor::new(body)))
            }
            Self::Deflate(decoder) => {
                let body = decoder.into_inner().into_inner();
                Self::Deflate(ZlibDecoder::new(Cursor::new(body)))
            }
        }
    }

    fn body(&self) -> &Vec<u8> {
        let body = match self {
            Self::Gzip(decoder) => decoder.get_ref(),
            Self::Deflate(decoder) => decoder.get_ref(),
        };
        body.get_ref()
    }

    fn into_body(self) -> Vec<u8> {
        let body = match self {
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Deflate(decoder) => decoder.into_inner(),
        };
        body.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    fn read_within(bytes_max: usize, coding: &str, body: &[u8]) -> Result<Vec<u8>, TooLarge> {
        let mut decoding = match Decoding::begin(coding, body.to_vec(), bytes_max) {
            Ok(decoding) => decoding,
            Err(body) => return Ok(body),
        };
        while !decoding.step()? {}
        Ok(decoding.finish())
    }

    fn read_as(coding: &str, body: &[u8]) -> Result<Vec<u8>, TooLarge> {
        read_within(100, coding, body)
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn common_codings_are_taken_off() {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(b"deflated").unwrap();
        let deflated = encoder.finish().unwrap();
        assert_eq!(read_as("deflate", &deflated), Ok(b"deflated".to_vec()));
        let twice = [gzip(b"a "), gzip(b"gzip")].concat();
        for coding in ["gzip", "x-gzip"] {
            assert_eq!(read_as(coding, &twice), Ok(b"a gzip".to_vec()), "{coding}");
        }
    }

    #[test]
    fn what_has_no_known_coding_stays_as_it_came() {
        for coding in ["identity", "br", "gzip", "deflate", "gzip, gzip"] {
            assert_eq!(read_as(coding, b"plain"), Ok(b"plain".to_vec()), "{coding}");
        }
        let cut = &gzip(b"cut off")[..20];
        assert_eq!(read_as("gzip", cut), Ok(cut.to_vec()));
        let long = gzip(&[7; 3 * STEP_BYTES]);
        let cut = &long[..long.len() - 1];
        assert_eq!(read_within(1 << 20, "gzip", cut), Ok(cut.to_vec()));
    }

    #[test]
    fn the_limit_holds_for_what_comes_out() {
        assert_eq!(read_as("gzip", &gzip(&[0; 100])), Ok(vec![0; 100]));
        let bomb = gzip(&vec![0; 1 << 20]);
        assert_eq!(read_as("gzip", &bomb), Err(TooLarge));
        for bytes in [STEP_BYTES, 2 * STEP_BYTES, 5 * STEP_BYTES + 1] {
            let plain = vec![1; bytes];
            assert_eq!(read_within(bytes, "gzip", &gzip(&plain)), Ok(plain));
            let over = gzip(&vec![1; bytes + 1]);
            assert_eq!(read_within(bytes, "gzip", &over), Err(TooLarge));
        }
    }

    #[test]
    fn a_step_decodes_a_little_and_counts_what_it_takes() {
        let coded = gzip(&[0; 10 * STEP_BYTES]);
        let mut decoding = Decoding::begin("gzip", coded.clone(), 1 << 20)
            .ok()
            .unwrap();
        assert_eq!(decoding.step(), Ok(false));
        assert_eq!(decoding.plain_bytes(), STEP_BYTES);
        assert!(decoding.held_bytes() >= coded.len() + STEP_BYTES);
        let mut decoding = decoding.rewound();
        assert_eq!(decoding.held_bytes(), coded.len());
        while decoding.step() == Ok(false) {}
        assert!(decoding.held_bytes() <= coded.len() + (1 << 20) + 1);
        assert_eq!(decoding.finish(), [0; 10 * STEP_BYTES]);
    }
}
