"""The matchers of a case (check_transcripts.py lists them) against a message, a header or an answer."""
import datetime
import json
import math
import re
import time
import uuid


class Fail(Exception):
    """The program did something else than the case says."""


def no_const(s):
    raise ValueError("not JSON: " + s)


def parse_json(text):
    """JSON as RFC 8259 has it: without NaN and Infinity."""
    return json.loads(text, parse_constant=no_const)


def is_num(v):
    return isinstance(v, (int, float)) and not isinstance(v, bool)


def match(m, v, ctx, path="$"):
    """None if v fits m, else a line saying where not."""
    if isinstance(m, str) and m.startswith("$"):
        return match_place(m, v, ctx, path)
    if isinstance(m, dict):
        if not isinstance(v, dict):
            return f"{path}: want object, got {short(v)}"
        for k, mv in m.items():
            if mv == "$absent":
                if k in v:
                    return f"{path}.{k}: want absent, got {short(v[k])}"
                continue
            if k not in v:
                return f"{path}.{k}: missing"
            e = match(mv, v[k], ctx, f"{path}.{k}")
            if e:
                return e
        if not ctx.get("loose"):
            extra = [k for k in v if k not in m]
            if extra:
                return f"{path}: extra keys {extra}"
        return None
    if isinstance(m, list):
        if not isinstance(v, list):
            return f"{path}: want array, got {short(v)}"
        if len(m) != len(v):
            return f"{path}: want {len(m)} elements, got {len(v)}: {short(v)}"
        for i, (a, b) in enumerate(zip(m, v)):
            e = match(a, b, ctx, f"{path}[{i}]")
            if e:
                return e
        return None
    if isinstance(m, bool) or isinstance(v, bool) or m is None or v is None:
        return None if m is v else f"{path}: want {short(m)}, got {short(v)}"
    if is_num(m) and is_num(v):
        return None if m == v else f"{path}: want {m}, got {v}"
    return None if type(m) is type(v) and m == v else f"{path}: want {short(m)}, got {short(v)}"


def match_place(m, v, ctx, path):
    """The same for a matcher that is a place: `$name` or `$name:argument`."""
    bad = f"{path}: want {m}, got {short(v)}"
    binds = ctx["binds"]
    name, _, arg = m[1:].partition(":")
    if name == "any":
        return None
    if name == "int":
        return None if isinstance(v, int) and not isinstance(v, bool) else bad
    if name == "number":
        return None if is_num(v) else bad
    if name == "num":
        return None if is_num(v) and math.isclose(v, float(arg), rel_tol=1e-9) else bad
    if name == "string":
        return None if isinstance(v, str) else bad
    if name == "bool":
        return None if isinstance(v, bool) else bad
    if name == "ms":
        return None if isinstance(v, int) and not isinstance(v, bool) and abs(v - time.time() * 1000) < 5000 else bad
    if name == "iso":
        if not isinstance(v, str) or not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", v):
            return bad
        t = re.sub(r"\.(\d{1,6})\d*", lambda g: "." + g.group(1).ljust(6, "0"), v.replace("Z", "+00:00"))
        try:
            dt = datetime.datetime.fromisoformat(t)
        except ValueError:
            return bad
        return None if abs(dt.timestamp() - time.time()) < 5 else bad + " (not within 5 s of now)"
    if name == "uuid":
        try:
            return None if isinstance(v, str) and str(uuid.UUID(v)) == v.lower() else bad
        except ValueError:
            return bad
    if name == "i":
        return None if v == ctx.get("i") and is_num(v) else f"{path}: want {ctx.get('i')}, got {short(v)}"
    if name == "seq":
        last = ctx["seqs"].get(ctx["who"], -1)
        if not isinstance(v, int) or isinstance(v, bool):
            return bad
        if v <= last:
            return f"{path}: seq {v} not above the last one seen, {last}"
        ctx["new_seq"] = v
        return None
    if name == "prefix":
        return None if isinstance(v, str) and v.startswith(arg) else bad
    if name == "re":
        return None if isinstance(v, str) and re.search(arg, v) else bad
    if name == "same":
        if arg not in binds:
            binds[arg] = v
            return None
        return None if binds[arg] == v else f"{path}: want the same as before ({short(binds[arg])}), got {short(v)}"
    if name == "not":
        return None if binds.get(arg) != v else f"{path}: want another value than {short(v)}"
    if name == "gt":
        return None if is_num(v) and v > binds.get(arg, math.inf) else f"{path}: want above {binds.get(arg)}, got {short(v)}"
    return f"{path}: unknown matcher {m}"


def short(v, n=220):
    """A value as text, shortened for a message."""
    s = v if isinstance(v, str) else json.dumps(v, ensure_ascii=False, default=repr)
    return s if len(s) <= n else s[:n] + f"…({len(s)})"
