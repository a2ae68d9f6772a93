#!/usr/bin/env bash
# Makes target/peers/fastapi, a Python environment with FastAPI, uvicorn and nats-py.
# The server is then: target/peers/fastapi/bin/python loadtest/peers/fastapi/server.py
set -euo pipefail
cd "$(dirname "$0")/../../.."
python3 -m venv target/peers/fastapi
target/peers/fastapi/bin/python -m pip install -q --disable-pip-version-check -r loadtest/peers/fastapi/requirements.txt
