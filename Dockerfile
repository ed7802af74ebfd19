# Serves exports over HTTP, and runs every other verb. launch/image.sh builds it and tries it out.
#
#   docker build --tag jaxneg .                                           # CPUs
#   docker build --tag jaxneg-cuda --build-arg ACCELERATOR=cuda13 .       # or tpu
#   docker run --rm --publish 8000:8000 --volume "$PWD/exports:/exports:ro" jaxneg serve --host 0.0.0.0 /exports/mine
#
# Versions are those of requirements.lock; of what only an accelerator needs, those that its jax asks for.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS built
# Nothing, cuda13 or tpu.
ARG ACCELERATOR=""
ARG EXTRAS="serve,ann,redis"
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY jaxneg jaxneg
RUN python -m venv /opt/jaxneg \
    && /opt/jaxneg/bin/pip install --no-cache-dir --constraint requirements.lock ".[${EXTRAS}${ACCELERATOR:+,${ACCELERATOR}}]"

FROM python:${PYTHON}-slim-bookworm
# Its home keeps compiled programs; a volume at /home/jaxneg/.cache has the next container find them.
RUN useradd --create-home --uid 10001 jaxneg
COPY --from=built /opt/jaxneg /opt/jaxneg
ENV PATH=/opt/jaxneg/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1
USER 10001
WORKDIR /home/jaxneg
EXPOSE 8000
# Ready once every export is loaded and compiled. It needs no token.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["jaxneg"]
CMD ["serve", "--help"]
