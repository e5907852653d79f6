"""Runs a recipe: parses its arguments from the command line and a YAML file, and prints an error as one line."""

import difflib
import json
import linecache
import math
import os
import re
import shlex
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
_TYPE_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a string", dict: "a mapping"}


def run_recipe(main: Callable[..., None]) -> None:
    """Parse the command line and call a recipe's `main` with the arguments.

    An error that genrec_hf raises, or that the operating system reports, is printed as one line on stderr. Any other
    error keeps its traceback, and with `--debug` every error does.

    Args:
        main (`Callable`): function whose parameters are annotated with the dataclasses to parse, in order.

    Raises:
        SystemExit: with code 2 where the arguments are wrong, and with code 1 where the recipe fails.
    """
    words, debug = _remove_debug(sys.argv[1:])
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
        user_error = _find_user_error(error)
        if debug or user_error is None:
            raise
        stop(user_error, 1)


def typed_command() -> str:
    """Return the command line of the recipe that runs, for `results.json`.

    Returns:
        `str`: such as `"python recipes/evaluate.py --data_dir data/mine"`, with paths as they were typed, except that
        the home folder is `~`.
    """
    program, *words = sys.argv
    start = program if program.startswith("genrec-hf ") else f"python recipes/{Path(program).name}"
    return " ".join([start, *map(shlex.quote, words)]).replace(f"{Path.home()}/", "~/")


def stop(error: BaseException, code: int) -> NoReturn:
    """Print an error as one line on stderr and exit; torchrun gets the line for its report.

    Args:
        error (`BaseException`): error whose message is printed.
        code (`int`): exit code, 2 where the arguments are wrong and 1 otherwise.

    Raises:
        SystemExit: always, with `code`.
    """
    rank = int(os.environ.get("RANK", "0"))
    if rank:
        # Where all processes fail, the main one prints the error and the launcher ends this one while it sleeps.
        time.sleep(30)
    process = f", process {rank}" if rank else ""
    message = " ".join(str(error).split()) or type(error).__name__
    hint = "" if code == 2 else " (--debug shows the traceback)"
    line = f"{Path(sys.argv[0]).name}{process}: error: {message}{hint}"
    print(line, file=sys.stderr, flush=True)
    if report := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        # torchrun prints this last, after its own traceback.
        details = {"py_callstack": line, "timestamp": str(int(time.time()))}
        write_text(report, json.dumps({"message": {"message": line, "extraInfo": details}}))
    raise SystemExit(code) from None


