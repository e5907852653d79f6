"""`Recommender`: a trained model, its tokenizer and its catalogue, from histories to ranked items."""

from collections.abc import Collection, Sequence
from typing import Literal, cast

import numpy as np
import torch
from peft import PeftModel
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from genrec_hf.generation.beam_search import search_sids, shares_prefixes
from genrec_hf.generation.logits_processor import SidLogitsProcessor
from genrec_hf.generation.trie import SidTrie
from genrec_hf.semantic_ids import SemanticIds
from genrec_hf.tasks import encode_prompt, next_item_prompt
from genrec_hf.vocabulary import SidVocabulary

# Beam search marks beams that stand for nothing with -1e9, over the depth (26 at most) when it returns; the real
# log-probability of a token is never near it.
EMPTY_SCORE = -1e7


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

    Raises:
        ValueError: when tokenizer and semantic ids do not belong together.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        semantic_ids: SemanticIds,
        max_history: int = 40,
        score: Literal["full", "level", "trie"] = "full",
        markers: bool = False,
    ) -> None:
        if max_history < 1:
            raise ValueError(f"max_history={max_history}: a prompt needs room for at least one item")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.semantic_ids = semantic_ids
        self.vocabulary = SidVocabulary(semantic_ids, markers=markers).bind(tokenizer)
        self.trie = SidTrie(semantic_ids)
        self.max_history = max_history
        self.score = score
        self._network = cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)
        self._network.generation_config = clean_generation_config(tokenizer, self.trie.levels)
        window = getattr(self._network.config.get_text_config(), "max_position_embeddings", None)
        self.max_prompt = None if window is None else window - self.trie.levels

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        filter_seen: bool = True,
        allow: Collection[str] | None = None,
        deny: Collection[str] | None = None,
        instruction: str | None = None,
        num_beams: int | None = None,
    ) -> list[list[str]]:
        """The best `k` items for each history, best first.

        Args:
            histories (`Sequence[Sequence[str]]`): outside item ids of each user, oldest first; empty for a cold user.
            k (`int`, defaults to 10): items a user; fewer come back when fewer are left after the filters.
            filter_seen (`bool`, defaults to `True`): leave out the items of the history.
            allow (`Collection[str]`, *optional*): recommend these items only.
            deny (`Collection[str]`, *optional*): never recommend these items.
            instruction (`str`, *optional*): a wish in words; the model follows it as far as it was trained to.
            num_beams (`int`, *optional*): width of the beam search, `max(k, 20)` when not given.

        Returns:
            `list[list[str]]`: item ids, one list a history.

        Raises:
            ValueError: on an unknown item id, or when `k` is larger than the catalogue.
        """
        rows = [self.semantic_ids.rows(history) for history in histories]
        barred = np.array([], dtype=np.int64)
        if allow is not None:
            barred = np.setdiff1d(np.arange(len(self.semantic_ids)), self.semantic_ids.rows(list(allow)))
        if deny is not None:
            barred = np.union1d(barred, self.semantic_ids.rows(list(deny)))
        ranked = self.rank(rows, k, filter_seen, barred, instruction, num_beams)
        return [[self.semantic_ids.item_ids[item] for item in row if item >= 0] for row in ranked.tolist()]

    def rank(
        self,
        histories: Sequence[np.ndarray],
        k: int = 10,
        filter_seen: bool = True,
        deny: np.ndarray | None = None,
        instruction: str | None = None,
        num_beams: int | None = None,
        batch_size: int = 32,
        progress: bool = False,
    ) -> np.ndarray:
        """`recommend` in item rows, for evaluation.

        Args:
            histories (`Sequence[np.ndarray]`): item rows of each user, oldest first.
            k (`int`, defaults to 10): as in `recommend`, and so are `filter_seen`, `instruction` and `num_beams`.
            filter_seen (`bool`, defaults to `True`): leave out the items of the history.
            deny (`np.ndarray`, *optional*): item rows left out for everyone.
            instruction (`str`, *optional*): a wish in words.
            num_beams (`int`, *optional*): width of the beam search.
            batch_size (`int`, defaults to 32): users a batch; batches are formed by length.
            progress (`bool`, defaults to `False`): show a progress bar.

        Returns:
            `np.ndarray`: `recommended [users, k]`, int64, `-1` for an empty rank.
        """
        if not 1 <= k <= len(self.semantic_ids):
            raise ValueError(
                f"k={k} items asked for, the catalogue holds {len(self.semantic_ids)}: ask for 1 to that many"
            )
        beams = max(k, 20) if num_beams is None else num_beams
        if beams < k:
            raise ValueError(f"num_beams={beams} cannot give k={k} items: raise num_beams to at least k")
        everyone = np.array([], dtype=np.int64) if deny is None else np.unique(deny)
        denied = [np.union1d(everyone, history) if filter_seen else everyone for history in histories]
        recommended = np.full((len(histories), k), -1, dtype=np.int64)
        open_users = [user for user, items in enumerate(denied) if len(items) < len(self.semantic_ids)]
        order = sorted(open_users, key=lambda user: len(histories[user]))
        with tqdm(total=len(order), desc="Recommending", unit="user", disable=not progress) as bar:
            for start in range(0, len(order), batch_size):
                users = order[start : start + batch_size]
                prompts = [self._prompt(histories[user], instruction) for user in users]
                recommended[users] = self._search(prompts, [denied[user] for user in users], k, beams)
                bar.update(len(users))
        return recommended

    def _prompt(self, history: np.ndarray, instruction: str | None) -> list[int]:
        recent = history[-self.max_history :]
        prompt = next_item_prompt(recent, self.vocabulary, self.tokenizer, instruction)
        return encode_prompt(prompt, self.tokenizer, self.max_prompt)

    def _search(self, prompts: list[list[int]], denied: list[np.ndarray], k: int, beams: int) -> np.ndarray:
        """Items `[prompts, k]` by beam search."""
        batch = self.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        batch = batch.to(self._network.device)
        search = self._search_shared if shares_prefixes(self._network) else self._search_plain
        found = search(batch["input_ids"], batch["attention_mask"], denied, k, beams)
        return np.pad(found, ((0, 0), (0, k - found.shape[1])), constant_values=-1)

    def _search_shared(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, denied: list[np.ndarray], k: int, beams: int
    ) -> np.ndarray:
        level_ids = self.vocabulary.level_token_ids
        items, _ = search_sids(
            self._network, self.trie, level_ids, input_ids, attention_mask, beams, denied, self.score
        )
        return items[:, :k]

    @torch.no_grad()
    def _search_plain(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, denied: list[np.ndarray], k: int, beams: int
    ) -> np.ndarray:
        """The same by `generate` and the logits processor, for models whose attention cannot share a prefix."""
        output = self._network.generate(  # type: ignore[operator]
            input_ids=input_ids,
            attention_mask=attention_mask,
            num_beams=beams,
            num_return_sequences=k,
            max_new_tokens=self.trie.levels,
            return_dict_in_generate=True,
            output_scores=True,
            logits_processor=[SidLogitsProcessor(self.trie, self.vocabulary, deny=denied, score=self.score)],
        )
        items = self.vocabulary.items(output.sequences[:, input_ids.shape[1] :].cpu().numpy()).reshape(-1, k)
        scores = output.sequences_scores.float().cpu().numpy().reshape(-1, k)
        return np.where(scores > EMPTY_SCORE, items, -1)


def clean_generation_config(tokenizer: PreTrainedTokenizerBase, levels: int) -> GenerationConfig:
    """A generation config without sampling defaults, whose plain `generate` gives one SID."""
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=levels,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
