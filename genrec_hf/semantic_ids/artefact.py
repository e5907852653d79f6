"""`SemanticIds`: the one artefact between everything that makes codes and everything that reads them."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import HfApi, snapshot_download
from safetensors.numpy import load_file, save_file

CODES_FILE = "codes.safetensors"
CONFIG_FILE = "semantic_ids.json"
SUBFOLDER = "semantic_ids"


class SemanticIds:
    """The semantic id (SID) of every item of a catalogue, for tokenizers, tries and reports. Immutable.

    Args:
        codes (`np.ndarray`): integer codes, `[items, levels]`, `0 <= codes[i, l] < level_sizes[l]`; rows are unique.
        level_sizes (`Sequence[int]`): size of the codebook of each level, used or not.
        item_ids (`Sequence[str]`): outside id of each item, in row order, unique.
        info (`Mapping`, *optional*): how the codes came to be (quantizer, seed, collision resolution), JSON values.

    Raises:
        ValueError: when shapes do not match, a code is out of range, or two items share a SID or an id.

    Example:
        >>> sids = SemanticIds([[0, 1], [0, 0]], level_sizes=(1, 2), item_ids=["tea", "cup"])
        >>> sids.rows(["cup"]).tolist(), len(sids)
        ([1], 2)
    """

    def __init__(
        self,
        codes: np.ndarray | Sequence[Sequence[int]],
        level_sizes: Sequence[int],
        item_ids: Sequence[str],
        info: Mapping[str, Any] | None = None,
    ) -> None:
        codes = np.array(codes)
        if codes.ndim != 2 or codes.shape[1] != len(level_sizes) or codes.size == 0:
            raise ValueError(
                f"codes have shape {codes.shape} for {len(level_sizes)} level sizes: pass [items, levels] with one "
                "size a level and at least one item"
            )
        if not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(f"codes are {codes.dtype}: rounding would change items' SIDs, pass integer codes")
        codes = codes.astype(np.int64)
        if len(item_ids) != len(codes):
            raise ValueError(f"{len(codes)} rows of codes for {len(item_ids)} item ids: they go by row, pass as many")
        if (codes < 0).any() or (codes >= np.asarray(level_sizes)).any():
            item, level = np.argwhere((codes < 0) | (codes >= np.asarray(level_sizes)))[0]
            raise ValueError(
                f"item {item_ids[item]!r} has code {codes[item, level]} on level {level}, which holds 0 to "
                f"{level_sizes[level] - 1}: encode again with the quantizer that made the codebook"
            )
        codes.setflags(write=False)
        self._codes = codes
        self._level_sizes = tuple(int(size) for size in level_sizes)
        self._item_ids = tuple(str(item_id) for item_id in item_ids)
        self.info = dict(info or {})
        _refuse_repeats(self._item_ids, "item id")
        _refuse_repeats([tuple(row) for row in codes.tolist()], "semantic id", self._item_ids)

    @property
    def codes(self) -> np.ndarray:
        """Codes `[items, levels]`, int64, read-only."""
        return self._codes

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Codebook size of each level."""
        return self._level_sizes

    @property
    def levels(self) -> int:
        """Tokens of one SID."""
        return len(self._level_sizes)

    @property
    def item_ids(self) -> tuple[str, ...]:
        """Outside id of each item, in row order."""
        return self._item_ids

    def __len__(self) -> int:
        return len(self._codes)

    def __repr__(self) -> str:
        return f"SemanticIds(items={len(self)}, level_sizes={self._level_sizes})"

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self._item_ids)}

    def rows(self, item_ids: Sequence[str]) -> np.ndarray:
        """Row numbers `[n]` of outside ids.

        Raises:
            ValueError: naming the first id that the catalogue does not hold.
        """
        unknown = [item_id for item_id in item_ids if item_id not in self._row_of]
        if unknown:
            raise ValueError(
                f"item id {unknown[0]!r} is not in the catalogue of {len(self):,} items ({len(unknown)} unknown in "
                "all): drop it from the history, or build semantic ids for a catalogue that holds it"
            )
        return np.array([self._row_of[item_id] for item_id in item_ids], dtype=np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with any code, size or item id: which SIDs a tokenizer was extended for."""
        digest = hashlib.sha256(json.dumps([self._level_sizes, self._item_ids]).encode())
        digest.update(self._codes.astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the artefact (safetensors and JSON) into `directory`, made when absent."""
        directory = Path(directory)
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent) as partial:
            save_file({"codes": self._codes.astype(np.int32)}, Path(partial) / CODES_FILE)
            config = {
                "level_sizes": self._level_sizes,
                "item_ids": self._item_ids,
                "fingerprint": self.fingerprint,
                "info": self.info,
            }
            (Path(partial) / CONFIG_FILE).write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
            directory.mkdir(exist_ok=True)
            for name in (CODES_FILE, CONFIG_FILE):
                shutil.move(Path(partial) / name, directory / name)

    @classmethod
    def from_pretrained(cls, directory_or_repo: str | Path, revision: str | None = None) -> "SemanticIds":
        """Read the artefact from a directory or a Hub repository, or from the `semantic_ids/` folder inside it.

        Raises:
            FileNotFoundError: when neither place holds the artefact.
            ValueError: when the two files do not belong together.
        """
        directory = Path(directory_or_repo)
        if not directory.is_dir():
            patterns = [CODES_FILE, CONFIG_FILE, f"{SUBFOLDER}/*"]
            directory = Path(snapshot_download(str(directory_or_repo), revision=revision, allow_patterns=patterns))
        if not (directory / CONFIG_FILE).exists():
            directory = directory / SUBFOLDER
        if not (directory / CONFIG_FILE).exists():
            raise FileNotFoundError(
                f"{str(directory_or_repo)!r} holds no {CONFIG_FILE}, nor does its folder {SUBFOLDER}/: build semantic "
                "ids first (recipes/build_sids.py)"
            )
        config = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
        codes = load_file(directory / CODES_FILE)["codes"]
        sids = cls(codes, config["level_sizes"], config["item_ids"], config.get("info"))
        if sids.fingerprint != config["fingerprint"]:
            raise ValueError(
                f"{CODES_FILE} and {CONFIG_FILE} in {str(directory)!r} do not belong together (fingerprint "
                f"{sids.fingerprint}, expected {config['fingerprint']}): copy both from one save"
            )
        return sids

    def push_to_hub(self, repo_id: str, private: bool | None = None) -> str:
        """Upload the artefact into the `semantic_ids/` folder of a Hub model repository; returns the commit's URL."""
        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as directory:
            self.save_pretrained(Path(directory) / SUBFOLDER)
            return str(api.upload_folder(repo_id=repo_id, folder_path=directory, commit_message="Upload semantic ids"))


def _refuse_repeats(keys: Sequence[Any], what: str, names: Sequence[str] | None = None) -> None:
    if len(set(keys)) == len(keys):
        return
    first: dict[Any, int] = {}
    for row, key in enumerate(keys):
        if key in first:
            pair = (
                f"rows {first[key]} and {row}" if names is None else f"items {names[first[key]]!r} and {names[row]!r}"
            )
            raise ValueError(
                f"{pair} share the {what} {key!r} ({len(keys) - len(set(keys))} repeats in all): a recommendation "
                "could not be told apart; "
                + ("drop duplicate items" if names is None else "resolve collisions first (resolve_collisions)")
            )
        first[key] = row
