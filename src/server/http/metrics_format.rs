//! The three formats of `/metrics`, and the choice of one by the request (RFC 9110 §12.5.1; Prometheus, "Scrape protocol
//! content negotiation").

use crate::telemetry::{
    OPEN_METRICS_CONTENT_TYPE, PROMETHEUS_PROTOBUF_CONTENT_TYPE, PROMETHEUS_TEXT_CONTENT_TYPE,
};
use mediatype::{MediaType, MediaTypeList, Name, ReadParams, names};

const OPENMETRICS_TEXT: Name<'static> = Name::new_unchecked("openmetrics-text");
const VERSION: Name<'static> = Name::new_unchecked("version");
const PROTOBUF: Name<'static> = Name::new_unchecked("vnd.google.protobuf");
const PROTO: Name<'static> = Name::new_unchecked("proto");
const ENCODING: Name<'static> = Name::new_unchecked("encoding");

/// The formats of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetricsFormat {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format 0.0.4 of Prometheus.
    PrometheusText,
    /// The protobuf format of Prometheus, which alone has native histograms.
    PrometheusProtobuf,
}

impl MetricsFormat {
    /// Returns the format for the values of the `Accept` headers of a request.
    ///
    /// Chooses a format of Prometheus only if the headers name it with a higher quality than OpenMetrics. Everything
    /// else gets OpenMetrics: requests without the header, `*/*` as from curl, and types that weirgate does not have.
    pub(super) fn accepted<'a>(headers: impl Iterator<Item = &'a str>) -> Self {
        Qualities::read(headers).best()
    }

    /// Returns the format of text for the values of the `Accept` headers of a request, as [`accepted`](Self::accepted).
    pub(crate) fn accepted_text<'a>(headers: impl Iterator<Item = &'a str>) -> Self {
        let all = Qualities::read(headers);
        Qualities {
            protobuf: None,
            ..all
        }
        .best()
    }

    /// The `Content-Type` of the format.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => OPEN_METRICS_CONTENT_TYPE,
            Self::PrometheusText => PROMETHEUS_TEXT_CONTENT_TYPE,
            Self::PrometheusProtobuf => PROMETHEUS_PROTOBUF_CONTENT_TYPE,
        }
    }
}

/// The quality of each format in the `Accept` headers of a request, in thousandths; `None` for a format that they do
/// not name.
#[derive(Clone, Copy, Debug, Default)]
struct Qualities {
    open_metrics: Option<u16>,
    prometheus_text: Option<u16>,
    protobuf: Option<u16>,
    /// `*/*` or `application/*`.
    wildcard: Option<u16>,
}

impl Qualities {
    /// Reads the values of the `Accept` headers. Of a format that is named several times, the highest quality counts.
    fn read<'a>(headers: impl Iterator<Item = &'a str>) -> Self {
        let mut all = Self::default();
        for range in headers.flat_map(MediaTypeList::new).flatten() {
            let is = |ty: Name<'_>, subty: Name<'_>| range.ty == ty && range.subty == subty;
            let named = if is(names::APPLICATION, OPENMETRICS_TEXT) {
                &mut all.open_metrics
            } else if is(names::TEXT, names::PLAIN) && is_0_0_4(&range) {
                &mut all.prometheus_text
            } else if is(names::APPLICATION, PROTOBUF) && is_metric_families(&range) {
                &mut all.protobuf
            } else if is(names::_STAR, names::_STAR) || is(names::APPLICATION, names::_STAR) {
                &mut all.wildcard
            } else {
                continue;
            };
            *named = (*named).max(Some(quality(&range)));
        }
        all
    }

    /// The format to answer with. A wildcard means OpenMetrics, unless OpenMetrics itself is named.
    fn best(self) -> MetricsFormat {
        let of_prometheus = self.prometheus_text.max(self.protobuf);
        // A named format of Prometheus wins over a wildcard of the same quality.
        let wildcard = self
            .wildcard
            .filter(|quality| Some(*quality) > of_prometheus);
        let open_metrics = self.open_metrics.or(wildcard);
        // Not with a quality of 0, which refuses the format. `None` is less than any quality.
        match of_prometheus > open_metrics.max(Some(0)) {
            true if self.protobuf > self.prometheus_text => MetricsFormat::PrometheusProtobuf,
            true => MetricsFormat::PrometheusText,
            false => MetricsFormat::OpenMetrics,
        }
    }
}

