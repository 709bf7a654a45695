"""`python -m schema.export` writes `schema.graphql` from the code."""

from pathlib import Path

from schema.app import schema

SDL = Path(__file__).with_name("schema.graphql")


def sdl() -> str:
    """Return the schema in the schema definition language, without trailing spaces."""
    return "".join(f"{line.rstrip()}\n" for line in schema.as_str().strip().splitlines())


if __name__ == "__main__":
    SDL.write_text(sdl(), encoding="utf-8")
