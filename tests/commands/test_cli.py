"""The command line: one object on stdout with --json, one line for an error, an exit code that means something."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from geluless import cli
from geluless.commands import doctor
from geluless.commands.doctor import cpu_info, here_words, memory_gb, paper_words
from geluless.commands.output import checked_folder, checked_output
from geluless.commands.result import ExitCode, OptionError, Result
from geluless.errors import GelulessError, MissingResource
from geluless.files import atomic_output
from geluless.models.activations import replace_gelu
from geluless.models.micro import create_micro, init_micro
from geluless.verdicts.resources import CHECKPOINTS_VARIABLE, IMAGENET_VARIABLE, RUNNER_VARIABLE


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised micro Swin as .pth, and as a ReLU student's .safetensors beside it."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    model = create_micro("swin_micro_tiny")
    init_micro(model, fc2_gain=1.0)
    torch.save(model.state_dict(), folder / "gelu.pth")
    replace_gelu(model)
    save_file(model.state_dict(), folder / "relu.safetensors", metadata={"activation": "relu"})
    return folder


@pytest.fixture(scope="module")
def artifact(weights: Path) -> Path:
    path = weights / "gelu.int8.safetensors"
    assert cli.main(quantize_line(weights / "gelu.pth", path)) == 0
    return path


def quantize_line(checkpoint: Path, output: Path, *more: str) -> list[str]:
    line = ["quantize", "--model", "swin_micro_tiny", "--checkpoint", str(checkpoint), "--embedded"]
    return [*line, "--calibration-images", "32", "--output", str(output), *more]


def run_json(capsys: pytest.CaptureFixture[str], *line: str) -> tuple[int, dict[str, Any]]:
    """Exit code and the object on stdout, which must hold nothing else."""
    capsys.readouterr()
    code = cli.main([*line, "--json"])
    return code, json.loads(capsys.readouterr().out)


def one_line_error(capsys: pytest.CaptureFixture[str], *line: str) -> tuple[int, str]:
    """Exit code and the message, which must be the last line of stderr, with no traceback anywhere."""
    capsys.readouterr()
    code = cli.main(list(line))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    last = captured.err.splitlines()[-1]
    assert last.startswith("geluless")
    return code, last


# ------------------------------------------------------------------------------------------------ usage


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in ("doctor", "distill", "quantize", "validate", "report"))


@pytest.mark.parametrize("verb", ["doctor", "distill", "quantize", "validate", "report"])
def test_every_verb_has_json_and_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["destil"],
        ["quantize"],
        ["validate", "--artifact", "x", "--embedded", "--data-dir", "y"],
        ["validate", "--artifact", "x", "--embedded", "-b", "0"],
        ["validate", "--artifact", "x", "--embedded", "-b", "many"],
        ["validate", "--artifact", "x", "--embedded", "--backend", "tpu"],
        ["doctor", "--unknown"],
        ["doctor", "--js"],
    ],
    ids=" ".join,
)
def test_usage_errors_exit_with_2(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage:")


# ------------------------------------------------------------------------------------------------ errors


def verb_that(action: Any) -> Any:
    """A verb `try` whose run is `action`."""

    class Verb:
        @staticmethod
        def add_parser(verbs: Any) -> None:
            parser = verbs.add_parser("try")
            parser.add_argument("--json", action="store_true")
            parser.set_defaults(run=action)

    return Verb


def raising(error: BaseException) -> Any:
    def action(options: argparse.Namespace) -> Result:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GelulessError("first line\n  second line"), 1),
        (OSError(28, "No space left on device"), 1),
        (OptionError("contradiction"), 2),
        (MissingResource("no GPU"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_kind_of_error_is_one_line_and_its_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GELULESS_TRACEBACK", raising=False)
    monkeypatch.setattr(cli, "VERBS", (verb_that(raising(error)),))
    assert cli.main(["try"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


def test_with_json_the_error_is_an_object_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "VERBS", (verb_that(raising(MissingResource("no GPU"))),))
    code, data = run_json(capsys, "try")
    assert code == 3
    assert data == {"error": {"kind": "MissingResource", "message": "no GPU"}}


def test_the_traceback_is_there_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GELULESS_TRACEBACK", "1")
    monkeypatch.setattr(cli, "VERBS", (verb_that(raising(GelulessError("here"))),))
    with pytest.raises(GelulessError, match="here"):
        cli.main(["try"])


def test_a_defect_of_the_program_is_not_dressed_up_as_the_user_s_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "VERBS", (verb_that(raising(ZeroDivisionError())),))
    with pytest.raises(ZeroDivisionError):
        cli.main(["try"])


def test_what_libraries_print_stays_out_of_the_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def chatty(options: argparse.Namespace) -> Result:
        print("loading ...")
        return Result({"answer": 42}, lambda console: None)

    monkeypatch.setattr(cli, "VERBS", (verb_that(chatty),))
    assert run_json(capsys, "try") == (0, {"answer": 42})


# ------------------------------------------------------------------------------------------------ output files


def test_an_output_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "there.safetensors").write_bytes(b"")
    (tmp_path / "folder.safetensors").mkdir()
    cases = {
        tmp_path / "model.bin": "must end in",
        tmp_path / "no" / "model.safetensors": "create it first",
        tmp_path / "folder.safetensors": "is a folder",
        tmp_path / "there.safetensors": "--force",
        tmp_path / "there.safetensors" / "x.safetensors": "create it first",
    }
    for path, reason in cases.items():
        with pytest.raises(OptionError, match=reason):
            checked_output(path, suffix=".safetensors", force=False)
    assert checked_output(tmp_path / "there.safetensors", suffix=".safetensors", force=True).exists()
    assert checked_output(tmp_path / "new.safetensors", suffix=".safetensors", force=False) == tmp_path / "new.safetensors"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.safetensors", "there.safetensors"], "the probe leaves nothing"


def test_a_checkpoint_folder_is_made_or_refused(tmp_path: Path) -> None:
    assert checked_folder(tmp_path / "a" / "b", option="--checkpoint-dir").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="choose another folder"):
        checked_folder(tmp_path / "file", option="--checkpoint-dir")


@pytest.mark.parametrize("error", [RuntimeError(), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"old")

    def fail() -> None:
        with atomic_output(target) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]
    with atomic_output(target) as temporary:
        temporary.write_bytes(b"new")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"new"]


# ------------------------------------------------------------------------------------------------ doctor


def test_doctor_says_what_the_machine_is_and_that_the_fixtures_are_intact(capsys: pytest.CaptureFixture[str]) -> None:
    code, data = run_json(capsys, "doctor")
    assert code == 0
    assert data["machine"]["cores"] >= 1
    assert data["packages"]["torch"] == torch.__version__.split("+")[0] or data["packages"]["torch"] == torch.__version__
    assert data["fixtures"]["ok"] is True
    assert [claim["id"] for claim in data["claims"]] == [f"c{number:02}" for number in range(1, len(data["claims"]) + 1)]
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "fixtures" in shown
    assert "judged in full" not in shown


def test_doctor_never_says_that_a_statement_can_be_judged_for_which_a_check_or_a_resource_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of c11, which has no check, of c10 without other engines, of the paper's own statements without its data and its card."""
    for variable in (IMAGENET_VARIABLE, CHECKPOINTS_VARIABLE, RUNNER_VARIABLE, "GELULESS_FASTERTRANSFORMER"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = {claim["id"]: claim for claim in doctor.claims()}
    assert [identifier for identifier, claim in found.items() if paper_words(claim) == "yes"] == []
    assert paper_words(found["c03"]).startswith("no: lacks IMAGENET")
    assert paper_words(found["c04"]) == "no: there is no check of it"
    assert paper_words(found["c07"]) == "not in the paper"
    assert paper_words(found["c11"]) == "it asks, and states nothing"
    assert all("CHECK" in line for line in here_words(found["c11"]))
    (c10,) = [line for line in here_words(found["c10"]) if line.startswith("ours")]
    assert "PREPARED_BASELINES" in c10
    assert "all" not in c10


@pytest.mark.parametrize("here", [True, False])
def test_doctor_goes_by_what_each_check_needs(monkeypatch: pytest.MonkeyPatch, here: bool) -> None:
    monkeypatch.setattr(doctor, "lacking_resource", lambda need: None if here and need != "CHECK" else "it is not here")
    found = {claim["id"]: claim for claim in doctor.claims()}
    assert paper_words(found["c03"]) == ("yes" if here else "no: lacks IMAGENET, IMAGENET_TRAIN, CHECKPOINTS, CPU_ENGINE")
    assert paper_words(found["c04"]) == "no: there is no check of it"
    for claim in found.values():
        lacking = [needs for checks in claim["kinds"].values() for needs in checks.values() if needs]
        assert bool(lacking) == any("lacks" in line for line in (paper_words(claim), *here_words(claim)))


def test_each_kind_says_how_many_of_its_checks_can_be_judged() -> None:
    kinds = {
        "paper": {"on_imagenet": {}, "on_a_gpu": {"GPU": "none", "CHECK": "not written"}},
        "stand-in": {"a": {}, "b": {}},
        "transfer": {"c": {}, "d": {"GPU": "none"}},
        "arithmetic": {"e": {}},
        "ours": {"f": {"CHECK": "not written"}, "g": {"GPU": "none"}},
    }
    claim = {"stance": "stated", "kinds": kinds}
    assert paper_words(claim) == "no: lacks GPU, CHECK"
    assert here_words(claim) == [
        "stand-in: all 2 checks",
        "transfer: 1 of 2 checks, lacks GPU",
        "arithmetic: 1 check",
        "ours: none of 2 checks, lacks CHECK, GPU",
    ]
    assert paper_words({"stance": "stated", "kinds": {"paper": {"on_imagenet": {}}}}) == "yes"
    assert paper_words({"stance": "stated", "kinds": {"stand-in": {"a": {}}}}) == "no: there is no check of it"


def test_a_need_that_is_no_resource_is_lacking() -> None:
    assert "no resource" in str(doctor.lacking_resource("MAGIC"))


def test_doctor_fails_when_the_fixtures_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GELULESS_FIXTURES", str(tmp_path))
    code, data = run_json(capsys, "doctor")
    assert code == 1
    assert "clone the repository" in data["fixtures"]["problem"]
    assert data["claims"] == []


def test_cpu_facts_are_read_from_linux_s_own_words(tmp_path: Path) -> None:
    intel, variant = tmp_path / "x86", tmp_path / "variant"
    intel.write_text("processor\t: 0\nmodel name\t: Xeon: a test\nflags\t\t: fpu avx2 avx512_vnni\n\nprocessor : 1\nflags : x\n")
    variant.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n")
    assert cpu_info(intel) == {"model": "Xeon: a test", "isa": ["avx2", "avx512_vnni"]}
    assert cpu_info(variant) == {"model": "", "isa": ["asimd", "asimddp", "i8mm"]}
    assert cpu_info(tmp_path / "absent") == {"model": "", "isa": []}
    (tmp_path / "meminfo").write_text("MemTotal:       16000000 kB\nMemFree: 1 kB\n")
    assert memory_gb(tmp_path / "meminfo") == 16.4
    assert memory_gb(tmp_path / "absent") is None


# ------------------------------------------------------------------------------------------------ quantize, validate


def test_quantize_then_validate_on_embedded_images(weights: Path, artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ("validate", "--artifact", str(artifact), "--embedded", "--limit", "40", "-b", "16")
    code, data = run_json(capsys, *line, "--checkpoint", str(weights / "gelu.pth"))
    assert code == 0
    assert data["n"] == 40
    assert data["model"] == "swin_micro_tiny"
    assert data["variant"].startswith("gelu")
    assert 0 <= data["top1"] <= data["top5"] <= 100
    assert data["reference"]["agreement"] >= 80, "INT8 follows its own float network, whatever that knows"
    assert data["images"]["tier"] == "embedded"
    again = run_json(capsys, *line)[1]
    assert "reference" not in again
    assert again["top1"] == data["top1"]


def test_validate_ends_with_timm_s_result_line(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", "--artifact", str(artifact), "--embedded", "--limit", "10"]) == 0
    before, _, result = capsys.readouterr().out.partition("--result\n")
    assert "top-1" in before
    assert json.loads(result)["n"] == 10


def test_a_student_s_file_says_that_it_is_relu(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, data = run_json(capsys, *quantize_line(weights / "relu.safetensors", tmp_path / "a.int8.safetensors"))
    assert (code, data["activation"]) == (0, "relu")
    code, data = run_json(capsys, *quantize_line(weights / "gelu.pth", tmp_path / "b.int8.safetensors", "--relu"))
    assert (code, data["activation"]) == (0, "relu"), "a bare .pth is what the user says it is"
    line = quantize_line(weights / "relu.safetensors", tmp_path / "c.int8.safetensors", "--activation", "gelu")
    code, message = one_line_error(capsys, *line)
    assert code == 1
    assert "says its activation is relu" in message


def test_the_same_command_gives_the_same_artifact(weights: Path, artifact: Path, tmp_path: Path) -> None:
    assert cli.main(quantize_line(weights / "gelu.pth", tmp_path / "x.int8.safetensors")) == 0
    assert (tmp_path / "x.int8.safetensors").read_bytes() == artifact.read_bytes()


def test_bad_input_is_one_line_and_leaves_nothing_behind(
    weights: Path, artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, output = weights / "gelu.pth", tmp_path / "x.int8.safetensors"
    broken = tmp_path / "images"
    for name in ("a", "b"):
        (broken / name).mkdir(parents=True)
        for index in range(20):
            Image.new("L", (28, 28), index).save(broken / name / f"{index}.png")
    (broken / "b" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "cut.int8.safetensors").write_bytes(artifact.read_bytes()[:-100])
    photo = ["--model", "swin_tiny_patch4_window7_224"]
    folder = ["quantize", "--model", "swin_micro_tiny", "--checkpoint", str(good), "--output", str(output), "--data-dir"]
    cases: list[tuple[list[str], int, str]] = [
        (quantize_line(tmp_path / "no.pth", output), 1, "no checkpoint at"),
        (quantize_line(artifact, output), 1, "is an INT8 artifact"),
        (quantize_line(good, tmp_path / "no" / "x.int8.safetensors"), 2, "create it first"),
        (quantize_line(good, artifact), 2, "--force"),
        (quantize_line(good, output, "--profile", "worst"), 2, "per-channel, ft1, ft2"),
        (quantize_line(good, output, "--calibration-images", "6001"), 1, "6001 images asked for"),
        (quantize_line(good, output, "--model", "resnet50"), 1, "not a timm Swin"),
        (quantize_line(good, output, "--model", "swin_huge"), 1, "unknown model"),
        (quantize_line(good, output, "--img-size", "224"), 1, "28x28"),
        (["quantize", *photo, "--embedded", "--output", str(output)], 2, "--pretrained"),
        ([*folder, str(tmp_path / "nowhere")], 1, "no image folder"),
        ([*folder, str(broken), "--calibration-images", "40"], 1, "3.png cannot be decoded"),
        ([*folder, str(broken), "--split", "train"], 1, "no folder train"),
        (["validate", "--artifact", str(tmp_path / "no.int8.safetensors"), "--embedded"], 1, "no.int8.safetensors"),
        (["validate", "--artifact", str(tmp_path / "cut.int8.safetensors"), "--embedded"], 1, "cut.int8.safetensors"),
        (["validate", "--artifact", str(artifact), "--embedded", "--variant", "relu"], 1, "does not fit"),
        (["validate", "--artifact", str(artifact), "--embedded", "--limit", "10001"], 2, "holds 10000 images"),
        (["validate", "--artifact", str(artifact), "--embedded", "--backend", "gpu"], 3, "backend"),
        (["validate", "--artifact", str(artifact), "--data-dir", str(broken), "--limit", "6"], 1, "class folders"),
    ]
    present = sorted(tmp_path.rglob("*"))
    for line, code, reason in cases:
        got, message = one_line_error(capsys, *line)
        assert reason in message, line
        assert got == code, line
        assert sorted(tmp_path.rglob("*")) == present, f"{line} left something behind"


# ------------------------------------------------------------------------------------------------ distill, report


@dataclasses.dataclass(frozen=True)
class FakeDistillation:
    student: torch.nn.Module
    warnings: tuple[str, ...] = ("layers.0.blocks.0: not converged",)

    def to_json(self) -> dict[str, Any]:
        return {"records": []}


def test_distill_writes_a_student_that_quantize_knows_as_relu(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from geluless import distillation

    asked = {}

    def fake(teacher: torch.nn.Module, images: Any, **options: Any) -> FakeDistillation:
        asked.update(options, images=images.name)
        replace_gelu(teacher)
        return FakeDistillation(teacher)

    monkeypatch.setattr(distillation, "distill", fake)
    output = tmp_path / "student.safetensors"
    line = ["distill", "--model", "swin_micro_tiny", "--checkpoint", str(weights / "gelu.pth"), "--embedded", "--recipe", "local"]
    code = cli.main([*line, "--seed", "7", "--checkpoint-dir", str(tmp_path / "runs"), "--output", str(output), "--json"])
    captured = capsys.readouterr()
    assert code == 0
    assert json.loads(captured.out)["output"] == str(output)
    assert "warning: layers.0.blocks.0: not converged" in captured.err
    assert asked["images"] == "fashion-mnist-train"
    assert (asked["recipe"], asked["seed"], asked["checkpoint_dir"]) == ("local", 7, tmp_path / "runs")
    code, data = run_json(capsys, *quantize_line(output, tmp_path / "a.int8.safetensors"))
    assert (code, data["activation"]) == (0, "relu")
    code, message = one_line_error(capsys, *line, "--output", str(output))
    assert code == 2
    assert "--force" in message
    code, message = one_line_error(capsys, *line, "--output", str(tmp_path / "b.safetensors"), "--recipe", "magic")
    assert code == 2
    assert "magic" in message


def test_report_renders_the_folder_and_lists_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, message = one_line_error(capsys, "report", str(tmp_path))
    assert code == 2
    assert "nox -s claims" in message
    (tmp_path / "claims.json").write_text("{}")
    monkeypatch.setattr("geluless.report.render_folder", lambda folder: (folder / "claims.md").write_text("x"))
    code, data = run_json(capsys, "report", str(tmp_path))
    assert code == 0
    assert data["written"] == [str(tmp_path / "claims.md")]
    monkeypatch.setattr("geluless.report.record", lambda folder, path: path.write_text("[]"))
    monkeypatch.setattr("geluless.report.quote", lambda folder, path: path.write_text("figures"))
    options = ("--readme", str(tmp_path / "README.md"), "--record", str(tmp_path / "history.json"))
    code, data = run_json(capsys, "report", str(tmp_path), *options)
    assert data["written"][1:] == [str(tmp_path / "history.json"), str(tmp_path / "README.md")]


def test_figures_are_marked_as_outdated_without_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("geluless.report.mark_outdated", lambda path: path.write_text("of other code"))
    code, data = run_json(capsys, "report", str(tmp_path), "--readme", str(tmp_path / "README.md"), "--outdated")
    assert (code, data["written"], data["source"]) == (0, [str(tmp_path / "README.md")], None)
    assert (tmp_path / "README.md").read_text() == "of other code"
    for line in (["--outdated"], ["--outdated", "--readme", "README.md", "--record"]):
        code, message = one_line_error(capsys, "report", str(tmp_path), *line)
        assert code == 2
        assert "--outdated" in message


# ------------------------------------------------------------------------------------------------ as a process


@pytest.mark.parametrize(
    ("line", "code"), [(["doctor", "--json"], 0), (["quantize"], 2), (["report", "no/such/folder"], 2)], ids=str
)
def test_the_installed_command_hands_its_exit_code_to_the_shell(line: list[str], code: int, tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if key != "GELULESS_TRACEBACK"}
    command = [sys.executable, "-m", "geluless.cli", *line]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=env)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if code == 0:
        json.loads(done.stdout)
    else:
        assert done.stdout == ""
