//! The permissions of roles: a table from role to names and patterns.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::rights::{Rights, RightsCheck, TokenNameLimits};
use super::template::{ClaimFault, Template, TemplateError};
use super::verdicts::{Verdict, Verdicts};
use super::verify::Identity;
use weirgate_wire::auth::Refusal;
use weirgate_wire::auth::{MatchBudget, OverBudget};
use weirgate_wire::auth::{NameError, NamePatterns, NameSyntax};
use weirgate_wire::json::{Json, JsonError, quoted};

/// The most steps of matching for one pattern. A pattern that needs more is refused, even if the request has steps
/// left ([`Undecided::Name`]).
const PATTERN_STEPS_MAX: usize = 50_000;

/// The most steps of matching for one name, in the table and among the client's own names: less than a millisecond, in
/// which the loop does nothing else.
const NAME_STEPS_MAX: usize = 100_000;

/// The most steps of matching for the reason why a name is denied: an error without it is right, too.
const FAULT_STEPS_MAX: usize = 10_000;

/// The default table (protocol-channels.md, "Roles").
const DEFAULT: [(&str, &[&str]); 3] = [
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
    ("user", &["market:tick", "market:tick:*", "indicators:*"]),
];

/// Why it is unknown whether a client may subscribe to a name ([`Acl::grants`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecided {
    /// The steps of the request are used up. Another request has steps for this name.
    Request,
    /// The name takes more steps than a request may spend on it.
    Name {
        /// The most steps.
        steps_max: usize,
    },
}

/// The fault in a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AclError {
    /// No JSON, or no object.
    #[error(
        "it must be a JSON object that maps each role to a list, such as {{\"user\": [\"news.*\"]}}: {0}"
    )]
    Json(#[from] JsonError),
    /// A role's value is not a list of texts.
    #[error("role {role:?}: not a list of texts")]
    NoList {
        /// The role's name.
        role: String,
    },
    /// A role is in the table twice.
    #[error("role {role:?} is there twice")]
    Twice {
        /// The role's name.
        role: String,
    },
    /// A text that is not a valid name or pattern.
    #[error("role {role:?}, pattern {pattern:?}: {error}")]
    Pattern {
        /// The role's name.
        role: String,
        /// The pattern, as the table has it.
        pattern: String,
        /// The reason of the refusal.
        error: NameError,
    },
    /// A name with placeholders that could give a user the names of other users.
    #[error("role {role:?}, pattern {pattern:?}: {error}")]
    Template {
        /// The role's name.
        role: String,
        /// The pattern, as the table has it.
        pattern: String,
        /// The reason of the refusal.
        error: TemplateError,
    },
}

#[derive(Clone, Debug)]
struct Role {
    /// The name, shared by the rights of all clients.
    name: Arc<str>,
    /// The position in the table, from 0.
    rank: usize,
    /// As given, to be shown.
    names: Vec<String>,
    /// The names and patterns without placeholders.
    set: NamePatterns,
    /// The names with placeholders.
    templates: Vec<Template>,
    /// All names and patterns, with a wildcard in each placeholder.
    patterns: Vec<String>,
    verdicts: Verdicts,
}

/// A table from role to the names and patterns that the role may subscribe to.
#[derive(Clone, Debug)]
pub struct Acl {
    syntax: NameSyntax,
    roles: BTreeMap<String, Role>,
    /// The patterns without placeholders, of all roles. The longest comes first, as the narrowest.
    covers: Vec<(String, NamePatterns)>,
    /// The names with placeholders, of all roles, with a wildcard in each placeholder: the users' own names.
    own: Vec<NamePatterns>,
}

impl Default for Acl {
    fn default() -> Self {
        Self::built_in(NameSyntax::Redis)
    }
}

/// A name of a role that a client does not have, because a claim of its token cannot fill a placeholder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnfilledName {
    /// As in the table.
    pub name: String,
    /// As in the table.
    pub placeholder: String,
    /// What is wrong with the claim.
    pub fault: ClaimFault,
}

