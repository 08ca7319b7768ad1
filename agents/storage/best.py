"""The best checkpoint of a run: `best/` is the one that the newest state names, even after a kill.

A better checkpoint waits as NEXT until the state that names it is saved. Otherwise a run that is
killed in between, and resumed where rounding differs, could have a best that it never chose.
"""

from __future__ import annotations

from pathlib import Path

from agents.storage.checkpoint import load_checkpoint
from agents.storage.folder_formats import AGENT
from agents.storage.tensor_folder import CannotLoad, read_json
from envs.errors import UserError, one_line
from envs.files import remove_folder, replace_folder

BEST, NEXT = "best", ".next-best"


def settle(folder: Path, update: int) -> None:
    """Rename the waiting checkpoint in a run's folder to `best/` if of `update`, or remove it."""
    waiting = folder / NEXT
    if not waiting.is_dir():
        return
    try:
        chosen = read_json(waiting / AGENT.metadata, AGENT.largest).get("update") == update
    except UserError:
        chosen = False
    if chosen:
        replace_folder(waiting, folder / BEST)
    else:
        remove_folder(waiting)


def lost(folder: Path, update: int) -> str:
    """Return why `best/` in a run's folder cannot be loaded as that of `update`; "" if it can."""
    try:
        found = load_checkpoint(folder / BEST)[1]["update"]
    except CannotLoad as error:
        return one_line(error.what)
    return "" if found == update else f"{folder / BEST} is of update {found}, not {update}"
