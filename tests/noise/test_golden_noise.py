"""Golden noise: what re-denoising starts from, the network's formula, pairs, training, files and refusals."""

from __future__ import annotations

import pytest
import torch

import suffuse
from suffuse.core.engine import sample, trace
from suffuse.core.errors import BadInput, Refused
from suffuse.core.plugin import Setting
from suffuse.core.reflection import Branch
from suffuse.guidance import CFG
from suffuse.noise import GoldenNoise, NoisePairs, NPNet, ReDenoise, collect_pairs
from suffuse.samplers import DDIM
from suffuse.testing import fixtures

NET, SHAPE, TEXT = fixtures.fixture("unet"), (4, 8, 8), (fixtures.TOKENS, fixtures.WIDTH)
COND, X = fixtures.conditions("unet", 6), fixtures.states("unet", 6)
RUN = dict(sampler=DDIM(), steps=3, guidance=CFG(3.0))


def network(seed=0, **how):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return NPNet(SHAPE, TEXT, width=16, depth=1, **how).eval().requires_grad_(False)


def folded(x):
    """The four channels side by side, 2 x 2."""
    return x.reshape(-1, 2, 2, 8, 8).transpose(2, 3).reshape(-1, 16, 16)


def test_re_denoising_replaces_the_noise_and_costs_three():
    plain = sample(NET, X, cond=COND, **RUN)
    golden = sample(NET, X, cond=COND, hooks=[ReDenoise(CFG(5.5), CFG(1.0))], **RUN)
    assert (golden.nfe - plain.nfe).tolist() == [3] * 6
    at = next(iter(trace(NET, X, cond=COND, **RUN))).at
    t, s = at.t, at.s
    process, null = NET.process, COND.branch("null")
    with torch.no_grad():
        pc, pu = NET(X, t, COND), NET(X, t, null)
        y = process.posterior(X, pc.mix([5.5, -4.5], [pc, pu]), t, s, 0.0).mean
        start = process.posterior(y, NET(y, s, COND), s, t, 0.0).mean
    torch.testing.assert_close(golden.x, sample(NET, start, cond=COND, **RUN).x, rtol=1e-4, atol=1e-4)


def test_re_denoising_needs_two_steps():
    with pytest.raises(Refused, match="2 steps"):
        sample(NET, X, cond=COND, hooks=[ReDenoise()], **{**RUN, "steps": 1})


