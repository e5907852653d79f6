"""Everything a user copies is read by the program that it is for: configs, commands, recipes. Imports stay quick."""

import ast
import functools
import importlib.util
import inspect
import re
import shlex
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from transformers import TrainingArguments
from trl import ModelConfig

from genrec_hf import console
from genrec_hf.command_line import has_type, read_arguments
from genrec_hf.semantic_ids import QUANTIZER_NAMES
from genrec_hf.training import reward_selection

ROOT = Path(__file__).parents[1]
RECIPES = {path.stem: path for path in sorted((ROOT / "recipes").glob("*.py"))}
CONFIGS = sorted((ROOT / "recipes" / "configs").glob("*/*.yaml"))
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
LAUNCH_CONFIGS = {path.stem: path for path in sorted((ROOT / "accelerate_configs").glob("*.yaml"))}
DISTRIBUTED = {
    "cpu": "NO",
    "single_gpu": "NO",
    "multi_gpu": "MULTI_GPU",
    "fsdp2": "FSDP",
    "deepspeed_zero2": "DEEPSPEED",
    "deepspeed_zero3": "DEEPSPEED",
}


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


@functools.cache
def arguments_of(recipe: str) -> tuple[type, ...]:
    """The dataclasses that a recipe's `main` takes, in order."""
    spec = importlib.util.spec_from_file_location(f"recipe_{recipe}", RECIPES[recipe])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return tuple(parameter.annotation for parameter in inspect.signature(module.main).parameters.values())


def parse(recipe: str, arguments: list[str]) -> tuple[Any, ...]:
    """What the recipe's own command line makes of `arguments`, on this machine whatever it has."""
    types = arguments_of(recipe)
    trains = any(issubclass(each, TrainingArguments) for each in types)
    return read_arguments(types, [*arguments, *(["--use_cpu", "true"] if trains else [])])


# Configs of recipes


def test_there_are_configs():
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=short)
def test_a_config_is_read_by_its_recipe(path):
    assert path.stem in RECIPES, "the file stem names the recipe"
    parse(path.stem, ["--config", str(path)])


@pytest.mark.parametrize("path", CONFIGS, ids=short)
def test_a_config_keeps_the_house_rules(path):
    text, types = path.read_text(), arguments_of(path.stem)
    keys = yaml.safe_load(text).keys()
    header = text.split("\n\n")[0]
    assert all(line.startswith("#") for line in header.splitlines()), "a header of comments, then an empty line"
    assert f"--config {short(path)}" in header, "the header holds the command"
    assert "Hardware" in header and "easured" in header, "the header says on what it was measured, and where"
    for name, value in re.findall(r"^(\w*learning_rate\w*): *(\S+)", text, re.MULTILINE):
        assert re.fullmatch(r"\d\.\d+e-\d+", value), f"{name}: {value}, write it as 1.0e-4"
    assert "data_dir" in keys
    if any(issubclass(each, TrainingArguments) for each in types):
        assert "output_dir" in keys
    if any(issubclass(each, ModelConfig) for each in types):
        assert "model_name_or_path" in keys


@pytest.mark.parametrize("folder", sorted({path.parent for path in CONFIGS}), ids=short)
def test_measured_results_stand_beside_the_configs(folder):
    assert (folder / "README.md").is_file()


def test_a_key_that_the_recipe_does_not_know_fails(tmp_path):
    config = tmp_path / "prepare_data.yaml"
    config.write_text("source: ml-100k\ndata_dir: data\nk_cores: 5\n")
    with pytest.raises(ValueError, match="k_cores"):
        parse("prepare_data", ["--config", str(config)])


# Configs of accelerate


def test_every_way_to_launch_has_a_config():
    assert LAUNCH_CONFIGS.keys() == DISTRIBUTED.keys()


