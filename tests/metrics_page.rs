//! docs/reference/metrics.md, the dashboard and the alerts name the metrics that there are.
//!
//! `UPDATE_DOCS=1 cargo test --test metrics_page as_it_is` writes the table anew.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use weirgate::gateways::METRICS;
use weirgate::gateways::events::proxy::{Proxied, Proxy, ProxyLimits, ProxySettings, ProxyTokens};
use weirgate::gateways::events::{ServiceRow, Services};
use weirgate::services;
use weirgate::services::Upstream;
use weirgate_core::FeedStats;
use weirgate_runtime::Clock;
use weirgate_server::build_info::BuildInfo;
use weirgate_server::telemetry::{GatewayMetric, MetricKind, MetricName, Telemetry};

use weirgate_wire::admission::Quota;

const BEGIN: &str =
    "<!-- the table is made by `UPDATE_DOCS=1 cargo test --test metrics_page as_it_is` -->\n";
const END: &str = "<!-- end of the table -->\n";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All metrics: those of the table that all gateways share, and those of single contracts.
fn all() -> impl Iterator<Item = &'static MetricName> {
    MetricName::ALL
        .iter()
        .chain(METRICS.iter().copied().flatten())
}

fn table() -> String {
    let mut table = String::from("| metric, labels | meaning |\n| --- | --- |\n");
    for metric in all() {
        let labels: String = metric.labels.iter().map(|l| format!("<br>`{l}`")).collect();
        let kind = match metric.kind {
            MetricKind::Histogram => " Histogram.",
            _ => "",
        };
        let (name, help) = (metric.name, metric.help);
        writeln!(table, "| `{name}`{labels} | {help}{kind} |").unwrap();
    }
    table
}

#[test]
fn the_page_has_every_metric_as_it_is() {
    let page = text("docs/reference/metrics.md");
    let (before, rest) = page.split_once(BEGIN).expect("the table's beginning");
    let (found, after) = rest.split_once(END).expect("the table's end");
    let table = table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let page = format!("{before}{BEGIN}{table}{END}{after}");
        fs::write(path("docs/reference/metrics.md"), page).unwrap();
        return;
    }
    assert_eq!(
        found, table,
        "run UPDATE_DOCS=1 cargo test --test metrics_page as_it_is"
    );
}

/// The values of a label that a process which has just begun shows: all of them, at 0.
fn values_of(metric: &str, label: &str) -> BTreeSet<String> {
    let clock = Clock::start();
    let feed = FeedStats::default();
    let telemetry = Telemetry::new(BuildInfo::THIS, "toy", feed, None, clock.now());
    let page = telemetry.open_metrics();
    let lines = page.lines().filter(|line| line.starts_with(metric));
    let label = format!("{label}=\"");
    let values: BTreeSet<String> = lines
        .filter_map(|line| line.split_once(&label)?.1.split_once('"'))
        .map(|(value, _)| value.to_owned())
        .collect();
    assert!(!values.is_empty(), "no {label} in {metric}");
    values
}

#[test]
fn the_page_has_every_value_of_every_label() {
    let page = text("docs/reference/metrics.md");
    for (metric, label, of) in [
        ("weirgate_connections", "phase", ""),
        ("weirgate_client_connections_total", "outcome", ""),
        ("weirgate_clients_paused", "reason", " of paused clients"),
        ("weirgate_send_errors_total", "kind", ""),
        ("weirgate_stage_duration_seconds", "stage", ""),
        ("weirgate_slow_clients", "why", ""),
    ] {
        let start = format!("| `{label}`{of} |");
        let row = page.lines().find(|line| line.starts_with(&start));
        let row = row.unwrap_or_else(|| panic!("no row {start}"));
        for value in values_of(metric, label) {
            assert!(row.contains(&format!("`{value}`")), "{label}: no {value}");
        }
    }
}

#[test]
fn the_page_of_closes_has_every_reason() {
    let page = text("docs/reference/closes.md");
    for reason in values_of("weirgate_client_closes_total", "reason") {
        let row = format!("\n| `{reason}` |");
        assert!(page.contains(&row), "closes.md has no row for {reason}");
    }
}

fn proxy() -> Proxy {
    let upstream = Upstream::parse("http://x").expect("a URL");
    let proxied = |row: &ServiceRow| Proxied {
        service: services::Service::new(row.name, upstream.clone(), None),
        paths: Vec::new(),
    };
    let table = Services::default();
    let services = table.rows().iter();
    let services = services.filter(|row| !row.proxied.is_empty());
    Proxy::new(ProxySettings {
        services: services.map(proxied).collect(),
        limits: ProxyLimits::default(),
        held: Quota::new("http", 1),
        clock: Clock::start(),
        tokens: ProxyTokens::default(),
    })
}

#[test]
fn the_page_has_every_value_of_the_labels_of_the_proxy() {
    let page = text("docs/reference/metrics.md");
    let row = |label: &str| {
        let start = format!("| `{label}` ");
        let is_row = |line: &&str| line.starts_with(&start) && !line.contains("of calls");
        page.lines().filter(is_row).collect::<String>()
    };
    let mut looked = 0;
    for metric in proxy().metrics() {
        if let GatewayMetric::ByTwoLabels(name, values) = metric {
            for (values, _) in values() {
                for (label, value) in name.labels.iter().zip(values) {
                    let row = row(label);
                    assert!(row.contains(&format!("`{value}`")), "{label}: no {value}");
                    looked += 1;
                }
            }
        }
    }
    assert!(looked > 20, "{looked} values");
}

