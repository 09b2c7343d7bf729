import importlib.util

import numpy as np
import pytest

from sanorm_jax.data import prepare
from sanorm_jax.data.pipeline import open_dataset, select
from sanorm_jax.data.sources import tabletop
from sanorm_jax.data.sources.base import Options
from sanorm_jax.data.store import Store
from sanorm_jax.data.tabletop import assets, catalogue
from tests import commands
from tests.data import tabletop_fixture

if any(importlib.util.find_spec(name) is None for name in tabletop._NEEDED):
    pytest.skip("needs the extra `scenes`", allow_module_level=True)

from sanorm_jax.core.errors import UserError
from sanorm_jax.data.tabletop import physics, pictures, scenes

SIZE = 48


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A folder whose assets are boxes of plain colors."""
    folder = tmp_path_factory.mktemp("tabletop")
    tabletop_fixture.write_cache(folder)
    return folder


def _render(data_dir, index, split="train", limits=(3, 6), seed=0, **others):
    cache = assets.folder(data_dir)
    return scenes.render(
        cache, seed, split, index, size=SIZE, limits=limits, num_rows=10, **others
    )


@pytest.fixture(scope="module")
def examples(data_dir):
    """12 scenes of seen objects, 6 of unseen: fields, `[18, ...]` each."""
    rows = [_render(data_dir, i) for i in range(12)]
    rows += [_render(data_dir, i, "validation_unseen") for i in range(6)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def test_labels_counts_and_columns_agree(examples):
    real = np.arange(10) < examples["num_objects"][:, None]
    np.testing.assert_array_equal(examples["visibility"], real)
    np.testing.assert_array_equal(examples["category"] >= 0, real)
    np.testing.assert_array_equal(examples["radius"] > 0, real)
    assert not examples["position"][~real].any()
    assert set(examples["num_objects"]) == {3, 4, 5, 6}
    for labels, count in zip(
        examples["segmentation"], examples["num_objects"], strict=True
    ):
        shown, pixels = np.unique(labels, return_counts=True)
        np.testing.assert_array_equal(shown, np.arange(count + 1))
        assert pixels.min() >= scenes._MIN_AREA * SIZE**2
    radii = examples["radius"][real]
    assert 0.35 <= radii.min() < 0.45 < 0.6 < radii.max() <= 0.7


def test_all_objects_are_entirely_in_view(examples):
    """The picture's border shows the floor alone."""
    for labels in examples["segmentation"]:
        border = [labels[0], labels[-1], labels[:, 0], labels[:, -1]]
        assert not np.concatenate(border).any()
    real = examples["visibility"] > 0
    across, down, depth = examples["pixel_coords"][real].T
    assert min(across.min(), down.min()) > 0
    assert max(across.max(), down.max()) < SIZE
    assert depth.min() > 1


def test_pixel_coords_are_where_objects_are(examples):
    """The origin of a box that nothing hides is the middle of its pixels."""
    off = []
    for i, count in enumerate(examples["num_objects"]):
        for k in range(count):
            rows, columns = np.nonzero(examples["segmentation"][i] == k + 1)
            x, y, _ = examples["pixel_coords"][i, k]
            off.append(np.hypot(columns.mean() + 0.5 - x, rows.mean() + 0.5 - y))
    assert np.median(off) < 1.5


def test_splits_contain_their_own_objects(examples):
    shown = examples["category"][:12], examples["category"][12:]
    seen, unseen = ({catalogue.CATEGORIES[c] for c in v[v >= 0]} for v in shown)
    assert seen <= set(catalogue.SEEN_OBJECTS)
    assert unseen <= set(catalogue.UNSEEN_OBJECTS)


def test_scenes_are_a_function_of_seed_split_and_index(data_dir, examples):
    again = _render(data_dir, 7)
    for name, values in again.items():
        np.testing.assert_array_equal(values, examples[name][7])
    others = [
        _render(data_dir, 8),
        _render(data_dir, 7, seed=1),
        _render(data_dir, 7, "validation"),
    ]
    for other in others:
        assert (other["image"] != again["image"]).mean() > 0.5


def _boxes(count, rng):
    hulls = []
    for _ in range(count):
        positions, _, _ = tabletop_fixture.box(rng.uniform(0.4, 0.8, 3))
        hulls.append(positions)
    return hulls


def test_objects_lie_on_the_floor_and_on_one_another():
    leaning = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        hulls = _boxes(6, rng)
        drop = physics.Drop(hulls, rng)
        start, poses = drop.poses(), drop.settle()
        lowest = [poses.apply(i, hull)[:, 2].min() for i, hull in enumerate(hulls)]
        assert min(lowest) > -0.01
        assert min(lowest) < 0.01
        leaning += sum(z > 0.05 for z in lowest)
        # Rigid: lengths stay, and nobody is inside another.
        for i, hull in enumerate(hulls):
            np.testing.assert_allclose(
                np.linalg.norm(poses.apply(i, hull) - poses.position[i], axis=-1),
                np.linalg.norm(hull, axis=-1),
                rtol=1e-4,
            )
            for j in range(6):
                corners = poses.apply(j, hulls[j]) - poses.position[i]
                inside = np.abs(corners @ poses.rotation[i]) < hull.max(0) - 0.02
                assert i == j or not inside.all(-1).any()
        # They begin apart, above the floor.
        for i in range(6):
            radius = np.linalg.norm(hulls[i], axis=-1).max()
            assert start.position[i, 2] > radius
            for j in range(i):
                reach = radius + np.linalg.norm(hulls[j], axis=-1).max()
                assert np.linalg.norm(start.position[i] - start.position[j]) > reach
    assert leaning >= 6


