"""Optimizers and parameter groups: formulas, skipped steps, and runs that are resumed or split."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from engine_helpers import QUICK, have_equal_tensors, load_weights
from model_helpers import model_config
from torch import nn

from cvae.engine import train
from cvae.engine.optimizers import NEWTON_SCHULZ, Muon, orthogonalize, parameter_groups, parse_scales
from cvae.errors import UsageError
from cvae.models import build
from cvae.registry import OPTIMIZERS


@pytest.mark.parametrize("shape", [(20, 400), (400, 20), (7, 7), (1, 5)])
def test_orthogonalized_matrices_agree_with_the_iteration_on_each_matrix(shape):
    matrices = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).double()
    a, b, c = NEWTON_SCHULZ
    for matrix, result in zip(matrices, orthogonalize(matrices, 3), strict=True):
        x = matrix / matrix.norm()
        for _ in range(3):
            x = a * x + b * (x @ x.T) @ x + c * (x @ x.T) @ (x @ x.T) @ x
        expected = x * max(1, shape[0] / shape[1]) ** 0.5
        torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-5)


def test_orthogonalized_matrix_has_singular_values_close_to_one():
    matrix = torch.randn(30, 90, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.diagonal(u.T @ orthogonalize(matrix[None], 6)[0] @ vh.T)
    assert values.min() > 0.6 and values.max() < 1.3


def test_muon_takes_the_documented_step():
    """The first step of a matrix is along its orthogonalized gradient, and that of other parameters is AdamW's."""
    torch.manual_seed(0)
    shapes = ((4, 9), (4, 3, 3), (9, 9), (9,))
    parameters = [nn.Parameter(torch.randn(*shape)) for shape in shapes]
    small, kernel, large, bias = parameters
    expected_large, expected_bias = (parameter.detach().clone().requires_grad_() for parameter in (large, bias))
    adamw = torch.optim.AdamW([expected_large, expected_bias], lr=0.01, weight_decay=0.1)
    groups = [{"params": parameters, "lr_scale": 1.0}]
    muon = Muon(groups, 0.01, 0.1, matrix_lr_scale=20.0, momentum=0.9, steps=3, max_side=4)
    for group in muon.param_groups:
        group["lr"] = 0.01 * group["lr_scale"]
    gradients = [torch.randn_like(parameter) for parameter in parameters]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    expected_large.grad, expected_bias.grad = gradients[2:]
    expected = []  # 1.9 times the gradient has the same direction
    for matrix, gradient in zip((small, kernel), gradients, strict=False):
        update = orthogonalize(gradient.flatten(1)[None], 3).view_as(matrix)
        expected.append(matrix.detach() - 0.2 * (update + 0.1 * matrix.detach()))
    muon.step()
    adamw.step()
    torch.testing.assert_close([small.detach(), kernel.detach()], expected)
    torch.testing.assert_close(large, expected_large)
    torch.testing.assert_close(bias, expected_bias)


@pytest.mark.parametrize("name", [*OPTIMIZERS])
def test_optimizer_skips_a_step_that_is_not_finite(name):
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(5))]
    optimizer = OPTIMIZERS.get(name)([{"params": parameters, "lr_scale": 1.0}], 0.01, 0.1)

    def step(gradient: float, found_inf: float) -> list[torch.Tensor]:
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, gradient)
        optimizer.found_inf = torch.tensor(found_inf)
        optimizer.step()
        state = [value.clone() for values in optimizer.state.values() for value in values.values()]
        return [*(parameter.detach().clone() for parameter in parameters), *state]

    first, skipped, second = step(1.0, 0.0), step(float("nan"), 1.0), step(1.0, 0.0)
    assert all(map(torch.equal, first, skipped))
    assert not any(map(torch.equal, first[:2], second[:2]))


@pytest.mark.integration
@pytest.mark.parametrize("name", [*OPTIMIZERS])
def test_optimizer_lowers_the_bound_with_accumulation_and_average(tmp_path, name):
    config = replace(QUICK, optimizer=name, weight_decay=0.01, ema=0.9, epochs=2)
    records = []
    full = train(config, tmp_path / "full", quiet=True, on_epoch=records.append)
    parts = train(replace(config, accumulate=4), tmp_path / "parts", quiet=True)
    assert records[1]["train"]["bound"] < records[0]["train"]["bound"]
    for name, tensor in load_weights(full).items():
        torch.testing.assert_close(load_weights(parts)[name], tensor, rtol=0, atol=5e-3)


@pytest.mark.integration
def test_training_and_resuming_do_not_import_the_compiler(tmp_path):
    program = """if True:
        import sys
        import cvae
        from cvae.registry import OPTIMIZERS
        for name in OPTIMIZERS:
            flags = dict(arch="mlp", data="digits", limit=64, trackers=["none"], export=False, quiet=True)
            cvae.train(optimizer=name, epochs=1, out=name, **flags)
            cvae.resume(name, epochs=2, export=False, quiet=True)
        print([name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules])
    """
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr


@pytest.mark.parametrize("betas", [[0.9], [0.9, 1.0], [0.9, 0.99, 0.9]])
def test_betas_must_be_two_numbers_below_one(betas):
    for name in (name for name in OPTIMIZERS if "betas" in OPTIMIZERS.options(name)):
        with pytest.raises(UsageError, match=r"betas=.* must be two numbers from 0 to below 1"):
            OPTIMIZERS.get(name)([{"params": [nn.Parameter(torch.ones(1))], "lr_scale": 1.0}], 0.1, 0.0, betas=betas)


def test_last_pattern_that_matches_a_name_scales_its_learning_rate():
    model = build(model_config("mlp"))
    groups = parameter_groups(model, parse_scales(["decoder.*=2", "*.bias=0", "decoder.head.bias=0.5"]))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    scales = {names[id(parameter)]: group["lr_scale"] for group in groups for parameter in group["params"]}
    assert scales.keys() == set(names.values())
    assert scales["decoder.head.bias"] == 0.5 and scales["decoder.head.weight"] == 2
    assert parse_scales(["a=2", "b=3", "a=4"]) == {"b": 3, "a": 4} and [*parse_scales(["a=2", "b=3", "a=4"])] == [
        "b",
        "a",
    ]
    assert scales["encoder.head.bias"] == 0 and scales["encoder.head.weight"] == 1


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["encoder"], "'encoder' is not of the form PATTERN=FACTOR"),
        (["=2"], "'=2' is not of the form"),
        (["decoder.*=fast"], "not of the form"),
        (["decoder.*=-1"], "not of the form"),
        (["decoder.haed.weight=2"], "decoder.haed.weight: no parameter has such a name.*decoder.head.weight"),
    ],
)
def test_wrong_scale_is_reported_with_the_fix(texts, message):
    with pytest.raises(UsageError, match=message):
        parameter_groups(build(model_config("mlp")), parse_scales(texts))


@pytest.mark.integration
def test_parameters_with_the_scale_zero_keep_their_values(tmp_path):
    run = train(replace(QUICK, lr_scales=("encoder.*=0",)), tmp_path / "run", quiet=True)
    other = train(replace(QUICK, lr_scales=("encoder.*=0",), epochs=1), tmp_path / "other", quiet=True)
    weights, other_weights = load_weights(run), load_weights(other)
    encoder = {name for name in weights if name.startswith("encoder")}
    assert have_equal_tensors({n: weights[n] for n in encoder}, {n: other_weights[n] for n in encoder})
    assert not torch.equal(weights["decoder.head.weight"], other_weights["decoder.head.weight"])
