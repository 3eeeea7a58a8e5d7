"""Compiled programs kept between runs. What such a folder holds is executed, so it must be its user's alone."""

import os
import stat
from pathlib import Path

import jax

from semdiff.machine import logs
from semdiff.machine.paths import local_path

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_HOME = "~/.cache/"  # where users keep caches, unless XDG_CACHE_HOME is set


def use_cache(written: str) -> Path | None:
    """Keep compiled programs in this folder; None, and said, where others could put theirs there."""
    if not written:
        return None
    folder = cache_folder(written)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        reason = why_not_private(folder)
    except OSError as error:
        reason = f"it cannot be used ({error.strerror or error})"
    if reason:
        logs.say(
            f"compiled programs are not kept: config.compilation_cache={folder}: {reason}. What it holds is executed:"
            " remove it, or name a folder that is yours alone (an empty string keeps nothing, silently)"
        )
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


def cache_folder(written: str) -> Path:
    caches = os.environ.get("XDG_CACHE_HOME", "")
    if written.startswith(_HOME) and os.path.isabs(caches):
        return Path(caches) / written.removeprefix(_HOME)
    return local_path(written, "config.compilation_cache")


def why_not_private(folder: Path) -> str:
    """Who else could write into the folder, or put another in its place; "" if nobody but root."""
    if not hasattr(os, "geteuid"):
        return ""  # no such permissions on this system
    whole = folder.resolve()
    found = whole.stat()
    if found.st_uid != os.geteuid():
        return f"it belongs to user {found.st_uid}"
    if found.st_mode & WRITABLE_BY_OTHERS:
        return f"others may write to it (mode {stat.S_IMODE(found.st_mode):o}, expected 700)"
    for above in whole.parents:
        mode = above.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            return f"others may replace it, since anyone may write to {above}"
    return ""
