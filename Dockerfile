# Runs as an ordinary user on a read-only root file system; only /data is written.
#   docker run --read-only --tmpfs /tmp -v telemetry:/data -p 8080:8080 \
#     -e AGENT_TELEMETRY__GATEWAY__CLIENT_TOKENS=… -e AGENT_TELEMETRY__ADMIN__TOKEN=… agent-telemetry
FROM python:3.13-slim AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements.lock requirements-build.lock ./
RUN python -m venv /opt/agent-telemetry \
 && /opt/agent-telemetry/bin/pip install --require-hashes --only-binary :all: -r requirements.lock \
 && python -m venv /opt/build \
 && /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY proxy ./proxy
# A .pth file would be executed at every start of Python.
RUN /opt/build/bin/pip wheel --no-deps --no-index --no-build-isolation -w /dist . \
 && /opt/agent-telemetry/bin/pip install --no-deps --no-index /dist/*.whl \
 && test -z "$(find /opt/agent-telemetry -name '*.pth')"

FROM python:3.13-slim
COPY --from=build /opt/agent-telemetry /opt/agent-telemetry
RUN useradd --system --uid 65532 --home-dir /data --shell /usr/sbin/nologin telemetry \
 && install -d -o telemetry -m 700 /data
ENV PATH=/opt/agent-telemetry/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    AGENT_TELEMETRY__DATA_DIR=/data \
    AGENT_TELEMETRY__GATEWAY__LISTEN=0.0.0.0:8080 \
    AGENT_TELEMETRY__ADMIN__LISTEN=0.0.0.0:8081
USER 65532
VOLUME /data
EXPOSE 8080 8081
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["agent-telemetry", "health"]
ENTRYPOINT ["agent-telemetry"]
CMD ["serve"]
