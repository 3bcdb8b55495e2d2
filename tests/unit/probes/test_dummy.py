from __future__ import annotations

import pytest

from orbitcontrol.model.service import DummyCheck
from orbitcontrol.probes.dummy import DummyProber
from support.loops import RUN


@pytest.mark.parametrize("result", [True, False])
async def test_a_dummy_check_answers_what_it_is_told_to(*, result: bool) -> None:
    assert (await DummyProber().probe(DummyCheck(dummy_result=result), RUN)).passed is result
