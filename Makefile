# `make up` starts the server and `make test` runs the tests; neither needs anything set up before.

.PHONY: help up up-docker up-native down logs image test test-unit test-daemons test-browser \
	test-container test-torture torture bench check format docs lock clean

help:
	@echo "make up       start the server, and return when it works: in a container if there is a"
	@echo "              Docker engine, else natively (make up-docker, make up-native: that one)"
	@echo "make down     stop it"
	@echo "make logs     follow its log"
	@echo "make image    build the image, and print its size"
	@echo "make test     run every test that this machine can run"
	@echo "make torture  inject faults under load for half an hour (ROUNDS=10 SEED=1)"
	@echo "make bench    measure for 20 minutes, and write docs/performance.md"
	@echo "make check    run the linters and the type checker"
	@echo "make format   format the code"
	@echo "make docs     write docs/settings.md"
	@echo "make lock     renew the locked versions in requirements/"
	@echo "make clean    remove .venv (the server's state stays)"

up:
	@if tools/docker answers; then tools/docker up; else $(MAKE) --no-print-directory up-native; fi

up-docker:
	@tools/docker up

up-native:
	@tools/venv run
	@.venv/bin/devmail up

down:
	@if tools/docker exists; then tools/docker down; else tools/venv run && .venv/bin/devmail down; fi

logs:
	@if tools/docker exists; then tools/docker logs; else tools/venv run && .venv/bin/devmail logs; fi

image:
	@tools/docker image

# The first line installs what the tiers need, as far as root may; pytest says what it left out.
test:
	@tools/venv dev
	@.venv/bin/devmail install --webmail roundcube
	@.venv/bin/pytest

test-unit test-daemons test-browser test-container test-torture: test-%:
	@tools/venv dev
	@.venv/bin/pytest tests/$*

torture:
	@tools/venv dev
	@.venv/bin/devmail install --webmail roundcube
	@TORTURE_ROUNDS=$(or $(ROUNDS),10) TORTURE_SEED=$(or $(SEED),1) .venv/bin/pytest tests/torture

bench:
	@tools/venv dev
	@.venv/bin/python -m bench

check:
	@tools/venv dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	shellcheck tools/docker tools/venv .ci/run .ci/engine

format:
	@tools/venv dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

docs:
	@tools/venv run
	.venv/bin/devmail settings > docs/settings.md

lock:
	python3 -m venv .venv-lock
	.venv-lock/bin/pip install --quiet pip-tools
	.venv-lock/bin/pip-compile $(LOCK) --all-build-deps --only-build-deps -o requirements/build.txt
	.venv-lock/bin/pip-compile $(LOCK) -o requirements/run.txt
	.venv-lock/bin/pip-compile $(LOCK) --extra dev -c requirements/run.txt -o requirements/dev.txt
	rm -r .venv-lock

LOCK = --quiet --upgrade --generate-hashes --strip-extras --allow-unsafe --no-header \
	--no-emit-index-url --no-emit-find-links pyproject.toml

clean:
	rm -rf .venv
