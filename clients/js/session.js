// The common base of clients with requests: each request has a response, and subscriptions outlive connections.
import { Connection, RequestError } from "./weirgate.js";

/** Longest wait for the response to a ping on a link that may be dead. */
const PROBE_MS = 3_000;
/** A refusal by a limit passes. */
const LIMITED = /^(Max |Server limit |Cannot subscribe)/;
/** No other name has room either. */
const FULL = /would exceed maximum/;

/** A connection with requests. The feed may be quiet, so silence alone is no fault: the client probes. */
export class Session extends Connection {
  #pending = [];
  #made = 0;

  constructor(url, options) {
    super(url, { staleMs: 0, namesMax: 10_000, ...options });
  }

  /** Whether a request waits for the previous response, because responses do not name the request. */
  get isSerial() {
    return false;
  }

  /**
   * The response to the message that `make` returns for an id. Without a connection the request waits for the next
   * connection, unless it `isBound` to this one. A request in flight at the end of a connection is sent again only if
   * `isSafe`.
   */
  ask(make, { signal, isSafe = true, isQuiet = false, isBound = false } = {}) {
    const response = new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      if (this.status === "closed") throw this.end ?? new RequestError("closed");
      const id = String((this.#made += 1));
      const settle = (how) => (value) => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", aborted);
        this.#pending = this.#pending.filter((other) => other !== request);
        how(value);
        this.#flush();
      };
      const request = { id, message: make(id), isSafe, isQuiet, isBound, isSent: false, resolve: settle(resolve), reject: settle(reject) };
      // The response will still come, and must not be taken for the next response.
      const aborted = () => {
        request.isSafe = false;
        (request.isSent ? reject : request.reject)(signal.reason);
      };
      const timer = setTimeout(() => request.reject(new RequestError("timeout", "no answer")), this.options.requestMs);
      signal?.addEventListener("abort", aborted);
      this.#pending.push(request);
      this.#flush();
    });
    // A caller may ignore the response: no unhandled rejection then, "error" reports the refusal.
    response.catch(() => {});
    return response;
  }

  /** The request in flight with the id, or the oldest. */
  asked(id) {
    return this.#pending.find((request) => request.isSent && (id === undefined || request.id === id));
  }

  refuse(request, ...why) {
    const error = new RequestError(...why);
    request?.reject(error);
    if (!request?.isQuiet) this.emit("error", error);
  }

  opened() {
    this.#flush();
  }

  changed(status) {
    if (status === "open" || status === "stale") return;
    for (const request of this.#pending) {
      if (status === "closed") request.reject(this.end ?? new RequestError("closed"));
      else if (request.isBound || (request.isSent && !request.isSafe)) request.reject(new RequestError("lost", "connection lost before the answer"));
      else request.isSent = false;
    }
  }

  #flush() {
    for (const request of this.#pending) {
      request.isSent ||= this.send(JSON.stringify(request.message));
      if (this.isSerial || !request.isSent) return;
    }
  }
}

/** Names that a part of the program wants until `unsubscribe()`. Awaited: the server's answer. */
class Subscription extends EventTarget {
  #client;
  #entries;
  #handler;
  #settle;
  #timer;
  #isLeft = false;
  #answer = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));

  constructor(client, entries, handler) {
    super();
    this.#client = client;
    this.#entries = entries;
    this.#handler = handler;
    for (const { subs } of entries) subs.add(this);
    // A program may ignore the answer: no unhandled rejection then.
    this.#answer.catch(() => {});
    this.#timer = setTimeout(() => this.#settle.reject(new RequestError("timeout", "no answer")), client.options.requestMs);
  }

