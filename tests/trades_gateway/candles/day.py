"""The candles of a list of trades in the order of their arrival, one in a line."""
import json
import sys
from decimal import Decimal
from itertools import groupby

trades = json.load(sys.stdin, parse_float=Decimal)
for interval, ms in (("1s", 1_000), ("1m", 60_000), ("5m", 300_000)):
    trades.sort(key=lambda trade: (trade["symbol"], trade["timestamp"]))
    for (symbol, start), group in groupby(trades, lambda trade: (trade["symbol"], trade["timestamp"] // ms * ms)):
        prices, volumes = zip(*((trade["price"], trade.get("volume", 0)) for trade in group))
        print(symbol, interval, start, prices[0], max(prices), min(prices), prices[-1], sum(volumes), len(prices))
