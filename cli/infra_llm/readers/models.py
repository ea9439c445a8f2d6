"""A model by path or address into a ModelProfile."""

from __future__ import annotations

from pathlib import Path

from infra_llm.core.errors import BadInputError
from infra_llm.core.model import ModelProfile
from infra_llm.readers.gguf_file import read_gguf


def read_model(place: str) -> ModelProfile:
    """Read the header of a GGUF file. Raises BadInputError."""
    path = Path(place).expanduser()
    if not path.exists():
        raise BadInputError("no such file", where=place, hint="give the path of a .gguf file")
    return read_gguf(path)
