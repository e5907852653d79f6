"""`SemanticIds`: the semantic ids of a catalogue, which quantizers produce and tokenizers, tries and reports read."""

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
from genrec_hf.directories import as_directory, lock_directory, write_files
from genrec_hf.repositories import read_json
from genrec_hf.semantic_ids.catalogue_file import (
    CODES_FILE,
    CONFIG_FILE,
    SUBFOLDER,
    find_catalogue,
    read_catalogue,
    write_catalogue,
)
from genrec_hf.semantic_ids.code_array import CodeArray
from genrec_hf.semantic_ids.id_array import IdArray
from genrec_hf.semantic_ids.item_ids import unknown_ids_error
from genrec_hf.semantic_ids.new_items import codes_of_new_items, read_new_items
from genrec_hf.semantic_ids.quantizer import Quantizer
from genrec_hf.semantic_ids.stored_quantizer import QUANTIZER_FILES, QUANTIZER_SUBFOLDER, StoredQuantizer


class SemanticIds:
    """The semantic ids (SIDs) of all items of a catalogue, for tokenizers, tries and reports. Immutable.

    `add` and `remove` return a new object for a catalogue that changed, in which the remaining items keep their SIDs,
    so that a tokenizer and a model made for the old one work for the new one unchanged.

    Args:
        codes (`np.ndarray`): integer codes `[items, levels]`, `0 <= codes[i, l] < level_sizes[l]`; rows are unique
            unless `shared`.
        level_sizes (`Sequence[int]`): number of codes of each level, including codes that no item has.
        item_ids (`Sequence[str]`): outside id of each item, in row order, unique text.
        info (`Mapping`, *optional*): how the codes were made (quantizer, seed, collision resolution), JSON values.
        shared (`bool`, defaults to `False`): several items may have the same SID. A trie finds all items of a SID;
            functions that need one item per SID raise.
        quantizer (`Quantizer`, *optional*): the fitted quantizer that encoded the items; its levels are all levels, or
            all but an extra level that makes SIDs unique. Saved with the SIDs, for `add`.

    Raises:
        ValueError: when shapes do not match, a code is out of range, two items have the same SID or id, an id is blank
            or not text, or the quantizer is not fitted or has other level sizes.

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
        self._fill(np.asarray(codes), level_sizes, IdArray.read(item_ids), info)
        self._shared, self._quantizer = shared, StoredQuantizer(self.level_sizes, quantizer)
        self._ids.refuse_repeats()
        if not shared:
            self._sids.refuse_repeats(self._ids)

    def _fill(
        self, codes: np.ndarray, level_sizes: Sequence[int], item_ids: IdArray, info: Mapping[str, Any] | None
    ) -> None:
        """Check and set codes, ids and info, without a search for repeated SIDs and ids."""
        self._sids, self._ids = CodeArray(codes, level_sizes), item_ids
        if len(item_ids) != len(codes):
            raise ValueError(f"got {len(codes)} rows of codes for {len(item_ids)} item ids: pass one id per row")
        if (out_of_range := self._sids.find_out_of_range()) is not None:
            row, level = out_of_range
            raise ValueError(
                f"item {self.ids([row])[0]!r} has code {self.codes[out_of_range]} on level {level}, whose codes are 0 "
                f"to {level_sizes[level] - 1}: pass the level sizes of the quantizer that encoded the items"
            )
        self._ancestors: tuple[str, ...] = ()
        self.info = dict(info or {})

    @property
    def codes(self) -> np.ndarray:
        """Codes `[items, levels]`, int64, read-only."""
        return self._sids.codes

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Number of codes of each level."""
        return self._sids.level_sizes

    @property
    def levels(self) -> int:
        """Number of codes of a SID."""
        return len(self.level_sizes)

    @property
    def item_ids(self) -> tuple[str, ...]:
        """Outside ids in row order, one Python string per item, created at the first access; see `ids` for a few."""
        return self._item_ids

    @cached_property
    def _item_ids(self) -> tuple[str, ...]:
        return tuple(self._ids.tolist())

    @property
    def shared(self) -> bool:
        """Whether several items may have the same SID."""
        return self._shared

    @cached_property
    def shares_sids(self) -> bool:
        """Whether at least two items have the same SID."""
        return self._shared and len(self._sids.find_repeats()[0]) > 0

    def refuse_shared(self, reason: str) -> None:
        """Raise when several items have the same SID, for functions that need one item per SID.

        Args:
            reason (`str`): clause for the message that says why the caller needs unique SIDs.

        Raises:
            ValueError: when at least two items have the same SID.
        """
        if self.shares_sids:
            raise ValueError(
                f"several items share a SID, and {reason}: list the items of a SID with SidTrie.items_of, or give "
                "every item its own SID (resolve_collisions)"
            )

    def refuse_other_items(self, item_ids: Sequence[str]) -> None:
        """Raise when ids are not the item ids of this object, in the same order.

        Args:
            item_ids (`Sequence[str]`): outside ids of a data set, in row order.

        Raises:
            ValueError: when they differ.
        """
        if not self._ids.equals(item_ids):
            raise ValueError(
                f"the {len(item_ids)} items of the data set are not the {len(self)} items of the semantic ids in the "
                "same order, so that items would get the SIDs of others: build semantic ids for this data set"
            )

    @property
    def ancestors(self) -> tuple[str, ...]:
        """Fingerprints of the `SemanticIds` from which `add` and `remove` made this one, the latest first.

        They have the same level sizes, and items in both have the same SIDs, so that a tokenizer or a model made for
        one of them also fits this one.
        """
        return self._ancestors

    @property
    def quantizer(self) -> Quantizer | None:
        """The fitted quantizer, loaded from its files at the first access; `None` when none was given or saved.

        Raises:
            ValueError: when its class is not in this library, or its levels are not those of the SIDs.
        """
        return self._quantizer.load()

    def __len__(self) -> int:
        return len(self.codes)

    def __repr__(self) -> str:
        return f"SemanticIds(items={len(self)}, level_sizes={self.level_sizes})"

    def rows(self, item_ids: Iterable[str] | IdArray, name: str = "item_ids") -> np.ndarray:
        """Look up the rows of outside ids.

        Args:
            item_ids (`Iterable[str]`): `n` ids in an order, so not a set; they may repeat.
            name (`str`, defaults to `"item_ids"`): name of the argument in errors.

        Returns:
            `np.ndarray`: rows `[n]`, int64.

        Raises:
            ValueError: on ids that are not in the catalogue, which it names, or that are not a list of text.
        """
        queries = IdArray.read(item_ids, name)
        rows = self._ids.rows(queries)
        if (rows < 0).any():
            raise unknown_ids_error(queries.to_strings(np.flatnonzero(rows < 0)), len(self), name)
        return rows

    def ids(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Return the outside ids of item rows, without creating those of all items.

        Args:
            rows (`Sequence[int]`): `[n]`, integers from 0 to `items - 1`.

        Returns:
            `list[str]`: `n` ids.

        Raises:
            ValueError: on other rows, such as the `-1` of an empty rank.
        """
        return self._ids.to_strings(np.asarray(rows))

    def rows_of_codes(self, codes: np.ndarray) -> np.ndarray:
        """Look up the rows of SIDs.

        Args:
            codes (`np.ndarray`): `[n, levels]`, integers.

        Returns:
            `np.ndarray`: rows `[n]`, int64; the first of several items with the same SID, `-1` where no item has it.

        Raises:
            ValueError: on another shape, or codes that are not integers.
        """
        return self._sids.rows(np.asarray(codes))

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with any code, level size or item id, to recognize a tokenizer's SIDs."""
        # The digest of json.dumps([level_sizes, item_ids]) and the codes: tokenizers on disk hold it.
        sizes, codes = json.dumps(self.level_sizes), self.codes.astype("<i8", copy=False)
        return hex_digest(chain([f"[{sizes}, "], self._ids.json(), ["]", codes]))

    def add(self, item_ids: Sequence[str], embeddings: np.ndarray, events: np.ndarray | None = None) -> "SemanticIds":
        """Return the semantic ids of these items and of new ones, without new tokens for tokenizer and model.

        A model that was not trained on the new items rarely recommends them, because their SIDs were never
        targets. On MovieLens, text copies of the 20 most popular films filled 0 of 1,920 ranks in top-20 lists. New
        items can be in histories and can be recommended from `allow` lists; for more, train again.

        The fitted quantizer encodes the new items; existing SIDs and level sizes never change. With an extra level, a
        new item gets the lowest unassigned extra code of its group (a random one after the strategy `"random-level"`).
        Without an extra level, or when the group is full, an item whose codes are assigned gets the nearest unassigned
        SID, with as many of its leading codes as possible (`reassign_items`); with a quantizer that has no distances,
        the lowest unassigned codes. Where SIDs are `shared`, an item gets the codes of the quantizer.

        Args:
            item_ids (`Sequence[str]`): `n` outside ids that are not in the catalogue.
            embeddings (`np.ndarray`): `[n, d]`, made like those that the quantizer was fitted on; if those were of
                text and behavior, from `cold_embeddings`.
            events (`np.ndarray`, *optional*): event counts `[n]`; items with more events have precedence where codes
                collide. Without it, the order of `item_ids` decides.

        Returns:
            `SemanticIds`: `[items + n]`, the old rows first, with this object's fingerprint first in `ancestors`.

        Raises:
            ValueError: when there is no quantizer, an id is in the catalogue, blank or not text, embeddings have
                another width or hold NaN, or too few SIDs are unassigned.
        """
        new_ids = IdArray.read(item_ids)
        if len(new_ids) == 0:
            return self
        known = np.flatnonzero(self._ids.rows(new_ids) >= 0)
        if len(known):
            raise ValueError(
                f"item id {new_ids.to_strings(known[:1])[0]!r} is already in the catalogue ({len(known)} of "
                f"{len(new_ids)}), and its SID cannot change: leave it out"
            )
        embeddings, events = read_new_items(len(new_ids), embeddings, events)
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
        info = {**self.info, "added": self.info.get("added", 0) + len(new_ids)}
        return self._make_descendant(np.concatenate([self.codes, codes]), self._ids + new_ids, info)

    def remove(self, item_ids: Iterable[str]) -> "SemanticIds":
        """Return the semantic ids without some items.

        The remaining items keep their SIDs and their order, but their rows change: look them up again. Items that are
        added later may get the SIDs of removed ones, which the model has learned as those of the removed items.

        Args:
            item_ids (`Iterable[str]`): outside ids of the items to remove, in any order.

        Returns:
            `SemanticIds`: of the remaining items; this object's fingerprint is the first of its `ancestors`.

        Raises:
            ValueError: on an id that is not in the catalogue, or when no item would remain.
        """
        removed = self.rows(IdArray.read(item_ids, ordered=False))
        if len(removed) == 0:
            return self
        remains = np.ones(len(self), dtype=bool)
        remains[removed] = False
        remaining = np.flatnonzero(remains)
        if len(remaining) == 0:
            raise ValueError(f"all {len(self)} items would be removed: leave at least one")
        info = {**self.info, "removed": self.info.get("removed", 0) + len(self) - len(remaining)}
        return self._make_descendant(self.codes[remaining], self._ids.take(remaining), info)

    def shuffled(self, seed: int = 0) -> "SemanticIds":
        """Return the same SIDs assigned to items at random, as a control that measures what the meaning of codes adds.

        The trie has the same shape, and every code is used as often. The result has no quantizer, so `add` raises.

        Args:
            seed (`int`, defaults to 0): random seed of the permutation.

        Returns:
            `SemanticIds`: with the same item ids in the same order.
        """
        order = np.random.default_rng(seed).permutation(len(self))
        info = {**self.info, "shuffled": seed}
        return SemanticIds(self.codes[order], self.level_sizes, self._ids, info=info, shared=self._shared)

    def _make_descendant(self, codes: np.ndarray, item_ids: IdArray, info: Mapping[str, Any]) -> "SemanticIds":
        sids = SemanticIds(codes, self.level_sizes, item_ids, info=info, shared=self._shared)
        sids._quantizer = self._quantizer
        sids._ancestors = (self.fingerprint, *self._ancestors)
        return sids

    def save_pretrained(self, directory: str | Path) -> None:
        """Write codes and ids (safetensors), settings (JSON) and the quantizer into a directory.

        The quantizer is written into the subfolder `quantizer/`; another one that is there is removed.

        Args:
            directory (`str` or `Path`): created if it does not exist.
        """
        directory = as_directory(directory, "directory")
        stale = [QUANTIZER_SUBFOLDER]
        with lock_directory(directory, "directory"), write_files(directory, CONFIG_FILE, stale) as partial:
            write_catalogue(partial, self.codes, self._ids)
            config: dict[str, Any] = {"level_sizes": self.level_sizes, "info": self.info}
            config["fingerprint"] = self.fingerprint
            config |= {"shared": True} if self._shared else {}
            config |= {"ancestors": self._ancestors} if self._ancestors else {}
            if (digest := self._quantizer.save(partial)) is not None:
                config["quantizer"] = digest
            (partial / CONFIG_FILE).write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, directory_or_repo: str | Path, revision: str | None = None) -> "SemanticIds":
        """Load semantic ids from a directory or a Hub repository, or from its subfolder `semantic_ids/`.

        Args:
            directory_or_repo (`str` or `Path`): directory or Hub repository, for instance of a recommender.
            revision (`str`, *optional*): branch, tag or commit of the Hub repository.

        Returns:
            `SemanticIds`: the semantic ids; their quantizer is loaded when first used.

        Raises:
            FileNotFoundError: when there are no semantic ids.
            ValueError: when a file is broken, or the files do not belong together.
        """
        directory = find_catalogue(directory_or_repo, revision, QUANTIZER_FILES)
        config = read_json(directory / CONFIG_FILE, "level_sizes", "fingerprint")
        codes, item_ids = read_catalogue(directory, config.get("item_ids"))
        # Without a search for repeats: the fingerprint proves that the content is unchanged since it was checked.
        sids = cls.__new__(cls)
        sids._fill(codes, config["level_sizes"], item_ids, config.get("info"))
        if sids.fingerprint != config["fingerprint"]:
            raise ValueError(
                f"{CODES_FILE} and {CONFIG_FILE} in {str(directory)!r} do not belong together (fingerprint "
                f"{sids.fingerprint}, expected {config['fingerprint']}): copy both from one save"
            )
        sids._shared, sids._ancestors = config.get("shared", False), tuple(config.get("ancestors", ()))
        sids._quantizer = StoredQuantizer.read(directory, sids.level_sizes, config.get("quantizer"))
        return sids

    def push_to_hub(self, repo_id: str, private: bool | None = None) -> str:
        """Upload the semantic ids into the `semantic_ids/` subfolder of a Hub model repository.

        Args:
            repo_id (`str`): the repository, created if it does not exist.
            private (`bool`, *optional*): whether a created repository is private; by default as the account says.

        Returns:
            `str`: URL of the commit.
        """
        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as directory:
            self.save_pretrained(Path(directory) / SUBFOLDER)
            stale = f"{SUBFOLDER}/{QUANTIZER_SUBFOLDER}/*"
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=directory, commit_message="Upload semantic ids", delete_patterns=stale
            )
            return str(commit)
