"""Payloads of trades and channels, and the requests of the gateways (contracts trades, channels, events)."""
import datetime
import json
import unicodedata

from strict import DEPTH_MAX, NOW_MS, Bad, Number, difference, is_number, is_text, loads, parsed


def trades(channel, payload, topic, body):
    # Unlike in the replaced gateway a symbol may have colons; the topics of candles are no symbols.
    parts = channel.decode().split(":", 2)
    fields = ("symbol", "price", "volume", "timestamp", "conditions", "exchange")
    try:
        value = loads(payload)
        if len(parts) != 3 or parts[2].startswith("candle:") or not isinstance(value, dict):
            raise Bad("channel or object")
    except Bad as bad:
        return "" if body == b"bad" else f"Python refuses ({bad}), weirgate sends {body!r}"
    if body == b"bad":
        return "weirgate refuses"
    if topic.decode() != parts[2]:
        return f"topic {topic!r}"
    python = {"type": "trade", "data": {key: value[key] for key in fields if key in value}, "timestamp": Number(NOW_MS)}
    return difference(parsed(body), python)


def iso():
    moment = datetime.datetime.fromtimestamp(NOW_MS // 1000, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{NOW_MS % 1000:03}"


def channels(channel, pattern, payload, body):
    if not payload:
        return "" if not body else f"weirgate sends {body!r}"
    try:
        data = loads(payload)
    except Bad:
        data = {"raw": payload.decode("utf-8", "replace")}
    ours = parsed(body)
    stamp = ours.pop("timestamp", "")
    if not stamp.startswith(iso()):
        return f"timestamp {stamp}"
    python = {"type": "data", "seq": Number(1), "channel": channel.decode(), "pattern": pattern.decode() or None, "data": data}
    return difference(ours, python)


def channels_requests(*parts):
    held, patterns = [], 0
    for seq, (message, answer) in enumerate(zip(parts[::2], parts[1::2]), 2):
        ours = loads(answer, 10 * DEPTH_MAX)
        python, held = channels_answer(message, held)
        stamp = ours.pop("timestamp", "")
        ours_seq = ours.pop("seq", None)
        if not stamp.startswith(iso()) or ours_seq != Number(seq):
            return f"{answer!r}: timestamp or number"
        if python["type"] == "error" and python.get("error") == "channels must be a list of strings":
            # For a person.
            ours["error"] = python["error"] if ours.get("error", "").startswith("channels must") else ours.get("error")
        if "action" in python:
            # An action that is no text is shown as the text that it came as; here the values count.
            shown = ours.pop("error", "").removeprefix("Unknown action: ")
            ours["action"] = parsed(shown)
        found = difference(ours, python, message[:200].decode("utf-8", "replace"), ordered=False)
        if found:
            return found
    return ""


def channels_answer(message, held):
    try:
        value = loads(message)
    except Bad:
        return {"type": "error", "error": "Invalid JSON", "requestId": None}, held
    if not isinstance(value, dict):
        return {"type": "error", "error": "Message must be a JSON object", "requestId": None}, held
    request_id, action = value.get("requestId"), value.get("action")
    names = value.get("channels", [])

    def error(text):
        return {"type": "error", "error": text, "requestId": request_id}, held

    if action in ("subscribe", "unsubscribe") and is_text(action):
        if not isinstance(names, list) or not all(map(is_text, names)):
            return error("channels must be a list of strings")
        if len(names) > 1000:
            return error("channels must have at most 1000 entries")
    if is_text(action) and action == "subscribe":
        granted, errors, held = [], [], list(held)
        for name in names:
            if len(held) >= 5:
                errors.append("Max channels exceeded (5)")
                break
            is_pattern = "*" in name or "?" in name
            if len(name.encode()) > 40:
                errors.append("Channel name too long (max 40 bytes)")
            elif is_pattern and sum("*" in one or "?" in one for one in held) >= 2:
                errors.append("Max wildcard subscriptions exceeded (2)")
            else:
                granted.append(name)
                held += [] if name in held else [name]
        return {"type": "subscribed", "channels": granted, "errors": errors, "requestId": request_id}, held
    if is_text(action) and action == "unsubscribe":
        gone, held = [], list(held)
        for name in names:
            if name in held:
                held.remove(name)
                gone.append(name)
        return {"type": "unsubscribed", "channels": gone, "requestId": request_id}, held
    if is_text(action) and action == "ping":
        return {"type": "pong", "requestId": request_id}, held
    if action is None:
        return error("Unknown action: None")
    if is_text(action):
        return error(f"Unknown action: {action}")
    return {"type": "error", "action": action, "requestId": request_id}, held


def units(text):
    return len(text.encode("utf-16-le")) // 2


def trades_requests(*parts):
    held = {None: [], "1s": [], "1m": [], "5m": []}
    for message, answer in zip(parts[::2], parts[1::2]):
        ours = loads(answer, 10 * DEPTH_MAX)
        if any(unicodedata.category(c) == "Cn" for c in message.decode()) or b"\\u" in message:
            # Letters that this Python does not know have no capitals here; the rest cannot be told apart.
            return ""
        python, held = trades_answer(message, held)
        python["timestamp"] = Number(NOW_MS)
        text = python.get("message", "")
        if text.endswith(("…", ": …")) and ours.get("message", "").startswith(text.rstrip("…")):
            python["message"] = ours["message"]
        found = difference(ours, python, message[:200].decode("utf-8", "replace"))
        if found:
            return found
    return ""


def trades_answer(message, held):
    def error(text):
        return {"type": "error", "message": text}, held

    try:
        value = loads(message)
    except Bad:
        return error("Invalid message: …")
    action = value.get("action") if isinstance(value, dict) else None
    if not is_text(action):
        return error("Invalid message format: missing action field")
    if action == "ping":
        return {"type": "pong"}, held
    verb, _, rest = action.partition("_")
    if verb not in ("subscribe", "unsubscribe") or rest not in ("", "candles") or (not rest and "_" in action):
        return error(f"Unknown action: {action}")
    symbols = value.get("symbols")
    good = isinstance(symbols, list) and symbols and all(is_text(one) and 1 <= units(one) <= 10 for one in symbols)
    if not good or (verb == "subscribe" and len(symbols) > 5):
        return error(f"Invalid {action} message: …")
    interval = value.get("interval") if rest else None
    if rest and not (is_text(interval) and interval in ("1s", "1m", "5m")):
        return error(f"Invalid {action} message: interval is not 1s, 1m or 5m")
    asked, mine = list(dict.fromkeys(symbol.upper() for symbol in symbols)), held[interval]
    of = "candles of " if rest else ""
    if verb == "subscribe":
        changed, count = [symbol for symbol in asked if symbol not in mine], sum(map(len, held.values()))
        if changed and count + len(changed) > 5:
            return error(f"Cannot subscribe: would exceed maximum of 5 symbols per connection. "
                         f"Currently subscribed to {count} symbols.")
        text = f"Successfully subscribed to {of}{len(changed)} symbol(s)" if changed else \
            f"Already subscribed to {of}all requested symbols"
        mine = mine + changed
    else:
        changed = [symbol for symbol in asked if symbol in mine]
        text = f"Successfully unsubscribed from {of}{len(changed)} symbol(s)" if changed else \
            f"Not subscribed to {of}any of the requested symbols"
        mine = [symbol for symbol in mine if symbol not in changed]
    held = {**held, interval: mine}
    data = {"interval": interval} if rest else {}
    data |= {f"{verb}d": changed, "currentSubscriptions": mine}
    return {"type": "success", "message": text, "data": data}, held


def service_of(event):
    family, dot, name = event.partition(".")
    if not dot:
        return None
    if family in ("lobby", "role"):
        return "lobby"
    if family == "analysis":
        return "measurement"
    if family == "measurement":
        return "measurement" if name in ("create_job", "get_job", "get_audio_info") else "lobby"
    return "simulation" if family == "simulation" else None


def is_device(value):
    return is_text(value) and 1 <= len(value) <= 200


def events_message(message):
    if len(message) > 2_000:
        return None, ("message_too_large", "Message exceeds MAX_MESSAGE_BYTES")
    bad = None, ("bad_request", "Invalid JSON message")
    try:
        value = loads(message)
    except Bad:
        return bad
    if not isinstance(value, dict):
        return bad
    event, request_id, data = value.get("event"), value.get("request_id"), value.get("data", {})
    if not is_text(event) or not event or not (request_id is None or is_text(request_id)) or not isinstance(data, dict):
        return bad
    return (event, request_id, data), None


def events_requests(named, calls, *parts):
    device = "d" if named == b"named" else None
    calls = calls.decode().split("\n") if calls else []
    waits = False
    for message, answer in zip(parts[::2], parts[1::2]):
        if waits:
            # A call before it is not answered.
            if answer:
                return f"{answer!r} before the call's answer"
            continue
        read, wrong = events_message(message)
        event, request_id, data = read or ("gateway", None, None)
        if read and device is None:
            if event != "identify":
                wrong = "unauthenticated", "Identify first"
            elif not is_device(data.get("device_id")):
                wrong = "bad_request", "identify requires data.device_id"
            else:
                device = data["device_id"]
                python = {"type": "response", "event": event, "request_id": request_id,
                          "data": {"device_id": device}, "error": None}
                found = difference(parsed(answer), python)
                if found:
                    return found
                continue
        elif read:
            service = service_of(event)
            if service:
                waits = True
                if answer or not calls:
                    return f"{answer!r} in place of a call for {event}"
                name, _, body = calls[0].partition(" ")
                body = parsed(body)
                client = body["client"]
                python = {"event": event, "request_id": request_id, "data": data}
                found = difference(body["message"], python, "message")
                if found or name != service or client["device_id"] != device or client["ip"] != "127.0.0.1":
                    return found or f"{calls[0]} for {service} and {device}"
                continue
            wrong = "unknown_event", f"Unknown event '{event}'"
        python = {"type": "error", "event": event, "request_id": request_id, "data": None,
                  "error": {"code": wrong[0], "message": wrong[1], "details": None}}
        found = difference(parsed(answer), python)
        if found:
            return found
    # What waits behind a call is forwarded once its client has gone, when the call has ended.
    return "" if len(calls) == int(waits) else f"{len(calls)} calls"


def broadcasts(data, ours):
    ours = loads(ours, DEPTH_MAX + 4)

    def places():
        try:
            value = loads(data.decode(json.detect_encoding(data)).encode())
        except (Bad, UnicodeDecodeError):
            return "json"
        if not isinstance(value, dict):
            return [["body"]]
        wrong = []
        event, payload, targets = value.get("event"), value.get("data", {}), value.get("targets")
        if not is_text(event) or not event:
            wrong.append(["body", "event"])
        if not isinstance(payload, dict):
            wrong.append(["body", "data"])
        if not isinstance(targets, dict):
            wrong.append(["body", "targets"])
        else:
            ids = targets.get("device_ids", [])
            if not isinstance(ids, list):
                wrong.append(["body", "targets", "device_ids"])
            else:
                wrong += [["body", "targets", "device_ids", Number(at)] for at, one in enumerate(ids) if not is_text(one)]
        if wrong:
            return wrong
        return {"event": event, "data": payload, "device_ids": targets.get("device_ids", [])}

    python = places()
    if isinstance(python, dict):
        return difference(ours, python)
    if "detail" not in ours:
        return f"weirgate takes it, Python refuses at {python}"
    found = [one["loc"] for one in ours["detail"]]
    if python == "json":
        return "" if len(found) == 1 and len(found[0]) == 2 and is_number(found[0][1]) else f"{found} for what is not JSON"
    return difference(found, python)
