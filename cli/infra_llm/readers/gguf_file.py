"""GGUF headers into ModelProfile, with the distribution gguf.

Only the header and the tensor table are read. gguf's own reader makes one array view for each token
of the tokenizer (seconds for 256,000 tokens); `HeaderReader` steps over
array fields and keeps the rest.
"""

from __future__ import annotations

import itertools
import re
import struct
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGUFReader, GGUFValueType
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from gguf.gguf_reader import ReaderField

from infra_llm.core.errors import BadInputError
from infra_llm.core.model import ModelProfile, group_tensors

MIB = 1 << 20
MAX_PREFIX_MIB = 64
MAX_TENSORS = 20_000
MAX_KEYS = 10_000
MAX_DIMS = 4
MAX_KEPT_ARRAY = 4_096
"""Longer arrays are the tokenizer's; hyper-parameter arrays have one entry a layer."""
SPLIT_NAME = re.compile(r"^(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>(?!0{5})\d{5})\.gguf$")


class _PastTheEndError(Exception):
    """The header goes on behind the bytes that are there."""


class _MalformedError(Exception):
    """The bytes can't be a GGUF header; says why."""


class HeaderReader(GGUFReader):  # type: ignore[misc]
    """gguf's reader without the tokenizer's arrays and without views on the weights.

    `available` bytes of the file are real; reading behind them raises _PastTheEndError.
    """

    def __init__(self, path: Path, available: int) -> None:
        self.available = available
        self.array_lengths: dict[str, int] = {}
        self.table: list[tuple[str, tuple[int, ...], str, int]] = []
        self.data_bytes = 0
        super().__init__(path)

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        end = int(offset) + int(count) * np.dtype(dtype).itemsize
        if end > self.available:
            raise _PastTheEndError
        return super()._get(int(offset), dtype, count, override_order)

    def _build_fields(self, offs: int, count: int) -> int:
        if count > MAX_KEYS:
            raise _MalformedError(f"it claims {count} metadata keys")
        return int(super()._build_fields(offs, count))

    def _push_field(self, field: Any, skip_sum: bool = False) -> int:
        if len(field.types) > 1 and field.types[0] == GGUFValueType.ARRAY:
            self.array_lengths[field.name] = int(field.parts[4][0])
        return int(super()._push_field(field, skip_sum))

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        item_type = self._get(orig_offs, np.uint32)
        length = self._get(orig_offs + 4, np.uint64)
        kind, count, start = GGUFValueType(item_type[0]), int(length[0]), orig_offs + 12
        types = [GGUFValueType.ARRAY, kind]
        if kind == GGUFValueType.STRING:
            end = self._skip_strings(start, count)
            return end - orig_offs, [item_type, length], [], types
        number = self.gguf_scalar_to_np.get(kind)
        if number is None:
            raise _MalformedError("it holds an array of arrays")
        values = self._get(start, number, count)
        return 12 + int(values.nbytes), [item_type, length, values], [2], types

    def _skip_strings(self, offset: int, count: int) -> int:
        """Step over `count` strings: an 8-byte length and the text, each."""
        if offset + 8 * count > self.available:
            raise _PastTheEndError
        unpack = struct.Struct(">Q" if self.byte_order == "S" else "<Q").unpack_from
        data = memoryview(self.data)
        try:
            for _ in itertools.repeat(None, count):
                offset += 8 + unpack(data, offset)[0]
        except (struct.error, OverflowError) as error:
            raise _PastTheEndError from error
        if offset > self.available:
            raise _PastTheEndError
        return offset

    def _build_tensor_info(self, offs: int, count: int) -> Any:
        if count > MAX_TENSORS:
            raise _MalformedError(f"it claims {count} tensors")
        return super()._build_tensor_info(offs, count)

    def _get_tensor_info_field(self, orig_offs: int) -> Any:
        name_length = int(self._get(orig_offs, np.uint64)[0])
        dims = int(self._get(orig_offs + 8 + name_length, np.uint32)[0])
        if dims > MAX_DIMS:
            raise _MalformedError(f"a tensor claims {dims} dimensions")
        return super()._get_tensor_info_field(orig_offs)

    def _build_tensors(self, start_offs: int, fields: list[Any]) -> None:  # noqa: ARG002
        seen: set[str] = set()
        for item in fields:
            _length, _name, _n_dims, dims, raw_type, offset = item.parts
            if item.name in seen:
                raise _MalformedError(f"tensor {item.name} stands twice in its table")
            seen.add(item.name)
            kind = GGMLQuantizationType(int(raw_type[0]))
            block, block_bytes = GGML_QUANT_SIZES[kind]
            shape = tuple(int(dim) for dim in dims)
            elements = 1
            for dim in shape:
                elements *= dim
            if not shape or elements <= 0 or elements > 1 << 50 or shape[0] % block:
                raise _MalformedError(f"tensor {item.name} has the impossible shape {list(shape)}")
            size = elements // block * block_bytes
            self.data_bytes = max(self.data_bytes, int(offset[0]) + size)
            self.table.append((item.name, shape, kind.name, size))


