# `deploy/digests.sh` says it with its digest.
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /app
# The engine's native part is compiled where a compiler is found, and done without where not. Of its packages Debian
# keeps the newest versions only: pinned, they would soon not be found.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv --without-pip /venv \
    && python3 -m venv --without-pip /tools
# With SOURCE_DATE_EPOCH pip writes bytecode that a hash tells from a stale one; times would not do, which are rounded on
# the way to another stage. Nobody could write it later, and a start without it takes a third longer. The number is 1980's
# first second, an archive's earliest.
ENV SOURCE_DATE_EPOCH=315532800
# What is not what the lock says by its hash is refused, and so is what the lock does not name.
COPY deploy/locks deploy/locks
RUN pip --python /tools/bin/python install --no-cache-dir --require-hashes -r deploy/locks/build.txt \
    && pip --python /venv/bin/python install --no-cache-dir --require-hashes -r deploy/locks/cpu.txt
COPY pyproject.toml setup.py README.md ./
COPY service service
# Removed are tests, and ONNX Runtime for programs in C: Python's module holds its own. Should one of them be elsewhere
# in another version, the build fails; and so it does where the lock is not what the project takes.
RUN pip --python /tools/bin/python wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
    && pip --python /venv/bin/python install --no-cache-dir --no-deps --no-index /wheels/*.whl \
    && pip --python /venv/bin/python check \
    && rm -r /venv/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so.* \
        /venv/lib/python3*/site-packages/onnx/backend/test \
    && find /venv/lib/python3*/site-packages/numpy -type d -name tests -prune -exec rm -r {} + \
    && /tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
        --output-file /venv/sbom.cdx.json /venv/bin/python

# With PyTorch, which brings CUDA: for networks that cannot be compiled, and for GPUs.
FROM build AS build-gpu
RUN pip --python /venv/bin/python install --no-cache-dir --require-hashes -r deploy/locks/gpu.txt \
    && pip --python /venv/bin/python check \
    && /tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
        --output-file /venv/sbom.cdx.json /venv/bin/python

FROM ${PYTHON_IMAGE} AS run
RUN groupadd --gid 10001 mcdropout \
    && useradd --uid 10001 --gid mcdropout --no-create-home --shell /usr/sbin/nologin mcdropout
WORKDIR /app
COPY models models
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MCDROPOUT_HOST=0.0.0.0 \
    MCDROPOUT_PORT=8000 \
    MCDROPOUT_MODELS=/app/models \
    MCDROPOUT_DEFAULT=mnist-cnn \
    MCDROPOUT_ADMIN=false \
    MCDROPOUT_LOG_FORMAT=json
USER 10001:10001
EXPOSE 8000
# By a bare socket, over TLS where it is served, which its own certificate need not be known for: the base image has no
# bytecode of the standard library, whose HTTP client would take four times the processor time.
HEALTHCHECK --interval=10s --timeout=3s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import os, socket; s = socket.create_connection(('127.0.0.1', int(os.environ['MCDROPOUT_PORT'])), 2); s = __import__('ssl')._create_unverified_context().wrap_socket(s) if os.environ.get('MCDROPOUT_TLS_CERTIFICATE') else s; s.sendall(b'GET /health/ready HTTP/1.0\\r\\n\\r\\n'); raise SystemExit(b' 200 ' not in s.recv(64))"]
CMD ["mcdropout", "serve"]

FROM run AS gpu
COPY --from=build-gpu /venv /venv
ENV MCDROPOUT_DEVICE=cuda

# The default: what compiled bundles and ONNX models take.
FROM run AS cpu
COPY --from=build /venv /venv
