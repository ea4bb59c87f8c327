# What people and checks call. Recipes are plain sh without pipes, so that a failure is a failure.

CARGO ?= cargo
INFER = target/release/infer
REAL_TESTS = --test models $(if $(wildcard tests/real_models.rs),--test real_models)
MODEL_CACHE = $${XDG_CACHE_HOME:-$$HOME/.cache}/infer/models

# Seconds for each target, and which targets.
FUZZ_TIME ?= 180
FUZZ ?= header tokenizer template blocks model

.PHONY: help setup build install demo test test-full test-models fuzz
.DEFAULT_GOAL := help

help:
	@echo "make demo         build, then let the embedded model answer a question and tell a story"
	@echo "make build        the release binary: $(INFER)"
	@echo "make install      the same, into cargo's bin directory"
	@echo "make test         formatting, lints and all quick tests (software Vulkan is enough)"
	@echo "make test-full    the same with every fixture and every variant"
	@echo "make test-models  fetch SmolLM2 135M (98 MB, once) and test against it"
	@echo "make fuzz         damaged input for FUZZ_TIME=180 seconds a target (FUZZ=\"header model\" chooses); needs a nightly"
	@echo "make setup        install what is missing: a Vulkan driver, a C compiler"

setup:
	@scripts/setup

build: setup
	$(CARGO) build --release --locked

install: setup
	$(CARGO) install --path . --locked

# --device gpu takes a software adapter where there is no other: the shaders are what is shown.
demo: build
	$(INFER) run --device gpu --prompt "What is the capital of Japan?" --temperature 0
	$(INFER) run --device gpu --prompt "Once upon a time" --raw -n 120

test: setup
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) test --locked

test-full: export INFER_TEST_FULL = 1
test-full: test

# fetch-model exits with 3 where the model cannot be had: that is a skip, said aloud, and every
# other failure is one. The tests run optimised: a real model is too slow otherwise.
test-models: setup
	@scripts/fetch-model smollm2-135m; code=$$?; \
	if [ $$code = 3 ]; then echo "SKIPPED: make test-models: the model cannot be fetched here" >&2; exit 0; fi; \
	[ $$code = 0 ] || exit $$code; \
	echo 'INFER_TEST_MODELS="$(MODEL_CACHE)" $(CARGO) test --release --locked $(REAL_TESTS)'; \
	INFER_TEST_MODELS="$(MODEL_CACHE)" $(CARGO) test --release --locked $(REAL_TESTS)

# No sanitizer: what is fuzzed is safe code, and four times as fast without one.
fuzz:
	@$(CARGO) fuzz --version >/dev/null 2>&1 || { \
	echo "error: make fuzz needs cargo-fuzz: cargo install --locked cargo-fuzz" >&2; exit 1; }
	@$(CARGO) +nightly --version >/dev/null 2>&1 || { \
	echo "error: make fuzz needs a nightly toolchain: rustup toolchain install nightly --profile minimal" >&2; exit 1; }
	fuzz/seed
	@for target in $(FUZZ); do \
	case $$target in template) more="-dict=fuzz/template.dict -max_len=4096";; \
	header) more="-dict=fuzz/gguf.dict -max_len=2048";; model) more="-dict=fuzz/gguf.dict -max_len=14000";; \
	*) more="-max_len=2000";; esac; \
	echo "fuzz: $$target for $(FUZZ_TIME) seconds"; \
	$(CARGO) +nightly fuzz run --sanitizer none $$target -- -max_total_time=$(FUZZ_TIME) -timeout=10 \
	-rss_limit_mb=2048 -print_final_stats=1 $$more || exit $$?; done
