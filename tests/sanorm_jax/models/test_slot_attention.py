import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sanorm_jax.core.errors import UserError
from sanorm_jax.models.slot_attention import SlotAttention
from tests.sanorm_jax.models.variables import random_variables

INPUTS = jax.random.normal(jax.random.key(0), (2, 10, 6))
RNGS = {"params": jax.random.key(1), "slots": jax.random.key(2)}


def _noise(num_slots, seed=3):
    return jax.random.normal(jax.random.key(seed), (2, num_slots, 8))


def _init(**options):
    model = SlotAttention(4, 8, hidden_dim=16, **options)
    return model, random_variables(model, INPUTS, train=True)


@pytest.mark.parametrize("name", ["mean", "image_level", "batch_norm"])
def test_slots_are_permutation_equivariant(name):
    model, variables = _init(update_normalization=name)
    order = np.array([2, 0, 3, 1])

    def run(noise):
        return model.apply(
            variables, INPUTS, train=True, noise=noise, mutable=["batch_stats"]
        )[0]

    slots, attention = run(_noise(4))
    moved_slots, moved_attention = run(_noise(4)[:, order])
    np.testing.assert_allclose(moved_slots, slots[:, order], atol=1e-5)
    np.testing.assert_allclose(moved_attention, attention[:, order], atol=1e-5)


def test_slots_are_invariant_to_token_permutations():
    model, variables = _init()
    order = np.random.default_rng(0).permutation(10)
    slots, attention = model.apply(variables, INPUTS, train=False, noise=_noise(4))
    same, moved = model.apply(variables, INPUTS[:, order], train=False, noise=_noise(4))
    np.testing.assert_allclose(same, slots, atol=1e-5)
    np.testing.assert_allclose(moved, attention[:, :, order], atol=1e-5)


def test_slots_and_iterations_can_be_set_per_call():
    model, variables = _init()
    slots, attention = model.apply(
        variables, INPUTS, train=False, num_slots=7, rngs={"slots": jax.random.key(5)}
    )
    assert slots.shape == (2, 7, 8)
    assert attention.shape == (2, 7, 10)
    # Two iterations are one iteration twice.
    run = {"train": False}
    first, _ = model.apply(variables, INPUTS, noise=_noise(5), num_iterations=1, **run)
    second = model.apply(
        variables, INPUTS, initial_slots=first, num_iterations=1, **run
    )
    both = model.apply(variables, INPUTS, noise=_noise(5), num_iterations=2, **run)
    np.testing.assert_allclose(second[0], both[0], atol=1e-5)
    np.testing.assert_allclose(second[1], both[1], atol=1e-5)


def test_scaled_mean_depends_on_the_current_number_of_slots():
    """At the trained number of slots it is the mean; else it is not."""
    scaled, variables = _init(update_normalization="scaled_mean")
    mean, _ = _init(update_normalization="mean")
    for num_slots, same in ((4, True), (6, False)):
        results = [
            model.apply(variables, INPUTS, train=False, noise=_noise(num_slots))[0]
            for model in (scaled, mean)
        ]
        assert np.allclose(*results, atol=1e-6) == same


def test_noise_and_stream_give_the_same_distribution():
    model, variables = _init()
    apply = lambda key: model.apply(  # noqa: E731
        variables, INPUTS, train=False, rngs={"slots": key}
    )[0]
    a, b = apply(jax.random.key(0)), apply(jax.random.key(1))
    assert not np.allclose(a, b)
    np.testing.assert_array_equal(a, apply(jax.random.key(0)))


def _gradient(model, variables, num_iterations=3, inputs=INPUTS):
    def loss(params, inputs):
        slots, _ = model.apply(
            {"params": params},
            inputs,
            train=True,
            noise=_noise(4),
            num_iterations=num_iterations,
        )
        return jnp.sum(jnp.square(slots))

    return jax.grad(loss, argnums=(0, 1))(variables["params"], inputs)


