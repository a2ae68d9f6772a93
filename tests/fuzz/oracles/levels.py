"""The normalisation of levels (contract levels)."""
import datetime
import decimal
import math
import re
import zoneinfo

from strict import NOW_MS, Bad, Number, as_float, difference, is_number, is_text, is_truthy, loads, parsed

NEW_YORK = zoneinfo.ZoneInfo("America/New_York")
TS_MAX = 9_223_372_036_854


def milliseconds(ts):
    if re.fullmatch("-?[0-9]+", ts):
        ms = int(ts) if len(ts) < 100 else TS_MAX + 1
    else:
        ms = as_float(ts)
        ms = int(ms) if abs(ms) <= TS_MAX else TS_MAX + 1
    if abs(ms) > TS_MAX:
        raise Bad("ts")
    return ms


def session(ms):
    moment = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(milliseconds=ms)
    day = moment.astimezone(NEW_YORK).date()
    midnight = datetime.datetime(day.year, day.month, day.day, tzinfo=NEW_YORK).astimezone(datetime.timezone.utc)
    since = (moment - midnight) // datetime.timedelta(milliseconds=1) - 34_200_000
    return 0 <= since < 15 * 60_000, min(max(since, 0) // 60_000, 240)


def part(level, key):
    value = level.get(key)
    if isinstance(value, dict):
        return value
    if is_truthy(value):
        raise Bad(key)
    return {}


def identity(value):
    """An id as a value: numbers by what they are worth."""
    if value is True:
        return "true"
    if is_number(value):
        mantissa, _, exponent = value.lower().partition("e")
        if len(exponent) > 15:
            # Too large to be worth anything; weirgate takes them for one another.
            return ("far", value)
        sign, digits, scale = decimal.Decimal(mantissa).as_tuple()
        text = "".join(map(str, digits)).lstrip("0")
        short = text.rstrip("0")
        return ("number", sign, short, scale + len(text) - len(short) + int(exponent or 0))
    return ("text", value)


def targets_of(viewport):
    if viewport is not None and not isinstance(viewport, dict):
        if is_truthy(viewport):
            raise Bad("viewport")
        return {}
    found = {}
    if viewport and "targets" in viewport:
        targets = viewport["targets"]
        if targets is None or isinstance(targets, bool) or is_number(targets):
            raise Bad("targets")
        for target in targets if isinstance(targets, list) else []:
            if not isinstance(target, dict):
                continue
            level_id = target.get("level_id")
            if not is_truthy(level_id):
                continue
            if isinstance(level_id, (list, dict)):
                raise Bad("level_id")
            found[identity(level_id)] = target
    return found


def five_thousandth(depth_in_zone):
    if depth_in_zone is True:
        return 1 / 5000
    if not is_number(depth_in_zone) or not is_truthy(depth_in_zone):
        return 0.0
    if math.isinf(as_float(depth_in_zone)):
        raise Bad("depth_in_zone")
    if re.fullmatch("-?[0-9]+", depth_in_zone):
        return int(depth_in_zone) / 5000
    return as_float(depth_in_zone) / 5000


def level_of(level, targets, first_15m, bars):
    for key in ("id", "signal"):
        if isinstance(level.get(key), (list, dict)):
            raise Bad(key)
    barrier, tape, fuel = part(level, "barrier"), part(level, "tape"), part(level, "fuel")
    sweep = part(tape, "sweep")
    n = Number

    def mapped(key, words, default):
        value = level.get(key)
        if not is_truthy(value):
            return default
        return words.get(value, value) if is_text(value) else value

    wall_ratio = level.get("wall_ratio")
    if wall_ratio is None:
        wall_ratio = five_thousandth(barrier.get("depth_in_zone"))
    smooth = level.get("break_score_smooth")
    out = {
        "id": level.get("id", ""),
        "level_price": level.get("price", n("0.0")),
        "level_kind_name": level.get("kind", "UNKNOWN"),
        "direction": mapped("direction", {"SUPPORT": "DOWN", "RESISTANCE": "UP"}, "UP"),
        "distance": level.get("distance", n("0.0")),
        "is_first_15m": first_15m,
        "barrier_state": barrier.get("state", "NEUTRAL"),
        "barrier_delta_liq": barrier.get("delta_liq", n("0.0")),
        "barrier_replenishment_ratio": barrier.get("replenishment_ratio", n("0.0")),
        "wall_ratio": wall_ratio,
        "tape_imbalance": tape.get("imbalance", n("0.0")),
        "tape_velocity": tape.get("velocity", n("0.0")),
        "tape_buy_vol": tape.get("buy_vol", n("0")),
        "tape_sell_vol": tape.get("sell_vol", n("0")),
        "sweep_detected": is_truthy(sweep.get("detected")),
        "gamma_exposure": fuel.get("net_dealer_gamma", n("0.0")),
        "fuel_effect": fuel.get("effect", "NEUTRAL"),
        "approach_velocity": level.get("approach_velocity", n("0.0")),
        "approach_bars": level.get("approach_bars", n("0")),
        "approach_distance": level.get("approach_distance", n("0.0")),
        "prior_touches": level.get("prior_touches", n("0")),
        "bars_since_open": n(bars),
        "break_score_raw": level.get("break_score_raw", n("0.0")),
        "break_score_smooth": level.get("break_score_raw", n("0.0")) if smooth is None else smooth,
        "signal": mapped("signal", {"REJECT": "BOUNCE", "CONTESTED": "NO_TRADE", "NEUTRAL": "NO_TRADE"}, "CHOP"),
        "confidence": level.get("confidence", "LOW"),
        "note": level.get("note"),
        "confluence_count": level.get("confluence_count", n("0")),
        "confluence_pressure": level.get("confluence_pressure", n("0.0")),
        "confluence_alignment": level.get("confluence_alignment", n("0")),
        "confluence_level": level.get("confluence_level", n("0")),
        "confluence_level_name": level.get("confluence_level_name", "UNDEFINED"),
    }
    level_id = level.get("id")
    target = targets.get(identity(level_id)) if is_truthy(level_id) else None
    if target is not None:
        zeros = ("p_tradeable_2", "p_no_trade", "p_break", "p_bounce", "strength_signed", "strength_abs", "utility_score")
        predictions = {key: target.get(key, n("0.0")) for key in zeros}
        predictions["stage"] = target.get("stage", "stage_a")
        predictions["time_to_threshold"] = target.get("time_to_threshold", {})
        predictions["retrieval"] = target.get("retrieval", {})
        out["ml_predictions"] = predictions
    return out


def normalised(data):
    message = loads(data)
    if not isinstance(message, dict):
        raise Bad("no object")
    ts = message.get("ts")
    if not is_truthy(ts):
        ts = Number(NOW_MS)
    elif not is_number(ts):
        raise Bad("ts")
    first_15m, bars = session(milliseconds(ts))
    viewport = message.get("viewport")
    targets = targets_of(viewport)
    spy = message.get("spy")
    out = {"ts": ts, "spy": spy if isinstance(spy, dict) else dict.fromkeys(("spot", "bid", "ask"))}
    for key, value in message.items():
        if key not in ("ts", "spy", "levels", "flow", "viewport") and isinstance(value, dict) and "spot" in value:
            out[key] = value
    levels = message.get("levels", [])
    if levels is None or isinstance(levels, bool) or is_number(levels):
        raise Bad("levels")
    if isinstance(levels, dict):
        levels = levels.get("levels", [])
    levels = levels if isinstance(levels, list) else []
    out["levels"] = [level_of(level, targets, first_15m, bars) for level in levels if isinstance(level, dict)]
    return out, viewport


def levels(data, out, viewport):
    far = re.search(rb"[eE][-+]?[0-9]{15}", data)
    try:
        python, python_viewport = normalised(data)
    except Bad as bad:
        return "" if out == b"bad" or far else f"Python refuses ({bad}), weirgate sends {out!r}"
    if far:
        return ""
    if out == b"bad":
        return f"weirgate refuses, Python has {python}"
    found = difference(parsed(out), python)
    if found:
        return found
    if python_viewport is None:
        return "" if not viewport else f"viewport {viewport!r}, Python has none"
    return difference(parsed(viewport), python_viewport, "viewport")
