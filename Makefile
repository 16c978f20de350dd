# The commands of developers and of continuous integration. `make` lists them.

tools    := target/test-tools
k6       := $(or $(K6),$(tools)/venv/bin/k6)
# The binary of the integration tests: all features, dev profile.
binary   := $(or $(CARGO_TARGET_DIR),target)/debug/pushnode
features := --locked --all-features
compose  := docker compose -f deploy/compose.yaml
nginx    := $(CURDIR)/target/nginx-check
js       := clients/js

# nginx is in /usr/sbin on Debian.
export PATH := $(PATH):/usr/sbin:/sbin

# Tests mostly wait: for a node to start, for a lease to end.
cores    := $(shell nproc 2>/dev/null || echo 2)
export RUST_TEST_THREADS ?= $(shell expr 4 '*' $(cores))

.PHONY: help test compile tools setup fmt fmt-check lint build doc hadolint nginx-check deny \
        unit unit-cluster unit-others clients fuzz k6-smoke schemathesis interop \
        interop-available run upgrade-test bench pgo pgo-load image compose-up compose-down clean
.NOTPARALLEL:

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The network is slow while the compiler needs the processors, and what else is to be compiled takes
# what the compiler leaves of them. Tests mostly wait: three lists of about the same length. What
# takes longest comes first and is shown as it comes.
test: fmt-check ## run everything that CI runs, cheap checks first
	@scripts/side-by-side compile tools
	@scripts/side-by-side 'unit-cluster interop-available' 'unit-others clients' \
	    'fuzz k6-smoke schemathesis pgo-load'

compile: build doc

tools: setup hadolint nginx-check $(js)/node_modules/.package-lock.json
	@nice -n 15 scripts/interop --available
	@nice -n 15 scripts/fuzz build

setup: ## install what the tests need (Redis, nginx, Chromium, k6, ...)
	@scripts/setup

fmt: ## format the code
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml

fmt-check:
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check

lint: hadolint nginx-check build doc ## check Dockerfile, nginx.conf, clippy and rustdoc; warnings fail

hadolint: setup
	$(tools)/venv/bin/hadolint Dockerfile

# nginx itself checks the file. Only the nodes' names, which exist in the compose
# network alone, and the paths are replaced.
nginx-check: setup
	@mkdir -p $(nginx)
	@sed -e 's#node-[ab]:8080#127.0.0.1:8080#' -e 's#/tmp/#$(nginx)/#' deploy/nginx.conf > $(nginx)/nginx.conf
	nginx -t -q -p $(nginx) -c $(nginx)/nginx.conf > /dev/null

# Clippy is a compiler: with it as the wrapper of this crate, one build is linted and tested. `cargo
# clippy` and `cargo doc` would have all dependencies checked beside the build. The variable is what
# `cargo clippy` itself sets for what stands behind its `--`.
cargo-test := RUSTC_WORKSPACE_WRAPPER=clippy-driver \
    CLIPPY_ARGS='-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__' cargo test $(features)

build: ## compile the node, all tests and benchmarks with Clippy; warnings fail
	$(cargo-test) --all-targets --no-run

doc: build ## check the documentation in the code; warnings fail
	RUSTDOC=$(CURDIR)/scripts/rustdoc-built $(cargo-test) --doc

unit: setup ## run unit and integration tests, with a real Redis
	$(cargo-test)

# The same in two parts that run at the same time: several nodes, and the rest.
parts    := $(notdir $(patsubst %/main.rs,%,$(wildcard tests/*/main.rs)) $(wildcard tests/*.rs))

unit-cluster: setup build
	$(cargo-test) --test cluster

unit-others: setup build
	$(cargo-test) --lib $(addprefix --test ,$(basename $(filter-out cluster,$(parts))))

# From the lockfile, and only if it has changed.
$(js)/node_modules/.package-lock.json: $(js)/package-lock.json
	cd $(js) && npm ci --no-audit --no-fund --loglevel=error

# The tests run the package as it is published, with the node that was built here.
clients: setup build $(js)/node_modules/.package-lock.json ## test pushnode-js, its size and its types, and the Python client
	cd $(js) && PUSHNODE_BIN=$(abspath $(binary)) npm test
	cd $(js) && npm run --silent size && npm run --silent check
	cd clients/python && PUSHNODE_BIN=$(abspath $(binary)) \
	    $(abspath $(tools))/venv/bin/python -B -m pytest -q -p no:cacheprovider

k6-smoke: setup build ## run the k6 scripts briefly against two nodes
	K6=$(k6) scripts/k6-smoke $(binary)

schemathesis: setup build ## check a node's answers to generated requests against /openapi.json
	SCHEMATHESIS=$(tools)/venv/bin/schemathesis scripts/schemathesis $(binary)

interop: setup build ## WebSocket, SSE and Redis by libraries of others, in four languages
	scripts/interop $(binary)

interop-available: setup build
	scripts/interop --available $(binary)

fuzz: setup ## fuzz all external input, 10 s per target (longer: scripts/fuzz 600)
	scripts/fuzz 10

deny: ## check licences, sources and advisories of dependencies (cargo install cargo-deny)
	cargo deny check

run: ## run one node on http://127.0.0.1:8080/, without Redis unless PUSH_REDIS_URL is set
	cargo run --locked

upgrade-test: ## a rolling upgrade from the last release and back, under load (builds both)
	@scripts/upgrade-test

bench: ## run the benchmarks in the release profile
	cargo bench --locked

pgo: ## build target/pgo/pushnode, a release build that knows which code runs often
	scripts/pgo

# What that build learns from is tried with each change, the build itself is not.
pgo-load: setup build
	scripts/pgo-load $(binary) 40

image: ## build the container image `pushnode`, with what `make pgo` builds
	docker build --build-arg BUILD=pgo -t pushnode .

# Created once: a key of 256 random bits, readable by its owner only.
deploy/.env:
	@umask 077 && printf 'PUSH_API_KEYS=%s\n' "$$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')" > $@
	@echo "created an API key for senders in $@"

compose-up: deploy/.env ## start two nodes, Redis and nginx on http://127.0.0.1:8080/
	$(compose) up --build --detach --wait

compose-down: deploy/.env ## stop and remove their containers
	$(compose) down

clean: ## remove all build output, test tools included
	cargo clean