def read_gguf(path: Path, *, size: int | None = None) -> ModelProfile:
    """Read a GGUF file's header; of a split file, all parts that lie beside the first.

    `size` is the true file size in bytes where `path` holds only the first part of the file.
    Raises BadInputError for anything that is not a complete GGUF file of a known architecture.
    """
    split = SPLIT_NAME.match(path.name)
    if not split or size is not None:
        return _read_part(path, size)[0]
    count = int(split["parts"])
    paths = [path.with_name(f"{split['stem']}-{n + 1:05}-of-{count:05}.gguf") for n in range(count)]
    missing = [part.name for part in paths if not part.is_file()]
    if missing:
        raise BadInputError(
            f"parts are missing: {', '.join(missing[:3])}",
            where=str(path),
            hint="put all parts of the split model in one folder",
        )
    return merge_parts([_read_part(part, None)[0] for part in paths])


def merge_parts(parts: list[ModelProfile]) -> ModelProfile:
    """One profile of a split model: the first part's keys, every part's tensors."""
    tensors = [(t.name, t.shape, t.type, t.bytes) for part in parts for t in part.all_tensors]
    return replace(
        parts[0],
        tensors=group_tensors(tensors),
        parameters=sum(part.parameters for part in parts),
        file_bytes=sum(part.file_bytes for part in parts),
        header_bytes=sum(part.header_bytes for part in parts),
        parts=len(parts),
    )


def read_gguf_prefix(read: Callable[[int], bytes], total_size: int) -> ModelProfile:
    """Read a header through `read(n)`, which gives the first n bytes of a file of `total_size`.

    Asks for 1, 2, 4 ... 64 MiB until the tensor table is complete. The prefix lies in a temporary
    sparse file of the full size while it is parsed. Raises BadInputError as `read_gguf` does.
    """
    prefix = MIB
    with tempfile.NamedTemporaryFile(suffix=".gguf") as holder:
        while True:
            wanted = min(prefix, total_size)
            data = read(wanted)
            holder.seek(0)
            holder.truncate(0)
            holder.write(data[:wanted])
            holder.flush()
            holder.truncate(max(total_size, len(data)))
            try:
                return _read_part(Path(holder.name), total_size, available=len(data[:wanted]))[0]
            except _PastTheEndError:
                if wanted >= total_size or len(data) < wanted or prefix >= MAX_PREFIX_MIB * MIB:
                    raise BadInputError(
                        f"the header does not end within {len(data) / MIB:.0f} MiB",
                        where="GGUF header",
                        hint="the file is truncated or no model; download it again",
                    ) from None
            prefix *= 2


