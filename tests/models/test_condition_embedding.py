"""The embedding of conditions, and models of all architectures with conditions of every kind."""

import numpy as np
import pytest
import torch
from model_helpers import ARCHITECTURES_AND_PRIORS, CONDITIONS, FAMILIES, model_config

from cvae.condition_rows import count_columns, feed, make_rows, unknown_rows
from cvae.conditions import Condition, label_condition
from cvae.exporters.onnx.graph import convert, set_metadata
from cvae.exporters.onnx.parity import TOLERANCE, compare, make_example_inputs
from cvae.exporters.onnx.wrappers import Decoder, Encoder
from cvae.models import VAE, build
from cvae.models.conditioning import add_conditions
from cvae.models.conditions import KNOTS, ConditionEmbedding
from cvae.registry import CONDITIONINGS, PRIORS
from cvae.runtime.scan import scan
from cvae.spec import Spec

BREED, AGE, SMILING, TRAITS = CONDITIONS


def rows_of(count: int = 6) -> np.ndarray:
    """Return rows in which each condition is unknown for some images."""
    values = {
        "breed": np.arange(count) % 4,
        "age": np.linspace(3, 92, count),
        "smiling": np.arange(count)[:, None] % 2,
        "traits": np.arange(count * 3).reshape(count, 3) % 2,
    }
    return make_rows(CONDITIONS, values, np.arange(4 * count).reshape(count, 4) % 3 > 0)


def varied_model(**options: object) -> VAE:
    """Return a model whose modulation, which is the identity at first, depends on the conditions."""
    torch.manual_seed(0)
    model = build(model_config(conditions=CONDITIONS, **options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return model.eval()


def test_categories_and_attributes_are_one_hot_and_known_flags_follow():
    conditions = (BREED, SMILING)
    rows = make_rows(conditions, {"breed": np.array([2, 0]), "smiling": np.array([[1], [0]])}, np.ones((2, 2), bool))
    embedding = ConditionEmbedding(conditions)(torch.from_numpy(rows))
    assert embedding.tolist() == [[0, 0, 1, 0, 1, 0, 1, 1], [1, 0, 0, 0, 0, 1, 1, 1]]


def test_number_is_the_linear_position_and_gaussian_bumps():
    known = np.ones((3, 1), bool)
    rows = torch.from_numpy(make_rows((AGE,), {"age": np.array([3.0, 47.5, 92.0])}, known))
    embedding = ConditionEmbedding((AGE,))(rows).numpy()
    knots = np.linspace(-1, 1, KNOTS)
    for row, position in zip(embedding, (-1, 0, 1), strict=True):
        bumps = np.exp(-0.5 * ((position - knots) / (knots[1] - knots[0])) ** 2)
        np.testing.assert_allclose(row, [position, *bumps, 1], atol=1e-6)


def test_unknown_conditions_are_zeros():
    rows = unknown_rows(CONDITIONS, 3)
    assert rows is not None and rows.shape == (3, count_columns(CONDITIONS))
    embedding = ConditionEmbedding(CONDITIONS)
    assert not embedding(torch.from_numpy(rows)).any()
    assert embedding.features == embedding(torch.from_numpy(rows)).shape[1]


def test_rows_and_the_inputs_of_a_graph_have_the_same_embedding():
    embedding, rows = ConditionEmbedding(CONDITIONS), rows_of()
    inputs = {name: torch.from_numpy(value) for name, value in feed(CONDITIONS, rows).items()}
    torch.testing.assert_close(embedding(inputs), embedding(torch.from_numpy(rows)))


def test_single_category_is_an_index_unless_it_can_be_unknown():
    label = label_condition(("a", "b", "c"))
    index = torch.tensor([2, 0])
    assert ConditionEmbedding(label)(index) is index
    optional = (Condition(name="label", kind="category", values=("a", "b", "c"), optional=True),)
    assert ConditionEmbedding(optional)(torch.tensor([2, 3])).tolist() == [[0, 0, 1], [0, 0, 0]]


def test_values_are_dropped_below_the_probability():
    embedding, rows = ConditionEmbedding(CONDITIONS), torch.from_numpy(rows_of())
    random = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    dropped = embedding.drop(rows, random, 0.5)
    assert torch.equal(dropped[:, :-4], rows[:, :-4])
    assert torch.equal(dropped[:, -4:], rows[:, -4:] * (random >= 0.5))
    label = ConditionEmbedding(label_condition(("a", "b")))
    assert label.drop(torch.tensor([0, 1]), torch.tensor([[0.1], [0.9]]), 0.5).tolist() == [2, 1]


@pytest.mark.parametrize("conditioning", sorted(CONDITIONINGS))
@pytest.mark.parametrize("arch", FAMILIES)
def test_exported_graph_with_conditions_agrees_with_torch(arch: str, conditioning: str) -> None:
    check_export(varied_model(arch=arch, conditioning=conditioning), arch)


@pytest.mark.parametrize("prior", sorted(set(PRIORS) - {"flow-grid"}))
def test_exported_prior_with_conditions_agrees_with_torch(prior: str) -> None:
    check_export(varied_model(prior=prior), "mlp")


def check_export(model: VAE, arch: str) -> None:
    for role, wrapper in (("decoder", Decoder), ("encoder", Encoder)):
        spec = Spec(
            role=role, name="test", architecture=arch, image_shape=(1, 8, 8), latent_dim=5, conditions=CONDITIONS,
            likelihood="bernoulli", prior="normal", data="random", data_license="none", weights="",
        )  # fmt: skip
        module = wrapper(model)
        graph = convert(module, make_example_inputs(spec, 2), module.outputs)
        set_metadata(graph, spec)
        scan(graph.SerializeToString(), spec, "exported graph")
        assert compare(graph, module, spec) <= TOLERANCE


def test_every_condition_changes_the_image_and_an_unknown_one_is_ignored():
    model, rows = varied_model(), torch.from_numpy(rows_of(1))
    rows[:, -4:] = 1
    noise = torch.zeros(1, 5)
    image, column = model.decode(noise, rows), 0
    for i, condition in enumerate(CONDITIONS):
        changed = rows.clone()
        changed[:, column] = 1 - changed[:, column] if condition.kind == "attributes" else 4 - changed[:, column] / 2
        assert not torch.allclose(model.decode(noise, changed), image, atol=1e-6), condition.name
        for variant in (rows, changed):  # the value of an unknown condition does not matter
            variant[:, -4 + i] = 0
        assert torch.equal(model.decode(noise, rows), model.decode(noise, changed)), condition.name
        rows[:, -4 + i] = 1
        column += condition.columns


@pytest.mark.parametrize("conditions", [label_condition(("a", "b", "c")), CONDITIONS], ids=["label", "all kinds"])
@pytest.mark.parametrize("conditioning", [*CONDITIONINGS])
@pytest.mark.parametrize(("arch", "prior"), ARCHITECTURES_AND_PRIORS)
def test_added_conditions_have_no_effect_at_first(arch, prior, conditioning, conditions):
    torch.manual_seed(0)
    plain = build(model_config(arch, prior=prior)).eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    model = build(model_config(arch, prior=prior, conditioning=conditioning, conditions=conditions)).eval()
    model.load_state_dict(add_conditions(plain.state_dict(), model))
    rows = torch.tensor([0, 2]) if len(conditions) == 1 else torch.from_numpy(rows_of(2))
    noise, image = torch.randn(2, plain.latent_dim), torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(model.decode(noise, rows), plain.decode(noise))
        torch.testing.assert_close(model.encode(image, rows), plain.encode(image))
