//! Permissions to subscribe: containment of patterns against a matcher that tries every name.

use weirgate::auth::{Acl, Rights, RightsCheck};
use weirgate_wire::auth::{NamePatterns, NameSyntax};
use weirgate_wire::json::ObjectWriter;

use super::outcome;

/// Most bytes of a pattern, and most patterns of a table: few enough to try all names that distinguish such
/// patterns.
const PATTERN_BYTES_MAX: usize = 6;
const TABLE_MAX: usize = 3;

/// The longest run of a byte for a `*`.
const RUN_MAX: usize = 8;

/// The most names to try.
const NAMES_MAX: usize = 3_000;

/// Redis's own reading (`stringmatchlen` in its `util.c`), except that `*` matches the empty name too.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let Some((&first, rest)) = pattern.split_first() else {
        return name.is_empty();
    };
    match first {
        b'*' => (0..=name.len()).any(|n| matches(rest, &name[n..])),
        b'[' => {
            let Some((&byte, name)) = name.split_first() else {
                return false;
            };
            let (found, rest) = class(rest, byte);
            found && matches(rest, name)
        }
        _ => {
            let (literal, rest) = match (first, rest) {
                (b'\\', [escaped, rest @ ..]) => (Some(*escaped), rest),
                (b'?', _) => (None, rest),
                _ => (Some(first), rest),
            };
            let fits = |byte| literal.is_none_or(|literal| literal == byte);
            name.split_first()
                .is_some_and(|(&byte, name)| fits(byte) && matches(rest, name))
        }
    }
}

/// Whether the class at the start contains the byte, and the rest behind the class.
fn class(mut rest: &[u8], byte: u8) -> (bool, &[u8]) {
    let negated = rest.first() == Some(&b'^');
    if negated {
        rest = &rest[1..];
    }
    let mut found = false;
    while let Some(&first) = rest.first() {
        if first == b'\\' && rest.len() >= 2 {
            found |= rest[1] == byte;
            rest = &rest[2..];
        } else if first == b']' {
            return (found != negated, &rest[1..]);
        } else if rest.len() >= 3 && rest[1] == b'-' {
            let (low, high) = (rest[0].min(rest[2]), rest[0].max(rest[2]));
            found |= (low..=high).contains(&byte);
            rest = &rest[3..];
        } else {
            found |= first == byte;
            rest = &rest[1..];
        }
    }
    (found != negated, rest)
}

/// Bytes that distinguish the patterns: their own bytes, the neighbours, and a byte of no pattern.
fn alphabet(patterns: &[&str]) -> Vec<u8> {
    let mut bytes: Vec<u8> = patterns
        .iter()
        .flat_map(|pattern| pattern.bytes())
        .collect();
    let has = |what: &[char]| patterns.iter().any(|pattern| pattern.contains(what));
    let is_quoted = has(&['[', '\\']);
    bytes.retain(|byte| is_quoted || !b"*?".contains(byte));
    if has(&['[']) && has(&['-']) {
        let near: Vec<u8> = bytes
            .iter()
            .flat_map(|b| [b.wrapping_sub(1), b.wrapping_add(1)])
            .collect();
        bytes.extend(near);
    }
    bytes.push(b'~');
    bytes.push(b']');
    bytes.sort_unstable();
    bytes.dedup();
    bytes
}

/// The shortest names over the alphabet, up to the limit.
fn names(alphabet: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new()];
    let mut from = 0;
    while all.len() + (all.len() - from) * alphabet.len() <= NAMES_MAX {
        let longer: Vec<Vec<u8>> = all[from..]
            .iter()
            .flat_map(|name| {
                alphabet
                    .iter()
                    .map(|&byte| [name.as_slice(), &[byte]].concat())
            })
            .collect();
        from = all.len();
        all.extend(longer);
    }
    all
}

