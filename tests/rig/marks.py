"""Marked secrets and hostile texts, and what of them a text for people may not have."""
import base64
import dataclasses
import re

# Part of each secret, several times, so that a part of a secret is found too.
SECRET = "Qs7Kv4Zxw"
# In each id of a device, which the log shows as a hash, and the operator's page as it is: there it is the name of a topic.
DEVICE = "Dv3Tn8Ykp"
# In each hostile text, to see that such texts arrive.
HOSTILE = "Hx5Lq2Wmd"
ODD = ["@", ":", "/", "?", "#", ",", "%", "&", "=", "+", '"', "'", "\\", " ", "ü", "漢", "<", "[", "}", "|", "^", "~", ";", "$", "!", "%40", "://", "**", "``"]
# The first line of a forged entry; no log of a test has this time.
FORGED_TIME = "2001-01-01T00:00:00.000000Z"
FORGED = f"{FORGED_TIME}  WARN weirgate: forged"
STEERING = [
    "\x1b[2J", "\x1b]0;title\x07", "\x07", "\x08\x08", "\t", "\r", f"\n{FORGED}", f"\r\n{FORGED}", f'\n{{"level":"WARN","timestamp":"{FORGED_TIME}"}}',
    "\0", "\x7f", "\x9b31m", "\x85", "\u202e", "\u2066", "\u200f", "\u061c", "\u200b", "\u2028", "\u2029", "\ufeff", "\u00ad", "\U000e0041", "x" * 3000,
    "%1b%5b2J", "\\u001b[2J", "\\x1b", "&#27;", '"', "\\", "<script>alert(1)</script>", "🙂", "é" * 300,
]
# Bytes that are no UTF-8, among others.
BYTES = [b"\xff\xfe", b"\x9b2J", b"\xc3(", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"]


def secret(rng, odd=True):
    """A secret; `odd`: with the characters that separate the parts of URLs, lists and files."""
    pieces = [SECRET + rng.choice(ODD if odd else ["a", "7", "-", "_"]) for _ in range(rng.randint(3, 6))]
    return "".join(pieces) + SECRET


def hostile(rng, steering=None):
    """A text that steers a terminal, reorders a line or forges one."""
    pieces = [rng.choice(steering or STEERING) for _ in range(rng.randint(1, 3))]
    return HOSTILE + HOSTILE.join(pieces) + rng.choice(["", HOSTILE])


def hostile_bytes(rng):
    """The same as bytes, sometimes with some that are no UTF-8."""
    text = hostile(rng).encode()
    return text + rng.choice(BYTES) + text if rng.random() < 0.3 else text


def device_id(rng):
    """A device's id, hostile too."""
    return (DEVICE + hostile(rng, ["\x1b[2J", "\u202e", "\r\n", "\0"]))[:200]


def _coded(mark):
    """The letters that base64 makes of the mark, wherever it begins."""
    for ahead in range(3):
        text = base64.b64encode(b"\0" * ahead + mark.encode()).decode().rstrip("=")
        yield text[(ahead * 8 + 5) // 6:len(text) - 1]


def _shown(mark):
    """The mark as it is, in hexadecimal digits and in base64."""
    return re.compile("|".join([f"(?i:{mark})", f"(?i:{mark.encode().hex()})", *map(re.escape, _coded(mark))]))


STEERS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]")
FORGED_LINE = re.compile(rf'^(?:{FORGED_TIME}|\{{"level":"WARN","timestamp":"{FORGED_TIME})', re.M)
KINDS = [("a secret", _shown(SECRET)), ("a character that steers", STEERS), ("a forged line", FORGED_LINE)]
OF_LOGS = [("a device's id", _shown(DEVICE))]
AROUND = 60


@dataclasses.dataclass
class Findings:
    """What was looked at, and what should not be there."""
    lines: int = 0
    texts: int = 0
    hostile: int = 0
    faults: list = dataclasses.field(default_factory=list)

    def look(self, where, data, kinds=()):
        """Looks at a text for people, whole lines of it, and for more kinds of marks."""
        self.texts += 1
        self.lines += data.count(b"\n")
        self.hostile += data.count(HOSTILE.encode())
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            self.faults.append((where, "no UTF-8", data[max(0, error.start - AROUND):error.start + AROUND]))
            text = data.decode(errors="replace")
        for what, pattern in [*KINDS, *kinds]:
            if found := pattern.search(text):
                self.faults.append((where, what, text[max(0, found.start() - AROUND):found.end() + AROUND]))
