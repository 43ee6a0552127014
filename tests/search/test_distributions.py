"""Parameters and their Optuna distributions: the same values on both sides, for each kind."""

import math

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tuner.search.distributions import dimension_of, distribution, from_optuna, optuna_name, scale_of, to_optuna
from tuner.space import Categorical, Int, LogInt, LogUniform, OneMinusPow10, Parameter, Uniform

PARAMETERS = {
    "uniform": Uniform(-1.0, 2.0, (-3.0, 5.0)),
    "log_uniform": LogUniform(1e-4, 0.1, (1e-5, 1.0)),
    "one_minus_pow10": OneMinusPow10(0.9, 0.999, (0.5, 0.9999)),
    "int": Int(1, 5, (1, 9)),
    "stepped int": Int(16, 70, (5, 100), step=16),
    "log_int": LogInt(8, 512, (4, 1024)),
    "numbers": Categorical((32, 64, 128)),
    "labels": Categorical(("a", None, True)),
}


@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize("kind", PARAMETERS)
def test_every_value_drawn_is_in_the_distribution_and_comes_back(kind, expand):
    parameter = Parameter("p", PARAMETERS[kind], "p")
    asked = distribution(parameter, expand=expand)
    from tuner.search.dimensions import Dimension

    reach = Dimension.of(parameter).reach if expand else (0.0, 1.0)
    for unit in [*np.linspace(*reach, 101)[:-1], np.nextafter(reach[1], 0)]:
        value = parameter.scale.from_unit(float(unit))
        stored = to_optuna(parameter, value)
        assert asked._contains(asked.to_internal_repr(stored)), (unit, stored)
        assert from_optuna(parameter, stored) == value


DISTRIBUTIONS = {
    "uniform": FloatDistribution(-1.0, 2.0),
    "log_uniform": FloatDistribution(1e-4, 0.1, log=True),
    "one_minus_pow10": FloatDistribution(0.001, 0.1, log=True),
    "int": IntDistribution(1, 5),
    "stepped int": IntDistribution(16, 64, step=16),
    "log_int": IntDistribution(8, 512, log=True),
    "numbers": CategoricalDistribution((32, 64, 128)),
    "labels": CategoricalDistribution(("a", None, True)),
}


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_distributions(kind):
    assert distribution(Parameter("p", PARAMETERS[kind], "p")) == DISTRIBUTIONS[kind]


def test_expanded_distributions_span_the_limit():
    expanded = {kind: distribution(Parameter("p", scale, "p"), expand=True) for kind, scale in PARAMETERS.items()}
    assert expanded["uniform"] == FloatDistribution(-3.0, 5.0)
    assert expanded["one_minus_pow10"] == FloatDistribution(0.0001, 0.5, log=True)
    assert expanded["int"] == IntDistribution(1, 9)
    assert expanded["stepped int"] == IntDistribution(16, 96, step=16)
    assert expanded["log_int"] == IntDistribution(4, 1024, log=True)


def test_a_complement_has_a_name_of_its_own():
    assert optuna_name(Parameter("momentum", OneMinusPow10(0.9, 0.99), "m")) == "1-momentum"
    assert optuna_name(Parameter("lr", Uniform(0, 1), "m")) == "lr"


SUGGESTED = [
    FloatDistribution(0.0, 1.0),
    FloatDistribution(1e-5, 1.0, log=True),
    FloatDistribution(0.1, 0.7, step=0.2),
    IntDistribution(3, 11, step=4),
    IntDistribution(1, 300, log=True),
    CategoricalDistribution((3, 1, 2)),
    CategoricalDistribution(("x", "y", None)),
]


@pytest.mark.parametrize("asked", SUGGESTED, ids=str)
def test_suggested_parameters_share_the_unit_interval(asked):
    scale, dimension = scale_of(asked), dimension_of("p", asked)
    seen = set()
    for unit in np.linspace(0, 1, 5001):
        value = scale.from_unit(float(unit))
        assert asked._contains(asked.to_internal_repr(value))
        assert scale.from_unit(scale.to_unit(value)) == value
        seen.add(value)
    if dimension.cells:
        assert len(seen) == dimension.size
        assert [scale.to_unit(scale.from_unit(middle)) for _, middle in dimension.cells] == pytest.approx(
            [middle for _, middle in dimension.cells]
        )


def test_a_log_float_is_zoomed_on_its_log_axis_and_numeric_choices_are_sorted():
    assert scale_of(FloatDistribution(1e-4, 1.0, log=True)).to_unit(1e-2) == pytest.approx(0.5)
    assert scale_of(CategoricalDistribution((3, 1, 2))).from_unit(0.0) == 1
    assert dimension_of("p", CategoricalDistribution((3, 1, 2))).ordered
    assert not dimension_of("p", CategoricalDistribution(("a", "b", "c"))).ordered
    assert math.isclose(scale_of(FloatDistribution(0.1, 0.7, step=0.2)).from_unit(0.999), 0.7)


def test_choices_that_are_equal_and_of_another_type_stay_apart():
    for choices in ((1, 2, 4), (1.0, 2.0, 4.0), (0, 1), (False, True)):
        value = scale_of(CategoricalDistribution(choices)).from_unit(0.0)
        assert type(value) is type(choices[0])
