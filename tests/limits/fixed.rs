//! The tables of constants in `docs/reference/limits.md` and `docs/contributing/limits.md`: each has a test, and the
//! metric that it names, if any.

use crate::{check_test, read};

/// The cells of the rows of a table.
fn rows(table: &str) -> Vec<Vec<&str>> {
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(2);
    rows.map(|row| row.trim_matches(['|', ' ']).split(" | ").collect())
        .collect()
}

/// The last cell of a row: `[test](../../FILE#FUNCTION)`.
fn check_link(what: &str, cell: &str) {
    let link = cell.strip_prefix("[test](../../");
    let link = link.and_then(|link| link.strip_suffix(')')?.split_once('#'));
    let (file, function) = link.unwrap_or_else(|| panic!("{what}: {cell}"));
    check_test(what, &format!("{file}::{function}"));
}

#[test]
fn every_constant_has_a_test_that_is_there() {
    let text = read("docs/reference/limits.md");
    let (_, table) = text.split_once("\n## Fixed\n").expect("a section");
    let rows = rows(table);
    assert!(rows.len() > 50, "{}", rows.len());
    let metrics = read("docs/reference/metrics.md");
    for row in rows {
        let [what, _, _, shows, test] = row[..] else {
            panic!("not five cells: {row:?}");
        };
        let metric = shows.split('`').find(|word| word.starts_with("weirgate_"));
        let metric = metric.and_then(|word| word.split('{').next());
        let is_there = metric.is_none_or(|name| metrics.contains(&format!("`{name}`")));
        assert!(is_there, "{what}: no metric {shows}");
        check_link(what, test);
    }
}

#[test]
fn every_inner_limit_has_a_test_that_is_there() {
    let text = read("docs/contributing/limits.md");
    let rows = rows(&text);
    assert!(rows.len() > 100, "{}", rows.len());
    for row in rows {
        let [what, _, _, test] = row[..] else {
            panic!("not four cells: {row:?}");
        };
        check_link(what, test);
    }
}
