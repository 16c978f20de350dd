# The image holds three files: a static pushnode, the CA certificates and the
# licence. No shell, no package manager, no other user than 65534.
#
#   docker build -t pushnode .
#   docker run --read-only --cap-drop ALL --security-opt no-new-privileges \
#     -p 127.0.0.1:8080:8080 -e PUSH_API_KEYS=... -e PUSH_ALLOW_INSECURE=true pushnode
#
# Inside a container every useful address is an open one, and there a node
# refuses to start while senders need no key or clients are believed as they
# stand (PUSH_AUTH=none). This image does not talk it out of that:
# PUSH_ALLOW_INSECURE is yours to say, when the port is published on the loopback
# only, as here, or behind something that authenticates.
# deploy/compose.yaml is a whole example.

# ---- build ------------------------------------------------------------------
FROM rust:1.95-slim-bookworm AS build

# Static, but against glibc and not musl: the allocator of musl takes one lock
# for all threads, and a node allocates from every core. Since glibc 2.34 the
# resolver (/etc/hosts and DNS) is inside libc.a, so names resolve in an empty
# root as well. With --target these flags spare build scripts and macros, which
# cannot be static.
ENV RUSTFLAGS="-C target-feature=+crt-static" \
    CARGO_PROFILE_RELEASE_STRIP=debuginfo

WORKDIR /build

# Dependencies first, against stand-ins for our own sources: this layer, by far
# the longest, is built again only when Cargo.toml or Cargo.lock change. Cargo
# wants every [[bench]] of the manifest to have its file.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches \
    && sed -n '/^\[\[bench\]\]/,/^$/ s/^name = "\(.*\)"/benches\/\1.rs/p' Cargo.toml > stand-ins \
    && xargs --arg-file=stand-ins touch src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --locked --release --bin pushnode --target "$(rustc --print host-tuple)"

# Files keep their old modification times in COPY, which for cargo is "older
# than the stand-ins, nothing to do"; hence the touch.
COPY src src
RUN touch src/lib.rs src/main.rs \
    && cargo build --locked --release --bin pushnode --target "$(rustc --print host-tuple)" \
    && cp "target/$(rustc --print host-tuple)/release/pushnode" /pushnode

# ---- image ------------------------------------------------------------------
FROM scratch

LABEL org.opencontainers.image.title="pushnode" \
      org.opencontainers.image.description="Push messages to connected users: stateless WebSocket nodes over Redis pub/sub" \
      org.opencontainers.image.licenses="MIT"

COPY LICENSE /LICENSE
# For rediss:// to a Redis with a publicly signed certificate.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /pushnode /pushnode

# The operations listener stays on the loopback of the container, where the
# health check finds it; PUSH_ADMIN_LISTEN=0.0.0.0:8081 opens it to a scraper.
# PUSH_NODE_NAME is left to its default, the host name: the container's id.
ENV PUSH_LISTEN=0.0.0.0:8080 \
    PUSH_ADMIN_LISTEN=127.0.0.1:8081 \
    PUSH_LOG=info \
    PUSH_LOG_FORMAT=json

USER 65534:65534
EXPOSE 8080

# SIGTERM drains for PUSH_DRAIN_SECONDS (10): give `docker stop` a longer --time.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["/pushnode", "--healthcheck"]
ENTRYPOINT ["/pushnode"]
