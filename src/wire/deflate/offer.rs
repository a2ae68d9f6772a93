//! What an offer of permessage-deflate and the answer to it come to (RFC 7692 §5.1, §7.1).

use super::{SMALL_WINDOW_BITS, WINDOW_BITS};

/// How messages to a client are deflated, as it was agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeflateParams {
    /// As offered; 0: not in the offer.
    server_max_window_bits: u8,
    takeover: Takeover,
}

/// Whether a message may refer to what this client got before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Takeover {
    /// The offer allows it, and nobody uses it.
    #[default]
    Unused,
    /// Messages refer to earlier ones.
    Used,
    /// The offer has `server_no_context_takeover` (§7.1.1.1).
    Refused,
}

impl DeflateParams {
    /// log2 of the largest window, in bytes, that the client inflates with: 9 to 15.
    pub fn server_window_bits(self) -> u8 {
        match self.server_max_window_bits {
            0 => WINDOW_BITS,
            bits => bits,
        }
    }

    /// Keeps the client's window from message to message, if the offer allows it and the window is
    /// the largest.
    #[must_use]
    pub fn with_takeover(mut self) -> Self {
        if self.takeover == Takeover::Unused && self.server_window_bits() == WINDOW_BITS {
            self.takeover = Takeover::Used;
        }
        self
    }

    /// A message may refer to the message that this client got before it.
    pub fn takes_over(self) -> bool {
        self.takeover == Takeover::Used
    }

    /// With which of our two windows a body of `body_bytes` may be deflated for the client: no match
    /// reaches back further than the body is long. `None`: with neither, the body can only be
    /// stored.
    pub fn deflates_with(self, body_bytes: usize) -> Option<u8> {
        let bits = self.server_window_bits();
        if bits >= WINDOW_BITS || body_bytes <= 1 << bits {
            return Some(WINDOW_BITS);
        }
        (bits >= SMALL_WINDOW_BITS).then_some(SMALL_WINDOW_BITS)
    }
}

/// What a client and this server agree on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// Messages to the client.
    pub to_client: DeflateParams,
    /// As offered; 0: not in the offer, or without a value.
    client_max_window_bits: u8,
    client_no_context_takeover: bool,
}

impl Agreed {
    /// log2 of the window that the messages of the client may refer to, earlier ones included: 9 to
    /// 15. `None`: each refers to nothing but itself.
    pub fn client_window_bits(self) -> Option<u8> {
        match self.client_max_window_bits {
            _ if self.client_no_context_takeover => None,
            0 => Some(WINDOW_BITS),
            // zlib makes 9 of 8.
            bits => Some(bits.max(9)),
        }
    }

    /// The messages of the client must not refer to earlier ones.
    #[must_use]
    pub fn without_client_takeover(mut self) -> Self {
        self.client_no_context_takeover = true;
        self
    }

    /// Appends the value of the `Sec-WebSocket-Extensions` header that says so.
    ///
    /// Says nothing that the client has not asked about, as long as the client may take over: an
    /// unasked parameter is allowed (§7.1.1), but Netty refuses the handshake, Jetty takes the
    /// client's parameter for the server's, and Tornado and Mojolicious do not see it. Nor is an
    /// offered `client_max_window_bits` without a value answered: Netty offers it also where it
    /// knows no window but the largest.
    pub fn write_header_value(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"permessage-deflate");
        if self.to_client.takeover == Takeover::Refused {
            out.extend_from_slice(b"; server_no_context_takeover");
        }
        if self.client_no_context_takeover {
            out.extend_from_slice(b"; client_no_context_takeover");
        }
        for (name, bits) in [
            (&b"server"[..], self.to_client.server_max_window_bits),
            (b"client", self.told_client_bits()),
        ] {
            if bits > 0 {
                out.extend_from_slice(b"; ");
                out.extend_from_slice(name);
                out.extend_from_slice(b"_max_window_bits=");
                out.extend_from_slice(bits.to_string().as_bytes());
            }
        }
    }

    /// The value that the client has offered for its own window, if it makes the window smaller: a
    /// client may forget the value where the answer has none (Boost.Beast). 0: not in the answer.
    fn told_client_bits(self) -> u8 {
        match self.client_max_window_bits {
            _ if self.client_no_context_takeover => 0,
            WINDOW_BITS => 0,
            bits => bits,
        }
    }
}

/// Accepts the first offer of permessage-deflate that can be met, over all
/// `Sec-WebSocket-Extensions` lines (§5.1). `None`: no extension is used.
///
/// An offer is declined for an unknown or repeated parameter, a bad value, or
/// `server_max_window_bits=8`, which raw zlib streams cannot keep.
pub fn negotiate<'a>(lines: impl IntoIterator<Item = &'a str>) -> Option<Agreed> {
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
        Some(
            end.map_or(part, |end| &part[..end])
                .trim_matches([' ', '\t']),
        )
    })
}

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

/// The value within quotes, or as it stands; `None` when a quote is not closed.
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
mod tests;
