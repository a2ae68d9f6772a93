//! What a search finds, and what it costs.

use super::*;

#[test]
fn a_search_has_one_budget_of_matching_steps() {
    let mut bench = Bench::new(1 << 24);
    for n in 0..2_000 {
        bench.keep(&format!("market:tick:NFO:BANKNIFTY{n:06}CE"), "1");
    }
    let since = position(0, 0).to_string();
    let wanted_by = |pattern: &str| {
        let patterns = NamePatterns::new(Default::default(), &[pattern.to_owned()]).unwrap();
        (TopicName::from(pattern.to_owned()), patterns)
    };
    let hard = format!("market:tick:*{}z", "?".repeat(20));
    for (pattern, count) in [
        ("market:tick:*", Some(2_000)),
        ("market:tick:zz*", Some(0)),
        ("market:tick:*7CE", Some(200)),
        (&*hard, None),
    ] {
        let (_, patterns) = wanted_by(pattern);
        // Five spellings of one pattern.
        let spelling = |n: usize| TopicName::from(format!("{pattern}{}", "*".repeat(n)));
        let names: Vec<_> = (0..5).map(spelling).collect();
        let wanted = |name| Wanted {
            name,
            patterns: Some(&patterns),
        };
        let wanted: Vec<_> = names.iter().map(wanted).collect();
        let (missed, outcomes) = bench
            .history
            .missed(&since, &wanted, (Content::Text, 1 << 22));
        let (newest, outcome) = bench.history.newest(&wanted, 1, (Content::Text, 1 << 22));
        for (found, outcome) in [(missed, outcomes[0]), (newest, outcome)] {
            let got = outcome.ok().map(|()| found.frames.len() / 5);
            assert_eq!(got, count, "{pattern}");
            // What was refused has cost its steps all the same.
            assert_eq!(found.cost >= MATCH_STEPS_MAX, count.is_none(), "{pattern}");
            assert!(count.is_some() || found.is_empty());
        }
    }
}

#[test]
fn a_search_for_too_much_makes_no_frame() {
    let mut bench = Bench::new(1 << 24);
    for n in 0..100 {
        bench.keep(&format!("a:{n}"), &"x".repeat(1_000));
    }
    let since = position(0, 0).to_string();
    let patterns = NamePatterns::new(Default::default(), &["a:*".to_owned()]).unwrap();
    let name = TopicName::fixed("a:*");
    let wanted = [Wanted {
        name: &name,
        patterns: Some(&patterns),
    }];
    let (missed, outcomes) = bench
        .history
        .missed(&since, &wanted, (Content::Text, 50_000));
    assert_eq!(outcomes, [Err(NotRecovered::Large)]);
    assert!(missed.is_empty() && missed.cost > 50_000, "the work counts");
    let (newest, outcome) = bench.history.newest(&wanted, 1, (Content::Text, 50_000));
    assert_eq!(
        (outcome, newest.is_empty()),
        (Err(NotRecovered::Large), true)
    );
    assert_eq!(MADE.get(), 0);
    let (missed, outcomes) = bench
        .history
        .missed(&since, &wanted, (Content::Text, 200_000));
    assert_eq!((outcomes, missed.frames.len()), (vec![Ok(())], 100));
    assert_eq!(MADE.get(), 100);
}

#[test]
fn a_name_that_is_wanted_twice_brings_each_message_once() {
    let mut bench = Bench::new(1 << 20);
    for n in 0..3 {
        bench.keep("a:1", &n.to_string());
    }
    let since = position(0, 0).to_string();
    let patterns = NamePatterns::new(Default::default(), &["a:*".to_owned()]).unwrap();
    let (exact, pattern) = (TopicName::fixed("a:1"), TopicName::fixed("a:*"));
    let by_pattern = Wanted {
        name: &pattern,
        patterns: Some(&patterns),
    };
    let wanted = [Wanted::exact(&exact), by_pattern].repeat(3);
    let (missed, outcomes) = bench
        .history
        .missed(&since, &wanted, (Content::Text, 1 << 20));
    assert_eq!(outcomes, [Ok(()); 6], "each is answered");
    assert_eq!(
        missed.frames.len(),
        2 * 3,
        "a copy for each of the two names"
    );
    let (newest, _) = bench.history.newest(&wanted, 2, (Content::Text, 1 << 20));
    assert_eq!(newest.frames.len(), 2 * 2);
}

#[test]
fn what_was_left_out_is_a_hole_for_its_name_alone() {
    let mut bench = Bench::new(1 << 20);
    let first = bench.keep("a", "1");
    bench.keep("b", "2");
    bench.pass();
    let left_out = position(0, bench.count);
    let name = TopicName::fixed("b");
    bench.history.keep(0, left_out, &name, None);
    bench.keep("b", "3");
    assert_eq!(bench.missed(&["b"], first), Err(NotRecovered::Window));
    assert_eq!(bench.missed(&["a"], first), Ok(Vec::new()));
    assert_eq!(bench.missed(&["c"], first), Ok(Vec::new()), "nothing came");
    assert_eq!(bench.missed(&["b"], left_out), Ok(vec!["3".to_owned()]));
}
