//! NATS subjects and subject patterns: tokens between dots, `*` for any single token, `>` for any positive
//! number of tokens at the end (NATS documentation: subject-based messaging).
//!
//! Answers two questions: does a pattern match a subject, and does a set of patterns match every subject that another
//! pattern matches? The server itself matches the messages.

use std::collections::BTreeSet;
use std::fmt;

use super::match_budget::{MatchBudget, OverBudget};
use crate::base::allocated_bytes;

/// The most bytes of a subject. A server closes the connection at a line over 4,096 bytes (`max_control_line`), and all
/// clients would lose their subscriptions with it.
pub(crate) const SUBJECT_BYTES_MAX: usize = 3_072;

/// Why a text is not a NATS subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// The subject begins or ends with a dot, has two in a row, or is empty.
    #[error("a token is empty")]
    EmptyToken,
    /// A space, or a control character.
    #[error("spaces and control characters are not allowed")]
    Space,
    /// `*` or `>` beside other characters.
    #[error("* and > have to be whole tokens")]
    PartOfToken,
    /// `>` before other tokens.
    #[error("> has to be the last token")]
    NotLast,
    /// Over `SUBJECT_BYTES_MAX`.
    #[error("a subject may have 3072 bytes")]
    TooLong,
}

/// A token of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SubjectToken {
    Word(Box<str>),
    /// `*`.
    One,
    /// `>`: one or more tokens, at the end.
    Tail,
}

/// A subject or a pattern of subjects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    tokens: Vec<SubjectToken>,
}

/// Whether the text has a wildcard: `*` or `>` as a whole token.
pub(super) fn is_pattern(name: &str) -> bool {
    name.split('.').any(|token| matches!(token, "*" | ">"))
}

/// Checks that the text is a subject or a pattern of subjects.
pub(super) fn check(name: &str) -> Result<(), SubjectError> {
    if name.len() > SUBJECT_BYTES_MAX {
        return Err(SubjectError::TooLong);
    }
    let mut tail_seen = false;
    for token in name.split('.') {
        if tail_seen {
            return Err(SubjectError::NotLast);
        }
        if token.is_empty() {
            return Err(SubjectError::EmptyToken);
        }
        if token.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(SubjectError::Space);
        }
        if token.len() > 1 && token.contains(['*', '>']) {
            return Err(SubjectError::PartOfToken);
        }
        tail_seen = token == ">";
    }
    Ok(())
}

impl Subject {
    /// Reads a subject or a pattern.
    ///
    /// # Errors
    /// The text is neither.
    pub fn parse(name: &str) -> Result<Self, SubjectError> {
        check(name)?;
        let token = |token: &str| match token {
            "*" => SubjectToken::One,
            ">" => SubjectToken::Tail,
            word => SubjectToken::Word(word.into()),
        };
        let mut tokens: Vec<_> = name.split('.').map(token).collect();
        tokens.shrink_to_fit();
        Ok(Self { tokens })
    }

    /// Memory of the tokens, bytes.
    fn memory_bytes(&self) -> usize {
        let word = |token: &SubjectToken| match token {
            SubjectToken::Word(word) => allocated_bytes(word.len()),
            SubjectToken::One | SubjectToken::Tail => 0,
        };
        let list = allocated_bytes(self.tokens.capacity() * size_of::<SubjectToken>());
        list + self.tokens.iter().map(word).sum::<usize>()
    }

    /// Whether the pattern matches the subject. `subject` has no wildcards.
    pub fn matches(&self, subject: &str) -> bool {
        let tokens = subject.split('.').map(Some);
        // An unlimited budget is never used up.
        let matches = self.matches_tokens(tokens, &mut MatchBudget::unlimited());
        matches.unwrap_or(false)
    }

    /// Returns the pattern of the subjects that both patterns match; `None` if there are none.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let mut tokens = Vec::new();
        loop {
            let at = tokens.len();
            match (self.tokens.get(at), other.tokens.get(at)) {
                (None, None) => return Some(Self { tokens }),
                (Some(SubjectToken::Tail), Some(_)) => {
                    tokens.extend_from_slice(&other.tokens[at..]);
                    return Some(Self { tokens });
                }
                (Some(_), Some(SubjectToken::Tail)) => {
                    tokens.extend_from_slice(&self.tokens[at..]);
                    return Some(Self { tokens });
                }
                (Some(SubjectToken::One), Some(token)) | (Some(token), Some(SubjectToken::One)) => {
                    tokens.push(token.clone());
                }
                (Some(one), Some(another)) if one == another => tokens.push(one.clone()),
                _ => return None,
            }
        }
    }

    fn is_exact(&self) -> bool {
        self.tokens
            .iter()
            .all(|token| matches!(token, SubjectToken::Word(_)))
    }

    fn matches_everything(&self) -> bool {
        self.tokens == [SubjectToken::Tail]
    }

    /// Whether the tokens match. A token that is `None` is a word that no pattern has.
    fn matches_tokens<'a>(
        &self,
        mut subject: impl Iterator<Item = Option<&'a str>>,
        budget: &mut MatchBudget,
    ) -> Result<bool, OverBudget> {
        for token in &self.tokens {
            budget.spend(1)?;
            match (token, subject.next()) {
                (SubjectToken::Tail, Some(_)) => return Ok(true),
                (SubjectToken::One, Some(_)) => {}
                (SubjectToken::Word(word), Some(Some(other))) if **word == *other => {}
                _ => return Ok(false),
            }
        }
        Ok(subject.next().is_none())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, token) in self.tokens.iter().enumerate() {
            let dot = if at > 0 { "." } else { "" };
            let token = match token {
                SubjectToken::Word(word) => &**word,
                SubjectToken::One => "*",
                SubjectToken::Tail => ">",
            };
            write!(f, "{dot}{token}")?;
        }
        Ok(())
    }
}