impl Acl {
    fn empty(syntax: NameSyntax) -> Self {
        Self {
            syntax,
            roles: BTreeMap::new(),
            covers: Vec::new(),
            own: Vec::new(),
        }
    }

    /// The default table, in the syntax of the bus.
    pub fn built_in(syntax: NameSyntax) -> Self {
        let mut acl = Self::empty(syntax);
        for (role, names) in DEFAULT {
            let name = |name: &&str| match (syntax, *name) {
                (NameSyntax::Redis, name) => name.to_owned(),
                (NameSyntax::Nats, "*") => syntax.everything().to_owned(),
                (NameSyntax::Nats, name) => nats_name(name),
            };
            let names = names.iter().map(name).collect();
            // Only plain names and wildcards, so adding cannot fail.
            let _ = acl.add(role.to_owned(), names);
        }
        acl.sort_covers();
        acl
    }

    /// Reads `{"role": ["name", "pattern"], …}`, with the names of the bus.
    ///
    /// # Errors
    /// The fault in the table, and its place.
    pub fn from_json(syntax: NameSyntax, text: &[u8]) -> Result<Self, AclError> {
        let mut acl = Self::empty(syntax);
        for entry in Json::object_entries(text)? {
            let (role, list) = entry?;
            let role = role.into_owned();
            match Json::of(&list).parse() {
                Ok(names) => acl.add(role, names)?,
                Err(_) => return Err(AclError::NoList { role }),
            }
        }
        acl.sort_covers();
        Ok(acl)
    }

    /// Adds a role with its names: plain names and patterns, and names with placeholders. The covers are sorted
    /// [afterwards](Self::sort_covers).
    fn add(&mut self, role: String, names: Vec<String>) -> Result<(), AclError> {
        if self.roles.contains_key(&role) {
            return Err(AclError::Twice { role });
        }
        let (mut plain, mut templates, mut patterns) = (Vec::new(), Vec::new(), Vec::new());
        let wrong = |(pattern, error)| AclError::Pattern {
            role: role.clone(),
            pattern,
            error,
        };
        for name in &names {
            let template = Template::parse(self.syntax, name);
            let template = template.map_err(|error| AclError::Template {
                role: role.clone(),
                pattern: name.clone(),
                error,
            })?;
            match template {
                None => {
                    plain.push(name.clone());
                    patterns.push(name.clone());
                }
                Some(template) => {
                    patterns.push(template.pattern());
                    let sample = NamePatterns::new(self.syntax, &[template.sample()]);
                    sample.map_err(|(_, error)| wrong((name.clone(), error)))?;
                    let own = NamePatterns::new(self.syntax, &[template.pattern()]);
                    self.own.push(own.map_err(wrong)?);
                    templates.push(template);
                }
            }
        }
        for name in plain.iter().filter(|name| self.syntax.is_pattern(name)) {
            let cover =
                NamePatterns::new(self.syntax, std::slice::from_ref(name)).map_err(wrong)?;
            cover.prepare_contain();
            self.covers.push((name.clone(), cover));
        }
        let set = NamePatterns::new(self.syntax, &plain).map_err(wrong)?;
        // Here a thread reads a file. Later, the loop would make this for the first pattern of a client.
        set.prepare_contain();
        let table = Role {
            name: role.as_str().into(),
            set,
            rank: self.roles.len(),
            names,
            patterns,
            templates,
            verdicts: Verdicts::default(),
        };
        self.roles.insert(role, table);
        Ok(())
    }

    /// Brings the covers into their order, once for the whole table: with the place of each one searched as it comes, a file
    /// of many patterns takes seconds.
    fn sort_covers(&mut self) {
        self.covers
            .sort_by_key(|(pattern, _)| Reverse(pattern.len()));
    }

    /// The roles in the order of the table.
    fn in_order(&self) -> impl Iterator<Item = (&str, &Role)> {
        let mut roles: Vec<_> = self.roles.iter().collect();
        roles.sort_by_key(|(_, table)| table.rank);
        roles
            .into_iter()
            .map(|(role, table)| (role.as_str(), table))
    }

