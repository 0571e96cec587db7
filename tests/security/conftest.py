"""A limit of memory, so that a decompression bomb fails and takes no other process with it."""

import contextlib
import resource

import pytest


@pytest.fixture
def limited_memory():
    """A block in which this process cannot take so many bytes more."""

    @contextlib.contextmanager
    def limited(bytes_):
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + bytes_, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    return limited
