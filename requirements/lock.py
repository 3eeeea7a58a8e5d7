"""Write requirements/lock.txt: the exact versions that `make` installs, one line per package.

    python requirements/lock.py python3.11 python3.12

Each interpreter, oldest first, gets a fresh virtual environment with the newest versions that setup.cfg
allows (its requirements and the `dev` extra). A package whose version differs between two of them gets one
line each, with a marker; the last interpreter's line also serves all later ones.
"""

import configparser
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Made by `make lock` from setup.cfg. Do not edit.\n"


def main(interpreters: list[str]):
    if not interpreters:
        sys.exit(__doc__)
    frozen: dict[str, dict[str, str]] = {}
    for interpreter in interpreters:
        version = output(interpreter, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
        print(f"{version}: resolving", flush=True)
        frozen[version] = freeze(interpreter)
    versions = sorted(frozen, key=lambda version: tuple(map(int, version.split("."))))
    lines = merged([frozen[version] for version in versions], versions)
    path = ROOT / "requirements" / "lock.txt"
    path.write_text(HEADER + "".join(f"{line}\n" for line in lines))
    print(f"{path}: {len(lines)} lines for Python {', '.join(versions)}")


def requirements() -> list[str]:
    """What running and developing need, as setup.cfg says it."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    text = setup["options"]["install_requires"] + "\n" + setup["options.extras_require"]["dev"]
    return [line.strip() for line in text.splitlines() if line.strip()]


def freeze(interpreter: str) -> dict[str, str]:
    """Package -> version of all that pip chooses, what they depend on included."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([interpreter, "-m", "venv", folder], check=True)
        python = str(Path(folder) / "bin" / "python")
        pip = ("-m", "pip", "--disable-pip-version-check")
        subprocess.run(
            [python, *pip, "install", "-qq", "--only-binary", ":all:", *requirements()], check=True
        )
        lines = output(python, *pip, "freeze").splitlines()
    return dict(line.split("==") for line in lines)


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def merged(frozen: list[dict[str, str]], versions: list[str]) -> list[str]:
    """One line per package and version; a marker where not all interpreters agree."""
    lines = []
    for name in sorted({name for packages in frozen for name in packages}, key=str.lower):
        pins = [packages.get(name) for packages in frozen]
        start = 0
        for i in range(len(pins)):
            if i + 1 < len(pins) and pins[i + 1] == pins[start]:
                continue
            if pins[start] is not None:
                bounds = []
                if start > 0:
                    bounds.append(f'python_version >= "{versions[start]}"')
                if i + 1 < len(pins):
                    bounds.append(f'python_version < "{versions[i + 1]}"')
                marker = f" ; {' and '.join(bounds)}" if bounds else ""
                lines.append(f"{name}=={pins[start]}{marker}")
            start = i + 1
    return lines


if __name__ == "__main__":
    main(sys.argv[1:])
