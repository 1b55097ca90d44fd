"""Intervals and tests against known values and against what they promise: the true score, 95 times of 100."""

import numpy as np
import pytest
from scipy import stats

from headstart.core import statistics
from headstart.core.statistics import rows_needed, score_difference, score_interval, share_difference, share_interval
from headstart.runs import evidence
from headstart.tasks.relation_extraction import RelationExtraction
from headstart.tasks.text_classification import TextClassification
from headstart.tasks.text_regression import TextRegression

TASK = TextClassification(labels=("a", "b"))


@pytest.mark.parametrize(("n_right", "n"), [(10, 10), (20, 20), (0, 10), (50, 100), (93, 100), (1234, 2000)])
def test_an_interval_of_a_share_is_wilsons(n_right, n):
    theirs = stats.binomtest(n_right, n).proportion_ci(method="wilson")
    assert share_interval(n_right, n) == pytest.approx((theirs.low, theirs.high))


def test_ten_of_ten_prove_no_perfect_score():
    assert share_interval(10, 10) == pytest.approx((0.7225, 1), abs=1e-4)
    assert share_interval(9, 10)[1] == pytest.approx(1 - stats.chi2.ppf(0.05, 2) / 2 / 10, abs=1e-6)


@pytest.mark.parametrize("n", [10, 20, 30, 60, 100, 300, 1000])
def test_the_interval_of_a_share_covers_it(n):
    ends_N2 = np.array([share_interval(k, n) for k in range(n + 1)])
    for true in (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99):
        chance_N = stats.binom.pmf(np.arange(n + 1), n, true)  # of every number of right rows: no simulation needed
        covered = chance_N[(ends_N2[:, 0] <= true) & (true <= ends_N2[:, 1])].sum()
        assert covered >= (0.92 if true in (0.7, 0.9, 0.97) else 0.93), (true, covered)


@pytest.mark.parametrize(("n_better", "n_worse"), [(6, 0), (5, 0), (12, 3), (0, 0), (30, 50), (400, 300)])
def test_shares_are_tested_exactly(n_better, n_worse):
    p = stats.binomtest(n_better, n_better + n_worse).pvalue if n_better + n_worse else 1.0
    assert share_difference(n_better, n_worse, 1000).p == pytest.approx(p)
    swapped = share_difference(n_worse, n_better, 1000)
    low, high = share_difference(n_better, n_worse, 1000).interval
    assert swapped.interval == pytest.approx((-high, -low))


def test_the_paired_interval_is_that_of_agresti_and_min():
    """Their adjusted Wald interval: half a row more in each of the four cells."""
    low, high = share_difference(12, 3, 100).interval
    middle, error = 9 / 102, np.sqrt(16 - 81 / 102) / 102
    assert (low, high) == pytest.approx((middle - 1.959964 * error, middle + 1.959964 * error))


def test_a_test_of_very_many_rows_is_still_exact():
    assert share_difference(5000, 4800, 10**6).p == pytest.approx(stats.binomtest(5000, 9800).pvalue)


@pytest.mark.parametrize("n", [10, 30, 100, 1000])
@pytest.mark.parametrize(("unequal", "gain"), [(0.1, 0.0), (0.1, 0.05), (0.3, 0.0), (0.4, 0.2)])
def test_the_interval_of_a_gain_covers_it_and_luck_is_no_proof(n, unequal, gain):
    better, worse = (unequal + gain) / 2, (unequal - gain) / 2
    counts = np.random.default_rng(0).multinomial(n, [better, worse, 1 - unequal], 1500)
    drawn = [share_difference(b, w, n) for b, w, _ in counts.tolist()]
    assert np.mean([d.interval[0] <= gain <= d.interval[1] for d in drawn]) >= 0.93
    if gain == 0:
        assert np.mean([d.is_proven for d in drawn]) <= 0.05


@pytest.mark.parametrize("n", [30, 100, 540])
@pytest.mark.parametrize(("worse", "better"), [(0.02, 0.0), (0.05, 0.0), (0.05, 0.05), (0.1, 0.04)])
def test_the_least_difference_holds_95_times_of_100(n, worse, better):
    counts = np.random.default_rng(0).multinomial(n, [better, worse, 1 - better - worse], 1500)
    least = [statistics.least_difference(share_difference(b, w, n), n) for b, w, _ in counts.tolist()]
    assert np.mean(np.array(least) <= better - worse) >= 0.93


