"""Reads the tensors of a file of weights, in any format the field passes around, without ever executing a pickle."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # of a folder or a Hub repository
SUFFIXES = (".safetensors", ".pth", ".pt", ".pth.tar", ".bin", ".pkl")
WAY_OUT = f"give a file ({', '.join(SUFFIXES)}), a save_pretrained folder, a Hub repository or a timm model's name"
# What other people's dictionaries call the weights, the likeliest first.
_ENTRIES = ("state_dict", "model_state_dict", "state_dict_backbone", "state_dict_model", "model", "net", "backbone")


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Reads the named tensors of a file, or of a folder's `model.safetensors` or `pytorch_model.bin`.

    Formats are told apart by content: safetensors, torch (new and old) and pickles of NumPy arrays, Python 2's
    too. Wrappers such as `{"state_dict": ..., "epoch": ...}` are taken off; names stay as they are.
    No code that a file names is ever run.

    Args:
        path: of the file or folder.

    Returns:
        Names and detached CPU tensors of any shape, in the order of the file.

    Raises:
        ValueError: there is no such file, it is no file of weights, it is damaged, or it would execute code.
    """
    if (existing := existing_path(path)) is None:
        raise ValueError(f"{path}: there is no such file or folder; {WAY_OUT}")
    return read_file(weights_file(existing, path), path)[0]


def existing_path(source: str | Path) -> Path | None:
    """`source` as a path, or None where nothing of that name exists."""
    try:
        path = Path(source).expanduser()
        return path if str(source) and path.exists() else None
    except (OSError, RuntimeError, ValueError):  # a name no file system would take, or no user has
        return None


def weights_file(path: Path, source: str | Path) -> Path:
    """The file of weights at `path`, a file or a folder; ValueError (naming `source`) if the folder has none."""
    if not path.is_dir():
        return path
    for name in WEIGHT_FILES:
        if (path / name).is_file():
            return path / name
    raise ValueError(f"{source}: the folder has neither {' nor '.join(WEIGHT_FILES)}; give the weights' own path")


def read_file(path: Path, source: str | Path) -> tuple[dict[str, Tensor], bool]:
    """Names and tensors of a file, and whether it is a pickle of NumPy arrays."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
        if not head:
            raise ValueError(f"{source}: the file is empty; download it again")
        safetensors = head[8:9] == b"{"  # after the length of the header
        if head.startswith(b"version https://git-lfs"):
            raise ValueError(
                f"{source}: this is a Git LFS pointer, not the weights; run `git lfs pull`, or download it"
            )
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and not safetensors:
            raise ValueError(f"{source}: this is a web page, not weights; download the file that the page leads to")
        safetensors = safetensors or path.suffix.lower() == ".safetensors"
        by_torch = head.startswith((b"PK", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."))  # zip, or its magic number
    except OSError as e:
        raise ValueError(f"{source}: the file cannot be opened ({e.strerror}); check its permissions") from e
    try:
        if safetensors:
            from safetensors.torch import load_file

            content: Any = load_file(path)
        elif by_torch:
            content = _load_torch(path)
        else:
            with path.open("rb") as file:
                content = _NumpyUnpickler(file, encoding="latin1").load()
    except _ForbiddenGlobalError as e:
        raise ValueError(
            f"{source}: the file asks for {e}, which is no tensor: loading it would execute code, so it was refused "
            f"and nothing of it was run; save the state dict alone, best as safetensors"
        ) from e
    except Exception as e:  # what a damaged or hostile file can provoke is no closed list
        raise ValueError(
            f"{source}: the file cannot be read as weights ({first_line(e)}); "
            f"it may be cut short or of another kind: download it again"
        ) from e
    return _find_tensors(content, source), not (safetensors or by_torch)


class _ForbiddenGlobalError(pickle.UnpicklingError):
    """A pickle names something other than tensors and arrays."""


class _PickledDtype:
    """Stands in for `numpy.dtype` in pickles: understands plain numbers, does nothing else."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code.decode("ascii") if isinstance(code, bytes) else str(code)
        if not re.fullmatch(r"[<>|=]?(f[248]|i[1248]|[ub]1)", self.code):
            raise ValueError(f"arrays of type {self.code!r}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        self.code = (order if order in ("<", ">") else "=") + self.code.lstrip("<>|=")


class _PickledArray:
    """Stands in for `numpy.ndarray` in pickles: takes the bytes, and hands them out as a tensor."""

    tensor = torch.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, fortran, data = state[-4:]
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: Any, dtype: _PickledDtype, shape: tuple[int, ...], order: str) -> None:
        import numpy as np

        raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
        array = np.frombuffer(raw, np.dtype(dtype.code)).reshape(shape, order=order)
        self.tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))


