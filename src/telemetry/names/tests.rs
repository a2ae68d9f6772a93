//! Names keep the rules of Prometheus, and each metric has its help.

use super::*;

#[test]
fn names_follow_the_naming_rules() {
    let not_base = [
        "ms",
        "us",
        "ns",
        "milliseconds",
        "minutes",
        "kb",
        "kib",
        "mb",
        "mib",
    ];
    let not_said = ["count", "num", "counter", "gauge", "number"];
    for metric in ALL {
        let name = metric.name;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(name.chars().all(plain), "{name}");
        let ours = name.starts_with("weirgate_") || name.starts_with("process_");
        assert!(ours, "{name} has no prefix");
        for word in name.split('_') {
            assert!(!not_base.contains(&word), "{name} is not in a base unit");
            assert!(!not_said.contains(&word), "{name} repeats its kind");
        }
        let total = name.ends_with("_total");
        assert_eq!(total, metric.kind == Kind::Counter, "{name}: _total");
        let info = name.ends_with("_info");
        assert_eq!(info, metric.kind == Kind::Info, "{name}: _info");
    }
}

#[test]
fn every_metric_has_one_sentence_of_help_and_a_name_of_its_own() {
    let mut seen = std::collections::HashSet::new();
    for metric in ALL {
        assert!(seen.insert(metric.name), "{} stands twice", metric.name);
        assert!(
            metric.help.len() > 10 && metric.help.ends_with('.'),
            "{}",
            metric.name
        );
        assert!(!metric.help.contains(['\n', '\\', '"']), "{}", metric.name);
    }
}

#[test]
fn a_stem_with_its_unit_and_suffix_is_the_name_again() {
    for metric in ALL {
        let (stem, unit) = metric.stem();
        let unit = unit.map_or(String::new(), |u| format!("_{}", u.as_str()));
        let suffix = match metric.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        assert_eq!(format!("{stem}{unit}{suffix}"), metric.name);
    }
}
