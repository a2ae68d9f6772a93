//! One frame on its way out: which encoding, what stands before the shared body, what is left.

use super::send_queue::Entry;
use super::{Encoded, Lead};
use crate::wire::deflate::{self, STORED_HEADER_BYTES};
use crate::wire::encode::{self, HEADER_BYTES_MAX};

/// One frame of a write.
pub(super) struct Outgoing<'a> {
    pub(super) entry: &'a Entry,
    pub(super) deflated: bool,
    /// Bytes of it that are out already.
    pub(super) skip: usize,
}

impl<'a> Outgoing<'a> {
    fn encoded(&self) -> &'a Encoded {
        let plain = self.entry.frame.plain();
        let deflated = self.deflated.then(|| self.entry.frame.deflated()).flatten();
        deflated.unwrap_or(plain)
    }

    /// What follows the lead: the whole frame where there is none.
    pub(super) fn body(&self) -> &'a [u8] {
        match self.entry.frame.lead() {
            Lead::None => self.encoded().whole(),
            Lead::Seq(_) => self.encoded().body(),
        }
    }

    pub(super) fn lead_bytes(&self) -> usize {
        let Lead::Seq(text) = self.entry.frame.lead() else {
            return 0;
        };
        let text = self.lead_text_bytes(text);
        encode::header_bytes((text + self.encoded().body().len()) as u64) + text
    }

    fn lead_text_bytes(&self, text: &str) -> usize {
        let stored = if self.deflated {
            STORED_HEADER_BYTES
        } else {
            0
        };
        stored + text.len() + decimal_digits(self.entry.seq)
    }
}

fn decimal_digits(n: u64) -> usize {
    n.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// Header, then the lead: as text, or as a stored block that deflated blocks may follow.
pub(super) fn render_lead(entry: &Entry, text: &str, deflated: bool, arena: &mut Vec<u8>) {
    use std::io::Write;

    let part = Outgoing {
        entry,
        deflated,
        skip: 0,
    };
    let payload = part.lead_text_bytes(text) + part.encoded().body().len();
    let rsv = if deflated { encode::RSV1 } else { 0 };
    let mut header = [0; HEADER_BYTES_MAX];
    let first_byte = encode::FIN | rsv | entry.frame.opcode();
    let len = encode::header(&mut header, first_byte, payload as u64);
    arena.extend_from_slice(&header[..len]);
    if deflated {
        let stored = text.len() + decimal_digits(entry.seq);
        deflate::stored_header(arena, stored as u16);
    }
    arena.extend_from_slice(text.as_bytes());
    // Writing to a Vec cannot fail.
    let _ = write!(arena, "{}", entry.seq);
}
