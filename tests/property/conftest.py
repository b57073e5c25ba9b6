"""How long the property tests take: a short form with fixed seeds, or a long one with VITLITE_HARD=1."""

import os

import pytest
from hypothesis import HealthCheck, settings

HARD = os.environ.get("VITLITE_HARD") == "1"
settings.register_profile("property", max_examples=150 if HARD else 8, derandomize=not HARD, deadline=None,
                          database=None, suppress_health_check=list(HealthCheck))
settings.load_profile("property")


@pytest.fixture
def often():
    """How often to do what hypothesis does not count: the first number in the short form, the second in the long."""
    return lambda short, long: long if HARD else short
