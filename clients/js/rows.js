// The rows of a table or list by id, over several names, shown at most once a frame.

// A feed may be faster than the screen.
const nextFrame = globalThis.requestAnimationFrame ?? ((call) => setTimeout(call, 16));
const lastPart = ({ channel }) => channel.split(/[.:]/).at(-1);

export function rowsOf(client, names, changed, { idOf = lastPart } = {}) {
  const rows = new Map();
  let isPlanned = false, isGone = false;
  const show = () => {
    if (isPlanned) return;
    isPlanned = true;
    nextFrame(() => {
      isPlanned = false;
      if (!isGone) changed({ rows: new Map(rows), refused: sub.refused });
    });
  };
  const take = (value, message) => {
    const id = idOf(message);
    if (message.deleted) rows.delete(id);
    else rows.set(id, { value, name: message.pattern ?? message.channel, at: client.now });
    show();
  };
  const sub = client.subscribe(names, take);
  // On a new connection the newest value of each row follows, unless the missed messages do.
  const subscribed = ({ detail: { channels, recovered } }) => {
    const afresh = channels.filter((name) => !recovered?.[name]);
    for (const [id, { name }] of rows) if (afresh.includes(name)) rows.delete(id);
    show();
  };
  const events = { subscribed, error: show, status: show };
  for (const [type, listener] of Object.entries(events)) client.addEventListener(type, listener);
  return () => {
    isGone = true;
    sub.unsubscribe();
    for (const [type, listener] of Object.entries(events)) client.removeEventListener(type, listener);
  };
}
