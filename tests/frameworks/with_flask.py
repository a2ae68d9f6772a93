"""A service with Flask on gunicorn, with_flask.py PORT: the answers of the table, and Flask's ways to say nothing."""
import sys

from answers import ANSWERS, asked
from flask import Flask, Response, abort, jsonify, redirect, request
from gunicorn.app.base import BaseApplication

app = Flask(__name__)
WAYS = {
    "empty-204": lambda: ("", 204),
    "response-204": lambda: Response(status=204),
    "empty-text": lambda: "",
    "jsonify-none": lambda: jsonify(None),
    "jsonify-204": lambda: (jsonify(None), 204),
    "redirect": lambda: redirect("/elsewhere"),
    "abort": lambda: abort(404),
    "return-none": lambda: None,
}


def answered(name):
    answer = ANSWERS[name]
    return Response(answer.chunks() if answer.is_streamed else answer.body, answer.status, answer.headers)


@app.post("/gateway/handle")
def handle():
    kind, name = asked(request.json)
    return WAYS[name]() if kind == "role" else answered(name)


@app.post("/slash/gateway/handle/")
def slash():
    return {}


@app.get("/measurement/v1/jobs/<name>")
def job(name):
    return answered(name)


class Server(BaseApplication):
    """gunicorn with settings of a program."""

    def load_config(self):
        for name, value in {"bind": f"127.0.0.1:{sys.argv[1]}", "worker_class": "gthread", "threads": 4, "loglevel": "critical"}.items():
            self.cfg.set(name, value)

    def load(self):
        return app


Server().run()