@pytest.mark.parametrize("name", DISTRIBUTED)
def test_an_accelerate_config_is_read_by_accelerate(name):
    config = load_config_from_file(str(LAUNCH_CONFIGS[name]))
    assert config.distributed_type == DISTRIBUTED[name]
    assert config.mixed_precision == ("no" if name == "cpu" else "bf16")
    assert config.use_cpu is (name == "cpu")
    raw, hints = yaml.safe_load(LAUNCH_CONFIGS[name].read_text()), get_type_hints(ClusterConfig)
    assert not {key: value for key, value in raw.items() if not has_type(value, hints[key])}
    # accelerate hands what stands in a block to its launcher unread.
    options = {action.dest for action in launch_command_parser()._actions}
    for block in (config.deepspeed_config, config.fsdp_config):
        assert block.keys() <= options
        launch_command_parser().parse_args([*(f"--{key}={value}" for key, value in block.items()), "recipe.py"])
    if name == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
    if name.startswith("deepspeed"):
        assert f"zero{config.deepspeed_config['zero_stage']}" in name


def test_accelerate_configs_have_the_same_keys_in_the_same_order():
    blocks = {"fsdp_config", "deepspeed_config"}
    raw = {name: yaml.safe_load(path.read_text()) for name, path in LAUNCH_CONFIGS.items()}
    assert len({tuple(key for key in each if key not in blocks) for each in raw.values()}) == 1
    assert [*raw["deepspeed_zero2"]["deepspeed_config"]] == [*raw["deepspeed_zero3"]["deepspeed_config"]]


def test_a_key_that_accelerate_does_not_know_fails(tmp_path):
    config = tmp_path / "cpu.yaml"
    config.write_text(LAUNCH_CONFIGS["cpu"].read_text() + "num_procs: 2\n")
    with pytest.raises(ValueError, match="num_procs"):
        load_config_from_file(str(config))


# Documents


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path.parent.name != "docs"], ids=short)
def test_an_option_that_a_guide_explains_exists(path):
    """Of a recipe, or of what launches one, exports a base model, or installs."""
    options = {each.name for recipe in RECIPES for kind in arguments_of(recipe) for each in fields(kind)}
    others = {"config", "debug", "help", "quiet", "gpu_ids", "num_processes", "allow_pickle"}
    prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    named = {name for code in re.findall(r"`[^`\n]*`", prose) for name in re.findall(r"--(\w+)(?![-\w])", code)}
    assert named - options - others == set()


def test_a_default_in_a_guide_is_that_of_a_recipe():
    defaults: dict[str, list[Any]] = {}
    for each in (each for recipe in RECIPES for kind in arguments_of(recipe) for each in fields(kind)):
        value = each.default if each.default_factory is MISSING else each.default_factory()
        defaults.setdefault(each.name, []).append(" ".join(map(str, value)) if isinstance(value, list) else value)
    compared = 0
    for path in (ROOT / "docs" / "guides").glob("*.md"):
        for table in re.findall(r"^\| option \| default \|.*\n.*\n((?:\|.*\n)+)", path.read_text(), re.MULTILINE):
            for name, text in re.findall(r"^\| `--(\w+)[^|,]*` \| ([^|]+?) \|", table, re.MULTILINE):
                known = defaults[name]
                if any(value in (None, "", MISSING) for value in known):
                    continue  # what happens without the option is told in words
                number = isinstance(known[0], float | int) and not isinstance(known[0], bool)
                assert (float(text) if number else yaml.safe_load(text.strip("`"))) in known, (short(path), name)
                compared += 1
    assert compared > 30


def test_every_guide_has_a_command():
    parts = {each.id.rsplit("-", 1)[0] for each in all_commands()}
    assert parts >= {short(path) for path in DOCUMENTS if path.parent.name == "guides"}


# Commands, wherever a user may copy one


def commands_in(text: str) -> list[str]:
    """Command lines in code blocks and comments, continued lines joined."""
    text = re.sub(r"\\\n#? *", "", text)
    found = re.findall(
        r"^(?:#? {4,5}|\$ )?((?:python|accelerate launch|make|genrec-hf) .+?)(?: +#.*)?$", text, re.MULTILINE
    )
    kept = r"(python (recipes/|-m )|accelerate launch -|make [a-z-]+$|genrec-hf [a-z])"
    return [command for command in found if re.match(kept, command)]


