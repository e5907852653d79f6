"""What users ask of a `Recommender`, checked where it comes in, and in rows of the semantic ids."""

from collections.abc import Collection, Iterable, Sequence, Set
from typing import Any, NamedTuple, cast

import numpy as np

from genrec_hf.generation.search_settings import SearchSettings
from genrec_hf.item_rows import is_whole
from genrec_hf.ranking import Histories, Reranker, Rows
from genrec_hf.semantic_ids import SemanticIds
from genrec_hf.semantic_ids.item_ids import read_ids, read_list
from genrec_hf.user_filters import user_filters

# Item ids: for everyone, or a collection for each user, `None` for no filter.
Ids = Collection[str] | Sequence[Collection[str] | None]


class Request(NamedTuple):
    """What one user asks, in rows of the semantic ids."""

    history: np.ndarray
    instruction: str | None
    deny: np.ndarray
    allow: np.ndarray | None


def read_histories(semantic_ids: SemanticIds, histories: Iterable[Iterable[str]]) -> list[np.ndarray]:
    """Item rows of each user's history, from outside ids, oldest first.

    Raises:
        ValueError: on what is no list of lists of ids (a text would be read letter by letter, a set has no order), or
            an id that the catalogue does not hold.
    """
    users = read_list(histories, "histories", "histories, one list of item ids a user")
    text = next((history for history in users if isinstance(history, str)), None)
    if text is not None:
        raise ValueError(
            f"histories holds the text {text!r} where a user's list of item ids belongs: each letter would be an "
            "item; for one user pass [[...]]"
        )
    return [semantic_ids.rows(history, f"histories[{user}]") for user, history in enumerate(users)]


def read_filter(
    semantic_ids: SemanticIds, name: str, *, ids: Ids | None, users: int
) -> list[np.ndarray | None] | None:
    """Item rows for each user, `None` for no filter, from the ids given for each or for all of them.

    Raises:
        ValueError: on what is neither a collection of ids nor one of these for each user, or an unknown id.
    """
    if ids is None:
        return None
    each_or_all = read_list(ids, name, "item ids", ordered=False)

    def rows(given: Iterable[str], where: str) -> np.ndarray:
        return semantic_ids.rows(read_ids(given, where, ordered=False), where)

    texts = [isinstance(each, str) for each in each_or_all]
    collections = [each is None or isinstance(each, Iterable) for each in each_or_all]
    if all(texts) or not any(collections):  # what is neither id nor collection is refused as an id
        return [rows(cast(list[str], each_or_all), name)] * users
    if any(texts) or len(each_or_all) != users or isinstance(ids, Set):
        raise ValueError(
            f"{name} holds {len(each_or_all)} entries for {users} histories: pass item ids for all, or one "
            "collection of item ids for each history, in a list"
        )
    return [
        None if each is None else rows(cast(Iterable[str], each), f"{name}[{user}]")
        for user, each in enumerate(each_or_all)
    ]


def read_requests(
    histories: Histories | Sequence[Rows],
    items: int,
    *,
    filter_seen: bool,
    deny: Sequence[Rows | None] | None,
    allow: Sequence[Rows | None] | None,
    instruction: str | Sequence[str | None] | None,
    rows: np.ndarray | None = None,
    outside: np.ndarray | None = None,
) -> list[Request]:
    """One request for each user.

    Args:
        histories (`Histories` or `Sequence`): the caller's item rows of each user, oldest first.
        items (`int`): size of the caller's catalogue.
        filter_seen (`bool`): whether items of the history are denied.
        deny (`Sequence`, *optional*): for each user, rows that may not come out.
        allow (`Sequence`, *optional*): for each user, the only rows that may.
        instruction (`str` or `Sequence`, *optional*): an instruction for all users, or one for each.
        rows (`np.ndarray`, *optional*): `[items]`, the rows of the semantic ids that the caller's rows stand for;
            themselves when not given.
        outside (`np.ndarray`, *optional*): rows of the semantic ids that the caller does not know, which are denied.

    Raises:
        ValueError: when one of them has another length than the histories, or holds what is no row or no instruction.
    """
    if not isinstance(histories, Histories):
        histories = read_list(histories, "histories", "histories, one list of item rows a user")
    histories = Histories.of(histories, items)
    users = len(histories)
    instructions = read_instructions(instruction, users)
    filters = {}
    for name, lists in (("deny", deny), ("allow", allow)):
        each = None if lists is None else read_list(lists, name, "filters, one list of item rows a user")
        filters[name] = user_filters(each, users=users, items=items, name=name)

    def known(of_caller: np.ndarray) -> np.ndarray:
        return of_caller if rows is None else rows[of_caller]

    requests = []
    for user, (history, instruction) in enumerate(zip(histories, instructions, strict=True)):
        denied, only = (None if (own := filters[name][user]) is None else known(own) for name in ("deny", "allow"))
        seen = known(history)
        barred = [seen if filter_seen else seen[:0], seen[:0] if denied is None else denied]
        requests.append(
            Request(seen, instruction, np.concatenate(barred if outside is None else [*barred, outside]), only)
        )
    return requests


def read_instructions(instruction: str | Sequence[str | None] | None, users: int) -> list[str | None]:
    """An instruction for each user, from one for all or one for each.

    Raises:
        ValueError: on an instruction that is no text, or another number of them.
    """
    if instruction is None or isinstance(instruction, str):
        instructions: list[Any] = [instruction] * users
    else:
        instructions = read_list(instruction, "instruction", "instructions, one text or None a history")
    if len(instructions) != users:
        raise ValueError(f"{len(instructions)} instruction entries for {users} histories: pass one for each")
    for instruction in {id(instruction): instruction for instruction in instructions}.values():
        if instruction is not None and not isinstance(instruction, str):
            raise ValueError(
                f"instruction holds {instruction!r} ({type(instruction).__name__}): an instruction is text, or None for none"
            )
        if instruction and any("\ud800" <= letter <= "\udfff" for letter in instruction):
            raise ValueError(
                f"instruction holds {instruction!r}, with halves of characters (surrogates): decode it as UTF-8"
            )
    return instructions


def check_request(k: int, *, filter_seen: bool, items: int, search: SearchSettings, reranker: Reranker | None) -> int:
    """Check what is asked of a catalogue of `items`; beams of the search.

    Raises:
        ValueError: when `k` is no whole number of items of it, or another argument is of another type.
    """
    if not isinstance(search, SearchSettings):
        raise ValueError(f"search={search!r}: pass SearchSettings(num_beams=..., batch_size=...)")
    if reranker is not None and not hasattr(reranker, "rerank"):
        raise ValueError(f"reranker={reranker!r}: pass an object with the method rerank, such as Mmr(embeddings)")
    if not is_whole(k) or not 1 <= k <= items:
        raise ValueError(
            f"k={k!r} items asked for, the catalogue holds {items}: ask for a whole number from 1 to that"
        )
    if not isinstance(filter_seen, bool | np.bool_):
        raise ValueError(f"filter_seen={filter_seen!r}: pass True or False; any text would count as True")
    return search.beams_for(k)
