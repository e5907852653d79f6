"""Runs a recipe: parses its arguments from the command line and a YAML file, and prints an error as one line."""

import difflib
import json
import linecache
import math
import os
import re
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, cast, get_args, get_origin, get_type_hints

import yaml

from genrec_hf.directories import write_text

_HELP = (
    "--config FILE reads arguments from a YAML file, which the command line overrides; --debug shows the "
    "traceback of an error."
)
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", dict: "a mapping"}


def run_recipe(main: Callable[..., None]) -> None:
    """Parse the command line and call a recipe's `main` with the arguments.

    An error that genrec_hf raises on purpose, or that the operating system reports, ends in one line on stderr, with
    exit code 2 where the arguments are wrong and 1 otherwise. Any other keeps its traceback; with `--debug` all do.

    Args:
        main (`Callable`): its parameters are annotated with the dataclasses to read, in order.
    """
    words, debug = _without_debug(sys.argv[1:])
    hints = get_type_hints(main)
    hints.pop("return", None)
    try:
        arguments = read_arguments(tuple(hints.values()), words)
    except (ValueError, TypeError, OSError) as error:
        if debug:
            raise
        stop(error, 2)
    try:
        main(*arguments)
    except Exception as error:
        meant = _meant_for_users(error)
        if debug or meant is None:
            raise
        stop(meant, 1)


def stop(error: BaseException, code: int) -> NoReturn:
    """Print an error as one line on stderr, and for torchrun's report, and exit.

    Args:
        error (`BaseException`): its message is printed.
        code (`int`): exit code; 2 where the arguments are wrong.
    """
    rank = int(os.environ.get("RANK", "0"))
    if rank:
        # Where all processes fail, the launcher ends this one while it waits, and the main one has told.
        time.sleep(30)
    where = f", process {rank}" if rank else ""
    message = " ".join(str(error).split()) or type(error).__name__
    hint = "" if code == 2 else " (--debug shows the traceback)"
    line = f"{Path(sys.argv[0]).name}{where}: error: {message}{hint}"
    print(line, file=sys.stderr, flush=True)
    if report := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        # What torchrun shows last, under its own traceback.
        details = {"py_callstack": line, "timestamp": str(int(time.time()))}
        write_text(report, json.dumps({"message": {"message": line, "extraInfo": details}}))
    raise SystemExit(code) from None


