//! A secret that an operator may replace while the process runs.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use subtle::ConstantTimeEq;

/// A password, a token, or a URL with one. All clones are the same secret: after [`replace`](Self::replace) each of them
/// has the new text. Who uses the secret reads it at each use. Nothing of it is shown.
#[derive(Clone, Default)]
pub struct Secret(Arc<RwLock<Arc<str>>>);

impl Secret {
    /// Keeps the text.
    pub fn new(text: &str) -> Self {
        Self(Arc::new(RwLock::new(text.into())))
    }

    /// Returns the present text. It must not get into a log, an error or a response.
    pub fn expose(&self) -> Arc<str> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether `given` is the secret, in a time that does not depend on where they differ.
    pub fn is(&self, given: &[u8]) -> bool {
        self.expose().as_bytes().ct_eq(given).into()
    }

    /// Puts another text in place of the present one. Returns whether they differ.
    pub fn replace(&self, text: &str) -> bool {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let differs = &**current != text;
        if differs {
            *current = text.into();
        }
        differs
    }
}

/// Whether the present texts are equal.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_clones_have_the_new_text_and_none_shows_it() {
        let secret = Secret::new("before");
        let clone = secret.clone();
        assert!(secret.replace("after") && !secret.replace("after"));
        assert_eq!(&*clone.expose(), "after");
        assert!(clone.is(b"after") && !clone.is(b"before") && !clone.is(b""));
        assert_eq!(clone, Secret::new("after"));
        assert_eq!(format!("{clone:?}"), "Secret(***)");
    }
}