/// Everything in `text` that looks like one of our metrics.
fn named_in(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("weirgate_") || word.starts_with("process_"))
        .collect()
}

/// Whether a query may use this name.
fn exists(name: &str) -> bool {
    all().any(|metric| match metric.kind {
        MetricKind::Histogram => ["_bucket", "_sum", "_count"]
            .iter()
            .any(|suffix| name.strip_suffix(suffix) == Some(metric.name)),
        _ => name == metric.name,
    })
}

#[test]
fn dashboard_and_alerts_name_only_metrics_that_exist() {
    for file in [
        "deploy/grafana/weirgate.json",
        "deploy/prometheus/alerts.yml",
    ] {
        let text = text(file);
        let named = named_in(&text);
        assert!(named.len() > 10, "{file} names next to nothing: {named:?}");
        let unknown: Vec<_> = named.into_iter().filter(|name| !exists(name)).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
}

/// What an operator has to see of a bus or a loop that is in trouble.
#[test]
fn dashboard_and_alerts_show_what_is_stuck_and_what_is_full() {
    for file in [
        "deploy/grafana/weirgate.json",
        "deploy/prometheus/alerts.yml",
    ] {
        let text = text(file);
        let named = named_in(&text);
        for name in [
            "weirgate_bus_gaps_total",
            "weirgate_bus_look_backs_limited_total",
            "weirgate_bus_queue_bytes",
            "weirgate_bus_queue_bytes_max",
            "weirgate_bus_subscriptions_refused_total",
            "weirgate_consumer_away",
            "weirgate_consumer_lag_messages",
            "weirgate_consumer_silent",
            "weirgate_consumer_stalled",
            "weirgate_event_waiting_bytes",
            "weirgate_loop_budgets_spent_total",
            "weirgate_auth_refusals_total",
            "weirgate_upstream_circuit_open",
        ] {
            assert!(named.contains(name), "{file}: no {name}");
        }
    }
}

/// Prometheus scrapes pods by their annotations as a job of all pods (`kubernetes-pods`).
#[test]
fn each_alert_finds_weirgate_by_its_metrics_whatever_the_job_is_called() {
    let text = text("deploy/prometheus/alerts.yml");
    let exprs: Vec<_> = text
        .lines()
        .filter_map(|l| l.trim().strip_prefix("expr: "))
        .collect();
    assert!(exprs.len() > 20);
    for expr in exprs {
        assert!(expr.contains("weirgate_"), "{expr}");
        assert!(!expr.contains("job=") && !expr.contains("job!"), "{expr}");
    }
}

/// Braces only around labels, as `{{instance}}`: Grafana shows all others as they are.
fn is_legend(text: &str) -> bool {
    let mut parts = text.split("{{");
    let is_plain = |text: &str| !text.contains(['{', '}']);
    let is_label = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    is_plain(parts.next().unwrap_or_default())
        && parts.all(|part| {
            part.split_once("}}")
                .is_some_and(|(label, rest)| is_label(label) && is_plain(rest))
        })
}

#[test]
fn each_panel_of_the_dashboard_asks_something() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&text("deploy/grafana/weirgate.json")).unwrap();
    let list = |of: &serde_json::Value, key: &str| of[key].as_array().cloned().unwrap_or_default();
    let outer = list(&dashboard, "panels");
    let inner = outer.iter().flat_map(|panel| list(panel, "panels"));
    let (rows, panels): (Vec<_>, Vec<_>) = outer
        .iter()
        .cloned()
        .chain(inner)
        .partition(|panel| panel["type"] == "row");
    assert!(rows.len() >= 5 && panels.len() >= 40);
    assert!(
        panels
            .iter()
            .filter(|panel| panel["type"] == "stat")
            .count()
            >= 6
    );
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        let targets = list(&panel, "targets");
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            let query = target["expr"].as_str().unwrap();
            let of_prometheus = query.contains("up{");
            assert!(
                of_prometheus || !named_in(query).is_empty(),
                "{title}: {query}"
            );
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            assert!(is_legend(legend), "{title}: {legend}");
        }
        let description = panel["description"].as_str();
        assert!(description.is_some_and(|d| d.ends_with('.')), "{title}");
    }
}

#[test]
fn the_dashboard_is_made_from_its_tables() {
    let made = std::process::Command::new("python3")
        .args(["scripts/dashboard.py", "--check"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{told}");
}

/// The names follow the rules of Prometheus.
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
    for metric in all() {
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
        assert_eq!(total, metric.kind == MetricKind::Counter, "{name}: _total");
        let info = name.ends_with("_info");
        assert_eq!(info, metric.kind == MetricKind::Info, "{name}: _info");
    }
}

#[test]
fn every_metric_has_one_sentence_of_help_and_a_name_of_its_own() {
    let mut seen = std::collections::HashSet::new();
    for metric in all() {
        assert!(seen.insert(metric.name), "{} stands twice", metric.name);
        assert!(
            metric.help.len() > 10 && metric.help.ends_with('.'),
            "{}",
            metric.name
        );
        assert!(!metric.help.contains(['\n', '\\', '"']), "{}", metric.name);
    }
}
