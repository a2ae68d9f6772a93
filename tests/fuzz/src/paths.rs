//! Paths that the proxy forwards: no reader may read a path as a path closed to clients.
//!
//! Five readers: the WHATWG URL of the `url` crate and of Node, `urlsplit` and `posixpath.normpath` of
//! Python, `path.posix.normalize` of Node. Each reads the forwarded path, also decoded up to three times; the
//! result is decoded again, and resolved by a careless service.

use percent_encoding::percent_decode;
use weirgate::gateways::events::Services;
use weirgate::gateways::events::proxy::ProxiedPath;

use super::{oracle, outcome};

/// No real service decodes more often.
const DECODINGS: usize = 3;

/// The paths of the contract, with the prefix before the part that a client chooses.
fn proxied() -> Vec<(&'static str, ProxiedPath)> {
    let table = Services::default();
    let all = table.rows().iter().flat_map(|row| row.proxied);
    let prefix = |path: &'static str| path.strip_suffix("{path}").unwrap_or(path);
    all.map(|&(path, cut)| (prefix(path), ProxiedPath { path, cut }))
        .collect()
}

/// The first parts of the path for a careless service: decoded, in small letters, slashes of both kinds, dots
/// resolved.
fn resolved(path: &[u8], cuts_parameters: bool) -> Vec<String> {
    let text = String::from_utf8_lossy(path)
        .to_lowercase()
        .replace('\\', "/");
    let mut parts: Vec<String> = Vec::new();
    for part in text.split('/') {
        let part = match cuts_parameters {
            true => part.split(';').next().unwrap_or_default(),
            false => part,
        };
        match part.trim() {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part.to_owned()),
        }
    }
    parts
}

/// Returns a path and the results of repeated decoding.
fn decodings(path: &[u8]) -> Vec<Vec<u8>> {
    let next = |path: &Vec<u8>| Some(percent_decode(path).collect());
    std::iter::successors(Some(path.to_vec()), next)
        .take(DECODINGS + 1)
        .collect()
}

fn check(prefix: &str, target: &str, reader: &str, reading: &[u8]) {
    let kept = prefix
        .trim_matches('/')
        .split('/')
        .map(str::to_owned)
        .collect::<Vec<_>>();
    let is_cut = !target.starts_with(prefix);
    for path in decodings(reading) {
        for cuts_parameters in [false, true] {
            let parts = resolved(&path, cuts_parameters);
            let first = parts.first().map_or("", String::as_str);
            assert!(
                !ProxiedPath::INNER.contains(&first),
                "{target:?} is {} for {reader}",
                path.escape_ascii()
            );
            assert!(
                is_cut || parts.starts_with(&kept),
                "{target:?} is {} for {reader}, outside of {prefix}",
                path.escape_ascii()
            );
        }
    }
}

pub(crate) fn run(data: &[u8]) -> u64 {
    // A target is ASCII and has neither space nor control characters: others are refused earlier.
    let text: String = data
        .iter()
        .filter(|b| b.is_ascii_graphic())
        .map(|&b| char::from(b))
        .collect();
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let mut outcomes = Vec::new();
    for (prefix, proxied) in proxied() {
        let path = format!("{prefix}{text}");
        let target = match proxied.target(&path) {
            Ok(target) => target,
            Err(refusal) => {
                outcomes.push(format!("{refusal:?}"));
                continue;
            }
        };
        outcomes.push(format!(
            "passed, decoded {}",
            decodings(target.as_bytes())
                .iter()
                .collect::<std::collections::BTreeSet<_>>()
                .len()
        ));
        check(prefix, target, "a service", target.as_bytes());
        let base = url::Url::parse("http://localhost").expect("a URL");
        let decoded = decodings(target.as_bytes());
        for text in &decoded {
            if let Ok(url) = base.join(&String::from_utf8_lossy(text)) {
                check(
                    prefix,
                    target,
                    "the WHATWG URL of the url crate",
                    url.path().as_bytes(),
                );
            }
        }
        let mut parts: Vec<&[u8]> = vec![b"paths"];
        parts.extend(decoded.iter().map(Vec::as_slice));
        for (name, reading) in ["urlsplit", "normpath"]
            .iter()
            .cycle()
            .zip(oracle::python(&parts))
        {
            check(prefix, target, name, &reading);
        }
        for (name, reading) in ["URL of Node", "normalize of Node"]
            .iter()
            .cycle()
            .zip(oracle::node(&parts))
        {
            check(prefix, target, name, &reading);
        }
    }
    outcome((outcomes, text.len().min(3)))
}
