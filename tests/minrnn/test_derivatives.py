"""Second derivatives, forward mode and torch.func, over every cell, stack and scan.

Right values are those of finite differences in float64 (gradcheck and gradgradcheck), of a loop
over samples or models, or of the same derivative taken in another way.
"""

import warnings

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, stack_module_state, vmap
from torch.utils.checkpoint import checkpoint

import minrnn
from minrnn import Stack, StackConfig, build, derivatives, detach, scan, tree_map
from minrnn.scan import backends, kernel_op, linear, mingru_scan, minlstm_scan, ops
from minrnn.sdpa import attend
from minrnn.state import leaves
from tests.minrnn.test_contract import OPTIONS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning"),
    # A batching rule that torch lacks: the loop in its place is right.
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
]

DIM, BATCH, LENGTH = 4, 2, 5
CELLS = [(name, {}) for name in minrnn.available()]
CELLS += [(name, options) for name in OPTIONS for options in OPTIONS[name]]
STACKS = [
    StackConfig(dim=DIM, num_layers=2),
    StackConfig(dim=DIM, num_layers=2, backbone="minlstm", mlp_ratio=0.0),
    StackConfig(dim=DIM, num_layers=2, backbone=("mingru", "attention"), conv=3),
]
MODULES = [lambda n=name, o=options: build(n, DIM, **o) for name, options in CELLS]
MODULES += [lambda c=config: Stack(c) for config in STACKS]
IDS = ["-".join(map(str, (name, *options.values()))) for name, options in CELLS]
IDS += ["stack", "stack-without-mlp", "stack-mixed"]
EVERY = pytest.mark.parametrize("make", MODULES, ids=IDS)


class Setting:
    """A module in double precision, and arguments: a state, and a reset in each row."""

    def __init__(self, make, dtype=torch.float64, batch=BATCH, length=LENGTH):
        torch.manual_seed(0)
        self.module = make().to(dtype)
        with torch.no_grad():  # parameters that start from zero have derivatives like any
            for parameter in self.module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        self.x = torch.randn(batch, length, DIM, dtype=dtype)
        self.weight = torch.randn(batch, length, DIM, dtype=dtype)
        self.resets = torch.zeros(batch, length, dtype=torch.bool)
        self.resets[0, 3] = self.resets[-1, 0] = True
        with torch.no_grad():
            self.state = detach(self.module(torch.randn(batch, 3, DIM, dtype=dtype))[1])
        self.parameters = {k: p.detach() for k, p in self.module.named_parameters()}

    def run(self, parameters, x, state, resets=None):
        """Return the output and the leaves of the new state."""
        resets = self.resets if resets is None else resets
        y, new = functional_call(self.module, parameters, (x, state, resets))
        return y, *leaves(new)

    def loss(self, parameters, x, state, resets=None):
        """Return a number whose derivatives are not constant."""
        y, *new = self.run(parameters, x, state, resets)
        return (y * self.weight[: len(y)]).sin().sum() + sum(leaf.sin().sum() for leaf in new)

    def penalty(self):
        """Return the squared gradient by x, and x, which it can be differentiated by."""
        x = self.x.clone().requires_grad_()
        [found] = torch.autograd.grad(
            self.loss(self.parameters, x, self.state), x, create_graph=True
        )
        return found.square().sum(), x


def flat(setting):
    """Return the loss as a function of leaves, and those: parameters, x, state."""
    names = list(setting.parameters)

    def function(*given):
        parameters = dict(zip(names, given, strict=False))
        rest = iter(given[len(names) + 1 :])
        state = tree_map(lambda _: next(rest), setting.state)
        return setting.loss(parameters, given[len(names)], state)

    given = [*setting.parameters.values(), setting.x, *leaves(setting.state)]
    return function, [x.clone().requires_grad_() for x in given]


