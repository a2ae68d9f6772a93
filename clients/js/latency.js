// How late messages come and how old they are, by the server's clock: its offset is found from round trips, as NTP does.

/** Two clocks of quartz drift apart by so much (RFC 5905 §7.3, PHI). */
const DRIFT = 15e-6;
/** The newest round trips, of which the best counts (RFC 5905 §10, the clock filter). */
const TRIPS_MAX = 8;
/** The first ones follow soon: a single one may have been slow. */
const FIRST = 4;
const FIRST_MS = 500;

export function latencyOf(client, { pingMs = 60_000 } = {}) {
  const { driver, kind } = client;
  let trips = [], made = 0, isUp = false, alarm, subscribedAt = driver.now();
  const errorOf = ({ error, at }) => error + DRIFT * (driver.now() - at);
  /** The round trip that says most. */
  const best = () => trips.reduce((one, other) => (one && errorOf(one) < errorOf(other) ? one : other), undefined);
  const latency = {
    ms: undefined,
    get errorMs() {
      return trips.length ? errorOf(best()) : undefined;
    },
    get roundTripMs() {
      return trips.at(-1)?.tripMs;
    },
    serverNow: () => (trips.length ? driver.now() + best().offset : undefined),
    ageOf: (message) => (trips.length ? Math.max(0, latency.serverNow() - stampOf(message)) : undefined),
    end() {
      begin(false);
      for (const [type, listener] of Object.entries(events)) client.removeEventListener(type, listener);
    },
  };

  const plan = (ms) => (alarm = driver.after(ms, ping));
  const ping = () => {
    const sentAt = driver.now(), mine = alarm;
    const done = ({ timestamp }) => {
      if (mine !== alarm) return;
      const tripMs = client.now - sentAt, serverMs = timeOf(timestamp);
      // The server's time is cut to whole ms, and lies between the two.
      if (!isNaN(serverMs)) take({ tripMs, offset: serverMs + 0.5 - (sentAt + client.now) / 2, error: tripMs / 2 + 0.5, at: client.now });
      made += 1;
      plan(made < FIRST ? FIRST_MS : pingMs * (0.5 + driver.random()));
    };
    client.ping({ isBound: true, isQuiet: true, done });
  };
  /** Earlier trips that contradict the new one are from before a clock was set. */
  const take = (trip) => {
    const agrees = (other) => Math.abs(other.offset - trip.offset) <= trip.error + errorOf(other);
    trips = [...trips.filter(agrees), trip].slice(-TRIPS_MAX);
  };
  /** Another connection may lead to another machine, with another clock. */
  const begin = (now) => {
    if (now === isUp) return;
    isUp = now;
    trips = [];
    made = 0;
    driver.cancel(alarm);
    alarm = latency.ms = undefined;
    // Many clients may have connected at once.
    if (isUp) plan(FIRST_MS * driver.random());
  };
  const status = () => begin(client.status === "open" || client.status === "stale");
  const received = (event) => {
    // Of trades the event has the times.
    const message = event.timestamp ? event : event.detail, stamp = stampOf(message);
    // What the subscription brings from before it, such as missed messages, is old and not late.
    const isLive = trips.length && !message.retained && stamp - best().offset >= subscribedAt;
    if (isLive) latency.ms = latency.ageOf(message);
  };
  const subscribed = () => (subscribedAt = client.now);
  const events = { status, subscribed, [kind]: received };
  for (const [type, listener] of Object.entries(events)) client.addEventListener(type, listener);
  status();
  return latency;
}

const timeOf = (timestamp) => +new Date(timestamp ?? NaN);
const stampOf = ({ recv_us, timestamp }) => (recv_us ? recv_us / 1_000 : timeOf(timestamp));
