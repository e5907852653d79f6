"""Arguments are read strictly, from words and from YAML, and errors end in one line."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import pytest
from safetensors import SafetensorError
from test_configs import RECIPES, ROOT, arguments_of

from genrec_hf import command_line
from genrec_hf.command_line import describe_type, has_type, read_arguments, read_yaml, run_recipe


@dataclass
class Arguments:
    data_dir: str = "data"
    k_core: int = 0
    share: float = 0.5
    validation_steps: int | None = None
    quiet: bool = False
    level_sizes: list[int] = field(default_factory=lambda: [64])
    denied: list[str] = field(default_factory=list)
    normalization: Literal["full", "level"] = "full"
    kind: str = field(default="nf4", metadata={"choices": ["fp4", "nf4"]})
    options: dict[str, Any] | str | None = None


def parse(tmp_path, text, *words):
    (tmp_path / "settings.yaml").write_text(text)
    return read_arguments([Arguments], [*words, "--config", str(tmp_path / "settings.yaml")])[0]


@pytest.mark.parametrize(
    ("value", "wanted", "expected"),
    [
        (1, int, True), (True, int, False), (1.0, int, False), ("1e-4", float, False), (1.0e-4, float, True),
        (3, float, True), (True, float, False), ("no", str, True), (False, str, False), (None, str | None, True),
        (None, str, False), ([64, 64], list[int], True), (["64"], list[int], False), ("a", list[str], False),
        ("a", str | list[str], True), ("dense", Literal["dense", "one"], True), ("dens", Literal["dense"], False),
        ({"a": 1}, dict[str, Any] | None, True), (1, Literal[True], False), (1, Any, True),
    ],
)  # fmt: skip
def test_fits_tells_types_apart(value, wanted, expected):
    assert has_type(value, wanted) is expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (int, "an integer"),
        (int | None, "an integer or null"),
        (list[str] | None, "a list, each element a string or null"),
        (Literal["a", "b"], "one of 'a', 'b'"),
        (dict[str, Any] | str | None, "a mapping or a string or null"),
    ],
)
def test_describe_says_what_to_write(wanted, expected):
    assert describe_type(wanted) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("k_core: 2.5", "got k_core: 2.5; give an integer"),
        ("k_core: true", "got k_core: true; give an integer"),
        ("k_core: '5'", 'got k_core: "5"; give an integer'),
        ("k_core: null", "got k_core: null; give an integer"),
        ("k_core: [5]", "got k_core: [5]; give an integer"),
        ("validation_steps: 2.0", "got validation_steps: 2.0; give an integer or null"),
        ("share: half", 'got share: "half"; give a number'),
        ("share: .nan", "got share=nan, which is not a number"),
        ("quiet: 1", "got quiet: 1; give true or false"),
        ("data_dir: 2024-01-01", "got data_dir: \"2024-01-01\"; give a string, in quotes: '2024-01-01'"),
        ("data_dir: no", "got data_dir: false; give a string, in quotes if it is a word: 'no'"),
        ("level_sizes: 64", "got level_sizes: 64; give a list, each element an integer: [64]"),
        ("level_sizes: [64, 2.5]", "got level_sizes: [64, 2.5]; give a list, each element an integer"),
        ("denied: [50]", "got denied: [50]; give a list, each element a string"),
        ("normalization: levels", "got normalization: \"levels\"; give one of 'full', 'level'"),
        ("kind: int4", "got kind: \"int4\"; give one of ['fp4', 'nf4']"),
        ("options: [1]", "got options: [1]; give a mapping or a string or null"),
        ("k_cores: 5", "'k_cores' is not an argument of"),
        ("k_cores: 5", "; did you mean k_core?"),
        ("1: 5", "1 is not an argument of"),
        ("k_core: 5\nk_core: 6", ", line 2: 'k_core' is set twice; correct the YAML"),
        ("options: {a: 1, a: 2}", ", line 1: 'a' is set twice"),
        ("k_core: [", ", line 1: "),
        ("k_core: 5\n---\nk_core: 6", "expected a single document"),
        ("", "is not a mapping of settings"),
        ("k_core", "is not a mapping of settings"),
        ("- k_core", "is not a mapping of settings"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor for the tag"),
    ],
)
def test_yaml_of_the_wrong_kind_is_refused_with_file_and_name(text, message, tmp_path):
    with pytest.raises(ValueError) as error:
        parse(tmp_path, text)
    assert message in str(error.value)
    assert "settings.yaml" in str(error.value) or "nan" in text


def test_yaml_is_read_as_what_it_says(tmp_path):
    text = "share: 1e-4\nk_core: 5\nvalidation_steps: null\ndenied: ['50']\nquiet: yes\n"
    text += "options: {power: 2E+1, low: -1.5e-3}\n"
    expected = Arguments(
        share=1e-4, k_core=5, denied=["50"], options={"power": 20.0, "low": -1.5e-3}, quiet=True, level_sizes=[8, 8]
    )
    assert parse(tmp_path, text, "--level_sizes", "8", "8") == expected
    assert parse(tmp_path, text, "--k_core", "7").k_core == 7, "the command line goes before the file"
    merged = "one: &one {a: 1, b: 2}\ntwo: {<<: *one, a: 3}\nversion: 1e4x\n"
    (tmp_path / "merged.yaml").write_text(merged)
    assert read_yaml(str(tmp_path / "merged.yaml")) == {
        "one": {"a": 1, "b": 2},
        "two": {"a": 3, "b": 2},
        "version": "1e4x",
    }


def wrong_value(hint):
    """Of another type than the annotation, whatever it is."""
    kinds = {kind for kind in (hint, *get_args(hint)) if kind is not type(None)}
    for kind, value in ((str, 7), (bool, "maybe"), (int, 2.5), (float, "much")):
        if kind in kinds:
            return value
    return "other"  # of a list or a Literal


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_argument_of_a_recipe_is_checked(recipe, tmp_path):
    """In a YAML file; those of TRL's configs by the same function."""
    file, kinds = tmp_path / "settings.yaml", arguments_of(recipe)[:1]
    hints = get_type_hints(kinds[0])
    for name, hint in hints.items():
        file.write_text(json.dumps({name: wrong_value(hint)}))
        with pytest.raises(ValueError, match=rf"settings\.yaml: got {name}: "):
            read_arguments(kinds, ["--config", str(file)])


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_tells_of_config_and_debug(recipe, capsys):
    with pytest.raises(SystemExit) as error:
        read_arguments(arguments_of(recipe), ["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert error.value.code == 0 and "--config FILE reads arguments" in told and "--debug shows the traceback" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--k_core", "2.5"], "argument --k_core/--k-core: invalid int value: '2.5'"),
        (["--k_cor", "5"], "got --k_cor, which is not an argument; did you mean k_core?"),
        (["--core-k", "5"], "got --core-k, which is not an argument"),
        (["--normalization", "levels"], "invalid choice: 'levels'"),
        (["--level_sizes", "64,64"], "invalid int value: '64,64'"),
        (["data"], "got data, which is not an argument"),
    ],
)
def test_words_that_are_no_arguments_are_refused(words, message):
    with pytest.raises(ValueError) as error:
        read_arguments([Arguments], words)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_config_names_one_file(tmp_path):
    for words, error, message in (
        (["--config"], ValueError, "got --config without a file"),
        (["--config", "a.yaml", "--config=b.yaml"], ValueError, "got --config a.yaml and --config b.yaml; give one"),
        (["--config", "none.yaml"], FileNotFoundError, "got --config none.yaml, which does not exist"),
        (["--config", str(tmp_path)], ValueError, "which is a directory; give a YAML file"),
    ):
        with pytest.raises(error, match=message):
            read_arguments([Arguments], words)
    (tmp_path / "model.safetensors").write_bytes(b"\x00\xff\xfe\x80")
    with pytest.raises(ValueError, match="is not text in UTF-8"):
        read_arguments([Arguments], ["--config", str(tmp_path / "model.safetensors")])
    with pytest.raises(ValueError, match="got share=nan, which is not a number"):
        read_arguments([Arguments], ["--share", "nan"])


