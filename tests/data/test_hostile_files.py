"""Files made to hang, to fill the memory, or to be taken for others: each is refused at once in one line."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import resource
import shutil
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import IDX_NAMES, idx_bytes, python2_pickle
from tests.data.hostile import read
from tests.data.test_mutations import write
from usdn_nas._util.errors import UserError
from usdn_nas.config import DataConfig
from usdn_nas.data import load_data
from usdn_nas.data.cifar import read_batch, read_names
from usdn_nas.data.idx import read_idx
from usdn_nas.data.images import check_classes


@pytest.fixture(autouse=True)
def _quick_and_small() -> Iterator[None]:
    """Nothing hangs: each test ends within 20 seconds, and takes at most 500 MiB more than the tests before it."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.perf_counter() - begin < 20
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 500


def refusal(read: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        read()
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
    return str(caught.value)


def header(code: int, *sizes: int) -> bytes:
    return bytes([0, 0, code, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes)


HEADERS = {
    header(8, *[1] * 65): "expected an array of 1 to 4 dimensions, got 65",
    header(8, *[2] * 255): "expected an array of 1 to 4 dimensions, got 255",
    header(8): "expected an array of 1 to 4 dimensions, got 0",
    header(8, 2**32 - 1, 2**32 - 1, 2**32 - 1): "",
    header(0x0E, 2**31, 2**31): "",
    header(8, 0, 28, 28): "expected at least one value, got an array of shape (0, 28, 28)",
    header(8, 2**32 - 1, 2**32 - 1, 0): "expected at least one value",
    header(7, 1) + b"1": "expected an IDX file, got one that begins with 00 00 07 01",
    b"": "expected an IDX file, got one that begins with nothing",
    b"\x1f\x8b\x08\x00": "expected an IDX file, got one that begins with 1f 8b 08 00",
    header(8, 3, 3)[:-1]: "truncated inside its header",
}


@pytest.mark.parametrize("content", HEADERS)
@pytest.mark.parametrize("gzipped", [False, True])
def test_idx_headers(content: bytes, gzipped: bool, tmp_path: Path) -> None:
    path = tmp_path / ("images.gz" if gzipped else "images")
    path.write_bytes(gzip.compress(content) if gzipped else content)
    line = refusal(lambda: read_idx(path))
    assert line.startswith(f"{path}: ") and HEADERS[content] in line


def gzipped_zeros(beginning: bytes, mebibytes: int) -> bytes:
    stream = zlib.compressobj(wbits=31)
    chunks = [stream.compress(beginning), *(stream.compress(bytes(2**20)) for _ in range(mebibytes))]
    return b"".join([*chunks, stream.flush()])


def test_idx_gzip_bombs(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzipped_zeros(header(8, 2, 3, 3), 80))  # more than the header promises
    assert "too long: expected 34 bytes, got 35 or more" in refusal(lambda: read_idx(path))
    path.write_bytes(gzipped_zeros(header(8, 80 * 2**20, 1, 1), 80))  # all of it promised
    assert "the header promises 83886080 bytes, the gzipped file has only" in refusal(lambda: read_idx(path))


def test_gzip_with_a_wrong_checksum_or_something_behind_it(tmp_path: Path) -> None:
    path, content = tmp_path / "labels.gz", gzip.compress(idx_bytes(np.arange(9, dtype=np.uint8)))
    path.write_bytes(content)
    assert read_idx(path).tolist() == list(range(9))
    for damaged in (content[:-8] + bytes([content[-8] ^ 1]) + content[-7:], content + b"garbage", content[:-3]):
        path.write_bytes(damaged)
        assert "expected a gzipped file, got a truncated, damaged or foreign one" in refusal(lambda: read_idx(path))


def idx_set(root: Path, images: np.ndarray, labels: np.ndarray) -> DataConfig:
    for at in (0, 2):
        (root / IDX_NAMES[at]).write_bytes(idx_bytes(images))
        (root / IDX_NAMES[at + 1]).write_bytes(idx_bytes(labels))
    return DataConfig(name="idx", root=str(root), search=4)


IMAGES, LABELS = np.zeros((20, 4, 4), np.uint8), np.arange(20, dtype=np.int32) % 2
IDX_SETS = {
    "a label of 2^31 - 1": (IMAGES, np.where(LABELS, 2**31 - 1, 0), "class 1 of 2147483648 has no images"),
    "a label as large as the images are many": (IMAGES, np.where(LABELS, 20, 0), "class 1 of 21 has no images"),
    "a negative label": (IMAGES, LABELS - 1, "expected labels from 0, got -1"),
    "labels of floats": (IMAGES, LABELS.astype(np.float32), "expected (N,) integer labels, got float32"),
    "labels of two dimensions": (IMAGES, LABELS[:, None], "expected an array of 1 dimensions, got 2"),
    "a label too few": (IMAGES, LABELS[1:], "expected 19 images, one for each label, got 20"),
    "images of one dimension": (IMAGES[:, 0, 0], LABELS, "expected an array of 3 or 4 dimensions, got 1"),
    "images of integers": (IMAGES.astype(np.int16), LABELS, "expected uint8 or float images, got int16"),
    "an infinite pixel": (np.full((20, 4, 4), np.inf), LABELS, "expected finite pixels, got NaN or infinity"),
    "a pixel that no float32 holds": (np.full((20, 4, 4), 1e300), LABELS, "expected finite pixels"),
    "a pixel whose square overflows": (np.full((20, 4, 4), 1e30), LABELS, "expected pixels from -1e+09 to 1e+09"),
}


@pytest.mark.parametrize("name", IDX_SETS)
def test_idx_sets(name: str, tmp_path: Path) -> None:
    images, labels, expected = IDX_SETS[name]
    config = idx_set(tmp_path, images, labels.astype(np.int32) if labels.dtype.kind == "i" else labels)
    assert expected in refusal(lambda: load_data(config, seed=0))


def test_pixels_that_are_nearly_constant_stay_finite(tmp_path: Path) -> None:
    for pixels in (np.full((20, 4, 4), 0.1), np.full((20, 4, 4), 1e9), np.linspace(0, 1e-42, 320).reshape(20, 4, 4)):
        config = idx_set(tmp_path, pixels.astype(np.float64), LABELS)
        splits = read(config, (1, 4, 4))
        assert splits is not None and splits.std == (1.0,)


def test_classes_are_counted_without_memory_for_each() -> None:
    assert "class 1 of 1000000000000 has no images" in refusal(
        lambda: check_classes(np.array([0, 10**12 - 1]), 10**12, "labels")
    )


def lists_of_lists(depth: int, key: bytes) -> bytes:
    """A pickle whose last list has 2 ** ``depth`` ends: each list holds the one before it twice."""
    inner = b"]q\x00" + b"".join(b"](h" + bytes([k, 0x68, k]) + b"eq" + bytes([k + 1]) for k in range(depth))
    return b"\x80\2}U" + bytes([len(key)]) + key + b"](" + inner + b"es."


def tuples_of_tuples(depth: int) -> bytes:
    return b"\x80\2)" + b"q\x00h\x00\x86" * depth


PICKLES = {
    "a billion laughs": (lists_of_lists(100, b"label_names"), "expected a list of class names, got list in it"),
    "a dict with a key that is never hashed": (b"\x80\2}" + tuples_of_tuples(100)[2:] + b"K\1s.", "keys are texts"),
    "a name of nested lists": (
        b"\x80\2}U\1a" + b"cnumpy\ndtype\n" + lists_of_lists(100, b"x")[2:-1] + b"\x85Rs.", "truncated, damaged",
    ),
    "a memo of 16 GiB": (b"\x80\2}r\xff\xff\xff\x7f.", "label_names: expected a list of class names, got NoneType"),
    "a string of 2^62 bytes": (b"\x80\4\x8d" + struct.pack("<Q", 2**62) + b"a.", "truncated, damaged"),
    "an integer of 2^31 - 1 bytes": (b"\x80\2\x8b\xff\xff\xff\x7fa.", "truncated, damaged"),
    "one string copied again and again": (
        b"\x80\2}U\1a](" + b"X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"q\0"
        + b"c_codecs\nencode\nh\0U\6latin1\x86R" * 5000 + b"es.", "the pickle makes more bytes than it has",
    ),
    "an operation that is not needed": (b"\x80\2}N0.", "the operation POP, which no CIFAR file needs; it was not run"),
    "values without end": (b"\x80\2(" + b"N" * 1_000_000 + b"t.", "at most 1,000,000 operations"),
    "lists 100,000 deep": (b"\x80\2" + b"]" * 100_000 + b"a" * 99_999 + b".", "expected a dict, got list"),
    "no end": (b"\x80\2}", "truncated, damaged"),
    "nothing": (b"", "truncated, damaged"),
    "names that are numbers": (pickle.dumps({"label_names": [1, 2]}, 2), "expected a list of class names, got int"),
    "a name with an escape": (pickle.dumps({"label_names": ["a", "\x1b[31m"]}, 2), r"got '\x1b[31m'"),
    "one name twice": (pickle.dumps({"label_names": ["a", "b", "a"]}, 2), "the class name 'a' comes 2 times"),
    "no names": (pickle.dumps({"label_names": []}, 2), "expected class names, got none"),
    "attributes of a function": (b"\x80\2c_codecs\nencode\n}U\1aK\1sb.", "truncated, damaged"),
    "a persistent object": (b"\x80\2Pid\n.", "the operation PERSID, which no CIFAR file needs"),
    "a class that is built": (b"\x80\2cos\nsystem\n)\x81.", "the pickle asks for 'os.system'"),
}  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_of_names(name: str, tmp_path: Path) -> None:
    content, expected = PICKLES[name]
    path = tmp_path / "batches.meta"
    path.write_bytes(content)
    line = refusal(lambda: read_names(path, "label_names"))
    assert line.startswith(f"{path}: ") and expected in line


def test_pickled_batches(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    data = np.zeros((4, 3072), np.uint8)
    for labels, expected in (
        ([0, 1, [0], 1], "expected a list of integer labels, got list in it"),
        ([0, 1, 0.5, 1], "got float in it"),
        ([0, 1, True, 1], "got bool in it"),
        ([0, 1, "1", 1], "got str in it"),
        ([0, 1, 10**6000, 1], "expected labels from 0, got"),
        ([0, 1, -1, 1], "expected labels from 0, got -1"),
        ([0, 1, 0], "4 images need as many labels, got 3"),
        (7, "expected a list of integer labels, got int"),
    ):
        path.write_bytes(pickle.dumps({b"data": data, b"labels": labels}, 2))
        assert expected in refusal(lambda: read_batch(path, "labels"))
    whole = python2_pickle(data, [0, 1, 0, 1], b"labels")
    path.write_bytes(lists_of_lists(100, b"labels")[:-2] + whole[3:])
    refusal(lambda: read_batch(path, "labels"))
    for shape in ((-1, 3072), (2**31 - 1, 3072), (4, -3072), (4, 3071)):
        path.write_bytes(
            whole.replace(struct.pack("<xiBi", 4, 74, 3072)[1:], struct.pack("<xiBi", shape[0], 74, shape[1])[1:])
        )
        assert path.read_bytes() != whole
        assert "expected an array" in refusal(lambda: read_batch(path, "labels"))


def test_python_reads_the_same(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    data = generator.integers(0, 256, (5, 3072), dtype=np.uint8)
    for protocol in range(5):
        path = tmp_path / f"batch-{protocol}"
        path.write_bytes(pickle.dumps({"data": data, "labels": [3, 1, 300, 70_000, 0], "more": [b"x", None]}, protocol))
        batch = read_batch(path, "labels")
        np.testing.assert_array_equal(batch.images.reshape(5, -1), data)
        assert batch.labels.tolist() == [3, 1, 300, 70_000, 0]


def png(width: int, height: int) -> bytes:
    """A well-formed PNG of one colour that says it has that size; its pixels are not there."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def encoded(pixels: np.ndarray, format: str, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, format)
    return buffer.getvalue()


WHOLE = encoded(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8), "PNG")
FILES = {
    "a side of 14,000 pixels": (png(14_000, 14_000), "expected an image of at most 89,478,485 pixels"),
    "a side of 10,000 pixels": (png(10_000, 10_000), "got 10000 x 10000; make the file smaller"),
    "a side of 2^31 - 1 pixels": (png(2**31 - 1, 2**31 - 1), "expected an image of at most 89,478,485 pixels"),
    "no pixels": (png(0, 5), ""),
    "one line": (encoded(np.zeros((1, 60_000), np.uint8), "PNG"), ""),
    "a narrow image": (encoded(np.zeros((1, 20_000_000), np.uint8), "TIFF"), "too narrow to be resized"),
    "16 bits": (
        encoded(np.full((9, 9), 40_000, np.uint16), "PNG"),
        "8 bits a channel, got one of Pillow's mode 'I;16'",
    ),
    "32 bits": (encoded(np.full((9, 9), 40_000, np.int32), "TIFF"), "8 bits a channel, got one of Pillow's mode 'I'"),
    "floats": (encoded(np.full((9, 9), 0.5, np.float32), "TIFF"), "8 bits a channel, got one of Pillow's mode 'F'"),
    "nothing": (b"", "expected an image (JPEG, PNG"),
    "text": (b"hello, this is a text", "expected an image (JPEG, PNG"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "expected an image (JPEG, PNG"),
    "half": (WHOLE[: len(WHOLE) // 2], "expected a whole image, got a truncated or damaged one"),
    "a flipped bit": (WHOLE[:200] + bytes([WHOLE[200] ^ 1]) + WHOLE[201:], "got a truncated or damaged one"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_image_files(name: str, split: str, tmp_path: Path) -> None:
    """Found when the data is read, not when a training comes to the image: the test split's would be found last."""
    content, expected = FILES[name]
    config, _ = write("imagefolder", tmp_path)
    path = tmp_path / split / "ant/0.png"
    path.write_bytes(content)
    if name == "one line":  # can be resized to 9 pixels, not to 256
        load_data(config, seed=0, input_shape=(3, 8, 8))
    line = refusal(lambda: load_data(config, seed=0, input_shape=(3, 224, 224) if name == "one line" else (3, 8, 8)))
    assert line.startswith(f"{path}: ") and expected in line and "Pillow" not in line.replace("Pillow's mode", "")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_images_of_every_kind(mode: str, tmp_path: Path) -> None:
    config, _ = write("imagefolder", tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    for split in ("train", "test"):
        (tmp_path / split / "ant/0.png").write_bytes(
            encoded(pixels, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG", mode)
        )
    for channels in (1, 3):
        assert read(config, (channels, 8, 8)) is not None


def test_an_animation_is_its_first_image(tmp_path: Path) -> None:
    config, _ = write("imagefolder", tmp_path)
    first, second = (Image.new("RGB", (9, 9), colour) for colour in ("white", "black"))
    first.save(tmp_path / "test/ant/0.png", "GIF", save_all=True, append_images=[second])
    images, _ = next(load_data(config, seed=0, input_shape=(3, 8, 8)).test.batches(1))
    assert images.min() > 2


Change = Callable[[Path], object]
LAYOUTS: dict[str, tuple[Change, str]] = {
    "a dangling link": (lambda r: (r / "train/ant/x.png").symlink_to("nowhere"), "ant/x.png: expected a file"),
    "a folder of links in a circle": (lambda r: _circle(r), "a link to one that is here already"),
    "a link to itself": (lambda r: (r / "train/ant/x.png").symlink_to("x.png"), "got a link that leads nowhere"),
    "a link to its parent": (lambda r: (r / "train/ant/up").symlink_to(".."), "ant/up: expected a file or folder"),
    "a link to the root": (lambda r: (r / "train/up").symlink_to(".."), "train/up: expected a file or folder"),
    "a link to another split's image": (
        lambda r: (r / "train/ant/x.png").symlink_to(r / "test/bee/0.png"), "symbolic link",
    ),
    "a class that is a link": (lambda r: (r / "train/cow").symlink_to(r / "test/bee"), "symbolic link"),
    "a split that is another": (
        lambda r: (rename(r / "val", r / "old"), (r / "val").symlink_to("train")), "this folder and another split's",
    ),
    "a split in another": (
        lambda r: (rename(r / "val", r / "old"), (r / "val").symlink_to("train/ant")), "are one, or in one another",
    ),
    "a split that is a dangling link": (
        lambda r: (rename(r / "val", r / "old"), (r / "val").symlink_to("nowhere")), "val: expected a folder",
    ),
    "a split that links to itself": (
        lambda r: (rename(r / "val", r / "old"), (r / "val").symlink_to("val")), "val: cannot be read: Too many levels",
    ),
    "a split that is a file": (lambda r: (rename(r / "val", r / "old"), (r / "val").touch()), "val: expected a folder"),
    "a pipe": (lambda r: os.mkfifo(r / "train/ant/x.png"), "x.png: expected a file or folder, got a pipe"),
    "a pipe beside classes": (lambda r: os.mkfifo(r / "train/x"), "train/x: expected a file or folder, got a pipe"),
    "a class that is a file": (
        lambda r: (rename(r / "train/ant", r / "old"), (r / "train/ant").touch()), "class 'ant' is not among those of",
    ),
    "an image without a class": (lambda r: rename(r / "train/ant/0.png", r / "train/0.png"), "got one beside them"),
    "an image that is a folder": (
        lambda r: [((r / "test" / c / "0.png").unlink(), (r / "test" / c / "0.png").mkdir()) for c in ("ant", "bee")],
        "test: no images here (.jpg",
    ),
    "a class that is not UTF-8": (
        lambda r: os.mkdir(os.fsencode(r) + b"/train/\xff\xfe"), r"a printable name of a class in UTF-8, got '\udcff",
    ),
    "a class with an escape": (lambda r: (r / "train/\x1b[31mred\n").mkdir(), r"got '\x1b[31mred\n'"),
    "one image for the search": (
        lambda r: [path.unlink() for path in sorted((r / "val").glob("*/*"))[1:]], "at least 2 images for the search",
    ),
    "a path that is too long": (lambda r: nested(r / "train/ant", 40), "cannot be read: File name too long"),
}  # fmt: skip


def rename(path: Path, new: Path) -> None:
    path.rename(new)


def _circle(root: Path) -> None:
    """A class that links to a folder elsewhere, which links to itself."""
    elsewhere = root.parent / f"{root.name}-elsewhere"
    elsewhere.mkdir()
    shutil.copy(root / "train/ant/0.png", elsewhere / "0.png")
    (elsewhere / "again").symlink_to(elsewhere)
    (root / "train/ant/far").symlink_to(elsewhere)


def test_images_and_classes_may_be_links_to_elsewhere(tmp_path: Path) -> None:
    root = tmp_path / "data"
    config, shape = write("imagefolder", root)
    plain = load_data(config, seed=0, input_shape=shape)
    (tmp_path / "store").mkdir()
    (root / "train/ant/0.png").rename(tmp_path / "store/blob.png")
    (root / "train/ant/0.png").symlink_to(tmp_path / "store/blob.png")
    (root / "train/bee").rename(tmp_path / "store/bee")
    (root / "train/bee").symlink_to(tmp_path / "store/bee")
    linked = load_data(config, seed=0, input_shape=shape)
    assert linked.digest == plain.digest and linked.train.labels.tolist() == plain.train.labels.tolist()


def nested(folder: Path, depth: int) -> None:
    """Folders in one another whose path is longer than the system takes at once."""
    at = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("a" * 200, dir_fd=at)
        inner = os.open("a" * 200, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name: str, tmp_path: Path) -> None:
    change, expected = LAYOUTS[name]
    config, shape = write("imagefolder", tmp_path)
    change(tmp_path)
    line = refusal(lambda: load_data(config, seed=0, input_shape=shape))
    assert (expected in line and line.isprintable()) or "udcff" in line


def test_what_is_no_mistake(tmp_path: Path) -> None:
    """Links to whole splits, odd names of images, other files."""
    config, shape = write("imagefolder", tmp_path)
    rename(tmp_path / "val", tmp_path / "elsewhere")
    (tmp_path / "val").symlink_to("elsewhere")
    ant = tmp_path / "train/ant"
    ant.joinpath("0.png").rename(ant / "a\nb\x1b[31m.PNG")
    os.rename(ant / "1.jpg", os.fsencode(ant) + b"/\xff\xfe.jpeg")
    (tmp_path / "train/README.txt").write_text("not an image")
    (ant / "notes.txt").write_text("not an image")
    splits = read(config, shape)
    assert splits is not None and (len(splits.train), len(splits.search), len(splits.test)) == (8, 4, 2)


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the system's answer is made up."""
    config, shape = write("imagefolder", tmp_path)
    scandir, opened = os.scandir, os.open

    def refuse(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(path: str, *arguments: object) -> object:
            if os.fspath(path).endswith(name):
                raise PermissionError(13, "Permission denied", path)
            return function(path, *arguments)

        return call

    monkeypatch.setattr(os, "open", refuse("bee/0.png", opened))
    assert "bee/0.png: cannot be read: Permission denied" in refusal(
        lambda: load_data(config, seed=0, input_shape=shape)
    )
    monkeypatch.setattr(os, "scandir", refuse("train/bee", scandir))
    assert "train/bee: cannot be read: Permission denied" in refusal(
        lambda: load_data(config, seed=0, input_shape=shape)
    )


def test_a_pipe_that_comes_later(tmp_path: Path) -> None:
    config, shape = write("imagefolder", tmp_path)
    splits = load_data(config, seed=0, input_shape=shape)
    path = tmp_path / "test/ant/0.png"
    path.unlink()
    os.mkfifo(path)
    assert "expected a regular file, got a folder, pipe" in refusal(lambda: list(splits.test.batches(1)))


ROOTS = {
    "x" * 300: "cannot be read: File name too long",
    "~nobodyhere/images": "there is no home folder for '~nobodyhere/images'",
    "": "data.root: expected a folder, got an empty text",
    "file": "data set 'idx' is not there",
    "loop": "cannot be read: Too many levels of symbolic links",
    "pipe": "data set 'idx' is not there",
    "nul\0": "cannot be read",
}


@pytest.mark.parametrize("root", ROOTS)
def test_roots(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    assert ROOTS[root] in refusal(lambda: load_data(DataConfig(name="idx", root=root), seed=0))


def test_pipes_in_place_of_files(tmp_path: Path) -> None:
    for kind in ("idx", "cifar10"):
        root = tmp_path / kind
        root.mkdir()
        config, shape = write(kind, root)
        path = sorted(root.iterdir())[0]
        path.unlink()
        os.mkfifo(path)
        assert f"no {path.name}" in refusal(lambda: load_data(config, seed=0, input_shape=shape))  # noqa: B023


def test_too_many_processes(tmp_path: Path) -> None:
    config, shape = write("imagefolder", tmp_path)
    config = config.model_copy(update={"workers": 100_000})
    assert "data.workers: expected at most 256 processes, got 100000" in refusal(
        lambda: load_data(config, seed=0, input_shape=shape)
    )
