import { RequestOptions, Session, SessionEvents, SessionOptions } from "./session.js";
import { Address, FeedEvent } from "./weirgate.js";

/** A push of a service to the device. */
export interface Push<Data = any> {
  event: string;
  data: Data;
}

export interface DevicesOptions<Data = any> extends SessionOptions<Devices<Data>> {
  /** The id in the address. Without an id the device calls `identify`. */
  deviceId?: string;
  onPush?: (push: Push<Data>) => void;
  /** The gateway requests `identify`. */
  onIdentify?: (data: { hint: string }) => void;
}

export interface DevicesEvents<Data = any> extends SessionEvents {
  push: FeedEvent<Push<Data>>;
  identify: FeedEvent<{ hint: string }>;
}

/** `weirgate events`: a device, with the type of the data of a push; `for await` takes pushes. */
export class Devices<Data = any> extends Session<DevicesEvents<Data>, Push<Data>> {
  constructor(url: Address, options?: DevicesOptions<Data>);
  /** After the response, later connections have the id in the address. */
  identify(deviceId: string, options?: RequestOptions): Promise<{ device_id: string }>;
  /** Returns the response of the service. A lost request is not sent again. */
  request<Answer = any>(event: string, data?: object, options?: RequestOptions): Promise<Answer>;
}
