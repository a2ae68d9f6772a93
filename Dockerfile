# syntax=docker/dockerfile:1
# Images of weirgate. docs/guides/deploy.md says how to run them.
#
#   docker build -t weirgate .                            the gateway is an argument, or WEIRGATE_GATEWAY
#   docker build --target levels -t weirgate:levels .     levels; so trades, events, channels
#   docker build --target static -t weirgate:static .     one file, nothing else in it
#
# The image says its commit (weirgate version, and a label) with --build-arg WEIRGATE_COMMIT=$(git rev-parse HEAD).
# For x86-64 and aarch64: each stage builds for the machine that it runs on. Compiled dependencies stay in cache mounts
# (BuildKit: Docker 23 or newer, or buildah), so a build after a change of src compiles weirgate alone.
ARG RUST=1.95

FROM scratch AS source
COPY Cargo.toml Cargo.lock /
COPY src /src
COPY benches /benches
COPY clients/js /clients/js
COPY examples /examples
COPY loadtest /loadtest
COPY tests/fuzz /tests/fuzz
COPY tests/support /tests/support

# The cache of each build stage has the kind of the C library in its id: the two share no file. Cargo compares times, and the
# times of a checkout may be older than those of the cache: `touch` makes cargo build what is not a dependency anew.
FROM rust:${RUST}-slim-bookworm AS build
ARG TARGETARCH
WORKDIR /src
COPY --from=source / .
ARG WEIRGATE_COMMIT=
RUN --mount=type=cache,id=weirgate-registry,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,id=weirgate-target-gnu-${TARGETARCH},target=/src/target,sharing=locked \
    find . -path ./target -prune -o -type f -exec touch {} + \
 && cargo build --profile dist --locked --package weirgate --bin weirgate \
 && cp target/dist/weirgate /usr/local/bin/weirgate

# musl links everything into the file.
FROM rust:${RUST}-alpine AS build-static
ARG TARGETARCH
# Versions are those of the base image's release: a pinned one is gone from the mirrors after its next fix.
# hadolint ignore=DL3018
RUN apk add --no-cache build-base ca-certificates
WORKDIR /src
COPY --from=source / .
ARG WEIRGATE_COMMIT=
RUN --mount=type=cache,id=weirgate-registry,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,id=weirgate-target-musl-${TARGETARCH},target=/src/target,sharing=locked \
    find . -path ./target -prune -o -type f -exec touch {} + \
 && cargo build --profile dist --locked --package weirgate --bin weirgate \
 && cp target/dist/weirgate /usr/local/bin/weirgate

# The licences of what is linked into the programs; that of musl is Debian's text, since neither rustc nor Alpine brings one.
FROM rust:${RUST}-slim-bookworm AS licences
# Versions: as above.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends musl python3 \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY --from=source / .
COPY scripts/licences.py scripts/
RUN --mount=type=cache,id=weirgate-registry,target=/usr/local/cargo/registry,sharing=locked \
    python3 scripts/licences.py /licences/LICENSE-THIRD-PARTY \
 && cp /usr/share/doc/musl/copyright /licences/LICENSE-musl

FROM scratch AS static
COPY --from=build-static /usr/local/bin/weirgate /usr/local/bin/weirgate
COPY --from=build-static /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/weirgate/
COPY --from=licences /licences/LICENSE-THIRD-PARTY /licences/LICENSE-musl /usr/share/doc/weirgate/
# There is no shell that would know it.
ENV PATH=/usr/local/bin
USER 65532:65532
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["weirgate", "health"]
ENTRYPOINT ["weirgate"]
# No label has the time of the build, which would make each image another one.
ARG WEIRGATE_COMMIT=
LABEL org.opencontainers.image.title="weirgate" \
      org.opencontainers.image.description="One process between NATS or Redis and your WebSocket clients" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${WEIRGATE_COMMIT}" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"

FROM debian:bookworm-slim AS base
# curl is for the health checks that people have; the image's own is `weirgate health`. Versions: as above.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates curl \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 65532 --no-create-home --shell /usr/sbin/nologin weirgate
COPY --from=build /usr/local/bin/weirgate /usr/local/bin/weirgate
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/weirgate/
COPY --from=licences /licences/LICENSE-THIRD-PARTY /usr/share/doc/weirgate/
# As in deploy/systemd: memory goes back to the kernel when it is freed, and few heaps.
ENV MALLOC_MMAP_THRESHOLD_=131072
ENV MALLOC_ARENA_MAX=2
ENV GLIBC_TUNABLES=glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0
USER 65532:65532
STOPSIGNAL SIGTERM
# Asks where the gateway listens by its arguments, if it is the first process, and the same environment.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["weirgate", "health"]
ENTRYPOINT ["weirgate"]
ARG WEIRGATE_COMMIT=
LABEL org.opencontainers.image.title="weirgate" \
      org.opencontainers.image.description="One process between NATS or Redis and your WebSocket clients" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${WEIRGATE_COMMIT}" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"

FROM base AS levels
ENV WEIRGATE_GATEWAY=levels
EXPOSE 8000

FROM base AS trades
ENV WEIRGATE_GATEWAY=trades
EXPOSE 8080

FROM base AS events
ENV WEIRGATE_GATEWAY=events
EXPOSE 8000

FROM base AS channels
ENV WEIRGATE_GATEWAY=channels
EXPOSE 8889

# The last one is the default. No gateway is set: an argument names it.
FROM base AS weirgate
EXPOSE 8000
