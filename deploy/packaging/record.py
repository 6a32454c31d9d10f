"""What a packaged version says of itself: ``package.json`` in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from deploy.manifest import FileEntry
from deploy.record import Record
from deploy.serving.model import TensorInfo
from trueint8.artifacts import sha256_file, write_atomically
from trueint8.errors import IntegrityError

FILE = "package.json"
SCHEMA: Literal["trueint8/triton/1"] = "trueint8/triton/1"

Role = Literal["model", "tokenizer", "postprocessing", "ensemble"]


class TensorEntry(Record):
    """One input or output, the batch axis included; -1 marks an axis that may vary."""

    name: str
    datatype: str
    shape: list[int]

    @classmethod
    def of(cls, tensor: TensorInfo) -> TensorEntry:
        """Return it as JSON holds it."""
        return cls(name=tensor.name, datatype=tensor.datatype, shape=list(tensor.shape))

    def info(self) -> TensorInfo:
        """Return it as everything else has it."""
        return TensorInfo(self.name, self.datatype, tuple(self.shape))


class PackageRecord(Record):
    """One version of one model of a repository."""

    schema_: Literal["trueint8/triton/1"] = Field(default=SCHEMA, alias="schema")
    role: Role
    model: str = Field(description="Of the repository, that this one is or works for.")
    engine: str
    engine_version: str = Field(description="Of the library that built the engine.")
    graph: Literal["int8", "float"]
    rest: Literal["fp32", "bf16", "fp16"] = Field(description="Precision of what is not INT8.")
    triton: str = Field(description="The release it was written for.")
    bundle_sha256: str = Field(description="Of the bundle's manifest.")
    read_from: str = Field(description="What names, types and shapes were read from.")
    loads: str = Field(description="The file that Triton loads; empty for programs and ensembles.")
    inputs: list[TensorEntry]
    outputs: list[TensorEntry]
    files: dict[str, FileEntry] = Field(default={}, description="Of the version's folder.")


def write_record(folder: Path, record: PackageRecord) -> None:
    """Hash a version's files and write its record beside them."""
    files = {name: _entry(folder / name) for name in _names(folder)}
    whole = record.model_copy(update={"files": files})
    write_atomically(folder / FILE, whole.model_dump_json(by_alias=True, indent=2) + "\n")


def read_record(folder: Path) -> PackageRecord:
    """Read a version's record and check the hashes of its files.

    Raises:
        IntegrityError: If there is none, or a file is missing, changed or not listed.
    """
    fix = "package the bundle again, as another version"
    try:
        record = PackageRecord.model_validate_json((folder / FILE).read_bytes())
    except FileNotFoundError as err:
        raise IntegrityError(
            f"{folder} holds no {FILE}: it was not packaged here", fix=fix
        ) from err
    except ValidationError as err:
        raise IntegrityError(
            f"{folder / FILE} is of another version or was changed", fix=fix
        ) from err
    for name in sorted({*record.files, *_names(folder)}):
        file = folder / name
        if name not in record.files:
            raise IntegrityError(f"{file} is not listed in {FILE}", fix=f"move {name} elsewhere")
        if not file.is_file() or _entry(file) != record.files[name]:
            raise IntegrityError(f"{file} is missing or was changed", fix=fix)
    return record


def _names(folder: Path) -> list[str]:
    """Return a folder's files; Python leaves compiled programs in it where it may."""
    files = (p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file())
    return [p.as_posix() for p in files if "__pycache__" not in p.parts and p != Path(FILE)]


def _entry(file: Path) -> Any:
    return FileEntry(sha256=sha256_file(file), bytes=file.stat().st_size)
