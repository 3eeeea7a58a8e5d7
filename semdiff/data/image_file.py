"""PNG and JPEG files from strangers: only these formats are ever decoded, and other files are named."""

from __future__ import annotations

import os
import struct
import zlib

from PIL import Image

PHOTOS = ("PNG", "JPEG")
EXACT = ("PNG",)  # what keeps every pixel's number, as label maps must

_BEGINNINGS = (
    (b"\x89PNG\r\n\x1a\n", "a PNG file"),
    (b"\xff\xd8\xff", "a JPEG file"),
    (b"GIF8", "a GIF file"),
    (b"BM", "a BMP file"),
    (b"II*\0", "a TIFF file"),
    (b"MM\0*", "a TIFF file"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 file"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"%PDF", "a PDF file"),
    (b"\x93NUMPY", "a NumPy file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"version https://git-lfs", "a Git LFS pointer (fetch the file itself with `git lfs pull`)"),
)


class DataError(ValueError):
    """Data are not what was promised. The text says which file, what is wrong and what to do."""


def load(path: str | os.PathLike, what: str, formats: tuple[str, ...]) -> Image.Image:
    """The decoded file, its pixels as they are stored."""
    try:
        with Image.open(path, formats=formats) as image:
            image.load()
            image.getexif()  # parsed now, so that damage to it is told below
            return image
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file. Expected {what}. If the data set was opened before, the file has"
            " been moved or deleted since: restore it or open the data set again."
        ) from None
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        expected = " or ".join(formats)
        kind = _kind(path)
        if kind and not any(kind == f"a {name} file" for name in formats):
            raise _another_kind(path, kind, what, expected) from None
        raise DataError(
            f"{path}: cannot be decoded as {what} ({error}). Expected a whole {expected} file of"
            f" at least one pixel; this one has {_bytes_on_disk(path)}. Copy it again from its"
            " origin, or remove it with its partner files."
        ) from error


def _another_kind(path: str | os.PathLike, kind: str, what: str, expected: str) -> DataError:
    remedy = f"Convert it to {expected}, or copy it again from its origin."
    if kind == "a JPEG file":
        remedy = (
            "JPEG blends neighbouring values, so its ids are not to be trusted: make it again from the"
            " original, as PNG."
        )
    return DataError(
        f"{path}: this is {kind}, whatever its name says. Expected {expected} for {what}. {remedy}"
    )


def _kind(path: str | os.PathLike) -> str:
    """What the first bytes say that a file is; "" where they say nothing known."""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError:
        return ""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "a WebP file"
    if start[4:8] == b"ftyp":
        return "a HEIC, AVIF or video file"
    if start.lstrip().startswith((b"<!DOCTYPE", b"<!doctype", b"<html")):
        return "a web page (the download gave a page instead of the file)"
    return next((kind for beginning, kind in _BEGINNINGS if start.startswith(beginning)), "")


def _bytes_on_disk(path: str | os.PathLike) -> str:
    try:
        return f"{os.path.getsize(path)} bytes"
    except OSError:
        return "an unreadable size"
