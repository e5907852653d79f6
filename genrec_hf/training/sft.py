"""`SidSftTrainer`: TRL's `SFTTrainer` with a choice of the tokens over which SID tokens are normalized."""

import functools
import sys
from typing import Any, Literal

import pyarrow.compute as pc
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from datasets import Dataset, IterableDataset
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import SFTConfig, SFTTrainer

from genrec_hf.checks import check_choice
from genrec_hf.internals.trl import without_bias
from genrec_hf.models import unwrap, wrapping_of
from genrec_hf.tasks import encode_examples
from genrec_hf.tasks.turns import keep_turns
from genrec_hf.training.fused_loss import answer_fused_calls
from genrec_hf.training.level_loss import LevelScores
from genrec_hf.training.packing import refuse_attention_across, refuse_unsafe_packing
from genrec_hf.vocabulary import SidVocabulary


class SidSftTrainer(SFTTrainer):
    """`SFTTrainer` whose loss can normalize SID tokens over the codes of their level.

    `normalization="full"` is TRL's own loss, the cross-entropy over the whole vocabulary. With `normalization="level"`
    the loss of a SID token `t` of level `l` is `-log(exp(z_t) / sum_{c in level l} exp(z_c))`, the softmax of decoding
    with the same `normalization`; text tokens are normalized over the whole vocabulary. A head of 49,152 rows costs
    more than a small body, so `"level"` trains small models several times faster; in return, the probability of SID
    tokens against text tokens is not trained.

    In between: `-log p(t)` over the whole vocabulary is the loss of `"level"` plus `-log p(level l)`, which is learned
    quickly. With a `vocabulary_fraction` below 1 the second term is computed for a random sample of the SID tokens,
    weighted by `1 / vocabulary_fraction`: in expectation the loss of `"full"`, at little more than the cost of
    `"level"`.

    On a quantized base, LoRA and SID rows are trained in float32; TRL alone would round them to bfloat16.

    Prompt-completion rows are encoded by `encode_examples` and not by TRL, so that the model is trained on the same
    tokens that a `Recommender` gives it, in plain text and in a chat template.

    Nothing is truncated: TRL truncates examples that are too long, possibly within their target, and this class raises
    instead. With `packing=True` examples share rows of `max_length` tokens and must not attend to each other: settings
    that break this are refused, and the model is tested with two packed examples before the first step.

    Args:
        model (`PeftModel` or `PreTrainedModel`): from `start_adapter` or `load_for_training`.
        args (`SFTConfig`): settings of the run.
        vocabulary (`SidVocabulary`): bound to the tokenizer.
        normalization (`str`, defaults to `"full"`): `"full"` or `"level"`.
        vocabulary_fraction (`float`, defaults to 1.0): with `"full"`, fraction of SID tokens that are also scored
            against the text vocabulary, above 0; 1 is TRL's own loss.
        kwargs: of `SFTTrainer`.

    Raises:
        ValueError: `normalization` or `vocabulary_fraction` is out of range, an example is longer than `max_length` or
            the context window of the model, packed examples are text, would be truncated or would attend to each
            other, prompts and completions come with settings that their encoding does not read, the model scales its
            logits in a way that the loss does not support, or FSDP is used with a head that is tied to the embedding,
            whose trained rows FSDP cannot shard.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        args: SFTConfig,
        *,
        vocabulary: SidVocabulary,
        normalization: Literal["full", "level"] = "full",
        vocabulary_fraction: float = 1.0,
        **kwargs: Any,
    ) -> None:
        check_choice("normalization", normalization, ("full", "level"))
        if not 0 < vocabulary_fraction <= 1 or (vocabulary_fraction < 1 and normalization == "level"):
            raise ValueError(
                f"got vocabulary_fraction={vocabulary_fraction} with normalization={normalization!r}: give a fraction "
                "above 0 and at most 1 with 'full', and leave it out with 'level'"
            )
        longest, window = args.max_length, getattr(model.config.get_text_config(), "max_position_embeddings", None)
        trained = [(parameter, parameter.data) for parameter in model.parameters() if parameter.requires_grad]
        self._packing_is_checked = not args.packing
        if args.packing:
            refuse_unsafe_packing(args, kwargs["train_dataset"])
            _refuse_long_examples(kwargs["train_dataset"], longest, window)
        else:
            args.max_length = None
        keep_turns(kwargs["processing_class"], str(args.output_dir))
        for name in ("train_dataset", "eval_dataset"):
            kwargs[name] = _encode_prompts(kwargs.get(name), args, kwargs["processing_class"], model)
        super().__init__(model, args, **kwargs)
        args.max_length = longest
        _undo_rounding(trained)
        base = unwrap(self.accelerator.unwrap_model(self.model))
        if isinstance(self.train_dataset, IterableDataset):
            self.train_dataset = self.train_dataset.map(
                functools.partial(_refuse_long_example, max_length=longest, window=window)
            )
        elif not args.packing:
            _refuse_long_examples(self.train_dataset, longest, window)
        _refuse_fsdp(self.accelerator, base)
        sharded = is_deepspeed_zero3_enabled() or self.accelerator.distributed_type == DistributedType.FSDP
        if normalization == "level" or vocabulary_fraction < 1 or sharded:
            # TRL's loss reads the weight of the head, which may be sharded; this one calls the head.
            levels = vocabulary.level_token_ids if normalization == "level" or vocabulary_fraction < 1 else []
            fraction = 0.0 if normalization == "level" else vocabulary_fraction
            ids = [torch.as_tensor(level) for level in levels]
            answer_fused_calls(base, LevelScores(base.config, ids, sharded=sharded, vocabulary_fraction=fraction))
        else:
            without_bias(base.get_output_embeddings())

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Compute TRL's loss, after a check in the first step that packed examples do not attend to each other.

        Args:
            model (`nn.Module`): as the Trainer calls it.
            inputs (`dict`): `input_ids` and `labels`, `[batch, length]`, and more of TRL's collator.
            args: of `SFTTrainer.compute_loss`.
            kwargs: of `SFTTrainer.compute_loss`.

        Returns:
            `torch.Tensor` or `tuple`: the loss, with the outputs of the model if they were asked for.

        Raises:
            ValueError: packed examples attend to each other.
        """
        # Not in `__init__`, where the model is not on its devices yet.
        if not self._packing_is_checked:
            refuse_attention_across(model, self.data_collator, inputs["input_ids"][0])
            self._packing_is_checked = True
        return super().compute_loss(model, inputs, *args, **kwargs)