@pytest.fixture(scope="module")
def stage(data_dir):
    """A renderer, and a pile of four boxes before a camera."""
    renderer = pictures.Renderer(assets.folder(data_dir), SIZE)
    names = list(catalogue.SEEN_OBJECTS)[:4]
    rng = np.random.default_rng(1)
    turns = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in names]
    rotation = np.stack([turn * np.linalg.det(turn) for turn in turns])
    position = np.array([[0, 0, 0.5], [0.6, 0.2, 0.6], [-0.4, 0.5, 0.5], [0, 0.2, 1.2]])
    camera = pictures.Camera(np.array([4.0, 1, 3]), np.array([0, 0, 0.4]), fov=40)
    return renderer, names, physics.Poses(rotation, position), camera


LIGHT = pictures.Light(
    sun=np.array([0.0, -1.0, -1.0]),
    sun_color=np.full(3, 2.0),
    sky_color=np.full(3, 0.3),
)
FLOOR = pictures.Floor("gray_wall", tile=4.0, angle=0.0, offset=np.zeros(2))


def _first_hits(stage, kept):
    renderer, names, poses, camera = stage
    some = physics.Poses(poses.rotation[kept], poses.position[kept])
    shapes = renderer._place([names[i] for i in kept], [0.6] * len(kept), some)
    scene = pictures.mi.load_dict(
        {"type": "scene", "floor": renderer._floor(FLOOR)} | shapes
    )
    labels, guides = renderer._first_hits(scene, camera)
    return labels, np.linalg.norm(guides[..., 3:] - camera.origin, axis=-1)


def test_masks_are_the_first_hit(stage):
    """Every pixel's label is the object that is nearest when each stands alone."""
    labels, distance = _first_hits(stage, [0, 1, 2, 3])
    nearest, first = np.full((SIZE, SIZE), np.inf), np.zeros((SIZE, SIZE), int)
    for i in range(4):
        alone, along = _first_hits(stage, [i])
        closer = (alone == 1) & (along < nearest)
        nearest[closer], first[closer] = along[closer], i + 1
    np.testing.assert_array_equal(labels, first)
    np.testing.assert_allclose(distance[first > 0], nearest[first > 0], rtol=1e-5)
    assert set(labels.ravel()) == {0, 1, 2, 3, 4}


def test_images_have_textures_and_shadows_without_noise(stage, data_dir):
    renderer, names, poses, camera = stage
    scene = pictures.Scene(names, np.full(4, 0.6), [poses], camera, LIGHT, FLOOR)
    image, labels = renderer.picture(scene)
    # The sun comes from +y: the floor is dark at -y of an object, bright far away.
    places = np.array([[0, -0.7, 0.0], [-1, 1.3, 0.0], [1.5, 0.8, 0.0]])
    x, y, _ = camera.project(places).T
    columns = ((x + 1) * SIZE / 2).astype(int)
    rows = ((1 - y) * SIZE / 2).astype(int)
    assert not labels[rows, columns].any()
    shadow, *lit = image[rows, columns].astype(float).mean(-1)
    assert shadow < 0.75 * min(lit)
    np.testing.assert_allclose(lit[0], lit[1], rtol=0.03)
    # No grain: neighbors on a plain floor in the sun hardly differ.
    far = image[34:, 28:].astype(int)
    assert not labels[34:, 28:].any()
    assert np.diff(far, axis=1).std() < 1
    # Objects have the hue of their textures.
    for i, name in enumerate(names):
        texture = assets.load_object(assets.folder(data_dir), name).texture[0, 0]
        shown = image[labels == i + 1].astype(float).mean(0)
        assert np.corrcoef(shown, texture.astype(float))[0, 1] > 0.9


def test_hardly_visible_objects_are_detected(stage):
    renderer, names, poses, camera = stage
    scene = pictures.Scene(names, np.full(4, 0.6), [poses], camera, LIGHT, FLOOR)
    _, labels = renderer.picture(scene)
    smallest = np.bincount(labels.ravel())[1:].min()
    assert renderer.picture(scene, min_pixels=smallest)
    assert renderer.picture(scene, min_pixels=smallest + 1) is None