@pytest.mark.parametrize("n", [1, 10, 100, 1000])
def test_rows_that_all_agree_leave_room_for_a_loss(n):
    """Of n rows that agree Tango's limit is Wilson's of none of n: near the rule of three."""
    theirs = stats.binomtest(0, n).proportion_ci(0.9, "wilson").high
    assert statistics.least_difference(share_difference(0, 0, n), n) == pytest.approx(-theirs)
    unresampled = statistics.least_difference(score_difference(0.0, 0.0, n), n)
    assert unresampled == pytest.approx(-theirs)  # also where no resample of a score differs


def test_nothing_is_proven_by_resamples_of_a_handful():
    assert not score_difference(0.5, 0.05, 29).is_proven
    assert score_difference(0.5, 0.05, 30).is_proven
    assert score_difference(-0.5, 0.05, 30).is_proven


def test_a_resampled_difference_of_shares_is_nearly_that_of_the_counts():
    exact = share_difference(60, 30, 1000)
    resampled = score_difference(0.03, np.sqrt((0.09 - 0.03**2) / 1000), 1000)
    assert resampled.interval == pytest.approx(exact.interval, abs=2e-4)
    assert resampled.p == pytest.approx(exact.p, rel=0.5)
    assert resampled.unequal == pytest.approx(exact.unequal, rel=0.01)


