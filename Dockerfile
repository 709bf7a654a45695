FROM python:3.13-slim

ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN pip install --upgrade "pip>=25.1"
WORKDIR /app

# First an empty package, for what it depends on: this layer outlives changes of the code.
COPY pyproject.toml ./
RUN mkdir gqlnotify && touch gqlnotify/__init__.py README.md LICENSE && pip install --group tasks '.[all]'

COPY README.md LICENSE ./
COPY gqlnotify gqlnotify
RUN pip install --no-deps .
COPY schema schema

USER nobody
EXPOSE 8000
CMD ["gqlnotify", "serve", "schema.app:app", "--host", "0.0.0.0"]
