//! The claims of a token, found by name or by path.

use std::borrow::Cow;
use std::collections::BTreeMap;

use sonic_rs::LazyValue;

use super::template::CLAIM_BYTES_MAX;
use weirgate_wire::auth::Refusal;
use weirgate_wire::base::allocated_bytes;
use weirgate_wire::json::{Json, ObjectWriter, quoted};

/// How deep objects within claims are shortened. The nesting of a token may be over a thousand levels, and each level reads
/// all deeper ones.
const LEVELS_MAX: usize = 4;

/// The members of a JSON object, unparsed.
pub(super) type Members<'a> = BTreeMap<Cow<'a, str>, LazyValue<'a>>;

/// Returns the members of an object. Refuses a repeated member, which could be read in two ways (RFC 7515 §4, RFC 7519
/// §4).
pub(super) fn members(json: &[u8]) -> Result<Members<'_>, Refusal> {
    let mut members = Members::new();
    let entries = Json::object_entries(json).map_err(|_| Refusal::NotAToken)?;
    for entry in entries {
        let (name, value) = entry.map_err(|_| Refusal::NotAToken)?;
        if members.insert(name, value).is_some() {
            return Err(Refusal::NotAToken);
        }
    }
    Ok(members)
}

/// Parses the value of a claim.
pub(super) fn read<'a, T: sonic_rs::Deserialize<'a>>(
    value: &'a LazyValue<'_>,
) -> Result<T, Refusal> {
    Json::of(value).parse().map_err(|_| Refusal::Claims)
}

/// The claims of a token, for the placeholders of a table of roles: which of them count depends on the role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenClaims {
    json: Vec<u8>,
}

impl TokenClaims {
    /// The claims of this JSON object.
    pub(super) fn new(json: Vec<u8>) -> Self {
        Self { json }
    }

    /// The members of the object; none without a token.
    pub(super) fn members(&self) -> Members<'_> {
        members(&self.json).unwrap_or_default()
    }

    /// Returns the claims with no more than placeholders can need, now or with a later table of roles: texts, of a long one
    /// the beginning, and 0 in place of every other value. Lists of groups are the largest part of many tokens.
    pub(super) fn shortened(&self) -> Self {
        let mut json = shortened(&self.members(), LEVELS_MAX).into_bytes();
        json.shrink_to_fit();
        Self { json }
    }

    /// Memory of the claims.
    pub(super) fn memory_bytes(&self) -> usize {
        allocated_bytes(self.json.capacity())
    }

    /// Returns the claim if it is a text; `path` as for [`find_claim`].
    pub(super) fn text(&self, path: &str) -> Option<String> {
        text_at(&self.members(), path)?.ok()
    }
}

/// Returns an object of claims, shortened. Objects are shortened down to so many `levels`; deeper ones stay as they are.
fn shortened(claims: &Members<'_>, levels: usize) -> String {
    let mut short = ObjectWriter::new();
    for (name, value) in claims {
        short.raw(name, &shortened_value(Json::of(value).raw(), levels));
    }
    short.finish()
}

/// Returns a value, shortened, as JSON: a text keeps [`CLAIM_BYTES_MAX`] characters and one more, and an object has its
/// members shortened down to `levels`. A list, a number, `true`, `false` or `null` becomes `0`, because placeholders
/// need only texts.
fn shortened_value(json: &str, levels: usize) -> Cow<'_, str> {
    match json.as_bytes().first() {
        Some(b'"') => match Json::text_of(json) {
            // With one character more, the claim is still too long.
            Some(text) => {
                let begin: String = text.chars().take(CLAIM_BYTES_MAX + 1).collect();
                quoted(&begin).into()
            }
            None => json.into(),
        },
        Some(b'{') if levels > 0 => match members(json.as_bytes()) {
            Ok(inner) => shortened(&inner, levels - 1).into(),
            // A member twice: no claim in it counts.
            Err(_) => json.into(),
        },
        Some(b'{') => json.into(),
        _ => "0".into(),
    }
}

/// Returns the text of a claim, `path` as for [`find_claim`]. `None`: there is no such claim.
///
/// # Errors
/// The claim is not a text, or it is in an object that has a member twice.
pub(super) fn text_at(claims: &Members<'_>, path: &str) -> Option<Result<String, Refusal>> {
    find_claim(claims, path, |value| read(value)).transpose()
}

