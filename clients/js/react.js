// Hooks for React: the newest message of a client or of a name, the rows of several names, and what is wrong.
import { useMemo, useSyncExternalStore } from "react";
import { nextFrame, rowsOf } from "./rows.js";
import { statusOf } from "./status.js";

const BEFORE = Object.freeze({ status: "connecting", value: undefined, client: null });
const NO_ROWS = Object.freeze({ rows: new Map(), refused: {}, loading: true });
const NO_STATUS = Object.freeze({ state: "connecting", cause: "Connecting.", causes: [] });

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
    const [own] = client.names(name);
    let recovered;
    const show = (news) => {
      const { status, bus, lost } = client;
      take({ status, client, bus, stale: status !== "open", lost, recovered, brings: client.brings?.[name], error: Object.values(sub.refused)[0], ...news });
    };
    const sub = client.subscribe(name, (value, message) => show({ value, message }));
    // `client.recovered` is of the newest response, which may be about other names.
    const heard = ({ type, detail }) => {
      const all = detail?.recovered, said = Object(all) === all ? all[own] : all;
      const isOwn = type === "subscribed" && (detail.subscribed ?? detail.channels).includes(own);
      if (isOwn && typeof said === "boolean") recovered = said;
      show();
    };
    const leave = listen(client, ["status", "subscribed", "bus", "error"], heard);
    show();
    return () => {
      leave();
      sub.unsubscribe();
    };
  }, [client, name]);
}

export function useRows(client, names, options) {
  // A component may write its names anew each time.
  return useStore((take) => (client ? rowsOf(client, names, take, options) : () => {}), [client, JSON.stringify(names)], NO_ROWS, (call) => call());
}

export function useStatus(client, options) {
  return useStore((take) => (client ? statusOf(client, take, options) : () => {}), [client], NO_STATUS);
}

function useStore(start, deps, before = BEFORE, plan = nextFrame) {
  const store = useMemo(() => makeStore(start, before, plan), deps);
  return useSyncExternalStore(store.subscribe, store.read, () => before);
}

/** A snapshot, shown when `plan` says so. `start` gets a function that changes it, and returns how to stop. */
function makeStore(start, before, plan) {
  let snapshot = before;
  const subscribe = (changed) => {
    let isPlanned = false, isGone = false;
    // React ends and repeats the effects of what it hides (<Activity>) and keeps the store: the values in it may be hours old by then.
    snapshot = before;
    const stop = start((news) => {
      snapshot = { ...snapshot, ...news };
      if (isPlanned) return;
      isPlanned = true;
      plan(() => {
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
