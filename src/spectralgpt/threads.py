"""How many threads numpy's products take where something else uses the processor's."""

from contextlib import AbstractContextManager

from threadpoolctl import ThreadpoolController

__all__ = ["one_thread_a_product", "start_worker"]


def one_thread_a_product() -> AbstractContextManager[object]:
    """Hold numpy's own OpenBLAS to one thread, from the call to the end of the context.

    Beside a model, or in one of several worker processes, each small product would else
    wait for threads that find no free core. What torch uses keeps its threads.
    """
    numpys = ThreadpoolController().select(internal_api="openblas")
    return numpys.limit(limits=1, user_api="blas")


def start_worker(_: int) -> None:
    """Prepare a loader's process, as torch does for its own threads."""
    one_thread_a_product()
