"""Rollouts for TRL's GRPO: completions that are SIDs, generated and scored with one pass per prompt and group."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genrec_hf.generation import SidTrie
from genrec_hf.generation.beam_search import BestBeams
from genrec_hf.generation.decoding import decode
from genrec_hf.generation.prompt_cache import start_prompt_cache
from genrec_hf.generation.sampling import DistinctSamples, IndependentSamples
from genrec_hf.generation.scoring import Normalization, sample_sids, score_sids
from genrec_hf.internals.trl import FusedCausalLMOutput
from genrec_hf.models import unwrap, wrapping_of
from genrec_hf.tasks import encode_prompt, refuse_other_prompts
from genrec_hf.tasks.prompts import Form
from genrec_hf.training.fused_loss import answer_fused_calls, fused_output
from genrec_hf.vocabulary import SidVocabulary

# How completions are generated: sampled from the model's distribution over items, with or without replacement; the
# best items of beam search; sampled from the whole vocabulary, which may give no item. Or, independently of the model,
# distinct items sampled uniformly or in proportion to their training events.
Sampling = Literal["samples", "distinct_samples", "beams", "unconstrained", "uniform", "popular"]


class SidRollouts:
    """A `rollout_func` of TRL's `GRPOTrainer` that generates a group of SIDs for each prompt.

    A prompt is read once for its whole group, or once for each kind of sampling in a mixture. In addition to TRL's
    `prompt_ids`, `completion_ids` and `logprobs`, a call returns the columns of reward functions: `items`, `lists`,
    `likelihood` (the sum of `logprobs`), `group` and `sampling` (`"target"` where the target was injected), see
    `genrec_hf.training.rewards`.

    Args:
        vocabulary (`SidVocabulary`): of the catalogue, bound to the tokenizer.
        tokenizer (`PreTrainedTokenizerBase`): extended for the vocabulary.
        sampling (`str` or `Mapping[str, float]`, defaults to `"samples"`): `"samples"`, with replacement from the
            model's distribution over items; `"distinct_samples"`, without replacement; `"beams"`, the likeliest items;
            `"unconstrained"`, from the whole vocabulary, so that some completions are no items; `"uniform"` and
            `"popular"`, distinct items independently of the model, as negatives. A mapping gives each kind a share of
            the group; if `"unconstrained"` is among them, all completions are scored over the whole vocabulary.
        temperature (`float`, defaults to 1.0): divides the logits in sampling and in scoring; above 0.
        form (`str`, defaults to `"plain"`): `"plain"` or `"chat"`, the form of the prompts.
        max_prompt (`int`, *optional*): largest number of tokens of a prompt; unlimited if not given.
        inject_target (`bool`, defaults to `False`): replace the last completion of a group without the target by the
            target. Its `logprobs` are 0, so that `SidGrpoTrainer` weights each of its codes by the probability that
            the policy gives it.
        events (`np.ndarray`, *optional*): `[items]`, number of training events of each item, for `"popular"`.
        list_length (`int`, defaults to 1): number of SIDs per completion, one after the other, as in sequences of
            dense supervision. More than 1 needs `sampling="samples"`, no `inject_target` and no markers.

    Raises:
        ValueError: the sampling is unknown or has a share of 0 or less, `"popular"` comes without `events`, the
            temperature is not above 0, `list_length` is below 1 or does not go with the other settings, or the
            tokenizer tokenizes a prompt differently when text follows it.
    """

    def __init__(
        self,
        vocabulary: SidVocabulary,
        tokenizer: PreTrainedTokenizerBase,
        *,
        sampling: Sampling | Mapping[Sampling, float] = "samples",
        temperature: float = 1.0,
        form: Form = "plain",
        max_prompt: int | None = None,
        inject_target: bool = False,
        events: np.ndarray | None = None,
        list_length: int = 1,
    ) -> None:
        shares: dict[Any, float] = dict(sampling) if isinstance(sampling, Mapping) else {sampling: 1.0}
        if not shares or not set(shares) <= set(get_args(Sampling)) or min(shares.values()) <= 0:
            raise ValueError(
                f"got sampling={sampling!r}: use one of {', '.join(get_args(Sampling))}, or shares above 0 of several"
            )
        if not temperature > 0:
            raise ValueError(f"got temperature={temperature}: logits are divided by it; give a value above 0")
        if list_length < 1 or (
            list_length > 1 and (set(shares) != {"samples"} or inject_target or vocabulary.markers)
        ):
            raise ValueError(
                f"got list_length={list_length} with sampling={sampling!r}, inject_target={inject_target}, "
                f"markers={vocabulary.markers}: give list_length=1, or more with sampling='samples' and without "
                "inject_target and markers"
            )
        refuse_other_prompts(vocabulary, tokenizer, form)
        self.vocabulary, self.tokenizer, self.shares, self.temperature = vocabulary, tokenizer, shares, temperature
        self.list_length = list_length
        self.trie = SidTrie(vocabulary.semantic_ids, vocabulary)
        self.form: Form = form
        self.max_prompt, self.inject_target = max_prompt, inject_target
        if events is None and "popular" in shares:
            raise ValueError("got sampling='popular' without events, from which popularity is counted: give events")
        items = len(vocabulary.semantic_ids)
        self._weights = {"uniform": torch.ones(items), "popular": torch.ones(items)}
        if events is not None:
            self._weights["popular"] = torch.as_tensor(events).float()

    @property
    def normalization(self) -> Normalization:
        """Normalization of the log-probabilities of completions, in sampling and in the loss."""
        return "full" if "unconstrained" in self.shares else "trie"

    @property
    def tokens(self) -> int:
        """Number of tokens per completion."""
        return self.trie.levels * self.list_length

    def counts(self, size: int) -> dict[str, int]:
        """Compute how many completions of a group come from each kind of sampling.

        Args:
            size (`int`): completions per group.

        Returns:
            `dict[str, int]`: kind of sampling to number of completions.

        Raises:
            ValueError: a share of the group is no whole number, or a kind of distinct items has fewer items than its
                share.
        """
        shares = {name: size * share / sum(self.shares.values()) for name, share in self.shares.items()}
        if any(count % 1 > 1e-9 and -count % 1 > 1e-9 for count in shares.values()):
            raise ValueError(
                f"got sampling={self.shares} for groups of {size}, which would be {shares} completions: give shares "
                "that divide num_generations into whole numbers"
            )
        counts = {name: round(count) for name, count in shares.items()}
        for name, count in counts.items():
            available = int((self._weights[name] > 0).sum()) if name in self._weights else len(self.trie)
            if count > available and name not in ("samples", "unconstrained"):
                raise ValueError(
                    f"got {count} distinct items per group for {name!r} and a catalogue of {available}: lower "
                    "num_generations, or use 'samples'"
                )
        return counts

    def codes_of(self, items: Sequence[int]) -> torch.Tensor:
        """Return the token ids of items, as completions hold them: without markers.

        Args:
            items (`Sequence[int]`): `[n]`, item rows.

        Returns:
            `torch.Tensor`: `[n, levels]`.
        """
        ids = torch.from_numpy(self.vocabulary.token_ids(items))
        return ids[:, 1:-1] if self.vocabulary.markers else ids

    def __call__(self, prompts: Sequence[str], trainer: Any) -> dict[str, list[Any]]:
        """Generate a group for each prompt.

        Args:
            prompts (`Sequence[str]`): each prompt as many times in a row as a group has completions.
            trainer (`SidGrpoTrainer`): whose model generates.

        Returns:
            `dict[str, list]`: one value per completion of each column, see the class.

        Raises:
            ValueError: the prompts are no whole groups, or hold no vectors although the model reads some, or a group
                cannot be divided, see `counts`.
        """
        size = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
        groups = _groups(prompts, size)
        model = trainer.accelerator.unwrap_model(trainer.model)
        network, first_vector = unwrap(model), wrapping_of(model).first_vector
        ids = [
            encode_prompt(prompt, self.tokenizer, self.max_prompt, form=self.form, first_vector=first_vector)
            for prompt in groups
        ]
        if first_vector is not None and not any(max(prompt) >= first_vector for prompt in ids):
            raise ValueError("got prompts without vectors for a model that reads them: make them with vectors=True")
        training = model.training
        model.eval()
        try:
            with torch.no_grad(), trainer.accelerator.autocast():
                tokens, log_probs = (tensor.cpu() for tensor in self.generate(network, ids, size))
        finally:
            model.train(training)
        lists = torch.from_numpy(self.vocabulary.items(tokens.unflatten(2, (-1, self.trie.levels)).numpy()))
        items = lists[..., 0]
        sampling = [[name for name, count in self.counts(size).items() for _ in range(count)] for _ in groups]
        if self.inject_target:
            target = torch.tensor(trainer.targets[::size])
            is_missing = (items != target[:, None]).all(dim=1)
            tokens[is_missing, -1] = self.codes_of(target.tolist())[is_missing]
            log_probs[is_missing, -1], items[is_missing, -1] = 0.0, target[is_missing]
            for group in is_missing.nonzero()[:, 0].tolist():
                sampling[group][-1] = "target"
        return {
            "prompt_ids": [list(prompt) for prompt in ids for _ in range(size)],
            "completion_ids": tokens.flatten(0, 1).tolist(),
            "logprobs": log_probs.flatten(0, 1).tolist(),
            "items": items.flatten().tolist(),
            "lists": lists.flatten(0, 1).tolist(),
            "likelihood": log_probs.sum(dim=-1).flatten().tolist(),
            "group": [group for group in range(len(groups)) for _ in range(size)],
            "sampling": [name for names in sampling for name in names],
        }

    def advantage_mask(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return which tokens of completions an advantage applies to.

        In an item these are all tokens; in an invalid completion only the first invalid token, because the codes
        before it are a prefix of some item, and those after it follow no SID.

        Args:
            tokens (`torch.Tensor`): `[n, levels]`, token ids.

        Returns:
            `torch.Tensor`: bool `[n, levels]`.
        """
        trie = self.trie.to(tokens.device)
        assert trie.token_ids is not None
        nodes = torch.zeros_like(tokens[:, 0])
        is_invalid = []
        for level, ids in enumerate(trie.token_ids):
            match = tokens[:, level, None] == ids
            codes = torch.where(match.any(dim=1), match.int().argmax(dim=1), -1)
            nodes = trie.child(level, nodes, codes)
            is_invalid.append(nodes < 0)
        # After the first invalid token all are invalid.
        return (torch.stack(is_invalid, dim=1).cumsum(dim=1) == 1) | (nodes >= 0)[:, None]

    def generate(
        self, network: PreTrainedModel, prompts: Sequence[Sequence[int]], size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Generate completions for prompts of token ids, without injecting targets.

        Args:
            network (`PreTrainedModel`): below the adapter.
            prompts (`Sequence[Sequence[int]]`): token ids of each prompt.
            size (`int`): completions per prompt.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: token ids and their log-probabilities, both
            `[prompts, size, tokens]`.

        Raises:
            ValueError: a group cannot be divided, see `counts`.
        """
        batch = self.tokenizer.pad({"input_ids": list(map(list, prompts))}, padding_side="left", return_tensors="pt")
        batch = batch.to(network.device)
        self.trie = self.trie.to(network.device)
        network, prompt = wrapping_of(network).prompt_inputs(batch["input_ids"])
        mask = batch["attention_mask"]
        parts, scores = [], []
        for name, count in self.counts(size).items():
            if name in self._weights:
                weights = self._weights[name].expand(len(prompts), -1)
                negatives = self.codes_of(torch.multinomial(weights, count).flatten().tolist())
                parts.append(negatives.view(len(prompts), count, -1).to(mask.device))
                continue
            prompt_cache = start_prompt_cache(network, length=mask.shape[1], hypotheses=count, levels=self.tokens)
            if name == "unconstrained" or self.list_length > 1:
                sampled = sample_sids(
                    prompt_cache,
                    prompt,
                    mask,
                    trie=self.trie,
                    num_samples=count,
                    length=self.list_length,
                    normalization=self.normalization,
                    temperature=self.temperature,
                )
            else:
                selections = {"samples": IndependentSamples, "distinct_samples": DistinctSamples, "beams": BestBeams}
                select: Any = selections[name](count)
                decoded = decode(
                    prompt_cache,
                    prompt,
                    mask,
                    trie=self.trie,
                    select=select,
                    normalization="trie",
                    temperature=self.temperature,
                )
                sampled = decoded.tokens, decoded.token_log_probs
            parts.append(sampled[0])
            scores.append(sampled[1])
        tokens = torch.cat(parts, dim=1)
        if len(scores) == len(parts) and (len(parts) == 1 or self.normalization == "trie"):
            return tokens, torch.cat(scores, dim=1)
        prompt_cache = start_prompt_cache(network, length=mask.shape[1], hypotheses=size, levels=self.tokens)
        scored = score_sids(
            prompt_cache,
            prompt,
            mask,
            trie=self.trie,
            tokens=tokens,
            normalization=self.normalization,
            temperature=self.temperature,
        )
        return tokens, scored.log_probs


def _groups(prompts: Sequence[str], size: int) -> list[str]:
    """Return one prompt per group, of prompts that TRL repeats `size` times each."""
    groups = list(prompts[::size])
    if len(prompts) != size * len(groups) or any(prompts[k] != groups[k // size] for k in range(len(prompts))):
        raise ValueError(
            f"got {len(prompts)} prompts in a process that are not whole groups of {size}: rewards are compared "
            "within a group; make per_device_train_batch_size times steps_per_generation a multiple of num_generations"
        )
    return groups


def score_rollouts(model: PreTrainedModel, rollouts: SidRollouts) -> None:
    """Make a model answer TRL's `fused_lm_head=True` calls with the log-probabilities that rollouts are sampled with.

    A prompt is read once for all completions of it in a batch, and the logits are computed for the codes of one level
    only.

    Args:
        model (`PreTrainedModel`): below the adapter; its `forward` is replaced, see `answer_fused_calls`.
        rollouts (`SidRollouts`): generates the completions.
    """
    answer_fused_calls(model, functools.partial(_score, rollouts))


def _score(rollouts: SidRollouts, model: PreTrainedModel, **inputs: Any) -> FusedCausalLMOutput:
    """Score completions; `input_ids` and `attention_mask` `[batch, length]` hold prompts and completions."""
    if model.training and any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        raise ValueError(
            "got activation checkpointing, which would drop the prompt cache that a group shares: set "
            "activation_checkpointing (gradient_checkpointing) to false"
        )
    ids, mask, size = inputs["input_ids"], inputs["attention_mask"], rollouts.tokens
    prompts, rows, position = _group_by_prompt(ids[:, :-size], mask[:, :-size])
    prompt_ids, prompt_mask = (tensor[prompts][:, :-size] for tensor in (ids, mask))
    padding = int(prompt_mask.any(dim=0).int().argmax())
    prompt_ids, prompt_mask = prompt_ids[:, padding:], prompt_mask[:, padding:]
    tokens = ids[:, -size:][rows]
    training, model.training = model.training, False  # no dropout of vectors, as in sampling
    network, prompt = wrapping_of(model).prompt_inputs(prompt_ids)
    model.training = training
    prompt_cache = start_prompt_cache(network, length=prompt_mask.shape[1], hypotheses=tokens.shape[1], levels=size)
    scores = score_sids(
        prompt_cache,
        prompt,
        prompt_mask,
        trie=rollouts.trie.to(ids.device),
        tokens=tokens,
        normalization=rollouts.normalization,
        temperature=rollouts.temperature,
    )
    before = ids.shape[1] - 1 - size
    log_probs, entropy = (F.pad(values.flatten(0, 1)[position], (before, 0)) for values in scores)
    is_completion = torch.arange(before + size, device=ids.device).expand(len(ids), -1) >= before
    return fused_output(log_probs, entropy, torch.zeros_like(log_probs), label_mask=is_completion)


def _group_by_prompt(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Group the rows of a batch by their prompts.

    Returns:
        `tuple[torch.Tensor, torch.Tensor, torch.Tensor]`: one row of each distinct prompt `[prompts]`; all rows of
        each prompt `[prompts, largest]`, repeated where there are fewer than in the largest group; and for each row of
        the batch its index in that table, flattened `[batch]`.
    """
    _, group, counts = torch.unique(torch.where(mask.bool(), ids, -1), dim=0, return_inverse=True, return_counts=True)
    order = torch.argsort(group, stable=True)
    starts = counts.cumsum(0) - counts
    column = torch.arange(len(ids), device=ids.device) - starts[group[order]]
    largest = int(counts.max())
    columns = torch.arange(largest, device=ids.device) % counts[:, None]
    rows = order[starts[:, None] + columns]
    position = torch.empty_like(group)
    position[order] = group[order] * largest + column
    return rows[:, 0], rows, position
