//! Messages to clients, one after the other through the same compressor, against the zlib of Python: every
//! text inflates to the original, whatever the level and the window, and also after messages that do not get
//! smaller.

use weirgate_wire::deflate::Deflater;

use super::bodies::{KINDS, body, size};
use super::{choices, oracle, outcome};

/// Messages of one input.
const MESSAGES_MAX: usize = 32;

/// Sizes around which a compressor changes its behaviour: buffers of symbols and of output, windows, stored
/// blocks.
const EDGES: [usize; 10] = [
    0, 258, 4_096, 8_192, 16_384, 32_768, 49_152, 65_535, 98_304, 131_072,
];

/// Level and window, then five bytes for each message: its kind, whether it refers to the message before, a
/// seed, the size.
pub(crate) fn run(data: &[u8]) -> u64 {
    let ([level, bits], messages) = choices(data);
    let (level, bits) = (1 + u32::from(level) % 9, 9 + bits % 7);
    let mut deflater = Deflater::with_window(level, bits);
    let mut before = Vec::new();
    let mut happened = Vec::new();
    let (messages, _) = messages.as_chunks::<5>();
    for &[kind, seed, edge, low, high] in messages.iter().take(MESSAGES_MAX) {
        let (refers, kind) = (kind & 0x80 != 0, KINDS[usize::from(kind) % KINDS.len()]);
        let body = body(kind, size(&EDGES, [edge, low, high]), seed);
        let past = if refers { before.as_slice() } else { &[] };
        let deflated = match refers {
            true => deflater.deflate_after(past, &body),
            false => deflater.deflate(&body),
        };
        if let Some(deflated) = &deflated {
            assert!(deflated.len() < body.len(), "worth it");
            oracle::python_agrees(&[b"deflated", &[bits], past, deflated, &body]);
        }
        happened.push((
            kind,
            refers,
            deflated.map(|made| made.len() * 8 / body.len()),
        ));
        before = body;
    }
    happened.truncate(3);
    outcome((level, bits, happened))
}
