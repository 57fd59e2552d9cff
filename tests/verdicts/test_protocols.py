"""Protocols are frozen: their table is read strictly, and a change of it is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from geluless.bench import load, study
from geluless.verdicts.protocols import load_protocols
from geluless.verdicts.registry import RegistryError
from geluless.verdicts.timing_session import conditions

REGISTRY = Path(__file__).parents[2] / "claims" / "claims.toml"
# Of the [timing] table. A protocol that follows its results decides them: whoever changes the table says in the commit why it was
# changed before a look at what it would say, and enters the new digest here.
FROZEN = "d84f8e8009ca2fdf4415824bc968bebac1ce18317f53d63c2404d9231f83e3ec"

TABLE = """
[timing]
warm_up = 1.0
foreign_load = 0.25
runs = 2
[timing.studies]
tiny = { processes = 4, blocks = 10 }
"isa *" = { processes = 3, blocks = 8 }
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "claims.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_protocols_are_those_that_were_frozen() -> None:
    assert load_protocols(REGISTRY).digest == FROZEN


def test_every_study_of_the_claims_has_a_protocol() -> None:
    protocols = load_protocols(REGISTRY)
    names = ["tiny", "small", "base", "large", "fc1 kernels", "engines", "race", *conditions(64, ("a", "b", "c"))]
    assert all(protocols.of(name).processes >= 3 for name in names)
    assert {protocols.of(name).runs for name in names} == {2}


def test_they_warm_up_and_drop_as_every_other_study_does() -> None:
    protocol = load_protocols(REGISTRY).of("tiny")
    assert (protocol.warm_up, protocol.foreign_load) == (study.WARM_UP, load.TOO_MUCH)


def test_a_star_holds_for_what_begins_so(tmp_path: Path) -> None:
    protocols = load_protocols(write(tmp_path, TABLE))
    assert protocols.of("isa avx2").processes == 3
    assert protocols.of("tiny").blocks == 10
    assert str(protocols.of("tiny")).startswith("2 runs x 4 processes x 10 blocks")
    for unknown in ("small", "tiny 2", "is"):
        with pytest.raises(RegistryError, match="no protocol for the timing"):
            protocols.of(unknown)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("runs = 2", "runs = 0", "runs must be a positive whole number, not 0"),
        ("runs = 2", "runs = 2.5", "positive whole number"),
        ("runs = 2", "runs = true", "positive whole number"),
        ("runs = 2\n", "", "has warm_up, foreign_load, runs"),
        ("runs = 2", "runs = 2\nrounds = 3", "nothing else"),
        ("warm_up = 1.0", 'warm_up = "long"', "warm_up must be a positive number"),
        ("blocks = 10", "blocks = -1", "blocks of the study 'tiny' must be a positive whole number"),
        ("processes = 4, ", "", "the study 'tiny' has 'processes' and 'blocks'"),
        ("[timing]", "[timing", "no readable TOML"),
        (TABLE, "", r"\[timing\] has"),
    ],
)
def test_what_is_no_protocol_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        load_protocols(write(tmp_path, TABLE.replace(old, new)))


def test_a_registry_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="no readable TOML"):
        load_protocols(tmp_path / "nothing.toml")