/// Returns true if the messages are those of [`crate::telemetry::Telemetry::prometheus_protobuf`].
fn is_metric_families(range: &MediaType<'_>) -> bool {
    let is = |name: Name<'_>, wanted: &str| {
        let value = range.get_param(name);
        value.is_some_and(|value| value.unquoted_str().eq_ignore_ascii_case(wanted))
    };
    is(PROTO, "io.prometheus.client.MetricFamily") && is(ENCODING, "delimited")
}

/// Whether a `text/plain` is format 0.0.4, which is also the default without a version.
fn is_0_0_4(range: &MediaType<'_>) -> bool {
    let version = range.get_param(VERSION);
    version.is_none_or(|version| version.unquoted_str() == "0.0.4")
}

/// Returns the quality of a media range in thousandths; 1000 if it is absent or unreadable: the format is named, and one of
/// the formats has to be chosen.
pub(super) fn quality(range: &MediaType<'_>) -> u16 {
    let value = range.get_param(names::Q);
    let value = value.and_then(|value| value.as_str().parse::<f32>().ok());
    (value.unwrap_or(1.0).clamp(0.0, 1.0) * 1_000.0).round() as u16
}

#[cfg(test)]
mod tests {
    use super::MetricsFormat::{OpenMetrics, PrometheusProtobuf, PrometheusText};
    use super::*;

    fn format_for(accept: &str) -> MetricsFormat {
        MetricsFormat::accepted([accept].into_iter())
    }

    #[test]
    fn open_metrics_unless_the_text_format_is_preferred() {
        assert_eq!(MetricsFormat::accepted([].into_iter()), OpenMetrics);
        for accept in [
            "",
            "*/*",
            "text/html,application/xhtml+xml,*/*;q=0.8",
            "application/json",
            "nonsense;;;,",
            "application/openmetrics-text",
            "text/plain, application/openmetrics-text",
            "text/plain;q=0.5, application/*",
            "text/plain;q=0",
            "text/plain;version=1.0.0",
            "text/plain;version=0.0.4;q=0.1, */*",
            // Prometheus 2.30, 2.50 and 3.
            "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,\
             text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
        ] {
            assert_eq!(format_for(accept), OpenMetrics, "{accept}");
        }
        for accept in [
            "text/plain",
            "TEXT/PLAIN",
            "text/plain; version=0.0.4",
            "text/plain; version=\"0.0.4\"; charset=utf-8",
            "text/plain, */*",
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "text/plain;version=0.0.4,application/openmetrics-text;q=0.9",
            "application/openmetrics-text;q=0,text/plain",
            // Prometheus with the text format alone.
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            // No protobuf of this kind.
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text;q=0.6,\
             text/plain;version=0.0.4;q=0.5",
            "application/vnd.google.protobuf,text/plain;version=0.0.4;q=0.5",
        ] {
            assert_eq!(format_for(accept), PrometheusText, "{accept}");
        }
        let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        for others in [
            // Prometheus 2.50 and 3 with native histograms.
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
             application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.4",
        ] {
            let accept = format!("{protobuf};q=0.6,{others}");
            assert_eq!(format_for(&accept), PrometheusProtobuf, "{accept}");
        }
        let as_well = format!("{protobuf},application/openmetrics-text");
        assert_eq!(format_for(&as_well), OpenMetrics);
    }

    #[test]
    fn several_headers_are_one_list() {
        let both = ["text/plain;q=0.4", "application/openmetrics-text;q=0.5"];
        assert_eq!(MetricsFormat::accepted(both.into_iter()), OpenMetrics);
        let both = ["text/plain;q=0.6", "application/openmetrics-text;q=0.5"];
        assert_eq!(MetricsFormat::accepted(both.into_iter()), PrometheusText);
    }

    #[test]
    fn who_prefers_protobuf_gets_the_text_that_comes_next_where_there_is_none() {
        let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6";
        for (rest, text) in [
            (
                "application/openmetrics-text;q=0.5,text/plain;version=0.0.4;q=0.2",
                OpenMetrics,
            ),
            (
                "application/openmetrics-text;q=0.2,text/plain;version=0.0.4;q=0.5",
                PrometheusText,
            ),
            ("*/*;q=0.1", OpenMetrics),
        ] {
            let accept = format!("{protobuf},{rest}");
            assert_eq!(format_for(&accept), PrometheusProtobuf, "{accept}");
            assert_eq!(
                MetricsFormat::accepted_text([&*accept].into_iter()),
                text,
                "{accept}"
            );
        }
    }
}
