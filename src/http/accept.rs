//! Which of the two texts of `/metrics` a request asks for (RFC 9110 §12.5.1; Prometheus, "Scrape protocol content
//! negotiation").

use mediatype::{MediaType, MediaTypeList, Name, ReadParams, names};

const OPENMETRICS_TEXT: Name<'static> = Name::new_unchecked("openmetrics-text");
const VERSION: Name<'static> = Name::new_unchecked("version");

/// The texts that `/metrics` has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MetricsFormat {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format 0.0.4 of Prometheus.
    PrometheusText,
}

impl MetricsFormat {
    /// The format for the values of the `Accept` headers of a request.
    ///
    /// The text format only if it is named, and OpenMetrics is not named with the same or a higher quality. Everything
    /// else is OpenMetrics: no header, `*/*` as curl sends, and types that weirgate does not have.
    pub(super) fn accepted<'a>(headers: impl Iterator<Item = &'a str>) -> Self {
        let (mut open_metrics, mut text, mut wildcard) = (None, None, None);
        for range in headers.flat_map(MediaTypeList::new).flatten() {
            let is = |ty: Name<'_>, subty: Name<'_>| range.ty == ty && range.subty == subty;
            let kind = if is(names::APPLICATION, OPENMETRICS_TEXT) {
                &mut open_metrics
            } else if is(names::TEXT, names::PLAIN) && is_0_0_4(&range) {
                &mut text
            } else if is(names::_STAR, names::_STAR) || is(names::APPLICATION, names::_STAR) {
                &mut wildcard
            } else {
                continue;
            };
            *kind = (*kind).max(Some(quality(&range)));
        }
        // A named type overrides a wildcard.
        let open_metrics =
            open_metrics.or_else(|| wildcard.filter(|&quality| Some(quality) > text));
        match text {
            Some(text) if text > open_metrics.unwrap_or(0) => Self::PrometheusText,
            _ => Self::OpenMetrics,
        }
    }
}

/// Whether a `text/plain` is the format 0.0.4: without a version it is.
fn is_0_0_4(range: &MediaType<'_>) -> bool {
    let version = range.get_param(VERSION);
    version.is_none_or(|version| version.unquoted_str() == "0.0.4")
}

/// The quality of a range in thousandths; 1 if it has none, or one that cannot be read.
fn quality(range: &MediaType<'_>) -> u16 {
    let value = range.get_param(names::Q);
    let value = value.and_then(|value| value.as_str().parse::<f32>().ok());
    (value.unwrap_or(1.0).clamp(0.0, 1.0) * 1_000.0).round() as u16
}

#[cfg(test)]
mod tests {
    use super::MetricsFormat::{self, OpenMetrics, PrometheusText};

    fn of(accept: &str) -> MetricsFormat {
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
            assert_eq!(of(accept), OpenMetrics, "{accept}");
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
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,\
             text/plain;version=0.0.4;q=0.5,*/*;q=0.4",
        ] {
            assert_eq!(of(accept), PrometheusText, "{accept}");
        }
    }

    #[test]
    fn several_headers_are_one_list() {
        let both = ["text/plain;q=0.4", "application/openmetrics-text;q=0.5"];
        assert_eq!(MetricsFormat::accepted(both.into_iter()), OpenMetrics);
        let both = ["text/plain;q=0.6", "application/openmetrics-text;q=0.5"];
        assert_eq!(MetricsFormat::accepted(both.into_iter()), PrometheusText);
    }
}
