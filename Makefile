# What a contributor types. `make` alone lists it.

CARGO ?= cargo

.PHONY: help demo test clients check bench instructions order endurance bench-build tools advisories

help:
	@echo 'make demo        run the proxy against an embedded issuer and an embedded API'
	@echo 'make test        all tests, those against real servers included'
	@echo 'make clients     measure what HTTP clients can do, and write docs/clients.md'
	@echo 'make check       what must pass before a change lands: format, lints, tests, documentation, dependencies'
	@echo 'make bench       measure the release build beside nginx, haproxy, Envoy and pingora (35 minutes; BENCH=--quick: 8)'
	@echo 'make endurance   rotation, a crowd of bad clients and reloads, under load (15 minutes; ENDURANCE=--quick: 3)'
	@echo 'make instructions count the user instructions of a request, beside nginx'
	@echo 'make order       record which functions run, for the linker to lay them side by side (link/order.txt)'
	@echo 'make tools       install what tests and measurements need besides Rust'
	@echo 'make advisories  ask the advisory database about the dependencies (needs the network)'

demo:
	$(CARGO) run --release --locked -- demo

tools:
	scripts/tools.sh test clients bench check

# The peers test drives the release build, as an operator would, beside real servers. It is a target of its own because
# it needs them installed, and a minute of load. The release build is linked by one core for minutes: the tests are built beside
# it, and run when nothing else does.
test:
	scripts/tools.sh test clients
	$(CARGO) build --release --locked & release=$$!; \
	$(CARGO) test --locked --no-run && $(CARGO) test --locked --no-run --test peers; tests=$$?; \
	wait $$release && exit $$tests
	$(CARGO) test --locked
	$(CARGO) test --locked --test peers

# The test compares what it measures with the page; here it writes it.
clients:
	scripts/tools.sh test clients
	$(CARGO) build --release --locked
	COUNTERSIGN_WRITE_CLIENTS=1 $(CARGO) test --locked --test peers clients_can -- --nocapture

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --test peers -- -D warnings
	$(CARGO) fmt --check --manifest-path benches/load/Cargo.toml
	$(CARGO) clippy --locked --manifest-path benches/load/Cargo.toml --target-dir target/bench -- -D warnings
	$(MAKE) test
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps
	scripts/tools.sh check
	$(CARGO) deny --locked check --hide-inclusion-graph bans licenses sources

# Not part of `check`: the database is fetched when asked, and a build must not fail because it cannot be.
advisories:
	scripts/tools.sh check
	$(CARGO) deny --locked check advisories

# What these three print is told in benches/README.md. BENCH and ENDURANCE are further words for their programs.
bench: bench-build
	python3 benches/run.py $(BENCH)

instructions: bench-build
	python3 benches/instructions.py

# Built in the one way in which it is shipped: the names of functions depend on that.
order:
	scripts/tools.sh bench
	$(CARGO) build --release --locked
	python3 benches/order.py

endurance: bench-build
	python3 benches/endurance.py $(ENDURANCE)

bench-build:
	scripts/tools.sh bench
	$(CARGO) build --release --locked
	$(CARGO) build --release --locked --manifest-path benches/load/Cargo.toml --target-dir target/bench
