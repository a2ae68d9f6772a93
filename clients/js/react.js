// Hooks for React: the newest message of a client or of a name, and the status of the connection.
import { useMemo, useSyncExternalStore } from "react";

const BEFORE = Object.freeze({ status: "connecting", value: undefined, client: null });
// A feed may be faster than the screen.
const nextFrame = globalThis.requestAnimationFrame ?? ((call) => setTimeout(call, 16));

export function useFeed(source, deps = []) {
  const isOwned = typeof source === "function";
  return useStore((take) => {
    const client = isOwned ? source() : source, { kind } = client;
    const leave = listen(client, [kind, "status"], ({ type, detail }) => take({ status: client.status, ...(type === kind && { value: detail }) }));
    take({ status: client.status, client, ...(client.state && { value: client.state }) });
    return () => {
      leave();
      if (isOwned) client.close();
    };
  }, isOwned ? deps : [source]);
}

export function useChannel(client, name) {
  return useStore((take) => {
    if (!client) return () => {};
    const show = (news) => {
      const { status, bus, lost, recovered: all } = client, recovered = all?.[name] ?? (Object(all) === all ? undefined : all);
      take({ status, client, bus, stale: status === "stale", lost, recovered, brings: client.brings?.[name], error: Object.values(sub.refused)[0], ...news });
    };
    const sub = client.subscribe(name, (value, message) => show({ value, message }));
    const leave = listen(client, ["status", "subscribed", "bus", "error"], () => show());
    show();
    return () => {
      leave();
      sub.unsubscribe();
    };
  }, [client, name]);
}

function useStore(start, deps) {
  const store = useMemo(() => makeStore(start), deps);
  return useSyncExternalStore(store.subscribe, store.read, () => BEFORE);
}

/** A snapshot that is shown at most once a frame. `start` gets a function that changes it, and returns how to stop. */
function makeStore(start) {
  let snapshot = BEFORE;
  const subscribe = (changed) => {
    let isPlanned = false, isGone = false;
    const stop = start((news) => {
      snapshot = { ...snapshot, ...news };
      if (isPlanned) return;
      isPlanned = true;
      nextFrame(() => {
        isPlanned = false;
        if (!isGone) changed();
      });
    });
    return () => {
      isGone = true;
      stop();
    };
  };
  return { subscribe, read: () => snapshot };
}

function listen(client, types, take) {
  for (const type of types) client.addEventListener(type, take);
  return () => types.forEach((type) => client.removeEventListener(type, take));
}
