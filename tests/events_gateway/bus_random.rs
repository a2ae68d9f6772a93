//! Pushes of random sizes between instances of random settings, on a bus that loses, cuts and
//! repeats messages: a device gets a push whole or not at all, and the service is told which.

use weirgate::gateways::events::bus::ExchangeSettings;
use weirgate_wire::base::SplitMix64;

use super::toy_bus::{Bus, WAIT_US, event};

const ROUNDS: u64 = 250;
const PUSHES: u64 = 20;

struct Random(SplitMix64);

impl Random {
    /// Below `end`.
    fn below(&mut self, end: usize) -> usize {
        (self.0.next_u64() % end as u64) as usize
    }

    /// Small numbers are as likely as large ones.
    fn size(&mut self, min: usize, max: usize) -> usize {
        let bits = (max / min).ilog2() as usize + 1;
        let top = min << self.below(bits);
        (top + self.below(top)).min(max)
    }

    fn settings(&mut self) -> ExchangeSettings {
        ExchangeSettings {
            wait_us: WAIT_US,
            message_bytes_max: self.size(16, 20_000),
            push_bytes_max: self.size(1_000, 30_000),
            instances_max: 4,
        }
    }

    /// What arrives of a message about a push.
    fn fate(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut bytes = bytes.to_vec();
        match self.below(100) {
            0 => vec![],
            1 => vec![bytes.clone(), bytes],
            2 => {
                bytes.truncate(self.below(bytes.len()));
                vec![bytes]
            }
            3 => {
                bytes.truncate(bytes.len() - 1);
                vec![bytes]
            }
            _ => vec![bytes],
        }
    }
}

/// Text in which each piece says where it is.
fn text(number: u64, bytes: usize) -> String {
    let pieces = (0..bytes / 8).map(|at| format!("{at:07};"));
    format!(
        r#"{{"n":{number},"text":"{}"}}"#,
        pieces.collect::<String>()
    )
}

#[test]
fn a_push_comes_whole_or_is_told_as_missing_whatever_instances_and_bus_do() {
    let mut whole = 0;
    let mut missing = 0;
    for seed in 0..ROUNDS {
        let (got, lost) = round(seed);
        whole += got;
        missing += lost;
    }
    assert!(whole > 1_000 && missing > 1_000, "{whole}, {missing}");
}

/// How many pushes came whole at other instances, and how many were told as missing.
fn round(seed: u64) -> (u64, u64) {
    let mut random = Random(SplitMix64::new(seed));
    let count = 2 + random.below(2);
    let mut bus = Bus::with((0..count).map(|_| random.settings()).collect());
    let keys: Vec<_> = bus
        .instances
        .iter_mut()
        .map(|one| one.connect("a"))
        .collect();
    if !seed.is_multiple_of(4) {
        let mut random = Random(SplitMix64::new(!seed));
        bus.arrives = Box::new(move |bytes| {
            let is_of_push = bytes.windows(6).any(|w| w == b" push ");
            match is_of_push || bytes.windows(8).any(|w| w == b" answer ") {
                true => random.fate(bytes),
                false => vec![bytes.to_vec()],
            }
        });
    }
    let mut pushed = Vec::new();
    for number in 0..PUSHES {
        let from = random.below(count);
        let data = text(number, random.size(16, 40_000));
        pushed.push((from, bus.push(from, &["a"], &data), event(&data)));
        if random.below(3) == 0 {
            bus.advance(random.below(300) as u64);
        }
    }
    bus.advance(WAIT_US / 1_000);
    let texts = keys.iter().zip(&mut bus.instances);
    let texts: Vec<_> = texts.map(|(key, one)| one.world.texts(*key)).collect();
    let (mut whole, mut missing) = (0, 0);
    for (from, answer, text) in &pushed {
        let (sent, is_up, without) = bus.answer(*from, *answer);
        assert!(is_up, "seed {seed}");
        let times = |to: usize| texts[to].iter().filter(|one| *one == text).count() as u64;
        assert_eq!(times(*from), 1, "seed {seed}");
        for to in (0..count).filter(|to| to != from) {
            let is_missing = without.contains(&bus.instances[to].exchange.id().as_str());
            assert!(times(to) <= 1, "seed {seed}: twice");
            assert!(
                times(to) == 1 || is_missing,
                "seed {seed}: {sent} of {count}"
            );
            whole += times(to);
            missing += u64::from(is_missing);
        }
        assert_eq!(sent as usize, count - without.len(), "seed {seed}");
    }
    // Nothing else came: no device has an event that no service has pushed.
    let known = |text: &String| pushed.iter().any(|(_, _, pushed)| pushed == text);
    assert!(
        texts.iter().flatten().all(known),
        "seed {seed}: changed on the way"
    );
    (whole, missing)
}