def read_arguments(dataclass_types: Sequence[type], words: Sequence[str]) -> tuple[Any, ...]:
    """Parse a recipe's dataclasses from a command line and the YAML file that `--config` names.

    Args:
        dataclass_types (`Sequence[type]`): dataclasses, no two of which share a field.
        words (`Sequence[str]`): words of the command line, such as `["--k_core", "5", "--config", "mine.yaml"]`. They
            take precedence over the file.

    Returns:
        `tuple`: an instance of each dataclass.

    Raises:
        ValueError: when no dataclass has a field of that name, a value is not of the type of its field, or a dataclass
            refuses a value.
        FileNotFoundError: when the YAML file does not exist.
    """
    from trl import TrlParser

    class Parser(TrlParser):
        def error(self, message: str) -> NoReturn:
            raise ValueError(message)  # without the usage, which is several pages long

    parser = Parser(cast(Any, dataclass_types), allow_abbrev=False, epilog=_HELP)
    words, file = _remove_config(words)
    names = [parameter.name for dataclass_type in dataclass_types for parameter in fields(dataclass_type)]
    if file is not None:
        settings = read_yaml(file)
        if unknown := [name for name in settings if name not in names]:
            raise ValueError(
                f"{file}: {unknown[0]!r} is not an argument of {parser.prog}{_suggest_name(unknown[0], names)}"
            )
        for dataclass_type in dataclass_types:
            _check_types(dataclass_type, settings, file)
        parser.set_defaults_with_config(**settings)
    *instances, unknown = parser.parse_args_into_dataclasses(
        words, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        parser.error(f"got {unknown[0]}, which is not an argument{_suggest_name(unknown[0].lstrip('-'), names)}")
    for instance in instances:
        for name, value in vars(instance).items():
            if isinstance(value, float) and math.isnan(value):
                raise ValueError(f"got {name}={value}, which is not a number")
    return tuple(instances)


def _check_types(dataclass_type: type, settings: Mapping[str, Any], file: str) -> None:
    hints = get_type_hints(dataclass_type)
    for parameter in (parameter for parameter in fields(dataclass_type) if parameter.name in settings):
        value, hint = settings[parameter.name], hints[parameter.name]
        choices = parameter.metadata.get("choices")
        if not has_type(value, hint) or (choices and value not in choices):
            expected = f"one of {choices}" if choices else describe_type(hint)
            raise ValueError(
                f"{file}: got {parameter.name}: {_as_yaml(value)}; give {expected}{_suggest_quotes(value, hint)}"
            )


def read_yaml(file: str) -> dict[str, Any]:
    """Read a YAML file of settings; `1e-4` is a number, as in YAML 1.2.

    Args:
        file (`str`): path of the file. If it does not exist, it is looked up below the `recipes/configs` that come
            with the package.

    Returns:
        `dict`: value of each name.

    Raises:
        FileNotFoundError: when neither path exists.
        ValueError: when the path is a directory, or the file is not YAML, has a name twice or is not a mapping.
    """
    path = Path(file)
    if not path.exists():
        path = shipped("recipes") / "configs" / file
    if not path.exists():
        raise FileNotFoundError(
            f"got --config {file}, which does not exist, neither here nor among the configs of the package"
        )
    if path.is_dir():
        raise ValueError(f"got --config {file}, which is a directory; give a YAML file")
    try:
        settings = yaml.load(path.read_text(encoding="utf-8-sig"), _StrictLoader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8: {error}; save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise ValueError(f"{file}{line}: {problem}; correct the YAML") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not valid YAML: {' '.join(str(error).split())}; correct it") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file} is not a mapping of settings; write one 'name: value' per line")
    return settings


def shipped(folder: str) -> Path:
    """Return the path of a directory that comes with the package: inside it when installed, next to it in a checkout.

    Args:
        folder (`str`): `"recipes"` or `"accelerate_configs"`.

    Returns:
        `Path`: the directory.
    """
    package = Path(__file__).parent
    return package / folder if (package / folder).is_dir() else package.parent / folder


class _StrictLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in names:
                problem = f"{key.value!r} is set twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            names.add(key.value)
        return super().construct_mapping(node, deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def has_type(value: Any, hint: Any) -> bool:
    """Return whether a YAML value has an annotated type; an integer counts as a float, and a `bool` not as a number.

    Args:
        value (`Any`): value from a YAML file.
        hint (`Any`): type hint of a field.

    Returns:
        `bool`: whether it has that type.
    """
    origin = get_origin(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(has_type(value, each) for each in get_args(hint))
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in get_args(hint))
    if hint is list or origin is list:
        return isinstance(value, list) and all(has_type(each, get_args(hint)[0]) for each in value)
    if hint is dict or origin is dict:
        return isinstance(value, dict)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return value in [member.value for member in hint]
    return type(value) in ((int, float) if hint is float else (hint,))


def describe_type(hint: Any) -> str:
    """Describe an annotated type for an error message.

    Args:
        hint (`Any`): type hint of a field.

    Returns:
        `str`: such as `"an integer or null"`.
    """
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        parts = sorted(get_args(hint), key=lambda each: each is type(None))
        return " or ".join(dict.fromkeys("null" if each is type(None) else describe_type(each) for each in parts))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if origin is list:
        return f"a list, each element {describe_type(get_args(hint)[0])}"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "one of " + ", ".join(repr(member.value) for member in hint)
    return _TYPE_NAMES.get(origin or hint, str(hint))


def _suggest_quotes(value: Any, hint: Any) -> str:
    if isinstance(value, bool) and has_type("", hint):
        return ", in quotes if it is a word: 'no'"
    if not isinstance(value, str | list | dict | None) and has_type(str(value), hint):
        return f", in quotes: '{value}'"
    return f": [{value}]" if has_type([value], hint) else ""


def _as_yaml(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _suggest_name(name: Any, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(name).replace("-", "_"), known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _remove_debug(words: Sequence[str]) -> tuple[list[str], bool]:
    """Remove a `--debug` without a value; with one it is the option of `TrainingArguments`."""
    is_flag = [
        word == "--debug" and after.startswith("--") for word, after in zip(words, [*words[1:], "--"], strict=False)
    ]
    return [word for word, removed in zip(words, is_flag, strict=True) if not removed], any(is_flag)


def _remove_config(words: Sequence[str]) -> tuple[list[str], str | None]:
    other_words, files, remaining = [], [], iter(words)
    for word in remaining:
        name, equals, value = word.partition("=")
        if name == "--config":
            files.append(value if equals else next(remaining, ""))
        else:
            other_words.append(word)
    if len(files) > 1:
        raise ValueError(f"got --config {files[0]} and --config {files[1]}; give one file")
    if files == [""]:
        raise ValueError("got --config without a file; give the path of a YAML file")
    return other_words, files[0] if files else None


def _find_user_error(error: BaseException) -> BaseException | None:
    """Return the error, or the first of its causes, that genrec_hf or the operating system raised, or `None`."""
    if isinstance(error, OSError) or "(os error " in str(error):  # safetensors reports a full disk in this form
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
    return None if error.__cause__ is None else _find_user_error(error.__cause__)
