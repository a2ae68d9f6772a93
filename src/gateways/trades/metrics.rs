//! The metrics of trades alone, and where the values of all its metrics come from.

use std::sync::Arc;

use super::{CandleSettings, TradesStats};
use crate::gateways::shared::metrics as shared_metrics;
use weirgate_server::telemetry::GatewayMetric;

metric_names! {
    CANDLE_PAIRS = Gauge "weirgate_candle_pairs" []
        "Pairs of a symbol and an interval for which weirgate makes candles (--candles).";
    CANDLE_PAIRS_MAX = Gauge "weirgate_candle_pairs_max" []
        "Limit of weirgate_candle_pairs.";
    CANDLE_TRADES_DROPPED = Counter "weirgate_candle_trades_dropped_total" ["reason"]
        "Trades that are in no candle: too late, over 10 s ahead of the clock, unreadable, beyond the limit on pairs, or of a \
         symbol that is too long for clients.";
}

/// The metrics of the gateway.
pub(super) fn gateway_metrics(
    stats: &Arc<TradesStats>,
    candles: Option<&CandleSettings>,
) -> Vec<GatewayMetric> {
    let mut metrics = vec![GatewayMetric::number(
        &shared_metrics::SUBSCRIPTIONS,
        stats,
        |s| s.subscriptions.get(),
    )];
    metrics.extend(shared_metrics::access(&stats.access));
    if let Some(CandleSettings { pairs_max, .. }) = candles {
        let candles = &stats.candles;
        metrics.extend([
            GatewayMetric::number(&CANDLE_PAIRS, candles, |s| s.pairs.get()),
            GatewayMetric::fixed(&CANDLE_PAIRS_MAX, *pairs_max),
            GatewayMetric::by_label(&CANDLE_TRADES_DROPPED, candles, |s| s.dropped().collect()),
            GatewayMetric::by_label(&shared_metrics::SUBSCRIPTIONS_LIMITED, candles, |s| {
                vec![("candle_pairs", s.limited.get())]
            }),
        ]);
    }
    metrics
}
