import { Session } from "./session.js";

/** `weirgate events`: a device. */
export class Devices extends Session {
  get kind() {
    return "push";
  }

  get query() {
    return { ...super.query, device_id: this.options.deviceId, since: this.position };
  }
  opened() {
    this.isResuming = Boolean(this.position);
    super.opened();
  }

  identify(deviceId, options) {
    const data = { device_id: deviceId, since: this.position ?? undefined };
    return this.ask((request_id) => ({ event: "identify", request_id, data }), options);
  }

  request(event, data = {}, options) {
    return this.ask((request_id) => ({ event, request_id, data }), { ...options, isSafe: false });
  }

  /** A second `identify` is refused, changes nothing, and reaches no service. Responses to earlier requests come first. */
  probe() {
    const { deviceId, requestMs } = this.options;
    const message = (request_id) => ({ event: "identify", request_id, data: { device_id: deviceId } });
    this.ask(message, { isSafe: false, isQuiet: true });
    return requestMs;
  }

  receive(message) {
    const { type, event, request_id, data, error, pos } = message;
    this.hear(message);
    if (event === "gateway.identify_required") return this.emit("identify", data);
    if (type === "event") return this.emit("push", { event, data });
    // Responses come in the order of the requests: a message refused unread is the oldest in flight.
    const request = request_id !== null ? this.asked(request_id) : event === "gateway" ? this.asked() : undefined;
    if (event === "identify" && !error) {
      // Later connections identify by the address. The id of a token is that of its user: the next token may be another user's.
      if (request_id !== null) this.options.deviceId = data.device_id;
      // A server that says nothing about the position sends nothing that was missed.
      const identification = this.isResuming && !("recovered" in data) ? { ...data, recovered: false, why: "off" } : data;
      this.isResuming = false;
      this.goOn(pos, data.recovered);
      this.acknowledge("identified", identification);
    }
    if (error) this.refuse(request, error.code, error.message, error.details);
    else request?.resolve(data);
  }
}
