//! The rights of a user: a role of the table, names that the table makes from the user's claims ([`super::template`]),
//! and names in the token.

use std::sync::Arc;

use super::claims::{TokenClaims, text_at};
use super::template::{ClaimFault, Template, TemplatePiece, escape_claim};
use super::verify::Identity;
use weirgate_wire::auth::Refusal;
use weirgate_wire::auth::{MatchBudget, OverBudget};
use weirgate_wire::auth::{NamePatterns, NameSyntax};
use weirgate_wire::base::allocated_bytes;
use weirgate_wire::json::{Json, ListWriter};

/// The limits on the names in a token.
#[derive(Clone, Copy, Debug)]
pub struct TokenNameLimits {
    /// The number of names and patterns.
    pub names_max: usize,
    /// Bytes of each.
    pub name_bytes_max: usize,
}

/// The role of a client, and the names that the client has in addition, from its own token. Both are made by a table of
/// roles, and again when another table replaces it ([`super::Acl::renew`]).
#[derive(Clone, Debug)]
pub struct Rights {
    /// The role in the table, in a text that all clients of the role share.
    pub role: Arc<str>,
    /// What the client's token says; `None` without a token, as for most clients of a gateway that requires none.
    own: Option<Arc<Own>>,
}

/// A claim of a token that a placeholder of the role needs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    placeholder: TemplatePiece,
    /// The escaped text that fills the placeholder, or why the claim cannot.
    text: Result<String, ClaimFault>,
}

/// What a client's token says that any table may need, and the client's own names by the table in force, as texts. They are
/// parsed for each request ([`RightsCheck`]) and not kept parsed: every client may have own names, and parsed names take
/// several times the memory of the texts.
#[derive(Clone, Debug)]
struct Own {
    /// The roles, as a JSON list: a token may name very many, and each as a text of its own takes ten times the memory.
    roles: Box<str>,
    user: Option<Box<str>>,
    /// The claims, shortened.
    all_claims: TokenClaims,
    /// The names in the token.
    named: Vec<String>,
    /// Whether the table has none of the roles: a new client with the token would be refused.
    is_refused: bool,
    /// The claims that the names of the role need.
    claims: Vec<Claim>,
}

/// Checks the names of one request against one table.
#[derive(Debug)]
pub struct RightsCheck {
    rights: Rights,
    /// The client's own names, parsed for the first name that the role does not grant.
    own: Option<NamePatterns>,
    /// The steps that the request may still take.
    pub(super) budget: MatchBudget,
}

impl Rights {
    /// The rights of a role, without names of its own.
    pub fn of_role(role: Arc<str>) -> Self {
        Self { role, own: None }
    }

    /// The rights of an identity. `templates` are the role's names with placeholders.
    ///
    /// # Errors
    /// [`Refusal::Names`] if the names in the token are wrong. A claim that cannot fill a placeholder is not an error: the
    /// names that need it are not granted.
    pub(super) fn new(
        syntax: NameSyntax,
        role: Arc<str>,
        identity: &Identity,
        templates: &[Template],
        limits: TokenNameLimits,
    ) -> Result<Self, Refusal> {
        let is_long = |name: &String| name.len() > limits.name_bytes_max;
        let is_wrong = |name: &String| syntax.check(name).is_err();
        let named = identity.names.clone()?;
        if named.len() > limits.names_max || named.iter().any(|n| is_long(n) || is_wrong(n)) {
            return Err(Refusal::Names);
        }
        if *identity == Identity::default() {
            return Ok(Self::of_role(role));
        }
        let mut own = Own::new(identity, named);
        own.apply(templates);
        let names = own.names(templates);
        if !names.is_empty() {
            NamePatterns::new(syntax, &names).map_err(|_| Refusal::Names)?;
        }
        Ok(Self {
            role,
            own: Some(Arc::new(own)),
        })
    }

    /// The roles that the token names.
    pub(super) fn roles(&self) -> Vec<String> {
        let own = self.own.as_ref();
        own.map_or_else(Vec::new, |own| own.roles())
    }

