"""A service behind `weirgate events`, as small as one can be: deploy/compose.events.yaml runs it three times.

NAME says which of the three it is, PORT where it listens, GATEWAY_URL and INTERNAL_AUTH_TOKEN how it pushes.
Python's standard library only. It forgets everything when it ends.
"""
import json
import os
import secrets
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME = os.environ["NAME"]
LOBBIES, JOBS, LOCK = {}, {}, threading.Lock()


class Refused(Exception):
    """What a client did wrong: status and detail of the answer."""


def push(event, data, device_ids):
    """Sends an event to devices; the number of connections that got it."""
    body = json.dumps({"event": event, "data": data, "targets": {"device_ids": device_ids}}).encode()
    headers = {"Content-Type": "application/json", "X-Internal-Token": os.environ["INTERNAL_AUTH_TOKEN"]}
    request = urllib.request.Request(os.environ["GATEWAY_URL"] + "/internal/broadcast", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)["sent"]
    except OSError as error:
        # The call that caused the push has succeeded all the same.
        print(f"{NAME}: cannot push {event}: {error}", file=sys.stderr, flush=True)
        return 0


def lobby_create(device, _):
    lobby = {"lobby_id": secrets.token_hex(8), "code": secrets.token_hex(3).upper(), "devices": [device]}
    with LOCK:
        LOBBIES[lobby["code"]] = lobby
    return {"lobby_id": lobby["lobby_id"], "code": lobby["code"]}


def lobby_join(device, data):
    if "code" not in data:
        raise Refused(400, "Missing 'code' in data")
    with LOCK:
        lobby = LOBBIES.get(data["code"])
        if lobby is None:
            raise Refused(404, "Lobby not found")
        others = list(lobby["devices"])
        lobby["devices"].append(device)
    push("lobby.updated", {"type": "participant_joined", "device_id": device}, others)
    return {"lobby_id": lobby["lobby_id"], "devices": lobby["devices"]}


def create_job(device, data):
    job = {"job_id": secrets.token_hex(8), "device_id": device, "data": data}
    with LOCK:
        JOBS[job["job_id"]] = job
    return {"job_id": job["job_id"]}


def run_simulation(_, data):
    return {"rt60_s": round(0.161 * data.get("volume_m3", 0) / max(data.get("absorption_m2", 1), 0.001), 3)}


EVENTS = {
    "lobby": {"lobby.create": lobby_create, "lobby.join": lobby_join},
    "measurement": {"measurement.create_job": create_job},
    "simulation": {"simulation.run": run_simulation},
}[NAME]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/gateway/handle":
            return self.answer(404, {"detail": "Not Found"})
        asked = json.loads(body)
        handle = EVENTS.get(asked["message"]["event"])
        if handle is None:
            return self.answer(404, {"detail": f"Unknown event '{asked['message']['event']}'"})
        try:
            self.answer(200, handle(asked["client"]["device_id"], asked["message"]["data"]))
        except Refused as refused:
            status, detail = refused.args
            self.answer(status, {"detail": detail})

    def do_GET(self):
        job = JOBS.get(self.path.removeprefix("/v1/jobs/"))
        if self.path == "/health":
            self.answer(200, {"status": "ok", "service": NAME})
        elif job is not None:
            self.answer(200, job)
        else:
            self.answer(404, {"detail": "Not Found"})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


port = int(os.environ.get("PORT", "8000"))
server = ThreadingHTTPServer(("", port), Handler)
print(f"{NAME}: listening on port {port}", flush=True)
server.serve_forever()
