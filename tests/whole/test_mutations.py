"""Wrong methods, each put into a copy of the source: the test that is named beside it must fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


class Mutation(NamedTuple):
    """`old`, which is in the file once, becomes `new`."""

    what: str
    file: str
    old: str
    new: str
    test: str


HELD = """holds_labels: ClassVar[bool] = False

    def loss(self, logits_BC: Tensor, response: Answer, labels_B: Tensor, smoothing: float) -> Terms:
        \"\"\"`loss`.\"\"\"
        return {"loss": smoothed_cross_entropy(logits_BC, """

MUTATIONS = (
    Mutation(
        "the KL is flipped",
        "losses.py",
        "return _kl(log_p_BC, log_q_BC) * temperature**2",
        "return _kl(log_q_BC, log_p_BC) * temperature**2",
        "test_losses.py::test_kl_points_from_left_to_right",
    ),
    Mutation(
        "τ² is dropped",
        "losses.py",
        "return _kl(log_p_BC, log_q_BC) * temperature**2",
        "return _kl(log_p_BC, log_q_BC)",
        "test_losses.py::test_tau_squared_scales_the_kl",
    ),
    Mutation(
        "the victim answers in train mode",
        "oracle/inference.py",
        "copy.deepcopy(network).eval()",
        "copy.deepcopy(network).train()",
        "oracle/test_door.py::test_victim_is_never_in_train_mode",
    ),
    Mutation(
        "an attack of labels is given the true ones",
        "attacks/label_only.py",
        HELD + "response.labels_B",
        HELD.replace("False", "True") + "labels_B",
        "attacks/test_attacks.py::test_label_only_never_reads_true_labels",
    ),
    Mutation(
        "a search chooses by test images",
        "experiments/ranking.py",
        "return cell.held_out\n",
        "return cell.accuracy\n",
        "experiments/test_ranking.py::test_the_search_never_reads_test_images",
    ),
    Mutation(
        "a plan may lack its control",
        "experiments/plan.py",
        '        if missing:\n            raise ValueError(f"a plan',
        '        if not self:\n            raise ValueError(f"a plan',
        "experiments/test_plan.py::test_a_plan_without_a_control_cannot_be_made",
    ),
    Mutation(
        "queries are counted by batch",
        "oracle/oracle.py",
        "self.queries += count",
        "self.queries += 1",
        "oracle/test_defended_door.py::test_questions_are_counted_per_image_not_per_batch",
    ),
    Mutation(
        "responses from the cache bypass the output defense",
        "oracle/oracle.py",
        "return self._show(self._look(recall(batch)), batch=batch)",
        "return Answer(self.access, cut(self._look(recall(batch)), self.access, self.top_k))",
        "oracle/test_defended_door.py::test_a_defended_answer_never_leaks_through_the_bank",
    ),
    Mutation(
        "the parts of a batch weigh as if each were all of it",
        "training/loop.py",
        '(terms["loss"] if share == 1 else terms["loss"] * share).backward()',
        'terms["loss"].backward()',
        "training/test_parallel.py::test_gradients_of_parts_are_those_of_the_whole_batch",
    ),
    Mutation(
        "the way back through a defense is learned the wrong way round",
        "attacks/inverse.py",
        "loss = (network(given_MC[rows_B]) - clean_MC[rows_B])",
        "loss = (network(clean_MC[rows_B]) - given_MC[rows_B])",
        "attacks/test_inverse.py::test_most_of_what_a_defense_adds_is_undone",
    ),
    Mutation(
        "an exact head is solved from clipped probabilities",
        "attacks/public.py",
        "target_NC = log_p_NC.double() - log",
        "target_NC = log_p_NC.double().clamp_min(-13.8) - log",
        "attacks/test_public.py::test_one_query_more_than_there_are_features_is_enough",
    ),
    Mutation(
        "weak views learn from strong ones",
        "attacks/semi.py",
        "self.settings.consistency(weak_UC, strong_UC)",
        "self.settings.consistency(strong_UC, weak_UC)",
        "attacks/test_semi.py::test_the_sure_views_are_the_weak_ones",
    ),
)


@pytest.mark.e2e
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.what)
def test_a_wrong_method_is_noticed(mutation: Mutation, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src")
    path = tmp_path / "src" / "undistill" / mutation.file
    text = path.read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", f"tests/{mutation.test}"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout[-2000:]
    assert re.search(r"\d+ failed", done.stdout)
    assert " error" not in done.stdout.splitlines()[-1]
