"""Reads and checks the arguments of `Recommender.recommend` and `Recommender.rank`."""

from collections.abc import Collection, Iterable, Sequence, Set
from typing import Any, NamedTuple, cast

import numpy as np

from genrec_hf.generation.search_settings import SearchSettings
from genrec_hf.item_rows import is_whole
from genrec_hf.ranking import Histories, Reranker, Rows
from genrec_hf.semantic_ids import SemanticIds
from genrec_hf.semantic_ids.item_ids import read_ids, read_list
from genrec_hf.user_filters import user_filters

# Item ids for all users, or one collection for each user, where `None` is no filter.
Ids = Collection[str] | Sequence[Collection[str] | None]


class Request(NamedTuple):
    """Request of one user, in item rows of the semantic ids.

    Attributes:
        history (`np.ndarray`): `[n]`, oldest first.
        instruction (`str` or `None`): an instruction in words.
        deny (`np.ndarray`): rows that are not recommended.
        allow (`np.ndarray` or `None`): the only rows that may be recommended; `None` for all.
    """

    history: np.ndarray
    instruction: str | None
    deny: np.ndarray
    allow: np.ndarray | None


def read_histories(semantic_ids: SemanticIds, histories: Iterable[Iterable[str]]) -> list[np.ndarray]:
    """Convert histories of item ids to item rows.

    Args:
        semantic_ids (`SemanticIds`): the catalogue.
        histories (`Iterable[Iterable[str]]`): item ids of each user, oldest first.

    Returns:
        `list[np.ndarray]`: item rows of each user.

    Raises:
        ValueError: `histories` is not a list of lists of ids (a text would be read letter by letter, and a set has no
            order), or an id is not in the catalogue.
    """
    users = read_list(histories, "histories", "histories, one list of item ids for each user")
    text = next((history for history in users if isinstance(history, str)), None)
    if text is not None:
        raise ValueError(
            f"histories holds the text {text!r}: each letter would be an item id; pass one list of item ids for each "
            "user, [[...]] for one user"
        )
    return [semantic_ids.rows(history, f"histories[{user}]") for user, history in enumerate(users)]


def read_filter(
    semantic_ids: SemanticIds, name: str, *, ids: Ids | None, users: int
) -> list[np.ndarray | None] | None:
    """Convert a filter of item ids to item rows for each user.

    Args:
        semantic_ids (`SemanticIds`): the catalogue.
        name (`str`): name of the argument, for errors.
        ids (`Collection`, *optional*): item ids for all users, or one collection (`None` for no filter) for each user.
        users (`int`): number of users.

    Returns:
        `list`: item rows of each user, `None` for no filter; `None` in place of the list when `ids` is not given.

    Raises:
        ValueError: `ids` is neither a collection of ids nor a list with one for each user, or an id is unknown.
    """
    if ids is None:
        return None
    entries = read_list(ids, name, "item ids", ordered=False)

    def rows(item_ids: Iterable[str], argument: str) -> np.ndarray:
        return semantic_ids.rows(read_ids(item_ids, argument, ordered=False), argument)

    texts = [isinstance(entry, str) for entry in entries]
    collections = [entry is None or isinstance(entry, Iterable) for entry in entries]
    if all(texts) or not any(collections):  # entries that are neither ids nor collections are refused as ids
        return [rows(cast(list[str], entries), name)] * users
    if any(texts) or len(entries) != users or isinstance(ids, Set):
        raise ValueError(
            f"{name} holds {len(entries)} entries for {users} histories: pass item ids for all users, or a list "
            "with one collection of item ids for each history"
        )
    return [
        None if entry is None else rows(cast(Iterable[str], entry), f"{name}[{user}]")
        for user, entry in enumerate(entries)
    ]


