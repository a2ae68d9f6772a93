//! Candles: the trades of each symbol, gathered by interval. An extension of the contract.
//!
//! Trades and time go in, messages for topics come out; no clock and no socket. All symbols with trades have candles,
//! watched or not, so that the first watcher of a symbol gets a whole candle. A candle that may lack trades is marked. A
//! watcher is a member of the topic of a symbol and an interval; only watched pairs make messages and have deadlines.
//! Only symbols with candles count for the limit on pairs: the bus alone decides about these, while clients may watch any
//! name.
//!
//! Charts take the candles of a pair in the order of time only. So a candle is shown when the interval before it takes no
//! more trades, though its own trades may come up to the grace time earlier.
//!
//! While a stream is not read to its end, candles end by the time up to which it is read (`coverage`), and all deadlines
//! wait for it: a candle that is closed has what was stored by then.
//!
//! | file | owns |
//! | --- | --- |
//! | `mod` | all symbols, watches, deadlines |
//! | `coverage` | since when no trade was missed, and up to when all were read |
//! | `interval` | intervals, and the topics of candles |
//! | `series` | the open candles of a symbol and an interval; late trades |
//! | `trade` | reading a trade |

mod coverage;
mod interval;
mod series;
mod trade;

use std::collections::BTreeSet;
use std::sync::Arc;

use self::coverage::Coverage;
use self::series::Series;
use self::trade::Trade;
use crate::gateways::shared::counts::{Count, labelled};
use weirgate_core::{BusNotice, ConflationKey, TopicName};
use weirgate_wire::base::{ChunkedSlab, ExtendibleMap, Now};

pub(super) use self::interval::{CANDLES, Interval};
pub(super) use self::series::CandleState;

/// The time between two messages about a running candle: four messages a second.
const SPACING_US: u64 = 250_000;

/// Deadlines are rounded up to a multiple of this, so that many pairs share a wake-up of the loop.
const GRID_US: u64 = 10_000;

/// The most that a trade may be ahead of the clock, so that early trades open only few candles.
const EARLY_MS_MAX: i64 = 10_000;

/// The longest symbol with candles, bytes: no client can name a longer one, because ten UTF-16 units in upper case have at
/// most six bytes each.
const SYMBOL_BYTES_MAX: usize = 60;

/// The time between two searches for symbols that can be forgotten, while there is no room for a new symbol.
const SWEEP_INTERVAL_US: u64 = 1_000_000;

/// The most slots that one call of such a search looks at; the next call continues.
const SWEEP_SLOTS_MAX: usize = 256;

/// The time between two looks whether the clock was set: deadlines were computed from it.
const CLOCK_INTERVAL_US: u64 = 1_000_000;

/// Settings of candles.
#[derive(Clone, Debug)]
pub struct CandleSettings {
    /// How long after its end a candle accepts trades; then the candle is closed.
    pub grace_ms: u32,
    /// The most pairs of a symbol and an interval, counting only symbols with candles.
    pub pairs_max: usize,
}

/// The default has room for 10,000 symbols, with three pairs each.
impl Default for CandleSettings {
    fn default() -> Self {
        Self {
            grace_ms: 500,
            pairs_max: 30_000,
        }
    }
}

/// A trade of the bus.
#[derive(Clone, Copy, Debug)]
pub(super) struct RelayedTrade<'a> {
    pub(super) symbol: &'a str,
    /// As clients get it.
    pub(super) message: &'a [u8],
    /// When it arrived; of an old trade, when it was stored.
    pub(super) received: Now,
    /// Whether the stream had it before the start.
    pub(super) is_old: bool,
}

/// A message for the members of a topic.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Update {
    pub(super) topic: TopicName,
    /// A newer running candle replaces a running candle of the pair that waits. Nothing replaces a closed candle, and no
    /// running candle from before comes after it.
    pub(super) state: CandleState,
    pub(super) key: ConflationKey,
    pub(super) message: String,
}

/// Why a trade is not in a candle.
#[derive(Clone, Copy, Debug)]
enum Dropped {
    /// The candle was closed; a trade counts once for each interval whose candle lacks it.
    Late,
    /// The timestamp is too far ahead of the clock.
    Early,
    /// No price, or the price or timestamp is not a number.
    Unreadable,
    /// The limit on pairs of a symbol and an interval is reached.
    PairsMax,
    /// The symbol is longer than any that a client can name.
    LongSymbol,
}

