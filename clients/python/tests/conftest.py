"""The fixtures of the rig of the black-box tests."""
from tls import authority, local_certificate  # noqa: F401
from fixtures import led_over_tls, pytest_pyfunc_call, redis_server, service, start_weirgate, started  # noqa: F401
