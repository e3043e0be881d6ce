# segflow on NVIDIA GPUs. torch brings CUDA and cuDNN in its own wheels; the driver is the machine's,
# handed in by the NVIDIA container toolkit (docker run --gpus all), so the base needs no CUDA.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY constraints.txt ./
RUN python3 -m venv /opt/segflow \
 && /opt/segflow/bin/python -m pip install --no-cache-dir -c constraints.txt torch \
 && rm -rf /opt/segflow/lib/python3.11/site-packages/torch/include
RUN /opt/segflow/bin/python -c "import torch; assert torch.version.cuda, 'a build of torch for CPUs'"
COPY LICENSE MANIFEST.in README.rst pyproject.toml setup.cfg ./
COPY operators operators
COPY segflow segflow
RUN /opt/segflow/bin/python -m pip install --no-cache-dir -c constraints.txt ".[mesh]"

FROM ${BASE}
LABEL org.opencontainers.image.title="segflow" \
      org.opencontainers.image.description="EM volumes to segmented neurons: a chain of operators, on GPUs" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 1000 segflow && useradd --uid 1000 --gid 1000 --create-home segflow \
 && install --directory --owner=1000 --group=1000 /data
COPY --from=build /opt/segflow /opt/segflow
ENV PATH=/opt/segflow/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/tmp/cache \
    NUMBA_CACHE_DIR=/tmp/cache/numba \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /home/segflow
# a worker that is told --health /tmp/health.json is well while that is fresh; all else while it runs
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s \
  CMD ["sh", "-c", "test ! -e /tmp/health.json || segflow worker --check /tmp/health.json"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["segflow"]
CMD ["--help"]
