"""The table of answers for services in Python: what stands in answers.json, as bytes."""
import base64
import json
import pathlib

TABLE = json.loads((pathlib.Path(__file__).parent / "answers.json").read_text())


class Answer:
    """A row of the table."""

    def __init__(self, row):
        self.status, self.is_streamed = row["status"], row.get("streamed", False)
        self.body = base64.b64decode(row["base64"]) if "base64" in row else row["body"].encode()
        self.headers = {"Content-Type": row["type"], **row.get("headers", {})}

    def chunks(self):
        """A streamed body, byte by byte."""
        return (self.body[place:place + 1] for place in range(len(self.body)))


ANSWERS = {row["name"]: Answer(row) for row in TABLE["answers"]}



def asked(message):
    """(`lobby` or `role`, name) of a call: an answer of the table, or a way of the framework."""
    return tuple(message["message"]["event"].split("."))
