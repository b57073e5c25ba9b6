"""What chapters show of the records: every summary is that of its runs, and ``show`` gives figures, tables and text."""

import importlib
import json
import re
from collections.abc import Iterator

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from experiments import records

NAMES = ["augmentation", "data_size", "distillation", "few_shot", "masked_patches", "pixel_tokens", "pretrain",
         "resolution", "scaling", "tokens"]


@pytest.fixture(params=NAMES)
def experiment(request):
    return importlib.import_module(f"experiments.{request.param}")


@pytest.fixture
def record(experiment):
    return records.read(experiment.__name__.partition(".")[2])


def leaves(value: object, *path: object) -> Iterator[tuple[tuple, object]]:
    """Every number and word of a summary, with the keys that lead to it."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, *path, key)
    else:
        yield path, value


def test_a_records_summary_is_that_of_its_runs(experiment, record):
    ours = dict(leaves(json.loads(json.dumps(experiment.summarise(record["runs"])))))
    theirs = dict(leaves(record["summary"]))
    assert ours.keys() == theirs.keys()
    for path, value in theirs.items():
        assert ours[path] == (pytest.approx(value, rel=1e-3, abs=1e-4) if isinstance(value, float) else value), path


def test_everything_is_shown_and_what_is_not_there_is_refused(experiment, record):
    with pytest.raises(ValueError, match="what is 'colours'; expected one of") as error:
        experiment.show(record, "colours")
    views = re.findall(r"'(\w+)'", str(error.value).partition("expected")[2])
    assert views
    for what in views:
        assert f'``"{what}"``' in experiment.show.__doc__, what
        shown = experiment.show(record, what)
        if isinstance(shown, Figure):
            assert shown.axes[0].lines or shown.axes[0].patches, what
            plt.close(shown)
        else:
            assert len(shown.split()) > 5, what
