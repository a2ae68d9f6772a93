use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::super::glob_set::GlobSet;
use super::*;

impl Glob {
    /// Without a limit on the steps.
    fn matches(&self, name: &[u8]) -> bool {
        self.matches_within(name, &mut MatchBudget::unlimited()) == Ok(true)
    }
}

/// The algorithm of Redis, line by line; it takes exponential time. The reference for the tests.
fn as_redis(pattern: &[u8], name: &[u8]) -> bool {
    let Some((&first, rest)) = pattern.split_first() else {
        return name.is_empty();
    };
    if first == b'*' {
        return (0..=name.len()).any(|skipped| as_redis(rest, &name[skipped..]));
    }
    let Some((&byte, left)) = name.split_first() else {
        return false;
    };
    match (first, rest) {
        (b'?', _) => as_redis(rest, left),
        (b'[', _) => {
            let (met, after) = class_as_redis(rest, byte);
            met && as_redis(after, left)
        }
        (b'\\', [escaped, after @ ..]) => *escaped == byte && as_redis(after, left),
        _ => first == byte && as_redis(rest, left),
    }
}

fn class_as_redis(mut pattern: &[u8], byte: u8) -> (bool, &[u8]) {
    let not = pattern.first() == Some(&b'^');
    pattern = &pattern[usize::from(not)..];
    let mut met = false;
    loop {
        if pattern.len() >= 2 && pattern[0] == b'\\' {
            pattern = &pattern[1..];
            met |= pattern[0] == byte;
        } else if pattern.first() == Some(&b']') {
            return (met != not, &pattern[1..]);
        } else if pattern.is_empty() {
            return (met != not, pattern);
        } else if pattern.len() >= 3 && pattern[1] == b'-' {
            let (from, to) = (pattern[0].min(pattern[2]), pattern[0].max(pattern[2]));
            pattern = &pattern[2..];
            met |= (from..=to).contains(&byte);
        } else {
            met |= pattern[0] == byte;
        }
        pattern = &pattern[1..];
    }
}

fn glob(pattern: &str) -> Glob {
    Glob::parse(pattern).expect("ASCII")
}

#[test]
fn matches_as_redis_does() {
    for (pattern, name, want) in [
        ("", "", true),
        ("", "a", false),
        ("*", "a:b", true),
        ("a*", "a", true),
        ("a*c", "abcbc", true),
        ("a*c", "abcb", false),
        ("h?llo", "hello", true),
        ("h?llo", "hllo", false),
        ("h[ae]llo", "hallo", true),
        ("h[^e]llo", "hello", false),
        ("h[a-b]llo", "hbllo", true),
        ("h[b-a]llo", "hallo", true),
        ("[]a]", "a]", false),
        ("[^]", "x", true),
        ("[", "[", false),
        ("[a", "a", true),
        ("[a-", "-", true),
        ("[a-]", "]", true),
        ("[\\]]", "]", true),
        ("\\*", "*", true),
        ("\\*", "a", false),
        ("a\\", "a\\", true),
        ("?", "é", false),
        ("??", "é", true),
        ("a:*", "b:a", false),
    ] {
        assert_eq!(
            glob(pattern).matches(name.as_bytes()),
            want,
            "{pattern} {name}"
        );
        assert_eq!(
            as_redis(pattern.as_bytes(), name.as_bytes()),
            want,
            "{pattern} {name}"
        );
    }
    let exact = Glob::exact("a[b\\c");
    assert!(exact.matches(b"a[b\\c") && !exact.matches(b"ab"));
    for half in ["[à-é]", "[a-é]", "[é-z]"] {
        assert_eq!(Glob::parse(half), Err(GlobError::RangeOutsideAscii));
    }
}

#[test]
fn a_pattern_made_to_take_for_ever_does_not() {
    let pattern = glob(&"a*".repeat(2_000));
    assert!(!pattern.matches(&[b"a".repeat(4_000), b"b".to_vec()].concat()[..1_999]));
    let mut name = b"a".repeat(20_000);
    assert!(pattern.matches(&name));
    name.insert(0, b'b');
    assert!(!pattern.matches(&name));
    let evil = glob(&format!("{}b", "*a".repeat(500)));
    assert!(!evil.matches(&b"a".repeat(20_000)));
    let table = GlobSet::new(vec![glob(&format!("*{}", "[ab]?".repeat(60)))]);
    let mut budget = MatchBudget::new(50_000);
    let begun = std::time::Instant::now();
    assert_eq!(table.contain(&evil, &mut budget), Err(OverBudget));
    assert_eq!(budget.left(), 0);
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}

/// Each pattern is checked against itself, well within the bound on steps.
#[test]
fn patterns_with_many_stars_are_answered() {
    for pattern in [
        "*a*b*c*d*e*f*g*h",
        "a*b?*c??*d*e*f",
        "*:tick:*:[a-f]*:?*:end",
        "*?a?*?b?*?c?*",
    ] {
        let asked = glob(pattern);
        let narrower = glob(&pattern.replacen('*', "x*", 1));
        let table = GlobSet::new(vec![glob("x:*"), glob(pattern)]);
        for asked in [asked, narrower] {
            let contained = table.contain(&asked, &mut MatchBudget::new(50_000));
            assert_eq!(contained, Ok(true), "{pattern}");
        }
    }
}

