"""The shares of `--memory-max`."""

# Not shared out: the program without clients (PROGRAM_BYTES of src/settings/typed.rs).
PROGRAM = 24 * 1024 * 1024


def memory_for(share_bytes, thousandths):
    """--memory-max with which a limit of so many thousandths has this share."""
    return share_bytes // thousandths * 1_000 + PROGRAM
