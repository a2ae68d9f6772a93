//! Which paths the proxy passes on, and the path that the service gets. Pure.
//!
//! A path is passed on as the client sent it, and services read paths in different ways: a service may decode once more
//! than others, read `\` as `/`, merge slashes, take the text after two slashes for a host, or cut at `;`, or at a `?`
//! or `#` that it has decoded. If any of these readings leaves the proxied paths, the path is refused.

use percent_encoding::percent_decode;

/// Paths passed on to a service.
#[derive(Clone, Copy, Debug)]
pub struct ProxiedPath {
    /// The path of the route.
    pub path: &'static str,
    /// The prefix that the gateway removes for the service.
    pub cut: &'static str,
}

/// How many times a path is decoded. A path that is still encoded then is refused: no honest client encodes that often.
const DECODINGS_MAX: usize = 4;

/// Why a path is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathRefusal {
    /// Services may read the path in different ways: it has dot segments or control characters, or was encoded too many
    /// times.
    Ambiguous,
    /// A reserved path.
    Inner,
}

impl ProxiedPath {
    /// The first segments of the paths that the gateway and its services reserve for calls among themselves: clients cannot
    /// reach these paths (http.md, "The proxy of the events gateway").
    pub const INNER: [&str; 2] = ["gateway", "internal"];

    /// Returns the path that the service gets for the client's `path`, not decoded.
    ///
    /// # Errors
    /// In some reading the path leaves the proxied paths, or begins with one of [`Self::INNER`].
    pub fn target(self, path: &str) -> Result<&str, PathRefusal> {
        let target = path.strip_prefix(self.cut).unwrap_or(path);
        let mut reading = target.as_bytes().to_vec();
        let mut is_inner = false;
        for _ in 0..DECODINGS_MAX {
            // Dot segments are checked before reserved paths: `/../gateway/` is a trick.
            if segments(&reading).any(|segment| matches!(segment, b"." | b".."))
                || reading.iter().any(u8::is_ascii_control)
            {
                return Err(PathRefusal::Ambiguous);
            }
            is_inner |= may_begin(&reading).any(|first| {
                Self::INNER
                    .iter()
                    .any(|inner| first.eq_ignore_ascii_case(inner.as_bytes()))
            });
            let decoded: Vec<u8> = percent_decode(&reading).collect();
            if decoded == reading {
                return match is_inner {
                    true => Err(PathRefusal::Inner),
                    false => Ok(target),
                };
            }
            reading = decoded;
        }
        Err(PathRefusal::Ambiguous)
    }
}

/// Returns the segments that a service may take for the first of a path. After two slashes, this includes the segment
/// after a host: `//x/gateway` names the host `x` (RFC 3986 §4.2) for `new URL` in JavaScript, `urlsplit` in Python and
/// `parse_url` in PHP. Some of these end the host at `\`, others only at `/`, so every segment before the first `/`
/// counts.
fn may_begin(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().take_while(|byte| b"/\\".contains(byte)).count();
    let host_len = path[slashes..].iter().position(|&byte| byte == b'/');
    let host_end = match slashes {
        0 | 1 => 0,
        _ => host_len.map_or(path.len(), |len| slashes + len),
    };
    let (host, rest) = path.split_at(host_end);
    let named = |segment: &&[u8]| !segment.is_empty();
    let first = segments(rest).filter(named).take(1);
    segments(host).filter(named).chain(first)
}

/// Splits at `/` and `\`. Trims each segment, and cuts it at `;` (parameters) or at a decoded `?` or `#`: a reader of
/// the decoded path takes the rest for a query or a fragment.
fn segments(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| matches!(byte, b'/' | b'\\'))
        .map(|segment| {
            let end = segment.iter().position(|byte| b";?#".contains(byte));
            let segment = &segment[..end.unwrap_or(segment.len())];
            // Services trim decoded text, and many count U+00A0 as a space.
            std::str::from_utf8(segment)
                .map_or_else(|_| segment.trim_ascii(), |text| text.trim().as_bytes())
        })
}

#[cfg(test)]
mod tests {
    use super::super::ProxyRefusal;
    use super::*;
    use crate::gateways::events::{EventsService, Services};
    use proptest::prelude::*;

    fn target(path: &str) -> Result<(EventsService, &str), PathRefusal> {
        let table = Services::default();
        let all = table.iter().flat_map(|(service, row)| {
            let paths = row.proxied.iter();
            paths.map(move |&(path, cut)| (service, ProxiedPath { path, cut }))
        });
        let found = { all }.find(|(_, proxied)| {
            let prefix = proxied.path.strip_suffix("{path}").unwrap();
            path.starts_with(prefix)
        });
        let (service, proxied) = found.unwrap_or_else(|| panic!("{path} is not proxied"));
        let target = proxied.target(path);
        target.map(|target| (service, target))
    }

