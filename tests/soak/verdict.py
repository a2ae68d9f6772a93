"""What is wrong with a gateway at the end of the soak: what its watchers saw, and its counters beside what it was given."""


def of_stage(stage, metrics):
    """Yields what is wrong, in words."""
    for watcher in stage.watchers:
        if not watcher.open:
            yield f"a watcher was closed with {watcher.close_code}"
    for follower in stage.followers():
        follower.finish()
    explained = 0
    for sequence in stage.sequences:
        if sequence.older or sequence.twice:
            yield f"{sequence.name}: {sequence.older} older after newer, {sequence.twice} twice"
        bare, count = sequence.lost(*stage.explanations())
        explained += count
        if bare:
            yield f"{sequence.name}: {sum(bare.values())} lost without an outage, numbers {sorted(bare)[:10]}"
    yield from handed_and_taken(stage, metrics, explained)
    if metrics.sum("weirgate_frames_sent_total") < stage.messages_seen:
        yield f"{metrics.sum('weirgate_frames_sent_total'):.0f} frames sent, but the watchers saw {stage.messages_seen}"


def handed_and_taken(stage, metrics, explained):
    """What the broker handed over must be what the gateway counted, outages apart."""
    total = lambda name: int(metrics.sum(f"weirgate_{name}"))
    if stage.name == "events":
        if total("pushes_total") != stage.handed:
            yield f"{stage.handed} pushes were accepted, but {total('pushes_total')} counted"
        if total("frames_sent_total") < stage.requests + stage.handed:
            yield "fewer frames sent than responses and pushes seen"
        return
    counted = sum(total(f"bus_messages_{name}total") for name in ("", "bad_", "ignored_"))
    # Redis gives everything to a connection at once, so an outage loses what was under way; NATS keeps all of it.
    least = stage.handed - explained_losses(stage)
    most = stage.handed + stage.handed_perhaps
    if not least <= counted <= most:
        yield (f"{stage.handed} messages were handed over (and {stage.handed_perhaps} perhaps), but {counted} counted; "
               f"at least {least} expected")
    if explained and stage.name != "levels" and not total("bus_gaps_total"):
        yield "watchers lost messages in an outage, but weirgate_bus_gaps_total is 0"


def explained_losses(stage):
    """How many messages were published so close to an outage that they may not have arrived."""
    outages = stage.explanations()[0]
    return sum(outages.covers(at) for sequence in stage.sequences for at in sequence.at)


def summary(stage, metrics):
    """A line of the end."""
    missed = sum(sum(sequence.missed.values()) for sequence in stage.sequences)
    text = (f"{stage.name:8} {sum(len(s.at) for s in stage.sequences)} published, {stage.messages_seen} seen by watchers, "
            f"{missed} missed around outages, {int(metrics.sum('weirgate_bus_gaps_total'))} gaps counted")
    if stage.name == "events":
        text += f", {stage.requests} requests ({stage.errors} errors), {stage.proxied} through the proxy ({stage.proxy_errors} errors)"
    return text