@EVERY
def test_first_and_second_derivatives_are_those_of_finite_differences(make):
    function, given = flat(Setting(make))
    assert torch.autograd.gradcheck(function, given, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(
        function, given, check_fwd_over_rev=True, fast_mode=True, atol=1e-4, rtol=1e-4
    )


@EVERY
def test_every_way_to_a_second_derivative_gives_the_same(make):
    setting = Setting(make)
    penalty, x = setting.penalty()
    [wanted] = torch.autograd.grad(penalty, x, retain_graph=True)
    penalty.backward()
    assert torch.equal(x.grad, wanted)

    def inner(x):
        return grad(setting.loss, argnums=1)(setting.parameters, x, setting.state)

    def outer(x):
        return inner(x).square().sum()

    close(grad(outer)(setting.x), wanted)
    direction = torch.randn_like(setting.x)
    close(jvp(outer, (setting.x,), (direction,))[1], (wanted * direction).sum())
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(setting.x, direction)
        value = setting.loss(setting.parameters, dual, setting.state)
        slope = forward_ad.unpack_dual(value).tangent
    close(slope, (inner(setting.x) * direction).sum())


@EVERY
def test_gradients_of_each_sample_are_those_of_the_samples_alone(make):
    setting = Setting(make)

    def loss(parameters, x, state, resets):
        state = tree_map(lambda leaf: leaf[None], state)
        return setting.loss(parameters, x[None], state, resets[None])

    together = vmap(grad(loss), in_dims=(None, 0, 0, 0))(
        setting.parameters, setting.x, setting.state, setting.resets
    )
    for row in range(BATCH):
        state = tree_map(lambda leaf, row=row: leaf[row], setting.state)
        parameters = {k: p.clone().requires_grad_() for k, p in setting.parameters.items()}
        value = loss(parameters, setting.x[row], state, setting.resets[row])
        alone = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, alone, strict=True):
            wanted = torch.zeros_like(parameters[name]) if gradient is None else gradient
            close(together[name][row], wanted)


@EVERY
@pytest.mark.parametrize("carried", [True, False])
def test_an_ensemble_by_vmap_acts_as_its_members(make, carried):
    setting = Setting(make)
    members = [Setting(make).module for _ in range(3)]
    for member in members[1:]:
        with torch.no_grad():
            for parameter in member.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    arguments = (setting.x, setting.state, setting.resets) if carried else (setting.x,)
    parameters, buffers = stack_module_state(members)

    def act(parameters, buffers):
        return functional_call(members[0], (parameters, buffers), arguments)

    y, state = vmap(act)(parameters, buffers)
    for number, member in enumerate(members):
        one, alone = member(*arguments)
        close(y[number], one)
        for leaf, other in zip(leaves(state), leaves(alone), strict=True):
            close(leaf[number], other)


@EVERY
def test_jacobians_by_the_state_agree_forward_and_backward(make):
    setting = Setting(make)

    def function(state):
        return setting.run(setting.parameters, setting.x, state)[0]

    forward, backward = jacfwd(function)(setting.state), jacrev(function)(setting.state)
    for one, other in zip(leaves(forward), leaves(backward), strict=True):
        close(one, other)


@EVERY
def test_several_cotangents_at_once_give_what_they_give_one_by_one(make):
    setting = Setting(make)
    x = setting.x.clone().requires_grad_()
    y = setting.run(setting.parameters, x, setting.state)[0]
    several = torch.randn(3, *y.shape, dtype=y.dtype)
    found = torch.autograd.grad(y, x, several, is_grads_batched=True, retain_graph=True)[0]
    for one, gradient in zip(several, found, strict=True):
        close(gradient, torch.autograd.grad(y, x, one, retain_graph=True)[0])


@EVERY
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_have_the_same_gradients(make, reentrant):
    setting = Setting(make)
    results = []
    for go in (lambda f, *a: f(*a), lambda f, *a: checkpoint(f, *a, use_reentrant=reentrant)):
        x = setting.x.clone().requires_grad_()
        y = go(lambda x: setting.module(x, setting.state, setting.resets)[0], x)
        loss = (y * setting.weight).sin().sum()
        first = torch.autograd.grad(loss, x, create_graph=not reentrant) if not reentrant else ()
        if reentrant:  # that kind has no second derivative, and torch.autograd.grad is refused
            loss.backward()
            results.append([x.grad])
        else:
            results.append([first[0], torch.autograd.grad(first[0].square().sum(), x)[0]])
    for one, other in zip(*results, strict=True):
        close(one, other)


