//! The limit for matching names and patterns: a budget of steps for each request. It counts steps instead of time, so
//! that a request gets the same answer on every machine.

/// The error of a [`MatchBudget`] that is used up: whether the names match is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverBudget;

/// The steps of matching names and patterns that a request has left. A step checks one place of a pattern, which takes a
/// few nanoseconds.
#[derive(Debug)]
pub struct MatchBudget {
    left: usize,
}

impl MatchBudget {
    /// A budget of this many steps.
    pub fn new(steps: usize) -> Self {
        Self { left: steps }
    }

    /// An unlimited budget, for questions that do not come from clients.
    pub(super) fn unlimited() -> Self {
        Self::new(usize::MAX)
    }

    /// Steps that are left.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Reserves a budget for a part of the work; [`Self::take_back`] returns the rest.
    pub fn at_most(&mut self, steps: usize) -> Self {
        let steps = steps.min(self.left);
        self.left -= steps;
        Self { left: steps }
    }

    /// Adds the rest of a reserved budget.
    pub fn take_back(&mut self, part: Self) {
        self.left += part.left;
    }

    /// Takes steps from the budget. If too few are left, empties the budget.
    ///
    /// # Errors
    /// Too few are left.
    pub fn spend(&mut self, steps: usize) -> Result<(), OverBudget> {
        let left = self.left.checked_sub(steps);
        self.left = left.unwrap_or(0);
        left.map(drop).ok_or(OverBudget)
    }
}