# Errors


def library_function(tmp_path, body):
    """A function of genrec_hf that fails, of a file of its own."""
    file = tmp_path / "failing.py"
    file.write_text(f"import numpy as np\nfrom safetensors import SafetensorError\n\ndef fail():\n    {body}\n")
    module = {"__name__": "genrec_hf.data.failing"}
    exec(compile(file.read_text(), str(file), "exec"), module)
    return module["fail"]


def call(monkeypatch, main, *words):
    monkeypatch.setattr(sys, "argv", ["recipes/try_it.py", *words])
    run_recipe(main)


MEANT = [
    "raise ValueError('got 3,\\n    which is odd')",
    "raise TypeError('got 3, which is odd')",
    "raise OSError(28, 'No space left on device')",
    "open('/no/such/file')",
    "open('/dev/full', 'w').write('x' * 99_999)",
    "raise SafetensorError('Error while serializing: I/O error: No space left on device (os error 28)')",
]
UNFORESEEN = ["np.zeros(2) + np.zeros(3)", "int('x')", "[][0]", "np.reshape(1, 5)"]


@pytest.mark.parametrize("body", MEANT)
def test_an_error_that_is_meant_for_users_is_one_line(body, tmp_path, monkeypatch, capsys):
    fail = library_function(tmp_path, body)

    def main(arguments: Arguments) -> None:
        fail()

    with pytest.raises(SystemExit) as error:
        call(monkeypatch, main)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("try_it.py: error: ") and line.endswith(" (--debug shows the traceback)")
    assert error.value.code == 1
    if "got 3" in body:
        assert "error: got 3, which is odd (" in line
    with pytest.raises((ValueError, TypeError, OSError, SafetensorError)):
        call(monkeypatch, main, "--debug")


