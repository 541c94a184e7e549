from __future__ import annotations

import math
import statistics

import pytest

from mux.report.points import Point, points
from tests.mux.report.crafted import results, scores, timed


def only(found: list[Point]) -> Point:
    (point,) = found
    return point


def test_one_task_timed_by_the_throughput_stage() -> None:
    rows = [timed(2, 800.0), timed(1, 400.0, ratio=2.0), timed(2, 640.0, batches_of="groups"),
            timed(2, 900.0, mode="compiled"), timed(2, 700.0, head="token"),
            timed(2, 30.0, batches_of="one_group", milliseconds=66.0, ratio=2.0, quartiles=(1.9, 2.2))]
    point = only(points(results(2, {"sst2": scores(0.9, std=0.01, rows=872)}, rows), "runs/x"))
    assert (point.run, point.name, point.model, point.N, point.size) == (
        "runs/x", "bert_n2", "bert BASE, N = 2", 2, "BASE")
    assert (point.stage, point.task, point.tasks, point.metric, point.copies) == (
        "finetune", "sst2", ("sst2",), "accuracy", 1)
    assert (point.instances_per_second, point.ratio_to_bert_base, point.timed_by) == (800.0, 4.0, "throughput")
    assert (point.throughput_low, point.throughput_high) == pytest.approx((760.0, 820.0))
    assert (point.latency_ms, point.latency_low, point.latency_high) == pytest.approx((66.0, 60.0, 66 * 2 / 1.9))
    assert (point.device, point.sequence_length) == ("cpu, 2 threads", 128)
    p = (0.9 * 872 + 2) / 876
    error = math.sqrt(0.01**2 + p * (1 - p) / 876)
    assert (point.accuracy, point.accuracy_error, point.total_error) == pytest.approx((0.9, 0.01, error))
    assert (point.accuracy_low, point.accuracy_high) == pytest.approx((0.9 - 1.96 * error, 0.9 + 1.96 * error), 1e-5)


def test_copies_divide_throughput_and_multiply_latency() -> None:
    rows = [timed(5, 1000.0), timed(5, 1.0, batches_of="one_group", milliseconds=10.0)]
    copies = {"1": {"sst2": scores(0.8)}, "2": {"sst2": scores(0.82)}, "5": {"sst2": scores(0.85)}}
    found = points(results(5, {"sst2": scores(0.8)}, rows, copies), "r")
    assert [(point.copies, point.accuracy, point.instances_per_second, point.ratio_to_bert_base, point.latency_ms)
            for point in found] == [
        (1, 0.8, 1000.0, 4.0, 10.0), (2, 0.82, 500.0, 2.0, 20.0), (5, 0.85, 200.0, 0.8, 50.0)]
    assert {point.stage for point in found} == {"finetune"}


def test_without_a_throughput_stage_the_evaluation_is_the_clock() -> None:
    point = only(points(results(2, {"sst2": scores(0.9, rate=321.0)}), "r"))
    assert (point.instances_per_second, point.timed_by, point.device) == (321.0, "evaluation", "cpu")
    assert point.throughput_low is point.latency_ms is point.ratio_to_bert_base is point.sequence_length is None
    other = only(points(results(2, {"sst2": scores(0.9)}, [timed(5, 800.0), timed(2, 9.0, size="SMALL")]), "r"))
    assert other.timed_by == "evaluation"  # rows of other models are not this model's


def test_rows_of_a_gpu_are_comparable_whatever_its_number() -> None:
    devices = [only(points(results(2, {"sst2": scores(0.9)}, [timed(2, 8.0, device=f"cuda:{number} NVIDIA H200")]),
                           "r")).device for number in (0, 3)]
    assert devices == ["NVIDIA H200"] * 2


def test_variants_have_rows_of_their_own_and_say_so() -> None:
    rows = [timed(2, 800.0), timed(2, 700.0, multiplexer="contextual"), timed(2, 600.0, demultiplexer="prefix")]
    found = {variant: only(points(results(2, {"sst2": scores(0.9)}, rows, **{key: variant}), "r"))
             for key, variant in (("multiplexer", "contextual"), ("demultiplexer", "prefix"))}
    assert {variant: point.instances_per_second for variant, point in found.items()} == {
        "contextual": 700.0, "prefix": 600.0}
    assert [point.model for point in found.values()] == ["bert BASE, N = 2, contextual", "bert BASE, N = 2, prefix"]
    hub = {"family": "hub", "source": "hub:a/b", "size": None}
    point = only(points(results(1, {"sst2": scores(0.9)}, [timed(1, 50.0, **hub), timed(1, 60.0)], **hub), "r"))
    assert (point.model, point.instances_per_second, point.size) == ("hub:a/b, N = 1", 50.0, "")


def test_word_tasks_are_timed_with_the_token_head() -> None:
    rows = [timed(2, 800.0), timed(2, 700.0, head="token")]
    tasks = {"tags": scores(0.9) | {"words": True}, "mood": scores(0.9)}
    assert [point.instances_per_second for point in points(results(2, tasks, rows), "r")] == [700.0, 800.0]


