# segflow on CPUs; docs/fleet.rst has the command line. BASE: any Debian with Python 3.11 and its venv.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# PIP_EXTRA_INDEX_URL: PyTorch's index of CPU builds, of which pip takes torch before the CUDA build
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
COPY constraints.txt ./
RUN python3 -m venv /opt/segflow \
 && /opt/segflow/bin/python -m pip install --no-cache-dir -c constraints.txt torch \
 && rm -rf /opt/segflow/lib/python3.11/site-packages/torch/include
RUN /opt/segflow/bin/python -c "import torch; assert not torch.version.cuda, 'a CUDA build: set PIP_EXTRA_INDEX_URL'"
COPY LICENSE MANIFEST.in README.rst pyproject.toml setup.cfg ./
COPY operators operators
COPY segflow segflow
RUN /opt/segflow/bin/python -m pip install --no-cache-dir -c constraints.txt ".[mesh]"

# S3, SQS and CloudWatch on one machine, for trying things out: docker build --target local-aws
FROM build AS local-aws
RUN /opt/segflow/bin/python -m pip install --no-cache-dir -c constraints.txt "moto[server]"
COPY examples/production/local_aws.py /opt/segflow/local_aws.py
USER 1000:1000
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s \
  CMD ["/opt/segflow/bin/python", "/opt/segflow/local_aws.py", "--check"]
ENTRYPOINT ["/opt/segflow/bin/python", "/opt/segflow/local_aws.py"]
CMD ["--host", "0.0.0.0"]

FROM ${BASE}
LABEL org.opencontainers.image.title="segflow" \
      org.opencontainers.image.description="EM volumes to segmented neurons: a chain of operators, on CPUs" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 1000 segflow && useradd --uid 1000 --gid 1000 --create-home segflow \
 && install --directory --owner=1000 --group=1000 /data
COPY --from=build /opt/segflow /opt/segflow
ENV PATH=/opt/segflow/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/tmp/cache \
    NUMBA_CACHE_DIR=/tmp/cache/numba
USER 1000:1000
WORKDIR /home/segflow
# a worker that is told --health /tmp/health.json is well while that is fresh; all else while it runs
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s \
  CMD ["sh", "-c", "test ! -e /tmp/health.json || segflow worker --check /tmp/health.json"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["segflow"]
CMD ["--help"]
