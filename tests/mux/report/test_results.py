"""Reading runs: what is wrong is one sentence with the file's name, what is missing is empty, what is odd is inert."""

import json

import pytest

from mux.report.results import read_runs


@pytest.mark.parametrize(("content", "says"), [
    (None, "no such file"),
    ("{", "not JSON"),
    ('{"schema": 1, "name": "caf\\u00e9"', "not JSON"),
    (b"\xff\xfe{}", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ("[]", "schema 1"),
    ('{"schema": 2, "name": "x", "stages": []}', "schema 1"),
    ('{"schema": 1, "name": "x", "status": "finished", "stages": []}', "model: field required"),
    ('{"schema": 1, "name": "x", "status": "finished", "model": {"family": "bert", "N": "two"}, "stages": []}',
     "model.N"),
])
def test_what_cannot_be_read_is_named(tmp_path, content, says):
    run = tmp_path / "run"
    run.mkdir()
    if content is not None:
        (run / "results.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as error:
        read_runs([run])
    assert str(run / "results.json") in str(error.value) and says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("content", "says"), [
    ("{", "not JSON"), ("[]", "no table"), ('{"stages": null}', "stages: "), ('{"stages": [1]}', "stages.0: "),
    ('{"stages": [{"id": "a", "batch": "many"}]}', "stages.0.batch: "),
    ('{"cluster": {"hosts": 3}}', "cluster.hosts: "),
])
def test_a_plan_that_cannot_be_read_is_named(maker, content, says):
    path = maker.run("a", 2, tasks=["sst2"])
    (path / "plan.json").write_text(content)
    with pytest.raises(ValueError) as error:
        read_runs([path])
    assert str(path / "plan.json") in str(error.value) and says in str(error.value)


def test_a_file_is_no_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="no such file"):
        read_runs([tmp_path / "file"])


def test_runs_of_one_name_have_labels_of_their_own(maker):
    first, second = maker.run("a", 1, tasks=["sst2"]), maker.run("b", 1, tasks=["sst2"])
    results = json.loads((second / "results.json").read_text())
    (second / "results.json").write_text(json.dumps(results | {"name": "a"}))
    runs = read_runs([first, second, first])
    assert [run.label for run in runs] == ["a [1]", "a [2]"]
    assert [run.place for run in runs] == [0, 1]


def test_numbers_that_are_none_and_characters_that_xml_cannot_hold(maker):
    path = maker.run("a", 2, tasks=["sst2"])
    results = json.loads((path / "results.json").read_text())
    tuned = next(stage for stage in results["stages"] if stage["kind"] == "finetune")
    tuned["tasks"]["sst\x002\ud800"] = tuned["tasks"].pop("sst2") | {"mean": float("nan"), "std": float("inf")}
    (path / "results.json").write_text(json.dumps(results))
    (run,) = read_runs([path])
    assert list(run.tuned) == ["sst\ufffd2\ufffd"]
    assert run.tuned["sst\ufffd2\ufffd"].mean is None and run.tuned["sst\ufffd2\ufffd"].std is None


def test_a_run_that_has_only_begun(maker):
    model = {"family": "bert", "N": 2}
    path = maker.write("begun", {"schema": 1, "name": "begun", "status": "running", "model": model, "stages": [
        {"id": "pretrain", "kind": "pretrain", "status": "pending"}]})
    (run,) = read_runs([path])
    assert run.tuned == {} and run.device == "" and (run.began, run.seconds) == ("", None)
    assert run.stages("pretrain")[0].steps is None


def test_dates_and_devices_come_from_the_files_beside_it(maker):
    (run,) = read_runs([maker.run("a", 2, tasks=["sst2"], device="NVIDIA H200")])
    assert (run.began, run.seconds) == ("2025-10-09 08:53", 40 * 3600)
    assert run.device == "8 x cuda, NVIDIA H200"
    (run.path / "events.jsonl").write_text('{"time": 1760000000.0}\n{"tim')
    (run,) = read_runs([run.path])
    assert (run.began, run.seconds) == ("2025-10-09 08:53", 0)  # the last event that is whole
    (run.path / "events.jsonl").write_text("{\n")
    (run,) = read_runs([run.path])
    assert (run.began, run.seconds) == ("", None)


def test_wall_time_is_that_of_all_starts(maker):
    """A start that was killed said its last before the next one began; what lies between counts for nothing."""
    path = maker.run("a", 2, tasks=["sst2"])
    events = [(100, "RunStarted"), (130, "Heartbeat"), (160, "Heartbeat"), (500, "RunStarted"), (520, "RunFinished")]
    (path / "events.jsonl").write_text("".join(
        json.dumps({"v": 1, "time": time, "event": event}) + "\n" for time, event in events))
    (run,) = read_runs([path])
    assert run.starts == [(100.0, 160.0), (500.0, 520.0)] and run.seconds == 80
    whole = (path / "events.jsonl").read_text()
    (path / "events.jsonl").write_text(whole.replace('{"v": 1, "time": 500', '{"v": 1, "ti\n{"v": 1, "time": 500'))
    assert read_runs([path])[0].starts == run.starts  # who was killed left half an event
