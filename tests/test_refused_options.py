"""Every option of the training configs works, or is refused with what to do instead; none is ignored."""

import json
import re
from dataclasses import MISSING, fields

import pytest
from test_configs import RECIPES, arguments_of
from transformers import TrainingArguments
from trl import ModelConfig

from genrec_hf.training import refused_options
from genrec_hf.training.arguments import (
    DpoTrainingArguments,
    GrpoTrainingArguments,
    ModelArguments,
    SftTrainingArguments,
)
from genrec_hf.training.sasrec_training import SasRecTrainingArguments

REFUSED = {
    SftTrainingArguments: refused_options.SFT,
    GrpoTrainingArguments: refused_options.GRPO,
    DpoTrainingArguments: refused_options.DPO,
    SasRecTrainingArguments: refused_options.SASREC,
    ModelArguments: refused_options.MODEL,
}


def words(text):
    return set(text.split())


# What the trainers read, looked up in transformers 5.24 and TRL 1.16. A field that a new version adds is in no list:
# find out what it does here, and put it here or into the table.
ANY = words("""
    accelerator_config adam_beta1 adam_beta2 adam_epsilon auto_find_batch_size bf16 dataloader_drop_last
    dataloader_in_order dataloader_multiprocessing_context dataloader_num_workers dataloader_persistent_workers
    dataloader_pin_memory dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb
    ddp_find_unused_parameters ddp_static_graph ddp_timeout debug deepspeed disable_tqdm enable_jit_checkpoint
    fp16 fsdp fsdp_config full_determinism gradient_accumulation_steps ignore_data_skip
    include_num_input_tokens_seen learning_rate local_rank log_level log_level_replica log_on_each_node
    logging_first_step logging_nan_inf_filter logging_steps logging_strategy lr_scheduler_kwargs
    lr_scheduler_type max_grad_norm max_steps num_train_epochs optim optim_args optim_target_modules output_dir
    per_device_train_batch_size project report_to restore_callback_states_from_checkpoint run_name
    resume_from_checkpoint save_on_each_node save_only_model save_steps save_strategy save_total_limit seed
    skip_memory_metrics tf32 torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps
    trackio_bucket_id trackio_space_id trackio_static_space_id use_cache use_cpu warmup_steps weight_decay
""")
PUSH = words("hub_model_id hub_private_repo push_to_hub")
DRAWN = words("""
    beta generation_batch_size log_completions log_completions_hub_repo log_unique_prompts
    num_completions_to_print num_generations num_iterations router_aux_loss_coef shuffle_dataset
    steps_per_generation
""")
SFT = words("""
    activation_checkpointing activation_checkpointing_kwargs activation_offloading average_tokens_across_devices
    data_seed dataset_num_proc loss_type max_length neftune_noise_alpha packing packing_strategy
    pad_to_multiple_of remove_unused_columns router_aux_loss_coef shuffle_dataset train_sampling_strategy
""")
GRPO = words("""
    delta epsilon epsilon_high importance_sampling_level loss_type multi_objective_aggregation
    off_policy_mask_threshold sapo_temperature_neg sapo_temperature_pos scale_rewards top_entropy_quantile
    use_bias_correction_kl vespo_k_neg vespo_k_pos vespo_lambda_neg vespo_lambda_pos
""")
SASREC = words("""
    average_tokens_across_devices data_seed do_eval eval_delay eval_on_start eval_steps eval_strategy greater_is_better
    load_best_model_at_end metric_for_best_model remove_unused_columns train_sampling_strategy
""")
MODEL = words("""
    attn_implementation bnb_4bit_quant_storage bnb_4bit_quant_type dtype load_in_4bit load_in_8bit lora_alpha
    lora_dropout lora_r lora_target_modules lora_target_parameters model_name_or_path model_revision
    use_bnb_nested_quant use_dora use_peft use_rslora
""")
READ = {
    SftTrainingArguments: ANY | PUSH | SFT,
    GrpoTrainingArguments: ANY | PUSH | DRAWN | GRPO,
    DpoTrainingArguments: ANY | PUSH | DRAWN,
    SasRecTrainingArguments: ANY | PUSH | SASREC,
    ModelArguments: MODEL,
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_option_of_a_recipe_is_read_or_refused(recipe):
    for kind in arguments_of(recipe):
        if issubclass(kind, TrainingArguments | ModelConfig):
            assert not READ[kind] & REFUSED[kind].keys()
            assert READ[kind] | REFUSED[kind].keys() == {each.name for each in fields(kind)}


def other_value(value):
    """One that is not the default."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else "other"


@pytest.mark.parametrize("kind", REFUSED)
def test_an_option_that_would_do_nothing_is_refused_with_its_reason(kind):
    defaults = {each.name: None if each.default is MISSING else each.default for each in fields(kind)}
    for name, reason in REFUSED[kind].items():
        value = other_value(defaults[name])
        with pytest.raises(ValueError, match=re.escape(f"got {name}={value!r}, which has no effect here: {reason}")):
            kind(**{name: value})


def test_settings_of_an_adapter_that_goes_on_or_does_not_train_are_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": ["q_proj", "k_proj"]})
    )
    ModelArguments(str(tmp_path), lora_r=8, lora_alpha=16, lora_dropout=0.0, lora_target_modules=["k_proj", "q_proj"])
    for name, value, own in (("lora_r", 4, "r=8"), ("use_dora", True, "use_dora=None")):
        with pytest.raises(
            ValueError, match=rf"got {name}={value}, which has no effect.* keeps its {own}; leave it out, or merge"
        ):
            ModelArguments(str(tmp_path), **{name: value})
    with pytest.raises(ValueError, match=r"got model_revision='v1', which has no effect here: .* without revisions"):
        ModelArguments(str(tmp_path), model_revision="v1")
    with pytest.raises(
        ValueError, match="got lora_r=4, which has no effect here: no adapter trains with use_peft: false"
    ):
        ModelArguments("base", use_peft=False, lora_r=4)
    with pytest.raises(
        ValueError, match=r"got bnb_4bit_quant_type='fp4', which has no effect here: .* set load_in_4bit"
    ):
        ModelArguments("base", bnb_4bit_quant_type="fp4")
    (tmp_path / "adapter_config.json").write_text('{"r": ')
    with pytest.raises(ValueError, match=r"adapter_config\.json.* is not a complete JSON file"):
        ModelArguments(str(tmp_path))
