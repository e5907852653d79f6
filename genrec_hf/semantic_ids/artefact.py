"""`SemanticIds`: the one artefact between everything that makes codes and everything that reads them."""

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import HfApi

from genrec_hf.digests import hex_digest
from genrec_hf.directories import as_directory, filling, held
from genrec_hf.repositories import find_folder, read_json
from genrec_hf.semantic_ids.catalogue_file import CODES_FILE, read_catalogue, write_catalogue
from genrec_hf.semantic_ids.code_array import CodeArray
from genrec_hf.semantic_ids.id_array import IdArray
from genrec_hf.semantic_ids.item_ids import unknown_ids
from genrec_hf.semantic_ids.new_items import codes_of_new_items, read_new_items
from genrec_hf.semantic_ids.quantizer import CONFIG_FILE as QUANTIZER_CONFIG_FILE
from genrec_hf.semantic_ids.quantizer import TENSORS_FILE as QUANTIZER_TENSORS_FILE
from genrec_hf.semantic_ids.quantizer import Quantizer, load_quantizer

CONFIG_FILE = "semantic_ids.json"
SUBFOLDER, QUANTIZER_SUBFOLDER = "semantic_ids", "quantizer"


class SemanticIds:
    """The semantic id (SID) of every item of a catalogue, for tokenizers, tries and reports. Immutable.

    A catalogue that changes is a new artefact: `add` and `remove` keep the SIDs of the items that stay, so that a
    tokenizer and a model made for the old one serve the new one as they are.

    Args:
        codes (`np.ndarray`): integer codes, `[items, levels]`, `0 <= codes[i, l] < level_sizes[l]`; rows are unique
            unless `shared`.
        level_sizes (`Sequence[int]`): size of the codebook of each level, used or not.
        item_ids (`Sequence[str]`): outside id of each item, in row order, unique text.
        info (`Mapping`, *optional*): how the codes came to be (quantizer, seed, collision resolution), JSON values.
        shared (`bool`, defaults to `False`): several items may have one SID: a stated many-to-one map. A trie finds
            all items of a SID; what has to name one refuses.
        quantizer (`Quantizer`, *optional*): fitted, what gave the codes of all levels, or of all but the last where
            the last tells items apart that share the others; saved with the artefact, for `add`.

    Raises:
        ValueError: when shapes do not match, a code is out of range, two items share a SID or an id, or an id is no
            text or blank.

    Example:
        >>> sids = SemanticIds([[0, 1], [0, 0]], level_sizes=(1, 2), item_ids=["tea", "cup"])
        >>> sids.rows(["cup"]).tolist(), len(sids)
        ([1], 2)
    """

    def __init__(
        self,
        codes: np.ndarray | Sequence[Sequence[int]],
        level_sizes: Sequence[int],
        item_ids: Sequence[str] | IdArray,
        *,
        info: Mapping[str, Any] | None = None,
        shared: bool = False,
        quantizer: Quantizer | None = None,
    ) -> None:
        self._fill(np.asarray(codes), level_sizes, IdArray.read(item_ids), info, shared, quantizer)
        self._ids.refuse_repeats()
        if not shared:
            self._sids.refuse_repeats(self._ids)

    def _fill(
        self,
        codes: np.ndarray,
        level_sizes: Sequence[int],
        item_ids: IdArray,
        info: Mapping[str, Any] | None,
        shared: bool,
        quantizer: Quantizer | None = None,
    ) -> None:
        """All of `__init__` but the search for repeats."""
        self._sids, self._ids = CodeArray(codes, level_sizes), item_ids
        if len(item_ids) != len(codes):
            raise ValueError(f"{len(codes)} rows of codes for {len(item_ids)} item ids: they go by row, pass as many")
        if (outside := self._sids.outside()) is not None:
            row, level = outside
            raise ValueError(
                f"item {self.ids([row])[0]!r} has code {self.codes[outside]} on level {level}, which holds 0 to "
                f"{level_sizes[level] - 1}: encode again with the quantizer that made the codebook"
            )
        self._shared = shared
        self._ancestors: tuple[str, ...] = ()
        self.info = dict(info or {})
        self._quantizer: Quantizer | None = self._checked(quantizer)
        # Kept as read, so that a long run can save what it started from, and a class not known here does no harm.
        self._quantizer_files: dict[str, bytes] = {}

    @property
    def codes(self) -> np.ndarray:
        """Codes `[items, levels]`, int64, read-only."""
        return self._sids.codes

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Codebook size of each level."""
        return self._sids.level_sizes

    @property
    def levels(self) -> int:
        """Tokens of one SID."""
        return len(self.level_sizes)

    @property
    def item_ids(self) -> tuple[str, ...]:
        """Outside id of each item, in row order: a Python string an item, made when first asked for; see `ids`."""
        return self._item_ids

    @cached_property
    def _item_ids(self) -> tuple[str, ...]:
        return tuple(self._ids.tolist())

    @property
    def shared(self) -> bool:
        """Whether several items may have one SID."""
        return self._shared

    @cached_property
    def shares_sids(self) -> bool:
        """Whether several items do have one SID."""
        return self._shared and len(self._sids.repeats()[0]) > 0

    def refuse_shared(self, why: str) -> None:
        """Raise, saying `why`, when several items have one SID: for what has to name one item for each SID."""
        if self.shares_sids:
            raise ValueError(
                f"several items share a SID, and {why}: list them with SidTrie.items_of, or give every item a SID of "
                "its own (resolve_collisions)"
            )

    def refuse_other_items(self, item_ids: Sequence[str]) -> None:
        """Raise when `item_ids` are not, row by row, the items of this artefact."""
        if not self._ids.equals(item_ids):
            raise ValueError(
                f"the {len(item_ids)} items of the data set are not, row by row, the {len(self)} of the semantic ids: "
                "each would get another's SID; build semantic ids for this data set"
            )

    @property
    def ancestors(self) -> tuple[str, ...]:
        """Fingerprints of the artefacts that this one came from by `add` and `remove`, the latest first.

        Level sizes, and the SIDs of items in both, are theirs: who knows their SIDs knows these.
        """
        return self._ancestors

    @property
    def quantizer(self) -> Quantizer | None:
        """The fitted quantizer, made from its files when first asked for; `None` when none was given or saved."""
        if self._quantizer is None and self._quantizer_files:
            with tempfile.TemporaryDirectory() as directory:
                self._write_quantizer(Path(directory))
                self._quantizer = self._checked(load_quantizer(directory))
        return self._quantizer

    def _write_quantizer(self, directory: Path) -> None:
        if self._quantizer is not None:
            self._quantizer.save_pretrained(directory)
            return
        directory.mkdir(exist_ok=True)
        for name, content in self._quantizer_files.items():
            (directory / name).write_bytes(content)

    def _checked(self, quantizer: Quantizer | None) -> Quantizer | None:
        if quantizer is None:
            return None
        sizes = tuple(quantizer.level_sizes)
        if quantizer.embedding_size is None or sizes not in (self.level_sizes, self.level_sizes[:-1]):
            state = "not fitted" if quantizer.embedding_size is None else "fitted"
            raise ValueError(
                f"a {type(quantizer).__name__} of levels of {sizes} codes, {state}, for SIDs of {self.level_sizes}: "
                "pass the one that encoded these items, after fit"
            )
        return quantizer

    def __len__(self) -> int:
        return len(self.codes)

    def __repr__(self) -> str:
        return f"SemanticIds(items={len(self)}, level_sizes={self.level_sizes})"

    def rows(self, item_ids: Iterable[str] | IdArray, name: str = "item_ids") -> np.ndarray:
        """Row numbers `[n]` of outside ids.

        Args:
            item_ids (`Iterable[str]`): in an order, so no set.
            name (`str`, defaults to `"item_ids"`): what errors call them.

        Raises:
            ValueError: naming the ids that the catalogue does not hold; on what is no list of text.
        """
        wanted = IdArray.read(item_ids, name)
        rows = self._ids.rows(wanted)
        if (rows < 0).any():
            raise unknown_ids(wanted.at(np.flatnonzero(rows < 0)), len(self), name)
        return rows

    def ids(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Outside ids of item rows `[n]`, without those of the other items.

        Raises:
            ValueError: on what is no list of rows of the catalogue, such as the `-1` of an empty rank.
        """
        return self._ids.at(np.asarray(rows))

    def rows_of_codes(self, codes: np.ndarray) -> np.ndarray:
        """Rows `[n]` of SIDs `[n, levels]`, the first of those that share one; `-1` where codes are no item's SID.

        Raises:
            ValueError: on another shape, or what is no whole number.
        """
        return self._sids.rows(np.asarray(codes))

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with any code, size or item id: which SIDs a tokenizer was extended for."""
        # That of json.dumps([level_sizes, item_ids]) and the codes, which tokenizers saved earlier carry.
        sizes, codes = json.dumps(self.level_sizes), self.codes.astype("<i8", copy=False)
        return hex_digest(chain([f"[{sizes}, "], self._ids.json(), ["]", codes]))

    def add(self, item_ids: Sequence[str], embeddings: np.ndarray, events: np.ndarray | None = None) -> "SemanticIds":
        """These items and new ones after them, for the same tokenizer and model: no new token.

        A model that was not trained on the new items hardly ever recommends them: none of their SIDs ever came next
        in training. On MovieLens, text copies of the 20 most popular films took 0 of 1,920 places in top-20 lists.
        New items can stand in histories, and come out of `allow` lists; for more, train again.

        The frozen quantizer encodes the new items; SIDs that are there never change, and neither do level sizes. With
        an extra level, a new item gets the lowest number that is free in its group (a random one after the strategy
        `"random-level"`). Without one, and when the group is full, an item whose codes are taken gets the nearest SID
        that is free, as many of its leading codes kept as can be (`reassign_items`); a quantizer that knows no distances
        gives the lowest free codes. Where SIDs are `shared`, it just gets its codes.

        Args:
            item_ids (`Sequence[str]`): `[n]`, none of them in the catalogue.
            embeddings (`np.ndarray`): `[n, d]`, made as those that the quantizer was fitted on; where those were of
                text and behaviour, `cold_embeddings` makes them for items that nobody has chosen yet.
            events (`np.ndarray`, *optional*): `[n]`, who comes first when codes are taken; without it, in order.

        Returns:
            `SemanticIds`: `[items + n]`, the old rows as they were, `ancestors` led by this artefact.

        Raises:
            ValueError: when there is no quantizer, an id is there already, is no text or blank, embeddings have
                another width or hold NaN, or too few SIDs are free.
        """
        new = IdArray.read(item_ids)
        if len(new) == 0:
            return self
        known = np.flatnonzero(self._ids.rows(new) >= 0)
        if len(known):
            raise ValueError(
                f"item id {new.at(known[:1])[0]!r} is in the catalogue already ({len(known)} of {len(new)}), and "
                "its SID never changes: leave it out"
            )
        embeddings, events = read_new_items(len(new), embeddings, events)
        if self.quantizer is None:
            raise ValueError(
                "these semantic ids hold no quantizer, so nothing can encode new items: build them with "
                "SemanticIds(..., quantizer=quantizer)"
            )
        seed = len(self) if self.info.get("collisions") == "random-level" else None
        codes = codes_of_new_items(
            self.codes,
            self.level_sizes,
            quantizer=self.quantizer,
            embeddings=embeddings,
            events=events,
            shared=self._shared,
            seed=seed,
        )
        info = {**self.info, "added": self.info.get("added", 0) + len(new)}
        return self._changed(np.concatenate([self.codes, codes]), self._ids + new, info)

    def remove(self, item_ids: Iterable[str]) -> "SemanticIds":
        """All but these items. The others keep their SIDs and their order, but rows move up: look them up again.

        The SIDs that become free go to items added later, and a model knows them as those of the removed ones.

        Raises:
            ValueError: on an id that is not in the catalogue, or when no item would be left.
        """
        gone = self.rows(IdArray.read(item_ids, ordered=False))
        if len(gone) == 0:
            return self
        stays = np.ones(len(self), dtype=bool)
        stays[gone] = False
        left = np.flatnonzero(stays)
        if len(left) == 0:
            raise ValueError(f"all {len(self)} items would be removed: semantic ids need at least one")
        info = {**self.info, "removed": self.info.get("removed", 0) + len(self) - len(left)}
        return self._changed(self.codes[left], self._ids.take(left), info)

    def shuffled(self, seed: int = 0) -> "SemanticIds":
        """The same SIDs dealt out to the items at random: the control that tells what the meaning of codes is worth.

        The shape of the trie and the use of every code stay. `add` is lost, as no quantizer gives such codes.
        """
        order = np.random.default_rng(seed).permutation(len(self))
        info = {**self.info, "shuffled": seed}
        return SemanticIds(self.codes[order], self.level_sizes, self._ids, info=info, shared=self._shared)

    def _changed(self, codes: np.ndarray, item_ids: IdArray, info: Mapping[str, Any]) -> "SemanticIds":
        sids = SemanticIds(codes, self.level_sizes, item_ids, info=info, shared=self._shared)
        sids._quantizer, sids._quantizer_files = self._quantizer, self._quantizer_files
        sids._ancestors = (self.fingerprint, *self._ancestors)
        return sids

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the artefact (safetensors and JSON) into `directory`, made when absent.

        The quantizer goes into its folder `quantizer/`; one that stands there and is not of this artefact is removed.
        """
        directory = as_directory(directory, "directory")
        with held(directory, "directory"), filling(directory, CONFIG_FILE, [QUANTIZER_SUBFOLDER]) as partial:
            write_catalogue(partial, self.codes, self._ids)
            config: dict[str, Any] = {
                "level_sizes": self.level_sizes,
                "fingerprint": self.fingerprint,
                "info": self.info,
            }
            if self._shared:
                config["shared"] = True
            if self._ancestors:
                config["ancestors"] = self._ancestors
            if self._quantizer is not None or self._quantizer_files:
                self._write_quantizer(partial / QUANTIZER_SUBFOLDER)
                config["quantizer"] = hex_digest(_quantizer_files(partial / QUANTIZER_SUBFOLDER).values())
            (partial / CONFIG_FILE).write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, directory_or_repo: str | Path, revision: str | None = None) -> "SemanticIds":
        """Read the artefact from a directory or a Hub repository, or from the `semantic_ids/` folder inside it.

        Raises:
            FileNotFoundError: when neither place holds the artefact.
            ValueError: when a file is broken, or the files do not belong together.
        """
        names = [CODES_FILE, CONFIG_FILE, *(f"{QUANTIZER_SUBFOLDER}/{end}" for end in ("*.json", "*.safetensors"))]
        directory = find_folder(directory_or_repo, revision, [*names, *(f"{SUBFOLDER}/{name}" for name in names)])
        if not (directory / CONFIG_FILE).exists():
            directory = directory / SUBFOLDER
        if not (directory / CONFIG_FILE).exists():
            raise FileNotFoundError(
                f"{str(directory_or_repo)!r} holds no {CONFIG_FILE}, nor does its folder {SUBFOLDER}/: build semantic "
                "ids first (recipes/build_sids.py)"
            )
        config = read_json(directory / CONFIG_FILE, "level_sizes", "fingerprint")
        codes, item_ids = read_catalogue(directory, config.get("item_ids"))
        # Made without a search for repeats: the content is what its fingerprint tells, and was checked when made.
        sids = cls.__new__(cls)
        sids._fill(codes, config["level_sizes"], item_ids, config.get("info"), config.get("shared", False))
        if sids.fingerprint != config["fingerprint"]:
            raise ValueError(
                f"{CODES_FILE} and {CONFIG_FILE} in {str(directory)!r} do not belong together (fingerprint "
                f"{sids.fingerprint}, expected {config['fingerprint']}): copy both from one save"
            )
        sids._ancestors = tuple(config.get("ancestors", ()))
        sids._quantizer_files = _quantizer_files(directory / QUANTIZER_SUBFOLDER)
        if sids._quantizer_files and config.get("quantizer") not in (None, hex_digest(sids._quantizer_files.values())):
            raise ValueError(
                f"{QUANTIZER_SUBFOLDER}/ in {str(directory)!r} is another quantizer than was saved with these "
                "semantic ids: new items would get codes of other meaning; copy all from one save, or delete it"
            )
        return sids

    def push_to_hub(self, repo_id: str, private: bool | None = None) -> str:
        """Upload the artefact into the `semantic_ids/` folder of a Hub model repository; returns the commit's URL."""
        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as directory:
            self.save_pretrained(Path(directory) / SUBFOLDER)
            stale = f"{SUBFOLDER}/{QUANTIZER_SUBFOLDER}/*"
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=directory, commit_message="Upload semantic ids", delete_patterns=stale
            )
            return str(commit)


def _quantizer_files(directory: Path) -> dict[str, bytes]:
    """Content of each file of a quantizer; empty when there is none."""
    files = [directory / name for name in (QUANTIZER_CONFIG_FILE, QUANTIZER_TENSORS_FILE)]
    return {file.name: file.read_bytes() for file in files} if all(file.is_file() for file in files) else {}
