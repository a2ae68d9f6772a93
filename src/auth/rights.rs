//! The rights of one user: a role of the table, names that the table makes from the user's claims, and names
//! in the token.
//!
//! A name of the table may have places for claims: `orders.{sub}`, `desks.{claim:desk}.>`. Each place is a
//! whole token of the name, behind a word of the table, and a claim fills it only with letters, digits and
//! `- _ @ | =`. So no claim can hold a wildcard or a separator, and two users never share a name.

use std::sync::Arc;

use super::match_budget::{MatchBudget, OverBudget};
use super::names::{NameSet, NameSyntax};
use super::verify::{Identity, Refusal};

/// The longest claim in a name, bytes.
pub const CLAIM_BYTES_MAX: usize = 128;

/// The place for the user.
const USER: &str = "{sub}";
/// The beginning of a place for another claim; its name and `}` follow.
const CLAIM: &str = "{claim:";
/// Fills every place when a name of the table is checked.
const SAMPLE: &str = "x";

/// Why a name of the table cannot be made from claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A place has no end, or no claim.
    #[error("a place for a claim is {{sub}} or {{claim:NAME}}")]
    Place,
    /// A place has other text beside it.
    #[error("a place for a claim has to be a whole token between separators")]
    PartOfToken,
    /// The first token is a place.
    #[error("a word has to come before the first place for a claim")]
    First,
    /// A character class or an escaped character.
    #[error("[ and \\ are not allowed in a name with a place for a claim")]
    Class,
}

/// A piece of a name with places.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    User,
    Claim(String),
}

/// A name or pattern of the table with places for claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    pieces: Vec<Piece>,
}

impl Template {
    /// Reads a name of the table. Returns `None` for a name without places.
    ///
    /// # Errors
    /// A place that could give a user more than the user's own.
    pub(super) fn parse(syntax: NameSyntax, name: &str) -> Result<Option<Self>, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = name;
        while let Some((before, place, after)) = next_place(rest)? {
            let is_separator = |c: char| separators(syntax).contains(&c);
            if pieces.is_empty() && before.is_empty() {
                return Err(TemplateError::First);
            }
            let is_whole = before.ends_with(is_separator)
                && (after.is_empty() || after.starts_with(is_separator));
            if !is_whole {
                return Err(TemplateError::PartOfToken);
            }
            pieces.extend([Piece::Text(before.to_owned()), place]);
            rest = after;
        }
        if pieces.is_empty() {
            return Ok(None);
        }
        if syntax == NameSyntax::Redis && name.contains(['[', '\\']) {
            return Err(TemplateError::Class);
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Some(Self { pieces }))
    }

    /// The name with `value` in each place.
    ///
    /// # Errors
    /// The first error of `value`.
    fn fill<E>(&self, value: impl Fn(&Piece) -> Result<String, E>) -> Result<String, E> {
        let text = |piece: &Piece| match piece {
            Piece::Text(text) => Ok(text.clone()),
            place => value(place),
        };
        self.pieces.iter().map(text).collect()
    }

    /// The name with the same text in each place.
    fn filled_with(&self, text: &str) -> String {
        let filled = self.fill(|_| Ok::<_, std::convert::Infallible>(text.to_owned()));
        filled.unwrap_or_default()
    }

    /// The name with a harmless claim in each place: valid if the name is valid for every claim.
    pub(super) fn sample(&self) -> String {
        self.filled_with(SAMPLE)
    }

    /// The pattern of the names of all users.
    pub(super) fn pattern(&self) -> String {
        self.filled_with("*")
    }
}

/// The part before the first place, the place, and the rest; `None` without a place.
fn next_place(text: &str) -> Result<Option<(&str, Piece, &str)>, TemplateError> {
    let Some(at) = [text.find(USER), text.find(CLAIM)]
        .into_iter()
        .flatten()
        .min()
    else {
        return Ok(None);
    };
    let (before, place) = text.split_at(at);
    if let Some(after) = place.strip_prefix(USER) {
        return Ok(Some((before, Piece::User, after)));
    }
    let (claim, after) = place[CLAIM.len()..]
        .split_once('}')
        .ok_or(TemplateError::Place)?;
    match claim.is_empty() {
        true => Err(TemplateError::Place),
        false => Ok(Some((before, Piece::Claim(claim.to_owned()), after))),
    }
}

/// The characters between the tokens of a name. Redis has none of its own; these are the usual ones.
fn separators(syntax: NameSyntax) -> &'static [char] {
    match syntax {
        NameSyntax::Redis => &[':', '.', '/'],
        NameSyntax::Nats => &['.'],
    }
}

/// Whether a claim may be in a name.
fn is_good(claim: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_@|=".contains(&byte);
    (1..=CLAIM_BYTES_MAX).contains(&claim.len()) && claim.bytes().all(is_good)
}

