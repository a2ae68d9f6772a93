"""The fixtures of the rig of the black-box tests."""
from fixtures import pytest_pyfunc_call, redis_server, service, start_weirgate, started  # noqa: F401
