// channels-gateway.md, "Connect from UI". There it sends at once, which no WebSocket allows: here once it is open.
const ws = new WebSocket('ws://localhost:8889/ws?token=your-token');

// Subscribe to channels
ws.onopen = () => ws.send(JSON.stringify({
  action: 'subscribe',
  channels: ['market:tick:BANKNIFTY', 'engine:signal:*'],
  requestId: 'req-1'
}));

// Handle messages
ws.onmessage = (event) => {
  const msg = JSON.parse(event.data);
  console.log('Message:', msg);
  // msg.type: 'data' | 'error' | 'pong' | 'subscribed' | 'unsubscribed'
  // msg.seq: sequence ID
  // msg.channel: channel name
  // msg.data: actual message data
};
