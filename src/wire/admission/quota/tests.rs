use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Wake;

use super::*;
use crate::admission::Chosen;

const SECOND: u64 = 1_000_000;

fn v4(last: u8) -> ClientAddr {
    IpAddr::from([192, 0, 2, last]).into()
}

/// A client of the n-th network of /64.
fn v6(network: u16, host: u16) -> ClientAddr {
    let bits = 0x2001_0db8_u128 << 96 | u128::from(network) << 64 | u128::from(host);
    IpAddr::from(Ipv6Addr::from_bits(bits)).into()
}

fn all(quota: &Quota, client: ClientAddr, amount: u64) -> Vec<Permit> {
    std::iter::from_fn(|| quota.grant(client, amount)).collect()
}

#[test]
fn a_lone_address_gets_half_and_each_other_one_finds_room() {
    let places = Quota::new("places", 256);
    let mut charges = Vec::new();
    for (network, expected) in [128, 64, 32, 16, 8].into_iter().enumerate() {
        let got = all(&places, v6(network as u16, 0), 1);
        assert_eq!(got.len(), expected);
        assert!(places.grant(v6(network as u16, 9), 1).is_none(), "the /64");
        charges.extend(got);
    }
    assert_eq!((places.held(), places.counts().refused), (248, 10));
    drop(charges);
    assert_eq!((places.held(), places.of(v6(0, 0))), (0, 0));
    assert!(places.state().by_address.is_empty() && places.state().holders.is_empty());
}

#[test]
fn two_addresses_that_ask_by_turns_get_a_third_each() {
    let places = Quota::new("places", 90);
    let mut charges = Vec::new();
    for _ in 0..90 {
        charges.extend(places.grant(v4(1), 1));
        charges.extend(places.grant(v4(2), 1));
    }
    assert_eq!((places.of(v4(1)), places.of(v4(2))), (30, 30));
    assert!(places.has_room_for(v4(3)) && !places.has_room_for(v4(1)));
}

#[test]
fn what_is_granted_at_once_is_as_much_as_one_after_the_other() {
    for (max, amount) in [(0, 5), (1, 1), (7, 1), (7, 9), (256, 100), (256, 1_000)] {
        let [at_once, in_turn] = ["at once", "in turn"].map(|name| Quota::new(name, max));
        let (mut charges, mut single) = (Vec::new(), Vec::new());
        for last in 0..4 {
            let (room, before) = (at_once.room_for(v4(last)), single.len());
            charges.push(at_once.grant_some(v4(last), amount));
            single.extend((0..amount).filter_map(|_| in_turn.grant(v4(last), 1)));
            let granted = (single.len() - before) as u64;
            assert_eq!(charges[charges.len() - 1].amount(), granted);
            assert_eq!(granted, amount.min(room));
        }
        assert_eq!(at_once.held(), in_turn.held());
    }
    let places = Quota::new("places", 10);
    let charges = [places.grant_some(v4(1), 5), places.grant_some(v4(1), 1)];
    assert_eq!((charges[0].amount(), charges[1].amount()), (5, 0));
    assert_eq!(places.counts().refused, 1, "not all of it");
    assert!(places.grant_spare(v4(1), 1).is_none());
    assert_eq!(places.counts().refused, 1, "it can do without");
    assert!(places.grant_spare(v4(2), 1).is_some());
}

#[test]
fn a_charge_has_room_while_its_address_would_get_it_again() {
    let bytes = Quota::new("bytes", 100);
    let own = [bytes.hold(v4(1), 20, 0), bytes.hold(v4(1), 30, 0)];
    assert!(own.iter().all(Permit::has_room) && !bytes.has_room_for(v4(1)));
    let others = bytes.hold(v4(2), 40, 0);
    assert!(
        own[1].has_room() && !own[0].has_room(),
        "20 beside 40, 30 beside 30"
    );
    drop(bytes.hold(v4(3), 1_000, 0));
    assert!(others.has_room());
    let more = bytes.hold(v4(3), 1_000, 0);
    assert!(!own[1].has_room() && more.has_room());
}

#[test]
fn very_many_addresses_do_not_go_over_the_limit_and_a_release_makes_room() {
    let bytes = Quota::new("bytes", 1_000);
    let charges: Vec<_> = (0..2_000)
        .filter_map(|network| bytes.grant(v6(network, 0), 7))
        .collect();
    assert!(bytes.held() <= 1_000 && charges.len() == 142);
    assert!(bytes.grant(v4(1), 7).is_none());
    drop(charges);
    assert!(bytes.grant(v4(1), 7).is_some());
}

