//! The text format 0.0.4 of Prometheus, for readers without OpenMetrics. Made from the OpenMetrics text: the
//! samples are the same, the lines about a family differ.

/// The content type of this format.
pub const PROMETHEUS_TEXT_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Turns OpenMetrics text, as [`Telemetry`](super::Telemetry) writes it, into the text format 0.0.4.
///
/// A family has the name of its samples (`_total` of a counter, `_info` of an info), an info is a gauge, and there are
/// no units and no end mark (Prometheus, "Exposition formats"). Samples have neither time stamps nor exemplars, which
/// the two formats write differently.
pub(super) fn from_open_metrics(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(words) = line.strip_prefix("# HELP ") {
            // Waits for the type on the next line.
            help = words.split_once(' ').map(|(_, words)| words);
        } else if let Some((name, kind)) = family_type(line) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                kind => ("", kind),
            };
            if let Some(help) = help.take() {
                push_line(&mut out, &["# HELP ", name, suffix, " ", help]);
            }
            push_line(&mut out, &["# TYPE ", name, suffix, " ", kind]);
        } else if !line.starts_with('#') {
            push_line(&mut out, &[line]);
        }
    }
    out
}

/// The name and type of a `# TYPE` line.
fn family_type(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("# TYPE ")?.split_once(' ')
}

fn push_line(out: &mut String, parts: &[&str]) {
    for part in parts {
        out.push_str(part);
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_named_as_their_samples() {
        let open_metrics = "\
# HELP a Words of a.
# TYPE a counter
a_total{x=\"# TYPE b gauge\"} 1
# HELP b_seconds Words of b.
# TYPE b_seconds histogram
# UNIT b_seconds seconds
b_seconds_sum 0.5
b_seconds_count 1
b_seconds_bucket{le=\"+Inf\"} 1
# HELP c Words of c.
# TYPE c gauge
# HELP d Words of d.
# TYPE d info
d_info{version=\"1\"} 1
# EOF
";
        let expected = "\
# HELP a_total Words of a.
# TYPE a_total counter
a_total{x=\"# TYPE b gauge\"} 1
# HELP b_seconds Words of b.
# TYPE b_seconds histogram
b_seconds_sum 0.5
b_seconds_count 1
b_seconds_bucket{le=\"+Inf\"} 1
# HELP c Words of c.
# TYPE c gauge
# HELP d_info Words of d.
# TYPE d_info gauge
d_info{version=\"1\"} 1
";
        assert_eq!(from_open_metrics(open_metrics), expected);
    }
}
