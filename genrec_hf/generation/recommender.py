"""`Recommender`: a trained model, its tokenizer and its catalogue, from histories to ranked items."""

from collections.abc import Sequence
from typing import cast, get_args

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from peft import PeftModel
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from genrec_hf.generation.beam_search import BestBeams
from genrec_hf.generation.decoding import Score, decode
from genrec_hf.generation.diversity import CappedBeams, Mmr, PrefixCap
from genrec_hf.generation.filters import RequestFilters, Rows, is_whole
from genrec_hf.generation.prefix import start_prefix
from genrec_hf.generation.requests import (
    Ids,
    Request,
    beam_width,
    check_diversity,
    check_request,
    read_filter,
    read_histories,
    read_requests,
)
from genrec_hf.generation.trie import SidTrie
from genrec_hf.models import LlaraForCausalLM, plain_prompt
from genrec_hf.semantic_ids import SemanticIds
from genrec_hf.tasks.prompts import Form, encode_prompt, next_item_prompt, refuse_other_prompts
from genrec_hf.vocabulary import SidVocabulary

# More batches than this, and `recommend` shows a progress bar.
MANY_BATCHES = 10


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
        score (`str`, defaults to `"full"`): normaliser of the scores, see `SidLogitsProcessor`; use the one the model
            was trained with.
        markers (`bool`, defaults to `False`): the SIDs were trained with begin and end markers.
        form (`str`, defaults to `"plain"`): of the prompts, `"plain"` or `"chat"`; use the one the model was trained
            with.
        titles (`Sequence[str]`, *optional*): `[items]`, put behind the SIDs of a history, where it was trained so.

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
        max_history: int = 40,
        score: Score = "full",
        markers: bool = False,
        form: Form = "plain",
        titles: Sequence[str] | None = None,
    ) -> None:
        if titles is not None and (isinstance(titles, str) or len(titles) != len(semantic_ids)):
            raise ValueError(f"got {len(titles)} titles for {len(semantic_ids)} items: give one a row")
        if not is_whole(max_history) or max_history < 1:
            raise ValueError(
                f"max_history={max_history!r}: a prompt needs room for a whole number of items, 1 or more"
            )
        for name, value, known in (("score", score, get_args(Score)), ("form", form, get_args(Form))):
            if value not in known:
                raise ValueError(f"{name}={value!r}: use one of {', '.join(known)}")
        semantic_ids.refuse_shared("a list would hold the first of them alone, denied or not")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.semantic_ids = semantic_ids
        self.vocabulary = SidVocabulary(semantic_ids, markers=markers).bind(tokenizer)
        self.trie = SidTrie(semantic_ids, self.vocabulary)
        self.max_history = max_history
        self.score = score
        self.form = form
        self.titles = titles
        self.network = cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)
        self.network.generation_config = clean_generation_config(tokenizer, self.trie.levels)
        self.first_vector: int | None = None  # the id of item 0's collaborative vector, where the model reads some
        if isinstance(self.network, LlaraForCausalLM):
            self.network.refuse_other_items(semantic_ids.item_ids)
            self.first_vector = self.network.config.first_vector
        refuse_other_prompts(self.vocabulary, tokenizer, form, titles, self.first_vector)
        window = getattr(self.network.config.get_text_config(), "max_position_embeddings", None)
        self.max_prompt = None if window is None else window - self.trie.levels

    def __repr__(self) -> str:
        model = getattr(self.network.config, "_name_or_path", "") or type(self.network).__name__
        return (
            f"Recommender(model={model!r}, items={len(self.semantic_ids)}, levels={self.trie.levels}, "
            f"score={self.score!r}, form={self.form!r}, max_history={self.max_history})"
        )

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        filter_seen: bool = True,
        allow: Ids | None = None,
        deny: Ids | None = None,
        instruction: str | Sequence[str | None] | None = None,
        num_beams: int | None = None,
        prefix_cap: PrefixCap | None = None,
        mmr: Mmr | None = None,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> list[list[str]]:
        """The best `k` items for each history, best first.

        Args:
            histories (`Sequence[Sequence[str]]`): outside item ids of each user, oldest first; empty for a cold user.
            k (`int`, defaults to 10): items a user; fewer come back when fewer are left after the filters.
            filter_seen (`bool`, defaults to `True`): leave out the items of the history.
            allow (`Collection[str]`, *optional*): recommend these items only; or one collection for each history. An
                empty one allows nothing, `None` everything.
            deny (`Collection[str]`, *optional*): never recommend these items; or one collection for each history.
            instruction (`str`, *optional*): a wish in words, or one for each history; the model follows it as far as
                it was trained to.
            num_beams (`int`, *optional*): width of the beam search, `max(k, 20)` when not given.
            prefix_cap (`PrefixCap`, *optional*): at most so many items of a list under one prefix of their SIDs.
            mmr (`Mmr`, *optional*): re-rank the beams for variety; give it more beams than `k` to choose from.
            batch_size (`int`, defaults to 32): histories a batch.
            progress (`bool`, *optional*): show a progress bar; by default from 11 batches on.

        Returns:
            `list[list[str]]`: item ids, one list a history.

        Raises:
            ValueError: on an unknown item id, when `k` is larger than the catalogue, and on what is of another type
                than these: one text as a history, a set, whose order is lost, numbers as ids.
        """
        users = read_histories(self.semantic_ids, histories)
        ranked = self.rank(
            users,
            k,
            filter_seen,
            deny=read_filter(self.semantic_ids, "deny", deny, len(users)),
            allow=read_filter(self.semantic_ids, "allow", allow, len(users)),
            instruction=instruction,
            num_beams=num_beams,
            prefix_cap=prefix_cap,
            mmr=mmr,
            batch_size=batch_size,
            progress=progress,
        )
        return [[self.semantic_ids.item_ids[item] for item in row if item >= 0] for row in ranked.tolist()]

    def rank(
        self,
        histories: Sequence[np.ndarray],
        k: int = 10,
        filter_seen: bool = True,
        deny: Sequence[Rows | None] | None = None,
        allow: Sequence[Rows | None] | None = None,
        instruction: str | Sequence[str | None] | None = None,
        num_beams: int | None = None,
        prefix_cap: PrefixCap | None = None,
        mmr: Mmr | None = None,
        batch_size: int = 32,
        item_ids: Sequence[str] | None = None,
        distributed: bool = False,
        progress: bool | None = False,
    ) -> np.ndarray:
        """`recommend` in item rows, for evaluation.

        Args:
            histories (`Sequence[np.ndarray]`): item rows of each user, oldest first.
            k (`int`, defaults to 10): as in `recommend`, and so are all that are not named here.
            filter_seen (`bool`, defaults to `True`): leave out the items of the history.
            deny (`Sequence`, *optional*): for each user, item rows left out.
            allow (`Sequence`, *optional*): for each user, the only item rows that may come out.
            instruction (`str`, *optional*): a wish in words, or one for each user.
            num_beams (`int`, *optional*): width of the beam search.
            prefix_cap (`PrefixCap`, *optional*): at most so many items of a list under one prefix of their SIDs.
            mmr (`Mmr`, *optional*): re-rank the beams for variety.
            batch_size (`int`, defaults to 32): users a batch; batches are formed by length.
            item_ids (`Sequence[str]`, *optional*): what the rows of histories, filters and lists stand for, when it is
                not `semantic_ids.item_ids`, such as a data set's; nothing else comes out.
            distributed (`bool`, defaults to `False`): share the batches out over the processes of `accelerate launch`;
                all of them have to call, and each gets every list. The batches, and so the lists, are those of one
                process.
            progress (`bool`, defaults to `False`): show a progress bar; `None` from 11 batches on.

        Returns:
            `np.ndarray`: `recommended [users, k]`, int64, `-1` for an empty rank.

        Raises:
            ValueError: as `recommend` does, and on what is no item row (ids, masks, fractions, rows below 0).
        """
        items = len(self.semantic_ids)
        check_request(k, filter_seen, num_beams, prefix_cap, mmr, batch_size, items)
        width = beam_width(k, num_beams)
        rows = np.arange(items) if item_ids is None else self.semantic_ids.rows(item_ids)
        requests = read_requests(histories, filter_seen, deny, allow, instruction, rows, items)
        order = sorted(range(len(requests)), key=lambda user: min(len(requests[user].history), self.max_history))
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        state = PartialState(cpu=self.network.device.type == "cpu") if distributed else None
        mine = batches if state is None else batches[state.process_index :: state.num_processes]
        places = torch.zeros(len(requests), k, dtype=torch.long)  # item rows plus 1: what others rank stays 0
        progress = len(batches) > MANY_BATCHES if progress is None else progress
        shown = progress and (state is None or state.is_main_process)
        with tqdm(total=sum(map(len, mine)), desc="Recommending", unit="user", disable=not shown) as bar:
            for users in mine:
                found = self._search([requests[user] for user in users], k, width, prefix_cap, mmr)
                places[users] = torch.from_numpy(found) + 1
                bar.update(len(users))
        if state is not None and state.num_processes > 1:
            places = reduce(places.to(state.device), "sum").cpu()
        back = np.full(items + 1, -1)  # its last entry serves the empty ranks
        back[rows] = np.arange(len(rows))
        return back[places.numpy() - 1]

    def _search(
        self, requests: list[Request], k: int, width: int, prefix_cap: PrefixCap | None, mmr: Mmr | None
    ) -> np.ndarray:
        """Items `[requests, k]` by beam search."""
        prompts = [self._prompt(request.history, request.instruction) for request in requests]
        deny, allow = [each.deny for each in requests], [each.allow for each in requests]
        return self.complete(prompts, k, deny, allow, width, prefix_cap, mmr)

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        k: int = 10,
        deny: Sequence[Rows] | None = None,
        allow: Sequence[Rows | None] | None = None,
        num_beams: int | None = None,
        prefix_cap: PrefixCap | None = None,
        mmr: Mmr | None = None,
    ) -> np.ndarray:
        """The best `k` items to complete any prompts with, such as those of tasks, in one batch.

        Args:
            prompts (`Sequence[Sequence[int]]`): token ids, each to be followed by a SID without its begin marker.
            k (`int`, defaults to 10): items a prompt.
            deny (`Sequence`, *optional*): for each prompt, item rows of the semantic ids that may not come out.
            allow (`Sequence`, *optional*): for each prompt, the only ones that may.
            num_beams (`int`, *optional*): width of the beam search, `max(k, 20)` when not given.
            prefix_cap (`PrefixCap`, *optional*): at most so many items of a list under one prefix of their SIDs.
            mmr (`Mmr`, *optional*): re-rank the beams for variety.

        Returns:
            `np.ndarray`: item rows `[prompts, k]`, best first, `-1` for an empty rank.
        """
        width = beam_width(k, num_beams)
        check_diversity(prefix_cap, mmr, len(self.semantic_ids))
        batch = self._padded(prompts)
        prompt, mask = batch["input_ids"], batch["attention_mask"]
        self.trie = trie = self.trie.to(mask.device)  # where the model is, which may have moved
        filters = None if deny is None and allow is None else RequestFilters(trie, deny, allow)
        select = BestBeams(width) if prefix_cap is None else CappedBeams(width, k, prefix_cap, trie.levels)
        with torch.no_grad():
            network, start = plain_prompt(self.network, prompt)
        prefix = start_prefix(network, mask.shape[1], width, trie.levels)
        found = decode(prefix, start, mask, trie, select, self.score, filters)
        missing = ((0, 0), (0, max(0, k - found.leaves.shape[1])))
        items = np.pad(trie.items(found.leaves).cpu().numpy(), missing, constant_values=-1)
        if mmr is None:
            return items[:, :k]
        return mmr.rerank(items, np.pad(found.log_probs.cpu().numpy(), missing, constant_values=-np.inf), k)

    def encode(
        self, histories: Sequence[np.ndarray], instruction: str | Sequence[str | None] | None = None
    ) -> dict[str, torch.Tensor]:
        """The prompts that `rank` feeds to the model, for `model.generate` by hand.

        Args:
            histories (`Sequence[np.ndarray]`): item rows of each user, oldest first.
            instruction (`str`, *optional*): a wish in words, or one for each user.

        Returns:
            `dict`: `input_ids` and `attention_mask`, `[users, length]`, padded on the left, on the model's device.

        Raises:
            ValueError: on what is no item row, such as an outside id: pass `semantic_ids.rows(item_ids)`.
        """
        items = np.arange(len(self.semantic_ids))
        requests = read_requests(histories, False, None, None, instruction, items, len(items))
        return self._padded([self._prompt(each.history, each.instruction) for each in requests])

    def _padded(self, prompts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        batch = self.tokenizer.pad(
            {"input_ids": [list(prompt) for prompt in prompts]}, padding_side="left", return_tensors="pt"
        )
        return {name: batch[name].to(self.network.device) for name in ("input_ids", "attention_mask")}

    def _prompt(self, history: np.ndarray, instruction: str | None) -> list[int]:
        recent = history[-self.max_history :]
        vectors = self.first_vector is not None
        prompt = next_item_prompt(recent, self.vocabulary, self.tokenizer, instruction, vectors, self.titles)
        return encode_prompt(prompt, self.tokenizer, self.max_prompt, self.form, self.first_vector)


def clean_generation_config(tokenizer: PreTrainedTokenizerBase, levels: int) -> GenerationConfig:
    """A generation config without sampling defaults, whose plain `generate` gives one SID."""
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=levels,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
