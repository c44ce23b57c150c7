"""Diffusion Classifier on a denoiser whose errors are known."""

from __future__ import annotations

import pytest
import torch

from suffuse.core.cond import Cond
from suffuse.core.denoiser import Denoiser
from suffuse.core.errors import BadInput
from suffuse.core.prediction import X0
from suffuse.core.value import Coef
from suffuse.probing import DiffusionClassifier, errors, text_image_score
from suffuse.processes import VP, Flow


class Believer(Denoiser):
    """Predicts that the clean state is the constant it is told."""

    def __init__(self, process):
        super().__init__()
        self.process = process

    def forward(self, x, t, cond=None):
        return self.process.predict(x, Coef(t), cond["guess"].reshape(-1, 1, 1, 1).expand_as(x), X0)


def candidates(n):
    return [Cond({"guess": torch.tensor([float(k)])}) for k in range(n)]


@pytest.mark.parametrize("process", [VP(), Flow()])
@pytest.mark.parametrize("space", ["eps", "value"])
@pytest.mark.parametrize("power", [1, 2])
def test_finds_the_constant(process, space, power):
    x0 = torch.tensor([3.0, 0.0, 5.0]).reshape(3, 1, 1, 1).expand(3, 1, 4, 4)
    ranking = DiffusionClassifier(((4, 1),), power, space=space)(Believer(process), x0, candidates(6))
    assert ranking.best.tolist() == [3, 0, 5]
    assert ranking.posterior.sum(1).allclose(torch.ones(3, dtype=torch.float64))


def test_error_is_that_of_the_equation():
    process, x0, eps = VP(), torch.randn(2, 1, 3, 3), torch.randn(2, 1, 3, 3)
    guess = torch.tensor([0.5, -1.0])
    got = errors(Believer(process), x0, Cond({"guess": guess}), 0.4, eps)
    ratio = process.alpha(Coef(0.4)).item() / process.sigma(Coef(0.4)).item()
    torch.testing.assert_close(got, ratio * (x0 - guess.reshape(2, 1, 1, 1)), atol=1e-5, rtol=1e-5)


def test_stages_spend_less_and_agree():
    x0 = torch.tensor([2.0, 7.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    full = DiffusionClassifier(((20, 1),))(Believer(VP()), x0, candidates(10))
    staged = DiffusionClassifier(((2, 3), (20, 1)))(Believer(VP()), x0, candidates(10))
    assert staged.best.tolist() == full.best.tolist() == [2, 7]
    assert full.nfe.tolist() == [200, 200]
    assert staged.nfe.tolist() == [2 * 10 + 18 * 3] * 2


def test_shared_noise_cancels_in_differences():
    # candidates differ by a constant shift, so shared noise leaves only the spread over times
    x0 = torch.zeros(1, 1, 16, 16)
    shared = DiffusionClassifier(((16, 1),))(Believer(VP()), x0, candidates(2))
    alone = DiffusionClassifier(((16, 1),), shared=False)(Believer(VP()), x0, candidates(2))
    assert shared.best.tolist() == alone.best.tolist() == [0]
    assert shared.stderr[0, 0] == 0


def test_captions_of_each_picture_and_batch_split():
    x0 = torch.tensor([1.0, 4.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    own = [Cond({"guess": torch.tensor([1.0, 0.0])}), Cond({"guess": torch.tensor([0.0, 4.0])})]
    ranking = DiffusionClassifier(((4, 1),))(Believer(VP()), x0, own)
    assert ranking.best.tolist() == [0, 1]
    first = DiffusionClassifier(((4, 1),), chunk=1)(Believer(VP()), x0[:1], [c[:1] for c in own])
    torch.testing.assert_close(first.error[0], ranking.error[0])


def test_score_prefers_the_true_text():
    x0 = torch.ones(2, 1, 4, 4)
    cond = Cond({"guess": torch.ones(2)}, {"null": Cond({"guess": torch.zeros(2)})})
    assert (text_image_score(Believer(VP()), x0, cond, evaluations=4) > 0).all()


def test_bad_plans_are_refused():
    with pytest.raises(BadInput, match="stages"):
        DiffusionClassifier(((5, 5), (3, 1)))
    with pytest.raises(BadInput, match="candidate 0 has 3 rows"):
        DiffusionClassifier()(Believer(VP()), torch.zeros(2, 1, 2, 2), [Cond({"guess": torch.zeros(3)})])
