"""The rig's fixtures and its order of the tests, for every test here."""
import gc

from certificates import certificates, other_certificates  # noqa: F401
from tls import authority, local_certificate, start_tls  # noqa: F401
from fixtures import led_over_tls, nats, pytest_pyfunc_call, redis_server, sentinel, service, start_nats, start_sentinel, start_weirgate, started  # noqa: F401
from lanes import pytest_collection_modifyitems  # noqa: F401


def pytest_collection_finish():
    """What every worker has imported and collected stays to its end: no walk of the garbage collector finds anything in it."""
    gc.freeze()
