use super::names::{MetricKind, MetricName};
use super::*;
use weirgate_core::{CloseReason, HistoryStats, Survey};

const NOW: Now = Now {
    mono_us: 10_000_000,
    unix_us: 1_700_000_000_500 * 1_000,
};

fn telemetry() -> Arc<Telemetry> {
    let bus = BusStatus::new(&[("gateway_levels", "levels.signals")], NOW.mono_us);
    bus.set_stream_behind(Some(7), 1_500);
    let build = BuildInfo {
        version: "1.2.3",
        commit: "c0ffee",
        features: "nats",
        ..BuildInfo::THIS
    };
    let mut feed = FeedStats::of(["levels.signals", "a\"b\\c"]);
    for subject in &mut feed.subjects {
        (0..10).for_each(|_| subject.record(NOW));
    }
    let telemetry = Telemetry::new(build, "levels", feed, Some(Arc::new(bus)), NOW);
    telemetry.add_gateway(of_gateways().collect());
    let _ = telemetry.event_loop.turn_ended(NOW, |numbers| {
        numbers.hub.history = Some(HistoryStats {
            since_unix_us: Some(NOW.unix_us),
            ..HistoryStats::default()
        });
    });
    let surveyed = Surveyed {
        survey: Survey::default(),
        ends: Vec::new(),
    };
    telemetry.surveys.put(surveyed.into());
    telemetry
}

/// The metrics of the table in the order of writing: those of gateways come last.
fn in_order() -> Vec<&'static MetricName> {
    let (own, of_gateways): (Vec<_>, Vec<_>) = MetricName::ALL
        .iter()
        .partition(|metric| metric.write.is_some());
    [own, of_gateways].concat()
}

/// A value for each metric whose values come from a gateway.
fn of_gateways() -> impl Iterator<Item = GatewayMetric> {
    let of_gateways = MetricName::ALL
        .iter()
        .filter(|metric| metric.write.is_none());
    of_gateways.map(|metric| match (metric.kind, metric.labels.len()) {
        (MetricKind::Histogram, _) => {
            GatewayMetric::Durations(metric, vec![("one", Arc::default())])
        }
        (_, 0) => GatewayMetric::Number(metric, Box::new(|| 3)),
        (_, 1) => GatewayMetric::ByLabel(metric, Box::new(|| vec![("one", 3)])),
        _ => GatewayMetric::ByTwoLabels(metric, Box::new(|| vec![(["one", "two"], 3)])),
    })
}