/// A set of subjects and patterns.
#[derive(Clone, Debug, Default)]
pub(super) struct Subjects {
    /// The subjects without wildcards.
    exact: BTreeSet<String>,
    patterns: Vec<Subject>,
    /// Tokens of the longest pattern.
    tokens_max: usize,
}

impl Subjects {
    /// Reads subjects and patterns.
    ///
    /// # Errors
    /// The first text that is neither, and why.
    pub(super) fn new(names: &[String]) -> Result<Self, (String, SubjectError)> {
        let mut all = Self::default();
        for name in names {
            let subject = Subject::parse(name).map_err(|error| (name.clone(), error))?;
            all.tokens_max = all.tokens_max.max(subject.tokens.len());
            if subject.is_exact() {
                all.exact.insert(name.clone());
            } else {
                all.patterns.push(subject);
            }
        }
        Ok(all)
    }

    /// Memory of the subjects beside the set itself, bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        let exact = self.exact.iter();
        let exact = exact.map(|name| size_of::<String>() + allocated_bytes(name.len()));
        let patterns = self.patterns.iter().map(Subject::memory_bytes);
        let list = allocated_bytes(self.patterns.capacity() * size_of::<Subject>());
        exact.sum::<usize>() + patterns.sum::<usize>() + list
    }

    pub(super) fn match_everything(&self) -> bool {
        self.patterns.iter().any(Subject::matches_everything)
    }

    /// Whether the subject is in the set or matches a pattern.
    ///
    /// # Errors
    /// The budget is used up.
    pub(super) fn match_name(
        &self,
        name: &str,
        budget: &mut MatchBudget,
    ) -> Result<bool, OverBudget> {
        if self.exact.contains(name) {
            return Ok(true);
        }
        self.match_tokens(name.split('.').map(Some), budget)
    }

    /// As [`Self::match_name`], for bytes that need not be text.
    ///
    /// # Errors
    /// The budget is used up.
    pub(super) fn match_bytes(
        &self,
        name: &[u8],
        budget: &mut MatchBudget,
    ) -> Result<bool, OverBudget> {
        match str::from_utf8(name) {
            Ok(name) => self.match_name(name, budget),
            Err(_) => {
                let tokens = name.split(|byte| *byte == b'.');
                self.match_tokens(tokens.map(|token| str::from_utf8(token).ok()), budget)
            }
        }
    }

    /// Whether the set matches every subject that `asked` matches. The answer is exact.
    ///
    /// The hardest subject that `asked` matches has, for each wildcard, a word that no pattern has: only a wildcard
    /// matches it there, and that wildcard matches every other word too. So for each length it is enough to check this
    /// one subject. All lengths over the longest pattern give the same answer.
    ///
    /// # Errors
    /// The budget is used up.
    pub(super) fn contain(
        &self,
        asked: &Subject,
        budget: &mut MatchBudget,
    ) -> Result<bool, OverBudget> {
        let has_tail = asked.tokens.last() == Some(&SubjectToken::Tail);
        if asked.is_exact() {
            return self.match_name(&asked.to_string(), budget);
        }
        let mut hardest: Vec<Option<&str>> = asked
            .tokens
            .iter()
            .map(|token| match token {
                SubjectToken::Word(word) => Some(&**word),
                SubjectToken::One | SubjectToken::Tail => None,
            })
            .collect();
        loop {
            if !self.match_tokens(hardest.iter().copied(), budget)? {
                return Ok(false);
            }
            if !has_tail || hardest.len() > self.tokens_max {
                return Ok(true);
            }
            hardest.push(None);
        }
    }

    /// Whether a pattern matches the tokens of a subject. A token that is `None` is a word that no pattern has.
    ///
    /// # Errors
    /// Matching takes more steps than are left.
    fn match_tokens<'a>(
        &self,
        subject: impl Iterator<Item = Option<&'a str>> + Clone,
        budget: &mut MatchBudget,
    ) -> Result<bool, OverBudget> {
        for pattern in &self.patterns {
            if pattern.matches_tokens(subject.clone(), budget)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
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

    /// The documented wildcards of NATS, as a second implementation.
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

    /// Returns all subjects of up to `tokens_max` tokens, made of the patterns' words and a word that no pattern has.
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
                let found = set.match_name(&subject, &mut MatchBudget::unlimited());
                prop_assert_eq!(found, Ok(expected));
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
                let found = both.as_ref().is_some_and(|both| both.matches(&subject));
                prop_assert_eq!(found, expected, "{:?} {}", both, subject);
            }
        }

        /// Patterns have at most 4 tokens here, so subjects of 5 or 6 tokens represent all longer ones.
        #[test]
        fn a_set_contains_a_pattern_if_it_matches_all_that_the_pattern_does(
            asked in pattern(),
            granted in prop::collection::vec(pattern(), 0..5),
        ) {
            let set = Subjects::new(&granted).expect("patterns");
            let read = Subject::parse(&asked).expect("a pattern");
            let found = set.contain(&read, &mut MatchBudget::unlimited()).expect("no limit");
            let expected = all_subjects(6)
                .iter()
                .filter(|subject| brute_matches(&tokens(&asked), &tokens(subject)))
                .all(|subject| {
                    let grants = |name: &String| brute_matches(&tokens(name), &tokens(subject));
                    granted.iter().any(grants)
                });
            prop_assert_eq!(found, expected, "{:?} contain {}", granted, asked);
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
}
