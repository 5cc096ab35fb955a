"""Stages that run in parallel."""

import threading

import pytest

from transpose.runtime.ahead import ahead


def test_items_come_in_order_and_are_made_before_they_are_asked_for():
    made, third = [], threading.Event()

    def items():
        for number in range(20):
            made.append(number)
            if number == 3:
                third.set()
            yield number

    stream = ahead(items(), most=4)
    assert next(stream) == 0
    assert third.wait(60) and len(made) <= 5 + 1
    assert list(stream) == list(range(1, 20)) and list(ahead([])) == []


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        raise ValueError("broken")

    stream = ahead(items())
    assert next(stream) == 1
    with pytest.raises(ValueError, match="broken"):
        next(stream)


def test_a_reader_that_stops_early_ends_the_thread():
    before = set(threading.enumerate())
    stream = ahead(iter(int, 1))
    assert next(stream) == 0
    stream.close()
    assert set(threading.enumerate()) <= before
