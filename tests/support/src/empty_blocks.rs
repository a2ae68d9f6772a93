//! Compressed messages that cost much time for each byte.

/// A compressed message with the text `text`, at most 65,535 bytes, behind about `bytes` of empty blocks (RFC 1951
/// §3.2.7). Each has Huffman tables of its own, so an inflater takes longest for it, and brings nothing.
pub fn empty_blocks(bytes: usize, text: &[u8]) -> Vec<u8> {
    let block = empty_block();
    let mut bits = Vec::with_capacity(bytes * 8 + block.len());
    while bits.len() < bytes * 8 {
        bits.extend_from_slice(&block);
    }
    // A stored block: three zero bits, zeros to the end of the byte, and the length twice.
    bits.extend([false; 3]);
    let to_byte = |bits: &[bool]| {
        let last_first = bits.iter().rev();
        last_first.fold(0, |sum, bit| sum << 1 | u8::from(*bit))
    };
    let mut out: Vec<u8> = bits.chunks(8).map(to_byte).collect();
    let len = u16::try_from(text.len()).expect("a stored block");
    out.extend(len.to_le_bytes());
    out.extend((!len).to_le_bytes());
    out.extend_from_slice(text);
    // The rest of the empty block that ends a message (RFC 7692 §7.2.1).
    out.push(0);
    out
}

/// The bits of a block whose literal code has the end of the block alone.
fn empty_block() -> Vec<bool> {
    let mut bits = Vec::new();
    let mut put = |value: u32, count: u32| bits.extend((0..count).map(|at| value >> at & 1 == 1));
    // Not the last block, of dynamic tables; 257 literals, one distance, 18 lengths of code lengths.
    for (value, count) in [(0b100, 3), (0, 5), (0, 5), (14, 4)] {
        put(value, count);
    }
    // In the order of the RFC. A run of zeros (18) has the code 1, the length one has the code 0.
    for symbol in [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1] {
        put(u32::from(symbol == 18 || symbol == 1), 3);
    }
    // 138 and 118 literals without a code, then the end of the block and the distance, and the block ends.
    for (value, count) in [(1, 1), (127, 7), (1, 1), (107, 7), (0, 1), (0, 1), (0, 1)] {
        put(value, count);
    }
    bits
}
