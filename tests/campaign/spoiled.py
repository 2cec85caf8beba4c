"""Draws malformed files: damaged bytes, headers that cannot be, trees with odd values, torn archives."""

import copy
import gzip
import io
import json
import math
import pickle
import zipfile

import nibabel as nib
import numpy as np
import pydicom
import torch
import yaml

# Beginnings of what is saved under a wrong name, or by a server in place of the file.
FOREIGN = (
    b"",
    b"\x00",
    b"<!DOCTYPE html><title>404</title>",
    b"\x89PNG\r\n\x1a\n" + bytes(60),
    b"PK\x03\x04" + bytes(40),
)
NUMBERS = (0, -1, 1, 2, 3, 7, 127, 255, 256, 32767, -32768, 65535, 2**31 - 1, 2**31, 2**63, -(2**63), 2**64, 10**400)
FLOATS = (0.0, -0.0, 1e-300, 1e-45, 0.5, -1.0, 1e30, 3.4e38, 1e308, math.inf, -math.inf, math.nan)
TEXTS = (
    "",
    " ",
    "a",
    "é",
    "\ud800",
    "\x00",
    "\u202e",
    "../../etc/passwd",
    "/",
    "a" * 70000,
    "null",
    "1e999",
    "{}",
    "%s{0}",
)
MANY = 20000
JSONS = (b"[" * MANY, b'{"a":' * MANY, b"[" * MANY + b"]" * MANY, b"9" * MANY, b"[NaN]", b'"\\ud800"', b"{}", b"null")


def pick(rng, choices):
    """One of ``choices``, as it is."""
    return choices[int(rng.integers(len(choices)))]


def bytes_changed(content: bytes, rng) -> bytes:
    """Bytes as transfers, disks and people damage them."""
    data = bytearray(content)
    place = int(rng.integers(len(data) + 1))
    length = int(min(rng.geometric(0.02), len(data)))
    match int(rng.integers(9)):
        case 0:
            return bytes(data[:place])
        case 1:
            return pick(rng, FOREIGN)
        case 2:
            return bytes(data[place:])
        case 3:
            data[place : place + length] = bytes(length)
        case 4:
            data[place : place + length] = rng.bytes(length)
        case 5:
            del data[place : place + length]
        case 6:
            data[place:place] = rng.bytes(length)
        case 7:
            return content + content[: place or 1]
        case _:
            for at in rng.integers(0, len(data), min(8, len(data))):
                data[at] ^= 1 << int(rng.integers(8))
    return bytes(data)


def gzip_changed(content: bytes, rng, change) -> bytes:
    """A compressed file: damaged inside, with a sound checksum, or outside; or with far more after its end."""
    match int(rng.integers(5)):
        case 0:
            return bytes_changed(content, rng)
        case 1:
            return gzip.compress(gzip.decompress(content) + bytes(200 * 2**20), compresslevel=1)
        case _:
            return gzip.compress(change(gzip.decompress(content), rng), compresslevel=1)


def nifti_changed(content: bytes, rng) -> bytes:
    """A NIfTI file, uncompressed, with one to three fields of its header as they cannot be."""
    if rng.random() < 0.25:
        return bytes_changed(content, rng)
    fields = np.frombuffer(bytearray(content[:348]), nib.nifti1.header_dtype).copy()
    for _ in range(int(rng.integers(1, 4))):
        name = pick(rng, fields.dtype.names)
        field = fields[name].reshape(-1)
        at = int(rng.integers(field.size))
        with np.errstate(all="ignore"):
            if field.dtype.kind in "iu":
                info = np.iinfo(field.dtype)
                value = int(pick(rng, NUMBERS)) if rng.random() < 0.7 else int(rng.integers(-300, 3000))
                field[at] = min(max(value, info.min), info.max)
            elif field.dtype.kind == "f":
                field[at] = np.float64(pick(rng, FLOATS))
            else:
                field[at] = rng.bytes(field.dtype.itemsize)
        fields[name] = field.reshape(fields[name].shape)
    rest = content[348:]
    if rng.random() < 0.2:  # an extension that goes on for longer than the file, or not at all
        rest = b"\x01\x00\x00\x00" + int(pick(rng, (0, 8, 17, 2**31 - 1))).to_bytes(4, "little") + rest[8:]
    return fields.tobytes() + rest