    /// Returns the table as JSON that [`Acl::from_json`] accepts, with a line for each role.
    pub fn to_json(&self) -> String {
        let lines: Vec<String> = self
            .in_order()
            .map(|(role, table)| {
                let names: Vec<String> = table.names.iter().map(|name| quoted(name)).collect();
                format!("  {}: [{}]", quoted(role), names.join(", "))
            })
            .collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }

    /// The syntax of the names in the table.
    pub fn syntax(&self) -> NameSyntax {
        self.syntax
    }

    /// Whether the table has this role.
    pub fn knows(&self, role: &str) -> bool {
        self.roles.contains_key(role)
    }

    /// The names and patterns of a role without placeholders; `None` for an unknown role.
    pub fn names_without_placeholders(&self, role: &str) -> Option<impl Iterator<Item = &String>> {
        let role = self.roles.get(role)?;
        let both = role.names.iter().zip(&role.patterns);
        // A placeholder makes the pattern differ from the name.
        let plain = both.filter(|(name, pattern)| name == pattern);
        Some(plain.map(|(name, _)| name))
    }

    /// Whether the table has names with placeholders, which depend on the user's token.
    pub fn has_placeholders(&self) -> bool {
        self.roles.values().any(|role| !role.templates.is_empty())
    }

    /// Whether a name with a placeholder matches this name of the bus, with any claim: then the name is a user's
    /// own, whoever else may subscribe to it.
    pub fn is_own(&self, name: &str) -> bool {
        self.own.iter().any(|own| own.matches(name))
    }

    /// The roles with their names and patterns, with a wildcard in each placeholder.
    pub fn names_by_role(&self) -> impl Iterator<Item = (&str, &[String])> {
        let roles = self.roles.iter();
        roles.map(|(role, of)| (role.as_str(), of.patterns.as_slice()))
    }

    /// The names and patterns of all roles, each once, with a wildcard in each placeholder.
    pub fn all_names(&self) -> BTreeSet<&str> {
        let roles = self.roles.values();
        roles
            .flat_map(|role| &role.patterns)
            .map(String::as_str)
            .collect()
    }