    #[test]
    fn the_table_of_the_contract() {
        let (measurement, simulation) = (EventsService::MEASUREMENT, EventsService::SIMULATION);
        for (path, service, there) in [
            (
                "/v1/measurement/jobs/7",
                measurement,
                "/v1/measurement/jobs/7",
            ),
            ("/v1/measurement/", measurement, "/v1/measurement/"),
            ("/v1/jobs/9/run", measurement, "/v1/jobs/9/run"),
            ("/v1/simulation/a/b", simulation, "/a/b"),
            ("/v1/simulation/", simulation, "/"),
            ("/v1/simulation//a//", simulation, "//a//"),
            (
                "/v1/simulation/v1/simulation/x",
                simulation,
                "/v1/simulation/x",
            ),
        ] {
            assert_eq!(target(path), Ok((service, there)), "{path}");
        }
    }

    #[test]
    fn odd_paths_are_passed_on_as_they_were_sent() {
        for path in [
            "/a%20b",
            "/100%25",
            "/%zz",
            "/%",
            "/%4",
            "/a%2Fb",
            "/a/.../b",
            "/.well-known/x",
            "/a..b/..c/d..",
            "/é",
            "/%ff%fe",
            "/a;v=1/b",
            "/a/gateway/b",
            "/a/internal",
            "/gateways/",
            "/xgateway",
            "/a%2525b",
            "/:@!$&'()*+,=",
            "/internal.json",
        ] {
            for line in ["/v1/simulation", "/v1/measurement", "/v1/jobs"] {
                let whole = format!("{line}{path}");
                let there = if line == "/v1/simulation" {
                    path
                } else {
                    whole.as_str()
                };
                assert_eq!(target(&whole).map(|(_, there)| there), Ok(there), "{whole}");
            }
        }
    }

    #[test]
    fn dot_segments_in_any_reading_are_tricks() {
        for path in [
            "/..",
            "/.",
            "/../gateway/handle",
            "/%2e%2e/gateway/handle",
            "/.%2e/x",
            "/%2E./x",
            "/a/%2e%2e/b",
            "/a%2f..%2fb",
            "/a%2f%2e%2e%2fb",
            "/a/..%2fb",
            "/a\\..\\b",
            "/a%5c..%5cb",
            "/%252e%252e/gateway",
            "/a%252f..",
            "/a/%25252e./b",
            "/..;/gateway/handle",
            "/..;a=b/x",
            "/.;/x",
            "/..%3b/x",
            "/..%20/x",
            "/%c2%a0../x",
            "/..%e3%80%80/x",
            "/./a",
            "/a/.",
            "/a/..",
        ] {
            for line in ["/v1/simulation", "/v1/measurement", "/v1/jobs"] {
                assert_eq!(
                    target(&format!("{line}{path}")),
                    Err(PathRefusal::Ambiguous),
                    "{line}{path}"
                );
            }
        }
        assert_eq!(ProxyRefusal::from(PathRefusal::Ambiguous).status, 400);
    }

    #[test]
    fn control_characters_in_any_reading_are_tricks() {
        for path in [
            "/%00",
            "/a%00b",
            "/a%0d%0aX: y",
            "/%0A",
            "/%0d",
            "/%2500",
            "/%250d%250a",
            "/%7f",
            "/%09",
        ] {
            assert_eq!(
                target(&format!("/v1/jobs{path}")),
                Err(PathRefusal::Ambiguous),
                "{path}"
            );
        }
    }

    #[test]
    fn inner_paths_of_a_service_are_not_there() {
        for path in [
            "/gateway/handle",
            "/gateway",
            "/gateway/",
            "//gateway/handle",
            "/%67ateway/handle",
            "/GATEWAY/handle",
            "/gateway%2fhandle",
            "/%2fgateway/handle",
            "/\\gateway/x",
            "/%5cgateway/x",
            "/gateway;a=b/handle",
            "/gateway%3b/handle",
            "/;/gateway/x",
            "/%2567ateway/handle",
            "/internal/broadcast",
            "/Internal",
            "/%69nternal/x",
            "/gateway%20/handle",
            "/%20/gateway/x",
            "/%c2%a0gateway/x",
            "/gateway%e2%80%a8/x",
            "/gateway%252fhandle",
            "/gateway?",
            "//x/gateway/handle",
            "/\\x/gateway/handle",
            "//x\\gateway\\handle",
            "/\\/x/gateway",
            "///x/gateway/handle",
            "//x@y:80/internal/broadcast",
            "//x/%67ateway/handle",
            "/%2fx/gateway/handle",
            "/%5cx%2fgateway",
            "/%252fx/gateway",
            "//x;y/gateway;z",
            "//x//Gateway",
            "//a\\b/gateway/handle",
            "//%5c/x%5cy/gateway",
        ] {
            let path = format!("/v1/simulation{}", path.trim_end_matches('?'));
            assert_eq!(target(&path), Err(PathRefusal::Inner), "{path}");
        }
        let refusal = ProxyRefusal::from(PathRefusal::Inner);
        assert_eq!(
            (refusal.status.as_u16(), refusal.detail),
            (404, "Not Found")
        );
    }