def _encode_prompts(dataset: Any, args: SFTConfig, tokenizer: Any, model: Any) -> Any:
    """Encode prompts and completions as token ids; return other data sets unchanged."""
    if isinstance(dataset, dict):
        return {name: _encode_prompts(split, args, tokenizer, model) for name, split in dataset.items()}
    if dataset is None or "prompt" not in (dataset.column_names or next(iter(dataset))):
        return dataset
    unread = {
        "completion_only_loss": args.completion_only_loss is False,
        "assistant_only_loss": args.assistant_only_loss,
        "chat_template_path": args.chat_template_path is not None,
        "eos_token": args.eos_token is not None,
    }
    for name in (name for name, is_set in unread.items() if is_set):
        raise ValueError(
            f"got {name}={getattr(args, name)!r} with prompts and completions, where the loss is on completions, in "
            "the chat template and with the end token of the tokenizer: leave it out, and save another template or "
            "end token with the tokenizer of the base model"
        )
    with args.main_process_first(desc="encoding prompts and completions"):
        return encode_examples(dataset, tokenizer, wrapping_of(model).first_vector)


def _undo_rounding(trained: list[tuple[torch.nn.Parameter, torch.Tensor]]) -> None:
    # On a quantized base TRL rounds all trained parameters to bfloat16, where an update below 1/512 of a value is
    # lost: at a learning rate of 1e-4, every step of Adam on a value above .05. Rows and LoRA stay in float32.
    for parameter, values in trained:
        if parameter.dtype != values.dtype:
            parameter.data = values.to(parameter.device)


def _refuse_fsdp(accelerator: Accelerator, model: PreTrainedModel) -> None:
    if accelerator.distributed_type != DistributedType.FSDP:
        return
    tied = model.config.get_text_config().tie_word_embeddings
    if tied or not accelerator.is_fsdp2:
        raise ValueError(
            f"got FSDP{2 if accelerator.is_fsdp2 else 1} and tie_word_embeddings={tied}: SID rows can only be sharded "
            "by FSDP2, in models without tied embeddings; use deepspeed_zero3.yaml or deepspeed_zero2.yaml"
        )


def _refuse_long_examples(dataset: Any, max_length: int | None, window: int | None) -> None:
    if not isinstance(dataset, Dataset) or "input_ids" not in dataset.column_names:
        return
    longest = pc.max(pc.list_value_length(dataset.data.column("input_ids"))).as_py()
    _refuse_length(longest, max_length, window)


def _refuse_long_example(example: dict[str, Any], max_length: int | None, window: int | None) -> dict[str, Any]:
    """Raise if an example of a stream is too long; it is only known when it is read."""
    _refuse_length(len(example["input_ids"]), max_length, window)
    return example


def _refuse_length(tokens: int, max_length: int | None, window: int | None) -> None:
    limit = min(limit for limit in (max_length, window, sys.maxsize) if limit is not None)
    if tokens > limit:
        raise ValueError(
            f"got an example of {tokens} tokens, which does not fit into {limit} (max_length={max_length}, context "
            f"window {window}): truncation could remove its target; lower max_history or max_characters, or raise "
            "max_length"
        )