def read_requests(
    histories: Histories | Sequence[Rows],
    items: int,
    *,
    filter_seen: bool = False,
    deny: Sequence[Rows | None] | None = None,
    allow: Sequence[Rows | None] | None = None,
    instruction: str | Sequence[str | None] | None = None,
    rows: np.ndarray | None = None,
    outside: np.ndarray | None = None,
) -> list[Request]:
    """Combine histories, filters and instructions to one request for each user.

    Args:
        histories (`Histories` or `Sequence`): the caller's item rows of each user, oldest first.
        items (`int`): size of the caller's catalogue.
        filter_seen (`bool`, defaults to `False`): whether items of the history are denied.
        deny (`Sequence`, *optional*): for each user, rows that are not recommended, or `None`.
        allow (`Sequence`, *optional*): for each user, the only rows that may be recommended, or `None` for all.
        instruction (`str` or `Sequence`, *optional*): an instruction for all users, or one for each.
        rows (`np.ndarray`, *optional*): `[items]`, row of the semantic ids for each row of the caller; the same rows
            when not given.
        outside (`np.ndarray`, *optional*): rows of the semantic ids that are not in the caller's catalogue and are
            denied.

    Returns:
        `list[Request]`: one for each history.

    Raises:
        ValueError: an argument has another length than the histories, or holds invalid rows or instructions.
    """
    if not isinstance(histories, Histories):
        histories = read_list(histories, "histories", "histories, one list of item rows for each user")
    histories = Histories.of(histories, items)
    users = len(histories)
    instructions = read_instructions(instruction, users)
    filters = {}
    for name, lists in (("deny", deny), ("allow", allow)):
        user_lists = None if lists is None else read_list(lists, name, "filters, one list of item rows for each user")
        filters[name] = user_filters(user_lists, users=users, items=items, name=name)

    def to_semantic_ids(caller_rows: np.ndarray) -> np.ndarray:
        return caller_rows if rows is None else rows[caller_rows]

    requests = []
    for user, (history, instruction) in enumerate(zip(histories, instructions, strict=True)):
        denied, allowed = (
            None if (listed := filters[name][user]) is None else to_semantic_ids(listed) for name in ("deny", "allow")
        )
        seen = to_semantic_ids(history)
        excluded = [seen if filter_seen else seen[:0], seen[:0] if denied is None else denied]
        excluded += [] if outside is None else [outside]
        requests.append(Request(seen, instruction, np.concatenate(excluded), allowed))
    return requests


def read_instructions(instruction: str | Sequence[str | None] | None, users: int) -> list[str | None]:
    """Return one instruction for each user.

    Args:
        instruction (`str` or `Sequence`, *optional*): an instruction for all users, or one (or `None`) for each.
        users (`int`): number of users.

    Returns:
        `list`: text or `None` for each user.

    Raises:
        ValueError: an instruction is not text, or there is not one for each user.
    """
    if instruction is None or isinstance(instruction, str):
        instructions: list[Any] = [instruction] * users
    else:
        instructions = read_list(instruction, "instruction", "instructions, one text or None for each history")
    if len(instructions) != users:
        raise ValueError(f"got {len(instructions)} instruction entries for {users} histories: pass one for each")
    for text in {id(text): text for text in instructions}.values():
        if text is not None and not isinstance(text, str):
            raise ValueError(
                f"instruction holds {text!r} ({type(text).__name__}): pass text, or None for no instruction"
            )
        if text and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError(f"instruction holds {text!r}, which has surrogates: decode the text as UTF-8")
    return instructions


def check_request(k: int, *, filter_seen: bool, items: int, search: SearchSettings, reranker: Reranker | None) -> int:
    """Check the arguments that all users share, and return the number of beams.

    Args:
        k (`int`): length of the lists.
        filter_seen (`bool`): whether items of the history are denied.
        items (`int`): size of the catalogue.
        search (`SearchSettings`): settings of the search.
        reranker (`Reranker`, *optional*): reorders the beams.

    Returns:
        `int`: beams of the search.

    Raises:
        ValueError: `k` is not a whole number from 1 to `items`, there are fewer beams than `k`, or another argument
            has another type.
    """
    if not isinstance(search, SearchSettings):
        raise ValueError(f"got search={search!r}: pass SearchSettings(num_beams=..., batch_size=...)")
    if reranker is not None and not hasattr(reranker, "rerank"):
        raise ValueError(f"got reranker={reranker!r}: pass an object with the method rerank, such as Mmr(embeddings)")
    if not is_whole(k) or not 1 <= k <= items:
        raise ValueError(f"got k={k!r} for a catalogue of {items} items: it must be a whole number from 1 to {items}")
    if not isinstance(filter_seen, bool | np.bool_):
        raise ValueError(f"got filter_seen={filter_seen!r}: pass True or False; any text would count as True")
    return search.beams_for(k)
