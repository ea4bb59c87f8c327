# What people and checks call. Recipes are plain sh without pipes, so that a failure is a failure.

CARGO ?= cargo
INFER = target/release/infer
REAL_TESTS = --test models $(if $(wildcard tests/real_models.rs),--test real_models)
MODEL_CACHE = $${XDG_CACHE_HOME:-$$HOME/.cache}/infer/models

.PHONY: help setup build install demo test test-full test-models
.DEFAULT_GOAL := help

help:
	@echo "make demo         build, then let the embedded model answer a question and tell a story"
	@echo "make build        the release binary: $(INFER)"
	@echo "make install      the same, into cargo's bin directory"
	@echo "make test         formatting, lints and all quick tests (software Vulkan is enough)"
	@echo "make test-full    the same with every fixture and every variant"
	@echo "make test-models  fetch SmolLM2 135M (98 MB, once) and test against it"
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
