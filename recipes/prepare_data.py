"""Prepare a data set: read, filter, order and split it, and print a summary.

    python recipes/prepare_data.py --source ml-100k --data_dir data/ml-100k
    python recipes/prepare_data.py --source amazon/reviews_Beauty.json.gz --metadata amazon/meta_Beauty.json.gz \
        --k_core 5 --data_dir data/beauty
    python recipes/prepare_data.py --source owner/dataset --columns user_id=reviewer item_id=asin timestamp=time \
        --data_dir data/mine
    python recipes/prepare_data.py --source log.csv --columns user_id=reviewer item_id=asin timestamp=time \
        --metadata products.csv --metadata_columns item_id=sku title=name --html true --data_dir data/mine

Reads RecBole atomic files, MovieLens, Amazon reviews (2014, 2018, 2023), or a table on disk or on the Hub. Encoding,
delimiter and unit of times are detected, and logged where they are unusual.
Writes `data_dir/interactions.parquet`, `data_dir/items.parquet` and `data_dir/dataset.json`.

The defaults are the protocol of SASRec (Kang and McAuley, 2018, section IV-A) and TIGER (Rajput et al., 2023, section
4): the last event of a user is test and the one before it is validation. What differs: those papers use the 5-core,
and no k-core is applied here by default (`--k_core 5` applies it). Events with equal times are in the order of the
file. The order changes all metrics if times are whole days; `--tie_break random:0` uses a random one.
"""

from dataclasses import dataclass, field
from pathlib import Path

from genrec_hf.command_line import run_recipe
from genrec_hf.data import load_data, prepare, read_source, save_data
from genrec_hf.data.preparation import Repeats, SplitProtocol, check_settings
from genrec_hf.data.summary import summarise
from genrec_hf.directories import as_directory, lock_for_recipe


@dataclass
class PrepareArguments:
    """Options of `prepare_data.py`."""

    source: str = field(
        metadata={"help": "Data set to read: 'ml-100k', a folder, a file, or the id of a data set on the Hub."}
    )
    data_dir: str = field(metadata={"help": "Folder to write the prepared data to."})
    metadata: str | None = field(
        default=None,
        metadata={"help": "File or Hub data set with the item texts, if they are not part of the source."},
    )
    subset: str | None = field(default=None, metadata={"help": "Configuration of a data set on the Hub."})
    columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Names of the columns of a table, if they differ: user_id=reviewer item_id=asin."},
    )
    metadata_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Names of the columns of the metadata, if they differ: item_id=sku title=name."},
    )
    encoding: str | None = field(
        default=None, metadata={"help": "Encoding of text files, such as 'cp1251'; detected by default."}
    )
    html: bool = field(
        default=False, metadata={"help": "Whether to convert HTML in texts to plain text; always done for Amazon."}
    )
    reviews: bool = field(
        default=False, metadata={"help": "Whether to keep the review texts of users, which some tasks need."}
    )
    k_core: int = field(
        default=0, metadata={"help": "Minimum number of events of each user and item (k-core); 0 keeps all."}
    )
    tie_break: str = field(
        default="file",
        metadata={"help": "Order of events with equal times: 'file', or 'random:<seed>' for a random order."},
    )
    split: SplitProtocol = field(
        default="leave_one_out",
        metadata={
            "help": "Split protocol: 'leave_one_out' holds out the last two events of each user, 'global_time' splits "
            "all events by time (8:1:1)."
        },
    )
    repeats: Repeats = field(
        default="keep",
        metadata={"help": "Repeated events of a user with an item: 'keep' all, or 'merge' them into the first one."},
    )
    min_rating: float | None = field(
        default=None, metadata={"help": "Drop events with a lower rating; by default none are dropped."}
    )
    min_user_events: int = field(
        default=3, metadata={"help": "Drop users with fewer events; 'leave_one_out' needs at least 3."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Whether to replace a different data set in data_dir."})
    quiet: bool = field(default=False, metadata={"help": "Whether to print one line instead of the summary."})

    def __post_init__(self) -> None:
        # Checked here and not only in `prepare`, as reading can take minutes.
        check_settings(
            k_core=self.k_core,
            tie_break=self.tie_break,
            split=self.split,
            repeats=self.repeats,
            min_rating=self.min_rating,
            min_user_events=self.min_user_events,
        )
        for name in ("columns", "metadata_columns"):
            pairs = getattr(self, name)
            invalid = (
                [pairs] if isinstance(pairs, str) else [pair for pair in pairs if "=" not in str(pair).strip("=")]
            )
            if invalid:
                raise ValueError(
                    f"got {name} {invalid[0]!r}; write the name in genrec_hf, '=' and the name in the table, such as "
                    "user_id=reviewer"
                )
            if len(dict(pair.split("=", 1) for pair in pairs)) < len(pairs):
                raise ValueError(
                    f"got {name} {pairs}, which map one name twice; map the names of the items with metadata_columns"
                )
        as_directory(self.data_dir, "data_dir")


@lock_for_recipe("data_dir")
def main(arguments: PrepareArguments) -> None:
    """Read, prepare, save and summarise one data set."""
    data_dir = Path(arguments.data_dir)

    # 1. Read
    columns, metadata_columns = (
        dict(pair.split("=", 1) for pair in pairs) or None for pairs in (arguments.columns, arguments.metadata_columns)
    )
    raw = read_source(
        arguments.source,
        columns=columns,
        metadata=arguments.metadata,
        metadata_columns=metadata_columns,
        subset=arguments.subset,
        reviews=arguments.reviews,
        encoding=arguments.encoding,
        html=arguments.html,
    )

    # 2. Filter, order and split
    data = prepare(
        raw,
        k_core=arguments.k_core,
        tie_break=arguments.tie_break,
        split=arguments.split,
        repeats=arguments.repeats,
        min_rating=arguments.min_rating,
        min_user_events=arguments.min_user_events,
    )

    # 3. Save, unless the same data set is there
    written = (data_dir / "dataset.json").is_file() and not arguments.overwrite
    if written and load_data(data_dir).info == data.info:
        print(f"already prepared: {data_dir} holds this data set ({data.info['fingerprint']})")
        return
    save_data(data, data_dir, overwrite=arguments.overwrite)

    # 4. Print a summary
    if arguments.quiet:
        counts = f"{len(data.user_ids)} users, {len(data.item_ids)} items, {len(data.interactions)} events"
        print(f"prepared {data_dir}: {counts}")
        return
    for name, value in (summarise(data) | {"written to": str(data_dir)}).items():
        print(f"{name:<16} {value}")


if __name__ == "__main__":
    run_recipe(main)
