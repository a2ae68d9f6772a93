//! A loss of the bus: told to each client before anything from behind it, and over several turns.

use super::resume::{Bench, SECOND};
use super::*;

const CLIENTS: usize = 40;

/// A gateway with `CLIENTS` clients of "A", of which a turn looks at about ten, and one of "B".
fn crowd() -> (Bench, Vec<SessionKey>, SessionKey) {
    let mut bench = Bench::of(5, |limits| limits.work_us = 10);
    let quiet: Vec<_> = (0..CLIENTS).map(|_| bench.client()).collect();
    for &key in &quiet {
        subscribe(&mut bench.world, key, r#"["A"]"#);
    }
    let busy = bench.client();
    subscribe(&mut bench.world, busy, r#"["B"]"#);
    (bench, quiet, busy)
}

fn gap(bench: &mut Bench) {
    bench.bus(BusEvent::Gap { lost: None });
}

/// What the clients got of losses: the number of clients with a status, all of which are about a loss.
fn told(bench: &mut Bench, keys: &[SessionKey]) -> usize {
    let mut count = 0;
    for &key in keys {
        let texts = bench.world.texts(key);
        assert!(texts.len() <= 1, "{texts:?}");
        assert!(texts.iter().all(|text| text.contains(r#""lost":true"#)));
        count += texts.len();
    }
    count
}

#[test]
fn a_loss_is_told_before_a_message_and_to_quiet_clients_over_several_turns() {
    let (mut bench, quiet, busy) = crowd();
    for n in 0..5 {
        gap(&mut bench);
        bench.trade_behind_loss("B", n);
        let got = bench.world.texts(busy);
        assert!(
            got.len() == 2 && got[0].contains(r#""lost":true"#) && got[1].contains("trade"),
            "{got:?}"
        );
    }
    assert_eq!(told(&mut bench, &quiet), 0, "not in the turns of messages");
    // The second is over: slices, and all losses are one.
    bench.world.held = true;
    let mut turns = 0;
    for _ in 0..20 {
        bench.world.advance(if turns == 0 { SECOND } else { 0 });
        bench.world.held = false;
        bench.world.flush();
        bench.world.held = true;
        let count = told(&mut bench, &quiet);
        assert!(count <= 12, "{count} in one turn");
        turns += usize::from(count > 0);
    }
    assert!(turns >= 4, "{turns} turns");
    bench.world.held = false;
    assert!(!bench.world.hub.core().is_notifying());
    // Each was told once.
    gap(&mut bench);
    bench.world.advance(SECOND);
    assert_eq!(told(&mut bench, &quiet), CLIENTS);
}

#[test]
fn many_losses_take_one_round_in_a_second() {
    let (mut bench, quiet, _) = crowd();
    for _ in 0..100 {
        gap(&mut bench);
        bench.world.advance(SECOND / 100);
    }
    bench.world.advance(SECOND / 100);
    assert_eq!(told(&mut bench, &quiet), CLIENTS);
    gap(&mut bench);
    bench.world.advance(SECOND / 2);
    assert_eq!(told(&mut bench, &quiet), 0);
    bench.world.advance(SECOND / 2);
    assert_eq!(told(&mut bench, &quiet), CLIENTS);
}

#[test]
fn a_client_that_comes_behind_a_loss_is_not_told() {
    let (mut bench, quiet, _) = crowd();
    gap(&mut bench);
    let new = bench.client();
    bench.world.advance(SECOND);
    assert_eq!(told(&mut bench, &quiet), CLIENTS);
    let got = bench.world.texts(new);
    assert!(got.iter().all(|text| !text.contains("lost")), "{got:?}");
}
