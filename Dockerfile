# The image contains three files: a static pushnode, the CA certificates and the
# licence. No shell, no package manager, no user but 65534.
#
#   docker build -t pushnode .
#   docker run --read-only --cap-drop ALL --security-opt no-new-privileges \
#     -p 127.0.0.1:8080:8080 -e PUSH_API_KEYS=... -e PUSH_ALLOW_INSECURE=true pushnode
#
# In a container, a node must listen on an address that others can reach. There it
# refuses to start if senders need no key, or if clients are not authenticated
# (PUSH_AUTH=none). This image does not override that. Set PUSH_ALLOW_INSECURE
# yourself if the port is published on the loopback interface only, as here, or if
# a proxy in front authenticates. deploy/compose.yaml is a complete example.

# ---- build ------------------------------------------------------------------
# `plain` is a release build. `pgo` lets the compiler know which code runs often, by
# scripts/pgo: a connect or a push through Redis costs less, and the build takes nearly
# three times as long.
#   docker build --build-arg BUILD=pgo -t pushnode .
ARG BUILD=plain

# Not the slim image: the allocator is built by make.
FROM rust:1.95-bookworm AS toolchain

# Static, with glibc: since 2.34 its resolver (/etc/hosts and DNS) is in libc.a, so
# names resolve in an empty root as well.
# With --target, these flags do not apply to build scripts and macros, which
# cannot be static.
ENV RUSTFLAGS="-C target-feature=+crt-static" \
    CARGO_PROFILE_RELEASE_STRIP=debuginfo

WORKDIR /build

COPY Cargo.toml Cargo.lock ./
COPY .cargo/config.toml .cargo/config.toml
# Cargo requires a file for every [[bench]] of the manifest.
RUN mkdir -p src benches \
    && sed -n '/^\[\[bench\]\]/,/^$/ s/^name = "\(.*\)"/benches\/\1.rs/p' Cargo.toml > stand-ins \
    && xargs --arg-file=stand-ins touch

FROM toolchain AS plain

# Dependencies first, with stand-ins for our own sources: this layer takes by far
# the longest, and is rebuilt only when Cargo.toml or Cargo.lock change.
RUN touch src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --locked --release --bin pushnode --target "$(rustc --print host-tuple)"

# COPY keeps modification times. For cargo the sources would be older than the
# stand-ins, with nothing to build; hence the touch.
COPY src src
# The rights that `pushnode check` looks for.
COPY deploy/redis.acl deploy/redis.acl
RUN touch src/lib.rs src/main.rs \
    && cargo build --locked --release --bin pushnode --target "$(rustc --print host-tuple)" \
    && cp "target/$(rustc --print host-tuple)/release/pushnode" /pushnode

FROM toolchain AS pgo

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 redis-server \
    && rm -rf /var/lib/apt/lists/* \
    && rustup component add llvm-tools
COPY src src
COPY deploy/redis.acl deploy/redis.acl
COPY scripts/pgo scripts/pgo-load scripts/
RUN scripts/pgo && cp target/pgo/pushnode /pushnode

# hadolint ignore=DL3006
FROM ${BUILD} AS built

# ---- image ------------------------------------------------------------------
FROM scratch

LABEL org.opencontainers.image.title="pushnode" \
      org.opencontainers.image.description="Push messages to connected users: stateless WebSocket nodes over Redis pub/sub" \
      org.opencontainers.image.licenses="MIT"

COPY LICENSE /LICENSE
# For rediss:// to a Redis with a publicly signed certificate.
COPY --from=built /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=built /pushnode /pushnode

# The operations listener stays on the loopback interface of the container, for
# the health check. PUSH_ADMIN_LISTEN=0.0.0.0:8081 opens it to Prometheus.
# PUSH_NODE_NAME keeps its default, the host name, which is the container's id.
ENV PUSH_LISTEN=0.0.0.0:8080 \
    PUSH_ADMIN_LISTEN=127.0.0.1:8081 \
    PUSH_LOG=info \
    PUSH_LOG_FORMAT=json

USER 65534:65534
EXPOSE 8080

# SIGTERM: PUSH_PRESTOP_SECONDS (6.5), then PUSH_DRAIN_SECONDS (10): `docker stop --time 30`.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["/pushnode", "--healthcheck"]
ENTRYPOINT ["/pushnode"]
