import threading
from collections.abc import Generator

import pytest
import torch
from threadpoolctl import ThreadpoolController

from spectralgpt.scenes.prefetch import prefetch


def test_items_come_in_order_from_another_thread_that_runs_ahead() -> None:
    begun: list[int] = []
    threads = set()

    def count() -> Generator[int]:
        for number in range(5):
            begun.append(number)
            threads.add(threading.get_ident())
            yield number

    found = []
    for number in prefetch(count(), depth=2):
        if number == 0:
            second = threading.Event()
            for _ in range(200):
                if len(begun) >= 2:
                    break
                second.wait(0.01)
            assert 1 in begun
        found.append(number)
    assert found == list(range(5))
    assert threading.get_ident() not in threads
    assert len(threads) == 1


def test_an_error_comes_after_what_went_well() -> None:
    def fail() -> Generator[int]:
        yield 1
        raise ValueError("broken")

    found = prefetch(fail())
    assert next(found) == 1
    with pytest.raises(ValueError, match="broken"):
        next(found)


def test_stopping_early_ends_the_generator_in_its_own_thread() -> None:
    ended = []

    def endless() -> Generator[int]:
        own = threading.get_ident()
        try:
            while True:
                yield 1
        finally:
            ended.append(threading.get_ident() == own)

    for _ in prefetch(endless()):
        break
    assert ended == [True]
    assert not [t for t in threading.enumerate() if "ThreadPool" in t.name]


def test_what_runs_ahead_computes_in_the_precision_of_its_user() -> None:
    a = torch.ones(2, 2)

    def multiply() -> Generator[torch.dtype]:
        yield (a @ a).dtype

    def nested() -> Generator[torch.dtype]:
        yield from prefetch(multiply())

    assert list(prefetch(nested())) == [torch.float32]
    with torch.autocast("cpu", torch.bfloat16):
        assert list(prefetch(nested())) == [torch.bfloat16]
    assert list(prefetch(nested())) == [torch.float32]


def test_numpys_products_keep_to_one_thread_meanwhile() -> None:
    def count_threads() -> Generator[int]:
        yield max(found["num_threads"] for found in openblas().info())

    if not openblas().info():
        pytest.skip("this numpy does not multiply with OpenBLAS")
    with openblas().limit(limits=3, user_api="blas"):
        assert list(prefetch(count_threads())) == [1]
        assert max(found["num_threads"] for found in openblas().info()) == 3


def openblas() -> ThreadpoolController:
    return ThreadpoolController().select(internal_api="openblas")
