"""The line protocol of the client programs (see ../README.md): what all clients in Python share."""
import asyncio
import os
import sys
import threading

URL, PROTOCOLS = sys.argv[1], sys.argv[2:]
sys.stdin.reconfigure(encoding="utf-8", newline="\n")
sys.stdout.reconfigure(encoding="utf-8", newline="\n", line_buffering=True)


def show(word, value=""):
    """A line for the driver: `open PROTOCOL`, `text TEXT`, `closed CODE`, `failed WHY`."""
    print(word, "" if value is None else " ".join(str(value).splitlines()) if word == "failed" else value)


def show_message(message):
    """The line of a message: only a text is what was published."""
    show("text", message) if isinstance(message, str) else show("failed", f"with a message of type {type(message)}")


def commands():
    """Yields (`send` or `close`, text or code) from the driver; the end of its lines ends the program."""
    for line in sys.stdin:
        word, _, rest = line.rstrip("\n").partition(" ")
        yield word, int(rest) if word == "close" else rest


def obey(send, close):
    """Carries out the driver's lines in a thread, beside a blocking client."""
    def run():
        try:
            for word, value in commands():
                (close if word == "close" else send)(value)
        except Exception as error:
            show("failed", repr(error))
        os._exit(0)
    threading.Thread(target=run, daemon=True).start()


async def obey_async(send, close):
    """The same for coroutines, in the event loop of the caller."""
    loop = asyncio.get_running_loop()

    def wait_for(call):
        return lambda value: asyncio.run_coroutine_threadsafe(call(value), loop).result()
    obey(wait_for(send), wait_for(close))
