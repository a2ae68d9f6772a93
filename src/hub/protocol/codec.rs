//! How frames look on a wire. A frame is made as a WebSocket frame; the encoding of another
//! protocol is made at most once per frame, by the first client that needs it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::hub::{Encoded, Frame};
use crate::wire::deflate::DeflateParams;

/// How a client wants its frames: small, because every send queue holds one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hub) enum Encoding {
    /// As they were made.
    Plain,
    /// permessage-deflate, as it was agreed on.
    Deflate(DeflateParams),
    /// As a [`Codec`] makes them.
    Coded(CodecId),
}

/// A number that stands for a codec, the same for all hubs of the process: a reference would take
/// a send queue over its two cache lines, and so would the alignment of a `u16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hub) struct CodecId([u8; 2]);

/// How the frames of one protocol look on its wire.
#[derive(Debug)]
pub struct Codec {
    prefix: &'static [u8],
    encode: fn(&Frame, &mut Vec<u8>),
    id: OnceLock<CodecId>,
}

impl Codec {
    /// `prefix` stands before each frame, also before its lead, and has at most 255 bytes. `encode`
    /// appends the frame's body and what ends it.
    pub const fn new(prefix: &'static [u8], encode: fn(&Frame, &mut Vec<u8>)) -> Self {
        assert!(prefix.len() <= u8::MAX as usize, "a prefix is short");
        Self {
            prefix,
            encode,
            id: OnceLock::new(),
        }
    }

    pub(super) fn id(&self) -> CodecId {
        static CODECS: AtomicU16 = AtomicU16::new(0);
        *self
            .id
            .get_or_init(|| CodecId(CODECS.fetch_add(1, Ordering::Relaxed).to_ne_bytes()))
    }
}

/// A frame in the encoding of one codec, and in those of others behind it.
#[derive(Debug)]
pub(in crate::hub) struct Coded {
    id: CodecId,
    encoded: Encoded,
    next: OnceLock<Box<Self>>,
}

impl Coded {
    fn new(codec: &Codec, frame: &Frame) -> Self {
        let mut bytes = codec.prefix.to_vec();
        (codec.encode)(frame, &mut bytes);
        Self {
            id: codec.id(),
            encoded: Encoded::new(bytes, 0, codec.prefix.len() as u8),
            next: OnceLock::new(),
        }
    }

    /// The frame as `codec` makes it, made by the first call; `made` is called with its memory, in
    /// bytes.
    pub(in crate::hub) fn get_or_make<'a>(
        mut at: &'a OnceLock<Box<Self>>,
        codec: &Codec,
        frame: &Frame,
        made: impl Fn(usize),
    ) -> &'a Encoded {
        loop {
            let coded = at.get_or_init(|| {
                let coded = Self::new(codec, frame);
                made(coded.encoded.memory_bytes());
                Box::new(coded)
            });
            if coded.id == codec.id() {
                return &coded.encoded;
            }
            at = &coded.next;
        }
    }

    /// The encoding of a codec, if it was made already.
    pub(in crate::hub) fn get(mut at: &OnceLock<Box<Self>>, id: CodecId) -> Option<&Encoded> {
        loop {
            let coded = at.get()?;
            if coded.id == id {
                return Some(&coded.encoded);
            }
            at = &coded.next;
        }
    }

    /// Memory of all encodings from here on, in bytes.
    pub(in crate::hub) fn memory_bytes(mut at: &OnceLock<Box<Self>>) -> usize {
        let mut bytes = 0;
        while let Some(coded) = at.get() {
            bytes += coded.encoded.memory_bytes();
            at = &coded.next;
        }
        bytes
    }
}
