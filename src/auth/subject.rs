//! NATS subjects and subject patterns: tokens between dots, `*` for any one token, `>` for one or
//! more tokens at the end (NATS documentation: subject-based messaging).
//!
//! Two questions are answered here: does a pattern match a subject, and does a set of patterns match
//! everything that another one can. The server does the matching of messages.

use std::collections::BTreeSet;
use std::fmt;

use super::match_budget::{MatchBudget, OverBudget};

/// Bytes of a subject. A server ends the connection at a longer line than 4,096 bytes
/// (`max_control_line`), and with it the subscriptions of all clients.
pub const SUBJECT_BYTES_MAX: usize = 3_072;

/// Why a text is no NATS subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// It begins or ends with a dot, has two in a row, or is empty.
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
    /// Over [`SUBJECT_BYTES_MAX`].
    #[error("a subject may have 3072 bytes")]
    TooLong,
}

/// One token of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// Itself.
    Word(Box<str>),
    /// `*`.
    One,
    /// `>`.
    Rest,
}

/// A subject or a pattern of subjects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    tokens: Vec<Token>,
}

/// The text has a wildcard: `*` or `>` as a whole token.
pub(super) fn is_pattern(name: &str) -> bool {
    name.split('.').any(|token| matches!(token, "*" | ">"))
}

/// Whether the text is a subject or a pattern of subjects.
pub(super) fn check(name: &str) -> Result<(), SubjectError> {
    if name.len() > SUBJECT_BYTES_MAX {
        return Err(SubjectError::TooLong);
    }
    let mut rest_seen = false;
    for token in name.split('.') {
        if rest_seen {
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
        rest_seen = token == ">";
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
            "*" => Token::One,
            ">" => Token::Rest,
            word => Token::Word(word.into()),
        };
        let tokens = name.split('.').map(token).collect();
        Ok(Self { tokens })
    }

    /// Whether the pattern matches the subject, which is one without wildcards.
    pub fn matches(&self, subject: &str) -> bool {
        let tokens: Vec<_> = subject.split('.').map(Some).collect();
        self.matches_tokens(&tokens)
    }

    /// What both match; `None`: no subject.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let mut tokens = Vec::new();
        loop {
            let at = tokens.len();
            match (self.tokens.get(at), other.tokens.get(at)) {
                (None, None) => return Some(Self { tokens }),
                (Some(Token::Rest), Some(_)) => {
                    tokens.extend_from_slice(&other.tokens[at..]);
                    return Some(Self { tokens });
                }
                (Some(_), Some(Token::Rest)) => {
                    tokens.extend_from_slice(&self.tokens[at..]);
                    return Some(Self { tokens });
                }
                (Some(Token::One), Some(token)) | (Some(token), Some(Token::One)) => {
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
            .all(|token| matches!(token, Token::Word(_)))
    }

    fn matches_everything(&self) -> bool {
        self.tokens == [Token::Rest]
    }

    /// `None` is a token that no pattern has as a word.
    fn matches_tokens(&self, subject: &[Option<&str>]) -> bool {
        let mut at = 0;
        for token in &self.tokens {
            match (token, subject.get(at)) {
                (Token::Rest, Some(_)) => return true,
                (Token::One, Some(_)) => {}
                (Token::Word(word), Some(Some(other))) if **word == **other => {}
                _ => return false,
            }
            at += 1;
        }
        at == subject.len()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, token) in self.tokens.iter().enumerate() {
            let dot = if at > 0 { "." } else { "" };
            let token = match token {
                Token::Word(word) => &**word,
                Token::One => "*",
                Token::Rest => ">",
            };
            write!(f, "{dot}{token}")?;
        }
        Ok(())
    }
}

/// Patterns that are asked about together.
#[derive(Clone, Debug, Default)]
pub(super) struct Subjects {
    /// Those without wildcards.
    exact: BTreeSet<String>,
    patterns: Vec<Subject>,
    /// Tokens of the longest pattern.
    tokens_max: usize,
}

impl Subjects {
    /// The subjects and patterns of these texts.
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

    pub(super) fn match_everything(&self) -> bool {
        self.patterns.iter().any(Subject::matches_everything)
    }

    /// One of them is or matches the subject.
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
        let tokens: Vec<_> = name.split('.').map(Some).collect();
        self.match_tokens(&tokens, budget)
    }

    /// Every subject that `asked` matches is matched by one of them. Exact.
    ///
    /// A wildcard of `asked` may stand for a token that no pattern has as a word, so for nothing but
    /// the wildcards of the patterns; a pattern that matches such a token there matches every token.
    /// So it is enough to look at one subject of each length, and beyond the longest pattern all
    /// lengths are the same.
    ///
    /// # Errors
    /// The budget is used up.
    pub(super) fn contain(
        &self,
        asked: &Subject,
        budget: &mut MatchBudget,
    ) -> Result<bool, OverBudget> {
        let has_rest = asked.tokens.last() == Some(&Token::Rest);
        if asked.is_exact() {
            return self.match_name(&asked.to_string(), budget);
        }
        let mut hardest: Vec<Option<&str>> = asked
            .tokens
            .iter()
            .map(|token| match token {
                Token::Word(word) => Some(&**word),
                Token::One | Token::Rest => None,
            })
            .collect();
        loop {
            if !self.match_tokens(&hardest, budget)? {
                return Ok(false);
            }
            if !has_rest || hardest.len() > self.tokens_max {
                return Ok(true);
            }
            hardest.push(None);
        }
    }

    fn match_tokens(
        &self,
        subject: &[Option<&str>],
        budget: &mut MatchBudget,
    ) -> Result<bool, OverBudget> {
        for pattern in &self.patterns {
            budget.spend(pattern.tokens.len().min(subject.len()))?;
            if pattern.matches_tokens(subject) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests;
