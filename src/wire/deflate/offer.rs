//! The negotiation of permessage-deflate: offers and the response (RFC 7692 §5.1, §7.1).

use super::Deflater;
use crate::space;

/// The agreed parameters of permessage-deflate for messages to a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeflateParams {
    /// The offered value; 0 if the parameter was not offered.
    server_max_window_bits: u8,
    takeover: Takeover,
}

/// Whether a message to a client may refer to earlier ones (context takeover).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Takeover {
    /// The offer allows references, but the server makes none.
    #[default]
    Unused,
    /// Messages refer to earlier ones.
    Used,
    /// The offer has `server_no_context_takeover` (§7.1.1.1).
    Refused,
}

impl DeflateParams {
    /// log2 of the largest window that the client inflates with, in bytes: 9 to 15.
    pub(crate) fn server_window_bits(self) -> u8 {
        match self.server_max_window_bits {
            0 => Deflater::WINDOW_BITS,
            bits => bits,
        }
    }

    /// Lets messages refer to earlier ones, if the offer allows it and the client's window is the largest.
    #[must_use]
    pub fn with_takeover(mut self) -> Self {
        if self.takeover == Takeover::Unused && self.server_window_bits() == Deflater::WINDOW_BITS {
            self.takeover = Takeover::Used;
        }
        self
    }

    /// Lets no message refer to earlier ones.
    #[must_use]
    pub fn without_takeover(mut self) -> Self {
        if self.takeover == Takeover::Used {
            self.takeover = Takeover::Unused;
        }
        self
    }

    /// Whether a message to this client may refer to earlier messages (context takeover, RFC 7692 §7.1.1).
    pub fn takes_over(self) -> bool {
        self.takeover == Takeover::Used
    }

    /// Returns log2 of the one of our two windows that may deflate a body of `body_bytes` for the client. The large one
    /// also fits a small window if the body does, because no match reaches back further than the body is long. Returns
    /// `None` if the body can only be stored.
    pub fn deflates_with(self, body_bytes: usize) -> Option<u8> {
        let bits = self.server_window_bits();
        if bits >= Deflater::WINDOW_BITS || body_bytes <= 1 << bits {
            return Some(Deflater::WINDOW_BITS);
        }
        (bits >= Deflater::SMALL_WINDOW_BITS).then_some(Deflater::SMALL_WINDOW_BITS)
    }
}

/// The parameters of permessage-deflate that a client and this server agree on (RFC 7692 §7.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// Messages to the client.
    pub to_client: DeflateParams,
    /// The offered value; 0 if the parameter was not offered, or had no value.
    client_max_window_bits: u8,
    client_no_context_takeover: bool,
}

impl Agreed {
    /// Returns log2 of the window that the client's messages may refer to, including earlier messages: 9 to 15. Returns
    /// `None` if a message may not refer to earlier messages.
    pub fn client_window_bits(self) -> Option<u8> {
        match self.client_max_window_bits {
            _ if self.client_no_context_takeover => None,
            0 => Some(Deflater::WINDOW_BITS),
            // zlib uses 9 for 8.
            bits => Some(bits.max(9)),
        }
    }

    /// Forbids that the client's messages refer to earlier messages.
    #[must_use]
    pub fn without_client_takeover(mut self) -> Self {
        self.client_no_context_takeover = true;
        self
    }

    /// Appends the value of the `Sec-WebSocket-Extensions` header.
    ///
    /// Has only parameters that the client has offered, except for `client_no_context_takeover` if weirgate has no room
    /// for the client's window. Others would be allowed (§7.1.1), but Netty refuses such a handshake, Jetty takes the
    /// client's parameter for the server's, and Tornado and Mojolicious ignore it. Does not answer an offered
    /// `client_max_window_bits` without a value either: Netty offers it even where it supports only the largest window.
    pub(crate) fn write_header_value(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"permessage-deflate");
        if self.to_client.takeover == Takeover::Refused {
            out.extend_from_slice(b"; server_no_context_takeover");
        }
        if self.client_no_context_takeover {
            out.extend_from_slice(b"; client_no_context_takeover");
        }
        for (name, bits) in [
            (&b"server"[..], self.to_client.server_max_window_bits),
            (b"client", self.client_bits_in_answer()),
        ] {
            if bits > 0 {
                out.extend_from_slice(b"; ");
                out.extend_from_slice(name);
                out.extend_from_slice(b"_max_window_bits=");
                out.extend_from_slice(bits.to_string().as_bytes());
            }
        }
    }

    /// Returns the value that the client offered for its own window, if it is smaller than the default, because a
    /// client may forget its value if the response omits it (Boost.Beast). Returns 0 if the response has no value.
    fn client_bits_in_answer(self) -> u8 {
        match self.client_max_window_bits {
            _ if self.client_no_context_takeover => 0,
            Deflater::WINDOW_BITS => 0,
            bits => bits,
        }
    }
}

