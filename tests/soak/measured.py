"""How the programs here start: they measure the release build, whoever starts them."""
import os
import pathlib
import sys

from processes import StartError, weirgate_binary


def run(parser, main):
    """Calls `main` with the arguments, and exits with its status. TEST_BUILD=debug or TEST_BINARY=FILE is another program."""
    args = parser.parse_args()
    os.environ["TEST_BUILD"] = os.environ.get("TEST_BUILD") or "release"
    name = pathlib.Path(parser.prog).stem
    try:
        print(f"{name}: measures {weirgate_binary()}", flush=True)
        sys.exit(main(args))
    except StartError as error:
        sys.exit(f"{name}: {error}")
