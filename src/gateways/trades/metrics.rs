//! The metrics of trades alone. The values come from the counts of the gateway, in `start`.

metric_names! {
    CANDLE_PAIRS = Gauge "weirgate_candle_pairs" []
        "Pairs of a symbol and an interval for which weirgate makes candles (--candles).";
    CANDLE_PAIRS_MAX = Gauge "weirgate_candle_pairs_max" []
        "Limit of weirgate_candle_pairs.";
    CANDLE_TRADES_DROPPED = Counter "weirgate_candle_trades_dropped_total" ["reason"]
        "Trades that are in no candle: too late, over 10 s ahead of the clock, unreadable, or beyond the limit on \
         pairs.";
}