@EVERY
def test_second_derivatives_in_float32_are_those_of_float64(make):
    single, double = Setting(make, torch.float32), Setting(make)
    # The same numbers in both precisions.
    double.module.load_state_dict(single.module.state_dict())
    double.parameters = {k: p.double() for k, p in single.parameters.items()}
    double.x, double.weight = single.x.double(), single.weight.double()
    double.state = tree_map(torch.Tensor.double, single.state)
    found = [torch.autograd.grad(*setting.penalty())[0] for setting in (single, double)]
    assert (found[0] - found[1]).abs().max() < 2e-3 * (1 + found[1].abs().max())


def test_the_mlp_that_is_fused_in_training_has_second_derivatives():
    """In float32 alone: gradcheck, in double precision, never sees it."""
    setting = Setting(lambda: Stack(StackConfig(dim=DIM, num_layers=1)), torch.float32)
    penalty, x = setting.penalty()
    [found] = torch.autograd.grad(penalty, x)
    hooked = Setting(lambda: Stack(StackConfig(dim=DIM, num_layers=1)), torch.float32)
    for module in hooked.module.modules():
        module.register_forward_hook(lambda *_: None)  # a layer that is listened to is not fused
    penalty, x = hooked.penalty()
    [wanted] = torch.autograd.grad(penalty, x)
    assert (found - wanted).abs().max() < 1e-4 * (1 + wanted.abs().max())


SCANS = {
    "linear": lambda a, b, _, **more: scan(a, b, **more),
    "mingru-g": lambda a, b, _, **more: mingru_scan(a, b, **more),
    "mingru-tanh": lambda a, b, _, **more: mingru_scan(a, b, candidate="tanh", **more),
    "minlstm-linear": lambda a, b, c, **more: minlstm_scan(a, b, c, candidate="linear", **more),
    "minlstm-raw": lambda a, b, c, **more: minlstm_scan(a, b, c, normalize=False, **more),
}


@pytest.mark.parametrize("backend", ["numba", "eager"])
@pytest.mark.parametrize("kind", SCANS)
@pytest.mark.parametrize("edges", ["none", "h0", "init", "h0 and init"])
def test_scans_have_second_derivatives_by_every_argument(backend, kind, edges):
    if backend not in backends("cpu"):
        pytest.skip(f"{backend} does not run here")
    torch.manual_seed(0)
    a, b, c = (torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    h0 = torch.randn(2, 3, dtype=torch.float64, requires_grad=True) if "h0" in edges else None
    init = torch.randn(3, dtype=torch.float64, requires_grad=True) if "init" in edges else None
    resets = torch.zeros(2, 5, dtype=torch.bool)
    resets[0, 2] = resets[1, 0] = resets[1, 1] = True
    edge = [x for x in (h0, init) if x is not None]

    def function(a, b, c, *edge):
        given = iter(edge)
        more = {
            "h0": None if h0 is None else next(given),
            "init": None if init is None else next(given),
        }
        h, last = SCANS[kind](a.sigmoid(), b, c, resets=resets, backend=backend, **more)
        return h.sin().sum() + last.cos().sum() + 0.0 * c.sum()

    given = (a, b, c, *edge)
    assert torch.autograd.gradcheck(function, given, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, given, check_fwd_over_rev=True, fast_mode=True)


def test_one_tensor_in_two_places_has_the_sum_of_both_derivatives():
    x = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: mingru_scan(x, x)[0], (x,))


def test_third_derivatives():
    x = torch.randn(1, 3, 2, dtype=torch.float64)

    def third(x):
        def second(x):
            return grad(lambda z: mingru_scan(z, z.cos())[0].sin().sum())(x).square().sum()

        return grad(second)(x).square().sum()

    assert torch.autograd.gradcheck(lambda x: grad(third)(x), (x.requires_grad_(),))


