"""Private names of TRL, PEFT and transformers that are overridden or read: what breaks when one of them changes."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
import torch
from conftest import make_model, make_tokenizer
from datasets import Dataset
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

import genrec_hf
from genrec_hf.internals.peft import TRAINED_ROWS, no_deprecations, saved_copy
from genrec_hf.internals.trl import log_metric, without_bias
from genrec_hf.models import WrappedLM
from genrec_hf.training.fused_loss import answer_fused_calls, fused_output

SOURCE = Path(genrec_hf.__file__).parent
COMMON = {
    "use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True, "activation_checkpointing": False,
    "save_strategy": "no", "max_steps": 1, "logging_steps": 1, "per_device_train_batch_size": 4,
}  # fmt: skip

# Class and private name of a library that it overrides -> what happens when the library no longer calls it.
OVERRIDDEN = {
    (
        "SidGrpoTrainer",
        "_generate_and_score_completions",
    ): "resample, mask_target_prefix and injected targets do nothing",
    ("SidPreferenceTrainer", "_generate_and_score_completions"): "the loss of S-DPO knows neither groups nor targets",
    ("SidPreferenceTrainer", "_compute_loss"): "dpo.py trains the loss of GRPO",
    ("WrappedLM", "_supports_sdpa"): "a wrapped model is refused, or runs in eager attention",
    ("WrappedLM", "_supports_flash_attn"): "a wrapped model is refused with flash attention",
    ("WrappedLM", "_supports_flex_attn"): "a wrapped model is refused with flex attention",
    ("WrappedLM", "_tied_weights_keys"): "get_peft_model fails on a wrapped model",
    ("LlaraForCausalLM", "_init_weights"): "a new projector starts with another spread",
    ("SasRec", "_init_weights"): "a new SASRec starts with another spread",
    ("FittedRanker", "_init_weights"): "fitted tables are initialized anew",
}
# Private attributes of libraries that are read outside of genrec_hf.internals -> what happens without them.
READ = {
    "_get_per_token_logps_and_entropies": "S-DPO has no log-probabilities of the policy",
    "_modules": "the decoder for beams has no layers to copy",
}


def test_private_methods_that_are_overridden_are_those_of_the_libraries():
    modules = [importlib.import_module(each.name) for each in pkgutil.walk_packages([str(SOURCE)], "genrec_hf.")]
    classes = {each for module in modules for each in vars(module).values() if inspect.isclass(each)}
    overridden = {
        (each.__name__, name)
        for each in classes
        for name in vars(each)
        for base in each.__mro__[1:]
        if each.__module__.startswith("genrec_hf") and name.startswith("_") and not name.startswith("__")
        if base.__module__.startswith(("trl.", "peft.", "transformers.")) and name in vars(base)
    }
    for gone in OVERRIDDEN.keys() - overridden:
        pytest.fail(f"{'.'.join(gone)} overrides nothing any more: {OVERRIDDEN[gone]}")
    assert overridden == OVERRIDDEN.keys(), "say above what breaks when the library drops the name"


def test_private_attributes_of_libraries_are_read_in_internals_alone():
    """A name counts as ours where genrec_hf defines or assigns it."""
    ours, read = set(), {}
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                ours.add(node.name)
            elif isinstance(node, ast.arg):
                ours.add(node.arg)
            elif isinstance(node, ast.Attribute | ast.Name):
                name = node.attr if isinstance(node, ast.Attribute) else node.id
                if isinstance(node.ctx, ast.Store):
                    ours.add(name)
                elif name.startswith("_") and not name.startswith("__") and file.parent.name != "internals":
                    read.setdefault(name, file.name)
    documented = {"_asdict", "_fields"}  # of named tuples
    unknown = {name: file for name, file in read.items() if name not in ours | documented | READ.keys()}
    assert unknown == {}, "read it through genrec_hf.internals, or say above what breaks without it"
    for name, breaks in READ.items():
        assert hasattr(GRPOTrainer, name) or hasattr(torch.nn.Module(), name), f"{name} is gone: {breaks}"


# TRL


class Recording(GRPOTrainer):
    """Notes what its private methods are called with, and give."""

    def _generate_and_score_completions(self, inputs):
        self.drawn = super()._generate_and_score_completions(inputs)
        self.rows = inputs
        return self.drawn

    def _compute_loss(self, model, inputs):
        self.scored = inputs
        ids, mask = (
            torch.cat([inputs[f"prompt_{name}"], inputs[f"completion_{name}"]], dim=1) for name in ("ids", "mask")
        )
        self.log_probs = self._get_per_token_logps_and_entropies(model, ids, mask, inputs["completion_ids"].shape[1])
        log_metric(self, "train", "ours", value=1.0)
        log_metric(self, "train", "ours", value=4.0)
        return super()._compute_loss(model, inputs)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One step of TRL's GRPO with a rollout, a reward and a fused loss of our own; and what each of them was given."""
    calls, rewarded, model = [], {}, make_model()
    with no_deprecations():
        adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))

    def rollout(prompts, trainer):
        assert trainer.num_generations == 4
        count = len(prompts)
        extra = {"items": list(range(count)), "group": [7] * count}
        return {
            "prompt_ids": [[4, 5]] * count,
            "completion_ids": [[6, 8 + row] for row in range(count)],
            "logprobs": [[-1.0, -2.0]] * count,
            **extra,
        }

    def reward(completion_ids, **columns):
        rewarded.update(columns, completion_ids=completion_ids)
        return [float(row) for row in range(len(completion_ids))]

    def score(model, *args, **inputs):
        calls.append((args, inputs))
        log_probs = model(inputs["input_ids"]).logits[:, :-1].log_softmax(-1)
        taken = log_probs.gather(2, inputs["input_ids"][:, 1:, None])[..., 0]
        return fused_output(taken, taken, taken, label_mask=inputs["labels"][:, 1:] != -100)

    folder = str(tmp_path_factory.mktemp("grpo"))
    with pytest.warns(UserWarning, match="rollout_func"):
        trainer = Recording(
            adapted,
            [reward],
            GRPOConfig(folder, num_generations=4, max_completion_length=2, beta=0.1, **COMMON),
            train_dataset=Dataset.from_dict({"prompt": ["The item"] * 4, "target": [0] * 4}),
            rollout_func=rollout,
            processing_class=make_tokenizer(),
        )
    answer_fused_calls(model, score)
    trainer.train()
    return trainer, calls, rewarded


