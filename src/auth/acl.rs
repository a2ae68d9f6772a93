//! Who may subscribe to what: a table from role to names and patterns.

use std::collections::BTreeMap;

use super::glob::{Glob, GlobError, Globs, is_pattern};
use crate::wire::json::{JsonError, object_entries};
use crate::wire::object_writer::quoted;

/// The table is an object of lists.
const DEPTH_MAX: usize = 2;

/// The table where nobody gave another (contract channels: who may do what).
const DEFAULT: [(&str, &[&str]); 3] = [
    ("user", &["market:tick", "market:tick:*", "indicators:*"]),
    (
        "admin",
        &[
            "market:tick",
            "market:tick:*",
            "indicators:*",
            "engine:signal",
            "engine:signal:*",
            "engine:decision",
            "engine:decision:*",
        ],
    ),
    ("internal", &["*"]),
];

/// What is wrong with a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AclError {
    /// No JSON, or no object.
    #[error("no JSON object of role to list: {0}")]
    Json(#[from] JsonError),
    /// A role's value is something else than a list of texts.
    #[error("role {role:?}: not a list of texts")]
    NoList {
        /// The role's name.
        role: String,
    },
    /// A role stands there twice.
    #[error("role {role:?} stands there twice")]
    Twice {
        /// The role's name.
        role: String,
    },
    /// A pattern without one meaning.
    #[error("role {role:?}, pattern {pattern:?}: {error}")]
    Pattern {
        /// The role's name.
        role: String,
        /// The pattern, as the table has it.
        pattern: String,
        /// The reason of the refusal.
        error: GlobError,
    },
}

#[derive(Clone, Debug)]
struct Role {
    /// As they were given, to be shown.
    names: Vec<String>,
    globs: Globs,
}

/// A table from role to the names and patterns that it may subscribe to.
#[derive(Clone, Debug)]
pub struct Acl {
    roles: BTreeMap<String, Role>,
}

impl Default for Acl {
    fn default() -> Self {
        let mut acl = Self::empty();
        for (role, names) in DEFAULT {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            // Plain names and `*`: nothing in them can be wrong.
            let _ = acl.add(role.to_owned(), names);
        }
        acl
    }
}

impl Acl {
    fn empty() -> Self {
        Self {
            roles: BTreeMap::new(),
        }
    }

    /// Reads `{"role": ["name", "pattern:*"], …}`.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn from_json(text: &[u8]) -> Result<Self, AclError> {
        let mut acl = Self::empty();
        for entry in object_entries(text, DEPTH_MAX)? {
            let (role, names) = entry?;
            let role = role.into_owned();
            match sonic_rs::from_str(names.as_raw_str()) {
                Ok(names) => acl.add(role, names)?,
                Err(_) => return Err(AclError::NoList { role }),
            }
        }
        Ok(acl)
    }

    fn add(&mut self, role: String, names: Vec<String>) -> Result<(), AclError> {
        if self.roles.contains_key(&role) {
            return Err(AclError::Twice { role });
        }
        let mut globs = Vec::with_capacity(names.len());
        for name in &names {
            globs.push(read_name(name).map_err(|error| AclError::Pattern {
                role: role.clone(),
                pattern: name.clone(),
                error,
            })?);
        }
        let globs = Globs::new(globs);
        self.roles.insert(role, Role { names, globs });
        Ok(())
    }

    /// The table as [`Acl::from_json`] reads it, a line for each role.
    pub fn to_json(&self) -> String {
        let lines: Vec<String> = self
            .roles
            .iter()
            .map(|(role, table)| {
                let names: Vec<String> = table.names.iter().map(|name| quoted(name)).collect();
                format!("  {}: [{}]", quoted(role), names.join(", "))
            })
            .collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }

    /// The table has this role.
    pub fn knows(&self, role: &str) -> bool {
        self.roles.contains_key(role)
    }

    /// The role may subscribe to `name`, which stands for itself, or is a pattern: then every name
    /// that it can match has to be granted. A role that the table does not know may nothing.
    pub fn grants(&self, role: &str, name: &str) -> bool {
        let Some(role) = self.roles.get(role) else {
            return false;
        };
        if role.globs.match_everything() {
            return true;
        }
        if !is_pattern(name) {
            return role.globs.match_name(name);
        }
        Glob::parse(name).is_ok_and(|asked| role.globs.contain(&asked))
    }
}

