# syntax=docker/dockerfile:1
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/tidings
COPY requirements.lock ./
# The lock holds what development needs as well; the service's own part of it is chosen by the distribution's metadata.
COPY pyproject.toml hatch_build.py README.md LICENSE ./
# `tidings/storage`, `tidings/streams` and `tidings/gateway` are links to these three.
COPY storage storage
COPY streams streams
COPY gateway gateway
COPY tidings tidings
RUN sed -e 's/ --hash=[^ ]*//' -e 's/ *\\$//' -e '/^ *#/d' -e '/^ *$/d' requirements.lock > constraints.txt \
    && /opt/tidings/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt ".[all]"

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /data tidings && mkdir /data && chown tidings /data
COPY --from=build /opt/tidings /opt/tidings
ENV PATH=/opt/tidings/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER tidings
WORKDIR /
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('TIDINGS_PORT', '8080') + '/healthz', timeout=2)"]
ENTRYPOINT ["tidings"]
CMD ["serve"]
