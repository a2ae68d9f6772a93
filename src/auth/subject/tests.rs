use proptest::prelude::*;

use super::*;

#[test]
fn subjects_and_what_is_none() {
    for good in [
        "a", "a.b", "*", ">", "a.*.b", "a.>", "$SYS.x", "é.ü", "a:b?[c]",
    ] {
        assert_eq!(check(good), Ok(()), "{good}");
    }
    for (bad, why) in [
        ("", SubjectError::EmptyToken),
        (".a", SubjectError::EmptyToken),
        ("a.", SubjectError::EmptyToken),
        ("a..b", SubjectError::EmptyToken),
        ("a b", SubjectError::Space),
        ("a\r\nSUB x 1", SubjectError::Space),
        ("a\tb", SubjectError::Space),
        ("a\0b", SubjectError::Space),
        ("a\u{a0}b", SubjectError::Space),
        ("a*", SubjectError::PartOfToken),
        ("a.b>", SubjectError::PartOfToken),
        ("**", SubjectError::PartOfToken),
        (">.a", SubjectError::NotLast),
        ("a.>.b", SubjectError::NotLast),
    ] {
        assert_eq!(check(bad), Err(why), "{bad:?}");
    }
    let long = "x".repeat(SUBJECT_BYTES_MAX);
    assert_eq!(check(&long), Ok(()));
    assert_eq!(check(&format!("{long}x")), Err(SubjectError::TooLong));
    assert!(is_pattern("a.*") && is_pattern(">") && !is_pattern("a") && !is_pattern("a*"));
}

/// What NATS documents of wildcards, written in another way.
fn brute_matches(pattern: &[&str], subject: &[&str]) -> bool {
    match (pattern, subject) {
        ([], []) => true,
        ([">"], [_, ..]) => true,
        (["*", pattern @ ..], [_, subject @ ..]) => brute_matches(pattern, subject),
        ([word, pattern @ ..], [token, subject @ ..]) => {
            word == token && brute_matches(pattern, subject)
        }
        _ => false,
    }
}

/// All subjects of up to so many tokens, of words that patterns have and of one that they do not.
fn all_subjects(tokens_max: usize) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut last = vec![String::new()];
    for _ in 0..tokens_max {
        let longer = |start: &String| {
            ["a", "b", "z"].map(|word| match start.is_empty() {
                true => word.to_owned(),
                false => format!("{start}.{word}"),
            })
        };
        last = last.iter().flat_map(longer).collect();
        all.extend(last.iter().cloned());
    }
    all
}

fn pattern() -> impl Strategy<Value = String> {
    let token = prop_oneof![Just("a"), Just("b"), Just("*")];
    (prop::collection::vec(token, 0..4), any::<bool>()).prop_map(|(mut tokens, rest)| {
        if rest || tokens.is_empty() {
            tokens.push(">");
        }
        tokens.join(".")
    })
}

fn tokens(name: &str) -> Vec<&str> {
    name.split('.').collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_pattern_matches_as_the_documentation_says(pattern in pattern()) {
        let read = Subject::parse(&pattern).expect("a pattern");
        let set = Subjects::new(std::slice::from_ref(&pattern)).expect("a pattern");
        for subject in all_subjects(5) {
            let expected = brute_matches(&tokens(&pattern), &tokens(&subject));
            prop_assert_eq!(read.matches(&subject), expected, "{} {}", pattern, subject);
            let told = set.match_name(&subject, &mut MatchBudget::unlimited());
            prop_assert_eq!(told, Ok(expected));
        }
    }

    #[test]
    fn an_intersection_matches_what_both_match(one in pattern(), other in pattern()) {
        let [read, other_read] = [&one, &other].map(|p| Subject::parse(p).expect("a pattern"));
        let both = read.intersection(&other_read);
        prop_assert_eq!(&both, &other_read.intersection(&read));
        let shown = both.as_ref().map(Subject::to_string);
        prop_assert!(shown.is_none_or(|shown| Subject::parse(&shown).ok() == both));
        for subject in all_subjects(6) {
            let expected = [&one, &other].iter().all(|p| brute_matches(&tokens(p), &tokens(&subject)));
            let told = both.as_ref().is_some_and(|both| both.matches(&subject));
            prop_assert_eq!(told, expected, "{:?} {}", both, subject);
        }
    }

    /// Patterns have 4 tokens at most here, so that a subject of 5 or 6 shows what longer ones do.
    #[test]
    fn a_set_contains_a_pattern_if_it_matches_all_that_the_pattern_does(
        asked in pattern(),
        granted in prop::collection::vec(pattern(), 0..5),
    ) {
        let set = Subjects::new(&granted).expect("patterns");
        let read = Subject::parse(&asked).expect("a pattern");
        let told = set.contain(&read, &mut MatchBudget::unlimited()).expect("no limit");
        let expected = all_subjects(6)
            .iter()
            .filter(|subject| brute_matches(&tokens(&asked), &tokens(subject)))
            .all(|subject| {
                let grants = |name: &String| brute_matches(&tokens(name), &tokens(subject));
                granted.iter().any(grants)
            });
        prop_assert_eq!(told, expected, "{:?} contain {}", granted, asked);
    }
}

#[test]
fn several_patterns_may_contain_one_together() {
    let contain = |granted: &[&str], asked: &str| {
        let granted: Vec<String> = granted.iter().map(|&name| name.to_owned()).collect();
        let set = Subjects::new(&granted).expect("patterns");
        let asked = Subject::parse(asked).expect("a pattern");
        set.contain(&asked, &mut MatchBudget::unlimited())
            .expect("no limit")
    };
    assert!(contain(&["a.*", "a.*.>"], "a.>"));
    assert!(!contain(&["a.b", "a.*.>"], "a.>"));
    assert!(contain(&["*", "*.*", "*.*.>"], ">"));
    assert!(!contain(&["a.>", "b.>"], "*.x"));
}

#[test]
fn a_question_costs_no_more_than_its_budget() {
    let granted: Vec<String> = (0..100)
        .map(|n| format!("{}{n}", "*.".repeat(30)))
        .collect();
    let set = Subjects::new(&granted).expect("patterns");
    let asked = Subject::parse(&format!("{}>", "*.".repeat(20))).expect("a pattern");
    let mut budget = MatchBudget::new(1_000);
    assert_eq!(set.contain(&asked, &mut budget), Err(OverBudget));
    assert_eq!(
        set.match_name(&"x.".repeat(40), &mut budget),
        Err(OverBudget)
    );
}
