# levels-gateway.md, "Testing": with wscat.
wscat -c ws://localhost:8000/ws/stream