    /// Returns the role of a token that counts: of several roles, the first in the table. `None` means the default
    /// role.
    ///
    /// # Errors
    /// The token has roles, and the table has none of them.
    fn role_of<'a>(&self, roles: &'a [String]) -> Result<Option<&'a str>, Refusal> {
        let known = roles.iter().filter_map(|role| {
            let rank = self.roles.get(role)?.rank;
            Some((rank, role.as_str()))
        });
        match known.min() {
            Some((_, role)) => Ok(Some(role)),
            None if roles.is_empty() => Ok(None),
            None => Err(Refusal::Role),
        }
    }

    /// The rights of an identity; an identity without a role has the default role.
    ///
    /// # Errors
    /// The table does not have the role, or the names in the token are not allowed.
    pub fn admit(
        &self,
        identity: &Identity,
        default_role: &str,
        limits: TokenNameLimits,
    ) -> Result<Rights, Refusal> {
        let role = self.role_of(&identity.roles)?.unwrap_or(default_role);
        let templates = self.templates(role);
        let role = self.shared_name(role);
        Rights::new(self.syntax, role, identity, templates, limits)
    }

    /// Makes the rights of a client again, after this table has replaced the one that they were made by. The client
    /// gets the rights of a new client with the same token, or none if a new client would be refused.
    pub fn renew(&self, rights: &mut Rights, default_role: &str) {
        let roles = rights.roles();
        match self.role_of(&roles) {
            Ok(role) => {
                let role = role.unwrap_or(default_role);
                rights.apply(self.shared_name(role), self.templates(role));
            }
            Err(_) => rights.refuse(),
        }
    }

    /// Returns the name of a role, in a text that all clients share.
    pub fn shared_name(&self, role: &str) -> Arc<str> {
        let known = self.roles.get(role);
        known.map_or_else(|| role.into(), |role| Arc::clone(&role.name))
    }

    /// Returns the names and patterns that a client has from its own token, in addition to the plain ones of its role.
    pub fn own_names(&self, rights: &Rights) -> Vec<String> {
        rights.own_names(self.templates(&rights.role))
    }

    fn templates(&self, role: &str) -> &[Template] {
        let role = self.roles.get(role);
        role.map_or(&[], |role| &role.templates)
    }

    /// The number of roles.
    pub fn roles(&self) -> usize {
        self.roles.len()
    }

    /// The roles that differ between this table and the `next`.
    pub(crate) fn changes_to(&self, next: &Self) -> AclChanges {
        let not_in = |one: &Self, other: &Self| -> Vec<String> {
            let missing = one.roles.keys().filter(|role| !other.knows(role));
            missing.cloned().collect()
        };
        // If a token has several roles, the first in the table counts, so a change of the order matters too.
        let common = |one: &Self, other: &Self| -> Vec<String> {
            let common = one.in_order().filter(|(role, _)| other.knows(role));
            common.map(|(role, _)| role.to_owned()).collect()
        };
        let both = common(self, next).into_iter().zip(common(next, self));
        let moved: BTreeSet<_> = both.filter(|(a, b)| a != b).map(|(role, _)| role).collect();
        let differs = |(role, table): &(&String, &Role)| {
            let next = next.roles.get(*role);
            next.is_some_and(|next| next.names != table.names || moved.contains(*role))
        };
        AclChanges {
            added: not_in(next, self),
            removed: not_in(self, next),
            changed: self
                .roles
                .iter()
                .filter(differs)
                .map(|(role, _)| role.clone())
                .collect(),
        }
    }

    /// Whether a client may subscribe to `name`, by the names of its role or by its own. If `name` is a pattern, one of
    /// the two lists alone has to grant every name that the pattern can match. An unknown role has no names.
    ///
    /// # Errors
    /// There are too few steps to decide. The caller must refuse the name.
    pub fn grants(&mut self, check: &mut RightsCheck, name: &str) -> Result<bool, Undecided> {
        let of_name = check.budget.at_most(NAME_STEPS_MAX);
        // If the name had all steps of a name, another request has no more for it.
        let is_whole = of_name.left() == NAME_STEPS_MAX;
        let rest = std::mem::replace(&mut check.budget, of_name);
        let verdict = self.judge(check, name);
        check.budget.take_back(rest);
        let too_many = |steps_max| Err(Undecided::Name { steps_max });
        match verdict {
            Ok(Verdict::Granted) => Ok(true),
            Ok(Verdict::Denied) => Ok(false),
            Ok(Verdict::TooManySteps) => too_many(PATTERN_STEPS_MAX),
            Err(OverBudget) if is_whole => too_many(NAME_STEPS_MAX),
            Err(OverBudget) => Err(Undecided::Request),
        }
    }

    /// The verdict of the role, unless the client's own names grant the name.
    fn judge(&mut self, check: &mut RightsCheck, name: &str) -> Result<Verdict, OverBudget> {
        let syntax = self.syntax;
        let (of_role, templates) = match self.roles.get_mut(check.role()) {
            Some(role) => {
                let verdict = role.judge(syntax, name, &mut check.budget)?;
                (verdict, &role.templates[..])
            }
            None => (Verdict::Denied, &[][..]),
        };
        let is_granted = of_role == Verdict::Granted || check.grant_own(syntax, templates, name)?;
        Ok(if is_granted {
            Verdict::Granted
        } else {
            of_role
        })
    }

    /// Returns why no entry with placeholders, such as `orders.{sub}`, granted a denied name: the placeholder, and what
    /// is wrong with the client's claim. Returns `None` if the name matches no such entry, or if too few steps are
    /// left.
    pub fn fault(&self, check: &mut RightsCheck, name: &str) -> Option<(String, ClaimFault)> {
        let mut budget = check.budget.at_most(FAULT_STEPS_MAX);
        let templates = self.templates(check.role());
        let found = templates.iter().find_map(|template| {
            let fault = check.rights().fault(template)?;
            let pattern = template.pattern();
            budget.spend(pattern.len() + name.len()).ok()?;
            let of_all_users = NamePatterns::new(self.syntax, &[pattern]).ok()?;
            let grants = match self.syntax.is_pattern(name) {
                true => of_all_users.contain(name, &mut budget),
                false => of_all_users.matches_within(name, &mut budget),
            };
            (grants == Ok(true)).then_some(fault)
        });
        check.budget.take_back(budget);
        found
    }

    /// Returns the names of the role that the client does not have because a claim cannot fill a placeholder.
    pub(crate) fn faults(&self, rights: &Rights) -> Vec<UnfilledName> {
        let templates = self.templates(&rights.role).iter();
        let fault = |template: &Template| {
            let (placeholder, fault) = rights.fault(template)?;
            Some(UnfilledName {
                name: template.text(),
                placeholder,
                fault,
            })
        };
        templates.filter_map(fault).collect()
    }

    /// Returns the narrowest pattern of the table, or else of the client's own names, that contains all names of
    /// `pattern`. One subscription to it on the bus gets the messages of all patterns that it contains. Returns `None`
    /// if `pattern` is itself in the table, if only several entries together contain it, or if too few steps are left.
    pub fn cover(&self, check: &mut RightsCheck, pattern: &str) -> Option<String> {
        if self.covers.iter().any(|(cover, _)| cover == pattern) {
            return None;
        }
        let mut budget = check.budget.at_most(PATTERN_STEPS_MAX);
        let mut covers = self.covers.iter();
        let cover = covers.find(|(cover, set)| {
            let is_plain = self.syntax.contains(cover, pattern);
            is_plain || set.contain(pattern, &mut budget) == Ok(true)
        });
        check.budget.take_back(budget);
        let cover = cover.map(|(cover, _)| cover.clone());
        cover.or_else(|| {
            let mut own = self.own_names(check.rights()).into_iter();
            own.find(|own| own != pattern && self.syntax.contains(own, pattern))
        })
    }
}