/// Labels of [`Dropped`], in its order.
const REASONS: [&str; 5] = ["late", "early", "unreadable", "pairs_max", "long_symbol"];

/// Counters of candles, for metrics.
#[derive(Debug, Default)]
pub struct CandleStats {
    /// Pairs of a symbol and an interval, counting only symbols with candles.
    pub pairs: Count,
    /// Symbols in requests that were refused because of the limit on pairs.
    pub limited: Count,
    dropped: [Count; REASONS.len()],
}

impl CandleStats {
    /// Trades missing in candles, by reason.
    pub fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> {
        labelled(REASONS, &self.dropped)
    }

    fn count_dropped(&self, why: Dropped) {
        self.dropped[why as usize].add(1);
    }
}

/// A symbol and an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    slot: u32,
    interval: Interval,
}

impl Pair {
    /// The key stays the same while the symbol is kept, and so while the topic has members.
    fn conflation_key(self) -> ConflationKey {
        let intervals = Interval::ALL.len() as u64;
        ConflationKey(u64::from(self.slot) * intervals + self.interval as u64)
    }
}

#[derive(Debug)]
struct Symbol {
    name: Arc<str>,
    series: [Series; Interval::ALL.len()],
    watches: [Option<Box<PairWatch>>; Interval::ALL.len()],
    /// Trades up to this time, Unix milliseconds, may have been dropped because there was no room.
    full_until_ms: i64,
}

impl Symbol {
    fn has_candles(&self) -> bool {
        !self.series.iter().all(Series::is_empty)
    }
}

/// The state of a pair while its topic has members.
#[derive(Debug)]
struct PairWatch {
    topic: TopicName,
    /// When the running candle was last sent.
    sent_us: Option<u64>,
    /// The oldest open candle has changed since, or was never sent.
    is_changed: bool,
    /// The pair's entry in [`Candles::due`].
    due_us: Option<u64>,
}

/// The candles of all symbols.
#[derive(Debug, Default)]
pub(super) struct Candles {
    settings: CandleSettings,
    stats: Arc<CandleStats>,
    slots: ExtendibleMap<Arc<str>, u32>,
    symbols: ChunkedSlab<Symbol>,
    /// Slots of the symbols with candles, which alone count for the limit.
    with_candles: ExtendibleMap<u32, ()>,
    /// When to handle each watched pair next. An entry may be too early, but never too late.
    due: BTreeSet<(u64, Pair)>,
    /// By how much the clock was ahead of the monotonic clock at the last look.
    clock_ahead_us: i64,
    /// When to look next, on the monotonic clock.
    clock_due_us: u64,
    coverage: Coverage,
    /// The time of the newest trade that was dropped because there was no room, Unix milliseconds.
    full_until_ms: i64,
    next_sweep_us: u64,
    /// The next slot of the current search; 0 if no search is unfinished.
    sweep_from: usize,
}

impl Candles {
    pub(super) fn new(settings: CandleSettings, stats: Arc<CandleStats>) -> Self {
        Self {
            settings,
            stats,
            ..Self::default()
        }
    }

    /// Handles a notice of the bus.
    pub(super) fn note(&mut self, now: Now, notice: &BusNotice) {
        self.coverage.note(now, notice);
    }

    /// Takes a trade of the bus.
    pub(super) fn take(&mut self, now: Now, relayed: RelayedTrade<'_>, out: &mut Vec<Update>) {
        let RelayedTrade { symbol, is_old, .. } = relayed;
        self.coverage.note_trade(now, relayed.received, is_old);
        let trade = match self.read(now, relayed) {
            Ok(trade) => trade,
            Err(why) => return self.count_dropped(is_old, why),
        };
        // This check also keeps the arithmetic below far from an overflow.
        if trade.at_ms < self.horizon_ms(now) - Interval::LONGEST.ms() {
            let late = |_| self.count_dropped(is_old, Dropped::Late);
            return Interval::ALL.into_iter().for_each(late);
        }
        if !self.make_room(now, [symbol]) {
            self.full_until_ms = self.full_until_ms.max(trade.at_ms);
            return self.count_dropped(is_old, Dropped::PairsMax);
        }
        let slot = self.slot_or_insert(symbol);
        // While the symbol had no candles, its trades may have been dropped.
        if !self.with_candles.contains_key(&slot) {
            self.symbols[slot].full_until_ms = self.full_until_ms;
        }
        for interval in Interval::ALL {
            let pair = Pair { slot, interval };
            self.close(now, pair, out);
            if let Err(why) = self.add(now, pair, &trade) {
                self.count_dropped(is_old, why);
            }
            self.show(now, pair, out);
        }
        self.count_or_forget(slot);
    }

