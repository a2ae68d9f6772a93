//! The files that gateways with tokens read again at SIGHUP: keys and the table of roles.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::auth::acl_of;
use crate::auth::{Acl, AclChanges};
use crate::base::LateWake;
use crate::files;
use crate::files::{KeysChanged, KeysInForce};
use crate::run::{Inputs, Reload, Reloaded};

/// Roles named in a log line; of further roles the line has only the number.
const ROLES_SHOWN: usize = 10;

/// The keys of tokens, shared with the fetches from a URL.
pub(super) struct Keys(pub(super) Arc<Mutex<KeysInForce>>);

impl Keys {
    fn in_force(&self) -> MutexGuard<'_, KeysInForce> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reload for Keys {
    fn what(&self) -> &'static str {
        "keys"
    }

    fn is_due(&mut self) -> bool {
        self.in_force().look()
    }

    fn reload(&mut self) -> Result<Reloaded, String> {
        let mut in_force = self.in_force();
        in_force.request_fetch();
        let read = in_force.read_again();
        let changed = read.map_err(|error| format!("{error}; the keys stay as they were"))?;
        let Some(changed) = changed else {
            return Ok(Reloaded::Unchanged);
        };
        let KeysChanged {
            keys,
            before,
            files,
        } = changed;
        tracing::info!(keys, before, ?files, "the keys of tokens have changed");
        Ok(Reloaded::Changed)
    }
}

/// Reads the table of roles from its file, and sends each new table to the gateway.
pub(super) struct AclFile {
    path: PathBuf,
    default_role: String,
    in_force: Acl,
    tables: Sender<Acl>,
    wake: LateWake,
}

impl AclFile {
    /// Returns the file of the table `in_force`, and the gateway's input for new tables.
    pub(super) fn new(path: &Path, in_force: Acl, default_role: &str) -> (Self, Inputs<Acl>) {
        // The reading thread waits until the loop has taken the table before.
        let (tables, receiver): (_, Receiver<Acl>) = bounded(1);
        let wake = LateWake::default();
        let file = Self {
            path: path.to_owned(),
            default_role: default_role.to_owned(),
            in_force,
            tables,
            wake: wake.clone(),
        };
        (file, Inputs { receiver, wake })
    }
}

impl Reload for AclFile {
    fn what(&self) -> &'static str {
        "acl"
    }

    fn reload(&mut self) -> Result<Reloaded, String> {
        let text = files::read_again(&self.path);
        let acl = acl_of(&self.path, text, self.in_force.syntax());
        let acl = acl.map_err(|error| format!("{error}; the table stays as it was"))?;
        let changes = self.in_force.changes_to(&acl);
        if changes.is_empty() {
            return Ok(Reloaded::Unchanged);
        }
        self.in_force = acl.clone();
        // Fails only after the end of the loop.
        let _ = self.tables.send(acl);
        self.wake.wake();
        self.tell(&changes);
        Ok(Reloaded::Changed)
    }
}

impl AclFile {
    fn tell(&self, changes: &AclChanges) {
        tracing::info!(
            roles = self.in_force.roles(),
            added = shown(&changes.added),
            removed = shown(&changes.removed),
            changed = shown(&changes.changed),
            "the table of roles has changed"
        );
        warn_of_default_role(&self.in_force, &self.default_role);
    }
}

/// Logs that clients without a role may subscribe to nothing.
pub(super) fn warn_of_default_role(acl: &Acl, role: &str) {
    if !acl.knows(role) {
        tracing::warn!(role, "DEFAULT_ROLE is not in the table and grants nothing");
    }
}

/// Checks the default role before a start. Without tokens all clients have this role.
pub(super) fn check_default_role(acl: &Acl, role: &str, tokens_required: bool) {
    if tokens_required || acl.knows(role) {
        return warn_of_default_role(acl, role);
    }
    tracing::error!(
        role,
        "DEFAULT_ROLE is not in the table and every client has it: nobody can subscribe"
    );
}

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
        let old = Acl::from_json(br#"{"user": ["a"]}"#).expect("a table");
        fs::write(&path, old.to_json()).expect("written");
        let (mut file, inputs) = AclFile::new(&path, old, "user");
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