def test_at_first_the_network_moves_singular_values_only():
    net, text = network(), COND["text"]
    out = net(X, text)
    assert torch.equal(out, net.singular(X))
    before, after = (torch.linalg.svd(folded(v)) for v in (X, out))
    product = (before.U.mT @ after.U).abs()
    torch.testing.assert_close(product.square().sum(-1), torch.ones(6, 16), rtol=1e-3, atol=1e-3)
    for part in (net.singular.out[-1].weight, net.singular.out[-1].bias):
        part.zero_()
    torch.testing.assert_close(net(X, text), X, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_any_number_of_channels_is_folded_and_unfolded(channels):
    net = NPNet((channels, 4, 6), (2, 3), width=8, depth=1)
    torch.nn.init.zeros_(net.singular.out[-1].weight)
    torch.nn.init.zeros_(net.singular.out[-1].bias)
    x = torch.randn(2, channels, 4, 6)
    torch.testing.assert_close(net(x, torch.randn(2, 2, 3)), x, rtol=1e-4, atol=1e-5)


def test_both_branches_and_the_text_count_once_alpha_and_beta_are_not_zero():
    net, text = network(), COND["text"]
    first, other = net(X, text), text.flip(0)
    net.alpha.fill_(0.5)
    e = net.embed(X, text.flatten(1))
    torch.testing.assert_close(net(X, text), first + (2 * torch.sigmoid(torch.tensor(0.5)) - 1) * e)
    assert float((net(X, other) - net(X, text)).abs().max()) > 1e-3
    net.alpha.zero_()
    net.beta.fill_(0.3)
    torch.testing.assert_close(net(X, text), first + 0.3 * net.residual(X + e), rtol=1e-4, atol=1e-5)
    assert float((net(X, other) - net(X, text)).abs().max()) > 1e-4


def test_the_sign_of_singular_vectors_does_not_matter(monkeypatch):
    net = network()
    torch.testing.assert_close(net.singular(X)[[2]], net.singular(X[[2]]), rtol=1e-4, atol=1e-5)
    svd, sign = torch.linalg.svd, torch.tensor([-1.0, 1.0] * 8)

    def other(matrix, **how):
        u, s, vt = svd(matrix, **how)
        return u * sign, s, vt * sign[:, None]

    monkeypatch.setattr(torch.linalg, "svd", other)
    again = net.singular(X)
    monkeypatch.undo()
    torch.testing.assert_close(again, net.singular(X), rtol=1e-4, atol=1e-5)


def test_pairs_are_those_that_the_score_compares():
    seen = []

    def score(states, rows):
        seen.append((states, rows))
        return states.flatten(1).mean(1)

    pairs = collect_pairs(NET, (6, *SHAPE), score, cond=COND, steps=3, guidance=CFG(3.0), batch=4, noise=7)
    whole = collect_pairs(NET, (6, *SHAPE), score, cond=COND, steps=3, guidance=CFG(3.0), noise=7)
    assert [rows for _, rows in seen] == [[0, 1, 2, 3]] * 2 + [[4, 5]] * 2 + [list(range(6))] * 2
    torch.testing.assert_close(pairs.golden, whole.golden, rtol=1e-4, atol=1e-4)
    plain, golden = (states for states, _ in seen[-2:])
    torch.testing.assert_close(whole.gain, golden.flatten(1).mean(1) - plain.flatten(1).mean(1))
    run = dict(cond=COND, guidance=CFG(3.0), sampler=DDIM(), steps=3)
    torch.testing.assert_close(sample(NET, whole.noise, **run).x, plain)
    torch.testing.assert_close(sample(NET, whole.golden, **run).x, golden)
    assert len(whole.preferred) == int((whole.gain > 0).sum()) and bool((whole.preferred.gain > 0).all())


def made_up(n=32):
    """Pairs whose golden noise is the noise scaled, and shifted by what the text says."""
    generator = torch.Generator().manual_seed(0)
    noise, text = torch.randn(n, *SHAPE, generator=generator), torch.randn(n, *TEXT, generator=generator)
    golden = 0.7 * noise + 0.5 * text[:, 0, 0, None, None, None]
    return NoisePairs(noise, golden, text, torch.ones(n), Setting(process=str(NET.process)))


def test_training_learns_and_is_reproducible():
    pairs = made_up()

    def error(golden):
        return float((golden.network(pairs.noise, pairs.text) - pairs.golden).square().mean())

    start = float((pairs.noise - pairs.golden).square().mean())
    how = dict(epochs=25, batch=16, rate=4e-3, width=16, depth=1)
    fitted = GoldenNoise.fit(pairs, **how)
    assert error(fitted) < 0.5 * start
    assert abs(float(fitted.network.alpha)) > 1e-3 and abs(float(fitted.network.beta)) > 1e-3
    assert error(GoldenNoise.fit(pairs, **how)) == error(fitted)


def test_the_hook_is_the_network_on_the_start_noise():
    golden = GoldenNoise(network(), Setting(process=str(NET.process)))
    with torch.no_grad():
        start = golden.network(X, COND["text"])
    hooked, plain = sample(NET, X, cond=COND, hooks=[golden], **RUN), sample(NET, start, cond=COND, **RUN)
    torch.testing.assert_close(hooked.x, plain.x)
    assert hooked.nfe.tolist() == plain.nfe.tolist()


def test_it_comes_back_from_a_file(tmp_path):
    golden = GoldenNoise(network(), Setting(model="m", shape=SHAPE))
    again = suffuse.load_method(suffuse.save_method(golden, tmp_path / "golden.safetensors"))
    assert again.made_for == golden.made_for
    assert torch.equal(again.network(X, COND["text"]), golden.network(X, COND["text"]))


def test_elsewhere_it_is_refused():
    golden = GoldenNoise(network(), Setting(model="m", process=str(NET.process), shape=SHAPE))
    for setting in (Setting(model="other", shape=SHAPE), Setting(model="m", shape=(4, 16, 16))):
        with pytest.raises(Refused, match="GoldenNoise was fitted"):
            sample(NET, X, cond=COND, hooks=[golden], setting=setting, **RUN)
    here = Setting(model="m", shape=SHAPE)
    with pytest.raises(Refused, match="not from noise"):
        sample(NET, X, cond=COND, hooks=[golden], setting=here, start=0.7, **RUN)
    with pytest.raises(BadInput, match="this network is for"):
        golden.network(X[:, :, :4], COND["text"])
    with pytest.raises(BadInput, match="no 'text'"):
        sample(fixtures.fixture("dit"), X, cond=fixtures.conditions("dit", 6), sampler=DDIM(), steps=2,
               hooks=[GoldenNoise(network(), Setting(process=str(fixtures.fixture("dit").process)))])  # fmt: skip
    with pytest.raises(BadInput, match="pairs"):
        GoldenNoise.fit(made_up()[:0])
    with pytest.raises(BadInput, match="DDIM"):
        ReDenoise(strong=DDIM())
    with pytest.raises(BadInput, match="even"):
        NPNet((4, 3, 4), TEXT)


def test_prompts_of_its_settings_are_told():
    assert ReDenoise(Branch(path="rich", prompt="a circle")).prompts() == {"rich": "a circle"}
