# A small image of the worker: docker build -t longshore .
# What builds stays in the first stage; the second one has Python, the virtual environment, and nothing to install with.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY jobs jobs
COPY sample_inbox sample_inbox
COPY worker worker
RUN python3 -m venv --without-pip /opt/longshore \
 && python3 -m pip --python /opt/longshore/bin/python3 install --no-cache-dir --disable-pip-version-check \
    --constraint constraints.txt '.[postgresql]' \
 && find /opt/longshore -type d -name tests -prune -exec rm -rf {} +

FROM python:3.11-slim-bookworm
# A number, so that Kubernetes can see that it is not root; the folder is the project's.
RUN useradd --uid 10001 --user-group --no-log-init --home-dir /srv/longshore --shell /usr/sbin/nologin longshore \
 && cd /srv && install --directory --owner=longshore --group=longshore \
    longshore longshore/inbox longshore/outbox longshore/archive longshore/failed
COPY --from=build /opt/longshore /opt/longshore
ENV PATH=/opt/longshore/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /srv/longshore
ENTRYPOINT ["longshore"]
CMD ["run"]