def test_a_point_is_the_kept_model_s_and_other_seeds_add_to_the_error_at_any_number_of_copies() -> None:
    seeds = {"0": 0.90, "1": 0.80, "2": 0.85}
    tuned = scores(0.90, std=0.03, seeds=seeds)
    one, two = points(results(2, {"sst2": tuned}, copies={"2": {"sst2": scores(0.91, std=0.03)}}), "r")
    assert (one.accuracy, two.accuracy) == (0.90, 0.91)
    error = math.hypot(0.03, statistics.stdev(seeds.values()))
    assert (one.accuracy_error, two.accuracy_error) == pytest.approx((error, error))


def test_an_ensemble_belongs_to_the_stage_that_it_names() -> None:
    run = results(2, {"sst2": scores(0.9)}, copies={"2": {"sst2": scores(0.91)}})
    run["stages"].insert(2, {"id": "again", "kind": "finetune", "status": "done", "tasks": {"sst2": scores(0.7)}})
    assert [(point.stage, point.copies, point.accuracy) for point in points(run, "r")] == [
        ("finetune", 1, 0.9), ("finetune", 2, 0.91), ("again", 1, 0.7)]


def test_no_interval_leaves_what_the_metric_can_be() -> None:
    tasks = {"cola": scores(0.05, metric="matthews", std=0.0, rows=101), "low": scores(0.01, std=0.1),
             "worst": scores(-0.99, metric="spearman", std=0.2, rows=11)}
    cola, low, worst = points(results(2, tasks), "r")
    assert cola.accuracy_low == pytest.approx(0.05 - 1.959964 * (1 - 0.05**2) / 10)
    assert (low.accuracy_low, worst.accuracy_low) == (0.0, -1.0)


def test_the_dtype_is_a_condition_of_the_speed() -> None:
    made = [only(points(results(2, {"sst2": scores(0.9)}, [timed(2, 8.0, dtype=dtype)]), "r"))
            for dtype in ("fp32", "fp16")]
    assert [point.dtype for point in made] == ["fp32", "fp16"] and made[0].comparable != made[1].comparable


def test_sampling_errors_of_other_metrics() -> None:
    tasks = {"stsb": scores(0.6, metric="spearman", std=0.0, rows=101),
             "cola": scores(-0.2, metric="matthews", std=0.0, rows=101),
             "few": scores(1.0, std=0.0, rows=20), "huge": scores(1.0, std=0.0, rows=10**9)}
    stsb, cola, few, huge = points(results(2, tasks), "r")
    assert (stsb.total_error, cola.total_error) == pytest.approx((0.064, 0.096))
    assert cola.accuracy_low < cola.accuracy
    assert (few.accuracy_high, huge.accuracy_low) == (1.0, pytest.approx(1.0, abs=1e-4))
    assert few.accuracy_low < 0.9  # twenty of twenty prove little


def test_averages_have_points_where_all_their_tasks_have() -> None:
    tasks = {task: scores(mean, std=0.02, others={"f1": {"mean": 0.1}}) for task, mean in (
        ("mnli", 0.70), ("qqp", 0.80), ("qnli", 0.75), ("mrpc", 0.72), ("rte", 0.55), ("sst2", 0.88))}
    tasks["stsb"] = scores(0.5, metric="pearson", std=0.02, others={"spearman": {"mean": 0.6, "std": 0.04}})
    assert {point.task for point in points(results(2, tasks), "r")} == set(tasks) | {"glue_without_wnli_cola"}
    rows = [timed(2, 800.0)]
    point = points(results(2, tasks, rows), "r")[-1]
    assert point.metric == "average" and set(point.tasks) == set(tasks)
    assert point.accuracy == pytest.approx((0.70 + 0.80 + 0.75 + 0.72 + 0.55 + 0.88 + 0.6) / 7)
    assert point.accuracy_error == pytest.approx(math.sqrt(6 * 0.02**2 + 0.04**2) / 7)
    parts = points(results(2, tasks, rows), "r")[:-1]
    sampling = (1 - 0.6**2) / math.sqrt(999)  # of the measure that counts, not the task's own
    squares = [one.total_error**2 for one in parts if one.task != "stsb"] + [0.04**2 + sampling**2]
    assert point.total_error == pytest.approx(math.sqrt(sum(squares)) / 7)
    assert point.instances_per_second == 800.0 and point.total_error > point.accuracy_error
    del tasks["rte"]
    assert all(len(point.tasks) == 1 for point in points(results(2, tasks), "r"))


def test_the_speed_of_an_average_is_all_rows_in_all_seconds() -> None:
    tasks = {"ner": scores(0.9, metric="entity_f1", rows=100, rate=50.0),
             "pos": scores(0.9, metric="entity_f1", rows=300, rate=300.0)}
    *_, average = points(results(2, tasks), "r")
    assert (average.task, average.instances_per_second) == ("token", pytest.approx(400 / 3))


def test_what_was_not_measured_or_not_finished_has_no_point() -> None:
    run = results(2, {"sst2": scores(0.9), "rte": scores(math.nan), "qnli": scores(0.5) | {"mean": None}})
    assert only(points(run, "r")).task == "sst2"
    run["stages"][1]["status"] = "pending"
    assert points(run, "r") == []
    with pytest.raises(ValueError, match="stages"):
        points({"name": "x", "status": "finished", "model": run["model"], "stages": 3}, "r")