/// Accepts the first acceptable offer of permessage-deflate in all `Sec-WebSocket-Extensions` lines (§5.1). Returns
/// `None` if there is none; no extension is used then.
///
/// Declines an offer with an unknown or repeated parameter, a bad value, or `server_max_window_bits=8`: raw zlib
/// streams cannot have so small a window.
pub(crate) fn negotiate<'a>(lines: impl IntoIterator<Item = &'a str>) -> Option<Agreed> {
    lines
        .into_iter()
        .flat_map(|line| split_outside_quotes(line, b','))
        .find_map(accept_offer)
}

/// Splits at `separator`, but not within quoted strings (RFC 9110 §5.6.4).
fn split_outside_quotes(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let part = rest?;
        let mut quoted = false;
        let mut escaped = false;
        let end = part.bytes().position(|byte| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ => return byte == separator && !quoted,
            }
            false
        });
        // The separator is ASCII, so both cuts are at characters.
        rest = end.map(|end| &part[end + 1..]);
        Some(space::trim(end.map_or(part, |end| &part[..end])))
    })
}

/// Returns what follows from a single offer, or `None` to decline it.
fn accept_offer(offer: &str) -> Option<Agreed> {
    let mut parts = split_outside_quotes(offer, b';');
    if !parts.next()?.eq_ignore_ascii_case("permessage-deflate") {
        return None;
    }
    let mut agreed = Agreed::default();
    let mut seen = [false; 4];
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name, Some(unquote(value)?)),
            None => (part, None),
        };
        // The index in `seen`: no parameter may be there twice (§7.1).
        let index = match (name, value) {
            ("server_no_context_takeover", None) => {
                agreed.to_client.takeover = Takeover::Refused;
                0
            }
            ("client_no_context_takeover", None) => {
                agreed.client_no_context_takeover = true;
                1
            }
            ("server_max_window_bits", Some(value)) => {
                let bits = window_bits(value).filter(|&bits| bits > 8)?;
                agreed.to_client.server_max_window_bits = bits;
                2
            }
            ("client_max_window_bits", None) => 3,
            ("client_max_window_bits", Some(value)) => {
                agreed.client_max_window_bits = window_bits(value)?;
                3
            }
            _ => return None,
        };
        if std::mem::replace(&mut seen[index], true) {
            return None;
        }
    }
    Some(agreed)
}

/// Returns a value without its quotes; `None` if the closing quote is missing.
fn unquote(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(inner) => inner.strip_suffix('"'),
        None => Some(value),
    }
}

