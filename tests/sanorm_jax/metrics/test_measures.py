import pytest

from sanorm_jax.metrics import measures


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("fg_ari_masks_refined", "FG-ARI (masks, bilinear)"),
        ("ari_attention", "ARI (attention)"),
        ("mbo_class_masks", "class mBO (masks)"),
        ("ap_inf", "AP (no distance limit)"),
        ("ap_0.5", "AP (distance 0.5)"),
        ("mse", "MSE"),
        ("mbo_bg_masks_refined", "mBO with background (masks, bilinear)"),
        ("slots_per_object_masks", "slots per object (masks)"),
        ("slot_entropy_masks", "slot (entropy, masks)"),
    ],
)
def test_labels_of_measures(name, label):
    assert measures.label(name) == label


def test_aliases_share_one_label():
    names = ("batch_norm", "scalar_batch_norm_single", "constant", "weighted_sum")
    assert [measures.variant(name) for name in names] == [
        "batch norm",
        "batch norm",
        "weighted sum",
        "weighted sum",
    ]


def test_groups_of_measures():
    names = ["mse", "miou_masks_refined", "num_objects"]
    for place in ("attention", "masks"):
        for method in ("repeated", "refined"):
            names += [f"{kind}_{place}_{method}" for kind in ("mbo", "ari", "fg_ari")]
    found = measures.groups(names)
    assert list(found) == ["masks", "attention"]
    assert list(found["masks"].items()) == [
        ("FG-ARI", "fg_ari_masks_refined"),
        ("ARI", "ari_masks_refined"),
        ("mBO", "mbo_masks_refined"),
    ]
    assert measures.groups(["ap_inf", "ap_1", "fg_ari_attention"]) == {
        "properties": {"AP (no distance limit)": "ap_inf", "AP (distance 1)": "ap_1"},
        "attention": {"FG-ARI": "fg_ari_attention"},
    }


def test_slot_count_measures_are_a_group_of_their_own():
    names = ["fg_ari_masks_refined", "count_error_attention_refined", "pair_f1_masks"]
    for method in ("repeated", "refined"):
        names += [f"{k}_masks_{method}" for k in ("pair_recall", "slots_per_object")]
    assert measures.counts(names) == {
        "masks": {
            "slots per object": "slots_per_object_masks_refined",
            "pair recall": "pair_recall_masks_refined",
        },
        "attention": {"slot count error": "count_error_attention_refined"},
    }
    assert measures.groups(names) == {"masks": {"FG-ARI": "fg_ari_masks_refined"}}
