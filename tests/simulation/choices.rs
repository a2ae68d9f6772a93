//! What a seed decides: limits, sizes, texts, and the many ways to be a bad client.

use std::io::Write;
use std::sync::OnceLock;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use weirgate_core::{AddressLimits, CloseReason, DrainPlan, Limits, SendQueueLimits};

use crate::world::Random;
use crate::world::client::{frame, request};

pub(crate) const SECOND: u64 = 1_000_000;

impl Random {
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// Limits so small that a short run meets them.
pub(crate) fn limits(random: &mut Random) -> Limits {
    let soft_bytes = random.between(300, 12_000) as usize;
    Limits {
        send_queue: SendQueueLimits {
            soft_bytes,
            hard_bytes: soft_bytes * random.between(1, 6) as usize,
            soft_for_us: random.between(100_000, 6 * SECOND),
            conflate_after_us: random.between(50_000, 3 * SECOND),
            stall_us: random.between(2 * SECOND, 40 * SECOND),
            control_bytes_max: random.between(300, 3_000) as usize,
        },
        frame_bytes_max: match random.chance(15) {
            true => random.between(30_000, 200_000),
            false => u64::MAX,
        },
        head_bytes_max: random.between(600, 16_384) as usize,
        handshake_us: random.between(SECOND, 10 * SECOND),
        message_bytes_max: random.between(1_000, 60_000) as usize,
        connections_max: match random.chance(15) {
            true => random.between(5, 20) as usize,
            false => usize::MAX,
        },
        per_ip: AddressLimits {
            connections_max: random.chance(10).then(|| random.between(3, 20) as usize),
            connections_per_second: random.chance(10).then(|| random.between(1, 5) as u32),
            burst: random.between(1, 10) as u32,
        },
        ping_interval_us: random.pick(&[0, SECOND, 5 * SECOND, 20 * SECOND]),
        pong_timeout_us: random.between(SECOND, 15 * SECOND),
        // The ledger knows no gates: `hub_rules::buffered` has these.
        buffered_after_us: u64::MAX,
        close_timeout_us: random.between(200_000, 5 * SECOND),
        share_us: random.pick(&[0, 1, 3, 20, 1_000]),
        work_us: random.pick(&[0, 1, 5, 50, 1_000]),
        gather_us: random.pick(&[0, 0, 1_000, 50_000]),
        write_bytes_max: random.pick(&[20, 100, 700, 3_000, 128 * 1024]),
        deflate_level: random.pick(&[0, 1, 1, 2, 2, 3, 5, 6, 9]),
        // Some clients may refer to their earlier messages, and others not.
        inflate_windows_bytes_max: 4 << 15,
        deflate_min_bytes: random.pick(&[0, 0, 32, 256]),
        ..Limits::default()
    }
}

pub(crate) fn drain_plan(random: &mut Random) -> DrainPlan {
    DrainPlan {
        delay_us: random.pick(&[0, 500_000, 3 * SECOND]),
        spread_us: random.pick(&[0, 1, 2 * SECOND, 8 * SECOND]),
        ..DrainPlan::default()
    }
}

/// How much a kernel takes, mostly little: writes have to stop everywhere.
pub(crate) fn room(random: &mut Random) -> usize {
    let most = random.pick(&[3, 8, 16, 16, 60, 300, 300, 3_000, 70_000]);
    random.between(1, most) as usize
}

/// Text that deflates well, and only with matches that lie up to a whole 4 KiB back.
fn corpus() -> &'static str {
    static CORPUS: OnceLock<String> = OnceLock::new();
    CORPUS.get_or_init(|| {
        let mut random = Random::new(1);
        let mut text = Vec::new();
        while text.len() < 150_000 {
            let len = random.between(20, 60) as usize;
            if text.len() > 4_000 && random.chance(60) {
                let at = text.len() - random.between(100, 3_990) as usize;
                text.extend_from_within(at..at + len);
            } else {
                text.extend((0..len).map(|_| b'a' + random.below(26) as u8));
            }
        }
        String::from_utf8(text).expect("letters")
    })
}

