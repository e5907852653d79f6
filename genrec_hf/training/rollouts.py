"""Rollouts of items for TRL's GRPO: drawn behind prompts that are read once a group, and scored as they were drawn."""

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

# How completions come about: independent draws among items, draws of distinct items, the best items by beam search,
# independent draws from the whole vocabulary, which may be no item; or items that the model is not asked for: distinct
# ones, uniformly or as often as they are chosen in training.
Sampling = Literal["samples", "distinct_samples", "beams", "unconstrained", "uniform", "popular"]


class SidRollouts:
    """A `rollout_func` of TRL's `GRPOTrainer`: for each prompt as many SIDs as a group has.

    A prompt is read once for its whole group, or once for each sampling of a mixture. Beside TRL's `prompt_ids`,
    `completion_ids` and `logprobs` it returns, for reward functions, `items` (row of the item, -1 where tokens are
    none; of a list the first), `lists` (of all), `likelihood` (the sum of `logprobs`), `group` (which completions
    belong to one prompt) and `sampling` (how each came about, `"target"` where it was put in).

    Args:
        vocabulary (`SidVocabulary`): of the catalogue, bound to the tokenizer.
        tokenizer (`PreTrainedTokenizerBase`): extended.
        sampling (`str` or `Mapping`, defaults to `"samples"`): `"samples"`, independent, from the model's distribution
            over items; `"distinct_samples"`, without replacement; `"beams"`, the likeliest; `"unconstrained"`, independent, from the
            whole vocabulary, so that a validity reward has something to reward; `"uniform"` and `"popular"`, distinct
            items whatever the model, as negatives. Several with a weight each share a group out; with `"unconstrained"` among
            them all are scored over the whole vocabulary.
        temperature (`float`, defaults to 1.0): divides the logits of what is drawn.
        form (`str`, defaults to `"plain"`): of the prompts.
        max_prompt (`int`, *optional*): most tokens of one.
        inject_target (`bool`, defaults to `False`): the last completion of a group without the target becomes the
            target. Its `logprobs` are 0, since it comes with certainty, so that `SidGrpoTrainer` weighs each of its
            codes by the probability that the policy gives it.
        events (`np.ndarray`, *optional*): `[items]`, training events of each, for `"popular"`.
        list_length (`int`, defaults to 1): SIDs of a completion, one behind the other, as dense supervision goes on
            after a history. With more than one, drawn by `"samples"`, `lists` holds the rows of all and `items` the
            first.

    Raises:
        ValueError: on a sampling that is not known, shares of nothing, no events where some are needed, a
            temperature of 0, lists of what cannot stand in one, or a tokenizer that reads a prompt otherwise when more
            follows it.
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
                f"got sampling={sampling!r}; use one of {', '.join(get_args(Sampling))}, or shares above 0 of some"
            )
        if not temperature > 0:
            raise ValueError(f"got temperature={temperature}; draws need one above 0")
        if list_length < 1 or (
            list_length > 1 and (set(shares) != {"samples"} or inject_target or vocabulary.markers)
        ):
            raise ValueError(
                f"got list_length={list_length} with sampling={sampling!r}, inject_target={inject_target}, "
                f"markers={vocabulary.markers}: lists of 2 or more come by 'samples' alone, and stand without markers"
            )
        refuse_other_prompts(vocabulary, tokenizer, form)
        self.vocabulary, self.tokenizer, self.shares, self.temperature = vocabulary, tokenizer, shares, temperature
        self.list_length = list_length
        self.trie = SidTrie(vocabulary.semantic_ids, vocabulary)
        self.form: Form = form
        self.max_prompt, self.inject_target = max_prompt, inject_target
        if events is None and "popular" in shares:
            raise ValueError("got sampling 'popular' and no events: what is popular follows from the training events")
        items = len(vocabulary.semantic_ids)
        self._weights = {"uniform": torch.ones(items), "popular": torch.ones(items)}
        if events is not None:
            self._weights["popular"] = torch.as_tensor(events).float()

    @property
    def normalization(self) -> Normalization:
        """What the log-probabilities of completions are normalised over, in drawing and in the loss."""
        return "full" if "unconstrained" in self.shares else "trie"

    @property
    def tokens(self) -> int:
        """Tokens of a completion."""
        return self.trie.levels * self.list_length

    def counts(self, size: int) -> dict[str, int]:
        """Completions of each sampling in a group of `size`.

        Raises:
            ValueError: when shares are not whole, or more distinct items are asked for than there are.
        """
        found = {name: size * share / sum(self.shares.values()) for name, share in self.shares.items()}
        if any(count % 1 > 1e-9 and -count % 1 > 1e-9 for count in found.values()):
            raise ValueError(f"got sampling={self.shares} in groups of {size}, which is {found}: give whole shares")
        whole = {name: round(count) for name, count in found.items()}
        for name, count in whole.items():
            left = int((self._weights[name] > 0).sum()) if name in self._weights else len(self.trie)
            if count > left and name not in ("samples", "unconstrained"):
                raise ValueError(f"got groups of {count} distinct items and a catalogue of {left} ({name})")
        return whole

    def codes_of(self, items: Sequence[int]) -> torch.Tensor:
        """Token ids of codes `[n, levels]` of item rows `[n]`, as completions hold them: without markers."""
        ids = torch.from_numpy(self.vocabulary.token_ids(items))
        return ids[:, 1:-1] if self.vocabulary.markers else ids

    def __call__(self, prompts: Sequence[str], trainer: Any) -> dict[str, list[Any]]:
        """See the class."""
        size = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
        groups = _groups(prompts, size)
        model = trainer.accelerator.unwrap_model(trainer.model)
        network, first_vector = unwrap(model), wrapping_of(model).first_vector
        ids = [
            encode_prompt(each, self.tokenizer, self.max_prompt, form=self.form, first_vector=first_vector)
            for each in groups
        ]
        if first_vector is not None and not any(max(prompt) >= first_vector for prompt in ids):
            raise ValueError("got prompts without vectors for a model that reads some: make them with vectors=True")
        training = model.training
        model.eval()
        try:
            with torch.no_grad(), trainer.accelerator.autocast():
                tokens, log_probs = (each.cpu() for each in self.draw(network, ids, size))
        finally:
            model.train(training)
        lists = torch.from_numpy(self.vocabulary.items(tokens.unflatten(2, (-1, self.trie.levels)).numpy()))
        items = lists[..., 0]
        sampling = [[name for name, count in self.counts(size).items() for _ in range(count)] for _ in groups]
        if self.inject_target:
            target = torch.tensor(trainer.targets[::size])
            without = (items != target[:, None]).all(dim=1)
            tokens[without, -1] = self.codes_of(target.tolist())[without]
            log_probs[without, -1], items[without, -1] = 0.0, target[without]
            for place in without.nonzero()[:, 0].tolist():
                sampling[place][-1] = "target"
        return {
            "prompt_ids": [list(prompt) for prompt in ids for _ in range(size)],
            "completion_ids": tokens.flatten(0, 1).tolist(),
            "logprobs": log_probs.flatten(0, 1).tolist(),
            "items": items.flatten().tolist(),
            "lists": lists.flatten(0, 1).tolist(),
            "likelihood": log_probs.sum(dim=-1).flatten().tolist(),
            "group": [place for place in range(len(groups)) for _ in range(size)],
            "sampling": [name for group in sampling for name in group],
        }

    def judged(self, tokens: torch.Tensor) -> torch.Tensor:
        """Which tokens `[n, levels]` of completions a reward speaks of: of items all, of others the first wrong one.

        The codes before it are those of some item, and what stands behind it follows no SID.
        """
        trie = self.trie.to(tokens.device)
        assert trie.token_ids is not None
        nodes = torch.zeros_like(tokens[:, 0])
        wrong = []
        for level, ids in enumerate(trie.token_ids):
            match = tokens[:, level, None] == ids
            codes = torch.where(match.any(dim=1), match.int().argmax(dim=1), -1)
            nodes = trie.child(level, nodes, codes)
            wrong.append(nodes < 0)
        return (torch.stack(wrong, dim=1).cumsum(dim=1) == 1) | (nodes >= 0)[:, None]  # once wrong, wrong to the end

    def draw(
        self, network: PreTrainedModel, prompts: Sequence[Sequence[int]], size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens `[prompts, size, tokens]` behind prompts of token ids, and their log-probabilities, likewise."""
        batch = self.tokenizer.pad({"input_ids": list(map(list, prompts))}, padding_side="left", return_tensors="pt")
        batch = batch.to(network.device)
        self.trie = self.trie.to(network.device)
        network, prompt = wrapping_of(network).prompt_inputs(batch["input_ids"])
        mask = batch["attention_mask"]
        parts, scores = [], []
        for name, count in self.counts(size).items():
            if name in self._weights:
                weights = self._weights[name].expand(len(prompts), -1)
                drawn = self.codes_of(torch.multinomial(weights, count).flatten().tolist())
                parts.append(drawn.view(len(prompts), count, -1).to(mask.device))
                continue
            prompt_cache = start_prompt_cache(network, length=mask.shape[1], hypotheses=count, levels=self.tokens)
            if name == "unconstrained" or self.list_length > 1:
                drawn_tokens = sample_sids(
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
                select: Any = {"samples": IndependentSamples, "distinct_samples": DistinctSamples, "beams": BestBeams}[
                    name
                ](count)
                found = decode(
                    prompt_cache,
                    prompt,
                    mask,
                    trie=self.trie,
                    select=select,
                    normalization="trie",
                    temperature=self.temperature,
                )
                drawn_tokens = found.tokens, found.token_log_probs
            parts.append(drawn_tokens[0])
            scores.append(drawn_tokens[1])
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
    """One prompt a group, of prompts that TRL repeats `size` times each."""
    groups = list(prompts[::size])
    if len(prompts) != size * len(groups) or any(prompts[k] != groups[k // size] for k in range(len(prompts))):
        raise ValueError(
            f"a process got {len(prompts)} prompts that are not groups of {size}: rewards within a group need all of "
            "it; make per_device_train_batch_size times steps_per_generation a multiple of num_generations"
        )
    return groups


def score_rollouts(model: PreTrainedModel, rollouts: SidRollouts) -> None:
    """Answer TRL's `fused_lm_head=True` calls with log-probabilities over what the rollouts were drawn from.

    A prompt is read once, however many completions of a batch stand behind it, and the head is asked for the codes of
    a level alone.

    Args:
        model (`PreTrainedModel`): below the adapter.
        rollouts (`SidRollouts`): what is scored.
    """
    answer_fused_calls(model, functools.partial(_score, rollouts))


def _score(rollouts: SidRollouts, model: PreTrainedModel, **inputs: Any) -> FusedCausalLMOutput:
    """Scores of completions `[batch, length]` behind their prompts, both in `input_ids` and `attention_mask`."""
    if model.training and any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        raise ValueError(
            "activations are checkpointed, which drops the cache that a group shares: set activation_checkpointing"
            " (gradient_checkpointing) to false; reading a prompt once a group saves more memory"
        )
    ids, mask, size = inputs["input_ids"], inputs["attention_mask"], rollouts.tokens
    prompts, member, place = _distinct(ids[:, :-size], mask[:, :-size])
    prompt_ids, prompt_mask = (each[prompts][:, :-size] for each in (ids, mask))
    used = int(prompt_mask.any(dim=0).int().argmax())
    prompt_ids, prompt_mask = prompt_ids[:, used:], prompt_mask[:, used:]
    tokens = ids[:, -size:][member]
    training, model.training = model.training, False  # vectors are read as they were in drawing: none drops out
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
    log_probs, entropy = (F.pad(each.flatten(0, 1)[place], (before, 0)) for each in scores)
    is_completion = torch.arange(before + size, device=ids.device).expand(len(ids), -1) >= before
    return fused_output(log_probs, entropy, torch.zeros_like(log_probs), label_mask=is_completion)


def _distinct(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which rows of a batch share a prompt.

    Returns:
        `tuple`: a row of each distinct prompt `[prompts]`; the rows of each, `[prompts, most]`, repeated where there
        are fewer; and for each row its place in that table, laid flat `[batch]`.
    """
    _, group, counts = torch.unique(torch.where(mask.bool(), ids, -1), dim=0, return_inverse=True, return_counts=True)
    order = torch.argsort(group, stable=True)
    starts = counts.cumsum(0) - counts
    within = torch.arange(len(ids), device=ids.device) - starts[group[order]]
    most = int(counts.max())
    columns = torch.arange(most, device=ids.device) % counts[:, None]
    member = order[starts[:, None] + columns]
    place = torch.empty_like(group)
    place[order] = group[order] * most + within
    return member[:, 0], member, place
