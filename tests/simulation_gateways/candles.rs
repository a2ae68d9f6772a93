//! The model of candles: all trades that have passed, each candle computed anew from them, and what
//! a client has seen of the candles that it holds.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use weirgate::gateways::trades::CandleStats;
use weirgate_wire::base::Now;

use crate::world::Random;

/// Names and lengths in ms.
pub(super) const INTERVALS: [(&str, i64); 3] = [("1s", 1_000), ("1m", 60_000), ("5m", 300_000)];
const EARLY_MS_MAX: i64 = 10_000;
const SPACING_US: u64 = 250_000;
/// Deadlines are rounded up to a multiple of 10 ms, and the clock of the wall shows whole milliseconds.
const GRID_MS: i64 = 11;

/// An interval by its place in [`INTERVALS`], and a symbol.
pub(super) type Pair = (usize, String);

/// A trade as it is published, and what candles have to read of it.
#[derive(Clone, Debug)]
pub(super) struct Trade {
    /// JSON members, each with a comma behind it.
    pub(super) members: String,
    /// `None`: not readable.
    at_ms: Option<i64>,
    price_cents: i64,
    volume_tenths: i64,
    volume_has_tenths: bool,
}

impl Trade {
    pub(super) fn random(random: &mut Random, now: Now) -> Self {
        let ms = |random: &mut Random, most: i64| random.below(most as u64) as i64;
        let at_ms = now.unix_ms()
            + match random.below(20) {
                0 => EARLY_MS_MAX + 1 + ms(random, 2_000),
                1 => EARLY_MS_MAX,
                2..4 => ms(random, 3_000),
                4..6 => -ms(random, 4_000),
                6 => -ms(random, 400_000),
                7..10 => -(now.unix_ms() % 500),
                _ => -ms(random, 300),
            };
        let (time, at_ms) = match random.below(16) {
            0 => (String::new(), Some(now.unix_ms())),
            1 => (r#""timestamp":null,"#.to_owned(), Some(now.unix_ms())),
            2 => (r#""timestamp":"soon","#.to_owned(), None),
            3 => (format!(r#""timestamp":"{at_ms}","#), Some(at_ms)),
            4 => (format!(r#""timestamp":{at_ms}.9,"#), Some(at_ms)),
            _ => (format!(r#""timestamp":{at_ms},"#), Some(at_ms)),
        };
        let price_cents = 1_000 + ms(random, 9_000);
        let price = format!("{}.{:02}", price_cents / 100, price_cents % 100);
        // A zero adds no digits.
        let tenths = 1 + ms(random, 999);
        let (volume, volume_tenths, volume_has_tenths) = match random.below(5) {
            0 => (String::new(), 0, false),
            1 => (r#""volume":"many","#.to_owned(), 0, false),
            2 => (format!(r#""volume":{tenths},"#), 10 * tenths, false),
            3 => (format!(r#""volume":"{tenths}","#), 10 * tenths, false),
            _ => (
                format!(r#""volume":{}.{},"#, tenths / 10, tenths % 10),
                tenths,
                true,
            ),
        };
        let members = match random.chance(20) {
            true => format!(r#"{time}{volume}"price":"{price}","#),
            false => format!(r#""price":{price},{time}{volume}"#),
        };
        Self {
            members,
            at_ms,
            price_cents,
            volume_tenths,
            volume_has_tenths,
        }
    }
}

#[derive(Debug, Default)]
struct Candle {
    /// In the order in which they came.
    trades: Vec<Trade>,
    changed_us: u64,
}

/// The message of a candle with these trades.
fn message(pair: &Pair, start_ms: i64, trades: &[Trade], closed: bool, partial: bool) -> String {
    let at = |trade: &&Trade| trade.at_ms;
    // Of equals the first is the smallest, and the last is the largest.
    let open = trades.iter().min_by_key(at).expect("a trade").price_cents;
    let close = trades.iter().max_by_key(at).expect("a trade").price_cents;
    let prices = trades.iter().map(|trade| trade.price_cents);
    let (high, low) = (prices.clone().max(), prices.min());
    let price = |cents: i64| format!("{}.{:02}", cents / 100, cents % 100);
    let tenths: i64 = trades.iter().map(|trade| trade.volume_tenths).sum();
    let volume = match trades.iter().any(|trade| trade.volume_has_tenths) {
        true => format!("{}.{}", tenths / 10, tenths % 10),
        false => format!("{}", tenths / 10),
    };
    format!(
        concat!(
            r#"{{"type":"candle","data":{{"symbol":"{}","interval":"{}","start":{},"open":{},"#,
            r#""high":{},"low":{},"close":{},"volume":{},"trades":{},"closed":{}{}}}}}"#
        ),
        pair.1,
        INTERVALS[pair.0].0,
        start_ms,
        price(open),
        price(high.expect("a trade")),
        price(low.expect("a trade")),
        price(close),
        volume,
        trades.len(),
        closed,
        if partial { r#","partial":true"# } else { "" }
    )
}

/// All trades of all symbols, by candle.
#[derive(Debug, Default)]
pub(super) struct Market {
    pub(super) grace_ms: i64,
    /// The times in which the bus was away, and whether trades were lost; the last may go on.
    away: Vec<(Now, Option<Now>, bool)>,
    candles: BTreeMap<Pair, BTreeMap<i64, Candle>>,
    late: u64,
    early: u64,
    unreadable: u64,
}

impl Market {
    pub(super) fn new(grace_ms: i64) -> Self {
        Self {
            grace_ms,
            // Before the start.
            away: vec![(Now::default(), None, true)],
            ..Self::default()
        }
    }

    /// A trade is published.
    pub(super) fn take(&mut self, now: Now, symbol: &str, trade: &Trade) {
        let Some(at_ms) = trade.at_ms else {
            self.unreadable += 1;
            return;
        };
        if at_ms > now.unix_ms() + EARLY_MS_MAX {
            self.early += 1;
            return;
        }
        for (interval, (_, ms)) in INTERVALS.iter().enumerate() {
            let start_ms = at_ms / ms * ms;
            if self.closes_ms(interval, start_ms) <= now.unix_ms() {
                self.late += 1;
                continue;
            }
            let pair = (interval, symbol.to_owned());
            let candles = self.candles.entry(pair).or_default();
            let candle = candles.entry(start_ms).or_default();
            candle.trades.push(trade.clone());
            candle.changed_us = now.mono_us;
        }
    }

    /// The bus is away, or back.
    pub(super) fn note_bus(&mut self, now: Now, is_up: bool, has_lost: bool) {
        match self.away.last_mut() {
            Some((_, until, _)) if is_up => *until = Some(now),
            _ => self.away.push((now, None, has_lost)),
        }
    }

    /// Whether a message of a candle that was made at some time up to now may be, and has to be, partial; a closed candle
    /// is made when it is closed.
    fn partial(&self, now: Now, pair: &Pair, start_ms: i64, closed: bool) -> (bool, bool) {
        let closes_ms = self.closes_ms(pair.0, start_ms);
        let made_ms = if closed { closes_ms } else { now.unix_ms() };
        let is_in = |from: Now, until: Option<Now>, has_lost, at_ms: i64| {
            let until_ms = until.map_or(i64::MAX, Now::unix_ms);
            from.unix_ms() <= at_ms && (until_ms > if has_lost { start_ms } else { at_ms })
        };
        let mut away = self.away.iter();
        let must = away.any(|(from, until, lost)| is_in(*from, *until, *lost, made_ms));
        let mut away = self.away.iter();
        // A message that waits was made at any time before, a closed one up to a deadline later.
        let may = away.any(|(from, until, _)| {
            let until_ms = until.map_or(i64::MAX, Now::unix_ms);
            from.unix_ms() <= made_ms + GRID_MS && until_ms >= start_ms
        });
        (may, must)
    }

    /// When a candle takes no more trades.
    fn closes_ms(&self, interval: usize, start_ms: i64) -> i64 {
        start_ms + INTERVALS[interval].1 + self.grace_ms
    }

    /// The oldest candle that is not closed, if no earlier one can begin.
    fn running(&self, now: Now, pair: &Pair) -> Option<(i64, &Candle)> {
        let mut candles = self.candles.get(pair)?.iter();
        let open = candles.find(|(start_ms, _)| self.closes_ms(pair.0, **start_ms) > now.unix_ms());
        let (start_ms, candle) = open?;
        let is_running = start_ms + self.grace_ms <= now.unix_ms();
        is_running.then_some((*start_ms, candle))
    }

    /// The first closed candle after `after_ms` that comes to a holder since `since_ms`.
    fn next_closed(&self, pair: &Pair, after_ms: Option<i64>, since_ms: i64) -> Option<i64> {
        let mut starts = self.candles.get(pair)?.keys().copied();
        starts.find(|start_ms| {
            let is_after = after_ms.is_none_or(|after_ms| *start_ms > after_ms);
            is_after && self.closes_ms(pair.0, *start_ms) > since_ms
        })
    }

    /// The gateway has counted what is in no candle.
    pub(super) fn check(&self, stats: &CandleStats) {
        let counted: BTreeMap<_, _> = stats.dropped().collect();
        let want = [
            ("late", self.late),
            ("early", self.early),
            ("unreadable", self.unreadable),
            ("pairs_max", 0),
            ("long_symbol", 0),
        ];
        assert_eq!(counted, BTreeMap::from(want));
    }
}

/// What a client has seen of a pair since it subscribed.
#[derive(Debug)]
struct View {
    since: Now,
    /// Start of the newest closed candle that came.
    closed_ms: Option<i64>,
    /// Start and number of trades of the running candle that came last.
    running: Option<(i64, usize)>,
    /// When the running candle came last, other than with the subscription.
    running_us: Option<u64>,
}

impl View {
    fn running(&mut self, now: Now, market: &Market, pair: &Pair, state: (i64, usize), fast: bool) {
        let (start_ms, count) = state;
        assert!(self.running <= Some(state), "{pair:?} goes back: {self:?}");
        let is_after = self.closed_ms.is_none_or(|closed_ms| start_ms > closed_ms);
        assert!(is_after, "{pair:?} {start_ms} runs after its close");
        let is_first = self.running.replace(state).is_none();
        if !fast {
            return;
        }
        // Who keeps up sees what is.
        assert_eq!(market.candles[pair][&start_ms].trades.len(), count);
        let runs_ms = start_ms + market.grace_ms;
        assert!(runs_ms <= now.unix_ms(), "{pair:?} earlier ones may come");
        let closes_ms = market.closes_ms(pair.0, start_ms);
        assert!(now.unix_ms() <= closes_ms + GRID_MS, "{pair:?} not closed");
        if is_first && now == self.since {
            return;
        }
        let last_us = self.running_us.replace(now.mono_us);
        let is_due = last_us.is_none_or(|last_us| now.mono_us >= last_us + SPACING_US);
        assert!(is_due, "{pair:?} more than four times a second");
    }

    fn closed(&mut self, now: Now, market: &Market, pair: &Pair, start_ms: i64, fast: bool) {
        let closes_ms = market.closes_ms(pair.0, start_ms);
        let is_in_order = self.running.is_none_or(|running| running.0 <= start_ms);
        assert!(is_in_order, "{pair:?} {start_ms} goes back: {self:?}");
        assert!(
            closes_ms <= now.unix_ms(),
            "{pair:?} {start_ms} closed early"
        );
        // It was closed with others that hold the pair, when this client had just subscribed.
        let is_old = closes_ms <= self.since.unix_ms();
        if is_old {
            assert!(closes_ms + GRID_MS >= self.since.unix_ms() && self.closed_ms.is_none());
        } else {
            let next = market.next_closed(pair, self.closed_ms, self.since.unix_ms());
            assert_eq!(next, Some(start_ms), "{pair:?}: lost, or not in order");
        }
        let late_ms = now.unix_ms() - closes_ms;
        assert!(!fast || late_ms <= GRID_MS, "{pair:?} {late_ms} ms late");
        self.closed_ms = Some(start_ms);
    }

    /// A closed candle that had to come by now.
    fn closed_due(&self, now: Now, market: &Market, pair: &Pair) -> Option<i64> {
        let next_ms = market.next_closed(pair, self.closed_ms, self.since.unix_ms());
        next_ms.filter(|start_ms| market.closes_ms(pair.0, *start_ms) + GRID_MS < now.unix_ms())
    }

    /// The newest state had to come by now.
    fn running_due(&self, now: Now, market: &Market, pair: &Pair) -> Option<(i64, usize)> {
        let (start_ms, candle) = market.running(now, pair)?;
        // At the same moment the trade may have come first or the subscription.
        let running_ms = now.unix_ms() - start_ms - market.grace_ms;
        let runs_us = now.mono_us.saturating_sub(1_000 * running_ms as u64);
        let changed_us = candle.changed_us.max(runs_us);
        // The candle before may have been about to close when the client subscribed.
        let since_ms = self.since.unix_ms();
        let was_closing = self.running.is_some_and(|(start_ms, _)| {
            let closes_ms = market.closes_ms(pair.0, start_ms);
            (closes_ms..=closes_ms + GRID_MS).contains(&since_ms)
        });
        let due_us = match changed_us < self.since.mono_us && !was_closing {
            true => self.since.mono_us,
            false => changed_us.max(self.since.mono_us) + SPACING_US + 1_000 * GRID_MS as u64,
        };
        let state = (start_ms, candle.trades.len());
        (now.mono_us >= due_us && self.running != Some(state)).then_some(state)
    }
}

/// The candles of one client.
#[derive(Debug, Default)]
pub(super) struct Seen(BTreeMap<Pair, View>);

impl Seen {
    /// The response to a request made at `since` has come: these symbols of the interval are held.
    pub(super) fn held(
        &mut self,
        market: &Market,
        since: Now,
        interval: usize,
        symbols: &[String],
    ) {
        let of = |symbol: &String| (interval, symbol.clone());
        let held: BTreeSet<Pair> = symbols.iter().map(of).collect();
        self.0.retain(|pair, view| {
            let stays = pair.0 != interval || held.contains(pair);
            let lost = view.closed_due(since, market, pair);
            assert!(stays || lost.is_none(), "{pair:?}: {lost:?} never came");
            stays
        });
        for pair in held {
            self.0.entry(pair).or_insert(View {
                since,
                closed_ms: None,
                running: None,
                running_us: None,
            });
        }
    }

    /// A candle has come; `fast`: the client has always read everything.
    pub(super) fn got(
        &mut self,
        now: Now,
        market: &Market,
        text: &str,
        data: &Value,
        fast: bool,
    ) -> bool {
        let interval = INTERVALS.iter().position(|of| data["interval"] == of.0);
        let symbol = data["symbol"].as_str().expect("a symbol").to_owned();
        let pair = (interval.expect("an interval"), symbol);
        let start_ms = data["start"].as_i64().expect("a start");
        let count = data["trades"].as_u64().expect("a number") as usize;
        let closed = data["closed"] == true;
        let trades = &market.candles[&pair][&start_ms].trades;
        assert!((1..=trades.len()).contains(&count), "{text}");
        let partial = data["partial"] == true;
        let wanted = message(&pair, start_ms, &trades[..count], closed, partial);
        assert_eq!(text, wanted);
        let (may, must) = market.partial(now, &pair, start_ms, closed);
        assert!(may || !partial, "{text}: {:?}", market.away);
        assert!(
            partial || !must || !closed && !fast,
            "{text}: {:?}",
            market.away
        );
        let view = self.0.get_mut(&pair);
        let view = view.unwrap_or_else(|| panic!("not held: {text}"));
        if closed {
            assert_eq!(count, trades.len(), "{text}");
            view.closed(now, market, &pair, start_ms, fast);
        } else {
            view.running(now, market, &pair, (start_ms, count), fast);
        }
        closed
    }

    /// What had to come by now.
    pub(super) fn due(&self, now: Now, market: &Market) -> Option<String> {
        self.0.iter().find_map(|(pair, view)| {
            let closed = view.closed_due(now, market, pair);
            let running = view.running_due(now, market, pair);
            let is_due = closed.is_some() || running.is_some();
            is_due.then(|| format!("{pair:?}: closed {closed:?}, running {running:?}; {view:?}"))
        })
    }
}