#[test]
fn the_amount_has_to_fit_unless_it_is_there_already() {
    let bytes = Quota::new("bytes", 100);
    assert!(bytes.grant(v4(1), 101).is_none());
    let charge = bytes.hold(v4(1), 150, 0);
    assert!(bytes.is_over() && !bytes.has_room_for(v4(2)));
    drop(charge);
    assert!(bytes.grant(v4(1), 100).is_some());
}

#[test]
fn a_charge_takes_over_another_of_the_same_client() {
    let places = Quota::new("places", 16);
    let mut charge = places.grant(v4(1), 3).expect("room");
    charge.merge(places.grant(v4(1), 4).expect("room"));
    assert_eq!((charge.amount(), places.of(v4(1))), (7, 7));
    drop(charge);
    assert_eq!(places.held(), 0);
}

#[test]
fn those_give_way_who_hold_much_for_long_and_not_those_who_move_or_hold_little() {
    let bytes = Quota::new("bytes", 1_000);
    let small: Vec<_> = (0..30).map(|_| bytes.hold(v4(1), 2, 0)).collect();
    let mut moving = bytes.hold(v4(2), 400, 0);
    let mut crawls = bytes.hold(v4(3), 300, 0);
    let large = bytes.hold(v4(4), 300, 9 * SECOND);
    moving.set(350, 10 * SECOND - 1);
    // More bytes are not progress.
    crawls.set(350, 10 * SECOND - 1);
    bytes.make_room(10 * SECOND);
    let is_evicted: Vec<_> = [&moving, &crawls, &large].map(Permit::is_evicted).into();
    assert_eq!(is_evicted, [false, true, false]);
    assert!(!small.iter().any(Permit::is_evicted) && !bytes.is_over());
    assert_eq!(bytes.counts().evicted, 1);
    drop(crawls);
    assert_eq!((bytes.held(), bytes.state().evicting), (710, 0));
}

#[test]
fn many_that_have_just_moved_go_before_one_that_holds_next_to_nothing() {
    let bytes = Quota::new("bytes", 1_000);
    let small = bytes.hold(v4(1), 1, 0);
    let many: Vec<_> = (0..10)
        .map(|_| bytes.hold(v4(2), 100, 10 * SECOND))
        .collect();
    bytes.make_room(10 * SECOND);
    assert!(!small.is_evicted() && many.iter().filter(|one| one.is_evicted()).count() == 2);
}

#[test]
fn a_choice_frees_an_eighth_and_leaves_the_last_holder() {
    let bytes = Quota::new("bytes", 800);
    let mut charges: Vec<_> = (0..81).map(|n| bytes.hold(v4(1), 10, n)).collect();
    bytes.make_room(100);
    bytes.make_room(100);
    assert_eq!(
        charges.iter().filter(|charge| charge.is_evicted()).count(),
        11
    );
    charges.retain(|charge| !charge.is_evicted());
    assert_eq!((bytes.held(), bytes.counts().evicted), (700, 11));
    charges.truncate(1);
    charges[0].set(5_000, 200);
    bytes.make_room(300);
    assert!(!charges[0].is_evicted(), "it has a limit of its own");
}

#[test]
fn those_that_stand_still_make_way_for_as_many_as_wait() {
    let places = Quota::new("places", 4);
    let charges: Vec<_> = (0..4).map(|n| places.hold(v4(1), 1, n)).collect();
    charges[0].progress(SECOND);
    let is_evicted = |charges: &[Permit]| charges.iter().filter(|one| one.is_evicted()).count();
    places.evict(2, SECOND, SECOND);
    assert_eq!(is_evicted(&charges), 0);
    places.evict(2, SECOND, SECOND + 9);
    assert!(charges[1].is_evicted() && charges[2].is_evicted() && is_evicted(&charges) == 2);
    places.evict(2, SECOND, SECOND + 9);
    assert!(!charges[0].is_evicted() && is_evicted(&charges) == 3);
    assert_eq!(places.counts().evicted, 3);
}

#[test]
fn a_holder_that_shrinks_while_it_gives_way_counts_once() {
    let bytes = Quota::new("bytes", 100);
    let mut first = bytes.hold(v4(1), 80, 0);
    let second = bytes.hold(v4(2), 60, 5);
    bytes.make_room(10);
    assert!(first.is_evicted() && !second.is_evicted());
    first.set(10, 11);
    assert_eq!((bytes.held(), bytes.state().evicting), (70, 10));
    drop((first, second));
    assert_eq!((bytes.held(), bytes.state().evicting), (0, 0));
}

