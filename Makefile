# Set-up and main commands. All packages are installed in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test test-all compare acceptance results why tutorial docs lint tensorboard clean

train: .venv/ready ## train the default character model and print samples of text
	@$(BIN)/rnnlab train $(ARGS)

# The tests start many processes; each would compile the package again if the environment forbids to store bytecode.
test test-all: export PYTHONDONTWRITEBYTECODE =

test: .venv/ready ## run the tests, except the slow ones
	@$(BIN)/python -m pytest -n 2 -q -m "not slow" $(ARGS)

test-all: .venv/ready ## run all tests
	@$(BIN)/python -m pytest -n 2 -q $(ARGS)

compare: .venv/ready ## train four models of equal size on three tasks and write a page that compares them; takes half an hour
	@for task in adding parity char_lm; do \
		$(BIN)/rnnlab train -m experiment=compare/$$task hydra/launcher=joblib logger.progress=false $(ARGS) || exit; \
	done
	@$(BIN)/rnnlab compare runs/compare --by model.name --tune optimizer.lr --tune-seeds 100 --out runs/comparison

acceptance: .venv/ready ## run the acceptance experiments and write docs/acceptance.md; ARGS="adding parity" for some, ARGS=long=true for all
	@$(BIN)/python scripts/acceptance.py $(ARGS)

results: .venv/ready ## run the recipes and write docs/results.md; ARGS="tatoeba dates" for some, ARGS=long=true for all
	@$(BIN)/python scripts/results.py $(ARGS)

why: .venv/ready ## plot gradients over 200 steps before and after training, for docs/why_training_is_hard.md; takes minutes
	@$(BIN)/python scripts/why_training_is_hard.py $(ARGS)

tutorial: .venv/ready ## run the tutorial, and update its pages, notebook and figures; takes minutes
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/tutorial.py && $(BIN)/python scripts/tutorial_figures.py

docs: .venv/ready ## build the documentation site into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet && echo "Written: site/index.html; the search needs a server: python3 -m http.server -d site"

lint: .venv/ready ## run ruff's checks, check the formatting, and check the types of the public API
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

tensorboard: .venv/ready ## show all runs in TensorBoard
	@$(BIN)/tensorboard --logdir runs --host 127.0.0.1

clean: ## remove the environment and build files; runs are kept
	rm -rf .venv build *.egg-info

# torch is installed first, because it is by far the largest package, and pinned, because other versions are not tested.
.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"rnnlab needs Python 3.11 to 3.13, this is {sys.version.split()[0]}; use make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q -e '.[dev]'
	@touch $@
