"""How good is each 2D estimator, where, and what can mixing them give? Measured against gt.

Errors in pixels: mean, median, 95th percentile; without each joint's constant bias, which a lifter
learns while it cannot learn noise; PCK; jitter; per joint, action, camera and subject; how well
confidence predicts the error; the best estimator of each joint; how the estimators' errors
correlate: the less, the more a mixture gains.
"""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.files.console import DATA_DIR, ArgumentParser, InputError, progress, run_script
from common.files.npz import read_positions_2d
from common.files.output import atomic_output, check_output
from common.files.tables import format_table
from common.fusion import errors_2d
from common.h36m_dataset import SUBJECTS_FLAG, TEST_SUBJECTS, keypoints_path
from common.skeleton import JOINT_NAMES

COLUMNS = {
    "mean_px": "mean",
    "median_px": "median",
    "p95_px": "95 %",
    "bias_free_px": "no bias",
    **{f"pck_{share:g}": f"PCK@{share:g}" for share in errors_2d.PCK_SHARES},
    "jitter_px": "jitter",
}
GROUPS = {"by_action": "Action", "by_camera": "Camera", "by_subject": "Subject"}


def main() -> None:
    """Measure every estimator, print the tables, write the report and the figures."""
    arguments = parse_arguments()
    data_dir = arguments.data_dir
    if arguments.report:
        check_output(arguments.report, (".json", ".csv"))
    names = arguments.keypoints or errors_2d.list_estimators(data_dir)
    if not names:
        raise InputError(
            f"{data_dir}: holds no estimator's data_2d_h36m_*.npz; prepare one with "
            "data/prepare_2d_estimation.py"
        )
    paths = {name: errors_2d.estimates_path(data_dir, "h36m", name) for name in names}
    report = evaluate(keypoints_path(data_dir, "h36m", "gt"), paths, arguments.subjects)
    print(format_report(report))
    if arguments.report:
        write_report(arguments.report, report)
        print(f"wrote {arguments.report}")
    if arguments.figures:
        from data.error_figures import save_error_figures

        for path in save_error_figures(arguments.figures, report):
            print(f"wrote {path}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    text = "the estimators or mixtures, data_2d_h36m_NAME.npz (default: all that there are); "
    text += "confidences are taken from data_2d_h36m_NAME_w_conf.npz if there is one"
    add("--keypoints", nargs="+", metavar="NAME", help=text)
    own = {"default": ",".join(TEST_SUBJECTS), "help": "whose sequences"}
    add("--subjects", **SUBJECTS_FLAG | own)
    add("--data-dir", type=Path, default=DATA_DIR, metavar="DIR", help="folder of the npz files")
    add("--report", type=Path, metavar="FILE", help="write all figures to this .json or .csv")
    add("--figures", type=Path, metavar="DIR", help="draw PNGs into this folder")
    return parser.parse_args()


def evaluate(truth_path: Path, paths: Mapping[str, Path], subjects: Sequence[str]) -> dict:
    """Measure every estimator; one file is in memory at a time.

    Returns `subjects`, `frames` (over the cameras); `estimators`, {name: what `measure` returns};
    `best`, {figure: {joint: name}}; `error_correlation`: `names`, `mean` over the joints and
    `by_joint`, matrices in the order of the names, None where an estimator is exact.
    """
    truth = read_positions_2d(truth_path)
    views = errors_2d.list_views(truth_path, truth, subjects)
    truths = [truth[s][a][camera][..., :2] for s, a, camera in views]
    lengths, sampled_truth = list(map(len, truths)), errors_2d.sample_frames(truths)
    summaries, sampled = {}, []
    for name, path in progress(paths.items(), desc="measuring", unit="file"):
        estimates = errors_2d.view_arrays(path, read_positions_2d(path), views, lengths)
        summaries[name] = errors_2d.measure(estimates, truths, views)
        sampled.append(errors_2d.sample_frames(estimates)[..., :2] - sampled_truth)
        del estimates  # before the next file is read
    correlation = errors_2d.error_correlation(sampled)

    def best(joint: str, figure: str) -> str:
        return min(summaries, key=lambda name: summaries[name]["by_joint"][joint][figure])

    return {
        "subjects": list(subjects),
        "frames": sum(lengths),
        "estimators": summaries,
        "best": {f: {j: best(j, f) for j in JOINT_NAMES} for f in ("mean_px", "bias_free_px")},
        "error_correlation": {
            "names": list(paths),
            "mean": _known(correlation.mean(axis=0)),
            "by_joint": {joint: _known(c) for joint, c in zip(JOINT_NAMES, correlation)},
        },
    }


def _known(matrix: np.ndarray) -> list[list[float | None]]:
    """Return a matrix as lists, with None in place of NaN, which is no JSON."""
    return [[None if np.isnan(x) else float(x) for x in row] for row in matrix]


def format_report(report: Mapping[str, Any]) -> str:
    """Return the tables for a terminal; a star marks the best of a row."""
    estimators = report["estimators"]
    names, summaries = list(estimators), list(estimators.values())

    def numbers(title: str, columns: Iterable[str], rows: Mapping[str, Iterable]) -> str:
        rows = [[label, *map(_number, row)] for label, row in rows.items()]
        return format_table([[title, *columns], *rows])

    def grouped(title: str, group: str, figure: str, show: Callable = _starred) -> str:
        rows = [[m, *show([s[group][m][figure] for s in summaries])] for m in summaries[0][group]]
        return format_table([[title, *names], *rows])

    overall = {name: [s[figure] for figure in COLUMNS] for name, s in estimators.items()}
    blocks = [
        f"{', '.join(report['subjects'])}: {report['frames']:,} frames over the cameras, px",
        numbers("Estimator", COLUMNS.values(), overall),
        grouped("Mean error", "by_joint", "mean_px"),
        grouped("Without bias", "by_joint", "bias_free_px"),
        grouped("Bias, x and y", "by_joint", "bias_px", _signed),
        *(grouped(f"{title}, no bias", group, "bias_free_px") for group, title in GROUPS.items()),
    ]
    if len(names) > 1:
        rows = dict(zip(names, report["error_correlation"]["mean"]))
        blocks.append(numbers("Error correlation", names, rows))
    told = {n: s["confidence"] for n, s in estimators.items() if s["confidence"]}
    if told:
        columns = [f"{10 * i} %" for i in range(errors_2d.CALIBRATION_BINS)] + ["rank corr."]
        rows = {
            name: [*(one["error_px"] for one in c["calibration"]), c["rank_correlation"]]
            for name, c in told.items()
        }
        blocks.append(numbers("Error by confidence", columns, rows))
    return "\n\n".join(blocks)


def _starred(row: Sequence[float]) -> list[str]:
    return [f"{x:.2f}{'*' if len(row) > 1 and x == min(row) else ' '}" for x in row]


def _signed(row: Sequence[Sequence[float]]) -> list[str]:
    return [f"{x:+.1f} {y:+.1f}" for x, y in row]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report as JSON, or as CSV with a line for each estimator, group and figure."""
    with atomic_output(path) as temporary:
        if path.suffix.lower() == ".json":
            temporary.write_text(json.dumps(report, indent=2) + "\n")
            return
        with temporary.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["estimator", "group", "member", "figure", "value"])
            for name, summary in report["estimators"].items():
                writer.writerows([name, *row] for row in _csv_rows(summary))
            names = report["error_correlation"]["names"]
            for a, row in zip(names, report["error_correlation"]["mean"]):
                for b, value in zip(names, row):
                    writer.writerow([a, "error_correlation", b, "pearson", value])


def _csv_rows(summary: Mapping[str, Any]) -> Iterator[list[Any]]:
    yield from (["all", "all", figure, summary[figure]] for figure in COLUMNS)
    for group in ("by_joint", *GROUPS):
        for member, figures in summary[group].items():
            figures = dict(figures)
            figures |= zip(("bias_x_px", "bias_y_px"), figures.pop("bias_px", ()))
            yield from ([group, member, *figure] for figure in figures.items())
    confidence = summary["confidence"]
    if confidence:
        yield ["all", "all", "rank_correlation", confidence["rank_correlation"]]
        for joint, value in confidence["by_joint"].items():
            yield ["by_joint", joint, "rank_correlation", value]
        for i, one in enumerate(confidence["calibration"]):
            yield from (["calibration", i, *figure] for figure in one.items())


if __name__ == "__main__":
    run_script(main)
