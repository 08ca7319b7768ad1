"""What a message advises about a file that cannot be read."""

from __future__ import annotations

import errno
import json

import pytest

from envs.errors import UserError, remedy
from envs.sources.hdf5 import hdf5_errors


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ESTALE])
def test_errors_of_the_machine_do_not_lead_to_a_deletion(code: int, tmp_path) -> None:
    assert remedy(OSError(code, "error"), "delete it").startswith("make it readable")
    with pytest.raises(UserError, match="make it readable"), hdf5_errors(tmp_path):
        raise OSError(code, "error")


def test_text_in_another_encoding_is_not_to_be_deleted(tmp_path) -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        json.loads(b'"\xe4"')
    assert remedy(caught.value, "delete it") == "save its text in UTF-8"
    with pytest.raises(UserError, match="UTF-8"), hdf5_errors(tmp_path):
        b"\xe4".decode()


def test_a_damaged_file_is() -> None:
    assert remedy(OSError("truncated file"), "delete it") == "delete it"
    assert remedy(OSError(errno.EINVAL, "Invalid argument"), "delete it") == "delete it"
    assert remedy(ValueError("not JSON"), "delete it") == "delete it"
