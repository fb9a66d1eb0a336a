"""From a corpus known by name to a folder of token files: `train.bin`, `val.bin`, and the sidecar `meta.json`.

The result depends on the text alone. The folder appears whole or not at all, so that after a kill one starts again.
"""

import hashlib
from pathlib import Path

from mada_lab.data import corpora, sidecar
from mada_lab.data.corpus import Corpus
from mada_lab.data.sidecar import Sidecar, Split
from mada_lab.data.tokenizer import CharTokenizer
from mada_lab.errors import DataError
from mada_lab.files import new_folder, write_atomic


def prepare(name: str, data_dir: Path, from_file: Path | None = None) -> Path:
    """Makes the folder `data_dir / name`, unless it is there and valid.

    Args:
        name: A name in `corpora.CORPORA`.
        data_dir: Where the data sets live; made if missing.
        from_file: A file to read instead of the download, with the same content.

    Returns:
        The folder.

    Raises:
        ConfigError: No corpus has this name.
        DataError: The text can't be had or isn't UTF-8 of two characters or more, the folder can't be written, or it
            exists and is damaged.
    """
    source = corpora.find(name)
    folder = data_dir / name
    if folder.exists():
        return _keep(folder, name)
    content = source.read(from_file)
    text = _text(content, source.origin)
    files, meta = _tokenize(text, source, hashlib.sha256(content).hexdigest())
    try:
        _write(folder, files, meta)
    except OSError as error:
        raise DataError(
            f"data set, in {folder}: expected a place to write, got {error.strerror}; free it, or choose another folder"
        ) from error
    return folder


def _keep(folder: Path, name: str) -> Path:
    """Returns a folder made earlier, after looking into it."""
    found = Corpus.open(folder).name
    if found != name:
        raise DataError(f"data set, in {folder}: expected {name}, got {found}; {sidecar.REMEDY}")
    return folder


def _text(content: bytes, origin: str) -> str:
    """Decodes `content` as it stands: a byte order mark and carriage returns are characters like any other."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"text, in {origin}: expected UTF-8, got the byte {content[error.start]:#04x} at offset {error.start}; "
            "convert the file to UTF-8"
        ) from error
    if len(text) < len(sidecar.SPLITS):
        raise DataError(f"text, in {origin}: expected 2 characters or more, got {len(text)}; use a longer text")
    return text


def _tokenize(text: str, source: corpora.TextSource, source_sha256: str) -> tuple[dict[str, bytes], Sidecar]:
    """The token files by split, and their sidecar. The first 90 % of the characters train, the rest validates."""
    tokenizer = CharTokenizer.of(text)
    cut = len(text) * 9 // 10  # in integers: exact at any length
    parts = dict(zip(sidecar.SPLITS, (text[:cut], text[cut:]), strict=True))
    files = {split: tokenizer.encode(part).tobytes() for split, part in parts.items()}
    splits = {
        split: Split(len(parts[split]), len(content), hashlib.sha256(content).hexdigest())
        for split, content in files.items()
    }
    meta = Sidecar(source.name, source.origin, source_sha256, tokenizer.dtype.name, tokenizer.vocabulary, splits)
    return files, meta


def _write(folder: Path, files: dict[str, bytes], meta: Sidecar) -> None:
    with new_folder(folder) as part:
        for split, content in files.items():
            write_atomic(part / f"{split}.bin", content)
        write_atomic(part / sidecar.FILE_NAME, meta.to_json())
