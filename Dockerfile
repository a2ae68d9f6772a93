# docker build -t weirgate .   then   docker run --rm -p 8000:8000 weirgate demo --listen 0.0.0.0
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
COPY . .
RUN cargo build --release --locked --package weirgate --bin weirgate

FROM debian:bookworm-slim
# curl is for health checks that the image's users wrote before; our own is `weirgate health`.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates curl \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 65532 --no-create-home --shell /usr/sbin/nologin weirgate
COPY --from=build /src/target/release/weirgate /usr/local/bin/weirgate
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/weirgate/
USER 65532:65532
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["weirgate", "health"]
ENTRYPOINT ["weirgate"]
CMD ["levels"]
