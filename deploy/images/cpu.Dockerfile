# powertrain on CPUs. Build in the repository's root (docs/deployment.md):
#   docker build -f deploy/images/cpu.Dockerfile -t powertrain:0.2.0-cpu .                   packages are mounted at /models
#   docker build -f deploy/images/cpu.Dockerfile -t mine:1 --target baked --build-arg MODEL=smollm2-135m-instruct .
# Pin the base by digest where you can look it up: --build-arg PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY . .
RUN ["sh", "deploy/images/install.sh", "cpu", "/opt/powertrain"]

FROM build AS package
ARG MODEL=smollm2-135m-instruct
ENV POWERTRAIN_HOME=/models ORT_DISABLE_TELEMETRY=1
RUN /opt/powertrain/bin/powertrain export --output /models/package -- "${MODEL}"

FROM ${PYTHON_IMAGE} AS base
ARG VERSION=0.2.0
LABEL org.opencontainers.image.title="powertrain" \
    org.opencontainers.image.description="OpenAI- and NIM-compatible chat server over ONNX Runtime on CPUs" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/powertrain /opt/powertrain
COPY LICENSE /licenses/powertrain
# NIM_CACHE_PATH is the folder of packages, and the name that a NIM's manifest sets; POWERTRAIN_HOME goes before it.
ENV PATH=/opt/powertrain/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    NIM_CACHE_PATH=/models \
    POWERTRAIN_HOST=0.0.0.0
WORKDIR /models
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=10m --retries=3 CMD ["powertrain", "probe"]
ENTRYPOINT ["powertrain", "serve"]

FROM base AS baked
COPY --from=package /models/package /models/package
ENV POWERTRAIN_MODEL=/models/package

# The last stage is what a build without --target gives.
FROM base AS server