    /// Makes the rights again, for the role that counts by another table.
    pub(super) fn apply(&mut self, role: Arc<str>, templates: &[Template]) {
        self.role = role;
        if let Some(own) = &mut self.own {
            Arc::make_mut(own).apply(templates);
        }
    }

    /// Takes all names of the client: another table has none of its roles. The role stays, for operators.
    pub(super) fn refuse(&mut self) {
        if let Some(own) = &mut self.own {
            Arc::make_mut(own).refuse();
        }
    }

    /// Whether both have the same names by a table, whatever else their tokens say.
    pub fn have_same_names(&self, other: &Self) -> bool {
        self.role == other.role && self.names_made_of() == other.names_made_of()
    }

    /// What the client's own names are made of: the claims for the table's placeholders, and the names in the token.
    fn names_made_of(&self) -> (&[Claim], &[String]) {
        let own = self.own.as_ref().filter(|own| own.has_names());
        own.map_or((&[], &[]), |own| (&own.claims, &own.named))
    }

    /// Returns the first placeholder of `template` that the claims do not fill, as the table writes it, and why. Returns
    /// `None` if all placeholders are filled.
    pub(super) fn fault(&self, template: &Template) -> Option<(String, ClaimFault)> {
        let claims = self.own.as_ref().map_or(&[][..], |own| &own.claims);
        for placeholder in &template.pieces {
            if matches!(placeholder, TemplatePiece::Text(_)) {
                continue;
            }
            let claim = claims
                .iter()
                .find(|claim| claim.placeholder == *placeholder);
            let fault = match claim.map(|claim| &claim.text) {
                Some(Ok(_)) => continue,
                Some(Err(fault)) => *fault,
                None => ClaimFault::Missing,
            };
            return Some((placeholder.text(), fault));
        }
        None
    }

    /// Whether the token lists names. They may be the user's own, which [`super::Acl::is_own`] cannot say: it knows
    /// only the names with placeholders.
    pub fn lists_names(&self) -> bool {
        self.own.as_ref().is_some_and(|own| !own.named.is_empty())
    }

    /// Memory of what the rights have beside the role, which all of its clients share.
    pub fn memory_bytes(&self) -> usize {
        self.own.as_ref().map_or(0, |own| own.memory_bytes())
    }

    /// The names and patterns beside the role's.
    pub(super) fn own_names(&self, templates: &[Template]) -> Vec<String> {
        let own = self.own.as_ref();
        own.map_or_else(Vec::new, |own| own.names(templates))
    }
}

impl RightsCheck {
    /// Makes a check for the names that a client with these rights requests, with at most this many steps.
    pub fn new(rights: &Rights, steps: usize) -> Self {
        Self {
            rights: rights.clone(),
            own: None,
            budget: MatchBudget::new(steps),
        }
    }

    /// Replaces the rights, which were made again for another table. The steps that are left stay.
    pub fn renew(&mut self, rights: &Rights) {
        self.rights = rights.clone();
        self.own = None;
    }

    /// The rights.
    pub(super) fn rights(&self) -> &Rights {
        &self.rights
    }

    /// The role of the rights.
    pub(super) fn role(&self) -> &str {
        &self.rights.role
    }

    /// Whether the client's own names grant `name`; see [`super::Acl::grants`].
    pub(super) fn grant_own(
        &mut self,
        syntax: NameSyntax,
        templates: &[Template],
        name: &str,
    ) -> Result<bool, OverBudget> {
        let own = self.rights.own.as_ref().filter(|own| own.has_names());
        let Some(own) = own else {
            return Ok(false);
        };
        let set = match &mut self.own {
            Some(set) => set,
            none => match NamePatterns::new(syntax, &own.names(templates)) {
                Ok(set) => none.insert(set),
                // Not expected: the names of the token and the templates of the table were checked.
                Err(_) => return Ok(false),
            },
        };
        self.budget.spend(name.len())?;
        match syntax.is_pattern(name) {
            true => set.contain(name, &mut self.budget),
            false => set.matches_within(name, &mut self.budget),
        }
    }
}

