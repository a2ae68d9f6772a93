//! Claims by name or by path, and the roles in a claim.

use sonic_rs::LazyValue;

use super::Refusal;
use super::verify::{Members, members, read};

/// Returns the claim of this name; if there is none, the claim at this path, whose names are separated by
/// dots. A name with dots of its own is found too: as the whole name, or as a part of the path.
///
/// # Errors
/// An object on the path has a member twice, or `read` refuses the claim.
pub(super) fn find<T>(
    claims: &Members<'_>,
    path: &str,
    read: fn(&LazyValue<'_>) -> Result<T, Refusal>,
) -> Result<Option<T>, Refusal> {
    if let Some(value) = claims.get(path) {
        return read(value).map(Some);
    }
    for (dot, _) in path.match_indices('.') {
        let inner = claims.get(&path[..dot]).map(LazyValue::as_raw_str);
        if let Some(inner) = inner.filter(|json| json.trim_start().starts_with('{')) {
            let found = find(&members(inner.as_bytes())?, &path[dot + 1..], read)?;
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
    match value.as_raw_str().trim_start().starts_with('[') {
        true => read(value),
        false => read(value).map(|role| vec![role]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(claims: &str, path: &str) -> Result<Option<Vec<String>>, Refusal> {
        find(&members(claims.as_bytes())?, path, roles)
    }

    fn some(roles: &[&str]) -> Result<Option<Vec<String>>, Refusal> {
        Ok(Some(roles.iter().map(|&role| role.to_owned()).collect()))
    }

    #[test]
    fn a_claim_is_found_by_its_name_before_its_path() {
        let nested = r#"{"realm_access": {"roles": ["a", "b"]}, "x": 1}"#;
        assert_eq!(found(nested, "realm_access.roles"), some(&["a", "b"]));
        let both = r#"{"a.b": "name", "a": {"b": "path"}}"#;
        assert_eq!(found(both, "a.b"), some(&["name"]));
        let url = r#"{"https://example.com/role": ["r"], "https://example": {"com/role": "no"}}"#;
        assert_eq!(found(url, "https://example.com/role"), some(&["r"]));
        let group = r#"{"cognito:groups": ["g"]}"#;
        assert_eq!(found(group, "cognito:groups"), some(&["g"]));
    }

    /// Keycloak names an object after each client, and such a name may be a host name.
    #[test]
    fn a_name_with_dots_may_be_a_part_of_the_path() {
        let client =
            r#"{"resource_access": {"ws.example.com": {"roles": ["r"]}, "ws": {"x": {}}}}"#;
        let path = "resource_access.ws.example.com.roles";
        assert_eq!(found(client, path), some(&["r"]));
        let first = r#"{"a.b": {"c": "r"}, "a": {"b": {}}}"#;
        assert_eq!(found(first, "a.b.c"), some(&["r"]));
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
            assert_eq!(found(claims, "a.b.c"), Ok(None), "{claims}");
        }
        assert_eq!(found("{}", ""), Ok(None));
        assert_eq!(found(r#"{"": {"": "r"}}"#, "."), some(&["r"]));
        assert_eq!(found(r#"{"a": []}"#, "a"), some(&[]));
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
            assert_eq!(found(&claims, "a.b"), Err(Refusal::Claims), "{value}");
        }
        let twice = r#"{"a": {"b": "r", "b": "s"}}"#;
        assert_eq!(found(twice, "a.b"), Err(Refusal::NotAToken));
    }
}
