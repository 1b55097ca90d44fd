# Serve exported runs: no torch, no compiler, no root. Build where the runs are:
#   headstart export runs/reviews
#   docker build -t headstart . && docker run -p 8000:8000 -v "$PWD/runs:/models:ro" headstart /models/reviews-onnx
# The base image is named by digest, each package by its sha256 (deploy/requirements.txt; make lock writes it anew).
# A newer base: docker buildx imagetools inspect python:3.11-slim-bookworm
ARG PYTHON=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
FROM $PYTHON AS build
WORKDIR /src
COPY deploy/requirements.txt ./
RUN python -m venv /opt/headstart \
 && /opt/headstart/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY headstart headstart
RUN /opt/headstart/bin/pip install --no-cache-dir --no-deps .

FROM $PYTHON
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin headstart
COPY --from=build /opt/headstart /opt/headstart
ENV PATH=/opt/headstart/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONSAFEPATH=1 \
    ORT_DISABLE_TELEMETRY=1
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-P", "-c", \
  "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=2)"]
ENTRYPOINT ["headstart", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--help"]
