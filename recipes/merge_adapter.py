"""Merge a recommender's adapter into its base model and save a whole checkpoint.

    python recipes/merge_adapter.py --recommender outputs/mine-grounding --output_dir outputs/mine-grounding-merged

Reads the output directory of a training recipe, or a Hub repository pushed from one. Writes a recommender with the
same answers as a whole checkpoint, for `load_recommender`, `evaluate.py` and servers without support for adapters.
Between two training recipes it is optional: given an adapter, the next recipe trains it further; given a merged
checkpoint, it starts a new adapter on top, with its own LoRA settings, and the weights of the first one stay frozen.
"""

from dataclasses import dataclass, field
from typing import Literal

from genrec_hf.command_line import run_recipe
from genrec_hf.directories import lock_for_recipe
from genrec_hf.hub import merge_recommender


@dataclass
class MergeArguments:
    """Arguments of the merge."""

    recommender: str = field(metadata={"help": "Output directory of a recipe, or a Hub id."})
    output_dir: str = field(metadata={"help": "Folder to write, other than that of the recommender."})
    dtype: Literal["float32", "bfloat16", "float16"] = field(
        default="float32", metadata={"help": "dtype of the saved weights; the merge itself is computed in float32."}
    )


@lock_for_recipe("output_dir")
def main(arguments: MergeArguments) -> None:
    """Load a recommender, merge its adapter, and save the result."""
    # 1. Merge
    merge_recommender(arguments.recommender, arguments.output_dir, arguments.dtype)

    # 2. Report
    print(f"Merged {arguments.recommender} into {arguments.output_dir}")


if __name__ == "__main__":
    run_recipe(main)
