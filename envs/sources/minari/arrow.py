"""Reader of Minari's Arrow and Parquet layouts: a folder with one table for each episode."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.data.builder import TrajectoriesBuilder
from envs.data.offset import Float64
from envs.errors import UserError
from envs.sources.hdf5 import check_claim
from envs.worlds.flat import Part

FORMATS = ("arrow", "parquet")


def read_arrow(
    folder: Path,
    name: str,
    episodes: int,
    obs: Sequence[Part],
    action: Part,
    data_format: str,
    obs_offset: Float64 | None = None,
) -> tuple[TrajectoriesBuilder, NDArray[np.bool_]]:
    """Read the first `episodes` episodes; return them and their terminations (E,).

    An episode of T steps has T + 1 rows; the last is padding, except for observations.
    Raises UserError naming the episode and what is wrong with it.
    """
    files = [_files(folder / str(i), data_format) for i in range(episodes)]
    rows = [sum(_rows(file, data_format) for file in parts) for parts in files]
    widths = sum(part.width for part in obs), action.width
    stored = sum(file.stat().st_size for parts in files for file in parts)
    check_claim(4 * sum(rows) * (sum(widths) + 1), stored, str(folder.parent))
    made = TrajectoriesBuilder(name, np.array(rows, np.int64) - 1, *widths, obs_offset)
    terminated = np.zeros(episodes, np.bool_)
    with np.errstate(over="ignore", invalid="ignore"):
        for i, parts in enumerate(files):
            row, end = int(made.starts[i]), int(made.starts[i + 1])
            for file in parts:
                for batch in _batches(file, data_format):
                    batch.validate(full=True)
                    count = min(batch.num_rows, end - row)  # without the padding
                    where, at = f"{name}: episode {i}", 0
                    for part in obs:
                        path = "observations", *map(str, part.path)
                        values = part.encode(_numbers(batch, path, part, where))
                        made.set_obs(i, row - int(made.starts[i]), at, values)
                        at += part.width
                    steps = batch.slice(0, count)
                    made.action[row : row + count] = _numbers(steps, ("actions",), action, where)
                    made.reward[row : row + count] = _numbers(steps, ("rewards",), None, where)
                    if count and row + count == end:
                        terminated[i] = _numbers(steps, ("terminations",), None, where)[-1]
                    row += count
    return made, terminated


def reset_options(folder: Path) -> list[str]:
    """Return the names of the options that the first episode was reset with."""
    path = folder / "0" / "metadata.json"
    about = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return sorted(map(str, about.get("options") or {}))


def _numbers(batch: Any, path: tuple[str, ...], part: Part | None, where: str) -> NDArray[Any]:
    """Return (N, width) for a part with a list in each row, (N,) for one number in each."""
    import pyarrow as pa

    label, names = "/".join(path), batch.schema.names
    if path[0] not in names:
        raise UserError(f"{where} has no {path[0]}; it has {', '.join(names)}")
    column = batch.column(path[0])
    for name in path[1:]:
        if not pa.types.is_struct(column.type) or column.type.get_field_index(name) < 0:
            raise UserError(f"{where} has no {label}; choose another data set")
        column = column.field(name)
    kind, count = column.type, len(column)
    is_list = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind)
    values = column.flatten() if is_list else column
    numeric = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    if column.null_count or not (numeric or pa.types.is_boolean(values.type)):
        raise UserError(f"{where} has {label} of type {kind}; store numbers in each row")
    width = part.width if is_list and part is not None else 1
    found = values.to_numpy(zero_copy_only=False)
    if is_list != (part is not None and part.space.shape != ()) or found.size != count * width:
        raise UserError(
            f"{where} has {found.size} numbers of {label} in {count} rows, its space "
            f"has {width if part is None else part.width} in each; choose another data set"
        )
    return found.reshape(count, width) if is_list else found


def _files(folder: Path, data_format: str) -> list[Path]:
    """Return an episode's files in the order of their rows."""
    found = [file for file in folder.glob(f"*.{data_format}") if not file.name.startswith(".")]
    if not found:
        raise FileNotFoundError(folder)
    return sorted(found, key=lambda file: [int(n) for n in re.findall(r"\d+", file.stem)])


@contextmanager
def _opened(file: Path, data_format: str) -> Iterator[Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(f"{file} is stored as {data_format}: pip install pyarrow") from error
    if data_format == "parquet":
        with parquet.ParquetFile(file) as opened:
            yield opened
    else:
        with pa.memory_map(str(file)) as source, pa.ipc.open_file(source) as opened:
            yield opened


def _rows(file: Path, data_format: str) -> int:
    with _opened(file, data_format) as opened:
        if data_format == "parquet":
            return opened.metadata.num_rows
        return sum(opened.get_batch(i).num_rows for i in range(opened.num_record_batches))


def _batches(file: Path, data_format: str) -> Iterator[Any]:
    with _opened(file, data_format) as opened:
        if data_format == "parquet":
            yield from opened.iter_batches()
        else:
            yield from (opened.get_batch(i) for i in range(opened.num_record_batches))