def _read_part(
    path: Path, size: int | None, available: int | None = None
) -> tuple[ModelProfile, HeaderReader]:
    """Read one file. With `available`, a header that is longer raises _PastTheEndError."""
    where = str(path) if available is None else "GGUF header"
    try:
        on_disk = path.stat().st_size
        if on_disk < 24:
            raise BadInputError(
                f"{on_disk} bytes are no GGUF file", where=where, hint="download the file again"
            )
        limit = on_disk if available is None else available
        with np.errstate(all="ignore"):
            reader = HeaderReader(path, min(limit, MAX_PREFIX_MIB * MIB))
        profile = _profile(reader, size if size is not None else on_disk)
    except _PastTheEndError:
        if available is not None:
            raise
        raise BadInputError(
            "the file ends inside its header", where=where, hint="download the file again"
        ) from None
    except OSError as error:
        raise BadInputError(
            error.strerror or str(error), where=where, hint="check the file and its permissions"
        ) from error
    except BadInputError as error:
        raise BadInputError(error.what, where=error.where or where, hint=error.hint) from error
    except (
        _MalformedError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        OverflowError,
        UnicodeDecodeError,
        MemoryError,
    ) as error:
        raise BadInputError(
            f"not a readable GGUF file ({str(error).strip(chr(39)) or type(error).__name__})",
            where=where,
            hint="give a GGUF model of version 2 or 3; download it again if it is one",
        ) from error
    return profile, reader


def _profile(reader: HeaderReader, file_bytes: int) -> ModelProfile:
    keys = {
        name: _value(item)
        for name, item in reader.fields.items()
        if not name.startswith(("GGUF.", "tokenizer."))
    }
    architecture = keys.get("general.architecture", "")
    later_part = int(keys.get("split.no", 0) or 0) > 0
    if not later_part:
        _check_architecture(architecture)
    needed = reader.data_offset + reader.data_bytes
    if file_bytes < needed:
        raise BadInputError(
            f"truncated: {file_bytes} bytes of at least {needed}",
            hint="download the file again",
        )
    prefix = f"{architecture}."
    hyper = {
        name[len(prefix) :]: value
        for name, value in keys.items()
        if name.startswith(prefix) and value is not None
    }
    return ModelProfile(
        architecture=str(architecture),
        name=str(keys.get("general.name") or ""),
        quant=_quant(reader, keys.get("general.file_type")),
        parameters=sum(_elements(shape) for _, shape, _, _ in reader.table),
        file_bytes=file_bytes,
        header_bytes=int(reader.data_offset),
        context_length=_integer(hyper.get("context_length")),
        vocab_size=_vocab_size(reader, hyper),
        hyper=hyper,
        tensors=group_tensors(reader.table),
        tokenizer_merges=reader.array_lengths.get("tokenizer.ggml.merges", 0),
    )


def _check_architecture(architecture: Any) -> None:
    known = set(gguf.MODEL_ARCH_NAMES.values())
    if architecture not in known:
        raise BadInputError(
            f"unknown architecture {str(architecture)[:80]!r}",
            hint="general.architecture names no model family that llama.cpp's gguf "
            f"{'' if not known else f'({len(known)} families) '}knows; "
            "upgrade infra-llm or choose another model",
        )


def _value(item: ReaderField) -> Any:
    """A key's value as plain data; None for strings' arrays and long arrays."""
    if item.types[0] != GGUFValueType.ARRAY:
        value = item.contents()
        return value[:1000] if isinstance(value, str) else value
    if not item.data or int(item.parts[-2][0]) > MAX_KEPT_ARRAY:
        return None
    return item.parts[-1].tolist()


def _integer(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for dim in shape:
        count *= dim
    return count


def _vocab_size(reader: HeaderReader, hyper: dict[str, Any]) -> int:
    """Rows of the token embedding, which is what the engine computes with."""
    embedding = next(
        (shape for name, shape, _, _ in reader.table if name == "token_embd.weight"), ()
    )
    if len(embedding) > 1:
        return embedding[1]
    listed = reader.array_lengths.get("tokenizer.ggml.tokens", 0)
    return _integer(hyper.get("vocab_size")) or listed


def _quant(reader: HeaderReader, file_type: Any) -> str:
    """The label of general.file_type, or else the type that holds most bytes."""
    if isinstance(file_type, int):
        try:
            return str(LlamaFileType(file_type).name).removeprefix("MOSTLY_").removeprefix("ALL_")
        except ValueError:
            pass
    sizes: dict[str, int] = {}
    for _, _, kind, size in reader.table:
        sizes[kind] = sizes.get(kind, 0) + size
    return max(sizes, key=lambda kind: sizes[kind], default="")
