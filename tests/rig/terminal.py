"""A terminal for the programs under test."""
import fcntl
import os
import pty
import re
import struct
import termios
import threading


SEQUENCE = re.compile(r"\x1b\[([\d;?]*)([a-zA-Z])|\x1b.")


def screen(text):
    """The lines of a terminal after this text of a program that places the cursor before each write."""
    lines, row, column, at = {}, 0, 0, 0
    while at < len(text):
        found = SEQUENCE.match(text, at)
        if found is None:
            if text[at] == "\n":
                row, column = row + 1, 0
            elif text[at] == "\r":
                column = 0
            else:
                lines.setdefault(row, {})[column] = text[at]
                column += 1
            at += 1
            continue
        at = found.end()
        if found[2] == "H":
            row, column = ([int(n or 1) - 1 for n in found[1].split(";")] + [0])[:2]
        elif found[2] == "J" or found[1] == "?1049":
            lines = {}
    width = lambda cells: max(cells, default=-1) + 1
    return ["".join(cells.get(n, " ") for n in range(width(cells))).rstrip() for _, cells in sorted(lines.items())]


class Terminal:
    """A terminal of this many columns and lines; `text` is the output so far."""

    def __init__(self, columns=200, lines=50):
        self.master, self.slave = pty.openpty()
        self.resize(columns, lines)
        self.text = ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def resize(self, columns, lines):
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys):
        os.write(self.master, keys.encode())

    def settings(self):
        """Echo, line editing and the like."""
        return termios.tcgetattr(self.slave)

    def end(self):
        """All that was written, by programs that have ended."""
        os.close(self.slave)
        self.reader.join(10)
        os.close(self.master)
        return self.text.replace("\r\n", "\n")

    def _read(self):
        try:
            while data := os.read(self.master, 65536):
                self.text += data.decode(errors="replace").replace("\r\n", "\n")
        except OSError:
            pass  # EIO: no process has the terminal open any more.
