# syntax=docker/dockerfile:1
# What steps run in on Kubernetes, Kubeflow, managed services and over SSH: the locked packages and this code, for a
# user without rights. ZenML takes it as it is (settings.docker.skip_build in configs/profiles/).
#
#   docker build --tag IMAGE --build-arg EXTRAS="kubernetes" --build-arg REVISION="$(git rev-parse HEAD)" .
#
# The packages' CUDA build of torch needs nothing of the base image: the driver comes from the node. TORCH_INDEX takes
# another build, such as PyTorch's index of CPU wheels for an image that is several gigabytes smaller.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
ARG EXTRAS="kubernetes"
ARG TORCH_INDEX=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN python -m venv /opt/venv
WORKDIR /app
COPY requirements.lock ./
COPY requirements requirements
RUN /opt/venv/bin/python -m pip install --quiet ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} -r requirements.lock; \
    for extra in ${EXTRAS}; do /opt/venv/bin/python -m pip install --quiet -r "requirements/${extra}.lock"; done
COPY . .
RUN /opt/venv/bin/python -m pip install --quiet --no-deps --editable . \
    && /opt/venv/bin/python -m compileall -q rlhf steps pipelines materializers ops

FROM python:${PYTHON}-slim-bookworm
ARG REVISION=""
LABEL org.opencontainers.image.title="rlhf-pipeline" org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 1000 rlhf \
    && useradd --uid 1000 --gid 1000 --home-dir /state --no-create-home --shell /usr/sbin/nologin rlhf \
    && install --directory --owner=rlhf --group=rlhf /state
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
# As ops/environment.py has them, since ZenML is imported before it in a step's process; a test compares the two. The rule
# takes TOKENIZERS_PARALLELISM for a secret.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RLHF_REVISION=${REVISION} \
    RLHF_HOME=/state \
    HF_HOME=/state/huggingface \
    HF_DATASETS_CACHE=/state/cache/hub-datasets \
    MPLCONFIGDIR=/state/matplotlib \
    ZENML_CONFIG_PATH=/state/zenml \
    ZENML_CUSTOM_SOURCE_ROOT=/app \
    ZENML_LOCAL_STORES_PATH=/state/zenml-stores \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# hadolint ignore=DL3064
ENV ZENML_ANALYTICS_OPT_IN=false \
    MLFLOW_DISABLE_TELEMETRY=true \
    HF_HUB_DISABLE_TELEMETRY=1 \
    ARGILLA_ENABLE_TELEMETRY=0 \
    DO_NOT_TRACK=1 \
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false \
    OMP_WAIT_POLICY=passive \
    OMP_NUM_THREADS=1 \
    TOKENIZERS_PARALLELISM=false \
    ONEDNN_PRIMITIVE_CACHE_CAPACITY=32 \
    MALLOC_ARENA_MAX=2 \
    HF_HUB_DISABLE_PROGRESS_BARS=1 \
    HF_DATASETS_DISABLE_PROGRESS_BARS=1 \
    TRANSFORMERS_VERBOSITY=error \
    TRL_EXPERIMENTAL_SILENCE=1 \
    ZENML_ENABLE_RICH_TRACEBACK=false \
    ZENML_ENABLE_REPO_INIT_WARNINGS=false \
    AUTO_OPEN_DASHBOARD=false \
    GIT_PYTHON_REFRESH=quiet \
    MLFLOW_HTTP_REQUEST_MAX_RETRIES=2 \
    MLFLOW_HTTP_REQUEST_TIMEOUT=15
# By number, so that Kubernetes can see that it is not root.
USER 1000:1000
WORKDIR /app
CMD ["rlhf", "--help"]