def value(rng):
    """A value that does not belong anywhere."""
    return pick(
        rng,
        (
            None,
            True,
            pick(rng, NUMBERS),
            pick(rng, FLOATS),
            pick(rng, TEXTS),
            [],
            {},
            [[]],
            [None],
            {"": None},
            [pick(rng, NUMBERS), pick(rng, TEXTS)],
            {pick(rng, TEXTS): pick(rng, FLOATS)},
        ),
    )


def tree_changed(tree, rng):
    """A tree of lists and objects with one to three values replaced, left out, added, renamed or moved."""
    tree = copy.deepcopy(tree)
    for _ in range(int(rng.integers(1, 4))):
        places = list(_places(tree))
        if not places:
            return value(rng)
        parent, key = pick(rng, places)
        match int(rng.integers(6)):
            case 0 | 1 | 2:
                parent[key] = value(rng)
            case 3:
                del parent[key]
            case 4 if isinstance(parent, dict):
                parent[pick(rng, TEXTS)] = parent.pop(key)
            case 4:
                parent.append(parent[key])
            case _:
                other, place = pick(rng, places)
                parent[key] = copy.deepcopy(other[place]) if place in other or isinstance(other, list) else value(rng)
    return tree


def _places(tree):
    """Each value of a tree, as what holds it and where."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, child in items:
        yield tree, key
        yield from _places(child)


def json_changed(content: bytes, rng) -> bytes:
    """JSON: damaged, of an odd structure, or of another encoding."""
    match int(rng.integers(8)):
        case 0 | 1:
            return bytes_changed(content, rng)
        case 2:
            return pick(rng, JSONS)
        case 3:
            return content.decode().encode(pick(rng, ("utf-16", "utf-32", "utf-8-sig", "utf-16-le")))
        case _:
            return json.dumps(tree_changed(json.loads(content), rng)).encode()


# Each line names the one before seven times: a kilobyte that would be a terabyte.
LAUGHS = b"".join(b"%c: &%c [%b]\n" % (c + 1, c + 1, b", ".join([b"*%c" % c] * 7)) for c in range(97, 112))
YAMLS = (
    b"a: &a [x, x, x, x, x, x, x, x, x]\n" + LAUGHS,
    b"a: &a {b: *a}\n",
    b"a: &a\n  b: 1\n  c: *a\n",
    b"x: !!python/object/apply:os.getcwd []\n",
    b"x: !!binary abc\n",
    b"? {a: 1}\n: 2\n",
    b"? [1, 2]\n: 2\n",
    b"1: 2\n3.5: 4\ntrue: false\nnull: null\n2020-01-01: 1\n",
    b"a: 2020-13-45\n",
    b"<<: 1\n",
    b"<<: [1]\n",
    b"\ta: 1\n",
    b"--- a\n--- b\n",
    b"%YAML 9.9\n---\na: 1\n",
    b"a: 1\na: 2\n",
    b"data: {path: .nan}\noptim: {lr: .inf}\n",
    b"a: 190:20:30\nb: 0o17\nc: 0x_\n",
    b"[" * 2000,
    b"{a: " * 2000,
    b"- " * 2000,
    b"a: " + b"9" * 6000 + b"\n",
)


def yaml_changed(content: bytes, rng) -> bytes:
    """YAML: damaged, odd, or with odd values."""
    match int(rng.integers(6)):
        case 0 | 1:
            return bytes_changed(content, rng)
        case 2:
            return pick(rng, YAMLS)
        case 3:
            return content + pick(rng, YAMLS)
        case _:
            return yaml.safe_dump(tree_changed(yaml.safe_load(content), rng)).encode("utf-8", "surrogatepass")


DECIMALS = ("0", "-1", "1e30", "nan", "inf", "a", "0\\0\\0", "1\\0\\0\\1\\0\\0")
SYNTAXES = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5", "1.2.3")


def dicom_changed(content: bytes, rng) -> bytes:
    """A DICOM file: damaged, or with one to three elements of its header left out, emptied or as they cannot be."""
    if rng.random() < 0.3:
        return bytes_changed(content, rng)
    ds = pydicom.dcmread(io.BytesIO(content))
    for _ in range(int(rng.integers(1, 4))):
        names = [element.tag for element in ds if element.VR != "SQ"]
        tag = pick(rng, names)
        element = ds[tag]
        match int(rng.integers(5)):
            case 0:
                del ds[tag]
            case 1:
                element._value = b"" if element.VR in ("OW", "OB", "UN") else None
            case 2 if element.VR in ("US", "SS"):
                element._value = int(pick(rng, (0, 1, 2, 12, 64, 255, 32767, 65535)))
            case 2 if element.VR == "OW":
                element._value = element.value[: int(rng.integers(len(element.value)))]
            case 3 if element.VR in ("DS", "IS"):
                ds[tag] = pydicom.DataElement(tag, "LO", pick(rng, DECIMALS))
            case _:
                ds[tag] = pydicom.DataElement(tag, "OB", rng.bytes(2 * int(rng.integers(1, 20))))
    if rng.random() < 0.15:
        ds.file_meta.TransferSyntaxUID = pick(rng, SYNTAXES)
    file = io.BytesIO()
    try:
        pydicom.dcmwrite(file, ds)
    except Exception:  # what pydicom itself cannot write, it will not meet
        return bytes_changed(content, rng)
    return file.getvalue()


def pickle_changed(content: bytes, rng) -> bytes:
    """A pickle: damaged, or of something else."""
    if rng.random() < 0.6:
        return bytes_changed(content, rng)
    tree = tree_changed(pickle.loads(content), rng)  # noqa: S301  our own
    return pickle.dumps(tree, int(rng.integers(0, 6)))


def checkpoint_changed(content: bytes, rng) -> bytes:
    """A checkpoint: damaged, an archive whose members are, or a sound one of odd values."""
    match int(rng.integers(4)):
        case 0:
            return bytes_changed(content, rng)
        case 1 | 2:
            return _archive_changed(content, rng)
        case _:
            tree = torch.load(io.BytesIO(content), weights_only=True)
            file = io.BytesIO()
            torch.save(tensors_changed(tree, rng), file)
            return file.getvalue()


def tensors_changed(tree, rng):
    """A tree of a checkpoint with odd values, or with tensors of other shapes, kinds or numbers."""
    if rng.random() < 0.5:
        return tree_changed(tree, rng)
    places = [(parent, key) for parent, key in _places(tree) if isinstance(parent[key], torch.Tensor)]
    parent, key = pick(rng, places)
    tensor = parent[key]
    parent[key] = pick(
        rng,
        (
            tensor[..., None],
            tensor.flatten()[:0],
            tensor.to(torch.complex64) if tensor.dtype.is_floating_point else tensor.bool(),
            torch.full_like(tensor, 0) + (math.nan if tensor.dtype.is_floating_point else -1),
            tensor.to_sparse() if tensor.ndim else tensor.reshape(1),
            torch.zeros(1).expand(2**40),
            tensor.to("meta"),
            torch.zeros(3, dtype=torch.bool),
        ),
    )
    return tree


def _archive_changed(content: bytes, rng) -> bytes:
    """A ZIP archive with one member damaged, left out, doubled, renamed or swollen."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    at = int(rng.integers(len(members))) if rng.random() < 0.5 else 0  # the first is the pickle
    name, data = members[at]
    match int(rng.integers(5)):
        case 0:
            del members[at]
        case 1:
            members.append((name, data[: len(data) // 2]))
        case 2:
            members[at] = (f"{name}{pick(rng, TEXTS[2:4])}", data)
        case 3:
            members[at] = (name, data + bytes(150 * 2**20))
        case _:
            members[at] = (name, bytes_changed(data, rng))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", pick(rng, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for one, octets in members:
            archive.writestr(one, octets)
    return file.getvalue()