/// The `# TYPE` lines as (name, type).
fn types(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

#[test]
fn what_is_written_is_what_is_named_in_the_same_order() {
    let written = types(&telemetry().open_metrics());
    let named: Vec<_> = in_order()
        .into_iter()
        .map(|metric| {
            let family = metric
                .name
                .trim_end_matches("_total")
                .trim_end_matches("_info");
            let kind = format!("{:?}", metric.kind).to_lowercase();
            (family.to_owned(), kind)
        })
        .collect();
    assert_eq!(written, named);
}

#[test]
fn every_family_has_help_and_every_sample_its_labels() {
    let text = telemetry().open_metrics();
    for metric in MetricName::ALL {
        let (stem, unit) = metric.stem();
        let unit = unit.map_or(String::new(), |unit| format!("_{}", unit.as_str()));
        let help = format!("# HELP {stem}{unit} {}\n", metric.help);
        assert!(text.contains(&help), "{}", metric.name);
        for label in metric.labels {
            let known_labels = metric.name == MetricName::CONSUMER_LAG.name
                || text.lines().any(|line| {
                    line.starts_with(metric.name) && line.contains(&format!("{label}=\""))
                });
            assert!(known_labels, "{} without {label}", metric.name);
        }
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn both_texts_have_the_same_samples() {
    // The two formats write bounds differently, and the labels and samples of a histogram in another order.
    let label = |label: &str| match label.strip_prefix("le=\"") {
        Some(bound) => format!(
            "{:e}",
            bound.trim_end_matches('"').parse::<f64>().expect("a bound")
        ),
        None => label.trim_end_matches('"').to_owned(),
    };
    let samples = |text: &str| -> Vec<(String, Vec<String>, String)> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        // Read anew for each text.
        let lines = lines.filter(|line| !line.starts_with("process_"));
        let mut samples: Vec<_> = lines
            .map(|line| {
                let (sample, value) = line.rsplit_once(' ').expect("a value");
                let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
                let labels = labels.trim_end_matches('}').split("\",");
                let mut labels: Vec<_> = labels.map(label).collect();
                labels.sort();
                (name.to_owned(), labels, value.to_owned())
            })
            .collect();
        samples.sort();
        samples
    };
    let telemetry = telemetry();
    let [open_metrics, text] = [telemetry.open_metrics(), telemetry.prometheus_text()];
    assert_eq!(samples(&text), samples(&open_metrics));
    let named: Vec<_> = types(&text).into_iter().map(|(name, _)| name).collect();
    let expected: Vec<_> = in_order().iter().map(|metric| metric.name).collect();
    assert_eq!(named, expected, "each family has the name of its samples");
    assert_eq!(text.matches("# HELP ").count(), MetricName::ALL.len());
    // Only one of the two formats escapes the help text.
    assert!(
        MetricName::ALL
            .iter()
            .all(|metric| !metric.help.contains(['\\', '\n', '"']))
    );
}

/// Takes the integer at the beginning of the bytes.
fn varint(bytes: &mut &[u8]) -> u64 {
    let length = bytes.iter().position(|byte| *byte < 0x80).expect("an end") + 1;
    let (head, rest) = bytes.split_at(length);
    *bytes = rest;
    let parts = head.iter().rev();
    parts.fold(0, |sum, byte| sum << 7 | u64::from(byte & 0x7f))
}

/// Takes the length at the beginning of the bytes, and that many bytes after it.
fn delimited<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let length = varint(bytes) as usize;
    let (value, rest) = bytes.split_at(length);
    *bytes = rest;
    value
}

/// Reads a protobuf message: the fields with their bytes, for the wire types that metrics use.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let value = match key & 7 {
            0 => varint(&mut bytes).to_le_bytes().to_vec(),
            1 => bytes.split_off(..8).expect("8 bytes").to_vec(),
            _ => delimited(&mut bytes).to_vec(),
        };
        fields.push((key >> 3, value));
    }
    fields
}

#[test]
fn protobuf_has_all_families_and_native_histograms() {
    let telemetry = telemetry();
    for us in [0, 30, 30, 1_000_000] {
        telemetry.event_loop.durations.turns.observe_us(us);
    }
    let (body, mut families) = (telemetry.prometheus_protobuf(), Vec::new());
    let mut rest = &body[..];
    while !rest.is_empty() {
        families.push(fields(delimited(&mut rest)));
    }
    let name = |family: &Vec<(u64, Vec<u8>)>| String::from_utf8(family[0].1.clone()).expect("text");
    let named: Vec<_> = families.iter().map(name).collect();
    let expected: Vec<_> = in_order().iter().map(|metric| metric.name).collect();
    assert_eq!(named, expected);
    let turns = families
        .iter()
        .find(|family| name(family) == MetricName::LOOP_TURN_DURATION.name);
    let values = |message: &[(u64, Vec<u8>)], number: u64| -> Vec<Vec<u8>> {
        let found = message.iter().filter(|(field, _)| *field == number);
        found.map(|(_, value)| value.clone()).collect()
    };
    let metric = fields(&values(turns.expect("a family"), 4)[0]);
    let histogram = fields(&values(&metric, 7)[0]);
    let numbers = |number| -> Vec<u64> {
        let found = values(&histogram, number).into_iter();
        found
            .map(|value| u64::from_le_bytes(value.try_into().expect("8 bytes")))
            .collect()
    };
    assert_eq!(numbers(1), [4], "sample_count");
    assert_eq!(values(&histogram, 3).len(), 18, "classic buckets");
    assert_eq!(numbers(5), [4], "schema 2, as a zigzag number");
    assert_eq!(numbers(7), [1], "zero_count");
    // 30 us is in the bucket up to 2^-15 s, with the index -60; 1 s is in the bucket 0.
    let spans: Vec<_> = values(&histogram, 12)
        .iter()
        .map(|span| fields(span))
        .collect();
    let span = |at: usize| [1, 2].map(|field| values(&spans[at], field)[0][0]);
    assert_eq!(
        [span(0), span(1)],
        [[119, 1], [118, 1]],
        "-60, then 59 empty"
    );
    assert_eq!(values(&histogram, 13), [[4, 1]], "deltas 2 and -1");
}

