"""Prepares a data set: a folder with token files or images, and the sidecar `meta.json`.

The result depends on the source alone, not on the number of workers or on earlier interruptions. The folder appears
whole or not at all. Downloads are kept until then, so that after a kill only the rest is downloaded.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

from mada_lab.data import catalog, cuts, gpt2, pipeline, sidecar
from mada_lab.data.catalog import Choice, ImageSet, TextSet
from mada_lab.data.corpus import Corpus
from mada_lab.data.download import describe
from mada_lab.data.gpt2 import Gpt2Tokenizer, find_encoder
from mada_lab.data.image_sources import Pictures
from mada_lab.data.images import PARTS, ImageData, ImageSidecar, ImageSplit
from mada_lab.data.images import SPLITS as IMAGE_SPLITS
from mada_lab.data.pipeline import Piece
from mada_lab.data.readers import paths_in
from mada_lab.data.sidecar import Sidecar, Split, Vocabulary
from mada_lab.data.sources import Texts
from mada_lab.data.tokenizer import CharTokenizer, lone_surrogate
from mada_lab.data.writer import HashedFile
from mada_lab.errors import ConfigError, DataError, require_exists, translated
from mada_lab.system import files
from mada_lab.system.files import new_folder, only_process, write_atomic

D = TypeVar("D", Corpus, ImageData)
Listen = Callable[[int, str], object]
"""Called with the number of characters or images that are done, and their unit."""


def prepare(
    name: str,
    data_dir: Path,
    from_file: Path | None = None,
    *,
    tokenizer: str | None = None,
    bpe_files: Path | None = None,
    workers: int | None = None,
    listen: Listen = lambda count, unit: None,
    own: Fraction | None = None,
) -> Path:
    """Makes the folder `data_dir / name`, unless it is there and valid.

    Args:
        name: A name in `catalog.DATA_SETS`, or NAME_TOKENIZER; with `own`, a new name.
        data_dir: Folder of the data sets; made if missing.
        from_file: A file or folder to read instead of the download.
        tokenizer: One of the data set's, instead of the default; the folder is then `data_dir / NAME_TOKENIZER`.
        bpe_files: A folder with GPT-2's encoder.json and vocab.bpe, to read instead of a download.
        workers: Threads that encode; None is one for each CPU.
        listen: Follows the progress.
        own: Makes a data set of the user's text in `from_file`, of which this share of each file validates.

    Returns:
        The folder.

    Raises:
        ConfigError: No data set has this name, the name of an own one is taken, or a file was given in vain.
        DataError: The source is missing or damaged, the folder can't be written, or it exists and is damaged. Then
            nothing on the disk has changed, but downloads stay in NAME.download for the next time.
    """
    options = _Options(from_file, bpe_files, workers, listen)
    choice = catalog.find(name, tokenizer) if own is None else catalog.of_own_text(name, tokenizer or "char", own)
    if own is not None and (data_dir / name).exists():
        what = f"expected a new name, got that of the folder {data_dir / name}"
        raise ConfigError(f"--name={name}: {what}; choose another, or delete the folder")
    return _made(choice, data_dir, options).folder


def open_or_prepare(name: str, data_dir: Path, kind: type[D]) -> D:
    """The data set `name`, of text (`Corpus`) or of images (`ImageData`), prepared first if it's small.

    Raises:
        ConfigError: No data set of this kind has this name.
        DataError: It is missing and large, can't be prepared, or is damaged.
    """
    choice = find(name, data_dir, kind)
    if _kind(choice) is not kind:
        got = {Corpus: f"text, got {name}, which has images", ImageData: f"images, got {name}, which is text"}[kind]
        others = " or ".join(x for x, other in catalog.choices().items() if _kind(other) is kind)
        raise ConfigError(f"data set, in key dataset: expected one of {got}; choose {others}")
    folder, size = data_dir / choice.name, choice.data_set.download_bytes
    if not folder.exists() and size > catalog.UNASKED_BYTES:
        raise DataError(
            f"data set {choice.name}, in {folder}: expected it prepared, got no such folder; "
            f"run `mada-lab data prepare {choice.name}` first (a download of {size / 1e9:.1f} GB)"
        )
    with translated(DataError, lambda error: DataError(_by_prepare(str(error), choice.name))):
        opened = _open(choice, folder) if folder.exists() else _made(choice, data_dir, _Options())
    assert isinstance(opened, kind)
    return opened


def _by_prepare(message: str, name: str) -> str:
    """`message`, with the command whose options it names."""
    return re.sub("--(from-file|bpe-files) [A-Z]+", rf"`mada-lab data prepare {name} \g<0>`", message)


def find(name: str, data_dir: Path, kind: type[Corpus] | type[ImageData]) -> Choice:
    """The data set called `name`: a known one, or one in `data_dir` that the user made.

    Raises ConfigError if there is none; the message offers those of `kind`.
    """
    own = sorted(path.parent.name for path in data_dir.glob(f"*/{sidecar.FILE_NAME}"))
    return catalog.find(name, own=own, kind=TextSet if kind is Corpus else ImageSet)


def _kind(choice: Choice) -> type[Corpus] | type[ImageData]:
    return ImageData if isinstance(choice.data_set, ImageSet) else Corpus


def _open(choice: Choice, folder: Path) -> Corpus | ImageData:
    opened = _kind(choice).open(folder)
    if opened.name != choice.name:
        raise DataError(f"data set, in {folder}: expected {choice.name}, got {opened.name}; {sidecar.REMEDY}")
    return opened


@dataclass(frozen=True)
class _Options:
    """The arguments of `prepare` that are the same for all data sets."""

    from_file: Path | None = None
    bpe_files: Path | None = None
    workers: int | None = None
    listen: Listen = lambda count, unit: None


def _made(choice: Choice, data_dir: Path, options: _Options) -> Corpus | ImageData:
    """The data set, made unless its folder is there. Raises ConfigError, DataError as `prepare`."""
    folder, downloads = data_dir / choice.name, data_dir / f"{choice.name}{catalog.DOWNLOADS}"
    try:
        if not folder.exists():
            with only_process(folder):
                if not folder.exists():  # else another process was faster
                    _make(choice, folder, downloads, options)
        files.discard(downloads)
    except OSError as error:
        raise DataError(
            f"data set, in {folder}: expected a place to write, got {describe(error)}; free it, or choose another"
        ) from error
    return _open(choice, folder)


def _make(choice: Choice, folder: Path, downloads: Path, options: _Options) -> None:
    for path in paths_in(options.from_file) if options.from_file else []:
        require_exists(path, "--from-file", DataError)
    if options.bpe_files:
        require_exists(options.bpe_files, "--bpe-files", DataError)
    if isinstance(choice.data_set, ImageSet):
        pictures = choice.data_set.source.open(options.from_file, downloads)
        with new_folder(folder) as part:
            _write_images(part, choice.name, pictures, options)
        return
    tokenizer = None
    if choice.tokenizer in gpt2.SIZES:  # before the text, so that a missing package costs no download
        tokenizer = Gpt2Tokenizer(find_encoder(options.bpe_files, downloads), gpt2.SIZES[choice.tokenizer])
    texts = choice.data_set.source.open(options.from_file, downloads)
    with new_folder(folder) as part:
        write_text(part, choice, texts, tokenizer, options.workers, options.listen)


def write_text(
    part: Path,
    choice: Choice,
    texts: Texts,
    tokenizer: Gpt2Tokenizer | None,
    workers: int | None = None,
    listen: Listen = lambda count, unit: None,
) -> None:
    """Encodes a text into the files of a data set.

    Args:
        part: An empty folder, which becomes that of the data set.
        choice: The data set.
        texts: Its text.
        tokenizer: None makes one of the characters of the text.
        workers: Threads that encode; None is one for each CPU.
        listen: Follows the progress.

    Raises:
        DataError: The text is damaged, or too short for its splits.
    """
    data_set = choice.data_set
    assert isinstance(data_set, TextSet)
    used = tokenizer or CharTokenizer.of(piece.text for piece in pipeline.pieces(data_set.cut(texts)))
    digest = hashlib.sha256()
    found = _digested(pipeline.pieces(data_set.cut(texts)), digest, texts.origin)
    files: dict[str, HashedFile] = {}
    with ExitStack() as stack:
        for encoded in pipeline.encode(found, used, data_set.end_of_text, workers):
            if encoded.split not in files:
                files[encoded.split] = stack.enter_context(HashedFile(part / f"{encoded.split}.bin"))
            files[encoded.split].append(encoded.ids)
            listen(encoded.characters, "characters")
    for split in sorted(cuts.splits(data_set.cut, texts) - set(files)):
        raise DataError(f"text, in {texts.origin}: expected some for split {split}, got none; use a longer text")
    for split, file in files.items():
        if file.rows < 2 and data_set.source == catalog.OWN.source:  # of which the user chose the share
            what = f"expected at least 2 tokens for split {split}, got {file.rows}"
            raise DataError(f"text, in {texts.origin}: {what}; use a longer text, or a larger share of it")
    splits = {split: Split(file.rows, file.bytes, file.sha256) for split, file in files.items()}
    meta = Sidecar(choice.name, texts.origin, digest.hexdigest(), _vocabulary(used), splits)
    if tokenizer is not None:
        write_atomic(part / gpt2.ENCODER.name, tokenizer.encoder_json)
    write_atomic(part / sidecar.FILE_NAME, meta.to_json())


def _vocabulary(tokenizer: Gpt2Tokenizer | CharTokenizer) -> Vocabulary:
    if isinstance(tokenizer, CharTokenizer):
        return Vocabulary(tokenizer.name, tokenizer.vocabulary_size, characters=tokenizer.vocabulary)
    return Vocabulary(tokenizer.name, tokenizer.vocabulary_size, sha256=gpt2.ENCODER.sha256)


def _digested(found: Iterable[Piece], digest: "hashlib._Hash", origin: str) -> Iterator[Piece]:
    """Yields the pieces, and adds their UTF-8 to `digest`. Raises DataError for text that has no UTF-8."""
    for number, piece in enumerate(found, 1):
        try:
            digest.update(piece.text.encode())
        except UnicodeEncodeError as error:
            raise lone_surrogate(error, f"text, in {origin}, in piece {number}") from error
        yield piece


def _write_images(part: Path, name: str, pictures: Pictures, options: _Options) -> None:
    files: dict[tuple[str, str], HashedFile] = {}
    with ExitStack() as stack:
        for split in IMAGE_SPLITS:
            for kind in PARTS:
                files[split, kind] = stack.enter_context(HashedFile(part / f"{split}_{kind}.bin"))
        for split, images, labels in pictures.batches:
            if labels.max() >= len(pictures.classes):
                raise DataError(
                    f"labels, in {pictures.origin}: expected numbers in [0, {len(pictures.classes)}), "
                    f"got {labels.max()}; mend them"
                )
            files[split, "images"].append(images)
            files[split, "labels"].append(labels)
            options.listen(len(images), "images")
    splits = {
        split: ImageSplit(files[split, "images"].rows, *(files[split, kind].sha256 for kind in PARTS))
        for split in IMAGE_SPLITS
    }
    meta = ImageSidecar(name, pictures.origin, pictures.shape, pictures.brightest, pictures.classes, splits)
    write_atomic(part / sidecar.FILE_NAME, meta.to_json())