#[test]
fn a_client_without_room_has_the_stillest_give_way_of_those_that_hold_no_less() {
    let places = Quota::new("places", 4);
    let [first, second, busy, other] = [1, 1, 1, 2].map(|n| places.hold(v4(n), 1, 5));
    first.progress(4);
    busy.work();
    other.progress(1);
    places.evict_for(v4(3), 10, 13);
    places.evict_for(v4(1), 10, 13);
    let is_evicted = || [&first, &second, &busy, &other].map(Permit::is_evicted);
    assert_eq!(
        is_evicted(),
        [false, false, false, true],
        "the stillest, then nobody is still for long enough"
    );
    places.evict_for(v4(1), 10, 14);
    assert_eq!(is_evicted(), [true, false, false, true]);
    places.evict_for(v4(2), 10, 99);
    places.evict_for(v4(2), 10, 99);
    assert_eq!(is_evicted(), [true, true, false, true], "nobody who moves");
    assert_eq!(places.counts().evicted, 3);
    let few = places.hold(v4(4), 1, 0);
    drop((first, second, busy, other));
    let _more = [(); 2].map(|()| places.hold(v4(5), 1, u64::MAX));
    places.evict_for(v4(5), 10, 99);
    assert!(!few.is_evicted(), "it holds less");
}

#[test]
fn the_chosen_holder_is_woken_once_and_no_other() {
    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }
    let bytes = Quota::new("bytes", 100);
    let wakes: Vec<_> = (0..2).map(|_| Arc::new(Count::default())).collect();
    let charges: Vec<_> = std::iter::zip(&wakes, 1..)
        .map(|(count, n)| {
            let charge = bytes.hold(v4(n), 60, u64::from(n));
            charge.wake_with(&Arc::clone(count).into());
            charge
        })
        .collect();
    bytes.make_room(10);
    bytes.make_room(20);
    let woken: Vec<_> = wakes.iter().map(|count| count.0.load(Relaxed)).collect();
    assert_eq!(woken, [1, 0]);
    assert!(charges[0].is_evicted());
}

#[test]
fn a_thread_finds_its_chosen_holders_by_key_and_those_that_it_takes_over() {
    let bytes = Quota::new("bytes", 100);
    let chosen = Chosen::new(Waker::noop().clone());
    let mut charges: Vec<_> = (1..4)
        .map(|n| bytes.hold(v4(n), 60, u64::from(n)))
        .collect();
    charges[0].wake_with(&chosen.waker("a"));
    bytes.make_room(10);
    assert_eq!(chosen.take(), ["a"]);
    for (charge, key) in std::iter::zip(&mut charges, ["a", "b", "c"]) {
        charge.wake_with(&chosen.waker(key));
    }
    assert_eq!(chosen.take(), ["a", "b"], "chosen before");
    // It frees what it holds before its owner has looked.
    charges[1].set(0, 20 * SECOND);
    assert!(!charges[1].is_evicted() && charges[0].is_evicted());
    charges[1].set(90, 30 * SECOND);
    bytes.make_room(40 * SECOND);
    assert_eq!(chosen.take(), ["c"]);
    assert!(chosen.is_empty());
}

#[test]
fn charges_may_end_on_any_thread() {
    let bytes = Quota::new("bytes", 1_000_000);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let bytes = &bytes;
            scope.spawn(move || {
                for round in 0..1_000 {
                    let mut charge = bytes.hold(v4(n), 10, round);
                    charge.set(round, round);
                }
            });
        }
    });
    assert_eq!(bytes.held(), 0);
}

/// Two addresses that take over what the other has held do not get more than two that do not.
#[test]
fn what_several_addresses_hold_counts_once_and_taking_it_over_gains_nothing() {
    let names = Quota::new("names", 64);
    let mut charges = [v4(1), v4(2)].map(|address| names.hold(address, 0, 0));
    for round in 0..20 {
        let [one, other] = &mut charges;
        let (taker, giver) = if round % 2 == 0 {
            (one, other)
        } else {
            (other, one)
        };
        while taker.grant_more(1, 0, 0) {}
        // All that the taker can have of the giver's, which the giver then gives up.
        let mut left = giver.amount();
        while left > 0 && taker.grant_more(1, 1, 0) {
            giver.give_back(1, 1);
            left -= 1;
        }
        giver.give_back(left, 0);
        assert!(names.held() <= 48, "{round}: {names:?}");
    }
    let mut third = names.hold(v4(3), 0, 0);
    assert!(third.grant_more(1, 0, 0));
    // With nothing free, what others hold is there for those that hold little.
    let _rest = names.hold(v4(4), 64 - names.held(), 0);
    assert!(!third.grant_more(1, 0, 0) && !third.grant_more(1, 1, 1));
    assert!(third.grant_more(1, 1, 2) && names.held() == 64);
    third.give_back(1, 1);
    assert_eq!((names.held(), third.amount()), (64, 1));
}

