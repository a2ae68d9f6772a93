import { RequestOptions, ResumeOptions, Session, SessionEvents, SessionOptions, Why } from "./session.js";
import { Address, FeedEvent } from "./weirgate.js";

/** A push of a service to the device. */
export interface Push<Data = any> {
  event: string;
  data: Data;
}

/** The gateway knows the device. */
export interface Identification {
  device_id: string;
  /** After a request with a position: whether all missed pushes follow. If false, no missed push follows; if the server says nothing
      (`off`), the client adds this itself. */
  recovered?: boolean;
  why?: Why;
}

export interface DevicesOptions<Data = any> extends SessionOptions<Devices<Data>>, ResumeOptions {
  /** The id in the address. Without an id the token names the device, or the device calls `identify`. */
  deviceId?: string;
  onPush?: (push: Push<Data>) => void;
  /** The gateway requests `identify`. */
  onIdentify?: (data: { hint: string }) => void;
  /** The response to `identify`, and on a new connection to the position in the address. */
  onIdentified?: (identification: Identification) => void;
}

export interface DevicesEvents<Data = any> extends SessionEvents {
  push: FeedEvent<Push<Data>>;
  identify: FeedEvent<{ hint: string }>;
  identified: FeedEvent<Identification>;
}

/** `weirgate events`: a device, with the type of the data of a push; `for await` takes pushes. */
export class Devices<Data = any> extends Session<DevicesEvents<Data>, Push<Data>> {
  constructor(url: Address, options?: DevicesOptions<Data>);
  /** After the response, later connections have the id in the address. */
  identify(deviceId: string, options?: RequestOptions): Promise<Identification>;
  /** Returns the response of the service. A lost request is not sent again. */
  request<Answer = any>(event: string, data?: object, options?: RequestOptions): Promise<Answer>;
}
