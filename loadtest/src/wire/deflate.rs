//! The client side of permessage-deflate (RFC 7692): the offer, and inflating compressed messages.

use clap::{Args, ValueEnum};
use flate2::{Decompress, FlushDecompress, Status};

use crate::stamp::HEAD_BYTES;

/// The end of each compressed message, left out by the sender (RFC 7692 section 7.2.1).
const LEFT_OUT: [u8; 4] = [0, 0, 0xff, 0xff];
/// Size of the pieces in which text is inflated; all but the head of a message is dropped.
const PIECE_BYTES: usize = 32 * 1024;

/// The compression option of commands with WebSocket clients.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct DeflateArgs {
    /// Clients offer permessage-deflate: like browsers, or without context takeover
    #[arg(
        long,
        value_enum,
        value_name = "WINDOW",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "kept"
    )]
    pub(crate) deflate: Option<Window>,
}

/// The data that a compressed message may refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Window {
    /// Earlier messages of the connection, at the server's choice: the offer of browsers
    Kept,
    /// No other message: server_no_context_takeover
    Alone,
}

impl Window {
    /// The header of the opening handshake, with its line end.
    pub(crate) fn offer(self) -> &'static str {
        match self {
            Self::Kept => {
                "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
            }
            Self::Alone => {
                "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
            }
        }
    }
}

/// Broken compressed data.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a compressed message that cannot be inflated")]
pub(crate) struct Broken;

/// Inflates the messages of a connection, or of many connections without context takeover.
pub(crate) struct Inflater {
    inflate: Decompress,
}

/// A message after inflating.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Text {
    /// Length of the whole text.
    pub(crate) bytes: u64,
    /// Number of text bytes in the head.
    pub(crate) head_bytes: usize,
}

impl Inflater {
    /// An inflater with the largest window (15 bits), suitable for every smaller window.
    pub(crate) fn new() -> Self {
        Self {
            inflate: Decompress::new(false),
        }
    }

    /// Forgets all earlier messages.
    pub(crate) fn forget(&mut self) {
        self.inflate.reset(false);
    }

    /// Inflates a whole message; copies the first bytes into `head`.
    pub(crate) fn text(
        &mut self,
        payload: &[u8],
        head: &mut [u8; HEAD_BYTES],
    ) -> Result<Text, Broken> {
        let mut text = Text {
            bytes: 0,
            head_bytes: 0,
        };
        for input in [payload, &LEFT_OUT] {
            self.piece(input, head, &mut text)?;
        }
        Ok(text)
    }

    fn piece(
        &mut self,
        mut input: &[u8],
        head: &mut [u8; HEAD_BYTES],
        text: &mut Text,
    ) -> Result<(), Broken> {
        let mut out = [0; PIECE_BYTES];
        loop {
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress(input, &mut out, FlushDecompress::Sync)
                .map_err(|_| Broken)?;
            let read = (self.inflate.total_in() - read) as usize;
            let written = (self.inflate.total_out() - written) as usize;
            let room = &mut head[text.head_bytes..];
            let kept = written.min(room.len());
            room[..kept].copy_from_slice(&out[..kept]);
            text.head_bytes += kept;
            text.bytes += written as u64;
            input = &input[read..];
            if status == Status::StreamEnd {
                // A final block, for example of a message compressed as a whole: the next message starts anew
                // (RFC 7692 section 7.2.3.4).
                self.forget();
                return Ok(());
            }
            if written < out.len() {
                return if input.is_empty() {
                    Ok(())
                } else {
                    Err(Broken)
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Payload;
    use crate::stamp::{Stamp, find};
    use flate2::{Compress, Compression, FlushCompress};

    fn deflated(deflate: &mut Compress, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(plain.len() + 1024);
        deflate
            .compress_vec(plain, &mut out, FlushCompress::Sync)
            .unwrap();
        out.truncate(out.len() - LEFT_OUT.len());
        out
    }

    #[test]
    fn messages_of_one_window_are_read_in_turn() {
        let mut payload = Payload::new(70_000);
        let mut deflate = Compress::new(Compression::new(2), false);
        let mut inflater = Inflater::new();
        let mut head = [0; HEAD_BYTES];
        for n in 1..4 {
            let plain = payload.stamped(777 + n, n).to_vec();
            let sent = deflated(&mut deflate, &plain);
            let text = inflater.text(&sent, &mut head).unwrap();
            assert_eq!((text.bytes, text.head_bytes), (70_000, HEAD_BYTES));
            assert_eq!(head[..], plain[..HEAD_BYTES]);
            assert_eq!(find(&head), Some(Stamp { us: 777 + n, n }));
        }
    }

    #[test]
    fn messages_that_stand_alone_need_no_window() {
        let mut inflater = Inflater::new();
        let mut head = [0; HEAD_BYTES];
        let sent = deflated(&mut Compress::new(Compression::new(2), false), b"a text");
        for _ in 0..2 {
            inflater.forget();
            let text = inflater.text(&sent, &mut head).unwrap();
            assert_eq!(&head[..text.head_bytes], b"a text");
        }
    }

    #[test]
    fn garbage_is_told() {
        let broken = Inflater::new().text(&[0xff; 100], &mut [0; HEAD_BYTES]);
        assert_eq!(broken, Err(Broken));
    }
}
