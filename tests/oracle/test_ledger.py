"""Answers that were paid for are kept, found by the content of the question, and never asked for twice."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from undistill.data import load
from undistill.data.image_set import ImageSet, Splits
from undistill.errors import RunError, UndistillError, UsageError
from undistill.experiments.cell import collect
from undistill.experiments.extraction import attack
from undistill.oracle import Answer, BlackBox, Oracle, write_answers
from undistill.oracle.query_log import KEY, Answers, Ledger, hashes_of
from undistill.oracle.victim import resolve
from undistill.threat_model import Access
from undistill.training.recipe import Recipe
from undistill.types import Batch

Pixels = NDArray[np.uint8]
KINDS = [access for access in Access if access < Access.WEIGHTS]
EACH_KIND = pytest.mark.parametrize("kind", KINDS, ids=[kind.label for kind in KINDS])


def pixels(count: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)


def say(asked: Pixels, kind: Access = Access.PROBS) -> NDArray[Any]:
    """What the victim thinks: a function of the first four pixels."""
    logits = asked.reshape(len(asked), -1)[:, :4].astype(np.float32) / 64
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if kind is Access.LABEL:
        return logits.argmax(1)
    top = probs * (probs >= np.sort(probs, axis=1)[:, -2:-1])
    return {Access.LOGITS: logits, Access.PROBS: probs, Access.TOPK: top}[kind]


class Api:
    """A victim behind an API, which charges for each image; `dies_after` so many it fails."""

    def __init__(self, kind: Access = Access.PROBS, dies_after: int | None = None, batch: int = 256) -> None:
        self.kind, self.dies_after, self.batch = kind, dies_after, batch
        self.asked: list[str] = []

    def __call__(self, asked: Pixels) -> NDArray[Any]:
        if self.dies_after is not None and len(self.asked) + len(asked) > self.dies_after:
            raise ConnectionError("gone")
        self.asked += hashes_of(asked)
        return say(asked, self.kind)

    @property
    def box(self) -> BlackBox:
        return BlackBox(self, self.kind, 4, "the api", batch=self.batch)


# -- never twice --------------------------------------------------------------------------------------------------------


def test_nothing_is_asked_twice() -> None:
    api = Api()
    ledger = Ledger(Answers(Access.PROBS, 4), api.box, None)
    first = ledger(pixels(5))
    again = ledger(np.concatenate([pixels(5), pixels(3, seed=1), pixels(5)]))
    assert len(api.asked) == len(set(api.asked)) == 8
    assert ledger.asked == 8
    assert np.array_equal(again[:5], first)
    assert np.array_equal(again[8:], first)
    assert np.allclose(again[5:8], say(pixels(3, seed=1)))


def test_equal_images_of_one_batch_are_one_question() -> None:
    api = Api()
    Ledger(Answers(Access.PROBS, 4), api.box, None)(np.repeat(pixels(2), 3, axis=0))
    assert len(api.asked) == 2


def test_images_that_differ_in_one_pixel_are_two_questions() -> None:
    api, one = Api(), pixels(1)
    other = one.copy()
    other[0, 2, 7, 7] ^= 1
    Ledger(Answers(Access.PROBS, 4), api.box, None)(np.concatenate([one, other]))
    assert len(api.asked) == 2


def test_a_question_is_known_by_its_content_not_by_its_memory() -> None:
    assert hashes_of(pixels(3)) == hashes_of(np.asfortranarray(pixels(3)))
    assert hashes_of(pixels(3))[1] == hashes_of(pixels(3)[1:])[0]


def test_killed_behind_a_chunk_then_resumed_asks_only_the_rest(tmp_path: Path) -> None:
    path, dying, whole = tmp_path / "answers.parquet", Api(dies_after=10, batch=4), Api(batch=4)
    with pytest.raises(RunError, match="the api failed on 4 images: ConnectionError: gone"):
        Ledger(Answers(Access.PROBS, 4), dying.box, path)(pixels(12))
    assert len(dying.asked) == 8
    answered = Ledger(Answers.read(path), whole.box, path)(pixels(12))
    assert whole.asked == hashes_of(pixels(12))[8:]
    assert np.allclose(answered, say(pixels(12)))
    assert len(Answers.read(path).values) == 12


def test_a_closed_ledger_knows_what_it_was_given_and_refuses_the_rest() -> None:
    closed = Ledger(
        Answers(Access.PROBS, 4, values=dict(zip(hashes_of(pixels(3)), say(pixels(3)), strict=True))), None, None
    )
    both = np.concatenate([pixels(3), pixels(2, seed=1)])
    assert closed.knows(both).tolist() == [True, True, True, False, False]
    with pytest.raises(UsageError, match="2 of 5 images have no answer among those given"):
        closed(both)


def test_an_open_ledger_can_answer_everything() -> None:
    assert Ledger(Answers(Access.PROBS, 4), Api().box, None).knows(pixels(3)).all()


# -- paid, though not what was declared ---------------------------------------------------------------------------------


def paying(said: Callable[[Pixels], Any], kind: Access, path: Path) -> tuple[Ledger, list[int]]:
    """(a ledger in front of a function, how many images it was asked about each time)."""
    counts: list[int] = []

    def predict(asked: Pixels) -> Any:
        counts.append(len(asked))
        return said(asked)

    box = BlackBox(predict, kind, 4, "the api")
    answers = Answers.read(path, kind=kind) if path.is_file() else Answers(kind, 4)
    return Ledger(answers, box, path), counts


def test_a_refused_response_is_kept_and_used_once_it_is_declared_rightly(tmp_path: Path) -> None:
    path = tmp_path / "paid.parquet"
    wrongly, counts = paying(lambda asked: say(asked, Access.PROBS), Access.LOGITS, path)
    with pytest.raises(RunError, match="--outputs probs"):
        wrongly(pixels(5))
    assert counts == [5]
    rightly, counts = paying(say, Access.PROBS, path)
    assert np.allclose(rightly(pixels(5)), say(pixels(5)))
    assert counts == []
    assert Answers.read(path, kind=Access.PROBS).kind is Access.PROBS


def test_the_log_of_a_function_that_was_mended_since_says_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "paid.parquet"
    percent, _ = paying(lambda asked: say(asked) * 100, Access.PROBS, path)
    with pytest.raises(RunError, match="divide by 100"):
        percent(pixels(5))
    with pytest.raises(RunError, match=r"paid\.parquet.*move it away"):
        Answers.read(path, kind=Access.PROBS)


def test_logits_that_were_declared_as_probabilities_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "paid.parquet"
    wrongly, _ = paying(lambda asked: say(asked, Access.LOGITS) * 9 - 3, Access.PROBS, path)
    with pytest.raises(RunError, match="--outputs logits"):
        wrongly(pixels(5))
    rightly, counts = paying(say, Access.LOGITS, path)
    assert np.allclose(rightly(pixels(5)), say(pixels(5), Access.LOGITS) * 9 - 3)
    assert counts == []


def test_images_answered_with_nan_are_asked_again_and_the_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "paid.parquet"

    def broken(asked: Pixels) -> Any:
        said = np.array(say(asked))
        said[1] = np.nan
        return said

    ledger, _ = paying(broken, Access.PROBS, path)
    with pytest.raises(RunError, match=r"the api .* NaN or infinity for 1 of 5 images"):
        ledger(pixels(5))
    mended, counts = paying(say, Access.PROBS, path)
    assert np.allclose(mended(pixels(5)), say(pixels(5)))
    assert counts == [1]


def test_a_response_of_another_form_is_kept_beside_the_log(tmp_path: Path) -> None:
    def strange(asked: Pixels) -> Any:
        return [{"label": "cat", "score": torch.tensor(0.5)} for _ in asked]

    ledger, _ = paying(strange, Access.PROBS, tmp_path / "paid.parquet")
    for _ in range(2):
        with pytest.raises(RunError, match=r"3 images is kept in .*paid\.refused\.json"):
            ledger(pixels(3))
    kept = json.loads((tmp_path / "paid.refused.json").read_text())
    assert [part["image"] for part in kept] == [hashes_of(pixels(3))] * 2
    assert kept[0]["response"][2] == {"label": "cat", "score": 0.5}


def test_rounded_probabilities_and_rounding_below_zero_are_kept_and_answered(tmp_path: Path) -> None:
    path = tmp_path / "paid.parquet"
    ledger, _ = paying(lambda asked: np.round(say(asked), 1) - 1e-9, Access.PROBS, path)
    box = BlackBox(ledger, Access.PROBS, 4, "the api")
    assert box.answer(torch.from_numpy(pixels(6)).float() / 255).min() >= 0
    assert len(Answers.read(path).values) == 6


# -- files --------------------------------------------------------------------------------------------------------------


@EACH_KIND
def test_a_file_gives_back_what_was_written(tmp_path: Path, kind: Access) -> None:
    path = tmp_path / "answers.parquet"
    names = ("a", "b", "c", "d")
    write_answers(path, pixels(6), say(pixels(6), kind), kind=kind.label, num_classes=4, class_names=names)
    found = Answers.read(path)
    assert (found.kind, found.num_classes, found.class_names) == (kind, 4, names)
    assert np.array_equal(
        np.stack([found.values[key] for key in hashes_of(pixels(6))]),
        say(pixels(6), kind).astype(np.int64 if kind is Access.LABEL else np.float32),
    )


def test_the_top_k_as_a_pair_is_written_as_probabilities(tmp_path: Path) -> None:
    path = tmp_path / "answers.parquet"
    pair = (np.array([[1, 0]]), np.array([[0.5, 0.25]]))
    write_answers(path, pixels(1), pair, kind="topk", num_classes=4)
    assert Answers.read(path).values[hashes_of(pixels(1))[0]].tolist() == [0.25, 0.5, 0, 0]


def test_answers_that_are_not_what_they_are_called_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="declared to answer with probs"):
        write_answers(tmp_path / "answers.parquet", pixels(2), np.ones((2, 4)), kind="probs", num_classes=4)
    assert not (tmp_path / "answers.parquet").exists()


def table(path: Path, about: dict[str, Any] | None = None, **columns: Any) -> Path:
    made = pa.table(columns)
    pq.write_table(made if about is None else made.replace_schema_metadata({KEY: json.dumps(about).encode()}), path)
    return path


HASHES = [f"{k:032x}" for k in range(3)]
LABELS: dict[str, Any] = {"image": HASHES, "answer": [0, 3, 1]}


def test_a_plain_table_is_read_where_its_kind_is_declared(tmp_path: Path) -> None:
    path = table(tmp_path / "answers.parquet", **LABELS)
    with pytest.raises(UsageError, match="does not say what its answers are; declare it with --outputs"):
        Answers.read(path)
    found = Answers.read(path, kind=Access.LABEL)
    assert (found.num_classes, found.class_names, found.values) == (4, None, dict(zip(HASHES, [0, 3, 1], strict=True)))


def test_a_kind_that_the_file_denies_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "answers.parquet", {"kind": "label", "num_classes": 4}, **LABELS)
    assert Answers.read(path, kind=Access.LABEL).kind is Access.LABEL
    with pytest.raises(UsageError, match="says that it holds label, not probs"):
        Answers.read(path, kind=Access.PROBS)


@pytest.mark.parametrize(
    ("about", "columns", "words"),
    [
        (
            {"kind": "label"},
            {"image": HASHES, "said": [0, 1, 2]},
            "has columns image, said; a log has image, and answer",
        ),
        ({"kind": "lable"}, LABELS, "no access called 'lable'"),
        ({"kind": "weights"}, LABELS, "gives no weights|weights"),
        ({"kind": "label"}, {"image": HASHES, "answer": ["a", "b", "c"]}, "holds answers that are no label"),
        ({"kind": "label"}, {"image": HASHES, "answer": [0, None, 1]}, "answers that are no label|label"),
        ({"kind": "label", "num_classes": 2}, LABELS, "classes from 0 to 1; it gave 0 to 3"),
        ({"kind": "label"}, {"image": HASHES, "answer": [0, -1, 1]}, "classes from 0"),
        ({"kind": "label"}, {"image": [1, 2, 3], "answer": [0, 1, 1]}, "under 32 hex digits each"),
        ({"kind": "label"}, {"image": ["a", "b", "c"], "answer": [0, 1, 1]}, "under 32 hex digits each"),
        (
            {"kind": "label"},
            {"image": pa.array([], pa.string()), "answer": pa.array([], pa.int64())},
            "holds no answers",
        ),
        ({"kind": "probs"}, LABELS, "probs"),
        ({"kind": "probs"}, {"image": HASHES, "answer": [[1.0, 0.0], [1.0], [0.0, 1.0]]}, "no probs"),
        ({"kind": "probs"}, {"image": HASHES, "answer": [[1.0, 1.0]] * 3}, "1 in all"),
        ({"kind": "logits"}, {"image": HASHES, "answer": [[float("nan"), 1.0]] * 3}, "finite"),
        ({"kind": "logits"}, {"image": HASHES, "answer": [[]] * 3}, "logits"),
        ({"kind": "logits", "num_classes": 9}, {"image": HASHES, "answer": [[0.0, 1.0]] * 3}, "3 × 9 numbers"),
        ([1], {"image": HASHES, "answer": [0, 1, 2]}, "does not say what its answers are"),
    ],
)
def test_tables_of_something_else_are_refused_in_a_sentence(
    tmp_path: Path, about: Any, columns: dict[str, Any], words: str
) -> None:
    path = table(tmp_path / "answers.parquet", about, **columns)
    with pytest.raises(UndistillError, match=words) as refused:
        Answers.read(path)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no answers at"):
        Answers.read(tmp_path / "answers.parquet")


def parquet() -> bytes:
    buffer = io.BytesIO()
    values = {"image": HASHES, "answer": [[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]]}
    about = {KEY: json.dumps({"schema": 1, "kind": "probs", "num_classes": 2, "class_names": ["a", "b"]}).encode()}
    pq.write_table(pa.table(values).replace_schema_metadata(about), buffer)
    return buffer.getvalue()


CONTENT = parquet()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "answers.parquet"


@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_in_a_sentence(place: Path, data: st.DataObject) -> None:
    content = bytearray(CONTENT)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    place.write_bytes(bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))]))
    said, values = "nothing", list[Any]()
    try:
        values = list(Answers.read(place).values.values())
    except UndistillError as error:
        said = str(error)
    assert said
    assert "\n" not in said
    assert all(np.isfinite(value).all() for value in values)


@given(content=st.binary(max_size=100))
def test_random_bytes_are_refused_in_a_sentence(place: Path, content: bytes) -> None:
    place.write_bytes(b"PAR1" + content + b"PAR1")
    with pytest.raises(RunError, match="damaged or no Parquet file") as refused:
        Answers.read(place)
    assert "\n" not in str(refused.value)


# -- at work ------------------------------------------------------------------------------------------------------------


def of(images: ImageSet) -> Pixels:
    return images.images_NCHW[:].numpy()


Attacked = Callable[..., Any]


@pytest.fixture
def steal(splits: Splits, recipe: Recipe, tmp_path: Path) -> Attacked:
    """`steal(victim, card, out="run", **more)`: a cell."""

    def call(victim: Any, card: str, out: str = "run", **more: Any) -> Any:
        return attack(victim, splits, card=card, recipe=recipe, out=tmp_path / out, device="cpu", **more)

    return call


def test_an_attack_on_a_function_asks_its_budget_and_no_more(steal: Attacked, tmp_path: Path) -> None:
    api = Api()
    cell = steal(api.box, "probs/unlabelled/trained/random/10")
    assert (cell.queries, cell.images) == (10, 10)
    assert len(api.asked) == len(set(api.asked)) == 10
    assert cell.agreement is None
    assert not list((tmp_path / "run" / "cells").glob("*victim*"))
    assert len(Answers.read(tmp_path / "run" / "answers.parquet").values) == 10


def test_a_function_is_asked_about_the_test_images_where_that_was_wanted(
    steal: Attacked, splits: Splits, tmp_path: Path
) -> None:
    api = Api()
    cell = steal(api.box, "probs/unlabelled/trained/random/10", ask_test=True)
    assert cell.queries == 10
    assert len(api.asked) == len(set(api.asked)) == 10 + len(splits.test)
    assert cell.agreement is not None
    kinds = {found.kind: found for _, found in collect([tmp_path / "run"])}
    assert set(kinds) == {"cell", "victim"}
    said = np.asarray(say(of(splits.test))).argmax(axis=1)
    assert kinds["victim"].accuracy == pytest.approx(100 * float((said == splits.test.labels_N.numpy()).mean()))


def test_the_budget_counts_the_same_with_answers_at_hand(steal: Attacked, tmp_path: Path, splits: Splits) -> None:
    first = steal(Api().box, "probs/unlabelled/trained/random/10", ask_test=True)
    write_answers(
        tmp_path / "all.parquet",
        np.concatenate([of(splits.train), of(splits.test)]),
        say(np.concatenate([of(splits.train), of(splits.test)])),
        kind="probs",
        num_classes=4,
    )
    second = steal(tmp_path / "all.parquet", "probs/unlabelled/trained/random/10", "closed")
    assert (first.queries, first.forwards) == (second.queries, second.forwards) == (10, 10)
    assert (first.accuracy, first.agreement, first.nll) == (second.accuracy, second.agreement, second.nll)
    assert first.id != second.id


def test_attackers_of_one_ledger_pay_for_an_answer_once(steal: Attacked, tmp_path: Path) -> None:
    api, ledger = Api(), tmp_path / "paid" / "answers.parquet"
    card = "probs/unlabelled/trained/random/10"
    first = steal(api.box, card, ledger=ledger)
    second = steal(api.box, card, "second", attack={"name": "label-only"}, ledger=ledger)
    assert (first.queries, second.queries, len(api.asked)) == (10, 10, 10)
    assert not (tmp_path / "second" / "answers.parquet").exists()


def test_a_ledger_serves_one_victim(steal: Attacked, tmp_path: Path) -> None:
    ledger, card = tmp_path / "paid.parquet", "probs/unlabelled/trained/random/10"
    steal(Api().box, card, ledger=ledger)
    with pytest.raises(UsageError, match="answers of another victim"):
        steal(BlackBox(Api(), Access.PROBS, 4, "another api"), card, "second", ledger=ledger)


def test_two_processes_of_one_ledger_ask_each_question_once(tmp_path: Path) -> None:
    api, path = Api(), tmp_path / "answers.parquet"
    one, other = (Ledger(Answers(api.kind, 4), api.box, path) for _ in range(2))
    assert (one(pixels(5)) == other(pixels(5))).all()
    assert len(api.asked) == 5


def test_a_ledger_for_what_is_no_function_is_refused(steal: Attacked, tmp_path: Path) -> None:
    write_answers(tmp_path / "all.parquet", pixels(4), say(pixels(4)), kind="probs", num_classes=4)
    with pytest.raises(UsageError, match="--query-log keeps what a function answers"):
        steal(tmp_path / "all.parquet", "probs/unlabelled/trained/random/2", ledger=tmp_path / "more.parquet")


def test_an_attacker_that_asks_less_is_counted_less(steal: Attacked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "undistill.attacks.base.Questions", lambda oracle, batches, training: Lazy(oracle, batches.images)
    )
    api = Api()
    cell = steal(api.box, "probs/unlabelled/trained/random/10")
    assert cell.queries == len(api.asked) == 4


class Lazy:
    """Asks about the first four images alone, and answers everything with the first."""

    def __init__(self, oracle: Oracle, images: ImageSet) -> None:
        self.answer = oracle.ask(images.seen(slice(0, 4)))

    def __call__(self, batch: Batch) -> Answer:
        return self.answer.take(torch.zeros(len(batch.images_BCHW), dtype=torch.int64))


def test_labels_that_are_no_whole_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "half.parquet"
    pq.write_table(pa.table({"image": hashes_of(pixels(3)), "answer": [1.9, 2.7, 0.99]}), path)
    with pytest.raises(RunError, match="no label"):
        Answers.read(path, kind=Access.LABEL)


def test_a_ledger_keeps_what_another_process_wrote_meanwhile(tmp_path: Path) -> None:
    box, path = Api().box, tmp_path / "answers.parquet"
    one, other = (Ledger(Answers(box.kind, box.num_classes), box, path) for _ in range(2))
    one(pixels(3))
    other(pixels(6)[3:])
    assert len(Answers.read(path).values) == 6


def test_an_attack_that_died_while_it_asked_goes_on_where_it_was(
    steal: Attacked,
) -> None:
    card, dying, whole = "probs/unlabelled/trained/random/10", Api(dies_after=9, batch=4), Api(batch=4)
    with pytest.raises(RunError, match="gone"):
        steal(dying.box, card)
    cell = steal(whole.box, card, resume=True)
    assert len(dying.asked) == 8
    assert not set(dying.asked) & set(whole.asked)
    assert len(whole.asked) == 2
    assert cell.queries == 10
    assert cell.accuracy == steal(Api().box, card, "straight").accuracy


def test_of_a_closed_victim_only_answered_images_are_held(steal: Attacked, splits: Splits, tmp_path: Path) -> None:
    known = of(splits.train)[3:15]
    write_answers(tmp_path / "some.parquet", known, say(known), kind="probs", num_classes=4)
    cell = steal(tmp_path / "some.parquet", "probs/unlabelled/trained/random/12")
    assert cell.images == 12
    assert cell.agreement is None
    with pytest.raises(UsageError, match="queries 13 images; the trained pool has 12 with an answer"):
        steal(tmp_path / "some.parquet", "probs/unlabelled/trained/random/13", "more")


def test_a_closed_victim_without_an_answer_for_these_images_is_refused(steal: Attacked, tmp_path: Path) -> None:
    write_answers(tmp_path / "other.parquet", pixels(4), say(pixels(4)), kind="probs", num_classes=4)
    with pytest.raises(UsageError, match="has 0 with an answer"):
        steal(tmp_path / "other.parquet", "probs/unlabelled/trained/random/2")


@pytest.mark.parametrize(
    ("kind", "card", "words"),
    [
        (Access.LABEL, "probs/unlabelled/trained/random/10", "answers with label, the threat model gives probs"),
        (Access.PROBS, "logits/labelled(1.0)/trained/random", "answers with probs, the threat model gives logits"),
        (Access.LOGITS, "logits/labelled(1.0)/trained/random", "queried about every view of every image"),
    ],
)
def test_a_card_that_a_black_box_cannot_play_is_refused(
    steal: Attacked, tmp_path: Path, kind: Access, card: str, words: str
) -> None:
    api = Api(kind)
    with pytest.raises(UsageError, match=words):
        steal(api.box, card)
    assert api.asked == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", [Access.LABEL, Access.TOPK, Access.LOGITS], ids=["label", "topk", "logits"])
def test_every_kind_can_be_stolen_from(steal: Attacked, kind: Access) -> None:
    attacker = "label-only" if kind is Access.LABEL else "kd"
    card = f"{'label' if kind is Access.LABEL else 'probs'}/unlabelled/trained/random/10"
    if kind is Access.TOPK:
        attacker, card = "label-only", "topk/unlabelled/trained/random/10"
    cell = steal(Api(kind).box, card, attack=attacker)
    assert cell.status == "ok"
    assert cell.queries == 10


def test_a_fresh_card_needs_somebodys_word_where_nothing_tells_what_was_seen(steal: Attacked) -> None:
    card, api = "probs/unlabelled/fresh/random/10", Api()
    with pytest.raises(UsageError, match=r"none are known to be fresh; .*--assume-fresh"):
        steal(api.box, card)
    assert api.asked == []
    assert steal(api.box, card, unseen=True).vouched
    assert not steal(Api().box, "probs/unlabelled/trained/random/10", "trained", unseen=True).vouched


def test_a_victim_in_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    ids = []
    for count in (4, 4, 5):
        write_answers(tmp_path / "answers.parquet", pixels(count), say(pixels(count)), kind="probs", num_classes=4)
        ids.append(resolve(tmp_path / "answers.parquet").id)
    assert ids[0] == ids[1] != ids[2]


def test_answers_of_another_device_come_back_there() -> None:
    assert Api().box.answer(torch.zeros(2, 3, 8, 8)).device.type == "cpu"


# -- logs of a deployed model -------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Splits:
    """A folder of class folders, its images larger than they are read."""
    for number in range(60):
        folder = tmp_path / "photos" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels_HWC = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels_HWC).save(folder / f"{number:02}.png")
    return load(tmp_path / "photos", size=8, stored=10, pool=20)


def logged(folder: Path) -> list[tuple[str, int]]:
    """(path, class number) of each image."""
    files = sorted((folder / "photos").rglob("*.png"))
    return [(str(file.relative_to(folder)), int(file.parent.name == "dog")) for file in files]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_log_of_image_files_is_a_victim(photos: Splits, recipe: Recipe, tmp_path: Path, suffix: str) -> None:
    rows = logged(tmp_path)
    frames = {
        "scores": {"image": [p for p, _ in rows], "cat": [0.9 - 0.8 * c for _, c in rows], "dog": [0.1 + 0.8 * c for _, c in rows]},
        "names": {"image": [p for p, _ in rows], "label": [("cat", "dog")[c] for _, c in rows]},
        "numbers": {"image": [p for p, _ in rows], "label": [c for _, c in rows]},
    }  # fmt: skip
    for name, columns in frames.items():
        frame, path = pd.DataFrame(columns), tmp_path / f"{name}.{suffix}"
        frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
        kind = "probs" if name == "scores" else None
        victim = resolve(path, photos, answers=kind)
        assert isinstance(victim.model, BlackBox)
        assert victim.model.kind is (Access.PROBS if kind else Access.LABEL)
        for part in (photos.pool, photos.test):
            assert part is not None
            said = victim.model.answer(part.seen())
            assert torch.equal(said.argmax(1) if kind else said, part.labels_N)
        card = f"{kind or 'label'}/unlabelled/fresh/random/15"
        by: dict[str, Any] = {
            "attack": {"name": "kd" if kind else "label-only"},
            "assume_fresh": True,
            "recipe": recipe,
        }
        cell = attack(path, photos, card=card, outputs=kind, out=tmp_path / name, **by)
        assert (cell.queries, cell.status) == (15, "ok")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("image,label\nphotos/cat/00.png,wolf\n", "answers with a class 'wolf' that the data do not have"),
        ("image,cat\nphotos/cat/00.png,1\n", "none is called 'dog'; a log has image, and answer, label or a column"),
        ("file,label\nphotos/cat/00.png,cat\n", "has columns file, label; a log has image"),
        ("image,label\nphotos/cat/99.png,cat\n", "names an image photos/cat/99.png, and there is none at"),
        ("image,label\nscores.csv,cat\n", "scores.csv of .* is corrupt"),
        ("image,label\nphotos/cat/00.png,2\n", "classes from 0 to 1; it gave 2 to 2"),
        ("image,label\nphotos/cat/00.png\n", "is damaged or no CSV file"),
        ("", "is damaged or no CSV file"),
    ],
)
def test_a_log_that_cannot_be_one_is_one_sentence(photos: Splits, tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(UndistillError, match=sentence):
        resolve(tmp_path / "scores.csv", photos)


@pytest.mark.parametrize(
    ("classes", "label", "expected"),
    [
        (("001", "10", "2", "cat"), ["001", "10", "2", "cat"], [0, 1, 2, 3]),
        (("1", "2", "3"), ["1", "3"], [0, 2]),
        (("1", "2", "3"), ["0", "1", "2"], [0, 1, 2]),
        (("0", "1", "10", "2"), ["2", "10"], [3, 2]),
        (("a", "b"), ["0", "1"], [0, 1]),
    ],
)
def test_a_column_of_classes_is_of_names_or_of_numbers(
    tmp_path: Path, classes: tuple[str, ...], label: list[str], expected: list[int]
) -> None:
    images = ImageSet.of(torch.zeros(len(classes), 3, 8, 8, dtype=torch.uint8), torch.arange(len(classes)), classes)
    hashes = hashes_of(pixels(len(label)))
    for column in ("label", "answer"):
        text = "".join(f"{key},{name}\n" for key, name in zip(hashes, label, strict=True))
        (tmp_path / "log.csv").write_text(f"image,{column}\n{text}", encoding="utf-8-sig")
        assert list(Answers.read(tmp_path / "log.csv", images=images).values.values()) == expected
    numbers = {"image": hashes, "label": list(range(len(label)))}
    pd.DataFrame(numbers).to_parquet(tmp_path / "log.parquet")
    assert list(Answers.read(tmp_path / "log.parquet", images=images).values.values()) == list(range(len(label)))


def test_a_limit_counts_what_was_asked_whatever_came_of_it(tmp_path: Path) -> None:
    asked: list[int] = []

    def breaks(given: Pixels) -> Any:
        asked.append(len(given))
        raise RunError("the connection broke")

    box = BlackBox(breaks, Access.PROBS, 4, "the api", batch=4, limit=10)
    for error in ("the connection broke", "the connection broke", "exceed the limit of 10", "exceed the limit of 10"):
        with pytest.raises(RunError, match=error):
            Ledger(Answers(Access.PROBS, 4), box, tmp_path / "log.parquet")(pixels(8))
    assert asked == [4, 4]
    good = BlackBox(say, Access.PROBS, 4, "the api", batch=4, limit=14)
    first, second = (Ledger(Answers(Access.PROBS, 4), good, tmp_path / "log.parquet") for _ in range(2))
    first.again(pixels(4))
    with pytest.raises(RunError, match="exceed the limit of 14 that the api may be queried about; 12 were"):
        second.again(pixels(4))


def test_a_query_log_is_never_written_over_a_log_of_ones_own(steal: Attacked, tmp_path: Path) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text("image,label\n")
    with pytest.raises(UsageError, match=r"a query log is a Parquet file: call it mine\.parquet"):
        steal(Api().box, "probs/unlabelled/trained/random/10", query_log=mine)
    assert mine.read_text() == "image,label\n"