fn read_name(name: &str) -> Result<Glob, GlobError> {
    if is_pattern(name) {
        Glob::parse(name)
    } else {
        Ok(Glob::exact(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contracts_table() {
        let acl = Acl::default();
        for (role, name, granted) in [
            ("user", "market:tick", true),
            ("user", "market:tick:BANKNIFTY", true),
            ("user", "indicators:", true),
            ("user", "market:tickets:1", false),
            ("user", "market:tic", false),
            ("user", "engine:signal", false),
            ("user", "", false),
            ("admin", "engine:signal", true),
            ("admin", "engine:decision:X", true),
            ("admin", "engine:other", false),
            ("internal", "anything at all", true),
            ("internal", "*", true),
            ("internal", "[à-é]*", true),
            ("guest", "market:tick", false),
            ("", "market:tick", false),
        ] {
            assert_eq!(acl.grants(role, name), granted, "{role} {name}");
        }
        assert!(acl.knows("user") && !acl.knows("guest"));
    }

    #[test]
    fn a_pattern_is_granted_where_all_that_it_matches_is() {
        let acl = Acl::default();
        for (name, granted) in [
            ("market:tick:*", true),
            ("market:tick:B*", true),
            ("market:tick:*:*", true),
            ("market:tick:B?", true),
            ("market:tick:?*", true),
            ("[m]arket:tick:*", true),
            ("market\\:tick:*", true),
            ("market:tick:[a-c]*", true),
            ("indicators:*", true),
            ("**indicators:*", false),
            ("market:*", false),
            ("market:tick*", false),
            ("market:tic?", false),
            ("market:tick?", false),
            ("market:tick[:x]*", false),
            ("market:tick\\:*", true),
            ("market:tick:\\*", true),
            ("*", false),
            ("?", false),
            ("*:*", false),
            ("[mi]*", false),
            ("market:tick:[à-é]*", false),
        ] {
            assert_eq!(acl.grants("user", name), granted, "{name}");
        }
        assert!(!acl.grants("user", "engine:signal:*"));
        assert!(acl.grants("admin", "engine:signal:*"));
        assert!(!acl.grants("admin", "engine:*"));
    }

    #[test]
    fn several_patterns_may_grant_one_together() {
        let table = br#"{"r": ["a:x*", "a:[^x]*", "a:"]}"#;
        let acl = Acl::from_json(table).expect("a table");
        assert!(acl.grants("r", "a:*"));
        let table = br#"{"r": ["a:x*", "a:[^x]*"]}"#;
        let acl = Acl::from_json(table).expect("a table");
        assert!(!acl.grants("r", "a:*"), "a: itself is not granted");
        assert!(acl.grants("r", "a:?*"));
    }

    #[test]
    fn a_table_is_read_and_shown() {
        let shown = Acl::default().to_json();
        let read = Acl::from_json(shown.as_bytes()).expect("its own text");
        assert_eq!(read.to_json(), shown);
        assert!(Acl::from_json(b"{}").is_ok_and(|acl| !acl.knows("user")));
        for (bad, says) in [
            ("", "not a JSON object"),
            ("[]", "not a JSON object"),
            (r#"{"a": "x"}"#, "role \"a\": not a list of texts"),
            (r#"{"a": [1]}"#, "role \"a\": not a list of texts"),
            (r#"{"a": [["x"]]}"#, "deeper than 2"),
            (r#"{"a": [], "a": []}"#, "role \"a\" stands there twice"),
            (r#"{"a": []} x"#, "more after the end"),
            (r#"{"a": ["[à-é]*"]}"#, "outside of ASCII"),
        ] {
            let error = Acl::from_json(bad.as_bytes()).expect_err(bad).to_string();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }
}
