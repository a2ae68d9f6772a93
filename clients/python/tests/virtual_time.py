"""Virtual time of the random programs."""


def advance(world, ms):
    """Lets time pass for `world.core`; due timers fire on the way, and `world.drain` takes what comes of them."""
    end = world.now + ms
    while (due := world.core.poll_deadline()) is not None and due <= end:
        world.now = max(world.now, due)
        world.core.handle_timer(world.now)
        world.drain()
    world.now = end
