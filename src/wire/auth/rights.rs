//! The rights of a user: a role of the table, names that the table makes from the user's claims, and names in the
//! token.
//!
//! A name of the table may have places for claims: `orders.{sub}`, `desks.{claim:desk}.>`. An entry with places must
//! never give two users the same name. So a place is a whole token of the name, and the first token is a fixed word. Of
//! a claim, letters, digits and `- _ @ | =` are kept and every other byte is escaped as in a URL ([`escaped`]), so no
//! claim can add a wildcard or a separator, and different claims give different texts. On Redis no wildcard may come
//! before a place, because `*` matches separators too.

use std::fmt::Write as _;
use std::sync::Arc;

use super::glob::is_pattern;
use super::match_budget::{MatchBudget, OverBudget};
use super::names::{NamePatterns, NameSyntax};
use super::verify::{Identity, Refusal};
use crate::base::allocated_bytes;

/// The longest claim that may fill a place, in bytes before it is escaped.
pub(crate) const CLAIM_BYTES_MAX: usize = 128;

/// The place for the user.
const USER: &str = "{sub}";
/// The beginning of a place for another claim; the name of the claim and `}` follow.
const CLAIM: &str = "{claim:";
/// The first character of every place. In names on Redis, `\{` means the brace itself.
const BRACE: char = '{';
/// The text that fills every place when a name of the table is checked.
const SAMPLE: &str = "x";

/// Why a name of the table cannot have its places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A brace that begins no place: hardly any real name has one, and a misspelled place would silently grant nothing.
    #[error("a place for a claim is {{sub}} or {{claim:NAME}}")]
    Place,
    /// A place is only a part of its token.
    #[error("a place for a claim has to be a whole token between separators")]
    PartOfToken,
    /// The first token is a place, a wildcard or empty.
    #[error("the name must begin with a fixed word: a place for a claim may not be its first part")]
    First,
    /// A wildcard of Redis before a place.
    #[error("* and ? match separators too, and are allowed only after the last place for a claim")]
    Wildcard,
    /// A character class or an escaped character.
    #[error("[ and \\ are not allowed in a name with a place for a claim")]
    Class,
}

/// Why a claim cannot fill a place. Names that need the claim are then not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimFault {
    /// The token does not have the claim.
    #[error("the token has no such claim")]
    Missing,
    /// The claim is a number, a list or the like.
    #[error("the claim is not a text")]
    NoText,
    /// The claim is an empty text.
    #[error("the claim is empty")]
    Empty,
    /// The claim is too long.
    #[error("the claim is longer than {CLAIM_BYTES_MAX} bytes")]
    Long,
}

/// A piece of a name with places.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    User,
    Claim(String),
}

impl Piece {
    /// The place as the table writes it.
    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::User => USER.to_owned(),
            Self::Claim(name) => format!("{CLAIM}{name}}}"),
        }
    }
}

/// A name or pattern of the table that has places for claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    pieces: Vec<Piece>,
}

impl Template {
    /// Reads a name of the table. Returns `None` for a name without places.
    ///
    /// # Errors
    /// A place is malformed, or is where it could give a user the names of other users.
    pub(super) fn parse(syntax: NameSyntax, name: &str) -> Result<Option<Self>, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = name;
        while let Some((before, place, after)) = next_place(syntax, rest)? {
            let is_separator = |c: char| separators(syntax).contains(&c);
            let first = before.split(is_separator).next().unwrap_or_default();
            if pieces.is_empty() && (first.is_empty() || first == "*") {
                return Err(TemplateError::First);
            }
            if syntax == NameSyntax::Redis && is_pattern(before) {
                return Err(TemplateError::Wildcard);
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

    /// Returns the name with the `value` of each place; `None` if a place has no value.
    fn fill(&self, value: impl Fn(&Piece) -> Option<String>) -> Option<String> {
        let text = |piece: &Piece| match piece {
            Piece::Text(text) => Some(text.clone()),
            place => value(place),
        };
        self.pieces.iter().map(text).collect()
    }

    /// Returns the name with the same text in each place.
    fn filled_with(&self, text: &str) -> String {
        let filled = self.fill(|_| Some(text.to_owned()));
        filled.unwrap_or_default()
    }

    /// The name as the table has it.
    pub(super) fn text(&self) -> String {
        self.pieces.iter().map(Piece::text).collect()
    }

    /// Returns the name with a harmless claim in each place. If this is a valid name, the name is valid for every
    /// claim.
    pub(super) fn sample(&self) -> String {
        self.filled_with(SAMPLE)
    }

    /// The pattern of the names of all users.
    pub(super) fn pattern(&self) -> String {
        self.filled_with("*")
    }
}

/// Returns the text before the first place, the place, and the rest; `None` if there is no place.
fn next_place(
    syntax: NameSyntax,
    text: &str,
) -> Result<Option<(&str, Piece, &str)>, TemplateError> {
    let is_place =
        |&(at, _): &(usize, &str)| syntax != NameSyntax::Redis || !text[..at].ends_with('\\');
    let Some((at, _)) = text.match_indices(BRACE).find(is_place) else {
        return Ok(None);
    };
    let (before, place) = text.split_at(at);
    if let Some(after) = place.strip_prefix(USER) {
        return Ok(Some((before, Piece::User, after)));
    }
    let (claim, after) = place
        .strip_prefix(CLAIM)
        .and_then(|claim| claim.split_once('}'))
        .ok_or(TemplateError::Place)?;
    match claim.is_empty() {
        true => Err(TemplateError::Place),
        false => Ok(Some((before, Piece::Claim(claim.to_owned()), after))),
    }
}

/// The characters between the tokens of a name. Redis itself has no separators; these are the usual ones.
fn separators(syntax: NameSyntax) -> &'static [char] {
    match syntax {
        NameSyntax::Redis => &[':', '.', '/'],
        NameSyntax::Nats => &['.'],
    }
}

/// Returns the text that a claim puts into a name. Each byte other than ASCII letters, digits and `- _ @ | =` becomes
/// `%` and two hexadecimal digits, in capitals (RFC 3986, section 2.1): `ann.smith` becomes `ann%2Esmith`.
///
/// # Errors
/// The claim is empty, or has more than [`CLAIM_BYTES_MAX`] bytes.
pub(super) fn escaped(claim: &str) -> Result<String, ClaimFault> {
    if claim.is_empty() {
        return Err(ClaimFault::Empty);
    }
    if claim.len() > CLAIM_BYTES_MAX {
        return Err(ClaimFault::Long);
    }
    let mut text = String::with_capacity(claim.len());
    for byte in claim.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_@|=".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    Ok(text)
}

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

/// A client's own names, as texts. They are parsed for each request ([`RightsCheck`]) and not kept parsed: every client
/// may have own names, and parsed names take several times the memory of the texts.
#[derive(Debug, PartialEq, Eq)]
struct Own {
    /// The claims that the names of the role need, escaped; or why a claim cannot be used.
    claims: Vec<(Piece, Result<String, ClaimFault>)>,
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

