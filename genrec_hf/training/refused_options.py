"""Options of transformers' and TRL's configs that would do nothing in a recipe, each with what does it instead."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any


def refuse_options(settings: Any, refused: Mapping[str, str]) -> None:
    """Stop at an option that was set and would be ignored.

    Args:
        settings (dataclass instance): of which every field in `refused` has to be at its default.
        refused (`Mapping[str, str]`): name of a field -> why it does nothing, and what to use instead.

    Raises:
        ValueError: names the first one that is not, with its value and the reason.
    """
    for field in fields(settings):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        value = getattr(settings, field.name)
        if field.name in refused and value != default:
            raise ValueError(f"got {field.name}={value!r}, which does nothing here: {refused[field.name]}")


_NO_STEP = "the recipe is what is run; leave it out"
_NO_EVALUATION = (
    "nothing is evaluated while it trains; validation_steps ranks users, and evaluate.py measures all of them"
)
_OWN_MODEL = "the recipe loads the model; set dtype, attn_implementation or model_revision"
_OWN_CODE = "code of a checkpoint is never run"
_OWN_EXAMPLES = "the recipe makes the examples, as token ids or as prompts with their answers"
_OWN_TOKENIZER = "the model's own tokenizer is used and saved as it is"
_RENAMED = "it is called activation_checkpointing now"
_LIGER = "TRL is about to drop it, and no test runs it"
_ROLLOUTS = "completions are items from sampling and rollout_temperature, not from generate"
_LENGTH = "a completion is as long as a SID times list_length"
_VLLM = "completions are drawn from the model that trains, along the trie"
_REFERENCE = "the reference is the adapter as the run started from it"
_GROUPED = "batches are whole groups, in an order that follows from seed"
_LEAVE_HEAD = "the head is asked for the codes of a level alone, in the dtype of the model"
_PREFERENCE = "the loss is that of S-DPO: set beta and num_generations"

# What no recipe reads.
_ANY = {
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), _NO_STEP),
    **dict.fromkeys(
        (
            "per_device_eval_batch_size",
            "prediction_loss_only",
            "eval_do_concat_batches",
            "eval_use_gather_object",
            "eval_accumulation_steps",
            "include_for_metrics",
            "batch_eval_metrics",
            "bf16_full_eval",
            "fp16_full_eval",
            "label_names",
        ),
        "no loss is evaluated beside training; rankings are what is measured",
    ),
    "label_smoothing_factor": "the loss is the recipe's own, on targets as they are",
    "length_column_name": "examples are measured by their tokens",
    **dict.fromkeys(("use_liger_kernel", "liger_kernel_config"), _LIGER),
    "hub_token": "a token does not belong on a command line; log in with `hf auth login` or set HF_TOKEN",
    "hub_revision": "the main branch is pushed",
    **dict.fromkeys(("hub_always_push", "hub_strategy"), "the result alone is pushed, at the end"),
    "parallelism_config": "accelerate launch says how processes share the work",
}

# What the recipes that train a language model do not read: `SFTConfig` and `GRPOConfig` share these.
_LANGUAGE_MODEL = {
    **_ANY,
    **dict.fromkeys(
        (
            "eval_strategy",
            "eval_steps",
            "eval_delay",
            "eval_on_start",
            "load_best_model_at_end",
            "metric_for_best_model",
            "greater_is_better",
        ),
        _NO_EVALUATION,
    ),
    **dict.fromkeys(("gradient_checkpointing", "gradient_checkpointing_kwargs"), _RENAMED),
    "model_init_kwargs": _OWN_MODEL,
    "trust_remote_code": _OWN_CODE,
}

SFT = {
    **_LANGUAGE_MODEL,
    **dict.fromkeys(("chat_template_path", "eos_token", "pad_token"), _OWN_TOKENIZER),
    **dict.fromkeys(("dataset_text_field", "dataset_kwargs"), _OWN_EXAMPLES),
    "truncation_mode": "nothing is truncated: an example longer than max_length is an error",
    "padding_free": "set packing, which has no padding and makes sure that examples do not see each other",
    "eval_packing": _NO_EVALUATION,
    **dict.fromkeys(
        ("completion_only_loss", "assistant_only_loss"),
        "the loss is on the answers, of dense sequences on every item",
    ),
}

GRPO = {
    **_LANGUAGE_MODEL,
    "reward_weights": "weigh a reward by its name: rewards exact=1 cooccurrence=0.5",
    "temperature": "set rollout_temperature",
    **dict.fromkeys(
        (
            "top_p",
            "top_k",
            "min_p",
            "repetition_penalty",
            "generation_kwargs",
            "cache_implementation",
            "use_transformers_continuous_batching",
            "transformers_continuous_batching_config",
            "use_transformers_paged",
        ),
        _ROLLOUTS,
    ),
    "chat_template_kwargs": "prompts are those that the model was trained on, byte for byte",
    **dict.fromkeys(("max_completion_length", "pad_to_multiple_of"), _LENGTH),
    "mask_truncated_completions": f"no completion is cut: {_LENGTH}",
    "max_tool_calling_iterations": "no tool is called",
    "log_multimodal": "prompts hold no images",
    "num_generations_eval": _NO_EVALUATION,
    **dict.fromkeys(
        (
            "use_vllm",
            "vllm_mode",
            "vllm_model_impl",
            "vllm_enable_sleep_mode",
            "vllm_structured_outputs_regex",
            "vllm_server_base_url",
            "vllm_server_host",
            "vllm_server_port",
            "vllm_server_timeout",
            "vllm_group_port",
            "vllm_gpu_memory_utilization",
            "vllm_max_model_length",
            "vllm_tensor_parallel_size",
            "vllm_importance_sampling_correction",
            "vllm_importance_sampling_mode",
            "vllm_importance_sampling_clip_max",
            "vllm_importance_sampling_clip_min",
            "vllm_importance_sampling_cap",
        ),
        _VLLM,
    ),
    **dict.fromkeys(
        (
            "entropy_coef",
            "use_adaptive_entropy",
            "entropy_coef_min",
            "entropy_coef_max",
            "entropy_coef_delta",
            "entropy_target",
        ),
        "the entropy over legal codes is measured without a gradient; a larger beta keeps the model near what it was",
    ),
    **dict.fromkeys(("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"), _REFERENCE),
    **dict.fromkeys(("train_sampling_strategy", "data_seed"), _GROUPED),
    "remove_unused_columns": "rewards read every column",
    "average_tokens_across_devices": "loss_type says what a sum is divided by",
    "ds3_gather_for_generation": "weights in shards are refused",
    "cast_lm_head_to_fp32": _LEAVE_HEAD,
    "disable_dropout": "what scores a completion is what drew it: dropout is off",
    "neftune_noise_alpha": "what scores a completion is what drew it, without noise",
    **dict.fromkeys(
        ("activation_checkpointing", "activation_checkpointing_kwargs"),
        "it would drop the cache that a group shares; reading a prompt once a group saves more memory",
    ),
}

DPO = {
    **GRPO,
    "reward_weights": _PREFERENCE,
    "temperature": "negatives are drawn at temperature 1",
    **dict.fromkeys(
        (
            "epsilon",
            "epsilon_high",
            "delta",
            "sapo_temperature_neg",
            "sapo_temperature_pos",
            "vespo_k_pos",
            "vespo_lambda_pos",
            "vespo_k_neg",
            "vespo_lambda_neg",
            "importance_sampling_level",
            "multi_objective_aggregation",
            "scale_rewards",
            "loss_type",
            "top_entropy_quantile",
            "off_policy_mask_threshold",
            "use_bias_correction_kl",
        ),
        _PREFERENCE,
    ),
}

SASREC = {
    **{name: reason for name, reason in _ANY.items() if name != "do_eval"},  # eval_strategy sets it
    "neftune_noise_alpha": "dropout is on the embeddings already",
    **dict.fromkeys(
        (
            "activation_checkpointing",
            "activation_checkpointing_kwargs",
            "gradient_checkpointing",
            "gradient_checkpointing_kwargs",
        ),
        "the model is small, and keeps its activations",
    ),
}

MODEL = {
    "lora_task_type": "these recipes train causal language models",
    "lora_modules_to_save": "LoRA and the rows of the SID tokens train, of sft_llara.py the projector as well",
}

# Where nothing is loaded in 4 bits.
FOUR_BIT = dict.fromkeys(
    ("bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage"), "set load_in_4bit: true"
)

# Where no adapter trains, or one goes on that has its own: field -> key of `adapter_config.json`.
LORA = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "lora_target_modules": "target_modules",
    "lora_target_parameters": "target_parameters",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}
