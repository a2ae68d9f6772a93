# levels-gateway.md, "Docker Compose": the health check.
curl http://localhost:8000/health
