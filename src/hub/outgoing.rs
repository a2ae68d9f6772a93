//! One frame on its way out: which encoding, what stands before the shared body, what is left.

use super::protocol::{CodecId, websocket};
use super::send_queue::Entry;
use super::{Encoded, Lead};

/// Which encoding of a frame goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Deflated,
    Coded(CodecId),
}

/// One frame of a write.
pub(super) struct Outgoing<'a> {
    pub(super) entry: &'a Entry,
    pub(super) form: Form,
    /// Bytes of it that are out already.
    pub(super) skip: usize,
}

impl<'a> Outgoing<'a> {
    #[inline]
    fn encoded(&self) -> &'a Encoded {
        let frame = &self.entry.frame;
        let encoded = match self.form {
            Form::Plain => return frame.plain(),
            Form::Deflated => frame.deflated(),
            Form::Coded(id) => frame.coded(id),
        };
        debug_assert!(encoded.is_some(), "not made");
        encoded.unwrap_or_else(|| frame.plain())
    }

    /// What follows the lead: the whole frame where there is none.
    #[inline]
    pub(super) fn body(&self) -> &'a [u8] {
        match self.entry.frame.lead() {
            Lead::None => self.encoded().whole(),
            Lead::Seq(_) => self.encoded().body(),
        }
    }

    /// Bytes that [`Self::render_lead`] appends.
    #[inline]
    pub(super) fn lead_bytes(&self) -> usize {
        match self.entry.frame.lead() {
            Lead::None => 0,
            Lead::Seq(text) => self.numbered_lead_bytes(text),
        }
    }

    fn numbered_lead_bytes(&self, text: &str) -> usize {
        let text_bytes = self.lead_text_bytes(text);
        let encoded = self.encoded();
        match self.form {
            Form::Coded(_) => encoded.header().len() + text_bytes,
            form => {
                let deflated = form == Form::Deflated;
                websocket::lead_bytes(text_bytes, encoded.body().len(), deflated)
            }
        }
    }

    fn lead_text_bytes(&self, text: &str) -> usize {
        text.len() + decimal_digits(self.entry.seq)
    }

    /// Appends what goes before the shared body: header and lead; nothing for a frame without.
    #[inline]
    pub(super) fn render_lead(&self, arena: &mut Vec<u8>) {
        if let Lead::Seq(text) = self.entry.frame.lead() {
            self.render_numbered_lead(text, arena);
        }
    }

    fn render_numbered_lead(&self, text: &str, arena: &mut Vec<u8>) {
        use std::io::Write;

        let encoded = self.encoded();
        match self.form {
            Form::Coded(_) => arena.extend_from_slice(encoded.header()),
            form => websocket::write_lead_header(
                arena,
                self.entry.frame.content(),
                self.lead_text_bytes(text),
                encoded.body().len(),
                form == Form::Deflated,
            ),
        }
        arena.extend_from_slice(text.as_bytes());
        // Writing to a Vec cannot fail.
        let _ = write!(arena, "{}", self.entry.seq);
    }
}

fn decimal_digits(n: u64) -> usize {
    n.checked_ilog10().map_or(1, |log| log as usize + 1)
}
