"""`Recommender`: a trained model, its tokenizer and its catalogue, from histories to ranked items."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from peft import PeftModel
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from genrec_hf.checks import check_choice
from genrec_hf.generation.attention import hypothesis_decoder
from genrec_hf.generation.beam_search import BestBeams
from genrec_hf.generation.decoding import Normalization, decode
from genrec_hf.generation.diversity import CappedBeams
from genrec_hf.generation.filters import RequestFilters
from genrec_hf.generation.prompt_cache import start_prompt_cache
from genrec_hf.generation.requests import (
    Ids,
    Request,
    check_request,
    read_filter,
    read_histories,
    read_requests,
)
from genrec_hf.generation.search_settings import SearchSettings
from genrec_hf.generation.trie import SidTrie
from genrec_hf.item_rows import is_whole
from genrec_hf.models import unwrap, wrapping_of
from genrec_hf.ranking import Histories, Ranking, Reranker, Rows, checked_reranking
from genrec_hf.semantic_ids import SemanticIds
from genrec_hf.tasks.prompts import Form, encode_prompt, next_item_prompt, refuse_other_prompts
from genrec_hf.vocabulary import SidVocabulary

# More batches than this, and `recommend` shows a progress bar.
MANY_BATCHES = 10


class Recommendation(NamedTuple):
    """One item of a list: its outside id, its log-probability, and its title where titles are known."""

    item_id: str
    score: float
    title: str | None


class Recommender:
    """Recommends items of a catalogue with a language model that speaks their semantic ids.

    Every recommendation is an item of the catalogue and no item comes twice. The model's own sampling defaults
    (`do_sample`, `top_k`, `repetition_penalty`, ...) are replaced by a clean generation config: they would leak into
    every `generate` call and void the constraint.

    Args:
        model (`PreTrainedModel` or `PeftModel`): trained; put into evaluation mode.
        tokenizer (`PreTrainedTokenizerBase`): extended for `semantic_ids`.
        semantic_ids (`SemanticIds`): the catalogue.
        max_history (`int`, defaults to 40): most recent items that a prompt holds.
        normalization (`str`, defaults to `"full"`): normaliser of the scores, see `SidLogitsProcessor`; use the one the model
            was trained with.
        markers (`bool`, defaults to `False`): the SIDs were trained with begin and end markers.
        form (`str`, defaults to `"plain"`): of the prompts, `"plain"` or `"chat"`; use the one the model was trained
            with.
        titles (`Sequence[str]`, *optional*): `[items]`, put behind the SIDs of a history, where it was trained so.
        item_titles (`Sequence[str]`, *optional*): `[items]`, returned with recommendations; `titles` when not given.
        search (`SearchSettings`, *optional*): how it searches unless a call says otherwise.

    Raises:
        ValueError: when tokenizer and semantic ids do not belong together, several items share a SID, or a chat is
            asked for and the tokenizer has no chat template, or another one than in training; when it would be asked
            in other tokens than it was trained on; or titles or collaborative vectors are of other items.
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
        for name, each in (("titles", titles), ("item_titles", item_titles)):
            if each is not None and (isinstance(each, str) or len(each) != len(semantic_ids)):
                raise ValueError(f"got {len(each)} {name} for {len(semantic_ids)} items: give one a row")
        if not is_whole(max_history) or max_history < 1:
            raise ValueError(
                f"max_history={max_history!r}: a prompt needs room for a whole number of items, 1 or more"
            )
        check_choice("normalization", normalization, get_args(Normalization))
        check_choice("form", form, get_args(Form))
        semantic_ids.refuse_shared("a list would hold the first of them alone, denied or not")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.semantic_ids = semantic_ids
        self.vocabulary = SidVocabulary(semantic_ids, markers=markers).bind(tokenizer)
        self.trie = SidTrie(semantic_ids, self.vocabulary)
        self._tries: dict[torch.device, SidTrie] = {}
        self.max_history = max_history
        self.normalization = normalization
        self.form = form
        self.titles, self.item_titles = titles, item_titles
        self.search = SearchSettings() if search is None else search
        # Rows of the semantic ids of the caller's rows, back, and those that the caller does not know: `with_items`.
        self._rows: np.ndarray | None = None
        self._row_of: np.ndarray | None = None
        self._outside: np.ndarray | None = None
        self.network, around = unwrap(model), wrapping_of(model)
        self.network.generation_config = clean_generation_config(tokenizer, self.trie.levels)
        if around.holds_items:
            around.refuse_other_items(semantic_ids.item_ids)
        self.first_vector = around.first_vector  # the id of item 0's vector, where the model reads some
        refuse_other_prompts(self.vocabulary, tokenizer, form, titles=titles, first_vector=self.first_vector)
        window = getattr(self.network.config.get_text_config(), "max_position_embeddings", None)
        self.max_prompt = None if window is None else window - self.trie.levels
        # Made once: on the CPU it copies the modules of the model that read its config.
        self._decoder = hypothesis_decoder(around.language_model)

    def __repr__(self) -> str:
        model = getattr(self.network.config, "_name_or_path", "") or type(self.network).__name__
        return (
            f"Recommender(model={model!r}, items={len(self.semantic_ids)}, levels={self.trie.levels}, "
            f"normalization={self.normalization!r}, form={self.form!r}, max_history={self.max_history})"
        )

    def with_items(self, item_ids: Sequence[str]) -> "Recommender":
        """The same recommender for a catalogue in other rows, such as a data set's; model and trie are shared.

        Its `rank` and `encode` take and give rows of `item_ids`, and nothing else comes out.

        Args:
            item_ids (`Sequence[str]`): outside id of each row.

        Raises:
            ValueError: when the semantic ids lack one of them.
        """
        if tuple(item_ids) == self.semantic_ids.item_ids:
            return self
        rows = self.semantic_ids.rows(item_ids)
        there = copy.copy(self)
        there._rows, there._row_of = rows, np.full(len(self.semantic_ids) + 1, -1)  # its last entry: the empty ranks
        there._row_of[rows] = np.arange(len(rows))
        there._outside = np.flatnonzero(there._row_of[:-1] < 0)
        return there

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
        """The best `k` items for each history, best first.

        Args:
            histories (`Sequence[Sequence[str]]`): outside item ids of each user, oldest first; empty for a new user.
            k (`int`, defaults to 10): items a user; fewer come back when fewer are left after the filters.
            filter_seen (`bool`, defaults to `True`): leave out the items of the history.
            allow (`Collection[str]`, *optional*): recommend these items only; or one collection for each history. An
                empty one allows nothing, `None` everything.
            deny (`Collection[str]`, *optional*): never recommend these items; or one collection for each history.
            instruction (`str`, *optional*): an instruction in words, or one for each history; the model follows it as far as
                it was trained to.
            return_scores (`bool`, defaults to `False`): return `Recommendation`s, with log-probabilities and titles.
            search (`SearchSettings`, *optional*): other settings of the search than those of the recommender.
            reranker (`Reranker`, *optional*): reorders the beams, such as `Mmr`; it needs more beams than `k` to
                choose from.
            progress (`bool`, *optional*): show a progress bar; by default from 11 batches on.

        Returns:
            `list[list[str]]`: item ids, one list a history; with `return_scores` `list[list[Recommendation]]`.

        Raises:
            ValueError: on an unknown item id, when `k` is larger than the catalogue, and on what is of another type
                than these: one text as a history, a set, whose order is lost, numbers as ids.
        """
        ids = self.semantic_ids
        users = read_histories(ids, histories)
        search = self.search if search is None else search
        width = check_request(k, filter_seen=filter_seen, items=len(ids), search=search, reranker=reranker)
        requests = read_requests(
            users,
            len(ids),
            filter_seen=filter_seen,
            deny=read_filter(ids, "deny", ids=deny, users=len(users)),
            allow=read_filter(ids, "allow", ids=allow, users=len(users)),
            instruction=instruction,
            outside=self._outside,
        )
        ranking = self._rank(requests, k, k if reranker is None else width, search, progress)
        if reranker is not None:
            ranking = checked_reranking(reranker, users, ranking, k=k)
        item_ids = [ids.ids(row[row >= 0]) for row in ranking.items]
        if not return_scores:
            return item_ids
        titles = self.item_titles or self.titles
        return [
            [
                Recommendation(item_id, score, None if titles is None else titles[item])
                for item_id, score, item in zip(names, scores, items, strict=False)
            ]
            for names, scores, items in zip(item_ids, ranking.scores.tolist(), ranking.items.tolist(), strict=True)
        ]

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
        """`recommend` in item rows, see `genrec_hf.ranking.Ranker`.

        Args:
            histories (`Histories` or `Sequence`): item rows of each user, oldest first.
            k (`int`, defaults to 10): as in `recommend`, and so are all that are not named here.
            filter_seen (`bool`, defaults to `True`): leave out the items of the history.
            allow (`Sequence`, *optional*): for each user, the only item rows that may come out, or `None` for all.
            deny (`Sequence`, *optional*): for each user, item rows left out.
            progress (`bool`, defaults to `False`): show a progress bar; `None` from 11 batches on.
            instruction (`str`, *optional*): an instruction in words, or one for each user.
            search (`SearchSettings`, *optional*): other settings of the search than those of the recommender.
            reranker (`Reranker`, *optional*): reorders the beams.

        Returns:
            `Ranking`: `[users, k]`, with the log-probabilities of the SIDs under the recommender's `normalization`.

        Raises:
            ValueError: as `recommend` does, and on what is no item row (ids, masks, fractions, rows below 0).
        """
        search = self.search if search is None else search
        items = len(self.semantic_ids) if self._rows is None else len(self._rows)
        width = check_request(k, filter_seen=filter_seen, items=items, search=search, reranker=reranker)
        requests = read_requests(
            histories,
            items,
            filter_seen=filter_seen,
            deny=deny,
            allow=allow,
            instruction=instruction,
            rows=self._rows,
            outside=self._outside,
        )
        ranking = self._rank(requests, k, k if reranker is None else width, search, progress)
        if self._row_of is not None:
            ranking = Ranking(self._row_of[ranking.items], ranking.scores)
        return ranking if reranker is None else checked_reranking(reranker, histories, ranking, k=k)

    def _rank(
        self, requests: list[Request], k: int, found: int, search: SearchSettings, progress: bool | None
    ) -> Ranking:
        """The best `found` beams `[requests, found]` of searches for lists of `k`, in rows of the semantic ids."""
        order = sorted(range(len(requests)), key=lambda user: min(len(requests[user].history), self.max_history))
        batches = [order[start : start + search.batch_size] for start in range(0, len(order), search.batch_size)]
        state = PartialState(cpu=self.network.device.type == "cpu") if search.distributed else None
        own = batches if state is None else batches[state.process_index :: state.num_processes]
        places = torch.zeros(len(requests), found, dtype=torch.long)  # item rows plus 1: what others rank stays 0
        scores = torch.zeros(len(requests), found)
        progress = len(batches) > MANY_BATCHES if progress is None else progress
        shown = progress and (state is None or state.is_main_process)
        with tqdm(total=sum(map(len, own)), desc="Recommending", unit="user", disable=not shown) as bar:
            for users in own:
                ranking = self._search([requests[user] for user in users], k, found, search)
                places[users] = torch.from_numpy(ranking.items) + 1
                scores[users] = torch.from_numpy(ranking.scores)
                bar.update(len(users))
        if state is not None and state.num_processes > 1:
            places = reduce(places.to(state.device), "sum").cpu()
            scores = reduce(scores.to(state.device), "sum").cpu()
        return Ranking(places.numpy() - 1, scores.numpy())

    def _search(self, requests: list[Request], k: int, found: int, search: SearchSettings) -> Ranking:
        """The best `found` beams `[requests, found]` of a search for lists of `k`."""
        prompts = [self._prompt(request.history, request.instruction) for request in requests]
        deny, allow = [each.deny for each in requests], [each.allow for each in requests]
        return self._complete(prompts, k, found, deny, allow, search)

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        k: int = 10,
        *,
        allow: Sequence[Rows | None] | None = None,
        deny: Sequence[Rows] | None = None,
        search: SearchSettings | None = None,
    ) -> Ranking:
        """The best `k` items to complete any prompts with, such as those of tasks, in one batch.

        Args:
            prompts (`Sequence[Sequence[int]]`): token ids, each to be followed by a SID without its begin marker.
            k (`int`, defaults to 10): items a prompt.
            allow (`Sequence`, *optional*): for each prompt, the only item rows of the semantic ids that may come out.
            deny (`Sequence`, *optional*): for each prompt, item rows that may not come out.
            search (`SearchSettings`, *optional*): other settings than those of the recommender.

        Returns:
            `Ranking`: `[prompts, k]`, item rows of the semantic ids.
        """
        return self._complete(prompts, k, k, deny, allow, self.search if search is None else search)

    def _complete(
        self,
        prompts: Sequence[Sequence[int]],
        k: int,
        found: int,
        deny: Sequence[Rows] | None,
        allow: Sequence[Rows | None] | None,
        search: SearchSettings,
    ) -> Ranking:
        width, cap = search.beams_for(k), search.prefix_cap
        batch = self._padded(prompts)
        prompt, mask = batch["input_ids"], batch["attention_mask"]
        trie = self._trie_on(mask.device)
        filters = None if deny is None and allow is None else RequestFilters(trie, deny, allow)
        select = BestBeams(width) if cap is None else CappedBeams(width, k, cap=cap, levels=trie.levels)
        with torch.no_grad():
            network, start = wrapping_of(self.network).prompt_inputs(prompt)
        decoder = self._decoder if mask.device.type == "cpu" else None
        prompt_cache = start_prompt_cache(
            network, length=mask.shape[1], hypotheses=width, levels=trie.levels, decoder=decoder
        )
        hypotheses = decode(
            prompt_cache, start, mask, trie=trie, select=select, normalization=self.normalization, filters=filters
        )
        missing = ((0, 0), (0, max(0, found - hypotheses.leaves.shape[1])))
        items = np.pad(trie.items(hypotheses.leaves).cpu().numpy(), missing, constant_values=-1)
        scores = np.pad(hypotheses.log_probs.float().cpu().numpy(), missing, constant_values=-np.inf)
        return Ranking(items[:, :found], scores[:, :found])

    def _trie_on(self, device: torch.device) -> SidTrie:
        """The trie where the model is, which may have moved; copied once for each device."""
        if device not in self._tries:
            self._tries[device] = self.trie.to(device)
        return self._tries[device]

    def encode(
        self, histories: Histories | Sequence[Rows], instruction: str | Sequence[str | None] | None = None
    ) -> dict[str, torch.Tensor]:
        """The prompts that `rank` feeds to the model, for `model.generate` by hand.

        Args:
            histories (`Histories` or `Sequence`): item rows of each user, oldest first.
            instruction (`str`, *optional*): an instruction in words, or one for each user.

        Returns:
            `dict`: `input_ids` and `attention_mask`, `[users, length]`, padded on the left, on the model's device.

        Raises:
            ValueError: on what is no item row, such as an outside id: pass `semantic_ids.rows(item_ids)`.
        """
        items = len(self.semantic_ids) if self._rows is None else len(self._rows)
        requests = read_requests(
            histories, items, filter_seen=False, deny=None, allow=None, instruction=instruction, rows=self._rows
        )
        return self._padded([self._prompt(each.history, each.instruction) for each in requests])

    def _padded(self, prompts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        batch = self.tokenizer.pad(
            {"input_ids": [list(prompt) for prompt in prompts]}, padding_side="left", return_tensors="pt"
        )
        return {name: batch[name].to(self.network.device) for name in ("input_ids", "attention_mask")}

    def _prompt(self, history: np.ndarray, instruction: str | None) -> list[int]:
        recent = history[-self.max_history :]
        vectors = self.first_vector is not None
        prompt = next_item_prompt(
            recent, self.vocabulary, self.tokenizer, instruction=instruction, vectors=vectors, titles=self.titles
        )
        return encode_prompt(prompt, self.tokenizer, self.max_prompt, form=self.form, first_vector=self.first_vector)


def clean_generation_config(tokenizer: PreTrainedTokenizerBase, levels: int) -> GenerationConfig:
    """A generation config without sampling defaults, whose plain `generate` gives one SID."""
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=levels,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