/// Returns the claim with the name `path`, or else the claim at this path of names separated by dots. Finds names that
/// contain dots, too: as the whole name, or as a part of the path.
///
/// # Errors
/// An object on the path has a member twice, or `read` refuses the value.
pub(super) fn find_claim<T>(
    claims: &Members<'_>,
    path: &str,
    read: fn(&LazyValue<'_>) -> Result<T, Refusal>,
) -> Result<Option<T>, Refusal> {
    if let Some(value) = claims.get(path) {
        return read(value).map(Some);
    }
    for (dot, _) in path.match_indices('.') {
        let inner = claims.get(&path[..dot]).map(|value| Json::of(value).raw());
        if let Some(inner) = inner.filter(|json| json.starts_with('{')) {
            let found = find_claim(&members(inner.as_bytes())?, &path[dot + 1..], read)?;
            if found.is_some() {
                return Ok(found);
            }
        }
    }
    Ok(None)
}

/// Returns the roles in a claim: a text, or a list of texts.
///
/// # Errors
/// The claim is neither.
pub(super) fn roles(value: &LazyValue<'_>) -> Result<Vec<String>, Refusal> {
    match Json::of(value).raw().starts_with('[') {
        true => read(value),
        false => read(value).map(|role| vec![role]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::template::escape_claim;
    use super::*;

    fn claimed(claims: &str, path: &str) -> Result<Option<Vec<String>>, Refusal> {
        find_claim(&members(claims.as_bytes())?, path, roles)
    }

    fn some(roles: &[&str]) -> Result<Option<Vec<String>>, Refusal> {
        Ok(Some(roles.iter().map(|&role| role.to_owned()).collect()))
    }

    #[test]
    fn a_claim_is_found_by_its_name_before_its_path() {
        let nested = r#"{"realm_access": {"roles": ["a", "b"]}, "x": 1}"#;
        assert_eq!(claimed(nested, "realm_access.roles"), some(&["a", "b"]));
        let both = r#"{"a.b": "name", "a": {"b": "path"}}"#;
        assert_eq!(claimed(both, "a.b"), some(&["name"]));
        let url = r#"{"https://example.com/role": ["r"], "https://example": {"com/role": "no"}}"#;
        assert_eq!(claimed(url, "https://example.com/role"), some(&["r"]));
        let group = r#"{"cognito:groups": ["g"]}"#;
        assert_eq!(claimed(group, "cognito:groups"), some(&["g"]));
    }

    /// What a placeholder finds in the claims is the same, also a fault, and lists take no room.
    #[test]
    fn shortened_claims_fill_placeholders_in_the_same_way() {
        let deep = format!("{}{}{}", r#"{"a":"#.repeat(1_300), 1, "}".repeat(1_300));
        let long = |text: &str, times: usize| format!(r#"{{"a": "{}"}}"#, text.repeat(times));
        for claims in [
            r#"{"a": "x", "b": {"c": "y", "d.e": "z"}, "b.c": "w"}"#,
            r#"{"a": "", "b": {"c": ["y"], "d": {"e": 7}}}"#,
            r#"{"a": null, "b": {"c": "y", "c": "z", "d": {"e": "f"}}}"#,
            r#"{"a": "\u00e9\n\"", "b": [{"c": "y"}], "\"b\".c": true}"#,
            r#"{"a": {"a": {"a": {"a": {"a": {"a": ["x"], "c": "y"}}}}}, "b": {}}"#,
            &long("x", CLAIM_BYTES_MAX),
            &long("x", CLAIM_BYTES_MAX + 1),
            &long("é", CLAIM_BYTES_MAX),
            &deep,
            "{}",
        ] {
            let whole = TokenClaims::new(claims.as_bytes().to_vec());
            let short = whole.shortened();
            assert!(short.json.len() <= claims.len() + 8, "{claims}");
            for path in [
                "a",
                "b",
                "b.c",
                "b.d",
                "b.d.e",
                "\"b\".c",
                "a.a.a.a.a.c",
                "c",
            ] {
                let filled = |claims: &TokenClaims| {
                    let text = text_at(&claims.members(), path)?;
                    Some(text.map(|text| escape_claim(&text)).map_err(drop))
                };
                assert_eq!(filled(&short), filled(&whole), "{path} of {claims}");
            }
        }
        let groups = format!(
            r#"{{"a": "x", "groups": [{}7]}}"#,
            "\"0123456789\",".repeat(500)
        );
        let short = TokenClaims::new(groups.into_bytes()).shortened();
        assert_eq!(short.json, br#"{"a":"x","groups":0}"#);
    }

    /// Keycloak has an object for each client, named after it, and such a name may be a host name.
    #[test]
    fn a_name_with_dots_may_be_a_part_of_the_path() {
        let client =
            r#"{"resource_access": {"ws.example.com": {"roles": ["r"]}, "ws": {"x": {}}}}"#;
        let path = "resource_access.ws.example.com.roles";
        assert_eq!(claimed(client, path), some(&["r"]));
        let first = r#"{"a.b": {"c": "r"}, "a": {"b": {}}}"#;
        assert_eq!(claimed(first, "a.b.c"), some(&["r"]));
    }

    #[test]
    fn what_is_not_there_is_no_claim_and_another_type_is_refused() {
        for claims in [
            "{}",
            r#"{"a": "text"}"#,
            r#"{"a": {}}"#,
            r#"{"a": [{"b": "r"}]}"#,
            r#"{"a": null}"#,
            r#"{"a": {"b": {}}}"#,
        ] {
            assert_eq!(claimed(claims, "a.b.c"), Ok(None), "{claims}");
        }
        assert_eq!(claimed("{}", ""), Ok(None));
        assert_eq!(claimed(r#"{"": {"": "r"}}"#, "."), some(&["r"]));
        assert_eq!(claimed(r#"{"a": []}"#, "a"), some(&[]));
        for value in [
            "null",
            "1",
            "{}",
            "[1]",
            "[null]",
            r#"["a", ["b"]]"#,
            "true",
        ] {
            let claims = format!(r#"{{"a": {{"b": {value}}}}}"#);
            assert_eq!(claimed(&claims, "a.b"), Err(Refusal::Claims), "{value}");
        }
        let twice = r#"{"a": {"b": "r", "b": "s"}}"#;
        assert_eq!(claimed(twice, "a.b"), Err(Refusal::NotAToken));
    }
}