def test_grpo_calls_the_methods_that_are_overridden(trained):
    trainer, *_ = trained
    assert trainer.scored is not None, "GRPOTrainer no longer calls _compute_loss: dpo.py trains the loss of GRPO"
    assert [row["target"] for row in trainer.rows] == [0] * 4, (
        "no columns of the data set: mask_target_prefix has no target"
    )
    log_probs, _, _ = trainer.log_probs
    assert log_probs.shape == (4, 2), "_get_per_token_logps_and_entropies gives no row of each code: S-DPO sums others"


def test_grpo_gives_what_the_losses_read(trained):
    drawn = trained[0].drawn
    needed = {
        "prompt_ids": "S-DPO scores no whole sequence",
        "prompt_mask": "likewise",
        "completion_mask": "likewise",
        "completion_ids": "mask_target_prefix compares no codes",
        "advantages": "resample finds no group that teaches nothing",
        "sampling_per_token_logps": "injected targets have no weight",
        "ref_per_token_logps": "S-DPO has no reference",
    }
    for name, breaks in needed.items():
        assert torch.is_tensor(drawn.get(name)), f"GRPOTrainer gives no {name}: {breaks}"
    assert drawn["completion_ids"].tolist() == [[6, 8], [6, 9], [6, 10], [6, 11]]
    assert drawn["sampling_per_token_logps"].tolist() == [[-1.0, -2.0]] * 4
    assert drawn["advantages"].shape == (4,) and drawn["advantages"].diff().gt(0).all()


def test_grpo_asks_a_rollout_and_gives_rewards_what_it_returned(trained):
    rewarded = trained[2]
    assert rewarded["items"] == [0, 1, 2, 3] and rewarded["group"] == [7] * 4, "rewards do not know what was drawn"
    assert rewarded["completion_ids"] == [[6, 8], [6, 9], [6, 10], [6, 11]] and rewarded["target"] == [0] * 4
    assert callable(rewarded["log_metric"]), "the shares of unique and of valid completions are not logged"


def test_grpo_scores_by_fused_calls(trained):
    assert len(trained[1]) >= 3, "GRPOTrainer passes no fused_lm_head=True: the loss is not that of the rollouts"
    for args, inputs in trained[1]:
        assert args == () and inputs.keys() == {"input_ids", "attention_mask", "labels"}
        assert sorted(inputs["input_ids"].tolist()) == [[4, 5, 6, 8 + row] for row in range(4)], (
            "prompt, then completion"
        )


