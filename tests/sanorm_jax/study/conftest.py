import ml_collections
import pytest

from sanorm_jax.study import jobs
from tests import tiny


def study_config(data_dir, **changes) -> ml_collections.ConfigDict:
    """Return a study of two tiny runs on random images."""
    config = ml_collections.ConfigDict(
        {
            "title": "Tiny",
            "base": tiny.config(data_dir, num_train_steps=2).to_dict(),
            "variants": ("weighted_mean", "weighted_sum"),
            "mechanisms": {},
            "merged": {},
            "merge_thresholds": (0.0, 2.0),
            "seeds": (0,),
            "learning_rates": (),
            "train_settings": {"few": {"max_objects": 6, "num_slots": 4}},
            "evaluation": {
                "num_slots": (3, 5),
                "num_iterations": 2,
                "datasets": {
                    "random": {
                        "dataset": "random",
                        "split": "validation",
                        "min_objects": 2,
                        "max_objects": (4, 7, 10),
                    }
                },
                "sample_slots": (5,),
                "num_samples": 2,
            },
            "measures": ("fg_ari_attention_refined", "ari_masks_refined"),
            "table_slots": (3, 5),
            "num_processes": 2,
            "slurm_options": ("--time=01:00:00",),
        }
    )
    config.update(changes)
    return config.lock()


@pytest.fixture(scope="package")
def study(data_dir, tmp_path_factory):
    """Return a study whose jobs have run: its config, jobs and folder."""
    workdir = tmp_path_factory.mktemp("study")
    config = study_config(data_dir)
    created = jobs.create(config, workdir)
    assert not any(jobs.is_finished(job, config) for job in created)
    assert [jobs.run(job, config) for job in created] == [0, 0]
    return config, created, workdir
