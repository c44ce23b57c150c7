"""CFG++: the clean picture from the guided prediction, the noise from the unconditional one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.cond import Cond
from ..core.errors import Refused
from ..core.guidance import Guidance
from ..core.plugin import Needs
from ..core.predict import Predict
from ..core.prediction import Affine
from ..core.registry import method
from ..core.step import Step
from ..core.value import Coef, Value, combine, dot


@dataclass(frozen=True)
class Renoised(Affine):
    """A prediction whose noise is its own and whose clean state is `clean`: the two do not make up the state.

    Samplers that move by x0 and eps go through the clean state of the one and are noised by the other.
    """

    clean: Value = None

    def __getitem__(self, rows: Any) -> Renoised:
        p = super().__getitem__(rows)
        return Renoised(p.x, p.a, p.s, p.value, p.row, p.b, p.y, self.clean[rows])

    @property
    def x0(self) -> Value:
        return self.clean

    def combined(self, c_x: Coef, c_e: Coef) -> Value:
        return combine((c_x, self.clean), (c_e, self.eps))

    @property
    def eps(self) -> Value:
        return Affine.combined(self, Coef(0.0), Coef(1.0))


@method(paper="cfg-plus-plus")
@dataclass(frozen=True)
class CFGPlusPlus(Guidance):
    """x_s = alpha_s x0_lambda + sigma_s e(x_t, null): the guided clean picture, renoised with the unconditional noise.

    x0_lambda is that of e_lambda = e(x, null) + lambda (e(x, c) - e(x, null)). Interpolation is enough, where CFG
    extrapolates, and the run stays near the noisy pictures that the network knows. With DDIM the step is CFG's at the
    scale lambda rho_t / (rho_t - rho_s), rho = sigma / alpha. Negative prompts take the place of the null condition.

    For samplers of one evaluation a step that go through x0 and eps, deterministic, ancestral or multistep; on any
    process, flows too.

    Args:
        scale: lambda, 0 (unconditional) to 1; the paper's 0.6 matches CFG at 7.5. Values above 1 extrapolate.

    Raises:
        Refused: a sampler that moves by the noise alone, which would not see the guidance.

    Example:
        >>> model.generate("a red circle", guidance=CFGPlusPlus(0.6), sampler=DDIM())

    Reference: Chung et al., CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models, 2406.08070.

    Differs from the paper: multistep samplers extrapolate the guided x0, where the authors' DPM-Solver++ 2M subtracts
    the unconditional x0 of the step before.
    """

    scale: float = 0.6

    needs = Needs.GAUSSIAN | Needs.ONE_EVALUATION | Needs.OUTERMOST | Needs.UNCONDITIONAL
    evaluations = 2

    def __call__(self, predict: Predict, x: Value, t: Coef, cond: Cond, at: Step) -> Any:
        pc, pu = predict.many([("cond", x, t, cond), ("null", x, t, cond.branch("null"))])
        clean = combine((self.scale, pc.x0), (1.0 - self.scale, pu.x0))
        p = Renoised(pu.x, pu.a, pu.s, pu.value, pu.row, pu.b, pu.y, clean)
        if "seen" not in at.memory:
            self._check(p, pu, at)
        return p

    def _check(self, p: Renoised, pu: Affine, at: Step) -> None:
        """Refuse samplers whose step does not lead through the clean state."""
        shift, moved = p.clean - pu.x0, at.move(p, 0.0) - at.move(pu, 0.0)
        wanted = at.process.alpha(at.s).tensor(len(at.samples)) * dot(shift, shift).cpu()
        if bool((dot(moved, shift).cpu() < 0.1 * wanted).any()):
            raise Refused(
                f"{self}: the sampler moves by the noise alone and would not see the guidance; use one that goes "
                "through x0, such as DDIM(), DDPM() or DPMSolverPP(), or CFG"
            )
        at.memory["seen"] = shift.new_ones(len(at.samples))
