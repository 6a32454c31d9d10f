"""A loaded bundle inside a program of someone else: threads, the interpreter's lock, imports."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import deploy
from deploy.bundle import Bundle
from tests.deploy.checkpoints import POSITIONS
from tests.deploy.serving.asking import drawn

ENGINES = ("onnxruntime", "openvino")


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_get_the_answers_that_one_gets(bundle: Bundle, engine: str) -> None:
    """Many lengths and batch sizes at a time, as a pool of request handlers would ask."""
    inputs = [drawn(1 + n % 3, 3 + n % 20, n) for n in range(60)]
    start = threading.Barrier(8)

    def run(shift: int) -> list[np.ndarray]:
        start.wait(60)
        return [session.run(inputs[(n + shift) % len(inputs)])["logits"] for n in range(60)]

    with deploy.load(bundle.path, engine=engine) as session, ThreadPoolExecutor(8) as pool:
        expected = [session.run(one)["logits"] for one in inputs]
        for shift, found in enumerate(pool.map(run, range(8))):
            for n, answer in enumerate(found):
                np.testing.assert_array_equal(answer, expected[(n + shift) % len(inputs)])


class Counter:
    """Counts in pure Python, on a thread of its own."""

    def __init__(self) -> None:
        self.count = 0
        self._going = True
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while self._going:
            self.count += 1
            if not self.count % 100:
                time.sleep(0)  # lets others have the interpreter

    def end(self) -> None:
        self._going = False
        self._thread.join()


@pytest.mark.parametrize("engine", ENGINES)
def test_python_goes_on_while_the_engine_computes(bundle: Bundle, engine: str) -> None:
    """The interpreter never takes its lock from a thread here: whoever holds it must give it."""
    interval = sys.getswitchinterval()
    with deploy.load(bundle.path, engine=engine, threads=1) as session:
        inputs = drawn(256, POSITIONS, 0)
        session.run(inputs)
        sys.setswitchinterval(100)
        counter = Counter()
        try:
            before = counter.count
            assert sum(range(3_000_000))
            beside_python = counter.count - before
            before = counter.count
            session.run(inputs)
            beside_engine = counter.count - before
        finally:
            sys.setswitchinterval(interval)
            counter.end()
    assert not beside_python, "pure Python keeps the lock, or this says nothing"
    assert beside_engine > 1000


PROGRAM = """
import json, sys
import deploy
with deploy.load(sys.argv[1], engine=sys.argv[2], graph=sys.argv[3]) as session:
    import numpy as np
    ids = np.full((2, 7), 5)
    ones = np.ones_like(ids)
    found = session.run({"input_ids": ids, "attention_mask": ones, "token_type_ids": ones * 0})
loaded = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps({"shape": found["logits"].shape, "loaded": loaded}))
"""


@pytest.mark.parametrize("graph", ["int8", "float"])
@pytest.mark.parametrize("engine", ENGINES)
def test_running_a_bundle_imports_its_runtime_and_little_else(
    bundle: Bundle, engine: str, graph: str
) -> None:
    """What was imported is what loading takes: each of these is slower than the runtime."""
    command = [sys.executable, "-c", PROGRAM, str(bundle.path), engine, graph]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    loaded = set(told["loaded"])
    assert told["shape"][:2] == [2, 7] and engine in loaded
    assert not loaded & {"torch", "transformers", "tokenizers"}
    assert not loaded & {"onnx", "onnx_ir", "onnxscript", "sympy", "scipy", "numba", "llvmlite"}
    assert not loaded & {"rich", "click", "yaml", "psutil", "jinja2", "altair", "safetensors"}
