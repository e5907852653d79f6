"""Merge a recommender's adapter into its base model: one whole checkpoint.

    python recipes/merge_adapter.py --recommender outputs/mine-grounding --output_dir outputs/mine-grounding-merged

Reads the output directory of a training recipe, or a Hub repository pushed from one. Writes a whole recommender of the
same answers, which `load_recommender`, `evaluate.py` and servers without adapters take. Between two training recipes
it is a choice: given an adapter, the next recipe goes on training it; given a merged checkpoint, it starts a new one
on top, with LoRA settings of its own, and what the first one learnt stays as it is.
"""

from dataclasses import dataclass, field
from typing import Literal

from genrec_hf.command_line import run_recipe
from genrec_hf.directories import one_run
from genrec_hf.hub import merge_recommender


@dataclass
class MergeArguments:
    """What to merge, and where to."""

    recommender: str = field(metadata={"help": "Output directory of a recipe, or a Hub id."})
    output_dir: str = field(metadata={"help": "Folder to write to, not that of the recommender."})
    dtype: Literal["float32", "bfloat16", "float16"] = field(
        default="float32", metadata={"help": "Of the saved weights; the adapter is added in float32 first."}
    )


@one_run("output_dir")
def main(arguments: MergeArguments) -> None:
    """Load, merge, save."""
    # 1. Merge
    merge_recommender(arguments.recommender, arguments.output_dir, arguments.dtype)

    # 2. Say where it is
    print(f"Merged {arguments.recommender} into {arguments.output_dir}")


if __name__ == "__main__":
    run_recipe(main)
