"""The rig's fixtures, for every test here."""
from fixtures import nats, pytest_pyfunc_call, redis_server, sentinel, service, start_nats, start_weirgate, started  # noqa: F401
