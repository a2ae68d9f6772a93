//! A result of a check, in words for the operator: of `--check`, and with `--connect` of brokers and services.

/// A finding of `--check`, as a text without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Good.
    Good(String),
    /// The gateway starts and works, but probably not as intended.
    Warning(String),
    /// The gateway does not start, or can never do its work.
    Error(String),
}

impl Finding {
    /// The word in front of the text, for people and for programs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Good(_) => "ok",
            Self::Warning(_) => "warning",
            Self::Error(_) => "error",
        }
    }

    /// The text, without the word in front of it.
    pub fn text(&self) -> &str {
        match self {
            Self::Good(text) | Self::Warning(text) | Self::Error(text) => text,
        }
    }

    /// Whether the finding is an error.
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }
}
