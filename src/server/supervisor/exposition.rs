//! `/metrics` of several processes as one page: each series with the label `process`, and those of the supervisor without.
//!
//! The page has no sums beside the series of the processes: the sum of a counter would fall when a process ends, and a
//! reader would take that for a new start of all. So a reader sums after the rate, as over several instances.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::core::Number;

/// The end of an OpenMetrics page.
const EOF: &str = "# EOF";

/// A family of metrics.
#[derive(Debug, Default)]
struct Family {
    /// The lines about the family, of the first process that has it.
    about: String,
    series: String,
}

/// Joins the pages of the supervisor itself (`None`) and of the processes, which are OpenMetrics or the text format 0.0.4 of
/// Prometheus.
pub(super) fn joined(pages: &[(Option<Number>, &str)]) -> String {
    let mut order: Vec<String> = Vec::new();
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for (number, page) in pages {
        let mut name = String::new();
        let mut is_first = false;
        for line in page.lines().filter(|line| *line != EOF && !line.is_empty()) {
            if let Some(about) = line.strip_prefix("# ") {
                // A word such as HELP or TYPE comes before the name.
                let about_name = about.split(' ').nth(1).unwrap_or_default();
                if about_name != name {
                    about_name.clone_into(&mut name);
                    is_first = !families.contains_key(about_name);
                    if is_first {
                        order.push(name.clone());
                    }
                }
                let family = families.entry(name.clone()).or_default();
                if is_first {
                    family.about += line;
                    family.about.push('\n');
                }
            } else {
                let family = families.entry(name.clone()).or_default();
                add_series(&mut family.series, line, *number);
            }
        }
    }
    let mut page = String::new();
    for name in &order {
        if let Some(family) = families.get(name) {
            page += &family.about;
            page += &family.series;
        }
    }
    if pages.iter().any(|(_, page)| page.trim_end().ends_with(EOF)) {
        page += EOF;
        page.push('\n');
    }
    page
}

/// Adds a line, with the label of a process in front of the others.
fn add_series(out: &mut String, line: &str, number: Option<Number>) {
    let Some(number) = number else {
        out.push_str(line);
        out.push('\n');
        return;
    };
    let end = line.find(['{', ' ']).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    // Writing to a string cannot fail.
    let _ = match rest.strip_prefix('{') {
        Some(rest) if rest.starts_with('}') => {
            writeln!(out, "{name}{{process=\"{number}\"{rest}")
        }
        Some(rest) => writeln!(out, "{name}{{process=\"{number}\",{rest}"),
        None => writeln!(out, "{name}{{process=\"{number}\"}}{rest}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_is_there_once_with_the_series_of_all() {
        let one = "# HELP a Of a.\n# TYPE a gauge\na 1\n# TYPE b counter\nb_total{x=\"y z\"} 2 # {trace=\"t\"} 1\n# EOF\n";
        let two = "# HELP a Of a.\n# TYPE a gauge\na 3\n# TYPE c histogram\nc_bucket{le=\"+Inf\"} 4\nc_count{} 4\n# EOF\n";
        let own =
            "# HELP d Of d.\n# TYPE d gauge\nd 7\n# TYPE b counter\nb_total{x=\"o\"} 5\n# EOF\n";
        let page = joined(&[(None, own), (Some(1), one), (Some(6), two)]);
        let want = "# HELP d Of d.\n# TYPE d gauge\nd 7\n# TYPE b counter\nb_total{x=\"o\"} 5\n\
                    b_total{process=\"1\",x=\"y z\"} 2 # {trace=\"t\"} 1\n\
                    # HELP a Of a.\n# TYPE a gauge\na{process=\"1\"} 1\na{process=\"6\"} 3\n# TYPE c histogram\n\
                    c_bucket{process=\"6\",le=\"+Inf\"} 4\nc_count{process=\"6\"} 4\n# EOF\n";
        assert_eq!(page, want);
    }

    #[test]
    fn the_format_of_prometheus_has_no_end_line() {
        let one = (Some(1), "# TYPE a gauge\na 1\n");
        let page = joined(&[one, (Some(2), "# TYPE a gauge\na 2\n")]);
        assert_eq!(
            page,
            "# TYPE a gauge\na{process=\"1\"} 1\na{process=\"2\"} 2\n"
        );
        assert_eq!(joined(&[]), "");
    }
}