#[test]
fn a_pattern_takes_eight_bytes_for_each_of_its_bytes_and_has_equal_sets_once() {
    assert_eq!(size_of::<Piece>(), 8);
    for (part, bytes_each) in [("?", 8), ("[ab]", 8), ("[^]", 8), ("*x", 16), ("x", 9)] {
        let pattern = glob(&part.repeat(500));
        let bytes = pattern.memory_bytes();
        assert!(bytes <= 500 * bytes_each + 100, "{part}: {bytes}");
        assert!(bytes >= 500 * bytes_each, "{part}: {bytes}");
    }
    let different: String = (b'a'..=b'z')
        .map(|byte| format!("[{}_]", byte as char))
        .collect();
    assert_eq!(glob(&different.repeat(9)).sets().len(), 26);
    let set = GlobSet::new([glob(&"?".repeat(500)), Glob::exact("x".repeat(500))]);
    assert!(set.memory_bytes() > 500 * 9);
    assert!(set.memory_bytes() < 500 * 9 + 200, "{}", set.memory_bytes());
}

/// The same cases in every run.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    }
}

/// Returns all names of up to `length_max` bytes, made of a few bytes; `x` represents every byte that no pattern names.
fn names(length_max: usize) -> Vec<Vec<u8>> {
    let mut names = vec![Vec::new()];
    let mut last = names.clone();
    for _ in 0..length_max {
        last = last
            .iter()
            .flat_map(|name| b"abx".map(|byte| [name.as_slice(), &[byte]].concat()))
            .collect();
        names.extend(last.iter().cloned());
    }
    names
}

fn patterns() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => Just("a"),
        2 => Just("b"),
        3 => Just("*"),
        2 => Just("?"),
        1 => Just("[ab]"),
        1 => Just("[^a]"),
        1 => Just("[]"),
    ];
    prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(cases(2_000))]

    /// Any bytes of a pattern's own alphabet, in any order.
    #[test]
    fn matching_agrees_with_redis_on_anything(
        pattern in "[ab\\]\\[*?\\\\^-]{0,8}",
        name in "[ab\\]\\[\\\\^-]{0,6}",
    ) {
        let (pattern, name) = (pattern.as_str(), name.as_bytes());
        prop_assert_eq!(glob(pattern).matches(name), as_redis(pattern.as_bytes(), name));
    }
}

proptest! {
    #![proptest_config(cases(600))]

    /// A pattern is granted if and only if all its names are. Names of up to seven bytes are enough to distinguish
    /// patterns of four pieces.
    #[test]
    fn containment_agrees_with_all_names(
        asked in patterns(),
        table in prop::collection::vec(patterns(), 1..3),
    ) {
        let globs = GlobSet::new(table.iter().map(|pattern| glob(pattern)));
        let asked = glob(&asked);
        let stray = names(7).into_iter().find(|name| {
            asked.matches(name) && !table.iter().any(|pattern| glob(pattern).matches(name))
        });
        let contain = globs.contain(&asked, &mut MatchBudget::unlimited());
        prop_assert_eq!(contain, Ok(stray.is_none()), "{:?}", stray);
    }

    /// For every pattern and table: an answer within a budget is the same as the one without a budget, and never more
    /// than the budget is spent.
    #[test]
    fn a_budget_changes_no_answer(
        asked in patterns(),
        table in prop::collection::vec(patterns(), 0..4),
        name in "[abx]{0,6}",
        steps in 0_usize..2_000,
    ) {
        let globs = GlobSet::new(table.iter().map(|pattern| glob(pattern)));
        let asked = glob(&asked);
        let mut budget = MatchBudget::new(steps);
        if let Ok(contain) = globs.contain(&asked, &mut budget) {
            prop_assert_eq!(Ok(contain), globs.contain(&asked, &mut MatchBudget::unlimited()));
        } else {
            prop_assert_eq!(budget.left(), 0);
        }
        let matches = table.iter().any(|pattern| as_redis(pattern.as_bytes(), name.as_bytes()));
        prop_assert_eq!(globs.match_name(name.as_bytes(), &mut MatchBudget::unlimited()), Ok(matches));
        if let Ok(within) = globs.match_name(name.as_bytes(), &mut MatchBudget::new(steps % 20)) {
            prop_assert_eq!(within, matches);
        }
    }

    /// With texts that nobody would write, nothing panics, and the budget holds.
    #[test]
    fn any_text_is_answered_within_the_budget(
        asked in "[ab*?\\[\\]^\\\\-]{0,40}",
        table in prop::collection::vec("[ab*?\\[\\]^\\\\-]{0,40}", 0..8),
    ) {
        let globs = GlobSet::new(table.iter().map(|pattern| glob(pattern)));
        let mut budget = MatchBudget::new(20_000);
        let contained = globs.contain(&glob(&asked), &mut budget);
        prop_assert!(contained.is_ok() || budget.left() == 0);
    }
}