  get granted() {
    return this.#entries.filter(({ state }) => state === "live").map(({ name }) => name);
  }
  /** The reasons by name. */
  get refused() {
    return reasons(this.#entries.filter(isRefused));
  }
  /** As of a connection. */
  get end() {
    if (this.#isLeft) return null;
    return this.#entries.every(isRefused) ? refusal(this.#entries) : this.#client.end;
  }

  then(...how) {
    return this.#answer.then(...how);
  }

  unsubscribe() {
    if (this.#isLeft) return;
    this.#isLeft = true;
    for (const { subs } of this.#entries) subs.delete(this);
    this.#client.plan(-this.#entries.length);
    this.check();
  }

  [Symbol.asyncIterator]() {
    return this.#client.iterate("item", this);
  }

  // ---- For the client.
  deliver(item, details) {
    if (this.#isLeft) return;
    this.dispatchEvent(Object.assign(new Event("item"), { detail: item }));
    this.#handler?.(...details);
  }

  /** After a change of its names, or of the connection. */
  check() {
    const { end, granted, refused } = this;
    if (end !== undefined) this.#settle.reject(end ?? new RequestError("closed"));
    else if (this.#entries.every((entry) => entry.state === "live" || isRefused(entry))) this.#settle.resolve({ granted, refused });
    else return;
    clearTimeout(this.#timer);
    this.dispatchEvent(new Event("status"));
  }
}

/** The common base of trades and channels: names that are wanted until they are given up, over all connections. */
export class Subscriber extends Session {
  // Each name: "wanted", "asked" for, "live", "refused", "limited" (refused for now), or "gone"; and its subscriptions.
  #names = new Map();
  #count = 0;
  #isUp = false;
  #isPlanned = false;
  #asking = 0;
  #as;

  get subscriptions() {
    return this.live();
  }

  subscribe(names, handler) {
    return this.want(this.names(names), handler);
  }

  ping(options) {
    return this.ask((requestId) => this.message("ping", undefined, requestId), options);
  }

  probe() {
    this.ping();
    return PROBE_MS;
  }

  // ---- For typed clients. Names of different groups are different names.

  want(given, handler, group = "") {
    const names = [...new Set(given)], { namesMax } = this.options;
    if (!names.length || names.some((name) => typeof name !== "string")) throw new TypeError("a name is a text");
    if (this.#count + names.length > namesMax) throw new RangeError(`more than namesMax (${namesMax}) names`);
    const sub = new Subscription(this, names.map((name) => this.#entry(name, group)), handler);
    this.plan(names.length);
    sub.check();
    return sub;
  }

  /** The names granted on this connection. */
  live(group = "") {
    return new Set(this.#all("live").filter((entry) => entry.group === group).map(({ name }) => name));
  }

  granted(names, group = "") {
    const entries = names.flatMap((name) => this.#names.get(keyOf(name, group)) ?? []);
    for (const entry of entries) entry.state = "live";
    check(entries);
  }

  /** Passes a message to the subscriptions of a name. A handler that fails keeps no other from the message. */
  deliver(name, group, item, ...details) {
    for (const sub of [...(this.#names.get(keyOf(name, group))?.subs ?? [])]) {
      try {
        sub.deliver(item, details);
      } catch (error) {
        console.error(error);
        queueMicrotask(() => this.emit("error", new RequestError("handler", String(error), error)));
      }
    }
  }

  /** Nobody wants the names any more. */
  forget() {}

  opened(as) {
    this.#isUp = true;
    for (const entry of this.#all("refused", "limited")) {
      // Another token may be granted more.
      if (entry.state === "limited" || as !== this.#as) entry.state = "wanted";
    }
    this.#as = as;
    this.#ask();
    super.opened();
  }

  changed(status) {
    super.changed(status);
    if (status === "open" || status === "stale") return;
    this.#isUp = false;
    for (const entry of this.#all("live", "asked")) entry.state = "wanted";
    if (status === "closed") check([...this.#names.values()]);
  }

  /** Asks for changes: those of a tick together. */
  plan(more) {
    this.#count += more;
    if (this.#isPlanned) return;
    this.#isPlanned = true;
    queueMicrotask(() => {
      this.#isPlanned = false;
      this.#ask();
    });
  }

  // ---- Inside

  #all(...states) {
    return inState([...this.#names.values()], states);
  }

  #entry(name, group) {
    const key = keyOf(name, group), entry = this.#names.get(key) ?? { name, group, subs: new Set(), state: "wanted" };
    this.#names.set(key, entry);
    if (isRefused(entry)) entry.state = "wanted";
    return entry;
  }

  /** Gives up what nobody wants any more, and asks for what is wanted. */
  #ask() {
    const gone = [...this.#names.values()].filter(({ subs }) => !subs.size);
    for (const { name, group } of gone) this.#names.delete(keyOf(name, group));
    this.forget(gone.map(({ name }) => name));
    if (!this.#isUp) return;
    for (let part; (part = this.#part(inState(gone, ["live", "asked"]))); ) this.#request("unsubscribe", part, "gone");
    for (let part; !(this.isSerial && this.#asking) && (part = this.#part(this.#all("wanted"))); ) this.#request("subscribe", part, "asked");
  }

  /** The first names that go in a request together. */
  #part([first, ...more]) {
    if (!first || first.isAlone) return first && [first];
    return [first, ...more.filter(({ group, isAlone }) => group === first.group && !isAlone)].slice(0, this.partMax);
  }

  #request(action, part, state) {
    const names = part.map(({ name }) => name), [{ group }] = part;
    for (const entry of part) entry.state = state;
    this.#asking += 1;
    const settle = (take) => (value) => {
      this.#asking -= 1;
      take(value, inState(part, ["asked"]).filter(({ subs }) => subs.size));
      if (action === "unsubscribe") for (const entry of this.#all("limited")) entry.state = "wanted";
      this.#ask();
    };
    const failed = (error, left) => {
      const isRefusal = error.code === "refused";
      if (isRefusal && names.length === 1) return this.#refuse(left, [error.message]);
      // A single bad name refuses a whole request.
      for (const entry of left) Object.assign(entry, { state: "wanted", isAlone: isRefusal });
      if (error.code === "timeout") this.emit("error", error);
    };
    this.ask((id) => this.message(action, names, id, group), { isSafe: false, isQuiet: true, isBound: true })
      .then(settle(({ errors = [] }, left) => this.#refuse(left, errors)), settle(failed));
  }

  /** The reasons come in the order of the names; the last reason goes for the rest. */
  #refuse(left, errors) {
    if (!left.length) return;
    const last = errors.at(-1) ?? "not granted";
    if (FULL.test(last)) left.push(...this.#all("wanted"));
    left.forEach((entry, at) => {
      entry.why = errors[at] ?? last;
      entry.state = LIMITED.test(entry.why) ? "limited" : "refused";
    });
    check(left);
    this.emit("error", refusal(left));
  }
}

const keyOf = (name, group) => `${group} ${name}`;
const inState = (entries, states) => entries.filter(({ state }) => states.includes(state));
const isRefused = ({ state }) => state === "refused" || state === "limited";
const reasons = (entries) => Object.fromEntries(entries.map(({ name, why }) => [name, why]));
const refusal = (entries) => new RequestError("refused", [...new Set(entries.map(({ why }) => why))].join("; "), reasons(entries));
const check = (entries) => new Set(entries.flatMap(({ subs }) => [...subs])).forEach((sub) => sub.check());
