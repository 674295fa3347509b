# powertrain on NVIDIA GPUs. Build in the repository's root, BACKEND is cuda, tensorrt or tensorrt-rtx (docs/deployment.md):
#   docker build -f deploy/images/gpu.Dockerfile -t powertrain:0.2.0-tensorrt --build-arg BACKEND=tensorrt .
# CUDA's and TensorRT's libraries are wheels, hash-locked like all others, so that the base is plain Python; the driver
# comes from the host, through NVIDIA's container toolkit. The package brings its plans: they are compiled outside.
# Pin the base by digest where you can look it up: --build-arg PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG BACKEND
WORKDIR /src
COPY . .
RUN sh deploy/images/install.sh "${BACKEND}" /opt/powertrain

FROM ${PYTHON_IMAGE} AS base
ARG BACKEND
ARG VERSION=0.2.0
LABEL org.opencontainers.image.title="powertrain" \
    org.opencontainers.image.description="OpenAI- and NIM-compatible chat server on NVIDIA GPUs: ${BACKEND}" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.licenses="Apache-2.0 AND LicenseRef-NVIDIA"
COPY --from=build /opt/powertrain /opt/powertrain
COPY LICENSE /licenses/powertrain
# NIM_CACHE_PATH is the folder of packages, and the name that a NIM's manifest sets; POWERTRAIN_HOME goes before it.
# CUDA would keep kernels that it compiled in the user's home.
ENV PATH=/opt/powertrain/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    CUDA_CACHE_DISABLE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NIM_CACHE_PATH=/models \
    POWERTRAIN_HOST=0.0.0.0 \
    POWERTRAIN_BACKEND=${BACKEND}
WORKDIR /models
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=20m --retries=3 CMD ["powertrain", "probe"]
ENTRYPOINT ["powertrain", "serve"]

# A package baked in is copied from a folder beside the build: --build-context package=models/NAME --target baked
FROM base AS baked
# hadolint ignore=DL3022
COPY --from=package . /models/package
ENV POWERTRAIN_MODEL=/models/package

# The last stage is what a build without --target gives.
FROM base AS server
