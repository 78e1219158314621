FROM docker.io/library/python:3.11-slim AS build
WORKDIR /app
# The engine's native part is compiled where a compiler is found, and done without where not.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /venv
ENV PATH=/venv/bin:$PATH
COPY pyproject.toml README.md ./
COPY service service
RUN pip install --no-cache-dir .

FROM docker.io/library/python:3.11-slim
RUN groupadd --gid 10001 mcdropout && useradd --uid 10001 --gid mcdropout --no-create-home --shell /usr/sbin/nologin mcdropout
COPY --from=build /venv /venv
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
USER mcdropout
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"MCDROPOUT_PORT\"]}/health/ready', timeout=2)"]
CMD ["mcdropout", "serve"]