    /// Makes room for the candles of one more symbol, unless all of these have candles. Returns false if the limit is
    /// reached.
    pub(super) fn make_room<'a>(
        &mut self,
        now: Now,
        symbols: impl IntoIterator<Item = &'a str>,
    ) -> bool {
        let has_candles = |slot: &u32| self.with_candles.contains_key(slot);
        let mut symbols = symbols.into_iter();
        if symbols.all(|symbol| self.slots.get(symbol).is_some_and(has_candles)) {
            return true;
        }
        // With those of one more symbol.
        let pairs = |count: usize| (count + 1) * Interval::ALL.len();
        let has_room = |this: &Self| pairs(this.with_candles.len()) <= this.settings.pairs_max;
        if !has_room(self) && (self.sweep_from > 0 || now.mono_us >= self.next_sweep_us) {
            self.next_sweep_us = now.mono_us + SWEEP_INTERVAL_US;
            self.sweep(now);
        }
        has_room(self)
    }

    /// Handles the first member of a topic.
    pub(super) fn watch(&mut self, now: Now, interval: Interval, symbol: &str) {
        let slot = self.slot_or_insert(symbol);
        let pair = Pair { slot, interval };
        if self.watch_of(pair).is_some() {
            return;
        }
        // Candles that ended without a watcher are not sent.
        self.close(now, pair, &mut Vec::new());
        let horizon_ms = self.horizon_ms(now);
        let known = &mut self.symbols[slot];
        let series = &mut known.series[interval as usize];
        known.watches[interval as usize] = Some(Box::new(PairWatch {
            topic: interval.topic(symbol),
            sent_us: None,
            // Each new member gets the running candle; one that is to run later is sent then.
            is_changed: !series.is_empty() && series.show_running(horizon_ms).is_none(),
            due_us: None,
        }));
        self.arm(now, pair);
        self.count_or_forget(slot);
    }

    /// Handles a topic whose last member has left.
    pub(super) fn unwatch(&mut self, now: Now, interval: Interval, symbol: &str) {
        let Some(&slot) = self.slots.get(symbol) else {
            return;
        };
        let watch = self.symbols[slot].watches[interval as usize].take();
        if let Some(due_us) = watch.and_then(|watch| watch.due_us) {
            self.due.remove(&(due_us, Pair { slot, interval }));
        }
        self.forget_ended(now, slot);
    }

    /// Returns the running candle, for a new member of the topic.
    pub(super) fn running(&mut self, now: Now, interval: Interval, symbol: &str) -> Option<Update> {
        let slot = *self.slots.get(symbol)?;
        self.update(now, Pair { slot, interval })
    }

    /// The time at which [`Self::follow_clock`] and [`Self::handle_next`] are due, on the monotonic clock.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        let (due_us, _) = self.due.first()?;
        Some(self.clock_due_us.min(self.coverage.reached_us(*due_us)))
    }

    /// Computes all deadlines anew if the clock was set, or the machine was suspended, since they were computed: they are
    /// times of the monotonic clock, and candles end by the other one.
    pub(super) fn follow_clock(&mut self, now: Now) {
        if now.mono_us < self.clock_due_us {
            return;
        }
        self.clock_due_us = now.mono_us + CLOCK_INTERVAL_US;
        let ahead_us = now.unix_us.saturating_sub_unsigned(now.mono_us);
        if ahead_us.abs_diff(self.clock_ahead_us) <= GRID_US {
            return;
        }
        self.clock_ahead_us = ahead_us;
        for (_, pair) in std::mem::take(&mut self.due) {
            if let Some(watch) = self.watch_of(pair) {
                watch.due_us = None;
            }
            self.arm(now, pair);
        }
    }

    /// Closes the candles of the next pair after their grace time, and sends its running candle if it has changed. Returns
    /// false if no pair is due. At the end of a minute all are, and each may have very many members: the caller asks
    /// after each pair whether there is time.
    pub(super) fn handle_next(&mut self, now: Now, out: &mut Vec<Update>) -> bool {
        let due = self.due.first().copied();
        let clock_us = self.coverage.clock_us(now);
        let Some((_, pair)) = due.filter(|(due_us, _)| *due_us <= clock_us) else {
            return false;
        };
        self.due.pop_first();
        if let Some(watch) = self.watch_of(pair) {
            watch.due_us = None;
        }
        self.close(now, pair, out);
        self.show(now, pair, out);
        self.count_or_forget(pair.slot);
        true
    }

    /// Returns true if there is no watcher and no deadline.
    pub(super) fn is_unwatched(&self) -> bool {
        let mut watches = self.symbols.iter().flat_map(|(_, symbol)| &symbol.watches);
        self.due.is_empty() && watches.all(Option::is_none)
    }

    // ---- inside

    /// Reads a trade that a candle may take, unless it is too late.
    fn read(&self, now: Now, relayed: RelayedTrade<'_>) -> Result<Trade, Dropped> {
        if relayed.symbol.len() > SYMBOL_BYTES_MAX {
            return Err(Dropped::LongSymbol);
        }
        let trade = Trade::read(relayed.message).ok_or(Dropped::Unreadable)?;
        match trade.at_ms > now.unix_ms() + EARLY_MS_MAX {
            true => Err(Dropped::Early),
            false => Ok(trade),
        }
    }

    /// Counts a trade that is in no candle. Candles of before the start are nobody's, so old trades do not count.
    fn count_dropped(&self, is_old: bool, why: Dropped) {
        if !is_old {
            self.stats.count_dropped(why);
        }
    }

    /// The time by which candles end less the grace time, Unix milliseconds: intervals that ended by then take no more
    /// trades.
    fn horizon_ms(&self, now: Now) -> i64 {
        now.unix_ms_at(self.coverage.clock_us(now)) - i64::from(self.settings.grace_ms)
    }

    fn watch_of(&mut self, pair: Pair) -> Option<&mut PairWatch> {
        self.symbols[pair.slot].watches[pair.interval as usize].as_deref_mut()
    }

    /// The slot of a symbol. A new symbol gets one, without candles.
    fn slot_or_insert(&mut self, symbol: &str) -> u32 {
        if let Some(slot) = self.slots.get(symbol) {
            return *slot;
        }
        let name: Arc<str> = Arc::from(symbol);
        let slot = self.symbols.insert(Symbol {
            name: Arc::clone(&name),
            series: Interval::ALL.map(Series::new),
            watches: [const { None }; Interval::ALL.len()],
            full_until_ms: self.full_until_ms,
        });
        self.slots.insert(name, slot);
        slot
    }

    /// Adds a trade to a candle.
    ///
    /// # Errors
    /// The candle takes no more trades.
    fn add(&mut self, now: Now, pair: Pair, trade: &Trade) -> Result<(), Dropped> {
        let horizon_ms = self.horizon_ms(now);
        let symbol = &mut self.symbols[pair.slot];
        let added = symbol.series[pair.interval as usize].add(trade, horizon_ms);
        let added = added.map_err(|series::Late| Dropped::Late)?;
        if let Some(watch) = &mut symbol.watches[pair.interval as usize] {
            watch.is_changed |= added == series::Added::Oldest;
        }
        Ok(())
    }

    /// Closes candles after their grace time; sends each of these candles to the watchers.
    fn close(&mut self, now: Now, pair: Pair, out: &mut Vec<Update>) {
        let horizon_ms = self.horizon_ms(now);
        let grace_ms = i64::from(self.settings.grace_ms);
        let symbol = &mut self.symbols[pair.slot];
        let series = &mut symbol.series[pair.interval as usize];
        while let Some(candle) = series.close(horizon_ms) {
            let Some(watch) = &mut symbol.watches[pair.interval as usize] else {
                continue;
            };
            // The next candle was not sent yet.
            watch.is_changed = !series.is_empty();
            let until_ms = candle.start_ms + pair.interval.ms() + grace_ms;
            let taken = (candle.start_ms, until_ms);
            let partial = self.coverage.partial(now, taken, symbol.full_until_ms);
            out.push(Update {
                topic: watch.topic.clone(),
                state: CandleState::Closed,
                key: pair.conflation_key(),
                message: candle.message(&symbol.name, pair.interval, CandleState::Closed, partial),
            });
        }
    }

    /// Sends the running candle if it has changed and is due.
    fn show(&mut self, now: Now, pair: Pair, out: &mut Vec<Update>) {
        let Some(watch) = self.watch_of(pair) else {
            return;
        };
        let is_due = |sent_us: u64| now.mono_us >= sent_us + SPACING_US;
        if watch.is_changed
            && watch.sent_us.is_none_or(is_due)
            && let Some(update) = self.update(now, pair)
            && let Some(watch) = self.watch_of(pair)
        {
            watch.is_changed = false;
            watch.sent_us = Some(now.mono_us);
            out.push(update);
        }
        self.arm(now, pair);
    }

    /// The running candle as a message; `None` if there is none, or no watcher. From then on no earlier candle may start.
    fn update(&mut self, now: Now, pair: Pair) -> Option<Update> {
        let horizon_ms = self.horizon_ms(now);
        let grace_ms = i64::from(self.settings.grace_ms);
        let symbol = &mut self.symbols[pair.slot];
        let candle = symbol.series[pair.interval as usize].show_running(horizon_ms)?;
        let watch = symbol.watches[pair.interval as usize].as_ref()?;
        // As a closed candle, it says nothing of what was stored in the last moments: this may come yet.
        let taken = (candle.start_ms, now.unix_ms() - grace_ms);
        let partial = self.coverage.partial(now, taken, symbol.full_until_ms);
        Some(Update {
            topic: watch.topic.clone(),
            state: CandleState::Running,
            key: pair.conflation_key(),
            message: candle.message(&symbol.name, pair.interval, CandleState::Running, partial),
        })
    }

    /// Sets the deadline of a watched pair.
    fn arm(&mut self, now: Now, pair: Pair) {
        let grace_ms = i64::from(self.settings.grace_ms);
        let clock_us = self.coverage.clock_us(now);
        let symbol = &mut self.symbols[pair.slot];
        let Some(watch) = &mut symbol.watches[pair.interval as usize] else {
            return;
        };
        let series = &symbol.series[pair.interval as usize];
        let graced_us = |at_ms: i64| {
            let wait_us = 1_000 * (at_ms + grace_ms - now.unix_ms());
            now.mono_us.saturating_add_signed(wait_us)
        };
        let shown_us = watch.is_changed.then(|| {
            // 0: at once. A candle that was never sent has no message before it. Without a next start, it runs already.
            let spaced_us = watch.sent_us.unwrap_or(0) + SPACING_US;
            series.next_start_ms().map_or(0, graced_us).max(spaced_us)
        });
        let closed_us = series.next_end_ms().map(graced_us);
        let Some(due_us) = shown_us.into_iter().chain(closed_us).min() else {
            return;
        };
        let due_us = (due_us.max(clock_us + 1)).next_multiple_of(GRID_US);
        if watch.due_us.is_some_and(|armed_us| armed_us <= due_us) {
            return;
        }
        if let Some(armed_us) = watch.due_us.replace(due_us) {
            self.due.remove(&(armed_us, pair));
        }
        self.due.insert((due_us, pair));
    }

    /// In some slots, forgets candles that ended without a watcher, and symbols without candles.
    fn sweep(&mut self, now: Now) {
        let end = (self.sweep_from + SWEEP_SLOTS_MAX).min(self.symbols.numbers());
        for slot in self.sweep_from as u32..end as u32 {
            if self.with_candles.contains_key(&slot) {
                self.forget_ended(now, slot);
            }
        }
        let rest = Some(end).filter(|end| *end < self.symbols.numbers());
        self.sweep_from = rest.unwrap_or_default();
    }

    /// Forgets the ended candles of unwatched pairs.
    fn forget_ended(&mut self, now: Now, slot: u32) {
        for interval in Interval::ALL {
            if self.symbols[slot].watches[interval as usize].is_none() {
                self.close(now, Pair { slot, interval }, &mut Vec::new());
            }
        }
        self.count_or_forget(slot);
    }

    /// Counts the symbol if it has candles. If it has neither candles nor watchers, forgets it.
    fn count_or_forget(&mut self, slot: u32) {
        let symbol = &self.symbols[slot];
        let is_changed = match symbol.has_candles() {
            true => self.with_candles.insert(slot, ()).is_none(),
            false => self.with_candles.remove(&slot).is_some(),
        };
        if is_changed {
            let pairs = self.with_candles.len() * Interval::ALL.len();
            self.stats.pairs.set(pairs);
        }
        if !symbol.has_candles() && symbol.watches.iter().all(Option::is_none) {
            let symbol = self.symbols.remove(slot);
            self.slots.remove(&symbol.name);
        }
    }
}

#[cfg(test)]
mod tests;
