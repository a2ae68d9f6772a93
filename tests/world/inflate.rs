//! A second inflater (RFC 1951), slow and plain. Refuses a match with a distance beyond the window;
//! zlib does not check the distance exactly.

/// Lengths and distances: base and extra bits (RFC 1951 §3.2.5).
const LENGTHS: [(u16, u8); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];
/// The order of the code length code lengths (§3.2.7).
const ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: u8) -> usize {
        (0..count).fold(0, |value, shift| {
            let bit = self.bytes[self.at / 8] >> (self.at % 8) & 1;
            self.at += 1;
            value | usize::from(bit) << shift
        })
    }
}

/// A canonical Huffman code (§3.2.2): the number of codes of each length, and the symbols in order.
struct Code {
    counts: [usize; 16],
    symbols: Vec<usize>,
}

impl Code {
    fn new(lengths: &[u8]) -> Self {
        let mut counts = [0; 16];
        lengths
            .iter()
            .for_each(|len| counts[usize::from(*len)] += 1);
        counts[0] = 0;
        let mut symbols: Vec<usize> = (0..lengths.len()).filter(|s| lengths[*s] > 0).collect();
        symbols.sort_by_key(|symbol| lengths[*symbol]);
        Self { counts, symbols }
    }

    fn take(&self, bits: &mut Bits<'_>) -> usize {
        let (mut code, mut first, mut index) = (0, 0, 0);
        for count in &self.counts[1..] {
            code |= bits.take(1);
            if code < first + count {
                return self.symbols[index + code - first];
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        panic!("no such code");
    }
}

fn fixed() -> (Code, Code) {
    let lengths: Vec<u8> = (0..288)
        .map(|symbol| match symbol {
            0..144 => 8,
            144..256 => 9,
            256..280 => 7,
            _ => 8,
        })
        .collect();
    (Code::new(&lengths), Code::new(&[5; 30]))
}

fn dynamic(bits: &mut Bits<'_>) -> (Code, Code) {
    let (literals, distances) = (bits.take(5) + 257, bits.take(5) + 1);
    let mut lengths = [0; 19];
    for at in &ORDER[..bits.take(4) + 4] {
        lengths[*at] = bits.take(3) as u8;
    }
    let code = Code::new(&lengths);
    let mut lengths = Vec::new();
    while lengths.len() < literals + distances {
        let (value, times) = match code.take(bits) {
            16 => (*lengths.last().expect("one before"), bits.take(2) + 3),
            17 => (0, bits.take(3) + 3),
            18 => (0, bits.take(7) + 11),
            length => (length as u8, 1),
        };
        lengths.extend(std::iter::repeat_n(value, times));
    }
    let (literals, distances) = lengths.split_at(literals);
    (Code::new(literals), Code::new(distances))
}

fn stored(bits: &mut Bits<'_>, out: &mut Vec<u8>) {
    bits.at = bits.at.next_multiple_of(8);
    let (len, complement) = (bits.take(16), bits.take(16));
    assert_eq!(len, !complement & 0xffff, "a stored block's length");
    let at = bits.at / 8;
    out.extend_from_slice(&bits.bytes[at..at + len]);
    bits.at += 8 * len;
}

fn block(bits: &mut Bits<'_>, codes: (Code, Code), window: usize, out: &mut Vec<u8>) {
    loop {
        let symbol = codes.0.take(bits);
        if symbol == 256 {
            return;
        }
        if symbol < 256 {
            out.push(symbol as u8);
            continue;
        }
        let (base, extra) = LENGTHS[symbol - 257];
        let len = usize::from(base) + bits.take(extra);
        let symbol = codes.1.take(bits);
        let extra = (symbol / 2).saturating_sub(1);
        let base = if symbol < 4 {
            symbol
        } else {
            (2 + symbol % 2) << extra
        };
        let distance = base + 1 + bits.take(extra as u8);
        assert!(
            distance <= window,
            "{distance} back, with a window of {window}"
        );
        for _ in 0..len {
            out.push(out[out.len() - distance]);
        }
    }
}

/// Inflates whole blocks; the last is an empty stored block (RFC 7692 §7.2.2).
pub(crate) fn inflate(bytes: &[u8], window_bits: u8) -> Vec<u8> {
    let (mut bits, mut out) = (Bits { bytes, at: 0 }, Vec::new());
    while bits.at.next_multiple_of(8) < bytes.len() * 8 {
        assert_eq!(bits.take(1), 0, "no block is final");
        match bits.take(2) {
            0 => stored(&mut bits, &mut out),
            1 => block(&mut bits, fixed(), 1 << window_bits, &mut out),
            2 => {
                let codes = dynamic(&mut bits);
                block(&mut bits, codes, 1 << window_bits, &mut out);
            }
            _ => panic!("no such block"),
        }
    }
    out
}
