import { Session } from "./session.js";
import { RequestError } from "./weirgate.js";

/** Refusals by a limit pass. With the second kind no other name has room either. */
const LIMITED = /^(Max |Server limit |Cannot subscribe)/;
const FULL = /would exceed maximum/;
/** Others may make room. */
const SHARED = /per user|^Server|too many/;
const AGAIN_MS = 5_000;
const TELL_MS = 200;
/** A change of one name that goes through all names may cost as much as this many names. */
const NAMES_A_CHANGE = 64;
/** A name that the server has granted, and that its bus refuses for now. */
const BARRED = /^Refused by the bus: (.*)$/s;
/** Why the newest messages of a name have not come: reasons that pass, and the others. */
const PASSING = ["away", "refused", "unreadable", "limit"];
/** The newest messages may be outdated: the bus has lost messages since. */
const LOST = "lost";
const LACKS = [...PASSING, "unnamed", "large", LOST];
/** Of the newest messages of a name, those that the client keeps for later subscriptions. */
const KEPT_MAX = 10_000;

class Subscription {
  #client;
  #entries;
  #handler;
  #settle;
  #endWait;
  #isLeft = false;
  // Whether the program hears the refusal from the promise.
  #isAwaited = false;
  #answer = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));

  constructor(client, entries, handler, last) {
    this.#client = client;
    this.last = last;
    this.#entries = entries;
    this.#handler = handler;
    for (const entry of entries) {
      entry.subs.add(this);
      if (!entry.group) entry.fresh.set(this, entry.count);
      entry.keeps = Math.max(entry.keeps, last > 0 ? last : 0);
    }
    // A program may ignore the answer: no unhandled rejection then.
    this.#answer.catch(() => {});
    this.#endWait = client.within(client.options.requestMs, () => this.#end("reject", new RequestError("timeout", "no answer")));
  }

