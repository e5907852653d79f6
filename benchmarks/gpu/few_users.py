"""Copies prepared data sets with the events of few users, for trial runs; items and semantic ids stay the same.

python benchmarks/gpu/few_users.py data few
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from genrec_hf.data import InteractionData, load_data, save_data
from genrec_hf.data.dataset import data_fingerprint


def first_users(data: InteractionData, users: int) -> InteractionData:
    """Return the same catalogue with the events of the first `users`."""
    interactions = data.interactions[data.interactions["user_id"].isin(data.user_ids[:users])].reset_index(drop=True)
    counts = {"users": interactions["user_id"].nunique(), "interactions": len(interactions)}
    info = data.info | counts | {"fingerprint": data_fingerprint(interactions, data.items)}
    return replace(data, interactions=interactions, info=info)


def main(source: Path, target: Path, users: int) -> None:
    """Copy all data sets of a folder; the new folder appears when all are copied."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        shutil.copytree(folder, partial / folder.name, ignore=shutil.ignore_patterns("dataset.json", "*.parquet"))
        save_data(first_users(load_data(folder), users), partial / folder.name)
    partial.rename(target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder with prepared data sets")
    parser.add_argument("target", type=Path, help="folder to write to")
    parser.add_argument("--users", type=int, default=40)
    arguments = parser.parse_args()
    main(arguments.source, arguments.target, arguments.users)
