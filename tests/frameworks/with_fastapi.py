"""A service with FastAPI on uvicorn, with_fastapi.py PORT: the answers of the table, and FastAPI's ways to say nothing."""
import sys

import uvicorn
from answers import ANSWERS, asked
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

app = FastAPI()


def refused(status, detail=None):
    raise HTTPException(status, detail)


WAYS = {
    "return-none": lambda: None,
    "response-204": lambda: Response(status_code=204),
    "response": Response,
    "json-response-none": lambda: JSONResponse(None),
    "redirect": lambda: RedirectResponse("/elsewhere"),
    "http-exception": lambda: refused(404, "No such lobby"),
    "http-exception-204": lambda: refused(204),
    "raise": lambda: {}["missing"],
}


def answered(name):
    answer = ANSWERS[name]
    if answer.is_streamed:
        return StreamingResponse(answer.chunks(), answer.status, answer.headers)
    return Response(answer.body, answer.status, answer.headers)


@app.post("/gateway/handle")
async def handle(request: Request):
    kind, name = asked(await request.json())
    return WAYS[name]() if kind == "role" else answered(name)


@app.post("/measurement/gateway/handle", status_code=204)
async def no_content():
    return None


@app.post("/slash/gateway/handle/")
async def slash():
    return {}


BEGUN = []


async def dies(parts):
    for _ in range(parts):
        yield b"part"
    raise RuntimeError("a fault behind the head")


@app.post("/measurement/v1/jobs/dies/{parts}")
async def begin(parts: int):
    BEGUN.append(parts)
    return StreamingResponse(dies(parts), 201)


@app.get("/measurement/v1/jobs/begun")
async def begun():
    return len(BEGUN)


@app.api_route("/measurement/v1/jobs/{name}", methods=["GET", "HEAD"])
async def job(name: str):
    return answered(name)


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="critical")
