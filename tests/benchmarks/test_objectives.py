"""The pages of compared objectives are those of the runs that are kept beside them."""

from pathlib import Path

import pytest

from benchmarks import objectives
from benchmarks.objectives import STUDIES, Study, page, settings_of

FOLDER = Path(objectives.__file__).parent
KEPT = [study for study in STUDIES.values() if (FOLDER / study.page).exists()]


@pytest.mark.parametrize("study", KEPT, ids=lambda study: study.page)
def test_a_page_is_that_of_its_runs(study: Study) -> None:
    assert (FOLDER / f"{study.page}.md").read_text() == page(study, FOLDER / study.page)


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.page)
def test_variants_are_settings_that_can_work(study: Study) -> None:
    for variant in study.variants.values():
        settings_of(variant)[0].check()