/// The limits on the names in a token.
#[derive(Clone, Copy, Debug)]
pub struct TokenNameLimits {
    /// The number of names and patterns.
    pub names_max: usize,
    /// Bytes of each.
    pub name_bytes_max: usize,
}

/// The role of a client, and the names that are the client's own.
#[derive(Clone, Debug)]
pub struct Rights {
    /// The role in the table.
    pub role: String,
    /// Boxed, because most clients have none.
    own: Option<Box<Own>>,
}

/// Names beside the role.
#[derive(Clone, Debug)]
struct Own {
    /// The claims that the names of the role need.
    claims: Vec<(Piece, String)>,
    /// The names in the token.
    named: Vec<String>,
    /// The templates that `set` was made with: a new table has others.
    templates: Arc<[Template]>,
    set: NameSet,
}

impl Rights {
    /// The rights of a role, without names of its own.
    pub fn of_role(role: String) -> Self {
        Self { role, own: None }
    }

    /// The rights of an identity. `templates` are the role's names with places.
    ///
    /// # Errors
    /// [`Refusal::ClaimText`] for a claim that may not be in a name, [`Refusal::Names`] for the names in the
    /// token. A claim that the token does not have is no error: the names that need the claim are not granted.
    pub(super) fn new(
        syntax: NameSyntax,
        role: String,
        identity: &Identity,
        templates: &Arc<[Template]>,
        limits: TokenNameLimits,
    ) -> Result<Self, Refusal> {
        let places = templates.iter().flat_map(|template| &template.pieces);
        let mut claims: Vec<(Piece, String)> = Vec::new();
        for place in places {
            let claim = match place {
                Piece::Text(_) => continue,
                Piece::User => identity.user.as_deref(),
                Piece::Claim(name) => match identity.texts.get(name) {
                    Some(Some(text)) => Some(text.as_str()),
                    Some(None) => return Err(Refusal::ClaimText),
                    None => None,
                },
            };
            match claim {
                Some(claim) if !is_good(claim) => return Err(Refusal::ClaimText),
                Some(claim) if claims.iter().all(|(known, _)| known != place) => {
                    claims.push((place.clone(), claim.to_owned()));
                }
                _ => {}
            }
        }
        let is_long = |name: &String| name.len() > limits.name_bytes_max;
        let is_wrong = |name: &String| syntax.check(name).is_err();
        let named = identity.names.clone()?;
        if named.len() > limits.names_max || named.iter().any(|n| is_long(n) || is_wrong(n)) {
            return Err(Refusal::Names);
        }
        if claims.is_empty() && named.is_empty() {
            return Ok(Self::of_role(role));
        }
        let own = Own::new(syntax, claims, named, templates).ok_or(Refusal::Names)?;
        Ok(Self {
            role,
            own: Some(Box::new(own)),
        })
    }

    /// The names and patterns beside the role's.
    pub fn own_names(&self) -> Vec<String> {
        let own = self.own.as_ref();
        own.map_or_else(Vec::new, |own| {
            names(&own.claims, &own.named, &own.templates)
        })
    }

    /// Whether the names beside the role's grant `name`; see [`super::Acl::grants`].
    pub(super) fn grant_own(
        &mut self,
        syntax: NameSyntax,
        templates: &Arc<[Template]>,
        name: &str,
        budget: &mut MatchBudget,
    ) -> Result<bool, OverBudget> {
        let Some(own) = &mut self.own else {
            return Ok(false);
        };
        let is_same = match templates.is_empty() {
            true => own.templates.is_empty(),
            false => Arc::ptr_eq(&own.templates, templates),
        };
        if !is_same {
            let (claims, named) = (own.claims.clone(), own.named.clone());
            match Own::new(syntax, claims, named, templates) {
                Some(made) => **own = made,
                None => return Ok(false),
            }
        }
        budget.spend(name.len())?;
        match syntax.is_pattern(name) {
            true => own.set.contain(name, budget),
            false => own.set.match_name(name, budget),
        }
    }
}

impl Own {
    /// Returns `None` if the names in the token are no names.
    fn new(
        syntax: NameSyntax,
        claims: Vec<(Piece, String)>,
        named: Vec<String>,
        templates: &Arc<[Template]>,
    ) -> Option<Self> {
        let names = names(&claims, &named, templates);
        let set = NameSet::new(syntax, &names).ok()?;
        Some(Self {
            claims,
            named,
            templates: Arc::clone(templates),
            set,
        })
    }
}

/// The names made from claims, and behind them those in the token.
fn names(claims: &[(Piece, String)], named: &[String], templates: &[Template]) -> Vec<String> {
    let claim = |place: &Piece| {
        let found = claims.iter().find(|(known, _)| known == place);
        found.map(|(_, claim)| claim.clone()).ok_or(())
    };
    let made = templates.iter().filter_map(|one| one.fill(claim).ok());
    made.chain(named.iter().cloned()).collect()
}

#[cfg(test)]
mod tests;
