"""What a person at the command line meets: flags that name nothing, errors in words."""

import contextlib
import errno
import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from absl import app

from semdiff.config import ConfigError
from semdiff.parser import check_key

DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """Errors that this package says, in words for people, end the program with one line; others keep their traceback."""
    try:
        yield
    except ValueError as error:
        if not raised_here(error):
            raise
        leave(str(error))
    except OSError as error:
        if error.errno not in DISK_IS_FULL:
            raise
        leave(f"{error}. What was saved before is whole: free space, then run the same command again.")


def raised_here(error: Exception) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return Path(frame.f_code.co_filename).is_relative_to(Path(__file__).parent)


def leave(words: str):
    """End with one line, at once: threads that still write to a full disk would bury it."""
    print(f"error: {words}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)


def parse_flags(arguments: list[str]) -> list[str]:
    """As absl does, but for what ends in a traceback there: no such file, no such key."""
    try:
        for argument in arguments[1:]:
            if key := re.match(r"--?config\.([\w.]+)", argument):
                check_key(key[1])
            if (file := re.match(r"--?config=([^:]+)", argument)) and not Path(file[1]).is_file():
                have = ", ".join(sorted(map(str, Path("configs").glob("*.py"))))
                raise ConfigError(f"--config: there is no file {file[1]}; here are {have or 'none'}")
    except ConfigError as error:
        leave(str(error))
    return app.parse_flags_with_usage(arguments)
