"""`python -m schema.export` writes `schema.graphql` again."""

from pathlib import Path

from schema.app import schema

SDL = Path(__file__).with_name("schema.graphql")


def sdl() -> str:
    """Return the schema as clients read it, without spaces at the ends of lines."""
    return "".join(f"{line.rstrip()}\n" for line in schema.as_str().strip().splitlines())


if __name__ == "__main__":
    SDL.write_text(sdl(), encoding="utf-8")
