# Every target builds .venv itself the first time. Options: PYTHON=python3.12, NEWEST=1 (ignore constraints.txt).
.DEFAULT_GOAL := help
.PHONY: help setup tour test lab refresh docs bench clean
MAKEFLAGS += --no-print-directory
export PYTHON NEWEST

ifeq ($(OS),Windows_NT)
  bin := .venv/Scripts
else
  bin := .venv/bin
endif
py := $(bin)/python
ready := .venv/.ready

$(ready): pyproject.toml constraints.txt tools/setup
	@bash tools/setup
	@touch $@

help:  ## this list
	@sed -n 's/^\([a-z]*\): .*## \(.*\)/  make \1	\2/p' Makefile

setup: $(ready)  ## build .venv

tour: $(ready)  ## a real model chats, learns its name with LoRA, and answers differently (minutes, on a CPU)
	@$(py) tools/tour.py

test: $(ready)  ## every check and every test; the last line says how many passed and failed
	@$(py) tools/check.py

lab: $(ready)  ## open the book in JupyterLab
	@$(bin)/jupyter lab nbs

refresh: $(ready)  ## run the notebooks and store their outputs; some of them: make refresh nbs="00_core 10_deploy"
	@$(py) tools/refresh.py $(nbs)

docs: $(ready)  ## build the site from the stored outputs, into _docs/html
	@$(py) docs/build.py

bench: $(ready)  ## speed and memory on this machine
	@$(py) tools/bench.py

clean:  ## remove what is built, .venv excepted
	rm -rf _docs _proc build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
