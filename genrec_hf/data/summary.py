"""Summarizes a prepared data set for the terminal."""

import numpy as np

from genrec_hf.data.dataset import InteractionData
from genrec_hf.data.item_text import item_titles


def summarise(data: InteractionData) -> dict[str, str]:
    """Summarize a data set: counts, times, split and the first test case.

    Args:
        data (`InteractionData`): data set from `prepare`, with its `info`.

    Returns:
        `dict[str, str]`: text by label, in the order to print.
    """
    info, titles = data.info, item_titles(data.items)
    times, dropped = info["times"], info["dropped"]
    ties = info["ties"]["users_with_last_two_at_one_time"]
    lengths = np.bincount(data.interactions["user_id"].factorize()[0])
    cases = data.cases("test")
    example = [*cases.histories[0][-5:], cases.targets[0]] if len(cases) else []
    return {
        "data set": f"{info['name']} (fingerprint {info['fingerprint']})",
        "users": f"{info['users']:,}",
        "items": f"{info['items']:,} ({info['items_without_text']:,} without text)",
        "interactions": f"{info['interactions']:,}",
        "times": f"{times['first']} to {times['last']}, in {times['unit']}"
        if times["first"]
        else f"{times['unit']}, no dates",
        "events per user": f"min {lengths.min()}, median {np.median(lengths):g}, max {lengths.max()}",
        "split": f"{info['split']}: " + ", ".join(f"{name} {count:,}" for name, count in info["splits"].items()),
        "ties": f"{ties:.1%} of users have equal times for their last two events",
        "tie_break": info["tie_break"],
        "dropped": ", ".join(f"{count:,} ({reason})" for reason, count in dropped.items()) or "nothing",
        "dropped users": f"{info['dropped_users']:,}",
        "first test case": " -> ".join(titles[item] for item in example),
    }
