// The rows of a table or list by id, over several names, shown at most once a frame.

// A feed may be faster than the screen.
export const nextFrame = globalThis.requestAnimationFrame ?? ((call) => setTimeout(call, 16));
const isPictured = (brings, name) => brings?.[name]?.from === "retained";
const lastPart = ({ channel }) => channel.split(/[.:]/).at(-1);

export function rowsOf(client, names, changed, { idOf = lastPart } = {}) {
  const rows = new Map();
  // By name, the ids of the rows from before a loss or refusal, until it is known whether there still are such rows.
  const old = new Map();
  const doubt = (id, name) => old.set(name, (old.get(name) ?? new Set()).add(id));
  let isPlanned = false, isGone = false;
  const isLoading = () => {
    const granted = new Set(sub.granted), { coming, refused } = sub;
    return coming.length > 0 || [names].flat().some((name) => !(granted.has(name) || name in refused));
  };
  const show = () => {
    if (isPlanned) return;
    isPlanned = true;
    nextFrame(() => {
      isPlanned = false;
      if (!isGone) changed({ rows: new Map(rows), refused: sub.refused, loading: isLoading() });
    });
  };
  const take = (value, message) => {
    const id = idOf(message);
    old.get(rows.get(id)?.name)?.delete(id);
    if (message.deleted) rows.delete(id);
    else rows.set(id, { value, message, name: message.pattern ?? message.channel, at: client.now });
    show();
  };
  const sub = client.subscribe(names, take);
  const settle = (names, isThere) => {
    for (const name of names) {
      if (!isThere(name)) old.get(name)?.forEach((id) => rows.delete(id));
      old.delete(name);
    }
    show();
  };
  // The newest value of each row follows, unless the missed messages do. Only of last values it is known when all have come.
  const subscribed = ({ detail: { channels, recovered, brings } }) => {
    settle(channels.filter((name) => !isPictured(brings, name)), (name) => recovered?.[name]);
  };
  const retained = ({ detail: { channel, cut } }) => {
    // The rest may follow: until then it is not known which rows are gone.
    if (cut !== "refused") settle([channel], () => cut);
  };
  const lost = () => {
    const isOpen = client.status === "open" || client.status === "stale", { refused } = sub;
    for (const [id, { name }] of rows) if (!isOpen || name in refused) doubt(id, name);
    show();
  };
  // The client asks for last values again.
  const bus = ({ lost: isLost }) => {
    if (isLost) for (const [id, { name }] of rows) if (isPictured(client.brings, name)) doubt(id, name);
  };
  const events = { subscribed, retained, coming: show, refused: lost, status: lost, bus };
  for (const [type, listener] of Object.entries(events)) client.addEventListener(type, listener);
  show();
  return () => {
    isGone = true;
    sub.unsubscribe();
    for (const [type, listener] of Object.entries(events)) client.removeEventListener(type, listener);
  };
}