@pytest.mark.parametrize("name", minrnn.available())
def test_what_is_behind_a_reset_is_not_seen_nan_included(name):
    x = torch.randn(1, 6, DIM, dtype=torch.float64)
    resets = torch.zeros(1, 6, dtype=torch.bool)
    resets[0, 3] = True
    cell = build(name, DIM).double()

    def slope(x):
        later = cell(x, None, resets)[0][:, 3:]
        return torch.autograd.grad(later.sin().sum(), x, create_graph=True)[0]

    spoilt = x.clone()
    spoilt[:, 1] = torch.nan
    for given in (x, spoilt):
        given.requires_grad_()
    [wanted] = torch.autograd.grad(slope(x)[:, 3:].square().sum(), x)
    [found] = torch.autograd.grad(slope(spoilt)[:, 3:].square().sum(), spoilt)
    close(found[:, 3:], wanted[:, 3:])


@EVERY
def test_nothing_is_computed_twice_where_nobody_asks(make, monkeypatch):
    def fail(*_):
        raise AssertionError("a reference was run")

    monkeypatch.setattr(ops, "gradients", fail)
    monkeypatch.setattr(kernel_op, "gradients", fail)
    monkeypatch.setattr(linear, "run", fail)
    setting = Setting(make)
    x = setting.x.clone().requires_grad_()
    setting.loss(setting.parameters, x, setting.state).backward()
    assert x.grad is not None


def test_attention_can_be_differentiated_twice_after_its_graph_was_used():
    q, k, v = (torch.randn(1, 1, 4, 2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = torch.ones(4, 4, dtype=torch.bool).tril()
    y = attend(q, k, v, mask)
    first = torch.autograd.grad(y.sum(), q, retain_graph=True)[0]
    again = torch.autograd.grad(y.sum(), q, retain_graph=True)[0]
    assert torch.equal(first, again)
    wanted = torch.autograd.grad(
        torch.nn.functional.scaled_dot_product_attention(q, k, v, mask).sum(), q
    )[0]
    assert torch.equal(first, wanted)
    twice = torch.autograd.grad(y.sum(), q, create_graph=True)[0]
    assert torch.autograd.grad(twice.square().sum(), k)[0].abs().max() > 0


def test_a_compiled_model_refuses_a_second_derivative_in_one_line():
    cell = build("mingru", DIM)
    compiled = torch.compile(lambda x: cell(x)[0], backend="aot_eager")
    x = torch.randn(1, 4, DIM, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        [found] = torch.autograd.grad(compiled(x).sin().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(found.square().sum(), x)


@pytest.mark.parametrize("name", ["mingru", "mamba", "attention"])
def test_compiled_transforms_are_right(name):
    """Dynamo knows no autograd.Function with a jvp or a vmap: they would be zero, or fail."""
    cell, x = build(name, DIM), torch.randn(2, 4, DIM)
    resets = torch.zeros(2, 4, dtype=torch.bool)
    resets[0, 2] = True

    def loss(x):
        return cell(x, None, resets[: len(x)])[0].sin().sum()

    for function in (
        grad(loss),
        lambda x: jvp(loss, (x,), (x.cos(),))[1],
        vmap(grad(lambda x: loss(x[None]))),
    ):
        torch._dynamo.reset()
        compiled = torch.compile(function, backend="aot_eager")(x)
        torch.testing.assert_close(compiled, function(x), rtol=1e-4, atol=1e-5)


def test_the_op_that_traced_code_calls_has_second_derivatives():
    x = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)

    def function(x):
        return torch.ops.minrnn.scan([x, x.cos()], None, None, None, "mingru", "g", "auto")[0]

    assert torch.autograd.gradgradcheck(function, (x,))
    weight, bias = torch.randn(3, 2, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(
        lambda x: torch.ops.minrnn.short_conv(x, weight, bias, None, None), (x,)
    )


def test_transformed_says_who_is_looking():
    assert not derivatives.transformed()
    with forward_ad.dual_level():
        assert derivatives.transformed()
    assert grad(lambda x: x * float(derivatives.transformed()))(torch.tensor(1.0)) == 1.0
    assert not derivatives.transformed()


def close(found, wanted):
    """Compare two tensors of double precision."""
    torch.testing.assert_close(found.detach(), wanted.detach(), rtol=1e-7, atol=1e-8)
