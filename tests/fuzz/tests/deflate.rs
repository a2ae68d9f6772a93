//! Random messages through the compressor at every level, against the zlib of Python.
//!
//! `DEFLATE_MESSAGES`: messages of each level, 120 by default. Many are for an optimised build:
//! `DEFLATE_MESSAGES=100000 cargo test --release -p weirgate-fuzz-targets --test deflate`.

use std::env;

use weirgate_wire::base::SplitMix64;

/// Messages through one compressor.
const OF_ONE: usize = 32;

/// The bytes that the target makes messages of.
fn input(random: &mut SplitMix64, level: u8) -> Vec<u8> {
    let window = [6, 6, 6, 3, (random.next_u64() % 7) as u8][(random.next_u64() % 5) as usize];
    let mut input = vec![level - 1, window];
    for _ in 0..OF_ONE {
        let [kind, seed, edge, low, high, ..] = random.next_u64().to_le_bytes();
        // One in five around an edge; of the others most have few kilobytes.
        let edge = if edge % 5 == 0 { edge / 5 % 10 } else { 255 };
        let high = if high % 4 == 0 { high } else { high % 8 };
        input.extend([kind, seed, edge, low, high]);
    }
    input
}

#[test]
fn every_text_comes_out_again_at_every_level() {
    let wanted = env::var("DEFLATE_MESSAGES").map_or(120, |text| text.parse().expect("a number"));
    for level in 1..=9 {
        let mut random = SplitMix64::new(u64::from(level));
        let mut messages = 0;
        while messages < wanted {
            weirgate_fuzz_targets::run("deflate", &input(&mut random, level));
            messages += OF_ONE;
        }
        println!("level {level}: {messages} messages");
    }
}
