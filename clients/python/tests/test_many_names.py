"""A client with very many names, which change one after the other."""
import json

from weirgate.channels import ChannelsCore
from weirgate.status import StatusCore
from weirgate.outputs import Emit, Send

NAMES = [f"n:{n}" for n in range(4_000)]


class Core(ChannelsCore):
    looks = 0

    @property
    def cuts(self):
        """Goes through all names, as the other properties of all names do."""
        self.looks += 1
        return super().cuts


def test_changes_are_told_together_and_all_in_the_end():
    core = Core()
    told, states = {}, []
    status = StatusCore(core, lambda now: states.append(now.state))

    def drain():
        sent = []
        while (output := core.poll_output()) is not None:
            match output:
                case Send(text):
                    sent.append(json.loads(text))
                case Emit(type, args):
                    told[type] = args[0] if args else None
                    if type in status.types:
                        status.handle_event(type, args)
        return sent

    def each(message_of):
        core.looks = 0
        for name in NAMES:
            core.handle_message(0, json.dumps(message_of(name)))
            drain()
        core.handle_timer(200)
        drain()
        # A change may cost as much as 64 names: here and in the status, also of a message that changes none.
        assert core.looks <= 200

    core.start(0)
    core.subscribe(0, NAMES)
    core.handle_dial(0, None)
    core.handle_opened(0)
    for request in drain():
        brings = {name: {"from": "retained"} for name in request["channels"]}
        core.handle_message(0, json.dumps({"type": "subscribed", "errors": [], "brings": brings, **request}))
    each(lambda name: {"type": "retained", "channel": name, "count": 0})
    each(lambda name: {"type": "error", "error": f"Refused by the bus: {name}"})
    assert len(told["refused"]) == 4_000
    each(lambda name: {"type": "data", "channel": name, "pattern": None, "data": 1})
    assert (told["coming"], told["refused"], states[-1]) == ([], {}, "open")
    seqs = iter(range(1, 10_000, 2))
    each(lambda name: {"type": "data", "channel": name, "pattern": None, "data": 2, "seq": next(seqs)})