def test_grpo_averages_its_metrics_for_the_log(trained):
    (logged,) = [entry["ours"] for entry in trained[0].state.log_history if "ours" in entry]
    assert logged == 2.5, "GRPOTrainer._metrics is not what is logged: zero_advantage and the like are lost"


def test_sft_scores_by_fused_calls_and_runs_epochs(tmp_path):
    calls, model = [], make_model()
    rows = Dataset.from_dict({"input_ids": [[4, 5, 6]] * 4, "labels": [[-100, 5, 6]] * 4})
    trainer = SFTTrainer(
        model, SFTConfig(str(tmp_path), **COMMON), train_dataset=rows, processing_class=make_tokenizer()
    )

    def score(model, *args, **inputs):
        calls.append(inputs)
        values = torch.full((4, 2), -3.0, requires_grad=True)
        return fused_output(values, values, values, label_mask=inputs["labels"][:, 1:] != -100)

    answer_fused_calls(model, score)
    batch = trainer.data_collator([dict(row) for row in rows])
    loss = trainer.compute_loss(model, dict(batch))
    assert len(calls) == 1, "SFTTrainer passes no fused_lm_head=True: normalization='level' trains TRL's own loss"
    assert {"input_ids", "attention_mask", "labels"} <= calls[0].keys() and loss.item() == 3
    epochs = []
    trainer._run_epoch = lambda **kwargs: epochs.append(kwargs)
    trainer.train()
    assert len(epochs) >= 1, "Trainer.train calls no _run_epoch: a run that resumes at its end makes one step more"


def test_the_loss_of_trl_reads_the_bias_of_a_head():
    base = make_model(tied=False)
    with no_deprecations():
        model = get_peft_model(base, LoraConfig(target_modules=["q_proj"], trainable_token_indices={"lm_head": [5]}))
    head = model.get_base_model().get_output_embeddings()
    assert not hasattr(head, "bias"), "PEFT's wrapper has a bias now: internals.trl.without_bias can go"
    without_bias(head)
    assert head.bias is None


# PEFT


@pytest.fixture
def adapted():
    lora = LoraConfig(
        target_modules="all-linear",
        modules_to_save=["model.norm"],
        exclude_modules=r".*\bo_proj\b.*|.*\bup_proj\b.*",
        trainable_token_indices={"embed_tokens": [5, 3]},
    )
    with no_deprecations():
        return get_peft_model(make_model(), lora)


def test_parameters_have_the_names_that_stages_choose_them_by(adapted):
    names = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    rows = [name for name in names if TRAINED_ROWS in name]
    assert len(rows) == 1 and rows[0].endswith(".default"), "stage='rows' trains nothing, GRPO's reference has no rows"
    whole = [name for name in names if saved_copy("model.norm") in name]
    assert whole == ["base_model.model.model.norm.modules_to_save.default.weight"], "stage='projector' trains nothing"
    assert all(".default." in name for name in names if name not in rows), (
        "TRL's copy leaves them out of the reference"
    )
    assert not [name for name in names if "o_proj" in name or "up_proj" in name], "LoRA is put on saved modules too"


def test_an_adapters_file_has_the_names_that_go_inside_a_wrapper(adapted):
    names = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    assert {name.split(".")[:3] == ["base_model", "model", "model"] for name in names} == {True}, (
        "an adapter of text does not go on inside a wrapper: loading puts language_model behind base_model.model"
    )
    assert not [name for name in names if "embed_tokens.weight" in name], "every adapter holds a whole embedding"


def test_trained_rows_are_where_the_head_reads_them(adapted):
    wrapper = adapted.get_base_model().get_input_embeddings().token_adapter
    rows = wrapper.trainable_tokens_delta["default"]
    message = "internals.peft.trained_rows reads other rows: SIDs are scored with the wrong ones"
    assert wrapper.token_indices["default"] == [5, 3] and rows.shape == (2, 32), message
    assert torch.equal(rows, wrapper.base_layer.weight[[5, 3]]), message


# transformers


def test_tied_weights_are_named_in_a_dict():
    message = "PEFT finds ties by the keys of a dict: get_peft_model fails on a wrapped model with another type"
    assert isinstance(type(make_model())._tied_weights_keys, dict) and WrappedLM._tied_weights_keys == {}, message
