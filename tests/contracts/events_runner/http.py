"""HTTP/1.1 of the events cases: requests as a step has them, and the pieces that the fake services use too."""
import asyncio
import base64
import json
import random


def gen_bytes(g):
    """The bytes that a case names by their making."""
    if "repeat" in g:
        return (g["repeat"] * g["times"]).encode()
    return random.Random(g.get("seed", 1)).randbytes(g["bytes"])


def hdr_pairs(h):
    """Headers of a case, an object or a list of pairs, as pairs."""
    if not h:
        return []
    return [tuple(x) for x in h] if isinstance(h, list) else list(h.items())


def head(first_line, hs):
    """The head of a request or an answer."""
    return first_line + "\r\n" + "".join(f"{k}: {v}\r\n" for k, v in hs) + "\r\n"


async def read_head(r):
    """Reads a head: its first line, and the headers with names in lower case."""
    raw = await r.readuntil(b"\r\n\r\n")
    lines = raw.decode("latin-1").split("\r\n")
    hs = []
    for ln in lines[1:]:
        if ln:
            k, _, v = ln.partition(":")
            hs.append((k.strip().lower(), v.strip()))
    return lines[0], hs


async def read_chunked(r):
    """Reads a body in chunks, with its trailers."""
    out = b""
    while True:
        n = int((await r.readline()).split(b";")[0], 16)
        if n == 0:
            while (await r.readline()).strip():
                pass
            return out
        out += await r.readexactly(n)
        await r.readexactly(2)


def write_chunked(w, body, size):
    """Writes a body in chunks of this size (RFC 9112 section 7.1)."""
    for i in range(0, len(body), size):
        c = body[i:i + size]
        w.write(b"%x\r\n" % len(c) + c + b"\r\n")
    w.write(b"0\r\n\r\n")


def multipart(m, hs):
    """A body of fields and files."""
    b = m.get("boundary", "----oracle-boundary")
    body = b""
    for k, v in m.get("fields", {}).items():
        body += f'--{b}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode()
    for f in m.get("files", []):
        body += (f'--{b}\r\nContent-Disposition: form-data; name="{f["name"]}"; filename="{f["filename"]}"\r\n'
                 f'Content-Type: {f.get("content_type", "application/octet-stream")}\r\n\r\n').encode() + gen_bytes(f) + b"\r\n"
    hs.append(("Content-Type", f"multipart/form-data; boundary={b}"))
    return body + f"--{b}--\r\n".encode()


def request_body(spec, hs):
    """The body of a request, or None; adds its Content-Type to the headers."""
    if "json" in spec:
        if "content-type" not in {k.lower() for k, _ in hs}:
            hs.append(("Content-Type", "application/json"))
        return json.dumps(spec["json"], ensure_ascii=False).encode()
    if "text" in spec:
        return spec["text"].encode()
    if "body_b64" in spec:
        return base64.b64decode(spec["body_b64"])
    if "body_gen" in spec:
        return gen_bytes(spec["body_gen"])
    if "multipart" in spec:
        return multipart(spec["multipart"], hs)
    return None


async def http_request(host, port, spec, ctx):
    """Sends the request of a step: (status, headers, body)."""
    hs = hdr_pairs(spec.get("headers"))
    low = {k.lower() for k, _ in hs}
    body = request_body(spec, hs)
    ctx["sent"] = body or b""
    if "host" not in low:
        hs.insert(0, ("Host", f"{host}:{port}"))
    if body is not None and not spec.get("chunked") and "content-length" not in low:
        hs.append(("Content-Length", str(len(body))))
    if spec.get("chunked"):
        hs.append(("Transfer-Encoding", "chunked"))
    r, w = await asyncio.open_connection(host, port, limit=1 << 22)
    try:
        w.write(head(f"{spec.get('method', 'GET')} {spec['path']} HTTP/1.1", hs).encode("utf-8"))
        if body is not None:
            if spec.get("chunked"):
                write_chunked(w, body, 5000)
            else:
                w.write(body)
        await w.drain()
        while True:
            line, rh = await read_head(r)
            status = int(line.split(" ")[1])
            if status != 100:
                break
        h = dict(rh)
        if spec.get("method") == "HEAD" or status in (204, 304):
            b = b""
        elif "chunked" in h.get("transfer-encoding", ""):
            b = await read_chunked(r)
        elif "content-length" in h:
            b = await r.readexactly(int(h["content-length"]))
        else:
            b = await r.read()
        return status, rh, b
    finally:
        w.close()
