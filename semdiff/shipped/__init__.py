"""Models that come with the package: folders as --mode=export writes them, made by `make models`. Nothing else lives here,
and what is not semdiff's own to give away may not."""

from pathlib import Path

HERE = Path(__file__).parent


def names() -> list[str]:
    return sorted(path.parent.name for path in HERE.glob("*/model.safetensors"))


def or_shipped(path: Path) -> Path:
    """The path, or the model that has it for its name; a path that is there goes first."""
    return HERE / path if str(path) in names() and not path.exists() else path


def known() -> str:
    """For errors."""
    return f"{', '.join(names()) or 'none'} {'come' if len(names()) > 1 else 'comes'} with semdiff"
