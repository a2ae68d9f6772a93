//! The syntax of names and patterns of each bus.

use super::glob::{self, Glob, GlobError};
use super::glob_set::GlobSet;
use super::match_budget::{MatchBudget, OverBudget};
use super::subject::{self, Subject, SubjectError, Subjects};

/// The syntax of names and patterns, and how they match: as on the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameSyntax {
    /// Redis: every text is a name; a text with `*` or `?` is a glob.
    #[default]
    Redis,
    /// NATS: tokens between dots; `*` and `>` are wildcards.
    Nats,
}

/// Why a text is not a name or pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// On Redis.
    #[error(transparent)]
    Glob(#[from] GlobError),
    /// On NATS.
    #[error(transparent)]
    Subject(#[from] SubjectError),
}

impl NameSyntax {
    /// The pattern that matches every name.
    pub fn everything(self) -> &'static str {
        match self {
            Self::Redis => "*",
            Self::Nats => ">",
        }
    }

    /// Whether the text is a pattern, which may match several names.
    pub fn is_pattern(self, name: &str) -> bool {
        match self {
            Self::Redis => glob::is_pattern(name),
            Self::Nats => subject::is_pattern(name),
        }
    }

    /// Whether every name that the pattern `inner` matches also matches `outer`. On Redis only two simple cases count:
    /// equal patterns, and an `outer` whose only wildcard is a `*` at its end.
    pub fn contains(self, outer: &str, inner: &str) -> bool {
        match self {
            Self::Redis => outer == inner || glob::contains(outer, inner),
            Self::Nats => match (Subject::parse(outer), Subject::parse(inner)) {
                (Ok(outer), Ok(inner)) => outer.intersection(&inner) == Some(inner),
                _ => false,
            },
        }
    }

    /// Whether some name may match both. On Redis always true: whether two globs can match the same name is not calculated.
    pub fn meets(self, one: &str, other: &str) -> bool {
        match self {
            Self::Redis => true,
            Self::Nats => match (Subject::parse(one), Subject::parse(other)) {
                (Ok(one), Ok(other)) => one.intersection(&other).is_some(),
                _ => false,
            },
        }
    }

    /// Whether weirgate can match names with this pattern exactly as the bus does. On Redis it cannot if the pattern
    /// has a range with an end outside of ASCII, whose meaning depends on the machine of the server.
    pub fn can_match(self, pattern: &str) -> bool {
        match self {
            Self::Redis => pattern.is_ascii() || Glob::parse(pattern).is_ok(),
            Self::Nats => true,
        }
    }

    /// Checks that the bus accepts the text as a name or a pattern.
    ///
    /// # Errors
    /// The fault in the text.
    pub fn check(self, name: &str) -> Result<(), NameError> {
        match self {
            Self::Redis => Ok(()),
            Self::Nats => Ok(subject::check(name)?),
        }
    }
}

/// Names and patterns of the same bus.
#[derive(Clone, Debug)]
pub struct NamePatterns(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Redis(GlobSet),
    Nats(Subjects),
}

impl NamePatterns {
    /// Reads names and patterns.
    ///
    /// # Errors
    /// The first text that is neither, and why.
    pub fn new(syntax: NameSyntax, names: &[String]) -> Result<Self, (String, NameError)> {
        match syntax {
            NameSyntax::Redis => {
                let glob = |name: &String| match glob::is_pattern(name) {
                    true => Glob::parse(name).map_err(|error| (name.clone(), error.into())),
                    false => Ok(Glob::exact(name)),
                };
                let globs = names.iter().map(glob).collect::<Result<Vec<_>, _>>()?;
                Ok(Self(Kind::Redis(GlobSet::new(globs))))
            }
            NameSyntax::Nats => {
                let subjects = Subjects::new(names);
                let subjects = subjects.map_err(|(name, error)| (name, error.into()))?;
                Ok(Self(Kind::Nats(subjects)))
            }
        }
    }

    /// Whether the name is in the list or matches a pattern.
    pub fn matches(&self, name: &str) -> bool {
        let matches = self.matches_within(name, &mut MatchBudget::unlimited());
        // An unlimited budget is never used up.
        matches.unwrap_or(false)
    }

    /// As [`matches`](Self::matches), for a name from the bus, where any bytes make a name.
    pub fn matches_bytes(&self, name: &[u8]) -> bool {
        let mut budget = MatchBudget::unlimited();
        let matches = match &self.0 {
            Kind::Redis(globs) => globs.match_name(name, &mut budget),
            Kind::Nats(subjects) => subjects.match_bytes(name, &mut budget),
        };
        // As in `matches`.
        matches.unwrap_or(false)
    }

    /// As [`matches`](Self::matches), for names from clients: each step is taken from the budget.
    ///
    /// # Errors
    /// The budget is used up.
    pub fn matches_within(&self, name: &str, budget: &mut MatchBudget) -> Result<bool, OverBudget> {
        match &self.0 {
            Kind::Redis(globs) => globs.match_name(name.as_bytes(), budget),
            Kind::Nats(subjects) => subjects.match_name(name, budget),
        }
    }

    /// Makes what [`contain`](Self::contain) needs. For large tables, this takes longer than an answer to a client may.
    pub fn prepare_contain(&self) {
        if let Kind::Redis(globs) = &self.0 {
            globs.prepare_contain();
        }
    }

    /// Memory of the names and patterns beside the value itself, bytes.
    pub fn memory_bytes(&self) -> usize {
        match &self.0 {
            Kind::Redis(globs) => globs.memory_bytes(),
            Kind::Nats(subjects) => subjects.memory_bytes(),
        }
    }

    /// Whether the list has the pattern that matches every name.
    pub fn match_everything(&self) -> bool {
        match &self.0 {
            Kind::Redis(globs) => globs.match_everything(),
            Kind::Nats(subjects) => subjects.match_everything(),
        }
    }

    /// Whether the list matches every name that the pattern matches. Returns false for a text that is not a valid
    /// pattern.
    ///
    /// # Errors
    /// The budget is used up.
    pub fn contain(&self, pattern: &str, budget: &mut MatchBudget) -> Result<bool, OverBudget> {
        match &self.0 {
            Kind::Redis(globs) => match Glob::parse(pattern) {
                Ok(asked) => globs.contain(&asked, budget),
                Err(_) => Ok(false),
            },
            Kind::Nats(subjects) => match Subject::parse(pattern) {
                Ok(asked) => subjects.contain(&asked, budget),
                Err(_) => Ok(false),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_match_as_on_the_bus() {
        for (syntax, pattern, name, matches) in [
            (NameSyntax::Redis, "a:?", &b"a:\xff"[..], true),
            (NameSyntax::Redis, "a:?", b"a:\xff\xfe", false),
            (NameSyntax::Redis, "a:\u{fffd}", b"a:\xff", false),
            (NameSyntax::Nats, "a.*", b"a.\xff", true),
            (NameSyntax::Nats, "a.*", b"a.\xff.b", false),
            (NameSyntax::Nats, "a.*.b", b"a.\xff.b", true),
            (NameSyntax::Nats, "a.\u{fffd}", b"a.\xff", false),
            (NameSyntax::Nats, "a.b", b"a.b", true),
        ] {
            let patterns = NamePatterns::new(syntax, &[pattern.to_owned()]).expect("a pattern");
            assert_eq!(patterns.matches_bytes(name), matches, "{pattern} {name:?}");
        }
    }
}
