import { RequestOptions, Session, SessionEvents, SessionOptions } from "./session.js";
import { Address, FeedEvent } from "./weirgate.js";

/** A push of a service to the device. */
export interface Push<Data = any> {
  event: string;
  data: Data;
}

export interface DevicesOptions extends SessionOptions<Devices> {
  /** The id in the address. Without an id the device calls `identify`. */
  deviceId?: string;
  onPush?: (push: Push) => void;
  /** The gateway requests `identify`. */
  onIdentify?: (data: { hint: string }) => void;
}

export interface DevicesEvents extends SessionEvents {
  push: FeedEvent<Push>;
  identify: FeedEvent<{ hint: string }>;
}

/** `weirgate events`: a device; `for await` takes pushes. */
export class Devices extends Session<DevicesEvents, Push> {
  constructor(url: Address, options?: DevicesOptions);
  /** After the response, later connections have the id in the address. */
  identify(deviceId: string, options?: RequestOptions): Promise<{ device_id: string }>;
  /** Returns the response of the service. A lost request is not sent again. */
  request<Answer = any>(event: string, data?: object, options?: RequestOptions): Promise<Answer>;
}