impl Own {
    /// What the token of this identity says, which lists these names.
    fn new(identity: &Identity, named: Vec<String>) -> Self {
        let mut roles = ListWriter::default();
        identity.roles.iter().for_each(|role| roles.push(role));
        Self {
            roles: roles.finish().into(),
            user: identity.user.as_deref().map(Into::into),
            all_claims: identity.claims.shortened(),
            named,
            is_refused: false,
            claims: Vec::new(),
        }
    }

    fn roles(&self) -> Vec<String> {
        // The list was written by `new`, so it is one.
        let roles = Json::read(self.roles.as_bytes()).and_then(Json::parse);
        roles.unwrap_or_default()
    }

    /// Finds the claims for the placeholders of the templates, each once. A claim that the token does not have is left
    /// out.
    fn apply(&mut self, templates: &[Template]) {
        self.is_refused = false;
        self.claims = Vec::new();
        if templates.is_empty() {
            return;
        }
        let of_token = self.all_claims.members();
        for placeholder in templates.iter().flat_map(|template| &template.pieces) {
            let mut found = self.claims.iter();
            if found.any(|one| one.placeholder == *placeholder) {
                continue;
            }
            let text = match placeholder {
                TemplatePiece::Text(_) => None,
                TemplatePiece::User => self.user.as_deref().map(escape_claim),
                TemplatePiece::Claim(path) => text_at(&of_token, path).map(|text| {
                    let text = text.map_err(|_| ClaimFault::NoText)?;
                    escape_claim(&text)
                }),
            };
            if let Some(text) = text {
                let placeholder = placeholder.clone();
                self.claims.push(Claim { placeholder, text });
            }
        }
    }

    fn refuse(&mut self) {
        self.is_refused = true;
        self.claims = Vec::new();
    }

    /// Whether the client may have names beside those of the role.
    fn has_names(&self) -> bool {
        let is_empty = self.claims.is_empty() && self.named.is_empty();
        !self.is_refused && !is_empty
    }

    /// Returns the names that the templates make from the claims, then the names that the token lists.
    fn names(&self, templates: &[Template]) -> Vec<String> {
        if !self.has_names() {
            return Vec::new();
        }
        let claim = |placeholder: &TemplatePiece| {
            let mut claims = self.claims.iter();
            let found = claims.find(|claim| claim.placeholder == *placeholder);
            found.and_then(|claim| claim.text.clone().ok())
        };
        let made = templates.iter().filter_map(|one| one.fill(claim));
        made.chain(self.named.iter().cloned()).collect()
    }

    /// Returns what the allocator spends on this and its texts, the two counts of the `Arc` around it included, in
    /// bytes.
    fn memory_bytes(&self) -> usize {
        let text_of = |claim: &Claim| {
            let name = match &claim.placeholder {
                TemplatePiece::Text(text) | TemplatePiece::Claim(text) => text.capacity(),
                TemplatePiece::User => 0,
            };
            let text = claim.text.as_ref().map_or(0, String::capacity);
            allocated_bytes(name) + allocated_bytes(text)
        };
        let claims: usize = self.claims.iter().map(text_of).sum();
        let named = self.named.iter();
        let named: usize = named.map(|name| allocated_bytes(name.capacity())).sum();
        let parts = [
            // With the two counts of its `Arc`.
            size_of::<Self>() + 2 * size_of::<usize>(),
            self.roles.len(),
            self.user.as_ref().map_or(0, |user| user.len()),
            self.claims.capacity() * size_of::<Claim>(),
            self.named.capacity() * size_of::<String>(),
        ];
        let parts: usize = parts.map(allocated_bytes).iter().sum();
        self.all_claims.memory_bytes() + claims + named + parts
    }
}

#[cfg(test)]
mod tests;
