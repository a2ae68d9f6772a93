//! The rights of a user: a role of the table, names that the table makes from the user's claims ([`super::template`]),
//! and names in the token.

use std::sync::Arc;

use super::claims::text_at;
use super::template::{ClaimFault, Template, TemplatePiece, escape_claim};
use super::verify::Identity;
use weirgate_wire::auth::Refusal;
use weirgate_wire::auth::{MatchBudget, OverBudget};
use weirgate_wire::auth::{NamePatterns, NameSyntax};
use weirgate_wire::base::allocated_bytes;

/// The limits on the names in a token.
#[derive(Clone, Copy, Debug)]
pub struct TokenNameLimits {
    /// The number of names and patterns.
    pub names_max: usize,
    /// Bytes of each.
    pub name_bytes_max: usize,
}

/// The role of a client, and the names that the client has in addition, from its own token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// The role in the table, in a text that all clients of the role share.
    pub role: Arc<str>,
    /// `None` for most clients.
    own: Option<Arc<Own>>,
}

/// A claim of a token that a placeholder of the role needs.
#[derive(Debug, PartialEq, Eq)]
struct Claim {
    placeholder: TemplatePiece,
    /// The escaped text that fills the placeholder, or why the claim cannot.
    text: Result<String, ClaimFault>,
}

/// A client's own names, as texts. They are parsed for each request ([`RightsCheck`]) and not kept parsed: every client
/// may have own names, and parsed names take several times the memory of the texts.
#[derive(Debug, PartialEq, Eq)]
struct Own {
    /// The claims that the names of the role need.
    claims: Vec<Claim>,
    /// The names in the token.
    named: Vec<String>,
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
        let claims = claims_for(templates, identity);
        let is_long = |name: &String| name.len() > limits.name_bytes_max;
        let is_wrong = |name: &String| syntax.check(name).is_err();
        let named = identity.names.clone()?;
        if named.len() > limits.names_max || named.iter().any(|n| is_long(n) || is_wrong(n)) {
            return Err(Refusal::Names);
        }
        if claims.is_empty() && named.is_empty() {
            return Ok(Self::of_role(role));
        }
        let own = Own { claims, named };
        NamePatterns::new(syntax, &own.names(templates)).map_err(|_| Refusal::Names)?;
        Ok(Self {
            role,
            own: Some(Arc::new(own)),
        })
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

    /// Whether the token lists names. The table does not show which of its users' names these are.
    pub fn lists_names(&self) -> bool {
        self.own.as_ref().is_some_and(|own| !own.named.is_empty())
    }

    /// Memory of what the rights have beside the role, which all of its clients share.
    pub fn memory_bytes(&self) -> usize {
        let Some(own) = &self.own else {
            return 0;
        };
        let text_of = |claim: &Claim| {
            let name = match &claim.placeholder {
                TemplatePiece::Text(text) | TemplatePiece::Claim(text) => text.capacity(),
                TemplatePiece::User => 0,
            };
            let text = claim.text.as_ref().map_or(0, String::capacity);
            allocated_bytes(name) + allocated_bytes(text)
        };
        let claims: usize = own.claims.iter().map(text_of).sum();
        let named = own.named.iter();
        let named: usize = named.map(|name| allocated_bytes(name.capacity())).sum();
        let lists = [
            size_of::<Own>() + 2 * size_of::<usize>(),
            own.claims.capacity() * size_of::<Claim>(),
            own.named.capacity() * size_of::<String>(),
        ];
        claims + named + lists.map(allocated_bytes).iter().sum::<usize>()
    }

    /// The names and patterns beside the role's.
    pub(super) fn own_names(&self, templates: &[Template]) -> Vec<String> {
        let own = self.own.as_ref();
        own.map_or_else(Vec::new, |own| own.names(templates))
    }
}

/// The claims of an identity for the placeholders of the templates, each once. A claim that the token does not have is
/// left out.
fn claims_for(templates: &[Template], identity: &Identity) -> Vec<Claim> {
    let of_token = identity.claims.members();
    let mut claims: Vec<Claim> = Vec::new();
    for placeholder in templates.iter().flat_map(|template| &template.pieces) {
        if claims.iter().any(|claim| claim.placeholder == *placeholder) {
            continue;
        }
        let text = match placeholder {
            TemplatePiece::Text(_) => None,
            TemplatePiece::User => identity.user.as_deref().map(escape_claim),
            TemplatePiece::Claim(path) => text_at(&of_token, path).map(|text| {
                let text = text.map_err(|_| ClaimFault::NoText)?;
                escape_claim(&text)
            }),
        };
        if let Some(text) = text {
            claims.push(Claim {
                placeholder: placeholder.clone(),
                text,
            });
        }
    }
    claims
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
        let Some(own) = &self.rights.own else {
            return Ok(false);
        };
        let set = match &mut self.own {
            Some(set) => set,
            none => match NamePatterns::new(syntax, &own.names(templates)) {
                Ok(set) => none.insert(set),
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
    /// Returns the names that the templates make from the claims, then the names that the token lists.
    fn names(&self, templates: &[Template]) -> Vec<String> {
        let claim = |placeholder: &TemplatePiece| {
            let mut claims = self.claims.iter();
            let found = claims.find(|claim| claim.placeholder == *placeholder);
            found.and_then(|claim| claim.text.clone().ok())
        };
        let made = templates.iter().filter_map(|one| one.fill(claim));
        made.chain(self.named.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests;
