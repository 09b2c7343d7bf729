"""Metrics written in the plainest way, to hold the fast ones against."""

import itertools
import math

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score


def fg_ari(true, predicted):
    foreground = true > 0
    if not foreground.any():
        return 1.0
    return adjusted_rand_score(true[foreground], predicted[foreground])


def overlaps(true, predicted, num_true, num_predicted):
    """IoU of each present object with each predicted segment."""
    return np.array(
        [
            [
                np.sum((true == t) & (predicted == p))
                / np.sum((true == t) | (predicted == p))
                for p in range(num_predicted)
            ]
            for t in range(1, num_true)
            if np.any(true == t)
        ]
    )


def mean_best_overlap(true, predicted, num_true, num_predicted):
    iou = overlaps(true, predicted, num_true, num_predicted)
    return math.nan if len(iou) == 0 else iou.max(1).mean()


def mean_iou(true, predicted, num_true, num_predicted):
    iou = overlaps(true, predicted, num_true, num_predicted)
    if len(iou) == 0:
        return math.nan
    rows, columns = linear_sum_assignment(iou, maximize=True)
    return iou[rows, columns].sum() / len(iou)


def mean_best_overlap_with_background(true, predicted, num_true, num_predicted):
    return mean_best_overlap(true + 1, predicted, num_true + 1, num_predicted)


def covering(true, predicted, num_true, num_predicted):
    best = overlaps(true, predicted, num_true, num_predicted)
    if len(best) == 0:
        return math.nan
    sizes = [np.sum(true == t) for t in range(1, num_true) if np.any(true == t)]
    return np.average(best.max(1), weights=sizes)


def slot_counts(true, predicted, threshold):
    """Count slots and objects one pair after the other."""
    objects = [t for t in np.unique(true) if t > 0]
    slots = np.unique(predicted)
    error = len(slots) - len(np.unique(true))
    pairs = [
        (t, k)
        for t, k in itertools.product(objects, slots)
        if np.mean(predicted[true == t] == k) >= threshold
    ]
    covering_slots = {k for _, k in pairs}
    return {
        "slots_per_object": len(pairs) / len(objects) if objects else math.nan,
        "objects_per_slot": len(pairs) / len(covering_slots) if objects else math.nan,
        "count_error": error,
        "count_abs_error": abs(error),
    }


def _box(mask):
    """Return the pixels of a mask's bounding box."""
    rows, columns = np.nonzero(mask)
    box = np.zeros_like(mask)
    box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return box


def found_boxes(true, predicted, num_true, num_predicted):
    """Tell for each present object whether a slot's box overlaps its box by half."""
    slots = [
        _box(predicted == k) for k in range(num_predicted) if (predicted == k).any()
    ]
    found = []
    for label in range(1, num_true):
        if (true == label).any():
            box = _box(true == label)
            found.append(
                any(2 * np.sum(box & slot) >= np.sum(box | slot) for slot in slots)
            )
    return found


def _kind(properties):
    edges = (0, 3, 5, 7, 15)
    return tuple(
        int(np.argmax(properties[start:stop]))
        for start, stop in itertools.pairwise(edges)
    )


def average_precision(predictions, targets, threshold, scale=(6.0, 6.0, 6.0)):
    """One detection after the other, each against each object of its image."""
    detections = [
        (-float(slot[-1]), image, k)
        for image, slots in enumerate(predictions)
        for k, slot in enumerate(slots)
    ]
    found = set()
    precision, recall = [], []
    num_objects = sum(1 for image in targets for target in image if target[-1] != 0)
    for rank, (_, image, k) in enumerate(sorted(detections), start=1):
        slot = predictions[image][k]
        best, best_distance = None, math.inf
        for m, target in enumerate(targets[image]):
            if target[-1] == 0 or _kind(target) != _kind(slot):
                continue
            x, y, z = (
                (float(target[15 + i]) - float(slot[15 + i])) * scale[i]
                for i in range(3)
            )
            distance = math.sqrt(x**2 + y**2 + z**2)
            if distance < best_distance:
                best, best_distance = m, distance
        if best_distance < threshold:
            found.add((image, best))
        precision.append(len(found) / rank)
        recall.append(len(found) / num_objects)
    area, best_precision, earlier = 0.0, 0.0, [0.0, *recall[:-1]]
    for value, after, before in zip(
        precision[::-1], recall[::-1], earlier[::-1], strict=True
    ):
        best_precision = max(best_precision, value)
        area += best_precision * (after - before)
    return area


def matching_cost(costs, valid):
    """Least total cost with as many valid targets matched as possible, by scipy."""
    costs = np.asarray(costs, np.float64)[:, valid]
    slots, targets = linear_sum_assignment(costs)
    return len(slots), costs[slots, targets].sum()


def huber_set_loss(predictions, targets):
    """Set loss by scipy, the smaller set filled up with rows of zeros."""
    real = targets[np.any(targets != 0, axis=-1)].astype(np.float64)
    K = len(predictions)
    if len(real) < K:
        real = np.concatenate([real, np.zeros((K - len(real), real.shape[1]))])
    error = np.abs(predictions[:, None].astype(np.float64) - real[None])
    costs = np.where(error < 1, error**2 / 2, error - 0.5).sum(-1)
    slots, matched = linear_sum_assignment(costs)
    return costs[slots, matched].sum() / predictions.size
