//! URLs that a person types: what `tail` and `top` connect to.

use url::{Host, Url};

/// Reads a URL, and returns its host too: a name or address, without the brackets of an IPv6 address.
/// `instead` is the flag for a user and a password, which the URL may not have.
///
/// # Errors
/// What is wrong with it, without repeating it: it may hold a secret.
pub(super) fn parse(text: &str, instead: &str) -> Result<(Url, String), String> {
    let url = Url::parse(text).map_err(|error| format!("the URL cannot be read: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("the URL has a user or a password; use {instead}"));
    }
    let host = match url.host() {
        Some(Host::Domain(name)) if !name.is_empty() => name.to_owned(),
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        _ => return Err("the URL names no host".to_owned()),
    };
    Ok((url, host))
}
