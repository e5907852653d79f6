"""Recommends items of a catalogue with a language model, from item ids to ranked items."""

import copy
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch
from accelerate import PartialState
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genrec_hf.checks import check_choice
from genrec_hf.generation.batching import rank_in_batches, score_in_batches
from genrec_hf.generation.catalogue_model import CatalogueModel
from genrec_hf.generation.decoding import Normalization
from genrec_hf.generation.generation_config import clean_generation_config
from genrec_hf.generation.item_scoring import count_prefixes, users_at_once
from genrec_hf.generation.recommendation import make_recommendations
from genrec_hf.generation.requests import Ids, Request, check_request, read_filter, read_histories, read_requests
from genrec_hf.generation.search_settings import SearchSettings
from genrec_hf.generation.trie import SidTrie
from genrec_hf.item_rows import is_whole, item_rows
from genrec_hf.models import unwrap, wrapping_of
from genrec_hf.ranking import Histories, Ranking, Reranker, Rows, checked_reranking
from genrec_hf.semantic_ids import SemanticIds
from genrec_hf.tasks.prompts import Form, encode_prompt, next_item_prompt, refuse_other_prompts
from genrec_hf.vocabulary import SidVocabulary


class Recommender:
    """Recommender of catalogue items, with a language model that was trained on their semantic IDs.

    `load_recommender` loads one from the output directory of a recipe or from the Hub. Its lists come from a beam
    search over the SIDs of the catalogue, so that every recommendation is an item and no list holds an item twice.
    The generation config of the model is replaced by one without sampling settings (`do_sample`, `top_k`,
    `repetition_penalty`, ...), which would change the result of every call of `generate`.

    Args:
        model (`PreTrainedModel` or `PeftModel`): the trained model; it is put into evaluation mode.
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer, extended with the tokens of `semantic_ids`.
        semantic_ids (`SemanticIds`): the catalogue; every item has a unique SID.
        max_history (`int`, defaults to 40): maximum number of history items in a prompt; the most recent ones are
            used.
        normalization (`str`, defaults to `"full"`): what a token's probability is normalized over: `"full"` the whole
            vocabulary, `"level"` the tokens of its SID level, `"trie"` the children in the trie that the filters
            allow. Use the one that the model was trained with.
        markers (`bool`, defaults to `False`): whether the model was trained with begin and end markers around SIDs.
        form (`str`, defaults to `"plain"`): form of the prompts, `"plain"` or `"chat"`. Use the one that the model was
            trained with.
        titles (`Sequence[str]`, *optional*): `[items]`, titles that follow the SIDs of a history in the prompt, for a
            model that was trained with them.
        item_titles (`Sequence[str]`, *optional*): `[items]`, titles that are returned with recommendations; `titles`
            when not given.
        search (`SearchSettings`, *optional*): settings of the beam search, which a call can replace;
            `SearchSettings()` when not given.

    Attributes:
        trie (`SidTrie`): trie over the catalogue, with token ids.
        vocabulary (`SidVocabulary`): tokens of the semantic ids, bound to `tokenizer`.
        network (`PreTrainedModel`): the model without its PEFT wrapper.

    Raises:
        ValueError: the tokenizer lacks the tokens of the semantic ids; several items share a SID; an option is out of
            range; the chat template is missing or not the one of training; the prompts would differ from those of
            training; or titles or collaborative vectors belong to other items.

    Example:
        ```python
        recommender = load_recommender("outputs/quickstart")
        recommender.recommend([["50", "181", "172"], []], k=5)  # item ids of two users, the second one is new
        ```
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        semantic_ids: SemanticIds,
        *,
        max_history: int = 40,
        normalization: Normalization = "full",
        markers: bool = False,
        form: Form = "plain",
        titles: Sequence[str] | None = None,
        item_titles: Sequence[str] | None = None,
        search: SearchSettings | None = None,
    ) -> None:
        for name, texts in (("titles", titles), ("item_titles", item_titles)):
            if texts is not None and (isinstance(texts, str) or len(texts) != len(semantic_ids)):
                raise ValueError(f"got {len(texts)} {name} for {len(semantic_ids)} items: pass one for each item")
        if not is_whole(max_history) or max_history < 1:
            raise ValueError(f"got max_history={max_history!r}: it must be a whole number, at least 1")
        check_choice("normalization", normalization, get_args(Normalization))
        check_choice("form", form, get_args(Form))
        semantic_ids.refuse_shared("only one of several items with the same SID could be recommended")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.semantic_ids = semantic_ids
        self.vocabulary = SidVocabulary(semantic_ids, markers=markers).bind(tokenizer)
        self.trie = SidTrie(semantic_ids, self.vocabulary)
        self.max_history = max_history
        self.normalization = normalization
        self.form = form
        self.titles, self.item_titles = titles, item_titles
        self.search = SearchSettings() if search is None else search
        # Set by `with_items`: row of the semantic ids for each row of the caller, the inverse, and the rows of the
        # semantic ids that are not in the caller's catalogue.
        self._rows: np.ndarray | None = None
        self._caller_rows: np.ndarray | None = None
        self._outside: np.ndarray | None = None
        self.network, wrapping = unwrap(model), wrapping_of(model)
        self.network.generation_config = clean_generation_config(tokenizer, self.trie.levels)
        if wrapping.holds_items:
            wrapping.refuse_other_items(semantic_ids.item_ids)
        self.first_vector = wrapping.first_vector  # id of item 0's collaborative vector; None without vectors
        refuse_other_prompts(self.vocabulary, tokenizer, form, titles=titles, first_vector=self.first_vector)
        window = getattr(self.network.config.get_text_config(), "max_position_embeddings", None)
        self.max_prompt = None if window is None else window - self.trie.levels
        self._catalogue_model = CatalogueModel(self.network, tokenizer, self.trie, normalization=normalization)

    def __repr__(self) -> str:
        model = getattr(self.network.config, "_name_or_path", "") or type(self.network).__name__
        return (
            f"Recommender(model={model!r}, items={len(self.semantic_ids)}, levels={self.trie.levels}, "
            f"normalization={self.normalization!r}, form={self.form!r}, max_history={self.max_history})"
        )

    @property
    def num_items(self) -> int:
        """Number of item rows that `rank`, `score` and `encode` accept."""
        return len(self.semantic_ids) if self._rows is None else len(self._rows)

    def with_items(self, item_ids: Sequence[str]) -> "Recommender":
        """Return this recommender for item rows in another order, such as those of a data set.

        `rank`, `score` and `encode` of the result accept and return rows of `item_ids`, and items that are not among
        them are not recommended. Model and trie are shared.

        Args:
            item_ids (`Sequence[str]`): item id of each row.

        Returns:
            `Recommender`: a shallow copy; `self` if the rows are those of the semantic ids.

        Raises:
            ValueError: an item id is not in the semantic ids.
        """
        if tuple(item_ids) == self.semantic_ids.item_ids:
            return self
        rows = self.semantic_ids.rows(item_ids)
        copied = copy.copy(self)
        copied._rows = rows
        copied._caller_rows = np.full(len(self.semantic_ids) + 1, -1)  # the last entry is that of empty ranks, -1
        copied._caller_rows[rows] = np.arange(len(rows))
        copied._outside = np.flatnonzero(copied._caller_rows[:-1] < 0)
        return copied

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        filter_seen: bool = True,
        allow: Ids | None = None,
        deny: Ids | None = None,
        instruction: str | Sequence[str | None] | None = None,
        return_scores: bool = False,
        search: SearchSettings | None = None,
        reranker: Reranker | None = None,
        progress: bool | None = None,
    ) -> list[list[Any]]:
        """Recommend the `k` most probable items for each history, best first.

        Args:
            histories (`Sequence[Sequence[str]]`): item ids of each user, oldest first; an empty list for a new user.
            k (`int`, defaults to 10): number of items for each user. A list is shorter if the filters allow fewer
                items.
            filter_seen (`bool`, defaults to `True`): do not recommend items of the history.
            allow (`Collection[str]`, *optional*): item ids, the only ones that may be recommended, or a list with one
                collection (or `None` for all items) for each history. An empty collection allows no item.
            deny (`Collection[str]`, *optional*): item ids that are not recommended, or a list with one collection (or
                `None`) for each history.
            instruction (`str` or `Sequence`, *optional*): an instruction in words, such as a genre that the user asks
                for, or a list with one (or `None`) for each history. Only models that were trained with instructions
                follow it.
            return_scores (`bool`, defaults to `False`): return items with log-probability and title instead of ids.
            search (`SearchSettings`, *optional*): settings of the beam search; those of the recommender when not
                given.
            reranker (`Reranker`, *optional*): reorders the beams and keeps `k` of them, such as `Mmr`. Search with
                more than `k` beams, so that it has a choice.
            progress (`bool`, *optional*): show a progress bar; from 11 batches on when not given.

        Returns:
            `list[list[str]]`: item ids, one list for each history; with `return_scores=True`
            `list[list[Recommendation]]`.

        Raises:
            ValueError: an item id is unknown; `k` is larger than the catalogue or than the number of beams; or an
                argument has another type, such as a text or a set in place of a history.

        Example:
            ```python
            recommender = load_recommender("outputs/quickstart")
            history = ["50", "181", "172"]  # item ids of MovieLens-100K: the Star Wars trilogy
            recommender.recommend([history], k=2)  # [["174", "195"]] after `make quickstart`
            for item_id, score, title in recommender.recommend([history], k=2, return_scores=True)[0]:
                print(f"{item_id}  {title}  {score:.2f}")
            # after `make quickstart`, trained in float32
            # 174  Raiders of the Lost Ark (1981)  -4.01
            # 195  Terminator, The (1984)  -4.08
            ```
        """
        ids = self.semantic_ids
        users = read_histories(ids, histories)
        search = self.search if search is None else search
        num_beams = check_request(k, filter_seen=filter_seen, items=len(ids), search=search, reranker=reranker)
        requests = read_requests(
            users,
            len(ids),
            filter_seen=filter_seen,
            deny=read_filter(ids, "deny", ids=deny, users=len(users)),
            allow=read_filter(ids, "allow", ids=allow, users=len(users)),
            instruction=instruction,
            outside=self._outside,
        )
        ranking = self._rank(requests, k, k if reranker is None else num_beams, search, progress)
        if reranker is not None:
            ranking = checked_reranking(reranker, users, ranking, k=k)
        item_ids = [ids.ids(row[row >= 0]) for row in ranking.items]
        if not return_scores:
            return item_ids
        return make_recommendations(ranking, item_ids, self.item_titles or self.titles)

    def rank(
        self,
        histories: Histories | Sequence[Rows],
        k: int = 10,
        *,
        filter_seen: bool = True,
        allow: Sequence[Rows | None] | None = None,
        deny: Sequence[Rows | None] | None = None,
        progress: bool | None = False,
        instruction: str | Sequence[str | None] | None = None,
        search: SearchSettings | None = None,
        reranker: Reranker | None = None,
    ) -> Ranking:
        """Rank items in rows instead of ids, as `genrec_hf.ranking.Ranker` does.

        Args:
            histories (`Histories` or `Sequence`): item rows of each user, oldest first.
            k (`int`, defaults to 10): number of items for each user.
            filter_seen (`bool`, defaults to `True`): do not recommend items of the history.
            allow (`Sequence`, *optional*): for each user, the only item rows to recommend, or `None` for all.
            deny (`Sequence`, *optional*): for each user, item rows that are not recommended, or `None`.
            progress (`bool`, defaults to `False`): show a progress bar; with `None` from 11 batches on.
            instruction (`str` or `Sequence`, *optional*): an instruction, or one (or `None`) for each user.
            search (`SearchSettings`, *optional*): as of `recommend`.
            reranker (`Reranker`, *optional*): as of `recommend`.

        Returns:
            `Ranking`: `[users, k]`, with the log-probabilities of the SIDs under the recommender's `normalization`;
            `-1` and `-inf` for an empty rank.

        Raises:
            ValueError: as of `recommend`, or an argument holds other values than item rows (ids, masks, fractions,
                negative rows).
        """
        search = self.search if search is None else search
        num_beams = check_request(k, filter_seen=filter_seen, items=self.num_items, search=search, reranker=reranker)
        requests = read_requests(
            histories,
            self.num_items,
            filter_seen=filter_seen,
            deny=deny,
            allow=allow,
            instruction=instruction,
            rows=self._rows,
            outside=self._outside,
        )
        ranking = self._rank(requests, k, k if reranker is None else num_beams, search, progress)
        if self._caller_rows is not None:
            ranking = Ranking(self._caller_rows[ranking.items], ranking.scores)
        return ranking if reranker is None else checked_reranking(reranker, histories, ranking, k=k)

    def score(
        self, histories: Histories | Sequence[Rows], items: Rows | None = None, *, progress: bool = False
    ) -> np.ndarray:
        """Compute the exact log-probabilities of given items, or of all, for each user.

        There are no beams and no filters: the model reads every SID prefix above the items once, so that the cost for
        a user grows with the number of items. It makes a recommender a member of `FusedRanker`.

        Args:
            histories (`Histories` or `Sequence`): item rows of each user, oldest first.
            items (`Sequence[int]`, *optional*): item rows to score; all when not given.
            progress (`bool`, defaults to `False`): show a progress bar.

        Returns:
            `np.ndarray`: `[users, num_items]`, or `[users, len(items)]` in the order of `items`, float32, under the
            recommender's `normalization`.

        Raises:
            ValueError: `histories` or `items` hold other values than item rows.
        """
        requests = read_requests(histories, self.num_items, rows=self._rows)
        columns = np.arange(self.num_items) if items is None else item_rows(items, self.num_items, "items")
        columns = columns if self._rows is None else self._rows[columns]

        def score_batch(users: list[int]) -> np.ndarray:
            prompts = [self._prompt(requests[user].history, None) for user in users]
            return self._catalogue_model.score(prompts, columns)

        return score_in_batches(
            score_batch,
            [min(len(request.history), self.max_history) for request in requests],
            items=len(columns),
            batch_size=users_at_once(count_prefixes(self.trie, torch.from_numpy(columns)), self.search.batch_size),
            progress=progress,
        )

    def _rank(
        self, requests: list[Request], k: int, num_results: int, search: SearchSettings, progress: bool | None
    ) -> Ranking:
        """Return the best `num_results` beams of searches for lists of `k`, in rows of the semantic ids."""

        def rank_batch(users: list[int]) -> Ranking:
            batch = [requests[user] for user in users]
            prompts = [self._prompt(request.history, request.instruction) for request in batch]
            deny, allow = [request.deny for request in batch], [request.allow for request in batch]
            return self._catalogue_model.rank(
                prompts, k, num_results=num_results, search=search, deny=deny, allow=allow
            )

        return rank_in_batches(
            rank_batch,
            [min(len(request.history), self.max_history) for request in requests],
            k=num_results,
            batch_size=search.batch_size,
            state=PartialState(cpu=self.network.device.type == "cpu") if search.distributed else None,
            progress=progress,
        )

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        k: int = 10,
        *,
        allow: Sequence[Rows | None] | None = None,
        deny: Sequence[Rows] | None = None,
        search: SearchSettings | None = None,
    ) -> Ranking:
        """Rank the `k` most probable items after each of any prompts, such as those of tasks, in one batch.

        Args:
            prompts (`Sequence[Sequence[int]]`): token ids; the codes of a SID follow, so that a begin marker, if the
                model was trained with markers, is the last token of the prompt.
            k (`int`, defaults to 10): number of items for each prompt.
            allow (`Sequence`, *optional*): for each prompt, the only item rows of the semantic ids that may be
                returned, or `None` for all.
            deny (`Sequence`, *optional*): for each prompt, item rows of the semantic ids that are not returned.
            search (`SearchSettings`, *optional*): settings of the beam search, of which `batch_size` and `distributed`
                are not used; those of the recommender when not given.

        Returns:
            `Ranking`: `[prompts, k]`, item rows of the semantic ids.

        Raises:
            ValueError: `k` is larger than the number of beams, or there is not one filter for each prompt.
        """
        search = self.search if search is None else search
        return self._catalogue_model.rank(prompts, k, num_results=k, search=search, deny=deny, allow=allow)

    def encode(
        self, histories: Histories | Sequence[Rows], instruction: str | Sequence[str | None] | None = None
    ) -> dict[str, torch.Tensor]:
        """Tokenize the prompts that `rank` passes to the model, for your own calls of `model.generate`.

        Args:
            histories (`Histories` or `Sequence`): item rows of each user, oldest first, such as
                `semantic_ids.rows(item_ids)`.
            instruction (`str` or `Sequence`, *optional*): an instruction, or one (or `None`) for each user.

        Returns:
            `dict`: `input_ids` and `attention_mask`, `[users, length]`, left-padded, on the model's device.

        Raises:
            ValueError: `histories` holds other values than item rows, such as item ids, or an instruction is not text.
        """
        requests = read_requests(histories, self.num_items, instruction=instruction, rows=self._rows)
        return self._catalogue_model.pad([self._prompt(request.history, request.instruction) for request in requests])

    def _prompt(self, history: np.ndarray, instruction: str | None) -> list[int]:
        """Return the token ids of the prompt for a history in rows of the semantic ids."""
        recent = history[-self.max_history :]
        vectors = self.first_vector is not None
        prompt = next_item_prompt(
            recent, self.vocabulary, self.tokenizer, instruction=instruction, vectors=vectors, titles=self.titles
        )
        return encode_prompt(prompt, self.tokenizer, self.max_prompt, form=self.form, first_vector=self.first_vector)
