//! The table of constants in `docs/reference/limits.md`, compared with the source.

use crate::tables::{scaled_bytes, scaled_ms, thousands};
use crate::{check_test, read};

/// A row of the table: cells as they are in the document.
struct Fixed {
    what: String,
    value: String,
    shows: String,
    /// The constant or field, and its file.
    name: String,
    file: String,
    test: (String, String),
}

/// The text and the file of a link to a file of this repository.
fn link(cell: &str) -> Option<(String, String)> {
    let (text, file) = cell.strip_prefix('[')?.split_once("](../../")?;
    Some((text.to_owned(), file.strip_suffix(')')?.to_owned()))
}

fn fixed() -> Vec<Fixed> {
    let text = read("docs/reference/limits.md");
    let (_, table) = text.split_once("\n## Fixed\n").expect("a section");
    let lines = table.lines().filter(|line| line.starts_with("| "));
    let row = |line: &str| {
        let cells: Vec<_> = line.trim_matches(['|', ' ']).split(" | ").collect();
        let [what, value, _, shows, place, test] = cells[..] else {
            panic!("not six cells: {line}");
        };
        let in_file = place.split_once(" in ");
        let in_file = in_file.and_then(|(name, file)| Some((name, link(file)?.1)));
        let (name, file) = in_file.unwrap_or_else(|| panic!("{what}: {place}"));
        Fixed {
            what: what.to_owned(),
            value: value.to_owned(),
            shows: shows.to_owned(),
            name: name.trim_matches('`').to_owned(),
            file,
            test: link(test).unwrap_or_else(|| panic!("{what}: {test}")),
        }
    };
    lines.skip(2).map(row).collect()
}

/// The value of `NAME: TYPE = EXPRESSION;` or `NAME: EXPRESSION,`, if it is a number, a product of numbers or a time.
fn value_of(source: &str, name: &str) -> Option<Vec<String>> {
    let is_apart = |at: usize| !source[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let mut places = source.match_indices(name).filter(|(at, _)| is_apart(*at));
    places.find_map(|(at, _)| {
        let rest = source[at + name.len()..].strip_prefix(':')?;
        let end = rest.find([';', ',', '\n'])?;
        let declared = rest.get(..end)?;
        let expression = declared
            .split_once('=')
            .map_or(declared, |(_, value)| value);
        shown(name, expression.trim())
    })
}

/// How a document may write the value of an expression.
fn shown(name: &str, expression: &str) -> Option<Vec<String>> {
    let factor_ms = match expression.strip_prefix("Duration::from_") {
        Some(time) if time.starts_with("secs") => 1_000,
        Some(_) => 1,
        None => 0,
    };
    let numbers = match factor_ms {
        0 => expression,
        _ => expression.split_once('(')?.1.trim_end_matches(')'),
    };
    let factors = numbers
        .split('*')
        .map(|factor| factor.trim().replace('_', ""));
    let factors: Option<Vec<u64>> = factors.map(|factor| factor.parse().ok()).collect();
    let n: u64 = factors?.into_iter().product();
    let lower = name.to_lowercase();
    Some(match () {
        () if factor_ms > 0 => vec![scaled_ms(n * factor_ms)],
        () if lower.contains("_us") => vec![scaled_ms(n / 1_000), format!("{} ms", n / 1_000)],
        () if lower.contains("_ms") => vec![scaled_ms(n), format!("{} ms", thousands(n))],
        () => vec![scaled_bytes(n), thousands(n)],
    })
}

/// Constants that the document shows in other words: 1 a minute, 32 KiB for 15 bits, a tenth, 0.2 ms, a quarter.
const IN_WORDS: [&str; 6] = [
    "FETCH_AGAIN_MS",
    "DECODINGS_MAX",
    "WINDOW_BITS",
    "LATE_SHARE",
    "LITTLE_US_MAX",
    "WALK_PART",
];

#[test]
fn every_constant_has_a_test_that_is_there() {
    let all = fixed();
    assert!(all.len() > 100, "{}", all.len());
    let metrics = read("src/telemetry/names.rs");
    for Fixed {
        what, shows, test, ..
    } in all
    {
        let metric = shows.split('`').find(|word| word.starts_with("weirgate_"));
        let metric = metric.and_then(|word| word.split('{').next());
        let is_there = metric.is_none_or(|name| metrics.contains(&format!("\"{name}\"")));
        assert!(is_there, "{what}: no metric {shows}");
        let (words, file) = test;
        check_test(&what, &format!("{file}::{}", words.replace(' ', "_")));
    }
}

/// A value that is no number, such as a share of something, is words in the document: then the name has to be in the
/// file.
#[test]
fn constants_are_what_the_code_says() {
    let all = fixed();
    let (mut compared, mut wrong) = (0, Vec::new());
    for Fixed {
        what,
        value,
        name,
        file,
        ..
    } in &all
    {
        let source = read(file);
        assert!(source.contains(name), "{what}: no {name} in {file}");
        let Some(forms) = value_of(&source, name) else {
            continue;
        };
        compared += 1;
        let is_apart = |c: char| !(c.is_alphanumeric() || c == ',');
        let is_whole = |form: &String| {
            let mut places = value.match_indices(form.as_str());
            places.any(|(at, _)| {
                let (before, behind) = (&value[..at], &value[at + form.len()..]);
                let ends = behind.strip_prefix(',').unwrap_or(behind);
                (before.is_empty() || before.ends_with(is_apart))
                    && (ends.is_empty() || ends.starts_with(is_apart))
            })
        };
        if !forms.iter().any(is_whole) && !IN_WORDS.contains(&name.as_str()) {
            wrong.push(format!("{what}: {value}, not {forms:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared * 10 > all.len() * 9, "{compared} are compared");
}
