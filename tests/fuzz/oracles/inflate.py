"""Messages with permessage-deflate (RFC 7692 §7.2), read by the zlib of Python."""
import zlib

TAIL, END = b"\x00\x00\xff\xff", b"\x01\x00\x00\xff\xff"

# What comes out at once, so that a match has to lie in the window: zlib looks for it in its output too.
PIECE_BYTES = 128


def text(window, message, bits=15):
    """The text of a message after the text in the window; None where the message cannot be read."""
    if not message:
        return b""
    state = zlib.decompressobj(-bits, zdict=window[-(1 << bits):]) if window else zlib.decompressobj(-bits)
    out, rest = [], message
    try:
        while True:
            out.append(state.decompress(rest, PIECE_BYTES if bits < 15 else 0))
            rest = state.unconsumed_tail
            if not rest:
                break
        if state.eof:
            # A last block, and at most the empty block whose tail was cut off.
            return b"".join(out) if state.unused_data in (b"", b"\0") else None
        out.append(state.decompress(TAIL))
        if state.eof:
            return None
        out.append(state.decompress(END))
    except zlib.error:
        return None
    return b"".join(out) if state.eof and not state.unused_data else None


def deflated(bits, window, message, body):
    ours = text(window, message, bits[0])
    if ours == body:
        return ""
    return f"{len(message)} bytes are {'nothing' if ours is None else len(ours)}, not {len(body)} bytes of text"


def inflated(window, message):
    """Whether the message can be read, and its text."""
    made = text(window, message)
    return [b""] if made is None else [b"1", made]
