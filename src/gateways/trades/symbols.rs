//! Who holds which symbols, and how many a connection or a user may hold.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::RandomState;

use crate::hub::TopicName;

/// What one connection holds.
#[derive(Debug)]
pub(super) struct Held {
    /// Oldest first.
    pub(super) symbols: Vec<TopicName>,
    /// The user that a token with a limit named.
    pub(super) user: Option<Arc<str>>,
    /// Symbols of the connection, or of all the user's connections together.
    pub(super) symbols_max: usize,
}

impl Held {
    pub(super) fn has(&self, symbol: &str) -> bool {
        self.symbols.iter().any(|held| held.as_str() == symbol)
    }

    /// Those of `asked` that it does not hold yet, each once, in the order asked.
    pub(super) fn new_ones(&self, asked: Vec<String>) -> Vec<TopicName> {
        let mut new: Vec<TopicName> = Vec::new();
        for symbol in asked {
            if !self.has(&symbol) && !new.iter().any(|n| n.as_str() == symbol) {
                new.push(symbol.into());
            }
        }
        new
    }

    /// Those of `asked` that it holds, each once, in the order asked.
    pub(super) fn held_ones(&self, asked: Vec<String>) -> Vec<TopicName> {
        let mut held: Vec<TopicName> = Vec::new();
        for symbol in asked {
            if self.has(&symbol) && !held.iter().any(|h| h.as_str() == symbol) {
                held.push(symbol.into());
            }
        }
        held
    }
}

/// Symbols by user, over all of a user's connections; users without any are not kept.
#[derive(Debug, Default)]
pub(super) struct Users(HashMap<Arc<str>, usize, RandomState>);

impl Users {
    /// Symbols that count against this connection's limit.
    pub(super) fn count(&self, client: &Held) -> usize {
        match &client.user {
            Some(user) => self.0.get(user).copied().unwrap_or(0),
            None => client.symbols.len(),
        }
    }

    pub(super) fn add(&mut self, client: &Held, count: usize) {
        if let Some(user) = &client.user
            && count > 0
        {
            *self.0.entry(Arc::clone(user)).or_default() += count;
        }
    }

    pub(super) fn remove(&mut self, client: &Held, count: usize) {
        let Some(user) = &client.user else { return };
        if let Some(held) = self.0.get_mut(user) {
            *held = held.saturating_sub(count);
            if *held == 0 {
                self.0.remove(user);
            }
        }
    }

    /// No user holds a symbol.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_kept_while_a_connection_holds_a_symbol() {
        let client = Held {
            symbols: Vec::new(),
            user: Some("alice".into()),
            symbols_max: 10,
        };
        let mut users = Users::default();
        users.add(&client, 0);
        assert!(users.is_empty());
        users.add(&client, 2);
        assert_eq!((users.count(&client), users.is_empty()), (2, false));
        users.remove(&client, 1);
        assert_eq!((users.count(&client), users.is_empty()), (1, false));
        users.remove(&client, 1);
        assert!(users.is_empty());
    }
}
