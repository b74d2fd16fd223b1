# Thin on purpose: scripts/setup/prepare.py makes .venv and builds the package into it.
#   make demo | make test         each alone, from a clean clone
#   make PYTHON=/path/to/python3.12 …   picks the Python
export PYTHON
ENV := .venv/bin

.PHONY: setup demo test lint clean

setup:
	@sh scripts/setup/run.sh

demo: setup
	$(ENV)/steer-ros demo --out demo

test: setup
	$(ENV)/python -m pytest test

lint: setup
	$(ENV)/ruff check .
	$(ENV)/ruff format --check .

clean:
	rm -rf .venv build log demo
