"""Splits a folder into parts that can be sent one by one to a machine without network, and joins them there.

A file that is larger than a part is split into pieces; `manifest.json` holds sizes and SHA-256 checksums of all.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from genrec_hf.directories import replace_file, write_text

MANIFEST = "manifest.json"
PART_BYTES = 56 * 2**20


def checksum(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def code_checksum(root: Path) -> str:
    """Return the SHA-256 over names and content of programs and configs, which identifies the code of results."""
    digest = hashlib.sha256()
    files = [
        file
        for folder in ("genrec_hf", "recipes", "benchmarks")
        for ending in ("py", "yaml")
        for file in (root / folder).glob(f"**/*.{ending}")
    ]
    for file in sorted(files):
        digest.update(f"{file.relative_to(root).as_posix()} {checksum(file)}\n".encode())
    return digest.hexdigest()


def cut(source: Path, parts: Path, about: dict[str, Any], part_bytes: int = PART_BYTES) -> dict[str, Any]:
    """Split all files of `source` into folders `parts/part-1`, `parts/part-2`, ... of at most `part_bytes`.

    Args:
        source (`Path`): folder with the files.
        parts (`Path`): folder to write to; parts of an earlier call are replaced.
        about (`dict`): further entries of the manifest, such as the commit.
        part_bytes (`int`, defaults to 56 MiB): largest size of a part.

    Returns:
        `dict`: the manifest, also written to `parts/manifest.json`.

    Raises:
        ValueError: `parts` holds files that this function did not write.
    """
    if parts.exists() and any(parts.iterdir()) and not (parts / MANIFEST).is_file():
        raise ValueError(f"{str(parts)!r} holds files and no {MANIFEST}: name another folder for the parts")
    (parts / MANIFEST).unlink(missing_ok=True)
    for old in parts.glob("part-*"):
        shutil.rmtree(old)
    sizes: list[int] = []
    files = [file for file in source.rglob("*") if file.is_file()]
    entries = []
    for file in sorted(files, key=lambda file: (-file.stat().st_size, file)):
        name, size = file.relative_to(source).as_posix(), file.stat().st_size
        pieces, count = [], max(1, -(-size // part_bytes))
        for number in range(count):
            start, end = size * number // count, size * (number + 1) // count
            part = _part_with_room(sizes, end - start, part_bytes)
            ending = f".{number + 1}" if count > 1 else ""
            piece = parts / f"part-{part + 1}" / f"{name}{ending}"
            _copy(file, piece, start, end)
            path = piece.relative_to(parts).as_posix()
            pieces.append({"path": path, "bytes": end - start, "sha256": checksum(piece)})
        entries.append({"name": name, "bytes": size, "sha256": checksum(file), "pieces": pieces})
    named = {f"part-{number}": size for number, size in enumerate(sizes, 1)}
    manifest = {**about, "parts": named, "files": sorted(entries, key=lambda entry: entry["name"])}
    write_text(parts / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def read_manifest(parts: Path) -> dict[str, Any]:
    """Read the manifest of a folder of parts.

    Raises:
        FileNotFoundError: there is no manifest.
    """
    if not (parts / MANIFEST).is_file():
        raise FileNotFoundError(f"{str(parts)!r} holds no {MANIFEST}: send it and every part that pack.py wrote")
    return json.loads((parts / MANIFEST).read_text(encoding="utf-8"))


def join(parts: Path, target: Path) -> dict[str, Any]:
    """Check all parts and join their files in `target`; files that already exist are kept.

    Args:
        parts (`Path`): folder that `cut` wrote.
        target (`Path`): folder to write to.

    Returns:
        `dict`: the manifest.

    Raises:
        FileNotFoundError: the manifest or a part is missing.
        ValueError: a file differs from its checksum.
    """
    manifest = read_manifest(parts)
    for part in manifest["parts"]:
        if not (parts / part).is_dir():
            raise FileNotFoundError(f"{part} is missing in {str(parts)!r}: send all of {', '.join(manifest['parts'])}")
    for entry in manifest["files"]:
        whole = target / entry["name"]
        if whole.is_file() and checksum(whole) == entry["sha256"]:
            continue
        for piece in entry["pieces"]:
            _check(parts, piece)
        with replace_file(whole) as partial, partial.open("wb") as content:
            for piece in entry["pieces"]:
                content.write((parts / piece["path"]).read_bytes())
    return manifest


def _check(parts: Path, piece: dict[str, Any]) -> None:
    part, file = piece["path"].split("/")[0], parts / piece["path"]
    if not file.is_file():
        raise FileNotFoundError(f"{piece['path']} is missing in {str(parts)!r}: send {part} again")
    if checksum(file) != piece["sha256"]:
        raise ValueError(
            f"{piece['path']} in {str(parts)!r} has another checksum than {MANIFEST} says, so it is damaged or from "
            f"another packing: send {part} and {MANIFEST} again"
        )


def _part_with_room(sizes: list[int], size: int, part_bytes: int) -> int:
    """Return the first part with room for `size` more bytes, and add them; a new one if there is none."""
    for part, taken in enumerate(sizes):
        if taken + size <= part_bytes:
            sizes[part] += size
            return part
    sizes.append(size)
    return len(sizes) - 1


def _copy(file: Path, piece: Path, start: int, end: int) -> None:
    with file.open("rb") as content, replace_file(piece) as partial:
        content.seek(start)
        partial.write_bytes(content.read(end - start))