/// A holder that rests since a time.
fn resting(of: &Quota, client: ClientAddr, amount: u64, since_us: u64) -> Permit {
    let charge = of.hold(client, amount, 0);
    charge.rest(Rest {
        kind: RestKind::Idle,
        since_us,
    });
    charge
}

fn room(holders_max: usize, sharing: Sharing) -> Room {
    Room {
        holders_max,
        sharing,
        early: false,
    }
}

#[test]
fn a_new_holder_takes_the_place_of_the_one_that_has_rested_longest() {
    let places = Quota::new("places", 1_000);
    let rests: Vec<_> = [7, 5, 9].map(|at| resting(&places, v4(1), 1, at)).into();
    let owed = resting(&places, v4(1), 1, 1);
    owed.rest(Rest {
        kind: RestKind::Owed,
        since_us: 1,
    });
    let busy = places.hold(v4(2), 1, 0);
    let mut late = Vec::new();
    let mut come = |now_us| {
        late.push(places.hold(v4(3), 1, u64::MAX));
        let fitted = late[late.len() - 1].fit(room(5, Sharing::Unshared), now_us);
        let all = rests.iter().chain([&owed, &busy]).chain(&late);
        (fitted, all.filter(|one| one.is_evicted()).count())
    };
    assert_eq!(come(6), (Ok(()), 1), "the one since 5");
    assert!(rests[1].is_evicted());
    assert_eq!(come(8), (Ok(()), 2), "the one since 7");
    assert_eq!(come(8), (Ok(()), 3), "the one that is owed something");
    assert!(rests[0].is_evicted() && owed.is_evicted() && !rests[2].is_evicted());
    assert_eq!(come(8), (Err(Full::Holders), 3), "the last rests from 9 on");
    assert_eq!(come(9), (Err(Full::Holders), 4), "two too many by now");
    assert_eq!(places.counts().refused, 2);
    // Those that work, or work again, stay.
    owed.work();
    assert!(!owed.is_evicted() && !busy.is_evicted());
    drop((rests, owed, busy, late));
    let state = places.state();
    assert_eq!(
        (state.held, state.evicting, state.evicting_holders),
        (0, 0, 0)
    );
    assert!(state.by_address.is_empty() && state.next_evicted(None, u64::MAX).is_none());
}

/// Holders of an address, each with what it does, since 10, 20, 30, ...
fn doing(of: &Quota, client: ClientAddr, kinds: &[RestKind]) -> Vec<Permit> {
    let hold = |(n, kind): (usize, &RestKind)| {
        let charge = of.hold(client, 1, 0);
        charge.rest(Rest {
            kind: *kind,
            since_us: 10 * (n as u64 + 1),
        });
        charge
    };
    kinds.iter().enumerate().map(hold).collect()
}

/// Which of these are evicted.
fn evicted(holders: &[Permit]) -> Vec<usize> {
    let chosen = holders.iter().enumerate();
    let chosen = chosen.filter(|(_, one)| one.is_evicted());
    chosen.map(|(n, _)| n).collect()
}

#[test]
fn the_address_with_the_most_holders_gives_way_first_and_what_rests_before_what_works() {
    use RestKind::{Asked, Changing, Idle, Owed, Pipelined};
    let places = Quota::new("places", 9);
    let most = [Asked, Pipelined, Changing, Asked, Owed, Idle];
    let most = doing(&places, v4(1), &most);
    let others = [2, 3, 4]
        .map(|n| doing(&places, v4(n), &[Idle]))
        .into_iter();
    let others: Vec<_> = others.flatten().collect();
    let full = Err(Full::Holders);
    let mut late = Vec::new();
    let mut come = |client, now_us| {
        let may_fit = places.may_fit(client, 9, now_us);
        late.push(places.hold(client, 1, u64::MAX));
        let fitted = late[late.len() - 1].fit(room(9, Sharing::LargestFirst), now_us);
        assert_eq!(may_fit, fitted.is_ok());
        if fitted.is_err() {
            late.pop();
        }
        (fitted, evicted(&most), evicted(&others))
    };
    assert_eq!(come(v4(9), 99), (Ok(()), vec![1], vec![]));
    assert_eq!(
        come(v4(8), 99),
        (Ok(()), vec![1, 5], vec![]),
        "the idle one"
    );
    assert_eq!(come(v4(7), 99), (Ok(()), vec![1, 4, 5], vec![]));
    let rests = (full, vec![1, 4, 5], vec![]);
    assert_eq!(come(v4(1), 99), rests, "its own holders all work");
    let rests = (Ok(()), vec![1, 4, 5], vec![0]);
    assert_eq!(
        come(v4(1), SECOND + 10),
        rests,
        "that has rested for a second"
    );
    // Nobody else rests by then.
    assert_eq!(come(v4(6), 5), (Ok(()), vec![0, 1, 4, 5], vec![0]));
    assert_eq!(come(v4(1), 5), (full, vec![0, 1, 4, 5], vec![0]));
    assert_eq!(come(v4(5), 5), (Ok(()), vec![0, 1, 3, 4, 5], vec![0]));
    assert_eq!(
        come(v4(10), 5).0,
        Ok(()),
        "the change, when all else is one of its address"
    );
    assert_eq!(come(v4(11), 5).0, full);
    assert_eq!(
        come(v4(11), 99),
        (Ok(()), vec![0, 1, 2, 3, 4, 5], vec![0, 1])
    );
}

