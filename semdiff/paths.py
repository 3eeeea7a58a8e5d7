"""What a flag or a key of the configuration names becomes a path here."""

import re
from pathlib import Path

from semdiff.config import ConfigError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+")


def local_path(written: str | Path, key: str) -> Path:
    """The path, ~ being the home. key: the flag or key that named it, for the error."""
    mark = ":/" if isinstance(written, Path) else "://"  # Path makes one slash of two
    scheme, found, rest = str(written).partition(mark)
    if found and _SCHEME.fullmatch(scheme):
        raise ConfigError(
            f"{key}={scheme}://{rest}: remote folders are not supported. Expected a path on this machine:"
            " mount what is remote (a bucket with gcsfuse, for example) and name the mount, or copy it here"
        )
    return Path(written).expanduser()
