# Serve exported runs: no torch, no compiler, no root. Build where the runs are:
#   headstart export runs/reviews
#   docker build -t headstart . && docker run -p 8000:8000 -v "$PWD/runs:/models:ro" headstart /models/reviews-onnx
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY headstart headstart
RUN python -m venv /opt/headstart \
 && /opt/headstart/bin/pip install --no-cache-dir --constraint constraints.txt ".[runtime,serve]"

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin headstart
COPY --from=build /opt/headstart /opt/headstart
ENV PATH=/opt/headstart/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-c", \
  "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=2)"]
ENTRYPOINT ["headstart", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--help"]