#[test]
fn a_new_holder_has_to_fit_in_the_sum_and_in_the_share_of_its_address() {
    let bytes = Quota::new("bytes", 100);
    let own: Vec<_> = (0..5).map(|n| resting(&bytes, v4(1), 10, n)).collect();
    let other = resting(&bytes, v4(2), 10, 0);
    // 50 of its address are more than the 40 that others leave free.
    let sixth = bytes.hold(v4(1), 10, 0);
    assert_eq!(sixth.fit(room(99, Sharing::ByAddress), 9), Ok(()));
    assert!(own[0].is_evicted() && !other.is_evicted(), "one of its own");
    assert_eq!(
        sixth.fit(room(99, Sharing::Unshared), 9),
        Ok(()),
        "the sum has room"
    );
    let large = bytes.hold(v4(3), 55, 0);
    assert_eq!(large.fit(room(99, Sharing::ByAddress), 9), Ok(()));
    assert!(other.is_evicted() && own[1].is_evicted() && !own[2].is_evicted());
    own.iter().for_each(|one| one.work());
    assert_eq!(
        large.fit(room(99, Sharing::ByAddress), 9),
        Err(Full::Sum),
        "these work"
    );
    drop(large);
    assert_eq!(sixth.fit(room(99, Sharing::ByAddress), 9), Err(Full::Share));
    let small = bytes.hold(v4(4), 10, 0);
    assert_eq!(
        small.fit(room(99, Sharing::ByAddress), 9),
        Ok(()),
        "a later address"
    );
    small.move_to(v4(1));
    assert_eq!(small.fit(room(99, Sharing::ByAddress), 9), Err(Full::Share));
    assert_eq!((bytes.of(v4(4)), bytes.of(v4(1))), (0, 70));
}

/// A thousand that come at once do not hold more than the limit, though nobody has ended yet.
#[test]
fn what_another_thread_has_to_end_counts_until_then() {
    let early = Room {
        early: true,
        ..room(usize::MAX, Sharing::ByAddress)
    };
    let bytes = Quota::new("bytes", 1_000);
    let mut all = Vec::new();
    let come = |all: &mut Vec<Permit>, client: ClientAddr| {
        let charge = bytes.hold(client, 10, 0);
        let fitted = charge.fit(early, 9);
        charge.rest(Rest {
            kind: RestKind::Idle,
            since_us: 0,
        });
        if fitted.is_ok() {
            all.push(charge);
        }
        fitted
    };
    for _ in 0..1_000 {
        let _ = come(&mut all, v4(1));
    }
    assert_eq!(come(&mut all, v4(1)), Err(Full::Share));
    assert!(bytes.of(v4(1)) <= 600, "half, and what gives way");
    assert_eq!(come(&mut all, v4(2)), Ok(()), "others find room meanwhile");
    assert!(!bytes.is_waiting_for_evicted());
    let count = |all: &[Permit]| all.iter().filter(|one| one.is_evicted()).count();
    assert!(count(&all) > 0);
    // Once they have ended, further ones come for those that rest.
    for _ in 0..1_000 {
        all.retain(|one| !one.is_evicted());
        assert_eq!(come(&mut all, v4(1)), Ok(()));
        assert!(bytes.of(v4(1)) <= 500);
    }
    // Many addresses: what is evicted is a part more than the limit, and new ones wait before that.
    for network in 0..200 {
        let _ = come(&mut all, v6(network, 0));
        assert!(bytes.held() <= 1_250);
    }
    assert!(bytes.is_waiting_for_evicted());
    all.retain(|one| !one.is_evicted());
    assert!(bytes.held() <= 1_000 && !bytes.is_waiting_for_evicted());
}
