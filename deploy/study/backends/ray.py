"""A Ray cluster: a node to itself for every timed job, with a GPU where the cluster has any.

The package and the study's folder are to be found on every node under the same path.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from deploy.study.jobs import GRACE_S, Job, Processes
from trueint8.errors import ConfigError, MissingDependency


class RayBackend:
    """Runs jobs on the cluster that ``RAY_ADDRESS`` or this machine's Ray names.

    Args:
        jobs: Must be None: the cluster's resources decide how many run at a time.

    Raises:
        ConfigError: If ``jobs`` is given, no cluster answers, or no node fits a timed job.
        MissingDependency: If Ray is not installed.
    """

    def __init__(self, jobs: int | None) -> None:
        if jobs is not None:
            raise ConfigError(
                "--jobs is for this machine; on a cluster its resources decide",
                fix="leave --jobs out",
            )
        self._ray = _library()
        self._connected = not self._ray.is_initialized()
        if self._connected:
            try:
                self._ray.init(address="auto", log_to_driver=False)
            except ConnectionError as err:
                raise ConfigError(
                    f"no Ray cluster answers: {err}",
                    fix="start one with `ray start --head`, or set RAY_ADDRESS",
                ) from err
        self._references: list[Any] = []
        try:
            self.cores, self.gpus = timed_demand(self._ray.nodes())
        except BaseException:
            self.close()
            raise

    def submit(self, job: Job) -> Future[None]:
        """Hand a job to the cluster.

        A build takes a GPU too where there are any: TensorRT chooses kernels by timing them.
        """
        demand = {"num_cpus": self.cores if job.timed else 1, "num_gpus": self.gpus}
        task = self._ray.remote(run_on_node).options(**demand, max_retries=0)
        reference = task.remote(job)
        self._references.append(reference)
        future: Future[None] = reference.future()
        return future

    def close(self) -> None:
        """Cancel what is queued or runs; leave a cluster that was connected to before as it was."""
        for reference in self._unfinished(0):
            self._ray.cancel(reference)
        for reference in self._unfinished(2 * GRACE_S):
            self._ray.cancel(reference, force=True)
        self._references.clear()
        if self._connected:
            self._ray.shutdown()

    def _unfinished(self, timeout_s: float) -> list[Any]:
        """Return the references of jobs that are not done after a time."""
        if not self._references:
            return []
        count = len(self._references)
        _, left = self._ray.wait(self._references, num_returns=count, timeout=timeout_s)
        return list(left)


def timed_demand(nodes: list[dict[str, Any]]) -> tuple[int, int]:
    """Return the cores and GPUs to ask for, so that a timed job has a node to itself.

    That is all cores of the smallest node that can take one; two that land on a larger node wait
    for each other there.

    Args:
        nodes: As ``ray.nodes()`` lists them.

    Raises:
        ConfigError: If no node is alive with a core, and a GPU if the cluster has any.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = int(any(resources.get("GPU", 0) >= 1 for resources in alive))
    cores = [int(resources.get("CPU", 0)) for resources in alive if resources.get("GPU", 0) >= gpus]
    fitting = [count for count in cores if count >= 1]
    if not fitting:
        wanted = "a core and a GPU" if gpus else "a core"
        raise ConfigError(
            f"none of the cluster's {len(alive)} nodes has {wanted} to give",
            fix="start nodes with `ray start --num-cpus N` and, for GPUs, --num-gpus N",
        )
    return min(fitting), gpus


def run_on_node(job: Job) -> None:
    """Run a job on the node this is called on, and end it if this call is cancelled."""
    processes = Processes()
    try:
        processes.run(job)
    finally:
        processes.stop()


def _library() -> Any:
    try:
        import ray
    except ImportError as err:
        raise MissingDependency(
            "--cluster ray needs the package ray, which is not installed",
            fix="pip install 'trueint8[cluster]'",
        ) from err
    return ray


BACKEND = RayBackend