def all_commands() -> list[Any]:
    sources = {short(path): ast.get_docstring(ast.parse(path.read_text())) or "" for path in RECIPES.values()}
    for path in [*CONFIGS, *LAUNCH_CONFIGS.values()]:
        sources[short(path)] = path.read_text()
    for path in [*DOCUMENTS, *(ROOT / "recipes" / "configs").glob("*/README.md")]:
        blocks = re.findall(r"^```(?:bash|sh|shell)\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
        sources[short(path)] = "\n".join(blocks)
    return [
        pytest.param(command, id=f"{name}-{number}")
        for name, text in sources.items()
        for number, command in enumerate(commands_in(text))
    ]


def test_commands_are_found():
    text = "    python recipes/a.py --x 1 \\\n        --y 2\n\nmake test  # the fast tests\n# make sense\nmake it so"
    assert commands_in(text) == ["python recipes/a.py --x 1 --y 2", "make test"]
    assert commands_in("genrec-hf grpo --x 1\ngenrec-hf --help\n") == ["genrec-hf grpo --x 1"]
    found = {parameter.id.rsplit("-", 1)[0] for parameter in all_commands()}
    assert found >= {"README.md", *map(short, [*RECIPES.values(), *CONFIGS, *LAUNCH_CONFIGS.values()])}


# TRL 1.16 sets the old name itself where a command names neither.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("command", all_commands())
def test_a_command_names_what_exists(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    # What the guides new-reward.md and new-quantizer.md add to the library.
    monkeypatch.setattr(reward_selection, "REWARDS", (*reward_selection.REWARDS, "era"))
    monkeypatch.setitem(QUANTIZER_NAMES, "farthest-points", ("RqKmeans", {}))
    program, *words = shlex.split(command)
    if program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1])
        return
    if program == "accelerate":
        launch = launch_command_parser().parse_args(words[1:])
        assert Path(launch.config_file).is_file()
        words = [launch.training_script, *launch.training_script_args]
        if launch.module:
            assert words.pop(0) == "genrec_hf"
            program = "genrec-hf"
    if program == "genrec-hf":
        assert words[0] in console.RECIPES
        parse(words[0].replace("-", "_"), words[1:])
        return
    assert Path(words[0]).is_file()
    parse(Path(words[0]).stem, words[1:])


@pytest.mark.parametrize(
    "program", ["genrec-hf", "accelerate launch --config_file accelerate_configs/cpu.yaml -m genrec_hf"]
)
def test_a_command_of_the_console_is_read_too(program, monkeypatch):
    words = "train-sasrec --config ml-1m-sasrec/train_sasrec.yaml"
    test_a_command_names_what_exists(f"{program} {words}", monkeypatch)
    with pytest.raises(AssertionError):
        test_a_command_names_what_exists(f"{program} {words.replace('-', '_', 1)}", monkeypatch)


# Recipes, and imports


@pytest.mark.parametrize("path", RECIPES.values(), ids=short)
def test_a_recipe_is_a_script_that_reads_top_to_bottom(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert f"recipes/{path.name}" in (ast.get_docstring(tree) or ""), "the docstring holds the command"
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, kinds)}
    assert functions.keys() - {"__post_init__"} == {"main"}, "logic belongs to the library"
    assert functions["main"].end_lineno - functions["main"].lineno < 70, "as does what makes it long"
    steps = re.findall(r"^    # (\d)\. ", text, re.MULTILINE)
    assert steps == [str(number + 1) for number in range(len(steps))] and steps, "numbered steps, in order"
    assert text.endswith('\n\nif __name__ == "__main__":\n    run_recipe(main)\n')


def test_nothing_imports_a_recipe():
    for path in [*(ROOT / "genrec_hf").rglob("*.py"), *(ROOT / "tests").glob("*.py"), *RECIPES.values()]:
        imports = re.findall(r"^\s*(?:from|import) +([\w.]+)", path.read_text(), re.MULTILINE)
        assert not [name for name in imports if name.split(".")[0] in {"recipes", *RECIPES}], path


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("genrec_hf", "torch transformers trl peft datasets pandas"),
        ("genrec_hf.evaluation.metrics", "torch transformers trl peft datasets pandas sklearn matplotlib"),
        ("genrec_hf.data", "torch transformers sentence_transformers trl peft datasets accelerate"),
        ("genrec_hf.vocabulary", "torch transformers sentence_transformers trl peft datasets accelerate"),
    ],
)
def test_an_import_leaves_heavy_libraries_out(module, heavy):
    code = f"import sys, {module}; print(*sorted(set({heavy.split()!r}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert loaded.stdout.split() == []
