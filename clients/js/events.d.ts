import { RequestOptions, Session, SessionEvents, SessionOptions } from "./session.js";
import { Address, FeedEvent } from "./weirgate.js";

/** What a service pushed to the device. */
export interface Push<Data = any> {
  event: string;
  data: Data;
}

export interface DevicesOptions extends SessionOptions<Devices> {
  /** Goes into the address. Without it the device calls `identify`. */
  deviceId?: string;
  onPush?: (push: Push) => void;
  /** The gateway asks who this is. */
  onIdentify?: (data: { hint: string }) => void;
}

export interface DevicesEvents extends SessionEvents {
  push: FeedEvent<Push>;
  identify: FeedEvent<{ hint: string }>;
}

/** `weirgate events`: one device; `for await` takes pushes. */
export class Devices extends Session<DevicesEvents, Push> {
  constructor(url: Address, options?: DevicesOptions);
  /** Once it is answered, later connections have the id in their address. */
  identify(deviceId: string, options?: RequestOptions): Promise<{ device_id: string }>;
  /** The service's answer. A request that was lost on its way is not sent again. */
  request<Answer = any>(event: string, data?: object, options?: RequestOptions): Promise<Answer>;
}
