//! A UTF-8 check for text in pieces: refuses ill-formed text at the byte, not at the frame's end.

/// The error for text that is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadUtf8;

/// The start of a character whose end has not arrived: at most three bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Utf8Check {
    tail: [u8; 3],
    tail_len: u8,
}

impl Utf8Check {
    /// Checks the next piece.
    pub(super) fn feed(&mut self, mut piece: &[u8]) -> Result<(), BadUtf8> {
        while self.tail_len > 0 {
            let Some((&next, rest)) = piece.split_first() else {
                return Ok(());
            };
            let held = usize::from(self.tail_len);
            let mut character = [0; 4];
            character[..held].copy_from_slice(&self.tail[..held]);
            character[held] = next;
            self.tail_len = 0;
            self.keep_tail(&character[..=held])?;
            piece = rest;
        }
        self.keep_tail(piece)
    }

    /// Ends the text: no character may be open.
    pub(super) fn end(&mut self) -> Result<(), BadUtf8> {
        if std::mem::take(&mut self.tail_len) == 0 {
            Ok(())
        } else {
            Err(BadUtf8)
        }
    }

    fn keep_tail(&mut self, piece: &[u8]) -> Result<(), BadUtf8> {
        let Err(error) = std::str::from_utf8(piece) else {
            return Ok(());
        };
        if error.error_len().is_some() {
            return Err(BadUtf8);
        }
        // An error without a length is an unexpected end: the prefix of a character.
        let tail = &piece[error.valid_up_to()..];
        self.tail[..tail.len()].copy_from_slice(tail);
        self.tail_len = tail.len() as u8;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn in_pieces(text: &[u8], piece_len: usize) -> Result<(), BadUtf8> {
        let mut check = Utf8Check::default();
        text.chunks(piece_len)
            .try_for_each(|piece| check.feed(piece))?;
        check.end()
    }

    #[test]
    fn an_ill_formed_byte_is_refused_at_once() {
        let mut check = Utf8Check::default();
        assert_eq!(check.feed(b"ok \xf4"), Ok(()));
        assert_eq!(check.feed(b"\x90"), Err(BadUtf8));
    }

    #[test]
    fn text_may_not_end_inside_a_character() {
        assert_eq!(in_pieces(b"abc\xe2\x82", 2), Err(BadUtf8));
        assert_eq!(in_pieces(b"abc\xe2\x82\xac", 1), Ok(()));
    }

    proptest! {
        #[test]
        fn pieces_are_judged_as_the_whole(
            mut text in "\\PC{0,40}".prop_map(String::into_bytes),
            change in any::<Option<(prop::sample::Index, u8)>>(),
            piece_len in 1_usize..9,
        ) {
            if let (Some((at, byte)), false) = (change, text.is_empty()) {
                let at = at.index(text.len());
                text[at] = byte;
            }
            prop_assert_eq!(in_pieces(&text, piece_len).is_ok(), std::str::from_utf8(&text).is_ok());
        }
    }
}
