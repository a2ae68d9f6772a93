//! What a check has found, in words for the person who runs the check.
//!
//! Pure. Made by the start of a gateway that is only checked (`run`), and by whoever asks a broker or
//! a service for `--check --connect` (`sources`, `kinds`); shown by `commands`.

/// One thing that was found, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// As it has to be.
    Good(String),
    /// The gateway starts and works, but probably not as somebody wants it.
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

    /// It is an error.
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }
}
