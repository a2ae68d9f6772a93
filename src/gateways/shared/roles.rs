//! The table of roles: read at the start, checked with the default role, and read again on SIGHUP; the gateway gets each new
//! table as an input.

use std::fmt::Display;
use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::auth::{Acl, AclChanges};
use weirgate_runtime::LateWake;
use weirgate_server::run::{Inputs, Reload, Reloaded, RunError, files};
use weirgate_server::settings::AuthSettings;
use weirgate_wire::auth::NameSyntax;

/// The most roles that a log line names. Others are only counted.
const ROLES_SHOWN: usize = 10;

/// Reads the table of roles from `file`; without a file, returns the built-in table.
pub(in crate::gateways) fn read_acl(
    file: Option<&Path>,
    syntax: NameSyntax,
) -> Result<Acl, RunError> {
    let Some(path) = file else {
        return Ok(Acl::built_in(syntax));
    };
    let text = files::read(path);
    apart(|| parse(path, text, syntax)).map_err(RunError::Settings)
}

/// Makes a table on a thread of its own, so that it is not in the loop's part of the heap: where many small blocks have been
/// freed, glibc joins them in the next allocation, and 40,000 roles would take the loop over 5 ms then.
fn apart<T: Send>(make: impl FnOnce() -> T + Send) -> T {
    let made = thread::scope(|scope| scope.spawn(make).join());
    made.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Parses the text of the table of roles; `path` is for errors.
fn parse(path: &Path, text: io::Result<Vec<u8>>, syntax: NameSyntax) -> Result<Acl, String> {
    let wrong = |error: &dyn Display| format!("--acl {}: {error}", path.display());
    let text = text.map_err(|error| wrong(&error))?;
    Acl::from_json(syntax, &text).map_err(|error| wrong(&error))
}

/// Whether clients have tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateways) enum Tokens {
    /// Each client needs one.
    Required,
    /// Tokens are ignored, and every client has the default role.
    Ignored,
}

impl Tokens {
    pub(in crate::gateways) fn of(auth: &AuthSettings) -> Self {
        match auth.required {
            true => Self::Required,
            false => Self::Ignored,
        }
    }
}

/// Checks the table and the default role before a start.
pub(in crate::gateways) fn check_table(acl: &Acl, role: &str, tokens: Tokens) {
    warn_of_placeholders(acl, tokens);
    if tokens == Tokens::Required || acl.knows(role) {
        return warn_of_default_role(acl, role);
    }
    tracing::error!(
        role,
        "DEFAULT_ROLE is not in the table and every client has it: nobody can subscribe"
    );
}

/// Warns that clients without a role can subscribe to nothing.
fn warn_of_default_role(acl: &Acl, role: &str) {
    if !acl.knows(role) {
        tracing::warn!(role, "DEFAULT_ROLE is not in the table and grants nothing");
    }
}

/// Warns that nobody gets names with placeholders, because tokens are ignored.
fn warn_of_placeholders(acl: &Acl, tokens: Tokens) {
    if tokens == Tokens::Ignored && acl.has_placeholders() {
        tracing::warn!(
            "the table of roles has names with {{sub}} or {{claim:NAME}} and REQUIRE_AUTH is off: tokens are ignored, and nobody has these names"
        );
    }
}

/// Reads the table of roles again, and sends each new table to the gateway.
pub(in crate::gateways) struct AclFile {
    path: PathBuf,
    default_role: String,
    tokens: Tokens,
    in_force: Acl,
    tables: Sender<Acl>,
    wake: LateWake,
    /// Tables that the gateway no longer uses. This thread frees them: with 40,000 roles that takes over 5 ms.
    old_tables: (Sender<Acl>, Receiver<Acl>),
}

