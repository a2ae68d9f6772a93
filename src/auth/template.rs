//! Names of the table with placeholders for the claims of a user: `orders.{sub}`, `desks.{claim:desk}.>`.
//!
//! Such an entry must never give two users the same name. So a placeholder is a whole token of the name, and the first
//! token is a fixed word. Of a claim, letters, digits and `- _ @ | =` are kept and every other byte is escaped as in a URL
//! ([`escape_claim`]), so no claim can add a wildcard or a separator, and different claims give different texts. On Redis no
//! wildcard may come before a placeholder, because `*` matches separators too.

use std::fmt::Write as _;

use weirgate_wire::auth::NameSyntax;

/// The longest claim that may fill a placeholder, in bytes before it is escaped.
pub(crate) const CLAIM_BYTES_MAX: usize = 128;

/// The placeholder for the user.
pub(super) const USER: &str = "{sub}";
/// The beginning of a placeholder for another claim; the name of the claim and `}` follow.
pub(super) const CLAIM: &str = "{claim:";
/// The first character of every placeholder. In names on Redis, `\{` means the brace itself.
const BRACE: char = '{';
/// The text that fills every placeholder when a name of the table is checked.
const SAMPLE: &str = "x";

/// Why a name of the table cannot have its placeholders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A brace that begins no placeholder: hardly any real name has one, and a misspelled placeholder would silently
    /// grant nothing.
    #[error("a place for a claim is {{sub}} or {{claim:NAME}}")]
    NoPlaceholder,
    /// A placeholder is only a part of its token.
    #[error("a place for a claim has to be a whole token between separators")]
    PartOfToken,
    /// The first token is a placeholder, a wildcard or empty.
    #[error("the name must begin with a fixed word: a place for a claim may not be its first part")]
    NoFixedStart,
    /// A wildcard of Redis before a placeholder.
    #[error("* and ? match separators too, and are allowed only after the last place for a claim")]
    Wildcard,
    /// A character class or an escaped character.
    #[error("[ and \\ are not allowed in a name with a place for a claim")]
    Class,
}

/// Why a claim cannot fill a placeholder. Names that need the claim are then not granted.
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

/// A piece of a name with placeholders: text, or a placeholder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TemplatePiece {
    Text(String),
    User,
    Claim(String),
}

impl TemplatePiece {
    /// The placeholder as the table writes it.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::User => USER.to_owned(),
            Self::Claim(name) => format!("{CLAIM}{name}}}"),
        }
    }
}

/// A name or pattern of the table that has placeholders for claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) pieces: Vec<TemplatePiece>,
}

impl Template {
    /// Reads a name of the table. Returns `None` for a name without placeholders.
    ///
    /// # Errors
    /// A placeholder is malformed, or is where it could give a user the names of other users.
    pub(super) fn parse(syntax: NameSyntax, name: &str) -> Result<Option<Self>, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = name;
        while let Some(found) = next_placeholder(syntax, rest)? {
            let FoundPlaceholder {
                before,
                placeholder,
                after,
            } = found;
            let is_separator = |c: char| separators(syntax).contains(&c);
            let first = before.split(is_separator).next().unwrap_or_default();
            if pieces.is_empty() && (first.is_empty() || first == "*") {
                return Err(TemplateError::NoFixedStart);
            }
            if syntax == NameSyntax::Redis && syntax.is_pattern(before) {
                return Err(TemplateError::Wildcard);
            }
            let is_whole = before.ends_with(is_separator)
                && (after.is_empty() || after.starts_with(is_separator));
            if !is_whole {
                return Err(TemplateError::PartOfToken);
            }
            pieces.extend([TemplatePiece::Text(before.to_owned()), placeholder]);
            rest = after;
        }
        if pieces.is_empty() {
            return Ok(None);
        }
        if syntax == NameSyntax::Redis && name.contains(['[', '\\']) {
            return Err(TemplateError::Class);
        }
        pieces.push(TemplatePiece::Text(rest.to_owned()));
        Ok(Some(Self { pieces }))
    }

    /// Returns the name with the `value` of each placeholder; `None` if a placeholder has no value.
    pub(super) fn fill(&self, value: impl Fn(&TemplatePiece) -> Option<String>) -> Option<String> {
        let text = |piece: &TemplatePiece| match piece {
            TemplatePiece::Text(text) => Some(text.clone()),
            placeholder => value(placeholder),
        };
        self.pieces.iter().map(text).collect()
    }

    /// Returns the name with the same text in each placeholder.
    fn filled_with(&self, text: &str) -> String {
        // Each placeholder has a value, so there is always a name.
        let filled = self.fill(|_| Some(text.to_owned()));
        filled.unwrap_or_default()
    }

    /// The name as the table has it.
    pub(super) fn text(&self) -> String {
        self.pieces.iter().map(TemplatePiece::text).collect()
    }

    /// Returns the name with a harmless claim in each placeholder. If this is a valid name, the name is valid for every
    /// claim.
    pub(super) fn sample(&self) -> String {
        self.filled_with(SAMPLE)
    }

    /// The pattern of the names of all users.
    pub(super) fn pattern(&self) -> String {
        self.filled_with("*")
    }
}

/// A placeholder in a text.
struct FoundPlaceholder<'a> {
    before: &'a str,
    placeholder: TemplatePiece,
    after: &'a str,
}

/// Returns the first placeholder, if any.
fn next_placeholder(
    syntax: NameSyntax,
    text: &str,
) -> Result<Option<FoundPlaceholder<'_>>, TemplateError> {
    let is_placeholder =
        |&(at, _): &(usize, &str)| syntax != NameSyntax::Redis || !text[..at].ends_with('\\');
    let Some((at, _)) = text.match_indices(BRACE).find(is_placeholder) else {
        return Ok(None);
    };
    let (before, placeholder) = text.split_at(at);
    if let Some(after) = placeholder.strip_prefix(USER) {
        return Ok(Some(FoundPlaceholder {
            before,
            placeholder: TemplatePiece::User,
            after,
        }));
    }
    let (claim, after) = placeholder
        .strip_prefix(CLAIM)
        .and_then(|claim| claim.split_once('}'))
        .ok_or(TemplateError::NoPlaceholder)?;
    match claim.is_empty() {
        true => Err(TemplateError::NoPlaceholder),
        false => Ok(Some(FoundPlaceholder {
            before,
            placeholder: TemplatePiece::Claim(claim.to_owned()),
            after,
        })),
    }
}

/// The characters between the tokens of a name. Redis itself has no separators; these are the usual ones.
fn separators(syntax: NameSyntax) -> &'static [char] {
    match syntax {
        NameSyntax::Redis => &[':', '.', '/'],
        NameSyntax::Nats => &['.'],
    }
}

/// Escapes a claim for a name. Each byte other than ASCII letters, digits and `- _ @ | =` becomes `%` and two
/// hexadecimal digits, in capitals (RFC 3986, section 2.1): `ann.smith` becomes `ann%2Esmith`.
///
/// # Errors
/// The claim is empty, or has more than [`CLAIM_BYTES_MAX`] bytes.
pub(super) fn escape_claim(claim: &str) -> Result<String, ClaimFault> {
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
            // Writing to a `String` cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    Ok(text)
}
