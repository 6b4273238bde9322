"""The sample's default rows without the ticket archive, generated once for all tests of this folder."""

import pytest

from rlhf.feedback.rows import AnnotationRow
from rlhf.sample.settings import SupportDeskSettings
from rlhf.sample.support_desk import support_desk_rows


@pytest.fixture(scope="session")
def rows() -> list[AnnotationRow]:
    return list(support_desk_rows(SupportDeskSettings(archive=0)))
