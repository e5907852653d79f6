"""Rollouts of items for TRL's GRPO: drawn behind prompts that are read once a group, and scored as they were drawn."""

import functools
import types
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer.utils import FusedCausalLMOutput

from genrec_hf.generation import SidTrie
from genrec_hf.generation.beam_search import BestBeams
from genrec_hf.generation.decoding import decode
from genrec_hf.generation.prefix import Prefix, start_prefix
from genrec_hf.generation.sampling import DistinctDraws, Draws
from genrec_hf.generation.scoring import Support, score_sids
from genrec_hf.tasks import encode_prompt
from genrec_hf.tasks.prompts import Form

# How completions come about: independent draws among items, draws of distinct items, the best items by beam search,
# or independent draws from the whole vocabulary, which may be no item.
Sampling = Literal["draws", "distinct", "beams", "free"]


class SidRollouts:
    """A `rollout_func` of TRL's `GRPOTrainer`: for each prompt as many SIDs as a group has.

    A prompt is read once for its whole group. Beside TRL's `prompt_ids`, `completion_ids` and `logprobs` it returns,
    for reward functions, `items` (row of the item, -1 where tokens are none), `likelihood` (the sum of `logprobs`) and
    `group` (which completions belong to one prompt).

    Args:
        trie (`SidTrie`): the catalogue, with token ids.
        tokenizer (`PreTrainedTokenizerBase`): extended.
        sampling (`str`, defaults to `"draws"`): `"draws"`, independent, from the model's distribution over items;
            `"distinct"`, without replacement; `"beams"`, the likeliest; `"free"`, independent, from the whole
            vocabulary, so that a validity reward has something to reward.
        temperature (`float`, defaults to 1.0): divides the logits of what is drawn.
        form (`str`, defaults to `"plain"`): of the prompts.
        max_prompt (`int`, *optional*): most tokens of one.

    Raises:
        ValueError: on a sampling that is not known, or a temperature of 0.
    """

    def __init__(
        self,
        trie: SidTrie,
        tokenizer: PreTrainedTokenizerBase,
        sampling: Sampling = "draws",
        temperature: float = 1.0,
        form: Form = "plain",
        max_prompt: int | None = None,
    ) -> None:
        if sampling not in get_args(Sampling):
            raise ValueError(f"got sampling={sampling!r}; use one of {', '.join(get_args(Sampling))}")
        if not temperature > 0:
            raise ValueError(f"got temperature={temperature}; draws need one above 0")
        self.trie, self.tokenizer, self.sampling, self.temperature = trie, tokenizer, sampling, temperature
        self.form: Form = form
        self.max_prompt = max_prompt

    @property
    def support(self) -> Support:
        """What the log-probabilities of completions are normalised over, in drawing and in the loss."""
        return "full" if self.sampling == "free" else "trie"

    def __call__(self, prompts: Sequence[str], trainer: Any) -> dict[str, list[Any]]:
        """See the class."""
        size = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
        if size > len(self.trie) and self.sampling in ("distinct", "beams"):
            raise ValueError(f"got groups of {size} distinct items and a catalogue of {len(self.trie)}")
        groups = _groups(prompts, size)
        ids = [encode_prompt(prompt, self.tokenizer, self.max_prompt, self.form) for prompt in groups]
        model = trainer.accelerator.unwrap_model(trainer.model)
        network: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        training = model.training
        model.eval()
        try:
            with torch.no_grad(), trainer.accelerator.autocast():
                tokens, log_probs = self.draw(network, ids, size)
        finally:
            model.train(training)
        items = self._items(tokens).flatten().tolist()
        return {
            "prompt_ids": [list(prompt) for prompt in ids for _ in range(size)],
            "completion_ids": tokens.flatten(0, 1).tolist(),
            "logprobs": log_probs.flatten(0, 1).tolist(),
            "items": items,
            "likelihood": log_probs.sum(dim=-1).flatten().tolist(),
            "group": [place for place in range(len(groups)) for _ in range(size)],
        }

    def draw(
        self, network: PreTrainedModel, prompts: Sequence[Sequence[int]], size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens `[prompts, size, levels]` behind prompts of token ids, and their log-probabilities, likewise."""
        batch = self.tokenizer.pad({"input_ids": list(map(list, prompts))}, padding_side="left", return_tensors="pt")
        batch = batch.to(network.device)
        self.trie = self.trie.to(network.device)
        prompt, mask = {"input_ids": batch["input_ids"]}, batch["attention_mask"]
        prefix = start_prefix(network, mask.shape[1], size, self.trie.levels)
        if self.sampling == "free":
            return _draw_tokens(prefix, prompt, mask, self.trie.levels, size, self.temperature)
        select: Any = {"draws": Draws, "distinct": DistinctDraws, "beams": BestBeams}[self.sampling](size)
        found = decode(prefix, prompt, mask, self.trie, select, "trie", temperature=self.temperature)
        return found.tokens, found.token_log_probs

    def _items(self, tokens: torch.Tensor) -> torch.Tensor:
        """Item rows `[prompts, size]`, -1 where tokens are no item's SID."""
        assert self.trie.token_ids is not None
        nodes = torch.zeros_like(tokens[..., 0]).flatten()
        for level, ids in enumerate(self.trie.token_ids):
            match = tokens[..., level].flatten()[:, None] == ids
            codes = torch.where(match.any(dim=1), match.int().argmax(dim=1), -1)
            nodes = self.trie.child(level, nodes, codes)
        return self.trie.items(nodes).view(tokens.shape[:2])


def _groups(prompts: Sequence[str], size: int) -> list[str]:
    """One prompt a group, of prompts that TRL repeats `size` times each."""
    groups = list(prompts[::size])
    if len(prompts) != size * len(groups) or any(prompts[k] != groups[k // size] for k in range(len(prompts))):
        raise ValueError(
            f"a process got {len(prompts)} prompts that are not groups of {size}: rewards within a group need all of "
            "it; make per_device_train_batch_size times steps_per_generation a multiple of num_generations"
        )
    return groups


def _draw_tokens(
    prefix: Prefix, prompt: dict[str, torch.Tensor], mask: torch.Tensor, levels: int, size: int, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    everything = torch.arange(prefix.model.config.get_text_config().vocab_size, device=mask.device)
    states = prefix.read(prompt, mask)
    tokens: list[torch.Tensor] = []
    log_probs: list[torch.Tensor] = []
    parents = torch.zeros(len(mask), size, dtype=torch.long, device=mask.device)
    for level in range(levels):
        if level > 0:
            states = prefix.extend(tokens[-1], parents)
            parents = torch.arange(size, device=mask.device).expand(len(mask), -1)
        found = (prefix.logits(states, everything).float() / temperature).log_softmax(dim=-1)
        found = found.expand(-1, size, -1)
        drawn = torch.multinomial(found.exp().flatten(0, 1), 1).view(len(mask), size)
        tokens.append(drawn)
        log_probs.append(found.gather(2, drawn[..., None])[..., 0])
    return torch.stack(tokens, dim=2), torch.stack(log_probs, dim=2)


def score_rollouts(model: PreTrainedModel, trie: SidTrie, support: Support, temperature: float) -> None:
    """Answer TRL's `fused_lm_head=True` calls with log-probabilities over what the rollouts were drawn from.

    A prompt is read once, however many completions of a batch stand behind it, and the head is asked for the codes of
    a level alone. Every other call goes to the forward that was there.

    Args:
        model (`PreTrainedModel`): below the adapter.
        trie (`SidTrie`): the catalogue, with token ids.
        support (`str`): `SidRollouts.support`.
        temperature (`float`): of the rollouts.
    """
    previous, levels = model.forward, trie.levels

    @functools.wraps(type(model).forward)
    def forward(self: PreTrainedModel, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return previous(*args, **kwargs)
        if self.training and any(getattr(module, "gradient_checkpointing", False) for module in self.modules()):
            raise ValueError(
                "activations are checkpointed, which drops the cache that a group shares: set activation_checkpointing"
                " (gradient_checkpointing) to false; reading a prompt once a group saves more memory"
            )
        ids, mask = kwargs["input_ids"], kwargs["attention_mask"]
        prompts, member, place = _distinct(ids[:, :-levels], mask[:, :-levels])
        prompt_ids, prompt_mask = (each[prompts][:, :-levels] for each in (ids, mask))
        used = int(prompt_mask.any(dim=0).int().argmax())
        prompt_ids, prompt_mask = prompt_ids[:, used:], prompt_mask[:, used:]
        tokens = ids[:, -levels:][member]
        prefix = start_prefix(self, prompt_mask.shape[1], tokens.shape[1], levels)
        found = score_sids(
            prefix, {"input_ids": prompt_ids}, prompt_mask, trie.to(ids.device), tokens, support, temperature
        )
        log_probs, entropy = (each.flatten(0, 1)[place] for each in found)
        before = ids.shape[1] - 1 - levels
        log_probs, entropy = (torch.nn.functional.pad(each, (before, 0)) for each in (log_probs, entropy))
        label_mask = torch.zeros_like(log_probs, dtype=torch.bool)
        label_mask[:, before:] = True
        return FusedCausalLMOutput(
            loss=-log_probs.sum() / label_mask.sum(),
            log_probs=log_probs,
            entropy=entropy,
            is_top1=torch.zeros_like(log_probs),
            label_mask=label_mask,
        )

    model.forward = types.MethodType(forward, model)


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
