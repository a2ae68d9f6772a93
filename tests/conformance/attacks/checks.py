"""A check of the abuse suite: its name, its group, and how it ends."""
MB = 1 << 20
CHECKS = []


class Fail(Exception):
    """The server did not do as wanted."""


class Skip(Exception):
    """This server cannot be asked."""


def check(name, group="frames"):
    """Adds a function of the target to the checks; what it returns is printed beside its name."""
    def deco(f):
        CHECKS.append((name, group, f))
        return f
    return deco


def need(cond, why):
    if not cond:
        raise Fail(why)