@pytest.mark.parametrize("lowest", [0.0, -1.0])
@pytest.mark.parametrize("value", [0.0, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("deviation", [0.0, 0.01, 0.2])
@pytest.mark.parametrize("n", [1, 10, 1000])
def test_an_interval_holds_its_score_has_width_and_stays_in_range(value, deviation, n, lowest):
    low, high = score_interval(value, deviation, n, lowest)
    assert lowest <= low <= value <= high <= 1
    assert high - low > 1e-6


def test_rows_needed_prove_a_gain_four_times_of_five():
    n = rows_needed(0.05, 0.2)
    counts = np.random.default_rng(0).multinomial(n, [0.125, 0.075, 0.8], 1000)
    assert np.mean([share_difference(b, w, n).p <= 0.05 for b, w, _ in counts.tolist()]) == pytest.approx(0.8, abs=0.05)


def test_only_shares_are_counted():
    pairs_N2 = np.array([[0, 0], [1, 0], [1, 1]])
    correct_N = TASK.correct(pairs_N2)
    assert correct_N is not None
    assert correct_N.tolist() == [True, False, True]
    assert RelationExtraction(labels=("a", "b")).correct(pairs_N2) is None  # its metric is an F1
    assert (TASK.lowest_score, TextRegression().lowest_score) == (0, -1)


def test_scores_are_plain_numbers():
    """What is written to JSON and YAML."""
    task = RelationExtraction(labels=("a", "b"))
    paired = statistics.paired(task, [np.array([[0, 0], [1, 0], [1, 1], [0, 0]])] * 2, 100, 0)
    gain = paired.difference(0, 1)
    assert {type(x) for x in (*paired.interval(0), gain.value, *gain.interval, gain.p, gain.unequal)} == {float}


def test_the_mean_of_several_seeds_is_compared_row_by_row():
    rng = np.random.default_rng(0)
    gold_N = rng.integers(2, size=400)
    systems = [np.stack([gold_N, np.where(rng.random(400) < right, gold_N, 1 - gold_N)], 1)
               for right in (0.9, 0.9, 0.7, 0.7)]
    paired = statistics.paired(TASK, systems, 100, 0)
    means = paired.means([2, 2])
    assert means.values_S == pytest.approx([paired.values_S[:2].mean(), paired.values_S[2:].mean()])
    assert means.difference(0, 1).is_proven
    low, high = means.interval(0)
    assert low < means.values_S[0] < high
    one, two = (x.interval(0)[1] - x.interval(0)[0] for x in (paired, means))
    assert two < one  # two fits tell more of a method than one


def answers(labels):
    return [{"label": label, "scores": {}} for label in labels]


def certificate(fitted, n=200, is_seen_N=None, **baselines):
    """Of systems that answer the first so many rows wrong."""
    rows = [{"text": "x", "label": "ab"[i % 2]} for i in range(n)]
    gold = [row["label"] for row in rows]
    flip = {"a": "b", "b": "a"}

    def made(n_wrong):
        return answers([flip[g] if i < n_wrong else g for i, g in enumerate(gold)])

    outcomes = {name: TASK.outcomes(made(n), rows) for name, n in {"": fitted, **baselines}.items()}
    return evidence.certify(TASK, outcomes.pop(""), outcomes, method="fine-tuning", n_resamples=500, seed=0,
                            is_seen_N=is_seen_N)


def test_verdicts_in_words():
    scores = certificate(10, majority=100, **{"tf-idf": 40})
    assert scores.verdict_kind == "positive"
    assert scores.verdict.startswith("positive transfer: +15.0 points over TF-IDF + a linear classifier [")
    scores = certificate(40, majority=100, **{"frozen-backbone": 41})
    assert scores.verdict_kind == "undecided"
    assert scores.verdict.startswith("no proof that fine-tuning beats the frozen backbone with a linear head: +0.5 ")
    scores = certificate(60, majority=100, **{"tf-idf": 20})
    assert scores.verdict_kind == "negative"
    assert scores.verdict.startswith("negative transfer: -20.0 points against TF-IDF + a linear classifier [")
    assert certificate(1).verdict_kind == "undecided"


@pytest.mark.parametrize(("n", "fitted", "baseline", "kind", "words"), [
    (10, 0, 5, "undecided", "10 test rows cannot carry a verdict: to prove 10, 5 or 2 points takes about "),
    (10, 0, 5, "undecided", "+50.0 points over the majority class ["),
    (10, 0, 6, "positive", "positive transfer: +60.0 points"),  # six rows are the least
    (20, 0, 0, "undecided", "20 test rows cannot carry a verdict"),
    (20, 8, 1, "negative", "negative transfer: -35.0 points"),
    (1000, 100, 101, "undecided", "no proof that fine-tuning beats"),
])
def test_a_verdict_needs_rows_to_carry_it(n, fitted, baseline, kind, words):
    scores = certificate(fitted, n=n, majority=baseline)
    assert scores.verdict_kind == kind
    assert words in scores.verdict
    assert scores.fitted.interval[1] > scores.fitted.interval[0]
    assert all(gain.interval[1] > gain.interval[0] for gain in scores.gains.values())


def test_rows_that_training_saw_prove_nothing():
    """The fitted model is right on the 40 rows with a twin in train, and no better than the baseline elsewhere."""
    seen_N = np.arange(200) >= 160
    rows = [{"text": "x", "label": "ab"[i % 2]} for i in range(200)]
    gold_N = np.array([0, 1] * 100)
    wrong = TASK.outcomes(answers(row["label"] for row in rows), rows)
    fitted, baseline = wrong.copy(), wrong.copy()
    fitted[:50, 1] = baseline[:50, 1] = 1 - gold_N[:50]
    baseline[160:, 1] = 1 - gold_N[160:]

    def certified(is_seen_N):
        return evidence.certify(TASK, fitted, {"x": baseline}, method="m", n_resamples=99, seed=0, is_seen_N=is_seen_N)

    assert certified(None).verdict_kind == "positive"
    scores = certified(seen_N)
    assert scores.verdict.startswith("40 of 200 test rows have a twin in train; on the 160 others accuracy is 0.6875 [")
    assert (scores.verdict_kind, scores.unseen.n, scores.unseen.value) == ("undecided", 160, 110 / 160)
    again = type(scores).from_json(scores.to_json())
    assert again.unseen == scores.unseen
    everything = certified(np.ones(200, bool))
    assert everything.verdict == "all 200 test rows have a twin in train: they prove nothing about new rows"
    assert everything.unseen is None


def test_every_gain_is_paired_and_has_an_interval():
    scores = certificate(10, majority=100, **{"tf-idf": 40})
    assert scores.gains.keys() == scores.baselines.keys() == {"majority", "tf-idf"}
    for name, gain in scores.gains.items():
        low, high = gain.interval
        assert (gain.n, gain.seed) == (200, 0)
        assert low <= gain.difference <= high
        assert 0 <= gain.p <= 1
        assert gain.difference == pytest.approx(scores.fitted.value - scores.baselines[name].value)


def test_scores_of_rows_that_are_right_in_part_may_vary_less_than_shares_once_rows_are_many():
    few, many = ([score_interval(0.3, 0.01, n, gives_parts=parts) for parts in (False, True)] for n in (20, 900))
    as_share, in_part = few
    assert in_part == as_share  # resamples of few rows know too little
    as_share, in_part = many
    assert in_part == pytest.approx((0.3 - 1.96 * 0.01, 0.3 + 1.96 * 0.01), abs=1e-3)
    assert as_share[0] < in_part[0] - 0.005
    assert in_part[1] + 0.005 < as_share[1]