def test_an_error_that_a_library_wraps_is_told(tmp_path, monkeypatch, capsys):
    fail = library_function(tmp_path, MEANT[0])

    def main(arguments: Arguments) -> None:
        try:
            fail()
        except ValueError as error:
            raise RuntimeError("An error occurred while generating the dataset") from error

    with pytest.raises(SystemExit):
        call(monkeypatch, main)
    assert "error: got 3, which is odd (" in capsys.readouterr().err


@pytest.mark.parametrize("body", UNFORESEEN)
def test_an_unforeseen_error_keeps_its_traceback(body, tmp_path, monkeypatch, capsys):
    fail = library_function(tmp_path, body)

    def main(arguments: Arguments) -> None:
        fail()

    with pytest.raises((ValueError, IndexError)):
        call(monkeypatch, main)
    assert capsys.readouterr().err == ""


def test_wrong_arguments_end_with_code_2(monkeypatch, capsys):
    @dataclass
    class Strict:
        k: int = 1

        def __post_init__(self) -> None:
            if self.k < 1:
                raise ValueError(f"got k={self.k}; give 1 or more")

    def main(strict: Strict) -> None:
        raise AssertionError("not with these")

    main.__annotations__["strict"] = Strict
    for words, message in (
        (["--k", "0"], "got k=0; give 1 or more"),
        (["--config", "no.yaml"], "got --config no.yaml"),
    ):
        with pytest.raises(SystemExit) as error:
            call(monkeypatch, main, *words)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"try_it.py: error: {message}") and error.value.code == 2


def test_debug_is_an_option_of_the_trainer_when_it_has_a_value(monkeypatch):
    assert command_line._remove_debug(["--debug", "--k", "1"]) == (["--k", "1"], True)
    assert command_line._remove_debug(["--k", "1", "--debug"]) == (["--k", "1"], True)
    trainers = ["--debug", "underflow_overflow"]
    assert command_line._remove_debug(trainers) == (trainers, False)


def test_a_process_beside_the_main_one_waits_before_it_tells(monkeypatch, capsys):
    def main(arguments: Arguments) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit):
        call(monkeypatch, main)
    assert capsys.readouterr().err.startswith("try_it.py, process 1: error: [Errno 28] No space left")
    assert waited == [30]


def launch(config, recipe, *words, through=()):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--config_file"]
    command += [f"accelerate_configs/{config}.yaml", *through, f"recipes/{recipe}.py", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_a_launched_recipe_ends_in_one_line(tmp_path):
    done = launch("cpu", "prepare_data", "--source", str(tmp_path / "none"), "--data_dir", str(tmp_path / "data"))
    last = done.stderr.splitlines()[-1]
    assert last.startswith("prepare_data.py: error: ") and "no local file or folder" in last and done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_of_two_processes_one_tells(tmp_path):
    through = ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0"]
    words = ["--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "out"), "--use_cpu", "true"]
    done = launch("multi_gpu", "sft_grounding", *words, through=through)
    told = [line for line in done.stderr.splitlines() if "sft_grounding.py: error: " in line]
    assert len(told) == 2 and "process 1: error" not in done.stderr, done.stderr
    assert told[1] == f"  traceback : {told[0]}" and told[1] in done.stderr.splitlines()[-3:], "torchrun ends with it"


def test_nothing_heavy_is_imported_to_read_arguments():
    code = "import sys, genrec_hf.command_line; print({'trl', 'torch', 'transformers'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert loaded.stdout.strip() == "set()"
    assert Path(command_line.__file__).is_relative_to(ROOT)
