"""The sample run, as fixtures."""

import importlib.util
import json
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("report_sample", Path(__file__).with_name("sample.py"))
_sample = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_sample)


@pytest.fixture
def make_results():
    """The function that makes a sample ``results.json`` as a dict."""
    return _sample.sample_results


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """A run folder with its report, and the results it was made from."""
    from ensemw2s.report.write import write_report

    folder = tmp_path_factory.mktemp("run")
    results = _sample.sample_results()
    results["scores"][0]["at_chance"] = True
    (folder / "results.json").write_text(json.dumps(results))
    return folder, results, write_report(folder)
