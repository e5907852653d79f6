"""`FusedRanker`: a weighted sum of the scores of several rankers, saved, loaded and pushed as one repository."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from genrec_hf.directories import lock_directory, write_files
from genrec_hf.evaluation.ranked_cases import RankedCases
from genrec_hf.fused_files import (
    CONFIG_FILE,
    FOLDER,
    STALE_FILES,
    FusedConfig,
    check_names,
    copy_ranker,
    push_fused,
    refuse_other_model,
    write_fused_card,
)
from genrec_hf.fusion import Scores, WeightedSum
from genrec_hf.generation import BeamScores
from genrec_hf.item_rows import Rows
from genrec_hf.item_scores import rank_scores
from genrec_hf.models.sequence_models import model_type_of
from genrec_hf.ranking import Histories, Ranking


class FusedRanker(WeightedSum):
    """Ranker of a weighted sum of scores, which `load_ranker` opens; see `WeightedSum` for the formula.

    Args:
        rankers (`Mapping[str, Scores]`): by name, of the same catalogue in the same order of rows.
        weights (`Mapping[str, float]`): of each ranker, 0 or more, at least one above 0; a ranker of weight 0 is not
            called.
        normalizations (`Mapping[str, str]`, *optional*): `"log_softmax"` or `"z_score"` of each ranker;
            `"log_softmax"` for those that are not named.
        catalogue (`str`, *optional*): `catalogue_fingerprint` of the item ids of the rows; that of the rankers, where
            one of them has it, when not given. Saving needs it.
        dataset (`str`, *optional*): fingerprint of the data set that the weights were fitted on.
        sources (`Mapping`, *optional*): folder or Hub id of each `Recommender`, whose files are copied when the fused
            ranker is saved; other rankers save themselves.

    Raises:
        ValueError: as of `WeightedSum`.
    """

    def __init__(
        self,
        rankers: Mapping[str, Scores],
        weights: Mapping[str, float],
        normalizations: Mapping[str, str] | None = None,
        *,
        catalogue: str | None = None,
        dataset: str | None = None,
        sources: Mapping[str, str | Path] | None = None,
    ) -> None:
        super().__init__(rankers, weights, normalizations, catalogue=catalogue)
        self.dataset, self.sources = dataset, dict(sources or {})

    def rank_each(
        self, histories: Histories | Sequence[Rows], k: int, *, progress: bool = False
    ) -> tuple[RankedCases, dict[str, RankedCases]]:
        """Rank with the sum and with each ranker alone, by its scores of all items, which are computed once.

        Args:
            histories (`Histories` or `Sequence`): item rows of each case, oldest first.
            k (`int`): number of ranks.
            progress (`bool`, defaults to `False`): show a progress bar.

        Returns:
            `tuple[RankedCases, dict[str, RankedCases]]`: lists of the sum, and those of each ranker by name, rankers
            of weight 0 too; with seen items filtered and allowed. Each has the time that all of them took together.
        """
        histories = Histories.of(histories, self.num_items)
        start, shape = perf_counter(), (len(histories), k)
        names = ["", *self.rankers]  # no ranker that can be saved has the empty name, which is that of the sum
        keys = [(name, filter_seen) for name in names for filter_seen in (False, True)]
        items = {key: np.full(shape, -1, dtype=np.int64) for key in keys}
        values = {key: np.full(shape, -np.inf, dtype=np.float32) for key in keys}
        for users in self._batches(histories, progress):
            batch = histories.select(users)
            tables = {name: ranker.score(batch) for name, ranker in self.rankers.items()}
            tables[""] = self.sum_scores(tables)
            for name, filter_seen in keys:  # the filter changes a table in place, and comes second
                ranking = rank_scores(tables[name], batch, k, filter_seen=filter_seen)
                items[name, filter_seen][users], values[name, filter_seen][users] = ranking.items, ranking.scores
        seconds = dict.fromkeys((True, False), perf_counter() - start)
        ranked = {
            name: RankedCases({seen: Ranking(items[name, seen], values[name, seen]) for seen in seconds}, seconds)
            for name in names
        }
        return ranked.pop(""), ranked

    def save_pretrained(self, directory: str | Path) -> None:
        """Save to a folder that `load_ranker` opens, with the files of each ranker whose weight is above 0.

        A fused ranker in the folder is replaced, and its metrics are deleted.

        Args:
            directory (`str` or `Path`): created if absent.

        Raises:
            ValueError: before anything is written: the folder holds another model or is one of the sources, no ranker
                knows its catalogue, a name cannot be the name of a folder, or a ranker can neither be saved nor
                copied.
        """
        refuse_other_model(directory, list(self.sources.values()))
        used = {name: ranker for name, ranker in self.rankers.items() if self.weights[name] > 0}
        check_names(used)
        if self.catalogue is None:
            raise ValueError(
                "got rankers that do not know their catalogue: their rows could belong to other items where they are "
                "loaded; pass catalogue=catalogue_fingerprint(item_ids)"
            )
        for name, ranker in used.items():
            if name not in self.sources and not hasattr(ranker, "save_pretrained"):
                raise ValueError(
                    f"got the ranker {name!r} ({type(ranker).__name__}), which has no save_pretrained: pass sources="
                    f"{{{name!r}: the folder or repository that it was loaded from}}"
                )
        with lock_directory(directory, "directory"):
            with write_files(directory, CONFIG_FILE, STALE_FILES) as partial:
                kinds = {name: self._save_ranker(name, partial / FOLDER / name) for name in used}
                config = FusedConfig(
                    items=self.num_items,
                    catalogue=self.catalogue,
                    weights={name: self.weights[name] for name in used},
                    normalizations={name: self.normalizations[name] for name in used},
                    kinds=kinds,
                    beams={name: ranker.k for name, ranker in used.items() if isinstance(ranker, BeamScores)},
                    dataset=self.dataset,
                )
                (partial / CONFIG_FILE).write_text(json.dumps(config.as_json(), indent=2) + "\n", encoding="utf-8")
            write_fused_card(directory)

    def _save_ranker(self, name: str, folder: Path) -> str:
        """Save one of the rankers to a folder, and return what it is."""
        ranker: Any = self.rankers[name]
        if not hasattr(ranker, "save_pretrained"):
            copy_ranker(self.sources[name], folder)
            return "recommender"
        ranker.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # the card of a fused ranker among them names this folder
        return model_type_of(folder) or type(ranker).__name__

    def push_to_hub(self, repo_id: str, *, private: bool | None = None) -> str:
        """Save and upload to the Hub, with a model card.

        Args:
            repo_id (`str`): Hub id `"user/name"`; the repository is created if absent.
            private (`bool`, *optional*): visibility of a new repository; the default of the account if not given.

        Returns:
            `str`: URL of the repository.

        Raises:
            ValueError: as of `save_pretrained`; or `private=True`, and the repository exists and is public.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_fused(folder, repo_id, private=private)
