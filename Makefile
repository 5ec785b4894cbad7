# Set-up and the main jobs. Everything lives in .venv; nothing else on the machine is touched.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test test-all compare acceptance why lint tensorboard clean

train: .venv/ready ## train the default character model and let it speak
	@$(BIN)/rnnlab train $(ARGS)

test: .venv/ready ## the test suite, without the long tests
	@$(BIN)/python -m pytest -n 2 -q -m "not slow" $(ARGS)

test-all: .venv/ready ## every test
	@$(BIN)/python -m pytest -n 2 -q $(ARGS)

compare: .venv/ready ## four models of equal size on three tasks, and one page that compares them; half an hour
	@for task in adding parity char_lm; do \
		$(BIN)/rnnlab train -m experiment=compare/$$task hydra/launcher=joblib logger.progress=false $(ARGS) || exit; \
	done
	@$(BIN)/rnnlab compare runs/compare --by model.name --tune optimizer.lr --tune-seeds 100 --out runs/comparison

acceptance: .venv/ready ## orderings of cells that must come out; ARGS="adding parity" for some, ARGS=long=true for all
	@$(BIN)/python scripts/acceptance.py $(ARGS)

why: .venv/ready ## why training is hard, in one picture: gradients over 200 steps, before and after training; takes minutes
	@$(BIN)/python scripts/why_training_is_hard.py $(ARGS)

lint: .venv/ready ## ruff's checks and formatting
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

tensorboard: .venv/ready ## look at every run in a browser
	@$(BIN)/tensorboard --logdir runs --host 127.0.0.1

clean: ## remove the environment, not the runs
	rm -rf .venv build *.egg-info

# torch comes first and pinned: it is by far the largest part, and other versions are untested.
.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"rnnlab needs Python 3.11 to 3.13, this is {sys.version.split()[0]}; use make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q -e '.[dev]'
	@touch $@
