//! A gateway as one value: what it is called, which settings it has, and what runs it.

use std::fmt;

use super::{RunError, reload};
use crate::settings::{Check, Checked, Rows};

/// A gateway as one value. A program is a list of these ([`crate::commands::Program`]): its
/// subcommands, `--help`, `--check`, `WEIRGATE_GATEWAY` and `health` are made from the list.
#[derive(Clone, Copy, Debug)]
pub struct GatewayKind {
    /// The word on the command line, and the label of the metrics.
    pub name: &'static str,
    /// One line for the list of subcommands.
    pub about: &'static str,
    /// Its settings.
    pub rows: Rows,
    /// What its settings have to fit together in, besides what the shared ones have to.
    pub check: Check,
    /// Flags that show something and end.
    pub prints: &'static [Print],
    run: Run,
}

/// What runs a gateway until a signal.
type Run = fn(&Checked) -> Result<(), RunError>;

/// A flag that shows something instead of running the gateway.
#[derive(Clone, Copy)]
pub struct Print {
    /// The flag without its dashes.
    pub flag: &'static str,
    /// One line for `--help`.
    pub help: &'static str,
    /// Makes the text.
    pub text: fn(&Checked) -> Result<String, RunError>,
}

impl fmt::Debug for Print {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Print({})", self.flag)
    }
}

impl GatewayKind {
    /// A gateway of this name, which `run` runs until a signal.
    pub const fn new(name: &'static str, about: &'static str, rows: Rows, run: Run) -> Self {
        Self {
            name,
            about,
            rows,
            check: |_| Vec::new(),
            prints: &[],
            run,
        }
    }

    /// With settings that have to fit together.
    #[must_use]
    pub const fn check(mut self, check: Check) -> Self {
        self.check = check;
        self
    }

    /// With flags that show something and end.
    #[must_use]
    pub const fn prints(mut self, prints: &'static [Print]) -> Self {
        self.prints = prints;
        self
    }

    /// Runs it until a signal.
    ///
    /// # Errors
    /// It could not start, the loop failed, or the bus was away for longer than was allowed.
    pub fn run(&self, checked: &Checked) -> Result<(), RunError> {
        reload::expect_signals();
        let ended = (self.run)(checked);
        // Whoever came as far as to listen has put everything together.
        if matches!(ended, Ok(()) | Err(RunError::Listen { .. })) {
            let unread = checked.unread();
            debug_assert!(unread.is_empty(), "settings without effect: {unread:?}");
        }
        ended.map_err(|error| error.of_settings(checked))
    }
}
