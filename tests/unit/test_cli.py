"""The command line as a person meets it: help, mistakes, and that a subcommand's own parser is all that is built."""

import argparse
import os
import re
import shlex
import signal
import time
from pathlib import Path
from unittest import mock

import framefeat
import pytest
from framefeat import cli, settings
from framefeat.files import atomic_path, write_json
from framefeat.identity import request_key
from framefeat.needs import Wanted, WantedBackbone


@pytest.mark.parametrize("command", cli._COMMANDS)
def test_each_subcommand_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: framefeat {command} ")


@pytest.mark.parametrize("command", cli._COMMANDS)
def test_each_example_is_a_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    example = cli._COMMANDS[command].example
    cli._parse([command, *shlex.split(example)])
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert f"framefeat {command} {example}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["stale", "results/x", "--del"], ["export", "npz", "a", "b", "--forc"]]
)
def test_no_option_is_abbreviated(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert f"unrecognized arguments: {arguments[-1]}" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["-5", "1.5", "many", ""])
def test_a_number_of_things_is_a_whole_one(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["verify", "results/x", "--rows", number])
    assert ended.value.code == 2
    assert f"{number!r} is not a whole number from 0 on" in capsys.readouterr().err


def test_help_names_all_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(f" {name} {command.help}" in said for name, command in cli._COMMANDS.items())


@pytest.mark.parametrize("written", [["-esJrBWj2d8"], ["--", "-esJrBWj2d8"], ["--aQ"]])
def test_a_video_whose_id_begins_with_a_dash(written: list[str]) -> None:
    _, options = cli._parse(["show", "results/tvsum", *written])
    assert options.video == written[-1]


@pytest.mark.parametrize(
    "arguments",
    [[], ["no-such"], ["--no-such"], ["show", "a", "b", "--no-such"], ["verify", "a", "--no-such"]],
)
def test_mistakes_are_told_with_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: framefeat")


WANTED = Wanted(
    "index", "auto", (WantedBackbone("net", "squash224", request_key("{}", "w", "float32")),)
).to_json()


@pytest.mark.parametrize("there", ["", "shards"])
def test_a_record_that_is_gone_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], there: str
) -> None:
    if there:
        write_json(tmp_path / "shards" / "a.json", {"schema": 3, "videos": {}})
    assert cli.main(["sample", str(tmp_path), "--shard", "a", "--wanted", WANTED]) == 1
    said = capsys.readouterr().err
    gone = "videos/a.json'" if there else "shards/a.json'"
    assert all(name in said for name in (f"{gone} is gone", "--forcerun merge_index"))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"alignment": "index", "decoder": "auto", "backbones": [{}]}']
)
def test_what_is_wanted_is_told_where_it_makes_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    assert cli.main(["sample", str(tmp_path), "--shard", "a", "--wanted", text]) == 1
    assert "is not what 'framefeat plan --wanted' prints" in capsys.readouterr().err


def test_what_a_configuration_wants_can_be_printed_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    entries = [
        "videos=.",
        "backbones=[resnet18, mobilenet_v3_large]",
        "alignment=pts",
        "decoder=pyav",
        "weights=DEFAULT",
    ]
    assert cli.main(["plan", "--wanted", "--config", *entries]) == 0
    said = capsys.readouterr().out
    wanted = Wanted.from_json(said)
    assert (wanted.alignment, wanted.decoder, wanted.geometries) == ("pts", "pyav", ["squash224"])
    assert [backbone.folder for backbone in wanted.backbones] == ["resnet18", "mobilenet_v3_large"]
    assert all(backbone.request["weights"] for backbone in wanted.backbones)
    assert wanted.to_json() == said.strip()


def test_one_parser_is_built_for_a_job() -> None:
    with mock.patch.object(
        argparse.ArgumentParser, "__init__", autospec=True, side_effect=RuntimeError
    ) as made:
        with pytest.raises(RuntimeError):
            cli.main(["extract", "--spec", "{}"])
        assert made.call_count == 1
    command, options = cli._parse(["stale", "results/x", "--delete"])
    assert (command, options.delete) == ("stale", True)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"framefeat {framefeat.__version__}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_polite_end_leaves_nothing_half_made(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(options: object) -> None:
        with atomic_path(tmp_path / "out") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), number)
            time.sleep(10)

    monkeypatch.setitem(cli._COMMANDS, "stale", cli._COMMANDS["stale"]._replace(run=half))
    with pytest.raises(SystemExit) as ended:
        cli.main(["stale", "results/x"])
    assert ended.value.code == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_the_name_alone_tells_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 2
    assert "list the videos that the next run recomputes" in capsys.readouterr().err


def test_the_old_spelling_still_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["export-h5"], ["export_h5"], ["export", "h5"]):
        assert cli.main([*arguments, str(tmp_path / "none"), "out.h5"]) == 1
        assert "none' does not exist; give the folder" in capsys.readouterr().err


def test_backbones_by_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["backbones"]) == 0
    assert re.search(r"(?m)^mobilenet_v3_large +960 +IMAGENET1K_V1, IMAGENET1K_V2$", capsys.readouterr().out)
    assert cli.main(["backbones", "tf_efficientnet_lite0"]) == 0
    assert re.search(r"(?m)^timm:tf_efficientnet_lite0 +1280 +in1k$", capsys.readouterr().out)
    assert cli.main(["backbones", "no-such"]) == 1
    assert "has 'no-such' in its name" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["merge", "sample", "extract", "assemble", "describe"])
def test_options_that_stand_for_keys_have_their_choices_and_defaults(command: str) -> None:
    parser = argparse.ArgumentParser()
    cli._COMMANDS[command].add_options(parser)
    mirrored = {action.dest: action for action in parser._actions if action.dest in settings.KEYS}
    inputs = {"frame_index", "video_index", "video_root", "videos"}
    assert mirrored
    for key, action in mirrored.items():
        if not (key in inputs or action.required or key == "weights"):
            assert action.default == settings.DEFAULTS[key]
            assert tuple(action.choices or ()) == settings.choices(key)


def test_a_wrong_choice_is_told_with_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["merge", "--alignment", "nearest", "--out", "x"])
    assert re.search(r"--alignment: .*'nearest' \(choose from '?index'?, '?pts", capsys.readouterr().err)
    assert cli.main(["merge", "--sample-fps", "0", "--videos", "v", "--out", "x"]) == 1
    assert "sample_fps: 0.0 is not a number above 0" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["npy", "npz", "webdataset"])
def test_every_layout_of_the_export_gets_its_options(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []
    monkeypatch.setattr(
        "framefeat.summaries.export_files.run", lambda *arguments, **options: given.extend(arguments)
    )
    assert cli.main(["export", layout, "results/x/y", "out"]) == 0
    assert given[0] == layout