/// 8 to 15 in decimal without leading zeros (§7.1.2.1).
fn window_bits(value: &str) -> Option<u8> {
    let bits = value.parse().ok().filter(|bits| (8..=15).contains(bits))?;
    (value.len() == if bits < 10 { 1 } else { 2 }).then_some(bits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header_value(agreed: Agreed) -> String {
        let mut out = Vec::new();
        agreed.write_header_value(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn offers_and_answers() {
        let plain = "permessage-deflate";
        for (offer, answer, client_bits) in [
            ("permessage-deflate", plain, Some(15)),
            ("Permessage-Deflate", plain, Some(15)),
            (
                "permessage-deflate; client_max_window_bits",
                plain,
                Some(15),
            ),
            (
                "permessage-deflate;client_max_window_bits=8",
                "permessage-deflate; client_max_window_bits=8",
                Some(9),
            ),
            (
                "permessage-deflate;client_max_window_bits=10",
                "permessage-deflate; client_max_window_bits=10",
                Some(10),
            ),
            (
                "permessage-deflate; client_max_window_bits=\"15\"",
                plain,
                Some(15),
            ),
            (
                "permessage-deflate; server_no_context_takeover",
                "permessage-deflate; server_no_context_takeover",
                Some(15),
            ),
            (
                "permessage-deflate; client_no_context_takeover; client_max_window_bits=10",
                "permessage-deflate; client_no_context_takeover",
                None,
            ),
            (
                "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
                None,
            ),
            (
                "permessage-deflate; server_max_window_bits=9",
                "permessage-deflate; server_max_window_bits=9",
                Some(15),
            ),
            (
                "permessage-deflate ;\tserver_max_window_bits=\"10\"",
                "permessage-deflate; server_max_window_bits=10",
                Some(15),
            ),
            (
                "permessage-deflate; server_max_window_bits=15; client_max_window_bits=11",
                "permessage-deflate; server_max_window_bits=15; client_max_window_bits=11",
                Some(11),
            ),
            ("x-a, permessage-deflate", plain, Some(15)),
            (
                "x-a; p=\"a, permessage-deflate; \\\" q\", permessage-deflate; server_max_window_bits=12",
                "permessage-deflate; server_max_window_bits=12",
                Some(15),
            ),
            (
                "permessage-deflate; unknown, permessage-deflate; server_max_window_bits=11",
                "permessage-deflate; server_max_window_bits=11",
                Some(15),
            ),
            (
                "permessage-deflate; server_max_window_bits=8, permessage-deflate",
                plain,
                Some(15),
            ),
            (",, permessage-deflate ,", plain, Some(15)),
        ] {
            let agreed = negotiate([offer]).unwrap_or_else(|| panic!("declined: {offer}"));
            assert_eq!(header_value(agreed), answer, "{offer}");
            assert_eq!(agreed.client_window_bits(), client_bits, "{offer}");
            let bits = answer
                .split("server_max_window_bits=")
                .nth(1)
                .and_then(|value| value.split(';').next())
                .map_or(15, |bits| bits.parse().expect("bits"));
            let to_client = agreed.to_client;
            assert_eq!(to_client.server_window_bits(), bits, "{offer}");
            assert!(
                !to_client.takes_over(),
                "{offer}: only where it is asked for"
            );
            let mut kept = agreed;
            kept.to_client = to_client.with_takeover();
            let refused = offer.contains("server_no_context_takeover");
            assert_eq!(kept.to_client.takes_over(), !refused && bits == 15);
            assert_eq!(
                header_value(kept),
                answer,
                "{offer}: nobody has to be told of it"
            );
            let no_room = agreed.without_client_takeover();
            assert_eq!(no_room.client_window_bits(), None);
            let no_room = header_value(no_room);
            assert!(no_room.contains("; client_no_context_takeover"), "{offer}");
            assert!(!no_room.contains("client_max_window_bits"), "{offer}");
        }
    }

    #[test]
    fn offers_that_are_declined() {
        for offer in [
            "",
            "x-webkit-deflate-frame",
            "permessage-deflate2",
            "permessage-deflate; unknown_parameter",
            "permessage-deflate; permessage-deflate",
            "permessage-deflate;",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=08",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=265",
            "permessage-deflate; server_max_window_bits=abc",
            "permessage-deflate; server_max_window_bits=\"",
            "permessage-deflate; server_max_window_bits=\"10",
            "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
            "permessage-deflate; client_max_window_bits=99",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover=\"\"",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            ",,;;,=;",
            "__proto__, constructor; toString=1",
            "\"permessage-deflate\"",
        ] {
            assert_eq!(negotiate([offer]), None, "{offer}");
        }
        for nonsense in [
            "permessage-deflate;".repeat(300),
            "\"".repeat(2001),
            "\"\\".repeat(1000),
        ] {
            assert_eq!(negotiate([nonsense.as_str()]), None);
        }
    }

    #[test]
    fn offers_stand_in_several_lines_and_in_great_number() {
        let lines = [
            "x-a, permessage-deflate; nope",
            "permessage-deflate; server_max_window_bits=10",
        ];
        assert_eq!(
            negotiate(lines).map(|agreed| agreed.to_client.server_window_bits()),
            Some(10)
        );
        let many = "x-a, ".repeat(499) + "permessage-deflate";
        assert!(negotiate([many.as_str()]).is_some());
    }

    #[test]
    fn a_small_window_takes_what_reaches_back_no_further() {
        let bits =
            |n| negotiate([format!("permessage-deflate; server_max_window_bits={n}").as_str()]);
        let deflates = |n, bytes| bits(n).expect("accepted").to_client.deflates_with(bytes);
        assert_eq!([512, 513].map(|n| deflates(9, n)), [Some(15), None]);
        assert_eq!([2048, 2049].map(|n| deflates(11, n)), [Some(15), None]);
        assert_eq!([4096, 4097].map(|n| deflates(12, n)), [Some(15), Some(12)]);
        assert_eq!(deflates(14, 1 << 20), Some(12));
        assert_eq!(deflates(15, 1 << 20), Some(15));
        assert_eq!(DeflateParams::default().deflates_with(1 << 20), Some(15));
    }

    proptest! {
        #[test]
        fn random_offers_never_panic(line in "([a-z=;, \"\\\\é]|permessage-deflate|server_max_window_bits=1){0,30}") {
            let _ = negotiate([line.as_str()]);
        }
    }
}