    /// The rights of an identity. `templates` are the role's names with places.
    ///
    /// # Errors
    /// [`Refusal::Names`] if the names in the token are wrong. A claim that cannot fill a place is not an error: the
    /// names that need it are not granted.
    pub(super) fn new(
        syntax: NameSyntax,
        role: Arc<str>,
        identity: &Identity,
        templates: &[Template],
        limits: TokenNameLimits,
    ) -> Result<Self, Refusal> {
        let places = templates.iter().flat_map(|template| &template.pieces);
        let mut claims: Vec<(Piece, Result<String, ClaimFault>)> = Vec::new();
        for place in places {
            let claim = match place {
                Piece::Text(_) => continue,
                Piece::User => identity.user.as_deref().map(escaped),
                Piece::Claim(name) => identity.texts.get(name).map(|text| match text {
                    Some(text) => escaped(text),
                    None => Err(ClaimFault::NoText),
                }),
            };
            match claim {
                Some(claim) if claims.iter().all(|(known, _)| known != place) => {
                    claims.push((place.clone(), claim));
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
        let own = Own { claims, named };
        NamePatterns::new(syntax, &own.names(templates)).map_err(|_| Refusal::Names)?;
        Ok(Self {
            role,
            own: Some(Arc::new(own)),
        })
    }

    /// Returns the first place of `template` that the claims do not fill, as the table writes it, and why. Returns
    /// `None` if all places are filled.
    pub(super) fn fault(&self, template: &Template) -> Option<(String, ClaimFault)> {
        let claims = self.own.as_ref().map_or(&[][..], |own| &own.claims);
        let places = template.pieces.iter();
        let mut places = places.filter(|piece| !matches!(piece, Piece::Text(_)));
        places.find_map(|place| {
            let found = claims.iter().find(|(known, _)| known == place);
            let fault = match found {
                Some((_, Ok(_))) => return None,
                Some((_, Err(fault))) => *fault,
                None => ClaimFault::Missing,
            };
            Some((place.text(), fault))
        })
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
        let text_of = |claim: &(Piece, Result<String, ClaimFault>)| {
            let name = match &claim.0 {
                Piece::Text(text) | Piece::Claim(text) => text.capacity(),
                Piece::User => 0,
            };
            let text = claim.1.as_ref().map_or(0, String::capacity);
            allocated_bytes(name) + allocated_bytes(text)
        };
        let claims: usize = own.claims.iter().map(text_of).sum();
        let named = own.named.iter();
        let named: usize = named.map(|name| allocated_bytes(name.capacity())).sum();
        let lists = [
            size_of::<Own>() + 2 * size_of::<usize>(),
            own.claims.capacity() * size_of::<(Piece, Result<String, ClaimFault>)>(),
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
        let claim = |place: &Piece| {
            let found = self.claims.iter().find(|(known, _)| known == place);
            found.and_then(|(_, claim)| claim.clone().ok())
        };
        let made = templates.iter().filter_map(|one| one.fill(claim));
        made.chain(self.named.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests;
