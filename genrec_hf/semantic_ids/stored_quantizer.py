"""`StoredQuantizer`: the quantizer of semantic ids, loaded from its files when first used."""

import tempfile
from pathlib import Path

from genrec_hf.digests import hex_digest
from genrec_hf.semantic_ids.quantizer import CONFIG_FILE, TENSORS_FILE, Quantizer, load_quantizer

QUANTIZER_SUBFOLDER = "quantizer"
QUANTIZER_FILES = [f"{QUANTIZER_SUBFOLDER}/{name}" for name in (CONFIG_FILE, TENSORS_FILE)]


class StoredQuantizer:
    """A fitted quantizer, or the content of its files, or neither.

    Files are kept in memory as they were read: they can be saved again even if their class is not in this version, and
    after their directory was removed.

    Args:
        level_sizes (`tuple[int, ...]`): level sizes of the SIDs.
        quantizer (`Quantizer`, *optional*): the fitted quantizer.
        files (`dict[str, bytes]`, *optional*): content of its files by name, if it is not loaded.

    Raises:
        ValueError: when the quantizer is not fitted, or has other levels than the SIDs without or with an extra level.
    """

    def __init__(
        self,
        level_sizes: tuple[int, ...],
        quantizer: Quantizer | None = None,
        files: dict[str, bytes] | None = None,
    ) -> None:
        self.level_sizes = level_sizes
        self._files = files or {}
        self._quantizer = None if quantizer is None else self._check(quantizer)

    @classmethod
    def read(cls, directory: Path, level_sizes: tuple[int, ...], digest: str | None) -> "StoredQuantizer":
        """Read the files of the quantizer that was saved with semantic ids, without loading it.

        Args:
            directory (`Path`): directory of the semantic ids.
            level_sizes (`tuple[int, ...]`): level sizes of the SIDs.
            digest (`str`, *optional*): the digest that the semantic ids were saved with.

        Returns:
            `StoredQuantizer`: without files if there are none.

        Raises:
            ValueError: when the files have another digest.
        """
        files = _read_files(directory / QUANTIZER_SUBFOLDER)
        if files and digest not in (None, hex_digest(files.values())):
            raise ValueError(
                f"{QUANTIZER_SUBFOLDER}/ in {str(directory)!r} is not the quantizer that was saved with these "
                "semantic ids, and would give new items unrelated codes: copy all files from one save, or delete it"
            )
        return cls(level_sizes, files=files)

    def load(self) -> Quantizer | None:
        """Return the quantizer, loading it at the first call; `None` when there is none.

        Returns:
            `Quantizer` or `None`: fitted.

        Raises:
            ValueError: when its class is not in this library, or its levels are not those of the SIDs.
        """
        if self._quantizer is None and self._files:
            with tempfile.TemporaryDirectory() as directory:
                self._write_files(Path(directory))
                self._quantizer = self._check(load_quantizer(directory))
        return self._quantizer

    def save(self, directory: Path) -> str | None:
        """Write the quantizer into the subfolder `quantizer/` of a directory.

        Args:
            directory (`Path`): directory of the semantic ids.

        Returns:
            `str` or `None`: digest of the files; `None` when there is no quantizer, and nothing is written.
        """
        target = directory / QUANTIZER_SUBFOLDER
        if self._quantizer is not None:
            self._quantizer.save_pretrained(target)
        elif self._files:
            target.mkdir(exist_ok=True)
            self._write_files(target)
        else:
            return None
        return hex_digest(_read_files(target).values())

    def _write_files(self, directory: Path) -> None:
        for name, content in self._files.items():
            (directory / name).write_bytes(content)

    def _check(self, quantizer: Quantizer) -> Quantizer:
        sizes = tuple(quantizer.level_sizes)
        if quantizer.embedding_size is None or sizes not in (self.level_sizes, self.level_sizes[:-1]):
            state = "not fitted" if quantizer.embedding_size is None else "fitted"
            raise ValueError(
                f"got a {type(quantizer).__name__} with level sizes {sizes}, {state}, for SIDs with level sizes "
                f"{self.level_sizes}: pass the fitted quantizer that encoded these items"
            )
        return quantizer


def _read_files(directory: Path) -> dict[str, bytes]:
    """Read the content of each file of a quantizer; return an empty `dict` when one is missing."""
    files = [directory / name for name in (CONFIG_FILE, TENSORS_FILE)]
    return {file.name: file.read_bytes() for file in files} if all(file.is_file() for file in files) else {}
