"""How scripts end: a problem that the user can fix is one line on stderr, never a traceback."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from envs.errors import UserError


def run_script(main: Callable[[], None]) -> int:
    """Run `main`; return the exit code: 0, 2 (UserError), 1 (disk error), 130 (Ctrl-C)."""
    try:
        main()
    except UserError as error:
        sys.stderr.write(f"\nerror: {error}\n")
        return 2
    except BrokenPipeError:  # the reader of the output has ended, as `head` does
        sys.stderr.close()
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        where = f": {error.filename}" if error.filename else ""
        sys.stderr.write(
            f"\nerror: {error.strerror}{where}; free some space or choose another folder\n"
        )
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; nothing that was saved before is lost\n")
        return 130
    return 0
