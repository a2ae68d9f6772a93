//! `--endpoint`: a further path for WebSocket clients, with a selection of the payload's keys.

use std::fmt;

use crate::gateways::LevelsGateway;
use crate::settings::{Form, Refused};

/// The syntax of one endpoint.
const ONE: &str = "PATH=KEY[,KEY…]";

/// The form of `--endpoint`.
pub(super) static FORM: Form = Form {
    placeholder: ONE,
    allowed: ONE,
    repeats: true,
    is_url: false,
    read: |text| parse(text).map(|endpoints| shown(&endpoints)),
};

/// Paths of plain HTTP. A path with `/` at the end includes everything below, except for `/` alone.
const HTTP_PATHS: [&str; 10] = [
    "/health",
    "/ready",
    "/stats",
    "/metrics",
    "/weirgate.js",
    "/weirgate.d.ts",
    "/event-stream.js",
    "/event-stream.d.ts",
    "/page/",
    "/",
];

/// Whether plain HTTP uses the path.
pub(super) fn is_http_path(path: &str) -> bool {
    let mut taken = HTTP_PATHS.iter();
    taken.any(|taken| {
        path == *taken || (*taken != "/" && taken.ends_with('/') && path.starts_with(taken))
    })
}

/// A path whose clients get some of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EndpointSettings {
    /// The path as in requests, without percent-decoding.
    pub(super) path: String,
    /// The keys: at least one, without repetition.
    pub(super) keys: Vec<String>,
}

/// Reads endpoints separated by space, and checks their paths against each other.
///
/// # Errors
/// The first endpoint that is not allowed.
pub(super) fn parse(text: &str) -> Result<Vec<EndpointSettings>, Refused> {
    let mut endpoints: Vec<EndpointSettings> = Vec::new();
    for item in text.split_whitespace() {
        let endpoint = parse_one(item).and_then(|endpoint| {
            match endpoints.iter().any(|other| other.path == endpoint.path) {
                true => Err("each path once".into()),
                false => Ok(endpoint),
            }
        });
        endpoints.push(endpoint.map_err(|allowed| Refused::new(item, allowed))?);
    }
    Ok(endpoints)
}

fn parse_one(item: &str) -> Result<EndpointSettings, String> {
    let Some((path, keys)) = item.split_once('=') else {
        return Err(format!("{ONE}, several with space between them"));
    };
    // The characters of a path in a request line (RFC 3986, section 3.3), without `=`.
    let of_path = |c: char| c.is_ascii_alphanumeric() || "/-._~!$&'()*+,;:@%".contains(c);
    if !path.starts_with('/') || !path.chars().all(of_path) {
        return Err("a path that begins with /, without query".into());
    }
    if path == LevelsGateway::PATH || is_http_path(path) {
        let http = HTTP_PATHS.join(", ");
        let stream = LevelsGateway::PATH;
        return Err(format!("a path other than {stream}, {http}"));
    }
    let keys: Vec<_> = keys.split(',').map(str::to_owned).collect();
    let repeated = (1..keys.len()).any(|i| keys[..i].contains(&keys[i]));
    if repeated || keys.iter().any(String::is_empty) {
        return Err("keys of the payload after the =, each once, with commas between them".into());
    }
    Ok(EndpointSettings {
        path: path.to_owned(),
        keys,
    })
}

impl EndpointSettings {
    /// Returns this endpoint as a refusal if a key is not among `known`.
    pub(super) fn unknown_key(&self, known: &[&str]) -> Option<Refused> {
        let unknown = |key: &String| !known.contains(&key.as_str());
        let allowed = || format!("keys among {}", known.join(", "));
        self.keys
            .iter()
            .any(unknown)
            .then(|| Refused::new(&self.to_string(), allowed()))
    }
}

impl fmt::Display for EndpointSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.path, self.keys.join(","))
    }
}

/// The endpoints separated by space, as [`parse`] reads them.
pub(super) fn shown(endpoints: &[EndpointSettings]) -> String {
    let shown: Vec<_> = endpoints.iter().map(EndpointSettings::to_string).collect();
    shown.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_they_are_shown() {
        for text in [
            "",
            "/ws/flow=flow",
            "/ws/levels=levels,viewport /a/%20,b=k=l",
        ] {
            assert_eq!((FORM.read)(text).as_deref(), Ok(text));
        }
    }

    #[test]
    fn the_first_wrong_one_is_told_with_what_would_be_allowed() {
        for (text, item, allowed) in [
            ("/a=flow /b", "/b", "PATH=KEY["),
            ("a=flow", "a=flow", "begins with /"),
            ("/a?b=flow", "/a?b=flow", "without query"),
            ("/a#b=flow", "/a#b=flow", "without query"),
            ("/é=flow", "/é=flow", "without query"),
            (
                "/ws/stream=flow",
                "/ws/stream=flow",
                "other than /ws/stream",
            ),
            ("/=flow", "/=flow", "other than"),
            ("/health=flow", "/health=flow", "other than"),
            ("/metrics=flow", "/metrics=flow", "other than"),
            ("/a=flow /a=levels", "/a=levels", "each path once"),
            ("/a=", "/a=", "keys of the payload"),
            ("/a=flow,", "/a=flow,", "keys of the payload"),
            ("/a=flow,flow", "/a=flow,flow", "each once"),
        ] {
            let refused = parse(text).expect_err(text);
            assert_eq!(refused.item, item);
            assert!(refused.allowed.contains(allowed), "{text}: {refused:?}");
        }
    }

    #[test]
    fn keys_have_to_be_known() {
        let endpoints = parse("/a=flow,news").expect("good");
        assert_eq!(endpoints[0].unknown_key(&["news", "flow"]), None);
        let refused = endpoints[0].unknown_key(&["flow"]).expect("refused");
        assert_eq!(refused.item, "/a=flow,news");
        assert!(refused.allowed.contains("keys among flow"), "{refused:?}");
    }
}