def test_smoothing_stays_within_surfaces():
    rng = np.random.default_rng(0)
    labels = np.zeros((20, 20), np.uint8)
    labels[:, 8:] = 1
    y, x = np.mgrid[:20, :20]
    guides = np.zeros((20, 20, 6))
    guides[..., 3], guides[..., 4] = x / 10, y / 10
    guides[:10, :, 2], guides[10:, :, 0] = 1, 1
    clean = np.where(labels == 1, 0.8, 0.2) + np.where(y < 10, 0.1, 0.0)
    clean = np.repeat(clean[..., None], 3, -1)
    noisy = clean + rng.normal(0, 0.05, clean.shape)
    smooth = pictures.smooth(noisy, labels, guides, radius=3)
    np.testing.assert_allclose(
        pictures.smooth(clean, labels, guides, radius=3), clean, rtol=1e-6
    )
    assert (smooth - clean).std() < 0.4 * (noisy - clean).std()


def _prepare(data_dir, name, **options):
    options = {"image_size": 16, "data_dir": data_dir} | options
    workers = options.pop("num_workers", 1)
    return prepare.prepare(
        "tabletop", Options(**options), name=name, num_workers=workers
    )


def test_number_of_workers_does_not_affect_scenes(data_dir):
    splits = {"train": 34, "validation_unseen": 3}
    objects = {"train": (2, 3), "validation_unseen": (1, 2)}
    one, two = (
        Store.open(
            _prepare(
                data_dir,
                f"w{workers}",
                splits=splits,
                objects=objects,
                num_workers=workers,
            )
        )
        for workers in (1, 2)
    )
    assert one.fingerprint == two.fingerprint
    for split in splits:
        for field in one.fields:
            np.testing.assert_array_equal(
                one.column(split, field), two.column(split, field)
            )
    assert one.settings["categories"] == list(catalogue.CATEGORIES)
    assert set(one.column("train", "num_objects")) == {2, 3}
    assert set(one.column("validation_unseen", "num_objects")) <= {1, 2}


def test_videos_are_those_of_movi(data_dir):
    """Fields, order and settings of a MOVi store; objects fall from frame to frame."""
    root = _prepare(data_dir, "videos", splits={"train": 9}, frames=3, image_size=32)
    store = Store.open(root)
    movi = {"image", "segmentation", "num_objects", "category", "visibility"}
    assert set(store.fields) == movi | {"video", "frame"}
    np.testing.assert_array_equal(store.column("train", "video"), np.arange(9) // 3)
    np.testing.assert_array_equal(store.column("train", "frame"), np.arange(9) % 3)
    assert store.settings["num_frames"] == 3
    images = store.column("train", "image").reshape(3, 3, 32, 32, 3).astype(int)
    assert (images[:, 1:] != images[:, :-1]).any((2, 3, 4)).all()
    # The floor and its light stay: most pixels are those of the frame before.
    assert (np.abs(np.diff(images, axis=1)).max(-1) < 8).mean() > 0.6
    # All objects are in view from the first frame on.
    labels = store.column("train", "segmentation")
    assert not labels[:, [0, -1]].any()
    assert not labels[:, :, [0, -1]].any()
    categories = store.column("train", "category").reshape(3, 3, -1)
    assert (categories == categories[:, :1]).all()
    # Frames are chosen by sequence.
    dataset = open_dataset(data_dir, "videos")
    kept = select(dataset, "train", num_sequences=2, data_seed=0)
    assert len(kept) == 6
    assert len(set(store.column("train", "video")[kept])) == 2


def test_command_reports_a_damaged_asset(data_dir, tmp_path):
    """One line names it; once it is there, the same command goes on."""
    cache = assets.folder(tmp_path)
    cache.parent.mkdir(parents=True)
    cache.symlink_to(assets.folder(data_dir))
    flags = (
        *("--dataset=tabletop", "--splits=train:33", "--image_size=16"),
        *("--max_objects=3", f"--data_dir={tmp_path}", "--num_workers=1"),
    )
    paths = [assets.floor_path(cache, name) for name in catalogue.SEEN_FLOORS]
    contents = [path.read_bytes() for path in paths]
    for path in paths:
        path.write_bytes(b"no")
    try:
        done = commands.run("data.prepare", *flags)
    finally:
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert ".npz: missing or damaged" in line
    assert "Traceback" not in done.stderr
    done = commands.run("data.prepare", *flags)
    assert done.returncode == 0, done.stderr
    assert Store.open(tmp_path / "tabletop").splits == {"train": 33}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 1024}, "--image_size=1024: out of range; choose 16 to 512"),
        ({"frames": 0, "splits": {"train": 3}}, "--frames=0: out of range; .*240"),
        ({"frames": 3}, "--splits: required with --frames"),
        ({"frames": 3, "splits": {"train": 4}}, "train:4: .*a multiple of their 3"),
    ],
)
def test_bad_options_are_rejected(changes, message):
    with pytest.raises(UserError, match=message):
        tabletop.build(Options(dataset="tabletop", **changes))


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "mitsuba" else found(n)
    )
    with pytest.raises(UserError, match=r"needs mitsuba; install .*\[scenes\]"):
        tabletop.build(Options())


def test_missing_wheels_leave_no_store(tmp_path):
    options = Options(source=tmp_path, data_dir=tmp_path, splits={"train": 1})
    with pytest.raises(UserError, match="missing; --source"):
        prepare.prepare("tabletop", options)
    assert not list(tmp_path.iterdir())
