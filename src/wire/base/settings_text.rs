//! Reads what an operator wrote: text files, and the URLs and hosts of settings. Pure.

use std::io;

use url::Url;

/// The bytes of a text file without its byte order mark (BOM), which editors put there.
///
/// # Errors
/// The mark is of UTF-16.
pub fn without_bom(mut bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    match bytes[..] {
        [0xef, 0xbb, 0xbf, ..] => Ok(bytes.split_off(3)),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the text is UTF-16; save it as UTF-8",
        )),
        _ => Ok(bytes),
    }
}

/// Parses the URL of a unix socket: `unix://[USER[:PASSWORD]@]/PATH[?QUERY]`, also with `redis+unix`. A URL with a
/// user needs a host (WHATWG URL, host-missing), so the result has a placeholder as its host. Returns `None` for any other
/// text.
#[cfg_attr(
    not(test),
    allow(
        clippy::disallowed_methods,
        reason = "the text of a setting, not of a message"
    )
)]
pub fn unix_socket_url(text: &str) -> Option<Url> {
    let (scheme, rest) = text.trim().split_once("://")?;
    let is_unix = ["unix", "redis+unix"].contains(&&*scheme.to_ascii_lowercase());
    let (user, path) = rest.split_at(rest.find('/')?);
    // Between `://` and the path there is nothing, or a user: no host.
    let is_alone = user.is_empty() || user.ends_with('@');
    let url = Url::parse(&format!("unix://{user}socket{path}")).ok()?;
    (is_unix && is_alone && url.path().len() > 1).then_some(url)
}

/// Whether a text can be a host's name or address: without quotes, and without a variable that a shell or a
/// template has left unreplaced, such as `$(HOST)`.
pub fn is_host(text: &str) -> bool {
    let fits = |c: char| c.is_alphanumeric() || "-_.:[]%".contains(c);
    !text.is_empty() && text.chars().all(fits)
}