/// A text that occurs once: it begins with its number. Sizes stand at the borders of the frame
/// header's forms, too.
pub(crate) fn body(random: &mut Random, number: u64) -> String {
    let len = match random.below(100) {
        0..45 => random.between(0, 100),
        45..55 => random.between(118, 130),
        55..78 => random.between(130, 1_500),
        78..95 => random.between(1_500, 6_000),
        95..98 => random.between(6_000, 20_000),
        98 => random.between(65_500, 65_545),
        _ => random.between(65_600, 80_000),
    };
    let at = random.below(70_000) as usize;
    let mut text = format!("{number}:");
    let rest = (len as usize).saturating_sub(text.len());
    text += &corpus()[at..at + rest];
    text
}

/// The bytes of a client that breaks the rules, and what that has to end in.
pub(crate) fn violation(
    random: &mut Random,
    deflate: bool,
    limits: &Limits,
) -> (Vec<u8>, CloseReason, u16) {
    use CloseReason::{BadUtf8, MessageTooBig, ProtocolError};
    let unmasked = vec![0x81, 0x02, b'h', b'i'];
    let too_big = vec![b'x'; limits.message_bytes_max + 1];
    let announced = [&[0x82, 0xff][..], &(1_u64 << 40).to_be_bytes(), &[0; 4]].concat();
    let too_big_fragments = {
        let half = &too_big[..too_big.len() / 2 + 1];
        [frame(0x02, half), frame(0x80, half)].concat()
    };
    let protocol = [
        unmasked,
        frame(0xa1, b"reserved bit"),
        frame(0x83, b"reserved opcode"),
        frame(0x09, b"fragmented ping"),
        frame(0x89, &[0; 126]),
        frame(0x80, b"continues nothing"),
        [frame(0x01, b"be"), frame(0x81, b"gin")].concat(),
        frame(0xc0, b"compressed continuation"),
        frame(0x88, b"\x03"),
    ];
    match random.below(8) {
        0 => (frame(0x81, b"ok \xf4\x90"), BadUtf8, 1007),
        1 => {
            let split = [frame(0x01, b"\xe2"), frame(0x80, b"\x82")].concat();
            (split, BadUtf8, 1007)
        }
        2 => (frame(0x82, &too_big), MessageTooBig, 1009),
        3 => (announced, MessageTooBig, 1009),
        4 => (too_big_fragments, MessageTooBig, 1009),
        5 if deflate => (frame(0xc1, b"\xff\xff\xff"), ProtocolError, 1007),
        6 if deflate => (frame(0xc1, &deflated(&too_big)), MessageTooBig, 1009),
        5 | 6 => (frame(0xc1, b"not negotiated"), ProtocolError, 1002),
        _ => {
            let at = random.below(protocol.len() as u64) as usize;
            (protocol[at].clone(), ProtocolError, 1002)
        }
    }
}

/// As a client would deflate a message (RFC 7692 §7.2.1).
pub(crate) fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(payload).expect("to memory");
    encoder.flush().expect("to memory");
    let mut bytes = encoder.get_ref().clone();
    assert!(bytes.ends_with(&[0, 0, 0xff, 0xff]));
    bytes.truncate(bytes.len() - 4);
    bytes
}

/// A head that is refused, and with which status.
pub(crate) fn bad_head(random: &mut Random, limits: &Limits) -> (Vec<u8>, u16) {
    let good = String::from_utf8(request("/ws", None)).expect("text");
    let with = |from: &str, to: &str| good.replacen(from, to, 1).into_bytes();
    let max = limits.head_bytes_max;
    match random.below(8) {
        0 => (with("Host: sim\r\n", ""), 400),
        1 => (with("Host: sim", "Host: sim\r\nHost: other"), 400),
        2 => (with("Version: 13", "Version: 12"), 426),
        3 => (with("dGhl", "d"), 400),
        4 => (with("HTTP/1.1", "HTTP/2.7"), 505),
        5 => {
            let long = format!("X-Long: {}\r\n\r\n", "y".repeat(max));
            (with("\r\n\r\n", &format!("\r\n{long}")), 431)
        }
        6 => (with("/ws", &format!("/{}", "z".repeat(max))), 414),
        _ => (with("/ws", "/elsewhere"), 403),
    }
}