/// Roles that differ between two tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AclChanges {
    /// In the new table only.
    pub added: Vec<String>,
    /// In the old table only.
    pub removed: Vec<String>,
    /// In both tables, but with different names and patterns, or in a different order among the roles of both.
    pub changed: Vec<String>,
}

impl AclChanges {
    /// Whether both tables grant the same.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Role {
    /// Whether the role may subscribe to a name or a pattern.
    fn judge(
        &mut self,
        syntax: NameSyntax,
        name: &str,
        budget: &mut MatchBudget,
    ) -> Result<Verdict, OverBudget> {
        if self.set.match_everything() {
            return Ok(Verdict::Granted);
        }
        if syntax.is_pattern(name) {
            return self.judge_pattern(name, budget);
        }
        budget.spend(name.len())?;
        self.set.matches_within(name, budget).map(Verdict::of)
    }

    /// [`Self::judge`] for a pattern. A verdict is remembered, since it may take many steps.
    fn judge_pattern(
        &mut self,
        pattern: &str,
        budget: &mut MatchBudget,
    ) -> Result<Verdict, OverBudget> {
        budget.spend(pattern.len())?;
        if let Some(verdict) = self.verdicts.get(pattern) {
            return Ok(verdict);
        }
        let mut own = budget.at_most(PATTERN_STEPS_MAX);
        let whole = own.left() == PATTERN_STEPS_MAX;
        let granted = self.set.contain(pattern, &mut own);
        budget.take_back(own);
        let verdict = match granted {
            Ok(granted) => Verdict::of(granted),
            Err(OverBudget) if whole => Verdict::TooManySteps,
            // This is not remembered: another request may have more steps left.
            Err(OverBudget) => return Err(OverBudget),
        };
        self.verdicts.keep(pattern, verdict);
        Ok(verdict)
    }
}

/// Returns a name of the built-in table as a NATS subject: `market:tick:*` becomes `market.tick.>`, which allows any
/// number of tokens after the prefix.
fn nats_name(name: &str) -> String {
    let name = name.replace(':', ".");
    match name.strip_suffix('*') {
        Some(prefix) => format!("{prefix}>"),
        None => name,
    }
}

#[cfg(test)]
mod tests;
