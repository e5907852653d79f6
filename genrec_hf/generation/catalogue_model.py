"""A language model with the trie of its catalogue, which ranks and scores items after tokenized prompts."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genrec_hf.generation.attention import hypothesis_decoder
from genrec_hf.generation.beam_search import search_items
from genrec_hf.generation.decoding import Normalization
from genrec_hf.generation.filters import RequestFilters
from genrec_hf.generation.item_scoring import score_items
from genrec_hf.generation.search_settings import SearchSettings
from genrec_hf.generation.trie import SidTrie
from genrec_hf.models import wrapping_of
from genrec_hf.ranking import Ranking, Rows


class CatalogueModel:
    """Language model and trie of a `Recommender`; one call is one batch, in item rows of the trie.

    Args:
        network (`PreTrainedModel`): the language model, possibly wrapped, without PEFT's wrapper.
        tokenizer (`PreTrainedTokenizerBase`): pads the prompts.
        trie (`SidTrie`): the catalogue, with token ids.
        normalization (`str`): see `sid_beam_search`.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        trie: SidTrie,
        *,
        normalization: Normalization,
    ) -> None:
        self.network, self.tokenizer, self.normalization = network, tokenizer, normalization
        self._tries = {trie.device: trie}
        # Created once, because on the CPU it copies the modules of the model that read its config.
        self._decoder = hypothesis_decoder(wrapping_of(network).language_model)

    def pad(self, prompts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """Pad prompts on the left.

        Args:
            prompts (`Sequence[Sequence[int]]`): token ids.

        Returns:
            `dict`: `input_ids` and `attention_mask`, `[prompts, length]`, on the model's device.
        """
        batch = self.tokenizer.pad(
            {"input_ids": [list(prompt) for prompt in prompts]}, padding_side="left", return_tensors="pt"
        )
        return {name: batch[name].to(self.network.device) for name in ("input_ids", "attention_mask")}

    def rank(
        self,
        prompts: Sequence[Sequence[int]],
        k: int,
        *,
        num_results: int,
        search: SearchSettings,
        deny: Sequence[Rows] | None = None,
        allow: Sequence[Rows | None] | None = None,
    ) -> Ranking:
        """Rank the most probable items after each prompt by a beam search for lists of `k`.

        Args:
            prompts (`Sequence[Sequence[int]]`): token ids.
            k (`int`): length of the lists that are searched for.
            num_results (`int`): number of beams that are returned, at least `k`.
            search (`SearchSettings`): number of beams, and prefix cap.
            deny (`Sequence`, *optional*): for each prompt, item rows that are not returned.
            allow (`Sequence`, *optional*): for each prompt, the only item rows that may be returned, or `None`.

        Returns:
            `Ranking`: `[prompts, num_results]`.

        Raises:
            ValueError: as of `search_items` and `RequestFilters`.
        """
        batch = self.pad(prompts)
        trie = self._trie()
        return search_items(
            self.network,
            batch,
            trie=trie,
            k=k,
            num_results=num_results,
            search=search,
            normalization=self.normalization,
            filters=None if deny is None and allow is None else RequestFilters(trie, deny, allow),
            decoder=self._cpu_decoder(),
        )

    def score(self, prompts: Sequence[Sequence[int]], items: np.ndarray) -> np.ndarray:
        """Compute the exact log-probability of each item after each prompt.

        Args:
            prompts (`Sequence[Sequence[int]]`): token ids.
            items (`np.ndarray`): `[n]`, int64, item rows; may repeat.

        Returns:
            `np.ndarray`: `[prompts, n]`, float32.

        Raises:
            ValueError: as of `score_items`.
        """
        trie = self._trie()
        scores = score_items(
            self.network,
            self.pad(prompts),
            trie=trie,
            items=torch.from_numpy(items).to(trie.device),
            normalization=self.normalization,
            decoder=self._cpu_decoder(),
        )
        return scores.cpu().numpy()

    def _trie(self) -> SidTrie:
        """Return the trie on the model's device, copied once for each device, as the model may have been moved."""
        device = self.network.device
        if device not in self._tries:
            self._tries[device] = next(iter(self._tries.values())).to(device)
        return self._tries[device]

    def _cpu_decoder(self) -> torch.nn.Module | None:
        return self._decoder if self.network.device.type == "cpu" else None