def read_arguments(kinds: Sequence[type], words: Sequence[str]) -> tuple[Any, ...]:
    """Parse a recipe's dataclasses from a command line and the YAML file that `--config` names.

    Args:
        kinds (`Sequence[type]`): dataclasses, no two of which share a field.
        words (`Sequence[str]`): `["--k_core", "5", "--config", "prepare_data.yaml"]`; they go before the file.

    Returns:
        `tuple`: an instance of each.

    Raises:
        ValueError: a name that no dataclass has, a value of another type than its field's, or one it refuses.
        FileNotFoundError: the file is not there.
    """
    from trl import TrlParser

    class Parser(TrlParser):
        def error(self, message: str) -> NoReturn:
            raise ValueError(message)  # without the usage, which is pages long

    parser = Parser(cast(Any, kinds), allow_abbrev=False, epilog=_HELP)
    words, file = _without_config(words)
    names = [each.name for kind in kinds for each in fields(kind)]
    if file is not None:
        settings = read_yaml(file)
        if unknown := [name for name in settings if name not in names]:
            raise ValueError(f"{file}: {unknown[0]!r} is no argument of {parser.prog}{_nearest(unknown[0], names)}")
        for kind in kinds:
            _refuse_other_types(kind, settings, file)
        parser.set_defaults_with_config(**settings)
    *instances, unknown = parser.parse_args_into_dataclasses(
        words, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        parser.error(f"got {unknown[0]}, which is no argument{_nearest(unknown[0].lstrip('-'), names)}")
    for instance in instances:
        for name, value in vars(instance).items():
            if isinstance(value, float) and math.isnan(value):
                raise ValueError(f"got {name}={value}, which is not a number")
    return tuple(instances)


def _refuse_other_types(kind: type, settings: Mapping[str, Any], file: str) -> None:
    hints = get_type_hints(kind)
    for each in (each for each in fields(kind) if each.name in settings):
        value, hint, choices = settings[each.name], hints[each.name], each.metadata.get("choices")
        if not fits(value, hint) or (choices and value not in choices):
            wanted = f"one of {choices}" if choices else describe(hint)
            raise ValueError(f"{file}: got {each.name}: {_as_yaml(value)}; give {wanted}{_remedy(value, hint)}")


def read_yaml(file: str) -> dict[str, Any]:
    """Read a YAML file of settings; duplicate names are refused, and `1e-4` is a number as in YAML 1.2.

    Args:
        file (`str`): its path; where nothing is there, one relative to the shipped `recipes/configs`.

    Raises:
        FileNotFoundError: nothing is there either.
        ValueError: it is a folder, no YAML, holds a name twice, or no names at all.
    """
    path = Path(file)
    if not path.exists():
        path = shipped("recipes") / "configs" / file
    if not path.exists():
        raise FileNotFoundError(f"got --config {file}, and no such file is there")
    if path.is_dir():
        raise ValueError(f"got --config {file}, which is a folder; give a YAML file")
    try:
        settings = yaml.load(path.read_text(encoding="utf-8-sig"), _StrictLoader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no YAML, but no text in UTF-8 at all: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise ValueError(f"{file}{line}: {problem}; mend the YAML") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file} holds no settings; write them as 'name: value', one a line")
    return settings


def shipped(folder: str) -> Path:
    """Path of `recipes` or `accelerate_configs`: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).parent
    return package / folder if (package / folder).is_dir() else package.parent / folder


class _StrictLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in names:
                problem = f"{key.value!r} stands there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            names.add(key.value)
        return super().construct_mapping(node, deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def fits(value: Any, wanted: Any) -> bool:
    """Whether a YAML value has the annotated type. An integer is accepted for a float, a `bool` for no number."""
    origin = get_origin(wanted)
    if wanted is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in get_args(wanted))
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in get_args(wanted))
    if wanted is list or origin is list:
        return isinstance(value, list) and all(fits(each, get_args(wanted)[0]) for each in value)
    if wanted is dict or origin is dict:
        return isinstance(value, dict)
    if isinstance(wanted, type) and issubclass(wanted, Enum):
        return value in [member.value for member in wanted]
    return type(value) in ((int, float) if wanted is float else (wanted,))


def describe(wanted: Any) -> str:
    """Describe an annotated type for an error message."""
    origin = get_origin(wanted)
    if origin in (Union, types.UnionType):
        parts = sorted(get_args(wanted), key=lambda each: each is type(None))
        return " or ".join(dict.fromkeys("null" if each is type(None) else describe(each) for each in parts))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, get_args(wanted)))
    if origin is list:
        return f"a list, each of it {describe(get_args(wanted)[0])}"
    if isinstance(wanted, type) and issubclass(wanted, Enum):
        return "one of " + ", ".join(repr(member.value) for member in wanted)
    return _KINDS.get(origin or wanted, str(wanted))


def _remedy(value: Any, wanted: Any) -> str:
    if isinstance(value, bool) and fits("", wanted):
        return ", in quotes where it is meant as a word: 'no'"
    if not isinstance(value, str | list | dict | None) and fits(str(value), wanted):
        return f", in quotes: '{value}'"
    return f": [{value}]" if fits([value], wanted) else ""


def _as_yaml(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _nearest(name: Any, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(name).replace("-", "_"), known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _without_debug(words: Sequence[str]) -> tuple[list[str], bool]:
    """Remove a `--debug` without a value; with one it is the option of `TrainingArguments`."""
    alone = [
        word == "--debug" and after.startswith("--") for word, after in zip(words, [*words[1:], "--"], strict=False)
    ]
    return [word for word, left_out in zip(words, alone, strict=True) if not left_out], any(alone)


def _without_config(words: Sequence[str]) -> tuple[list[str], str | None]:
    kept, files, rest = [], [], iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name == "--config":
            files.append(value if equals else next(rest, ""))
        else:
            kept.append(word)
    if len(files) > 1:
        raise ValueError(f"got --config {files[0]} and --config {files[1]}; give one file")
    if files == [""]:
        raise ValueError("got --config without a file")
    return kept, files[0] if files else None


def _meant_for_users(error: BaseException) -> BaseException | None:
    """The error or the first of its causes that genrec_hf or the operating system raised; `None` if there is none."""
    if isinstance(error, OSError) or "(os error " in str(error):  # so safetensors says that a disk is full
        return error
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is not None:
        module, file = place.tb_frame.f_globals.get("__name__", ""), place.tb_frame.f_code.co_filename
        ours = module == "__main__" or module.split(".")[0] == "genrec_hf"
        # What numpy or torch raise in a line of ours is not meant for users.
        if ours and linecache.getline(file, place.tb_lineno).lstrip().startswith("raise "):
            return error
    return None if error.__cause__ is None else _meant_for_users(error.__cause__)
