// levels-interfaces.md, "TypeScript (Angular)".
const ws = new WebSocket('ws://localhost:8000/ws/stream');

ws.onopen = () => console.log('Connected to Gateway');

ws.onmessage = (event) => {
  const data = JSON.parse(event.data);
  // data.flow, data.levels, data.viewport
  if (data.levels) {
    this.processLevelSignals(data.levels);
  }
  if (data.flow) {
    this.processFlowData(data.flow);
  }
};

ws.onerror = (err) => console.error('WebSocket error', err);

ws.onclose = () => {
  console.log('Disconnected');
  // Implement reconnection logic
};
