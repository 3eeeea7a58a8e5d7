"""What a flag or a key of the configuration names becomes a path here; a workdir; files that are whole or not there."""

import json
import re
from pathlib import Path

import jax

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


def prepare_workdir(workdir: str | Path) -> Path:
    """The folder, existing and writable, or an error in words."""
    workdir = local_path(workdir, "--workdir").resolve()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".writable-{jax.process_index()}"
        probe.write_text("")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot write to the workdir {workdir}: {error}. Give --workdir a folder you may write to."
        ) from error
    return workdir


def write_json(path: Path, value: dict):
    """Whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2))
    temporary.replace(path)