def _stand_ins() -> dict[str, Any]:
    """What the names that NumPy's pickles use are answered with: code of ours that only takes in numbers.

    Made anew for every file, as a pickle can write attributes into the functions it is given.
    """

    class Array(_PickledArray):
        pass

    class Dtype(_PickledDtype):
        pass

    def array(*_: Any) -> _PickledArray:
        return Array()

    def array_from_buffer(data: Any, dtype: _PickledDtype, shape: tuple[int, ...], order: str, *_: Any) -> Any:
        result = Array()
        result.fill(data, dtype, shape, order)
        return result

    def scalar(*_: Any) -> None:  # an accuracy, an epoch: of no use here
        return None

    def encode(text: str, encoding: str = "latin1") -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise _ForbiddenGlobalError(f"_codecs.encode to {encoding!r}")
        return text.encode("latin1")

    numpy_names = {
        "multiarray._reconstruct": array,
        "multiarray.scalar": scalar,
        "numeric._frombuffer": array_from_buffer,
    }
    return {
        **{f"numpy.{core}.{name}": value for core in ("core", "_core") for name, value in numpy_names.items()},
        "numpy.ndarray": Array,
        "numpy.dtype": Dtype,
        "_codecs.encode": encode,
        "collections.OrderedDict": OrderedDict,
    }


class _NumpyUnpickler(pickle.Unpickler):
    """Reads dictionaries of NumPy arrays; every other global is refused before it is looked up."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._allowed = _stand_ins()

    def find_class(self, module: str, name: str) -> Any:
        if (found := self._allowed.get(f"{module}.{name}")) is None:
            raise _ForbiddenGlobalError(f"{module}.{name}")
        return found


def _load_torch(path: Path) -> Any:
    """`torch.load` of weights only, in which NumPy's scalars and arrays (accuracies, epochs) are understood."""
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as e:
            if "numpy" not in str(e):
                raise
        stand_ins = [(value, name) for name, value in _stand_ins().items() if name.startswith("numpy.")]
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        if found := re.search(r"GLOBAL (\S+)", str(e)):
            raise _ForbiddenGlobalError(found[1]) from e
        found = re.search(r"WeightsUnpickler error: *([^\n]*)", str(e))
        raise pickle.UnpicklingError(found[1] if found else first_line(e)) from e


def _find_tensors(content: Any, source: str | Path) -> dict[str, Tensor]:
    """The dictionary of tensors inside the wrappers that training scripts put around it."""

    def tensors_of(value: Any) -> dict[str, Tensor]:
        entries = value.items() if isinstance(value, Mapping) else ()
        plain = ((name, v.tensor if isinstance(v, _PickledArray) else v) for name, v in entries)
        return {name: v.detach() for name, v in plain if isinstance(name, str) and isinstance(v, Tensor)}

    def search(value: Any, depth: int) -> dict[str, Tensor]:
        if depth == 0 or not isinstance(value, Mapping):
            return {}
        for name in _ENTRIES:
            if found := search(value.get(name), depth - 1):
                return found
        inner = [found for v in value.values() if (found := tensors_of(v))]
        return tensors_of(value) or (inner[0] if len(inner) == 1 else {})

    tensors = search(content, depth=4)
    if not tensors:
        what = f"entries {some(map(str, content))}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ValueError(f"{source}: no state dict was found in the file, only {what}; save the state dict alone")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise ValueError(f"{source}: tensor {name!r} is sparse, quantised or without values; save it as it is used")
    return tensors


def some(names: Iterable[str], limit: int = 4) -> str:
    """The first few names and how many more there are, for a sentence."""
    names = list(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest if names else "none"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".")[:200] if lines else type(error).__name__