  get granted() {
    return this.#entries.filter(({ state, why }) => state === "live" && !why).map(({ name }) => name);
  }
  get refused() {
    return reasons(this.#entries.filter((entry) => isRefused(entry) || (entry.state === "live" && entry.why)));
  }
  get coming() {
    return this.#entries.filter((entry) => waiting(entry).some((subs) => subs?.has(this))).map(({ name }) => name);
  }
  get end() {
    if (this.#isLeft) return null;
    return this.#entries.every(isRefused) ? refusal(this.#entries) : this.#client.end;
  }

  then(...how) {
    this.#isAwaited = !!this.#settle;
    return this.#answer.then(...how);
  }
  catch(how) {
    return this.then(undefined, how);
  }
  /** Whether the answer still comes, and the program waits for it. */
  get waits() {
    return this.#isAwaited;
  }

  #end(how, value) {
    this.#settle?.[how](value);
    this.#settle = undefined;
    this.#isAwaited = false;
  }

  unsubscribe() {
    if (!this.#isLeft) this.#client.input("run", () => this.#leave());
  }

  #leave() {
    this.#isLeft = true;
    for (const { subs, fresh, asked, due } of this.#entries) for (const all of [subs, fresh, asked, due]) all?.delete(this);
    this.#client.plan(-this.#entries.length);
    this.check();
  }

  [Symbol.asyncIterator]() {
    return this.#client.iterate(this, this);
  }

  deliver(detail, details) {
    const failed = (error) => {
      this.#client.driver.log(error);
      this.#client.input("emit", "error", new RequestError("handler", error, error));
    };
    const call = () => {
      if (this.#isLeft) return undefined;
      this.#client.dispatchEvent({ type: this, detail });
      return this.#handler?.(...details);
    };
    this.#client.put("attempt", call, failed);
  }

  check() {
    const { end } = this;
    if (end !== undefined) this.#end("reject", end ?? new RequestError("closed"));
    else if (this.#settle && this.#entries.every((entry) => entry.state === "live" || isRefused(entry))) {
      this.#end("resolve", { granted: this.granted, refused: this.refused });
    } else return;
    this.#endWait();
    // Who iterates looks again.
    this.#client.put("attempt", () => this.#client.dispatchEvent({ type: this }));
  }
}

export class Subscriber extends Session {
  bus;
  lost = 0;

  // Each name with its subscriptions: "wanted", "asked" for, "live", "refused", "limited" (refused for now), or "gone".
  // `since`: the position up to which the client has all messages of the name. Of a name that comes from the beginning this is a
  // position of its own (`isOwn`): until its end, as long as it `isComing`, and on until the position of the client is as far.
  // Last values (`isRetained`) come to the subscriptions that are `due`; those that have joined since (`fresh`) are `asked` for
  // next. Each has the count of messages at which it joined: of a channel that was `heard` since then it needs no last value.
  // They stay due if the bus does not give all values in time (`cut`): the rest may still come.
  // A name that `wasLive` was live when the connection was lost, and has not been granted since.
  // A name may `lack` its newest messages, for a reason: then the client asks for them again (`#askNewest`), and they come as its
  // `past`. While the newest messages come (`isFilling`), they do not end the lack if they may be outdated.
  #names = new Map();
  #count = 0;
  // The names of the last events, as texts.
  #emitted = { refused: "{}", unanswered: "[]", coming: "[]", cuts: "{}" };
  #telling;
  // The changes of names since the last events.
  #changes = 0;
  #isUp = false;
  #isPlanned = false;
  #asking = 0;
  // Requests in flight with a position.
  #resuming = 0;
  #given = this.options.since;
  #againMs;
  #again;
  #recalling;
  #hasLost = false;
  #as;
  // Of an event stream, which begins anew for each request: then all last values come to all.
  #begins = 0;

  get subscriptions() {
    return this.live();
  }
  /** A name that is asked for again stays until it is granted. */
  get refused() {
    return reasons([...this.#names.values()].filter(({ why, subs }) => why && subs.size));
  }
  get unanswered() {
    return this.#all("wanted", "asked").filter(({ why, subs }) => !why && subs.size).map(({ name }) => name);
  }

  /** Whether the server has not answered yet for a name. */
  isUnanswered(name, group = "") {
    return ["wanted", "asked"].includes(this.#names.get(keyOf(name, group))?.state);
  }

  /** The names whose last values are coming. */
  get coming() {
    return this.#all("live").filter(isWaiting).map(({ name }) => name);
  }
  /** Why last values of names, or newest messages, have not all come. */
  get cuts() {
    const all = this.#all("live").map((entry) => [entry.name, entry.cut || lackOf(entry)]);
    return Object.fromEntries(all.filter(([, cut]) => cut));
  }

  subscribe(names, handler, { last = this.options.last } = {}) {
    return this.want(this.names(names), handler, "", last);
  }

  ping(options) {
    return this.ask((requestId) => this.message("ping", undefined, requestId), options);
  }

  probe() {
    this.ping();
    // The longest wait for a pong.
    return 3_000;
  }

  want(given, handler, group = "", last) {
    const names = [...new Set(given)], { namesMax = 10_000 } = this.options;
    if (!names.length || names.some((name) => typeof name !== "string")) throw new TypeError("a name is a text");
    if (this.#count + names.length > namesMax) throw new RangeError(`more than namesMax (${namesMax}) names`);
    return this.input("run", () => {
      const sub = new Subscription(this, names.map((name) => this.#entry(name, group)), handler, last);
      this.plan(names.length);
      sub.check();
      return sub;
    });
  }

  live(group = "") {
    return new Set(this.#all("live").filter((entry) => entry.group === group).map(({ name }) => name));
  }

  granted(names, part = this.#all("asked")) {
    const given = new Set(names), entries = inState(part, ["asked"]).filter(({ name }) => given.has(name));
    for (const entry of entries) {
      const isRetained = this.#bringsRetained(entry);
      if (this.#isShort(entry)) entry.lack = "";
      Object.assign(entry, { state: "live", isKnown: true, wasLive: false, why: "", cut: "", isRetained, isHeldUp: false, asked: undefined, due: undefined });
      if (!isRetained) this.#replay(entry);
      else this.#expect(entry, entry.subs);
      entry.fresh.clear();
    }
    check(entries);
  }

  /**
   * The response about names, some of which may have been live on an earlier connection. If it does not say whether their missed
   * messages follow, the server keeps none: then none follows. Only of a stream, all follow from the beginning.
   */
  judged(detail, names, request) {
    const comeAgain = (name) => request?.message.last === ALL && this.#sourceOf(name) === "stream";
    const lost = names.filter((name) => this.#names.get(keyOf(name, ""))?.wasLive && !comeAgain(name));
    if (!lost.length || "recovered" in detail) return detail;
    const all = (value) => (this.kind === "data" ? Object.fromEntries(lost.map((name) => [name, value])) : value);
    return { ...detail, recovered: all(false), why: all("off") };
  }

  /** What the names of a response bring. What the bus refuses brings nothing, and a name may be given up before its response. */
  brought(names, brings) {
    for (const name of names) {
      if (brings[name]?.from && this.#names.has(keyOf(name, ""))) this.brings[name] = brings[name];
      else delete this.brings[name];
    }
  }

  /** The connection begins, or another stream of it. */
  begun() {
    this.#begins += 1;
  }

  /** Whether the message is for all, and not a last value that only newer subscriptions still need. */
  deliver(name, group, item, ...details) {
    const entry = this.#names.get(keyOf(name, group));
    if (!entry) return true;
    const { channel = name, retained } = this.kind === "data" ? item : {}, { asked, due, heard, subs } = entry;
    if (entry.why && entry.state === "live") {
      entry.why = entry.told = "";
      this.#lookSoon();
    }
    if (entry.past) {
      entry.past.push([channel, item, details]);
      return false;
    }
    // What an earlier question has left on its way comes again.
    if (retained && asked) return false;
    if (retained && due) {
      for (const [sub, joined] of due) if (!(heard.get(channel) > joined)) sub.deliver(item, details);
      return entry.isWhole;
    }
    if (!retained) this.#take(entry, channel, item, details);
    for (const sub of subs) sub.deliver(item, details);
    return true;
  }

  /** The last values of a name have come. Returns whether to all. */
  ended({ channel, cut = "" }) {
    const entry = this.#names.get(keyOf(channel, ""));
    if (!entry) return true;
    if (entry.asked) return false;
    const isWhole = !entry.due || entry.isWhole;
    if (cut !== "refused") entry.due = undefined;
    entry.cut = cut;
    if (!entry.fresh.size) entry.heard.clear();
    this.#lookSoon();
    return isWhole;
  }

  /** The bus refuses a name that is granted: it stays so, and its messages come once the bus permits it. Returns whether that is it. */
  barred(why) {
    const entry = this.#names.get(keyOf(BARRED.exec(why)?.[1], ""));
    if (entry?.state !== "live" || !entry.subs.size) return false;
    entry.why = why;
    // Nobody waits any more for an answer.
    this.#tell([entry], entry.told === why ? [] : [entry], () => false);
    this.#lookSoon();
    entry.told = why;
    return true;
  }

  /**
   * A message of a name, or the end of what comes from the beginning. Returns whether it is for the client: what an earlier
   * subscription to all of the name has left on its way is not.
   */
  hearOf(name, message) {
    const entry = this.#names.get(keyOf(name, "")), { isComing, isOwn, state } = entry ?? {}, { pos, type } = message;
    if (!entry || (isComing && state !== "live")) return !entry;
    if (type === "last") entry.isComing = false;
    if (isOwn && pos) entry.since = pos;
    if (!entry.isComing) this.hear(message);
    if (pos && pos === this.position && !entry.isComing) entry.isOwn = false;
    return true;
  }

  reported({ bus, lost = false, pos }) {
    // A loss may be told between two messages.
    if (pos || !lost) this.#showPast();
    if (bus === this.bus && !lost) return;
    const wasAway = this.bus === "away";
    this.bus = bus;
    if (lost) this.lost += 1;
    this.emit("bus", bus, { lost });
    this.#recall(lost, wasAway);
    this.refresh();
  }

  opened(...as) {
    this.#isUp = true;
    this.bus = undefined;
    this.#againMs = AGAIN_MS;
    this.#begins = 0;
    for (const entry of this.#names.values()) Object.assign(entry, { isAlone: false, told: "" });
    this.admitted(...as);
    super.opened();
  }

  admitted(...as) {
    for (const entry of this.#all("limited", `${as}` !== this.#as && "refused")) Object.assign(entry, AFRESH);
    this.#as = `${as}`;
    this.#free();
    this.#ask();
  }

  revoked(names) {
    const lost = new Set(names), part = this.#all("live").filter(({ name }) => lost.has(name));
    for (const entry of part) entry.state = "asked";
    this.#refuse(part, ["not granted by the new token"]);
  }

  changed(status) {
    const isUp = status === "open" || status === "stale";
    this.#isUp &&= isUp;
    super.changed(status);
    if (isUp) return;
    for (const timer of [this.#again, this.#recalling]) this.driver.cancel(timer);
    this.#again = this.#recalling = undefined;
    this.#hasLost = false;
    for (const entry of this.#all("live")) Object.assign(entry, { wasLive: true }, !entry.isOwn && { since: this.position });
    for (const entry of this.#all("live", "asked")) entry.state = "wanted";
    for (const entry of this.#names.values()) {
      Object.assign(entry, { asked: undefined, due: undefined, past: undefined });
      if (!entry.lack) entry.heard.clear();
    }
    this.#emitNames();
    if (status === "closed") check([...this.#names.values()]);
  }

  plan(more) {
    this.#count += more;
    if (this.#isPlanned) return;
    this.#isPlanned = true;
    // The changes of a tick together.
    const ask = () => {
      this.#isPlanned = false;
      this.#ask();
    };
    Promise.resolve().then(() => this.input("run", ask));
  }

  #all(...states) {
    return inState([...this.#names.values()], states);
  }

  #entry(name, group) {
    const key = keyOf(name, group), { position } = this, since = position === this.#given ? position : null;
    const entry = this.#names.get(key) ?? { name, group, subs: new Set(), state: "wanted", since, fresh: new Map(), heard: new Map(), kept: new Map(), count: 0, keeps: 0 };
    this.#names.set(key, entry);
    if (isRefused(entry)) Object.assign(entry, AFRESH);
    return entry;
  }

  #ask() {
    for (const entry of this.#all("live")) {
      if (entry.isRetained) continue;
      this.#replay(entry);
      entry.fresh.clear();
    }
    this.#askAll();
    this.isResuming = this.#resuming > 0 || this.#all("wanted").some((entry) => isResuming(this.#more(entry)));
    this.#emitNames();
  }

  #retained() {
    return this.#all("live").filter(isLiveRetained);
  }

  #bringsRetained({ name, group }) {
    return !group && this.#sourceOf(name) === "retained";
  }

  #isShort({ name }) {
    return SHORT.includes(this.#sourceOf(name));
  }

  /** Where the messages of a name come from, if the server has said it. */
  #sourceOf(name) {
    return this.brings?.[name]?.from;
  }

  /** Last values come to these subscriptions; who has joined since the question asks next. */
  #expect(entry, subs) {
    entry.due = new Map([...subs].map((sub) => [sub, entry.asked?.get(sub) ?? entry.fresh.get(sub) ?? entry.count]));
    entry.isWhole = [...entry.subs].every((sub) => entry.due.has(sub) || entry.fresh.has(sub));
  }

  /** Who joins a name gets its last values too: the client asks again, one question of a name at a time. */
  #askLastValues() {
    const isMeant = (entry) => entry.fresh.size && !entry.asked && !dueOf(entry)?.size && !entry.isHeldUp;
    const all = this.#isUp ? this.#retained().filter(isMeant) : [];
    for (let at = 0; at < all.length; at += this.partMax) this.#askAgain(all.slice(at, at + this.partMax));
  }

  #askAgain(part) {
    const names = part.map(({ name }) => name);
    // What is still to come would be taken for an answer to this question: so the question is for those that it is due to, too.
    for (const entry of part) {
      for (const sub of entry.due?.keys() ?? []) entry.fresh.set(sub, entry.count);
      Object.assign(entry, { asked: entry.fresh, fresh: new Map(), due: undefined });
    }
    const done = ({ code, message, channels = [], errors = [] }) => {
      const whys = whyNot(part, channels, errors), lost = new Map();
      for (const entry of part.filter(({ asked }) => asked)) {
        const why = code ? code === "refused" && (message || code) : whys.get(entry), isGranted = !code && !why;
        entry.isRetained &&= !isGranted || this.#bringsRetained(entry);
        if (isGranted && entry.isRetained) this.#expect(entry, this.#begins > 1 ? entry.subs : entry.asked.keys());
        else entry.fresh = new Map([...entry.asked, ...entry.fresh]);
        // A limit takes no name away, and may pass.
        const isHeldUp = !!why && (!!code || LIMITED.test(why));
        Object.assign(entry, { isHeldUp, cut: isHeldUp ? why : "", asked: undefined });
        if (isHeldUp) entry.heard.clear();
        else if (why && entry.state === "live") {
          entry.state = "asked";
          lost.set(entry, why);
        }
      }
      this.#refuse([...lost.keys()], [...lost.values()]);
      if (code === "timeout") this.emit("error", new RequestError(code, message));
      this.#ask();
    };
    this.ask((id) => this.message("subscribe", names, id, "", { status: true }), { isQuiet: true, isBound: true, done });
  }

  /** What was held up by a limit may be asked again. */
  #free() {
    for (const entry of this.#names.values()) entry.isHeldUp = false;
  }

  /** A message that is no last value. The newest ones are kept for who joins: the server sends them to new names only. */
  #take(entry, channel, item, details) {
    const { heard, keeps, kept, isRetained, name } = entry;
    entry.count += 1;
    if (!isRetained) this.#replay(entry);
    if (isRetained ? isWaiting(entry) : this.kind === "data" && PASSING.includes(entry.lack)) {
      heard.delete(channel);
      heard.set(channel, entry.count);
      // The newest message of a channel that is forgotten may come twice.
      if (!isRetained && heard.size > KEPT_MAX) heard.delete(heard.keys().next().value);
    }
    // Other channels of a pattern still lack theirs.
    if (channel === name && entry.lack && !(entry.isFilling && entry.lack === LOST)) {
      entry.lack = "";
      this.#lookSoon();
    }
    if (!keeps || entry.group || this.#isShort(entry)) return;
    const newest = kept.get(channel) ?? [];
    newest.push([entry.count, item, details]);
    if (newest.length > keeps) newest.shift();
    // The channels in the order of their changes.
    kept.delete(channel);
    kept.set(channel, newest);
    if (kept.size * keeps > KEPT_MAX) kept.delete(kept.keys().next().value);
  }

  #replay({ fresh, kept, state }) {
    if (state !== "live") return;
    for (const sub of fresh.keys()) {
      const all = sub.last > 0 ? [...kept.values()].flatMap((newest) => newest.slice(-sub.last)) : [];
      for (const [, item, details] of all.sort(([a], [b]) => a - b)) sub.deliver(item, details);
    }
    fresh.clear();
  }

  /**
   * Last values that have changed in a loss come again, and newest messages once the bus is back: at a random time, because all
   * clients of the bus ask.
   */
  #recall(hasLost, wasAway) {
    const recall = () => {
      this.#recalling = undefined;
      const lost = this.#hasLost ? this.#retained() : [];
      for (const entry of lost) {
        for (const sub of entry.subs) entry.fresh.set(sub, entry.count);
        entry.due = undefined;
      }
      if (lost.length) this.#free();
      this.#hasLost = false;
      this.#againMs = AGAIN_MS;
      this.#askNewest();
      this.#ask();
    };
    this.#hasLost ||= hasLost && this.#retained().length > 0;
    const isBack = this.#lacking().some(({ lack }) => wasAway || lack === "away");
    if (this.#hasLost || isBack) this.#recalling ??= this.driver.after(AGAIN_MS * this.driver.random(), recall);
  }

  /** The names whose newest messages the server may have by now. It gives those of trades, and of event streams, only once. */
  #lacking() {
    const isMeant = (entry) => PASSING.includes(lackOf(entry)) && !entry.isAsked && !entry.past;
    return this.kind === "data" && this.bus !== "away" && this.#begins < 2 ? this.#all("live").filter(isMeant) : [];
  }

  /** What the response to a request with `last` says about the newest messages. */
  #noteLacks(part, recovered, why, since) {
    for (const entry of inState(part, ["live"])) {
      const { name } = entry;
      // Then the newest messages do not follow.
      if (of(recovered, name) === true || of(why, name) === "off") continue;
      // With a position, the missed messages may be too large: without one, the server says it of the newest.
      entry.lack = since && reasonOf(why, name) === "large" ? "limit" : reasonOf(why, name);
      entry.isFilling = true;
      entry.heard.clear();
    }
  }

  #askNewest() {
    const all = this.#lacking();
    for (const last of new Set(all.map(lastOf))) {
      const same = all.filter((entry) => lastOf(entry) === last);
      for (let at = 0; at < same.length; at += this.partMax) this.#askNewestOf(same.slice(at, at + this.partMax), last);
    }
  }

  /** They follow the answer, up to a status, and no live message in between. */
  #askNewestOf(part, last) {
    const names = part.map(({ name }) => name);
    for (const entry of part) entry.isAsked = true;
    const done = ({ code, channels = [], errors = [], why, pos }) => {
      // The reasons are those of all names of the request, and some may have been given up meanwhile.
      const held = code ? [] : inState(part, ["live"]), whys = whyNot(part, channels, errors);
      // A limit takes no name away, and may pass.
      const lost = held.filter((entry) => whys.has(entry) && !LIMITED.test(whys.get(entry)));
      for (const entry of part) entry.isAsked = false;
      for (const entry of held.filter((one) => !whys.has(one))) {
        // The server keeps nothing of it any more: nothing follows, and no status may ever come.
        if (this.#isShort(entry)) entry.lack = "";
        else Object.assign(entry, { past: [], lacksStill: reasonOf(why, entry.name), isFilling: true });
      }
      this.#emitNames();
      for (const entry of lost) entry.state = "asked";
      this.#refuse(lost, lost.map((entry) => whys.get(entry)));
      // Then nothing follows.
      if (pos) this.#showPast();
      this.#later();
    };
    this.ask((id) => this.message("subscribe", names, id, "", { last, status: true }), { isQuiet: true, isBound: true, isPatient: true, done });
  }

  /** All together, so that a lost connection leaves no gap. The client knows newer messages of channels that it has heard of since. */
  #showPast() {
    const all = [...this.#names.values()], shown = all.filter(({ past }) => past);
    for (const entry of shown) {
      const { past, heard, subs, lack, lacksStill } = entry, silent = past.filter(([channel]) => !heard.has(channel));
      Object.assign(entry, { past: undefined, lack: lack && lacksStill });
      for (const [channel, item, details] of silent) {
        this.#take(entry, channel, item, details);
        for (const sub of subs) sub.deliver(item, details);
        this.emit(this.kind, item);
      }
      if (!PASSING.includes(entry.lack)) heard.clear();
    }
    for (const entry of all) entry.isFilling = false;
    if (!shown.length) return;
    this.#emitNames();
    this.#later();
  }

  /**
   * After a change of one name: asks for what may be asked for by now, and tells of the names. At once for few names. Very many
   * names may change one after the other, so these are looked at together.
   */
  #lookSoon() {
    const look = () => {
      this.#askLastValues();
      this.#emitNames();
    };
    this.#changes += 1;
    if (this.#changes * NAMES_A_CHANGE >= this.#names.size) look();
    else this.#telling ??= this.driver.after(TELL_MS, look);
  }

  #emitNames() {
    // Names whose cuts have changed are told again.
    this.driver.cancel(this.#telling);
    this.#telling = undefined;
    this.#changes = 0;
    const cuts = JSON.stringify(this.cuts);
    if (cuts !== this.#emitted.cuts) this.#emitted.coming = undefined;
    this.#emitted.cuts = cuts;
    for (const type of ["refused", "unanswered", "coming"]) {
      const names = this[type], text = JSON.stringify(names);
      if (text !== this.#emitted[type]) this.emit(type, names);
      this.#emitted[type] = text;
    }
  }

  #askAll() {
    while (!(this.isSerial && this.#asking)) {
      const gone = [...this.#names.values()].filter(({ subs }) => !subs.size);
      const held = this.#part(gone, "live", "asked");
      for (const { name, group } of held ?? gone) {
        this.#names.delete(keyOf(name, group));
        if (!group) delete this.brings?.[name];
      }
      const wanted = this.#part([...this.#names.values()], "wanted");
      if (held) this.#request("unsubscribe", held, "gone");
      else {
        this.#askLastValues();
        if (!wanted) return;
        this.#request("subscribe", wanted, "asked");
      }
    }
  }

  /** The first names that go in a request together. */
  #part(entries, ...states) {
    const all = this.#isUp ? inState(entries, states) : [], [first] = all;
    if (first?.isAlone) return [first];
    const kindOf = (entry) => `${entry.group} ${entry.state === "wanted" && Object.values(this.#more(entry))}`;
    return first && all.filter((entry) => kindOf(entry) === kindOf(first) && !entry.isAlone).slice(0, this.partMax);
  }

  /** A position that has moved without the name would skip messages of the name. */
  #more(entry) {
    const { group, since, isKnown } = entry, { position } = this, last = lastOf(entry), isResumed = !group && position && since === position;
    if (last === ALL) return { since: since ?? undefined, last, status: true };
    return { since: isResumed ? since : undefined, last: !group && (isResumed || !isKnown) ? last : undefined, status: true };
  }

  #request(action, part, state) {
    const names = part.map(({ name }) => name), [{ group }] = part, more = state === "asked" ? this.#more(part[0]) : {};
    const resuming = isResuming(more) ? 1 : 0;
    for (const entry of part) Object.assign(entry, { state }, more.last === ALL && { isOwn: true, isComing: true });
    this.#asking += 1;
    this.#resuming += resuming;
    const done = ({ code, message, channels = names, errors = [], recovered, why }) => {
      this.#asking -= 1;
      this.#resuming -= resuming;
      const isRefusal = code === "refused";
      if (!code) {
        // The newest messages follow, unless the missed ones do.
        for (const entry of part) if (more.last > 0 && (recovered?.[entry.name] ?? recovered) !== true) entry.kept.clear();
        this.granted(channels, part);
        const whys = whyNot(part, channels, errors);
        this.#refuse([...whys.keys()], [...whys.values()]);
        errors.forEach((error) => this.barred(error));
        if (more.last > 0) this.#noteLacks(part, recovered, why, more.since);
        this.#later();
      } else if (isRefusal && names.length === 1) this.#refuse(part, [message]);
      // A single bad name refuses a whole request.
      else for (const entry of inState(part, ["asked"])) Object.assign(entry, { state: "wanted", isAlone: isRefusal });
      if (code === "timeout") this.emit("error", new RequestError(code, message));
      if (action === "unsubscribe") {
        const held = code === "timeout" ? part.filter(({ name }) => !this.#names.has(keyOf(name, group))) : [];
        if (held.length) this.#request(action, held, state);
        for (const entry of this.#all("limited")) entry.state = "wanted";
        this.#free();
      }
      this.#ask();
    };
    this.ask((id) => this.message(action, names, id, group, more), { isQuiet: true, isBound: true, done });
  }

  #tell(all, told, isHeard) {
    const silent = told.filter((entry) => entry.warned !== entry.why && !isHeard(entry));
    check(all);
    if (told.length) this.emit("error", refusal(told));
    if (silent.length) this.put("warn", `weirgate: refused ${JSON.stringify(reasons(silent)).slice(0, 1_000)}`);
    for (const entry of silent) entry.warned = entry.why;
  }

  /** The reasons come in the order of the names; the last reason goes for the rest. */
  #refuse(part, errors) {
    const last = errors.at(-1) ?? "not granted", all = [...part, ...(FULL.test(last) ? this.#all("wanted") : [])];
    const news = new Set(all.filter((entry, at) => entry.why !== (entry.why = errors[at] ?? last)));
    // Others were given up meanwhile.
    const left = inState(all, ["asked", "wanted"]);
    for (const entry of left) {
      Object.assign(entry, { state: LIMITED.test(entry.why) ? "limited" : "refused", past: undefined });
      if (!entry.lack) entry.heard.clear();
    }
    this.#tell(left, left.filter((entry) => news.has(entry)), ({ subs }) => [...subs].some((sub) => sub.waits));
    this.#emitNames();
    this.#later();
  }

  /** One timer for all that is asked for again, less and less often. */
  #later() {
    const shared = () => this.#all("limited").filter(({ why }) => SHARED.test(why));
    const again = () => {
      this.#again = undefined;
      this.#againMs = Math.min(2 * this.#againMs, 12 * AGAIN_MS);
      for (const entry of shared()) entry.state = "wanted";
      this.#askNewest();
      this.#ask();
    };
    const isNeeded = this.#isUp && (shared().length || this.#lacking().length);
    if (isNeeded) this.#again ??= this.driver.after(this.#againMs * (1 + this.driver.random()), again);
  }
}

const AFRESH = { state: "wanted", why: "" };
const ALL = "all";
/** What a name brings if the server keeps no messages of it. */
const SHORT = ["retained", "live"];
const sizeOf = (last) => (last === ALL ? Infinity : last ?? 0);
const most = (lasts) => lasts.reduce((a, b) => (sizeOf(b) > sizeOf(a) ? b : a), undefined);
/** Whether the response says how the position of the client goes on. */
const isResuming = ({ since, last }) => since && last !== ALL;
const keyOf = (name, group) => `${group} ${name}`;
const inState = (entries, states) => entries.filter(({ state }) => states.includes(state));
/** What the response says about a name, or about all names. */
const of = (said, name) => (Object(said) === said ? said[name] : said);
const reasonOf = (why, name) => (LACKS.includes(of(why, name)) ? of(why, name) : "");
const lastOf = ({ subs }) => most([...subs].map((sub) => sub.last));
/** Why newest messages that somebody wants are missing. */
const lackOf = (entry) => (entry.lack && lastOf(entry) > 0 ? entry.lack : "");
const isLiveRetained = ({ state, isRetained }) => state === "live" && isRetained;
/** Values that are late may never come: nobody waits for them. */
const dueOf = (entry) => (entry.cut ? undefined : entry.due);
/** The subscriptions to which last values come. */
const waiting = (entry) => (isLiveRetained(entry) && !entry.isHeldUp ? [entry.fresh, entry.asked, dueOf(entry)] : []);
const isWaiting = (entry) => waiting(entry).some((subs) => subs?.size);
/** Why names are not granted: the reasons come in the order of the names; the last one goes for the rest. */
const whyNot = (part, channels, errors) => {
  const given = new Set(channels), own = errors.filter((why) => !given.has(BARRED.exec(why)?.[1]));
  return new Map(part.filter(({ name }) => !given.has(name)).map((entry, at) => [entry, own[at] || own.at(-1) || "not granted"]));
};
const isRefused = ({ state }) => state === "refused" || state === "limited";
const reasons = (entries) => Object.fromEntries(entries.map(({ name, why }) => [name, why]));
const refusal = (entries) => new RequestError("refused", [...new Set(entries.map(({ why }) => why))].join("; "), reasons(entries));
const check = (entries) => new Set(entries.flatMap(({ subs }) => [...subs])).forEach((sub) => sub.check());
