"""c13: how sensitive is the distillation to its hyper-parameters and data?

One factor at a time around a base recipe, on the tiny micro network. By default the cheap settings of 'local', one of the paper's
recipe, and one seed; `--full` adds the slow ones, all others of the paper's recipe (whose blocks can also be taken backwards:
'local' fits each block to the student's earlier ones and walks forward by construction), and three seeds.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from geluless.verdicts import ClaimFixture, Control, Evidence, Resource, Verdict
from geluless.verdicts.ablation import CONTROL, SETTINGS
from geluless.verdicts.accuracy import ablation_table
from geluless.verdicts.accuracy_controls import gain
from geluless.verdicts.equivalence import non_inferiority, paired_drop
from geluless.verdicts.micro_networks import SEED, SEEDS, Kind, Task
from geluless.verdicts.pool import EvidencePool
from geluless.verdicts.verdict import all_of

SIZE = "tiny"
SWAPS = {"fp32-naive": "naive swap", "fp32-corrected": "bias-corrected swap"}  # what a recipe must be worth its while against
BASE, NOTHING = Task(Kind.BASE, SIZE), Task(Kind.VARIED, SIZE, setting=CONTROL)


def family(*, full: bool) -> tuple[Task, ...]:
    """Every run that the table compares, base recipes first."""
    names = [name for name, setting in SETTINGS.items() if full or setting.default]
    recipes = dict.fromkeys(Kind(SETTINGS[name].recipe) for name in names)
    seeds = SEEDS if full else (SEED,)
    return (
        *(Task(kind, SIZE, seed) for kind in recipes for seed in seeds),
        *(Task(Kind.VARIED, SIZE, seed, name) for name in names for seed in seeds),
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "factor" not in metafunc.fixturenames:
        return
    tasks = family(full=metafunc.config.getoption("full"))
    marks = pytest.mark.evidence(*map(str, (BASE, NOTHING, *tasks)))
    settings = [SETTINGS[task.setting] for task in tasks if task.setting]
    metafunc.parametrize(
        ("recipe", "factor"),
        [
            pytest.param(recipe, factor, id=f"{recipe}-{factor.replace(' ', '-')}", marks=marks)
            for recipe, factor in dict.fromkeys((setting.recipe, setting.factor) for setting in settings)
        ],
    )


def test_ablation_on_the_embedded_networks(
    claim: ClaimFixture, micro_networks: EvidencePool, tier: str, recipe: str, factor: str
) -> None:
    """Judged: the recovery holds at every value of this factor, with every seed, within 0.5 pp of the teacher."""
    tasks = family(full=claim.full)
    results = dict(zip(tasks, micro_networks.get(*tasks), strict=True))
    base, nothing = micro_networks.get(BASE, NOTHING)
    gelu = base.correct("fp32-gelu")
    table = ablation_table(results, SIZE)
    own = {
        task: result
        for task, result in results.items()
        if task.setting and (SETTINGS[task.setting].recipe, SETTINGS[task.setting].factor) == (recipe, factor)
    }
    judgements, gains = [], []
    for task, result in own.items():
        named, relu = f"{SETTINGS[task.setting].value}, seed {task.seed}", result.correct("fp32-relu")
        judgement = non_inferiority(paired_drop(gelu, relu))
        judgements.append(replace(judgement, sentence=f"{named}: {judgement.sentence}"))
        gains += [gain(base.correct(swap), relu, over=f"the {words}, {named}") for swap, words in SWAPS.items()]
    wrong = non_inferiority(paired_drop(gelu, nothing.correct("fp32-relu")))
    moved = int((nothing.predictions["fp32-relu"] != base.predictions["fp32-naive"]).sum())
    rows = [row for row in table if (row.setting.recipe, row.setting.factor) == (recipe, factor)]
    claim.decide(
        all_of(judgements),
        Evidence(
            ran=f"the tiny teacher distilled by {recipe!r} with another {factor}, all else as in the recipe, FP32, on "
            f"{base.images}",
            tier=tier,
            seconds=sum(sum(result.seconds.values()) for result in own.values()),
            control=Control(
                "distillation at a learning rate of zero, without the closed form, must be refused and answer as the naive swap",
                f"{wrong.sentence}; {moved} answers differ from the naive swap's",
                wrong.verdict is Verdict.REFUTED and moved == 0,
            ),
            artifacts={"teacher": base.teacher_sha256},
            numbers=(
                *(row.estimate() for row in rows),
                *(paired_drop(gelu, base.correct(swap)).estimate(f"drop of the {words} alone") for swap, words in SWAPS.items()),
                *(estimate for judged in gains for estimate in judged.estimates),
            ),
            details=tuple(
                f"{row.setting.recipe}, {row.setting.value}: McNemar p = {row.p_holm:.2g} against the base recipe, Holm-"
                f"corrected over the {sum(len(r.drops) for r in table)} comparisons of all factors; "
                f"seeds {', '.join(map(str, row.drops))}"
                for row in rows
            ),
        ),
    )


def test_data_fraction_on_imagenet(claim: ClaimFixture) -> None:
    claim.needs(
        Resource.IMAGENET,
        Resource.IMAGENET_TRAIN,
        would_run="1, 3, 10 and 30 % of the training set, chosen class-balanced, at random and by the teacher's certainty, "
        "recipe 'paper', paired drop to the teacher and gain over the bias-corrected swap on the validation images",
    )
