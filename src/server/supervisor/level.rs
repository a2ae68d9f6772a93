//! Which processes have far more clients than others, and how many of these should leave.
//!
//! The system gives new clients to all processes alike, so the shares differ only after a process was started again. A
//! client that leaves comes back to any process. Each move costs a reconnection, so small differences stay.

#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::disallowed_types))]

use super::core::Number;

/// A process has too many clients if it has more than this percentage of the mean,
const PERCENT_MAX: u64 = 120;
/// and more than so many standard deviations of chance over the mean.
const DEVIATIONS: f64 = 4.0;
/// The time between two clients that leave, milliseconds.
const CLIENT_MS: u64 = 10;
/// The least time over which clients leave.
const SPREAD_MS_MIN: u64 = 10_000;
/// The most time, so that the next look is not far.
const SPREAD_MS_MAX: u64 = 120_000;

/// The processes with too many clients, and how many should leave each. The clients that come back to the same process
/// are left for the next look.
pub(super) fn excess(counts: &[(Number, u64)]) -> Vec<(Number, u64)> {
    let all: u64 = counts.iter().map(|(_, count)| count).sum();
    let Some(mean) = all.checked_div(counts.len() as u64) else {
        return Vec::new();
    };
    let by_chance = mean + (DEVIATIONS * (mean as f64).sqrt()).ceil() as u64;
    let most = by_chance.max(mean * PERCENT_MAX / 100);
    let too_many = counts.iter().filter(|(_, count)| *count > most);
    too_many
        .map(|(number, count)| (*number, count - mean))
        .collect()
}

/// How many of `wanted` clients leave each process, by its part of all clients. They are as many together, unless there are
/// fewer clients.
pub(super) fn shares(wanted: u64, counts: &[(Number, u64)]) -> Vec<(Number, u64)> {
    let mut all: u64 = counts.iter().map(|(_, count)| count).sum();
    let mut left = wanted.min(all);
    let share = |(number, count): &(Number, u64)| {
        // This process has some part of the clients that are left: it gets the same part of what is left of `wanted`,
        // but at least what the processes after it have too few clients for.
        let share = u128::from(left) * u128::from(*count) / u128::from(all.max(1));
        let share = (share as u64).max((left + count).saturating_sub(all));
        (left, all) = (left - share, all - count);
        (*number, share)
    };
    counts.iter().map(share).collect()
}

/// The time over which so many clients leave, milliseconds.
pub(super) fn spread_ms(clients: u64) -> u64 {
    (clients * CLIENT_MS).clamp(SPREAD_MS_MIN, SPREAD_MS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excess_of(counts: &[u64]) -> Vec<(Number, u64)> {
        excess(&(1..).zip(counts.iter().copied()).collect::<Vec<_>>())
    }

    #[test]
    fn shares_that_differ_by_chance_or_little_stay() {
        for counts in [
            &[][..],
            &[0, 0],
            &[7, 1],
            &[60, 40],
            &[1_190, 1_000, 900, 910],
        ] {
            assert_eq!(excess_of(counts), [], "{counts:?}");
        }
        assert_eq!(
            excess_of(&[1_333, 1_333, 1_333, 1]),
            [(1, 333), (2, 333), (3, 333)]
        );
        assert_eq!(excess_of(&[2_000, 1_000]), [(1, 500)]);
    }

    #[test]
    fn so_many_leave_all_together_by_their_parts() {
        let shares_of = |wanted, counts: &[u64]| {
            let counts: Vec<_> = (1..).zip(counts.iter().copied()).collect();
            let shares = shares(wanted, &counts).into_iter();
            shares.map(|(_, share)| share).collect::<Vec<_>>()
        };
        assert_eq!(shares_of(30, &[100, 100, 100]), [10, 10, 10]);
        assert_eq!(shares_of(30, &[200, 0, 100]), [20, 0, 10]);
        assert_eq!(shares_of(2, &[1, 1, 1]), [0, 1, 1]);
        assert_eq!(shares_of(900, &[7, 5]), [7, 5]);
        assert_eq!(shares_of(3, &[]), [0; 0]);
        assert_eq!(shares_of(u64::MAX, &[u64::MAX / 2]), [u64::MAX / 2]);
        for wanted in 0..40 {
            let counts = [3, 0, 17, 1, 9];
            let shares = shares_of(wanted, &counts);
            assert_eq!(shares.iter().sum::<u64>(), wanted.min(30));
            assert!(
                shares
                    .iter()
                    .zip(counts)
                    .all(|(share, count)| *share <= count)
            );
        }
    }

    #[test]
    fn a_few_looks_make_shares_even() {
        for count in [2_usize, 4, 6, 20] {
            let mut shares = vec![count as u64 * 1_000 / (count as u64 - 1); count];
            shares[0] = 0;
            let mut looks = 0;
            loop {
                let excess = excess_of(&shares);
                if excess.is_empty() {
                    break;
                }
                looks += 1;
                for (number, clients) in excess {
                    shares[number as usize - 1] -= clients;
                    for share in &mut shares {
                        *share += clients / count as u64;
                    }
                }
            }
            let (most, mean) = (
                shares.iter().max(),
                shares.iter().sum::<u64>() / count as u64,
            );
            assert!(most <= Some(&(mean * 6 / 5)), "{shares:?}");
            assert!(looks <= 3, "{count}: {looks}");
        }
    }

    #[test]
    fn clients_leave_slowly() {
        assert_eq!(spread_ms(30), 10_000);
        assert_eq!(spread_ms(3_000), 30_000);
        assert_eq!(spread_ms(1_000_000), 120_000);
    }
}
