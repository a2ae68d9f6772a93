//! The table of constants in `docs/reference/limits.md`: each has a metric and a test that are there.

use weirgate::gateways::METRICS;
use weirgate_server::telemetry::names;

use crate::{check_test, read};

#[test]
fn every_constant_has_a_test_that_is_there() {
    let text = read("docs/reference/limits.md");
    let (_, table) = text.split_once("\n## Fixed\n").expect("a section");
    let rows: Vec<_> = table
        .lines()
        .filter(|line| line.starts_with("| "))
        .collect();
    assert!(rows.len() > 100, "{}", rows.len());
    let of_all = names::ALL.iter();
    let metrics: Vec<_> = of_all.chain(METRICS.into_iter().flatten()).collect();
    for row in &rows[2..] {
        let cells: Vec<_> = row.trim_matches(['|', ' ']).split(" | ").collect();
        let [what, _, shows, _, test] = cells[..] else {
            panic!("not five cells: {row}");
        };
        let metric = shows.split('`').find(|word| word.starts_with("weirgate_"));
        let metric = metric.and_then(|word| word.split('{').next());
        let is_there = metric.is_none_or(|name| metrics.iter().any(|metric| metric.name == name));
        assert!(is_there, "{what}: no metric {shows}");
        let link = test
            .strip_prefix('[')
            .and_then(|link| link.split_once("](../../"));
        let (words, file) = link.unwrap_or_else(|| panic!("{what}: {test}"));
        let file = file.trim_end_matches(')');
        check_test(what, &format!("{file}::{}", words.replace(' ', "_")));
    }
}
