//! `wall_ratio` for every kind of number that a publisher may send, against Python's division: the
//! same double, to the last digit, up to the largest.

use std::fmt::Write;

use weirgate_wire::base::SplitMix64;

/// Numbers of one message.
const LEVELS: usize = 100;

/// Messages of each kind.
const ROUNDS: usize = 40;

/// Feeds levels with these numbers; the target compares each ratio with Python's.
fn compare(numbers: impl Iterator<Item = String>) {
    let mut message = String::from("{\"ts\":1700000000000,\"levels\":[");
    for (at, number) in numbers.enumerate() {
        let comma = if at > 0 { "," } else { "" };
        let _ = write!(
            message,
            "{comma}{{\"barrier\":{{\"depth_in_zone\":{number}}}}}"
        );
    }
    message += "]}";
    weirgate_fuzz_targets::run("levels", message.as_bytes());
}

/// A finite double of any size, sign and exponent.
fn double(random: &mut SplitMix64) -> f64 {
    std::iter::repeat_with(|| f64::from_bits(random.next_u64()))
        .find(|double| double.is_finite())
        .unwrap_or_default()
}

#[test]
fn doubles_of_any_size() {
    let mut random = SplitMix64::new(1);
    for _ in 0..ROUNDS {
        compare((0..LEVELS).map(|_| format!("{:?}", double(&mut random))));
    }
}

#[test]
fn doubles_above_1e300() {
    let mut random = SplitMix64::new(2);
    let mut large = || {
        let exponent = 300 + random.next_u64() % 8;
        format!(
            "{}.{:017}e{exponent}",
            1 + random.next_u64() % 9,
            random.next_u64() % 100_000_000_000_000_000
        )
    };
    for _ in 0..ROUNDS {
        compare((0..LEVELS).map(|_| large()));
    }
    compare(
        [
            "1.7976931348623157e308",
            "-1.7976931348623157e308",
            "5e-324",
            "2.5e-320",
        ]
        .map(str::to_owned)
        .into_iter(),
    );
}

#[test]
fn integers_of_any_length() {
    let mut random = SplitMix64::new(3);
    for _ in 0..ROUNDS {
        compare((0..LEVELS).map(|_| {
            let digits = 1 + random.next_u64() % 308;
            let mut integer = (1 + random.next_u64() % 9).to_string();
            (1..digits).for_each(|_| integer += &(random.next_u64() % 10).to_string());
            integer
        }));
    }
}

/// Python's own `round(value, 3)` is asked by the target, for each setting with a fraction.
#[test]
fn settings_with_a_fraction() {
    let mut random = SplitMix64::new(4);
    for _ in 0..200 {
        // The fifth digit makes most of them nearly ties.
        let tie = format!(
            "{}.{:03}5",
            random.next_u64() % 1_000,
            random.next_u64() % 1_000
        );
        let exact = (random.next_u64() % 1_000_000) as f64 / 16.0;
        let any = double(&mut random);
        let lines = format!(
            "\u{3}RATE_LIMIT_BURST={tie}\nRATE_LIMIT_RPS={exact:?}\nHTTP_TIMEOUT_SECONDS={any:?}"
        );
        weirgate_fuzz_targets::run("settings", lines.as_bytes());
    }
}