def test_implicit_gradient_is_that_of_the_last_iteration():
    model, variables = _init(implicit=True)
    explicit, _ = _init()
    grads, inputs_grad = _gradient(model, variables)
    assert not np.any(grads["slots_mu"])
    assert not np.any(grads["slots_logsigma"])

    start, _ = explicit.apply(
        variables, INPUTS, train=True, noise=_noise(4), num_iterations=2
    )

    def last(params, inputs):
        slots, _ = explicit.apply(
            {"params": params},
            inputs,
            train=True,
            initial_slots=start,
            num_iterations=1,
        )
        return jnp.sum(jnp.square(slots))

    expected, inputs_expected = jax.grad(last, argnums=(0, 1))(
        variables["params"], INPUTS
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        grads,
        expected,
    )
    np.testing.assert_allclose(inputs_grad, inputs_expected, rtol=1e-4, atol=1e-4)
    full, _ = _gradient(explicit, variables)
    assert np.any(full["slots_mu"])


def test_gradient_agrees_with_finite_differences():
    """Also through the batch statistics of iteration 0."""
    model, variables = _init(update_normalization="batch_norm", num_iterations=2)
    direction = jax.random.normal(jax.random.key(9), INPUTS.shape)

    def loss(t):
        out, _ = model.apply(
            variables,
            INPUTS + t * direction,
            train=True,
            noise=_noise(4),
            mutable=["batch_stats"],
        )
        return jnp.sum(jnp.square(out[0]))

    step = 1e-3
    numeric = (loss(step) - loss(-step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(loss)(0.0), numeric, rtol=2e-2)


@pytest.mark.parametrize("gru", ["tf", "torch"])
@pytest.mark.parametrize("name", ["mean", "layer_norm", "batch_norm"])
def test_common_dim_other_than_slot_dim(gru, name):
    model, variables = _init(common_dim=12, gru=gru, update_normalization=name)
    assert variables["params"]["to_q"].shape == (8, 12)
    assert variables["params"]["gru"]["kernel"].shape == (12, 24)
    slots, _ = model.apply(variables, INPUTS, train=False, noise=_noise(4))
    assert slots.shape == (2, 4, 8)
    assert np.isfinite(slots).all()


def test_hidden_dim_is_at_least_the_common_dim():
    _, variables = _init(common_dim=20)
    assert variables["params"]["mlp"]["hidden"]["kernel"].shape == (8, 20)


def test_initial_parameters():
    dim = 64
    model = SlotAttention(4, dim)
    params = model.init(RNGS, jnp.zeros((1, 3, 32)), train=True)["params"]

    def is_uniform(x, bound):
        x = np.abs(np.asarray(x))
        assert x.max() <= bound
        assert x.max() > 0.9 * bound
        np.testing.assert_allclose(x.mean(), bound / 2, rtol=0.15)

    is_uniform(params["slots_mu"], (6 / (2 * dim)) ** 0.5)
    is_uniform(params["slots_logsigma"], (6 / (2 * dim)) ** 0.5)
    is_uniform(params["to_k"], (6 / (32 + dim)) ** 0.5)
    is_uniform(params["gru"]["kernel"], (6 / (4 * dim)) ** 0.5)
    recurrent = np.asarray(params["gru"]["recurrent_kernel"])
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(dim), atol=1e-4)
    assert not np.any(params["gru"]["bias"])
    assert not np.any(params["mlp"]["out"]["bias"])

    model = SlotAttention(4, dim, gru="torch")
    params = model.init(RNGS, jnp.zeros((1, 3, 32)), train=True)["params"]
    for name in ("kernel", "recurrent_kernel", "bias"):
        is_uniform(params["gru"][name], dim**-0.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_slots": 0}, "num_slots=0"),
        ({"num_iterations": 0}, "num_iterations=0"),
        ({"num_slots": 5, "noise": _noise(4)}, "(2, 5, 8)"),
        ({"noise": _noise(4)[:1]}, "(1, 4, 8)"),
        ({"noise": _noise(4), "initial_slots": _noise(4)}, "given together"),
    ],
)
def test_invalid_arguments_are_rejected(options, words):
    model, variables = _init()
    with pytest.raises(UserError) as caught:
        model.apply(variables, INPUTS, train=False, **options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gru": "lstm"}, "gru='lstm': is unknown; use one of tf"),
        ({"attention": "emd"}, "attention='emd': is unknown; use one of softmax"),
        ({"slot_init": "zeros"}, "slot_init='zeros': is unknown; use one of"),
        ({"common_dim": 0}, "common_dim=0"),
        ({"num_heads": 3}, "num_heads=3: does not divide the common dimension 8"),
    ],
)
def test_invalid_options_are_rejected(options, words):
    with pytest.raises(UserError) as caught:
        _init(**options)
    assert words in str(caught.value)
