# `make demo` and `make test` need nothing before them: both set everything up the first time (docs/setup.md).
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types protos bench clean distclean
SHELL := bash

bin := .venv/bin
benchmarks := wire features rank_speed rerank_speed rerank_slates rerank_truth recall_live vectors popular recall_speed
# Spark takes JAVA_HOME before PATH, so the Java that set-up found is the one that runs
java := JAVA_HOME="$$(tail -n 1 .venv/setup/java)"

help:                ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:               ## make .venv and find Java (the others do it themselves)
	@bash deploy/setup.sh

demo: setup          ## simulate, build, serve, ask; SIZE=small, DATA=dir, CONFIG=file, DEMO_EXIT=1
	@$(java) $(bin)/funnel demo $(if $(SIZE),--size "$(SIZE)") $(if $(DATA),--data "$(DATA)") $(if $(CONFIG),--config "$(CONFIG)")

test: setup          ## run the tests in two processes; ARGS="-k words" picks some
	@$(java) $(bin)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder $(ARGS)

lint: setup          ## check format and style
	@$(bin)/ruff format --check .
	@$(bin)/ruff check .

types: setup         ## check types
	@$(bin)/mypy

protos: setup        ## generate protos/*_pb2* again
	@$(bin)/python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. --pyi_out=. protos/*.proto benchmarks/*.proto

bench: setup         ## run the benchmarks
	@set -e; for name in $(benchmarks); do $(java) $(bin)/python -m benchmarks.$$name $(ARGS); done

clean:               ## remove caches, logs and what the demo built (var/)
	@rm -rf var dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis spark-warehouse metastore_db derby.log
	@find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean     ## remove .venv too
	@rm -rf .venv