#[test]
fn the_numbers_of_a_turn_are_written_as_they_are() {
    let telemetry = telemetry();
    telemetry.event_loop.set_caught_up();
    let durations = &telemetry.event_loop.durations;
    durations.observe_stage_us(Stage::Feed, 30);
    durations.turns.observe_us(0);
    let copied = telemetry.event_loop.turn_ended(NOW, |numbers| {
        numbers.hub.messages_sent = 9;
        numbers.hub.open = 3;
        numbers.hub.closes[CloseReason::SendStalled as usize] = 4;
        numbers.shell.http_connections = 2;
        let feed = &mut numbers.feed;
        feed.subjects[1].messages = 7;
        feed.subjects[1].messages_old = 2;
        feed.last_message_unix_ms = Some(1_700_000_000_123);
        feed.messages_ignored = 3;
        feed.gaps = 1;
    });
    assert!(copied);
    let text = telemetry.open_metrics();
    for line in [
        "weirgate_frames_sent_total 9",
        "weirgate_clients 3",
        "weirgate_client_closes_total{reason=\"send_stalled\"} 4",
        "weirgate_connections{phase=\"http\"} 2",
        "weirgate_stage_duration_seconds_bucket{le=\"0.00005\",stage=\"feed\"} 1",
        "weirgate_stage_duration_seconds_sum{stage=\"feed\"} 0.00003",
        "weirgate_bus_messages_total{subject=\"a\\\"b\\\\c\"} 7",
        "weirgate_bus_messages_old_total{subject=\"a\\\"b\\\\c\"} 2",
        "weirgate_bus_gaps_total 1",
        "weirgate_bus_messages_ignored_total 3",
        "weirgate_loop_turn_duration_seconds_count 1",
        "weirgate_bus_last_message_timestamp_seconds 1700000000.123",
        "weirgate_loop_turns_total 1",
        "weirgate_loop_last_turn_timestamp_seconds 1700000000.5",
        "weirgate_caught_up 1",
        "weirgate_draining 0",
        "weirgate_bus_connected 0",
        "weirgate_build_info{version=\"1.2.3\",commit=\"c0ffee\",gateway=\"levels\",features=\"nats\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}

#[test]
fn what_is_not_known_has_no_sample() {
    let telemetry = telemetry();
    let text = telemetry.open_metrics();
    let sample = |name: &str| text.lines().any(|line| line.starts_with(name));
    assert!(!sample("weirgate_consumer_lag_messages{"));
    assert!(!sample("weirgate_bus_last_message_timestamp_seconds "));
    telemetry.bus().unwrap().consumers()[0].set_lag(Some(12));
    let lag = "weirgate_consumer_lag_messages{consumer=\"gateway_levels\"} 12\n";
    assert!(telemetry.open_metrics().contains(lag));
}

#[test]
fn the_age_of_the_last_turn_counts_from_the_start_and_from_each_turn() {
    let telemetry = telemetry();
    let metrics = &telemetry.event_loop;
    assert_eq!(metrics.last_turn_age_ms(NOW.plus_us(2_500_000)), 2_500);
    assert!(metrics.turn_ended(NOW.plus_us(2_000_000), |_| {}));
    assert_eq!(metrics.last_turn_age_ms(NOW.plus_us(2_500_000)), 500);
    assert_eq!(metrics.last_turn_age_ms(NOW), 0);
}

#[test]
fn a_stem_with_its_unit_and_suffix_is_the_name_again() {
    for metric in MetricName::ALL {
        let (stem, unit) = metric.stem();
        let unit = unit.map_or(String::new(), |u| format!("_{}", u.as_str()));
        let suffix = match metric.kind {
            MetricKind::Counter => "_total",
            MetricKind::Info => "_info",
            MetricKind::Gauge | MetricKind::Histogram => "",
        };
        assert_eq!(format!("{stem}{unit}{suffix}"), metric.name);
    }
}
