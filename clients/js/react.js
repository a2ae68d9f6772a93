// A hook for React: the newest message of a client, and the status of the connection.
import { useMemo, useSyncExternalStore } from "react";

const BEFORE = Object.freeze({ status: "connecting", value: undefined, client: null });
// A feed may be faster than the screen.
const nextFrame = globalThis.requestAnimationFrame ?? ((call) => setTimeout(call, 16));

export function useFeed(source, deps = []) {
  const isOwned = typeof source === "function";
  const feed = useMemo(() => makeStore(source, isOwned), isOwned ? deps : [source]);
  return useSyncExternalStore(feed.subscribe, feed.read, () => BEFORE);
}

function makeStore(source, isOwned) {
  let snapshot = BEFORE;
  const subscribe = (changed) => {
    const client = isOwned ? source() : source, types = [client.kind, "status"];
    let isPlanned = false, isGone = false;
    const take = (value = snapshot.value) => {
      snapshot = { status: client.status, value, client };
      if (isPlanned) return;
      isPlanned = true;
      nextFrame(() => {
        isPlanned = false;
        if (!isGone) changed();
      });
    };
    const heard = ({ type, detail }) => take(type === client.kind ? detail : undefined);
    for (const type of types) client.addEventListener(type, heard);
    take(client.state ?? undefined);
    return () => {
      isGone = true;
      for (const type of types) client.removeEventListener(type, heard);
      if (isOwned) client.close();
    };
  };
  return { subscribe, read: () => snapshot };
}
