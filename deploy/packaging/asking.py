"""Questions to a running server: over HTTP in JSON and binary, and over gRPC."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.serving.model import TensorInfo
from deploy.serving.tensors import DATATYPES
from trueint8.errors import ConfigError, MissingDependency, RunError

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Client:
    """One way to ask a server.

    Attributes:
        way: ``HTTP, JSON``, ``HTTP, binary`` or ``gRPC``.
        library: tritonclient's module for it.
        connection: Its client.
    """

    way: str
    library: Any
    connection: Any

    @property
    def _binary(self) -> dict[str, bool]:
        return {} if self.way == "gRPC" else {"binary_data": self.way == "HTTP, binary"}

    def server(self) -> tuple[str, str]:
        """Return the server's name and version.

        Raises:
            RunError: If it does not answer.
        """
        told = self._asked(lambda: self.connection.get_server_metadata(**self._plain))
        return str(told.get("name", "")), str(told.get("version", ""))

    @property
    def _plain(self) -> dict[str, bool]:
        return {"as_json": True} if self.way == "gRPC" else {}

    def signature(self, model: str, version: str) -> tuple[list[TensorInfo], list[TensorInfo]]:
        """Return what the server says that a model takes and gives.

        Raises:
            RunError: If it has no such model.
        """
        told = self._asked(
            lambda: self.connection.get_model_metadata(model, version, **self._plain)
        )
        sides = [
            [
                TensorInfo(t["name"], t["datatype"], tuple(int(d) for d in t.get("shape", ())))
                for t in told.get(side, ())
            ]
            for side in ("inputs", "outputs")
        ]
        return sides[0], sides[1]

    def infer(
        self, model: str, version: str, arrays: Mapping[str, np.ndarray], outputs: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Return a model's outputs for one batch.

        Raises:
            RunError: If the server refuses it, fails, or leaves an output out.
        """
        inputs = []
        for name, array in arrays.items():
            item = self.library.InferInput(name, list(array.shape), DATATYPES[array.dtype.name])
            item.set_data_from_numpy(array, **self._binary)
            inputs.append(item)
        wanted = [self.library.InferRequestedOutput(name, **self._binary) for name in outputs]
        answer = self._asked(lambda: self.connection.infer(model, inputs, version, outputs=wanted))
        found = {name: answer.as_numpy(name) for name in outputs}
        for name, values in found.items():
            if values is None:
                raise RunError(
                    f"{model} over {self.way} answers without its output {name!r}",
                    fix="look into the server's log",
                )
        return found

    def _asked(self, question: Any) -> Any:
        from tritonclient.utils import InferenceServerException

        try:
            return question()
        except (InferenceServerException, OSError) as err:
            raise RunError(
                f"the server over {self.way}: {str(err).splitlines()[0]}",
                fix="check that it is up, that it has loaded the model, and its log",
            ) from err


@contextmanager
def clients(url: str) -> Iterator[list[Client]]:
    """Yield the ways to ask a server at a URL.

    Args:
        url: ``http://HOST:PORT``, which is asked in JSON and binary, or ``grpc://HOST:PORT``.

    Raises:
        ConfigError: If it is something else.
        MissingDependency: If tritonclient is not installed.
    """
    scheme, _, address = url.rstrip("/").partition("://")
    if scheme not in ("http", "grpc") or not address:
        raise ConfigError(
            f"--url {url} is no address of a server",
            fix="--url http://HOST:8000 --url grpc://HOST:8001",
        )
    library, made = _library(scheme), None
    try:
        if scheme == "grpc":
            made = library.InferenceServerClient(address)
            yield [Client("gRPC", library, made)]
        else:
            made = library.InferenceServerClient(
                address, connection_timeout=TIMEOUT_S, network_timeout=TIMEOUT_S
            )
            yield [Client(f"HTTP, {how}", library, made) for how in ("JSON", "binary")]
    finally:
        if made is not None:
            made.close()


def _library(scheme: str) -> Any:
    try:
        if scheme == "grpc":
            import tritonclient.grpc as found
        else:
            import tritonclient.http as found
    except (ImportError, RuntimeError) as err:  # the latter is its word for a part left out
        raise MissingDependency(
            f"asking a server over {scheme} needs tritonclient: {str(err).splitlines()[0]}",
            fix="pip install 'trueint8[triton]'",
        ) from err
    return found