pub(crate) fn run(data: &[u8]) -> u64 {
    let Ok(text) = std::str::from_utf8(data) else {
        return 0;
    };
    let mut lines = text
        .split('\n')
        .map(|line| match line.char_indices().nth(PATTERN_BYTES_MAX) {
            Some((at, _)) => &line[..at],
            None => line,
        });
    let asked = lines.next().unwrap_or_default();
    // A brace begins a place for a claim: such names are no globs until a token fills them.
    let globs = lines.filter(|line| !line.contains('{'));
    let table: Vec<&str> = globs.take(TABLE_MAX).collect();
    let patterns = [&[asked], table.as_slice()].concat();
    // A name or pattern of the table or of the request, as all code reads names and patterns.
    let fits = |pattern: &str, name: &[u8]| match NameSyntax::Redis.is_pattern(pattern) {
        true => matches(pattern.as_bytes(), name),
        false => pattern.as_bytes() == name,
    };
    let of_pattern =
        |pattern: &&str| NamePatterns::new(NameSyntax::Redis, &[(*pattern).to_owned()]);
    let Ok(each) = patterns
        .iter()
        .map(of_pattern)
        .collect::<Result<Vec<_>, _>>()
    else {
        return outcome("a range outside of ASCII");
    };
    let names = names(&alphabet(&patterns));
    for (pattern, own) in patterns.iter().zip(&each) {
        for name in &names {
            let (ours, theirs) = (own.matches_bytes(name), fits(pattern, name));
            assert_eq!(ours, theirs, "{pattern:?} {}", name.escape_ascii());
        }
    }
    let mut object = ObjectWriter::new();
    object.strings("role", table.iter().copied());
    let mut acl = Acl::from_json(NameSyntax::Redis, object.finish().as_bytes()).expect("a table");
    let rights = Rights::of_role("role".into());
    let Ok(granted) = acl.grants(&mut RightsCheck::new(&rights, usize::MAX), asked) else {
        return outcome("more steps than a pattern may take");
    };
    let in_table = |name: &[u8]| table.iter().any(|pattern| fits(pattern, name));
    let mut tried = vec![asked.as_bytes().to_vec()];
    if NameSyntax::Redis.is_pattern(asked) {
        tried = instances(asked.as_bytes(), &alphabet(&patterns));
        tried.extend(names);
    }
    let witness = tried
        .iter()
        .find(|name| fits(asked, name) && !in_table(name));
    match witness {
        Some(name) => assert!(!granted, "{asked:?} by {table:?}: {}", name.escape_ascii()),
        None => assert!(
            granted || needs_longer(&table, asked),
            "{asked:?} by {table:?} is refused"
        ),
    }
    outcome((granted, asked.len(), table.len(), witness.map(Vec::len)))
}

/// Names that the pattern matches, with up to two bytes, or a run of a byte, for each `*`.
fn instances(pattern: &[u8], alphabet: &[u8]) -> Vec<Vec<u8>> {
    let mut fillings: Vec<Vec<u8>> = vec![Vec::new()];
    fillings.extend(alphabet.iter().map(|&byte| vec![byte]));
    fillings.extend((3..=RUN_MAX).map(|bytes| vec![b'~'; bytes]));
    fillings.extend(
        alphabet
            .iter()
            .flat_map(|&one| alphabet.iter().map(move |&other| vec![one, other])),
    );
    let mut names = vec![Vec::new()];
    let mut rest = pattern;
    while let Some((&first, after)) = rest.split_first() {
        let next: Vec<Vec<u8>> = match (first, after) {
            (b'*', _) => fillings.clone(),
            (b'?', _) => alphabet.iter().map(|&byte| vec![byte]).collect(),
            (b'[', _) => alphabet
                .iter()
                .filter(|&&byte| class(after, byte).0)
                .map(|&byte| vec![byte])
                .collect(),
            (b'\\', [escaped, ..]) => vec![vec![*escaped]],
            _ => vec![vec![first]],
        };
        rest = match (first, after) {
            (b'[', _) => class(after, 0).1,
            (b'\\', [_, rest @ ..]) => rest,
            _ => after,
        };
        let longer = names
            .iter()
            .flat_map(|name| next.iter().map(|end| [name.as_slice(), end].concat()));
        names = longer.take(NAMES_MAX).collect();
    }
    names
}

/// Whether only a name longer than the tried names could explain a refusal: for a single `*`, a run as long
/// as the table's patterns together is long enough.
fn needs_longer(table: &[&str], asked: &str) -> bool {
    let stars = asked.bytes().filter(|&byte| byte == b'*').count();
    let bytes: usize = table.iter().map(|pattern| pattern.len()).sum();
    stars > 1 || bytes > RUN_MAX - 1
}
