//! How much matching of names and patterns one request may cost, counted in steps instead of time:
//! the same request has the same answer on every machine.

/// The budget is used up, and the question is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverBudget;

/// Steps of matching that are left. A step is a look at one place of a pattern, a few nanoseconds.
#[derive(Debug)]
pub struct MatchBudget {
    left: usize,
}

impl MatchBudget {
    /// A budget of so many steps.
    pub fn new(steps: usize) -> Self {
        Self { left: steps }
    }

    /// For a single question of no client.
    pub(super) fn unlimited() -> Self {
        Self::new(usize::MAX)
    }

    /// Steps that are left.
    pub fn left(&self) -> usize {
        self.left
    }

    /// A budget for a part of the work, which [`Self::take_back`] ends.
    pub(super) fn at_most(&mut self, steps: usize) -> Self {
        let steps = steps.min(self.left);
        self.left -= steps;
        Self { left: steps }
    }

    /// Adds what a part of the work has left.
    pub(super) fn take_back(&mut self, part: Self) {
        self.left += part.left;
    }

    /// Takes steps from the budget; where they are not there, the rest of it goes.
    pub(super) fn spend(&mut self, steps: usize) -> Result<(), OverBudget> {
        let left = self.left.checked_sub(steps);
        self.left = left.unwrap_or(0);
        left.map(drop).ok_or(OverBudget)
    }
}
