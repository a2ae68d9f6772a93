# A notebook on `weirgate levels`: run `weirgate demo`, then the cells, in an editor for `# %%` cells, or as a script.
#
#   pip install ./clients/python   (in a checkout)
# %% Connect. The client runs in a separate thread and reconnects automatically.
import os
import time

from weirgate.sync import Levels

levels = Levels(os.environ.get("GATEWAY", "ws://localhost:8000/ws/stream"))

# %% The newest state, at any time.
while levels.state is None:
    time.sleep(0.05)
print(levels.status, levels.state["levels"]["spy"])

# %% The levels next to the price, nearest first.
near = sorted(levels.state["levels"]["levels"], key=lambda level: abs(level["distance"]))
for level in near[:5]:
    print(f'{level["id"]:<12} {level["level_price"]:>10} {level["distance"]:>8} {level["signal"]}')

# %% Ten states as they come; TimeoutError when nothing comes for 10 s.
for _, state in zip(range(10), levels.iterate(timeout_s=10)):
    print(state["levels"]["ts"], state["levels"].get("es", {}).get("spot"))

# %% The end.
levels.close()