    /// For a service that decodes before it parses, or once more than others, a decoded `?` or `#` ends the path (`new
    /// URL`, `urlsplit`).
    #[test]
    fn an_encoded_question_mark_or_hash_ends_a_segment() {
        for path in [
            "/gateway%3f",
            "/gateway%3F/handle",
            "/gateway%23x/handle",
            "/%67ateway%2523",
            "//x/internal%3fy",
        ] {
            let path = format!("/v1/simulation{path}");
            assert_eq!(target(&path), Err(PathRefusal::Inner), "{path}");
        }
        for path in ["/a/..%3f", "/..%23x/y", "/.%253fx"] {
            let path = format!("/v1/jobs{path}");
            assert_eq!(target(&path), Err(PathRefusal::Ambiguous), "{path}");
        }
        let harmless = "/v1/jobs/a%3fb/c%23d";
        assert_eq!(target(harmless), Ok((EventsService::MEASUREMENT, harmless)));
    }

    #[test]
    fn a_path_that_is_encoded_again_and_again_is_a_trick() {
        let again = |n: usize| format!("/v1/jobs/%{}41", "25".repeat(n));
        assert!(target(&again(2)).is_ok());
        assert_eq!(target(&again(9)), Err(PathRefusal::Ambiguous));
    }

    proptest! {
        /// Compares with a simulated service that decodes, normalises and merges in every known order.
        #[test]
        fn what_passes_reaches_nothing_inner(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "/", "//", ".", "..", "%2e", "%2E", "%2f", "%5c", "\\", ";", ";x", "%3b", "gateway",
                    "internal", "%67ateway", "Gateway", "handle", "a", "%25", "2e", "2f", "%00", "%20",
                ]),
                0..10,
            ),
        ) {
            let path = format!("/v1/simulation/{}", pieces.concat());
            if let Ok((_, there)) = target(&path) {
                prop_assert!(path.ends_with(there));
                for reading in readings(there) {
                    for decodings in 0..4 {
                        for cuts_parameters in [false, true] {
                            prop_assert!(
                                !reaches_inner(&reading, decodings, cuts_parameters),
                                "{} by {}", path, reading
                            );
                        }
                    }
                }
            }
        }

        /// What passes reaches nothing inner, also of paths that some readers take for `//HOST/PATH` (RFC 3986 §4.2).
        #[test]
        fn what_passes_reaches_nothing_inner_behind_a_host(
            start in prop::sample::select(vec!["/", "//", "/\\", "\\/", "///", "/%2f", "/%5c", "/%252f", "%2f/"]),
            host in prop::sample::select(vec!["x", "x@y:80", "x;y", "[::1]", "gateway", "%78", "", "%20"]),
            between in prop::sample::select(vec!["/", "//", "\\", "%2f", "%5c", "/;/", ";/", "/%20/"]),
            inner in prop::sample::select(vec!["gateway", "Gateway", "%67ateway", "gateway;x", "internal", "a"]),
            rest in prop::sample::select(vec!["", "/handle", "%2fhandle", ";x/handle"]),
        ) {
            let path = format!("/v1/simulation{}", [start, host, between, inner, rest].concat());
            // Only a path that begins with a slash is proxied at all.
            if path.starts_with("/v1/simulation/") && let Ok((_, there)) = target(&path) {
                for reading in readings(there) {
                    for decodings in 0..4 {
                        for cuts_parameters in [false, true] {
                            prop_assert!(
                                !reaches_inner(&reading, decodings, cuts_parameters),
                                "{} by {}", path, reading
                            );
                        }
                    }
                }
            }
        }

        #[test]
        fn plain_paths_pass(path in "(/[a-z0-9_-]{1,8}){1,5}/?") {
            let whole = format!("/v1/measurement{path}");
            prop_assert_eq!(target(&whole), Ok((EventsService::MEASUREMENT, whole.as_str())));
        }

        #[test]
        fn any_path_has_an_answer(path in "/\\PC{0,40}") {
            let _ = target(&format!("/v1/simulation{path}"));
        }
    }

    /// Returns what services may read in a target: the target itself, and its path by the WHATWG URL standard (`new
    /// URL(target, base).pathname`), after up to three decodings.
    fn readings(target: &str) -> Vec<String> {
        let base = url::Url::parse("http://localhost").unwrap();
        let mut readings = vec![target.to_owned()];
        let mut decoded = target.as_bytes().to_vec();
        for _ in 0..4 {
            let text = String::from_utf8_lossy(&decoded).into_owned();
            readings.extend(base.join(&text).map(|url| url.path().to_owned()));
            decoded = percent_decode(&decoded).collect();
        }
        readings
    }

    /// Simulates a careless service: decodes, then resolves dots, then checks the first part.
    fn reaches_inner(path: &str, decodings: usize, cuts_parameters: bool) -> bool {
        let mut path = path.as_bytes().to_vec();
        for _ in 0..decodings {
            path = percent_decode(&path).collect();
        }
        let path = String::from_utf8_lossy(&path)
            .to_lowercase()
            .replace('\\', "/");
        let mut parts: Vec<&str> = Vec::new();
        for part in path.split('/') {
            let part = if cuts_parameters {
                part.split(';').next().unwrap()
            } else {
                part
            };
            match part.trim() {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        parts
            .first()
            .is_some_and(|first| ProxiedPath::INNER.contains(first))
    }
}
