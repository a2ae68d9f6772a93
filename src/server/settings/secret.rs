//! Values that are never shown, and checks for texts that may contain such a value.

use std::fmt;
use std::sync::Arc;

use weirgate_wire::base::Secret;

/// A key, a password or a token. It is shown as `***`, or as nothing if it is empty. All clones have the new text once
/// its file has changed.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Secret);

impl SecretText {
    /// Keeps the text.
    pub fn new(text: &str) -> Self {
        Self(Secret::new(text))
    }

    /// Returns the present secret. It must not get into a log, an error or a response.
    pub fn expose(&self) -> Arc<str> {
        self.0.expose()
    }

    /// Returns the secret itself, for those who read it at each use.
    pub fn secret(&self) -> &Secret {
        &self.0
    }
}

impl fmt::Display for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.expose().is_empty() { "" } else { "***" })
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(***)")
    }
}

/// One URL, or several separated by commas. [`fmt::Display`] and [`fmt::Debug`] hide the password (or a token without a
/// user name) and the query; only [`SecretUrl::expose`] returns them. All clones have the new text once its file has
/// changed.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(Secret);

impl SecretUrl {
    /// Keeps the text without the space around it.
    pub fn new(text: &str) -> Self {
        Self(Secret::new(text.trim()))
    }

    /// Returns the whole present text, to connect with. It must not get into a log, an error or a response.
    pub fn expose(&self) -> Arc<str> {
        self.0.expose()
    }

    /// Returns the secret itself, for those who read it at each use.
    pub fn secret(&self) -> &Secret {
        &self.0
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut urls: Vec<String> = Vec::new();
        // A password may contain a comma, so only a scheme begins another URL.
        for part in self.expose().split(',') {
            match urls.last_mut() {
                Some(url) if scheme(part).is_none() => *url = format!("{url},{part}"),
                _ => urls.push(part.to_owned()),
            }
        }
        let urls: Vec<String> = urls.iter().map(|url| masked(url.trim())).collect();
        f.write_str(&urls.join(","))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretUrl({self})")
    }
}

/// The scheme of a URL (RFC 3986 §3.1); `None` if the text has none.
pub(super) fn scheme(url: &str) -> Option<&str> {
    let (scheme, _) = url.trim_start().split_once("://")?;
    let is_good = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    (scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(is_good))
        .then_some(scheme)
}

/// Hides everything before the last `@` except a user name that has a password; hides query and fragment too. The last
/// `@` of the whole text counts, because a password that is not percent-encoded may contain `@`, `/` and `?`.
fn masked(url: &str) -> String {
    let (scheme, rest) = match (scheme(url), url.split_once("://")) {
        (Some(scheme), Some((_, rest))) => (format!("{scheme}://"), rest),
        // Text before `://` that is not a scheme may be a password.
        (None, Some(_)) => return "***".to_owned(),
        _ => (String::new(), url),
    };
    let (user_info, host) = match rest.rsplit_once('@') {
        Some((user_info, host)) => (Some(user_info), host),
        None => (None, rest),
    };
    let host = match host.find(['?', '#']) {
        Some(at) => format!("{}***", &host[..=at]),
        None => host.to_owned(),
    };
    match user_info.map(|info| info.split_once(':')) {
        None => format!("{scheme}{host}"),
        Some(Some((user, password))) if !password.is_empty() => {
            format!("{scheme}{user}:***@{host}")
        }
        Some(_) => format!("{scheme}***@{host}"),
    }
}

/// Whether a text looks like a URL with a user and a password, though its setting takes any text.
pub(super) fn has_login(text: &str) -> bool {
    text.rsplit_once('@')
        .is_some_and(|(login, _)| login.contains(':'))
}

/// Whether a text is the content of a key file where its path belongs: several lines, PEM, JSON, or the seed of an nkey
/// (56 to 58 letters of base32, the first an S).
pub(super) fn is_content(text: &str) -> bool {
    let is_seed = |word: &str| {
        let fits = |byte: u8| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte);
        (56..=58).contains(&word.len()) && word.starts_with('S') && word.bytes().all(fits)
    };
    text.contains(char::is_control)
        || text.starts_with("-----")
        || text.starts_with('{')
        || is_seed(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_part_is_hidden() {
        for (typed, shown) in [
            ("nats://nats:4222", "nats://nats:4222"),
            ("nats:4222", "nats:4222"),
            ("nats://ann:s3cret@nats:4222", "nats://ann:***@nats:4222"),
            ("nats://:s3cret@nats", "nats://:***@nats"),
            ("nats://s3cret@nats", "nats://***@nats"),
            ("ann:s3cret@nats:4222", "ann:***@nats:4222"),
            ("nats://ann:s3c@s3cret@nats", "nats://ann:***@nats"),
            ("nats://ann:s3c/ret?s3cret@nats", "nats://ann:***@nats"),
            ("nats://nats/?auth=s3cret", "nats://nats/?***"),
            ("nats://nats/#s3cret", "nats://nats/#***"),
            ("nats://s3cret:@nats", "nats://***@nats"),
            ("ann:s3cret://s3cret@nats", "***"),
            ("ann:s3cret://nats", "***"),
            ("s3cret_1://s3cret@nats", "***"),
            ("nats://a:4222,b:4222", "nats://a:4222,b:4222"),
            (
                "nats://a:s3cret@h, tls://s3cret@i",
                "nats://a:***@h,tls://***@i",
            ),
            // A password with a comma, which could also be a list of URLs.
            ("redis://:s3cret,s3cret@h/0", "redis://:***@h/0"),
            ("redis://a:s3c,redis//s3cret@h,i", "redis://a:***@h,i"),
            ("nats://ann:1234,s3cret@h", "nats://ann:***@h"),
            ("nats://s3c@s3cret,s3cret@h", "nats://***@h"),
        ] {
            let url = SecretUrl::new(typed);
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("s3c"), "{url:?}");
            assert_eq!(&*url.expose(), typed);
        }
    }
}
