import numpy as np
import pytest

from sanorm_jax.core.errors import UserError
from sanorm_jax.data import prepare, properties
from sanorm_jax.data.sources import shapes
from sanorm_jax.data.sources.base import Options
from sanorm_jax.data.store import Store

SIZE = 48


@pytest.fixture(scope="module")
def scenes():
    """120 scenes of 1 to 10 objects: fields, [120, ...] each."""
    rows = [shapes.render(0, "train", i, SIZE, 1, 10) for i in range(120)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def test_labels_counts_and_columns_agree(scenes):
    M = 10
    real = np.arange(M) < scenes["num_objects"][:, None]
    for segmentation, count in zip(
        scenes["segmentation"], scenes["num_objects"], strict=True
    ):
        labels, pixels = np.unique(segmentation, return_counts=True)
        np.testing.assert_array_equal(labels, np.arange(count + 1))
        assert pixels.min() >= shapes._MIN_AREA * SIZE**2
    assert set(scenes["num_objects"]) == set(range(1, 11))
    np.testing.assert_array_equal(scenes["visibility"], real)
    for name, vocabulary in (
        ("shape", properties.SHAPES),
        ("size", properties.SIZES),
        ("material", properties.MATERIALS),
        ("color", properties.COLORS),
    ):
        np.testing.assert_array_equal(scenes[name] >= 0, real)
        assert set(scenes[name][real]) == set(range(len(vocabulary)))
    assert not scenes["position"][~real].any()
    large = scenes["size"] == properties.SIZES.index("large")
    height = np.where(large, 0.7, 0.35)[real]
    np.testing.assert_allclose(scenes["position"][real][:, 2], height, rtol=1e-6)
    assert np.abs(scenes["position"][..., :2]).max() <= 3


def test_objects_cover_a_fifth_of_the_image_and_occlude_each_other(scenes):
    covered = (scenes["segmentation"] > 0).mean((1, 2))
    error = covered.std() / len(covered) ** 0.5
    assert 0.12 - 2 * error < covered.mean() < 0.20 + 2 * error
    # The center of a hidden object shows another label than its own.
    hidden = total = 0
    for i, count in enumerate(scenes["num_objects"]):
        x, y, depth = scenes["pixel_coords"][i, :count].T
        assert (depth > 5).all()
        at = scenes["segmentation"][i, y.astype(int), x.astype(int)]
        own = np.arange(count) + 1
        hidden += (at != own).sum()
        total += count
        # What hides it is nearer to the camera.
        other = (at != own) & (at > 0)
        assert (depth[at[other] - 1] < depth[other] + 0.7).all()
    assert 0.05 < hidden / total < 0.4


def test_objects_do_not_touch(scenes):
    for i, count in enumerate(scenes["num_objects"]):
        place = scenes["position"][i, :count]
        gap = np.linalg.norm(place[:, None, :2] - place[None, :, :2], axis=-1)
        gap -= place[:, None, 2] + place[None, :, 2]
        gap[np.diag_indices(count)] = 1
        assert gap.min() > 0.14


@pytest.mark.parametrize("shape", properties.SHAPES)
def test_silhouettes_are_those_of_the_solids(shape, monkeypatch):
    """One object before a camera without jitter, against points on the solid."""
    scene = shapes._Scene(
        kinds={
            "shape": np.array([properties.SHAPES.index(shape)]),
            **{name: np.zeros(1, int) for name in ("size", "material", "color")},
        },
        center=np.array([[0.3, -0.4, 0.7]]),
        radius=np.array([0.7]),
        angle=np.array([25.0]),
    )
    monkeypatch.setattr(shapes, "_sample_scene", lambda *_: scene)
    camera = None
    whole = shapes._camera

    def keep(rng):
        nonlocal camera
        camera = whole(rng)
        return camera

    monkeypatch.setattr(shapes, "_camera", keep)
    found = shapes.render(0, "train", 0, 400, 1, 1)["segmentation"] > 0

    points = np.random.default_rng(0).uniform(-1, 1, (400_000, 3))
    if shape == "sphere":
        points = points[(points**2).sum(-1) < 1]
    elif shape == "cylinder":
        points = points[(points[:, :2] ** 2).sum(-1) < 1]
    else:
        turn = np.deg2rad(25.0)
        x, y = points[:, 0].copy(), points[:, 1].copy()
        points[:, 0] = np.cos(turn) * x - np.sin(turn) * y
        points[:, 1] = np.sin(turn) * x + np.cos(turn) * y
    x, y, _ = shapes._project(camera, 0.7 * points + scene.center[0]).T
    expected = np.zeros((400, 400), bool)
    row, column = ((1 - y) * 200).astype(int), ((x + 1) * 200).astype(int)
    expected[row, column] = True
    assert (found & expected).sum() / (found | expected).sum() > 0.97


def test_shadows_and_materials_can_be_seen():
    rng = np.random.default_rng(0)
    scene = shapes._sample_scene(rng, 4, shapes._camera(rng))
    # Below the key light the ground is lit, behind an object it is not.
    light = shapes._KEY_LIGHT
    behind = scene.center[0] + (scene.center[0] - light) * (
        scene.center[0, 2] / (light[2] - scene.center[0, 2])
    )
    points = np.stack([[20.0, 20.0, 0.0], behind])
    cosine, _ = shapes._lit(scene, points, np.tile([0.0, 0, 1], (2, 1)), light)
    assert cosine[0] > 0
    assert cosine[1] == 0


def test_scenes_are_a_function_of_seed_split_and_index(scenes):
    again = shapes.render(0, "train", 7, SIZE, 1, 10)
    for name, values in again.items():
        np.testing.assert_array_equal(values, scenes[name][7])
    for other in ((1, "train", 7), (0, "validation", 7), (0, "train", 8)):
        image = shapes.render(*other, SIZE, 1, 10)["image"]
        assert (image != again["image"]).mean() > 0.5


def test_number_of_workers_does_not_affect_scenes(tmp_path):
    stores = []
    for workers in (1, 2):
        options = Options(
            splits={"train": 130, "validation": 9}, image_size=24, data_dir=tmp_path
        )
        prepare.prepare("shapes", options, name=f"w{workers}", num_workers=workers)
        stores.append(Store.open(tmp_path / f"w{workers}"))
    one, two = stores
    assert one.fingerprint == two.fingerprint
    for split in ("train", "validation"):
        for field in one.fields:
            np.testing.assert_array_equal(
                one.column(split, field), two.column(split, field)
            )
    assert len(np.unique(one.column("train", "image"), axis=0)) == 130


@pytest.mark.parametrize(("low", "high"), [(1, 1), (10, 10), (3, 6)])
def test_scenes_have_the_requested_number_of_objects(low, high):
    for i in range(10):
        scene = shapes.render(0, "test", i, 32, low, high)
        assert low <= scene["num_objects"] <= high
        assert scene["segmentation"].max() == scene["num_objects"]
        assert scene["shape"].shape == (high,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 8}, "--image_size=8"),
        ({"min_objects": 4, "max_objects": 3}, "--min_objects=4 --max_objects=3"),
        ({"source": "somewhere"}, "--source: not used"),
    ],
)
def test_bad_options_are_rejected(changes, message):
    with pytest.raises(UserError, match=message):
        shapes.build(Options(dataset="shapes", **changes))
