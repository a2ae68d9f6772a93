//! Messages made from a few bytes of an input: larger than an input, and of every kind that a compressor
//! handles differently.

use weirgate_wire::base::SplitMix64;

/// The content of a message.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) enum Kind {
    /// Characters of two to four bytes: nothing repeats.
    Characters,
    Bytes,
    /// Six bits in each byte.
    Letters,
    Run,
    /// Objects with few different numbers.
    Objects,
    /// Runs and noise in turns.
    Mixed,
}

pub(crate) const KINDS: [Kind; 6] = [
    Kind::Characters,
    Kind::Bytes,
    Kind::Letters,
    Kind::Run,
    Kind::Objects,
    Kind::Mixed,
];

fn append(out: &mut Vec<u8>, kind: Kind, random: &mut SplitMix64) {
    let n = random.next_u64();
    let character = match n % 3 {
        0 => 0xa0 + (n >> 32) as u32 % 0x760,
        1 => 0x800 + (n >> 32) as u32 % 0xd000,
        _ => 0x1_0000 + (n >> 32) as u32 % 0x10_0000,
    };
    match kind {
        Kind::Characters => {
            let character = char::from_u32(character).unwrap_or_default();
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Kind::Bytes => out.extend_from_slice(&n.to_le_bytes()),
        Kind::Letters => out.extend(n.to_le_bytes().map(|byte| b'0' + (byte >> 2))),
        Kind::Run => out.push(b'a'),
        Kind::Objects => out.extend_from_slice(format!("{{\"n\":{}}},", n % 977).as_bytes()),
        Kind::Mixed => {
            let kind = [Kind::Bytes, Kind::Letters, Kind::Objects][(n % 3) as usize];
            out.extend(std::iter::repeat_n(b' ', (n >> 8) as usize % 400));
            for _ in 0..(n >> 24) % 40 {
                append(out, kind, random);
            }
        }
    }
}

/// Returns `bytes` bytes of a kind.
pub(crate) fn body(kind: Kind, bytes: usize, seed: u8) -> Vec<u8> {
    let mut random = SplitMix64::new(u64::from(seed));
    let mut body = Vec::with_capacity(bytes);
    while body.len() < bytes {
        append(&mut body, kind, &mut random);
    }
    body.truncate(bytes);
    body
}

/// Returns a size around an edge, or any small size.
pub(crate) fn size(edges: &[usize], [edge, low, high]: [u8; 3]) -> usize {
    let distance = usize::from(u16::from_le_bytes([low, high]));
    match edges.get(usize::from(edge)) {
        Some(near) => (near + distance % 1_024).saturating_sub(512),
        None => distance % 16_384,
    }
}
