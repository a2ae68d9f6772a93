"""The matchers of a case (check_events.py lists them) against a message, headers or a body."""
import base64
import hashlib
import ipaddress
import json
import re
import uuid


def is_made(make, got):
    """Whether a value is one that a constructor takes."""
    try:
        make(got)
    except Exception:
        return False
    return True


def fits_place(want, got):
    """Whether a value fits a matcher `$name` or `$name:argument`."""
    if want == "$int":
        return isinstance(got, int) and not isinstance(got, bool)
    if want == "$number":
        return isinstance(got, (int, float)) and not isinstance(got, bool)
    if want == "$string":
        return isinstance(got, str)
    if want == "$bool":
        return isinstance(got, bool)
    if want == "$uuid":
        return is_made(uuid.UUID, got)
    if want == "$ip":
        return is_made(ipaddress.ip_address, got)
    if want.startswith("$re:"):
        return isinstance(got, str) and re.search(want[4:], got, re.S) is not None
    if want.startswith("$prefix:"):
        return isinstance(got, str) and got.startswith(want[8:])
    return want == got


def diff(want, got, loose, path="$"):
    """None when got fits want, else a text."""
    if isinstance(want, str) and want.startswith("$"):
        if want == "$any":
            return None
        if want == "$absent":
            return f"{path}: should be absent, is {short(got)}"
        return None if fits_place(want, got) else f"{path}: want {want}, got {short(got)}"
    if isinstance(want, dict):
        if set(want) == {"$oneof"}:
            ds = [diff(w, got, loose, path) for w in want["$oneof"]]
            return None if any(d is None for d in ds) else ds[0]
        if not isinstance(got, dict):
            return f"{path}: want an object, got {short(got)}"
        for k, w in want.items():
            if k not in got:
                if w == "$absent":
                    continue
                return f"{path}.{k}: missing (want {short(w)}); got {short(got)}"
            d = diff(w, got[k], loose, f"{path}.{k}")
            if d:
                return d
        if not loose:
            extra = [k for k in got if k not in want]
            if extra:
                return f"{path}: extra keys {extra}; got {short(got)}"
        return None
    if isinstance(want, list):
        if not isinstance(got, list) or len(got) != len(want):
            return f"{path}: want {short(want)}, got {short(got)}"
        for i, (w, g) in enumerate(zip(want, got)):
            d = diff(w, g, loose, f"{path}[{i}]")
            if d:
                return d
        return None
    if isinstance(want, bool) or isinstance(got, bool):
        return None if want is got else f"{path}: want {short(want)}, got {short(got)}"
    return None if want == got else f"{path}: want {short(want)}, got {short(got)}"


def short(v, n=400):
    """A value as text, shortened for a message."""
    try:
        s = json.dumps(v, ensure_ascii=False) if not isinstance(v, bytes) else repr(v)
    except Exception:
        s = repr(v)
    return s if len(s) <= n else s[:n] + f"…({len(s)})"


def no_const(x):
    raise ValueError(f"{x} is not JSON")


def loads(b):
    """JSON as RFC 8259 has it: without NaN and Infinity."""
    return json.loads(b, parse_constant=no_const)


def check_headers(want, got):
    """got: list of (lower name, value); a name given twice is joined by ' | '."""
    m = {}
    for k, v in got:
        m[k] = m[k] + " | " + v if k in m else v
    for k, w in (want or {}).items():
        k = k.lower()
        if w == "$absent":
            if k in m:
                return f"header {k}: should be absent, is {m[k]!r}"
            continue
        if k not in m:
            return f"header {k}: missing (want {w!r}); got {m}"
        d = diff(w, m[k], False, f"header {k}")
        if d:
            return d
    return None


def check_body(spec, body, ctx, loose):
    """None when a body fits what a step says of it."""
    if "json" in spec:
        try:
            got = loads(body)
        except Exception:
            return f"body is not JSON: {short(body.decode('utf-8', 'replace'))}"
        return diff(spec["json"], got, loose)
    if "text" in spec:
        return diff(spec["text"], body.decode("utf-8", "replace"), loose, "body")
    if "body_b64" in spec:
        w = base64.b64decode(spec["body_b64"])
        return None if w == body else f"body: want {short(w)}, got {short(body)}"
    if "body" in spec:
        w = {"$sent": ctx.get("sent"), "$served": ctx.get("served"), "$empty": b""}[spec["body"]]
        if w != body:
            return (f"body: want {spec['body']} ({len(w or b'')} bytes sha {hashlib.sha256(w or b'').hexdigest()[:12]}), "
                    f"got {len(body)} bytes sha {hashlib.sha256(body).hexdigest()[:12]}: {short(body[:80])}")
    return None