impl AclFile {
    /// Returns the file of the table `in_force`, and the input by which the gateway gets new tables.
    pub(in crate::gateways) fn new(
        path: &Path,
        in_force: &Acl,
        default_role: &str,
        tokens: Tokens,
    ) -> (Self, Inputs<Acl>) {
        // With room for a single table, the reading thread waits until the loop has taken the one before.
        let (tables, receiver): (_, Receiver<Acl>) = bounded(1);
        let wake = LateWake::default();
        let file = Self {
            path: path.to_owned(),
            default_role: default_role.to_owned(),
            tokens,
            in_force: apart(|| in_force.clone()),
            tables,
            wake: wake.clone(),
            old_tables: unbounded(),
        };
        (file, Inputs::new(receiver, wake))
    }

    /// By this the gateway sends tables that are no longer in force to the thread that frees them.
    pub(in crate::gateways) fn old_tables(&self) -> Sender<Acl> {
        self.old_tables.0.clone()
    }
}

impl Reload for AclFile {
    fn what(&self) -> &'static str {
        "acl"
    }

    fn poll_change(&mut self) -> bool {
        // Called once a second, so old tables are freed here. A changed file is read only at a signal.
        self.old_tables.1.try_iter().for_each(drop);
        false
    }

    fn reload(&mut self) -> Result<Reloaded, String> {
        let text = files::read_again(&self.path);
        let acl = parse(&self.path, text, self.in_force.syntax());
        let acl = acl.map_err(|error| format!("{error}; the table stays as it was"))?;
        let changes = self.in_force.changes_to(&acl);
        if changes.is_empty() {
            return Ok(Reloaded::Unchanged);
        }
        self.in_force = acl.clone();
        // Fails only after the end of the loop.
        let _ = self.tables.send(acl);
        self.wake.wake();
        self.log_changes(&changes);
        Ok(Reloaded::Changed)
    }
}

impl AclFile {
    /// Logs which roles have changed, and warns of those that do not fit the tokens.
    fn log_changes(&self, changes: &AclChanges) {
        tracing::info!(
            roles = self.in_force.roles(),
            added = shown(&changes.added),
            removed = shown(&changes.removed),
            changed = shown(&changes.changed),
            "the table of roles has changed"
        );
        warn_of_default_role(&self.in_force, &self.default_role);
        warn_of_placeholders(&self.in_force, self.tokens);
    }
}

/// The first roles of a change, for a log line, and how many more there are.
fn shown(roles: &[String]) -> String {
    let named: Vec<&str> = roles.iter().take(ROLES_SHOWN).map(String::as_str).collect();
    match roles.len().saturating_sub(ROLES_SHOWN) {
        0 => named.join(","),
        more => format!("{} and {more} more", named.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_new_table_goes_to_the_gateway_and_a_broken_one_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("acl.json");
        let old = Acl::from_json(NameSyntax::Redis, br#"{"user": ["a"]}"#).expect("a table");
        fs::write(&path, old.to_json()).expect("written");
        let (mut file, inputs) = AclFile::new(&path, &old, "user", Tokens::Required);
        assert_eq!(file.reload(), Ok(Reloaded::Unchanged));
        for broken in ["", "{", r#"{"user": "a"}"#] {
            fs::write(&path, broken).expect("written");
            let error = file.reload().expect_err(broken);
            assert!(error.ends_with("; the table stays as it was"), "{error}");
        }
        assert!(inputs.receiver.is_empty());
        fs::write(&path, r#"{"user": ["b"]}"#).expect("written");
        assert_eq!(file.reload(), Ok(Reloaded::Changed));
        let taken = inputs.receiver.try_recv().expect("a table");
        assert_eq!(taken.to_json(), file.in_force.to_json());
        file.old_tables().send(taken).expect("a thread");
        assert!(!file.poll_change() && file.old_tables().is_empty(), "freed");
        fs::remove_file(&path).expect("removed");
        let error = file.reload().expect_err("no file");
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn a_line_names_few_roles() {
        let roles: Vec<String> = (0..12).map(|n| n.to_string()).collect();
        assert_eq!(shown(&roles), "0,1,2,3,4,5,6,7,8,9 and 2 more");
        assert_eq!(shown(&roles[..2]), "0,1");
        assert_eq!(shown(&[]), "");
    }
}
