"""Options of the configs of transformers and TRL that have no effect in a recipe, each with the reason."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any


def refuse_options(settings: Any, refused: Mapping[str, str]) -> None:
    """Raise on an option that was set and would have no effect.

    Args:
        settings (`Any`): a dataclass instance; every field named in `refused` must have its default value.
        refused (`Mapping[str, str]`): field name -> why it has no effect, and what to do instead.

    Raises:
        ValueError: a field named in `refused` has another value than its default; the message names the first one.
    """
    for field in fields(settings):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        value = getattr(settings, field.name)
        if field.name in refused and value != default:
            raise ValueError(f"got {field.name}={value!r}, which has no effect here: {refused[field.name]}")


_NO_STEP = "a recipe has fixed steps; leave it out"
_NO_EVALUATION = (
    "the trainer evaluates nothing; set validation_steps to rank users during training, or run evaluate.py afterwards"
)
_OWN_MODEL = "the recipe loads the model; set dtype, attn_implementation or model_revision instead"
_OWN_CODE = "code from a checkpoint is never executed; leave it out"
_OWN_EXAMPLES = "the recipe builds the examples, as token ids or prompt-completion pairs; leave it out"
_OWN_TOKENIZER = "the model's own tokenizer is used; save the template or token with the tokenizer of the base model"
_RENAMED = "gradient_checkpointing was renamed to activation_checkpointing; use the new name"
_LIGER = "TRL is about to remove it, and it is not tested here; leave it out"
_ROLLOUTS = "completions are not sampled by generate; set sampling and rollout_temperature instead"
_NEGATIVES = "negatives are not sampled by generate; set negatives instead"
_LENGTH = "the length of a completion follows from the levels of the SIDs; leave it out"
_VLLM = "completions are sampled from the model in training, constrained by the trie; leave it out"
_REFERENCE = "the reference is the adapter at the start of the run; leave it out"
_GROUPED = "batches are whole groups, in an order that depends on seed alone; set seed instead"
_HEAD_DTYPE = "logits are computed for the codes of one level at a time, in the dtype of the model; set dtype instead"
_PREFERENCE = "the S-DPO loss does not use it; set beta and num_generations instead"

# Options that no recipe reads.
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
        "no evaluation loss is computed, only rankings are measured; leave it out",
    ),
    "label_smoothing_factor": "the loss of the recipe does not smooth labels; leave it out",
    "length_column_name": "the length of an example is counted from its tokens; leave it out",
    **dict.fromkeys(("use_liger_kernel", "liger_kernel_config"), _LIGER),
    "hub_token": "a token on a command line can be read by other users; log in with `hf auth login` or set HF_TOKEN",
    "hub_revision": "the result is pushed to the main branch; leave it out",
    **dict.fromkeys(("hub_always_push", "hub_strategy"), "only the final result is pushed; leave it out"),
    "parallelism_config": "accelerate launch sets how processes share the work; set it in the file of --config_file",
}

# Options of `SFTConfig` and `GRPOConfig` that no recipe for language models reads.
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
    "truncation_mode": "nothing is truncated: an example longer than max_length is an error; leave it out",
    "padding_free": "packing pads nothing and checks that examples do not attend to each other; set packing instead",
    "eval_packing": _NO_EVALUATION,
    **dict.fromkeys(
        ("completion_only_loss", "assistant_only_loss"),
        "the loss is always on the answers, in dense sequences on every item; leave it out",
    ),
}

# Options of `generate`, which no rollout calls.
_GENERATION = (
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "generation_kwargs",
    "cache_implementation",
    "use_transformers_continuous_batching",
    "transformers_continuous_batching_config",
    "use_transformers_paged",
)

GRPO = {
    **_LANGUAGE_MODEL,
    "reward_weights": "weights are given with the names of rewards; set rewards, as exact=1 cooccurrence=0.5",
    "temperature": "set rollout_temperature instead",
    **dict.fromkeys(_GENERATION, _ROLLOUTS),
    "chat_template_kwargs": "prompts are exactly those that the model was trained on; leave it out",
    **dict.fromkeys(("max_completion_length", "pad_to_multiple_of"), _LENGTH),
    "mask_truncated_completions": "no completion is truncated; leave it out",
    "max_tool_calling_iterations": "rollouts call no tools; leave it out",
    "log_multimodal": "prompts hold no images; leave it out",
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
        "the entropy is only logged, without a gradient; raise beta to stay closer to the initial model",
    ),
    **dict.fromkeys(("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"), _REFERENCE),
    **dict.fromkeys(("train_sampling_strategy", "data_seed"), _GROUPED),
    "remove_unused_columns": "rewards read every column; leave it out",
    "average_tokens_across_devices": "loss_type sets what the loss is divided by; set loss_type instead",
    "ds3_gather_for_generation": "sharded weights are not supported; use deepspeed_zero2.yaml or multi_gpu.yaml",
    "cast_lm_head_to_fp32": _HEAD_DTYPE,
    "disable_dropout": "dropout is always off, so that completions are scored as they were sampled; leave it out",
    "neftune_noise_alpha": "completions are scored as they were sampled, without noise; leave it out",
    **dict.fromkeys(
        ("activation_checkpointing", "activation_checkpointing_kwargs"),
        "it would drop the prompt cache that a group shares, which saves more memory; leave it out",
    ),
}

DPO = {
    **GRPO,
    "reward_weights": _PREFERENCE,
    "temperature": "negatives are sampled at temperature 1; leave it out",
    **dict.fromkeys(_GENERATION, _NEGATIVES),
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
            "average_tokens_across_devices",
        ),
        _PREFERENCE,
    ),
}

SASREC = {
    **{name: reason for name, reason in _ANY.items() if name != "do_eval"},  # eval_strategy sets it
    "neftune_noise_alpha": "dropout is applied to the embeddings; set dropout instead",
    **dict.fromkeys(
        (
            "activation_checkpointing",
            "activation_checkpointing_kwargs",
            "gradient_checkpointing",
            "gradient_checkpointing_kwargs",
        ),
        "the model is small and keeps its activations; leave it out",
    ),
}

MODEL = {
    "lora_task_type": "the recipes train causal language models; leave it out",
    "lora_modules_to_save": "LoRA and the SID rows train, in sft_llara.py also the projector; leave it out",
}

# Refused unless the model is loaded in 4 bits.
FOUR_BIT = dict.fromkeys(
    ("bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage"),
    "the model is not loaded in 4 bits; set load_in_4bit: true",
)

# Refused where no adapter trains, or where an adapter continues with its own settings: field -> key of
# `adapter_config.json`.
LORA = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "lora_target_modules": "target_modules",
    "lora_target_parameters": "target_parameters",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}
